//! The URLs that an execution did not visit, and why.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::skip::SkipReason;
use crawlify_shared::store::skips::{SkipCount, SkipCursor, SkippedUrl};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::api::ApiState;
use crate::api::extract::PathId;
use crate::api::problem::ApiError;
use crate::api::query::{Given, Parameters, Query};

/// Which skipped URLs are listed.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct SkippedParameters {
    /// Only those of this reason: `depth`, `scope`, `robots`, `trap`, `time_budget`, `byte_budget`, `path_budget` or
    /// `limit`.
    #[param(value_type = Option<String>)]
    reason: Option<SkipReason>,
    /// At most so many.
    #[param(minimum = 1, maximum = 1000, default = 100, required = false)]
    limit: i64,
    /// After those of an earlier answer: its `next_cursor`.
    #[param(value_type = Option<String>)]
    cursor: Option<SkipCursor>,
}

impl Parameters for SkippedParameters {
    const NAMES: &'static [&'static str] = &["reason", "limit", "cursor"];

    fn read(given: &mut Given) -> Self {
        let reasons = SkipReason::ALL.map(|reason| format!("`{}`", reason.as_str())).join(", ");
        Self {
            reason: given.parsed("reason", &format!("one of {reasons}"), SkipReason::parse),
            limit: given.integer("limit", 100, 1..=1000),
            cursor: given.parsed("cursor", "the `next_cursor` of an earlier answer", parse_cursor),
        }
    }
}

fn parse_cursor(text: &str) -> Option<SkipCursor> {
    let (reason, id) = text.split_once('.')?;
    let reason = SkipReason::parse(reason)?.as_str().to_owned();
    Some(SkipCursor { reason, id: Uuid::try_parse(id).ok()? })
}

/// Some skipped URLs.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct SkippedBody {
    execution_id: Uuid,
    /// By reason, then by age.
    skipped: Vec<SkippedEntry>,
    limit: i64,
    /// For the `cursor` of the next request; null where nothing follows.
    next_cursor: Option<String>,
}

/// A URL that was not visited.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct SkippedEntry {
    url: String,
    /// As in the parameter.
    reason: String,
    /// A sentence on why.
    detail: String,
    /// The page that it was found on first.
    parent_url: Option<String>,
    /// The node that found it.
    discovered_by: Option<String>,
    skipped_at: Option<DateTime<Utc>>,
}

impl From<SkippedUrl> for SkippedEntry {
    fn from(skipped: SkippedUrl) -> Self {
        Self {
            url: skipped.url,
            reason: skipped.reason,
            detail: skipped.detail,
            parent_url: skipped.parent_url,
            discovered_by: skipped.discovered_by,
            skipped_at: skipped.skipped_at,
        }
    }
}

/// How many URLs were skipped for a reason.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct SkipCountEntry {
    /// As in `/skipped`.
    reason: String,
    urls: i64,
    /// One of them.
    sample_url: String,
    /// Why that one was skipped.
    sample_detail: String,
}

impl From<SkipCount> for SkipCountEntry {
    fn from(count: SkipCount) -> Self {
        Self {
            reason: count.reason,
            urls: count.count,
            sample_url: count.sample_url,
            sample_detail: count.sample_detail,
        }
    }
}

/// Lists the URLs that an execution knows of and did not visit, with the reason. Where a page has more than 50,000 links, the
/// first beyond that stands for those after it.
#[utoipa::path(
    get,
    path = "/api/v1/executions/{id}/skipped",
    tag = "executions",
    params(("id" = Uuid, Path, description = "The execution"), SkippedParameters),
    responses((status = 200, description = "The skipped URLs", body = SkippedBody))
)]
pub(in crate::api) async fn list_skipped(
    State(state): State<ApiState>,
    PathId(id): PathId<ExecutionId>,
    Query(wanted): Query<SkippedParameters>,
) -> Result<Json<SkippedBody>, ApiError> {
    if state.store.execution(id).await?.is_none() {
        return Err(ApiError::no_execution());
    }
    // One more than asked for tells whether anything follows.
    let (reason, cursor) = (wanted.reason, wanted.cursor.as_ref());
    let mut rows = state.store.skipped_urls(id, reason, cursor, wanted.limit + 1).await?;
    let limit = usize::try_from(wanted.limit).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| more).map(SkippedUrl::cursor);
    Ok(Json(SkippedBody {
        execution_id: id.0,
        skipped: rows.into_iter().map(SkippedEntry::from).collect(),
        limit: wanted.limit,
        next_cursor: last.map(|cursor| format!("{}.{}", cursor.reason, cursor.id)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_a_reason_and_an_id() {
        let id = Uuid::now_v7();
        let cursor = SkipCursor { reason: "trap".to_owned(), id };
        assert_eq!(parse_cursor(&format!("trap.{id}")), Some(cursor));
        for text in ["trap", "trap.7", &format!("dns.{id}")] {
            assert_eq!(parse_cursor(text), None, "{text}");
        }
    }
}
