//! The pages of an execution that took down what executed them, over REST. They are put back by a retry, as all that
//! failed.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::store::quarantine::{LostAttempt, QuarantinedPage};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::api::ApiState;
use crate::api::extract::PathId;
use crate::api::problem::ApiError;
use crate::api::query::{Given, Parameters, Query};

/// Which pages are listed.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct QuarantineParameters {
    /// At most so many.
    #[param(minimum = 1, maximum = 1000, default = 50, required = false)]
    limit: i64,
    /// After so many.
    #[param(minimum = 0, default = 0, required = false)]
    offset: i64,
}

impl Parameters for QuarantineParameters {
    const NAMES: &'static [&'static str] = &["limit", "offset"];

    fn read(given: &mut Given) -> Self {
        Self { limit: given.integer("limit", 50, 1..=1000), offset: given.integer("offset", 0, 0..=i64::MAX) }
    }
}

/// Some quarantined pages.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct QuarantineList {
    pages: Vec<QuarantineEntry>,
    /// How many there are.
    total: i64,
    limit: i64,
    offset: i64,
}

/// A page that is not tried any more.
#[derive(Serialize, ToSchema)]
struct QuarantineEntry {
    page_id: Uuid,
    url: String,
    /// The verdict in words.
    error: Option<String>,
    quarantined_at: Option<DateTime<Utc>>,
    /// The attempts that ended with the loss of a browser or a worker, oldest first.
    losses: Vec<LossEntry>,
}

/// An attempt whose browser or worker was lost.
#[derive(Serialize, ToSchema)]
struct LossEntry {
    attempt: i32,
    /// `browser` or `worker`.
    fault: String,
    /// Who had the page.
    worker_id: Option<Uuid>,
    /// When it was noticed.
    lost_at: DateTime<Utc>,
    /// What was seen of it.
    error: String,
}

impl From<QuarantinedPage> for QuarantineEntry {
    fn from(page: QuarantinedPage) -> Self {
        Self {
            page_id: page.page_id.0,
            url: page.url,
            error: page.error,
            quarantined_at: page.quarantined_at,
            losses: page.losses.into_iter().map(LossEntry::from).collect(),
        }
    }
}

impl From<LostAttempt> for LossEntry {
    fn from(loss: LostAttempt) -> Self {
        let LostAttempt { attempt, fault, worker_id, lost_at, error } = loss;
        Self { attempt, fault, worker_id, lost_at, error }
    }
}

/// Lists the pages that took down browsers or workers again and again, with the evidence. A retry puts them back.
#[utoipa::path(
    get,
    path = "/api/v1/executions/{id}/quarantine",
    tag = "executions",
    params(("id" = Uuid, Path, description = "The execution"), QuarantineParameters),
    responses((status = 200, description = "The pages, in the order of their discovery", body = QuarantineList))
)]
pub(in crate::api) async fn quarantine(
    State(state): State<ApiState>,
    PathId(id): PathId<ExecutionId>,
    Query(wanted): Query<QuarantineParameters>,
) -> Result<Json<QuarantineList>, ApiError> {
    state.store.execution(id).await?.ok_or_else(ApiError::no_execution)?;
    let pages = state.store.quarantined_pages(id, wanted.limit, wanted.offset).await?;
    Ok(Json(QuarantineList {
        pages: pages.into_iter().map(QuarantineEntry::from).collect(),
        total: state.store.quarantined_count(id).await?,
        limit: wanted.limit,
        offset: wanted.offset,
    }))
}
