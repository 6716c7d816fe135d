//! Hosts over REST: the pace that holds for each, and the one that was kept.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use crawlify_shared::store::hosts::HostPace;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::ApiState;
use super::problem::ApiError;
use super::query::{Given, Parameters, Query};

/// Which hosts are listed.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParameters {
    /// Only this one: its name, without a port.
    host: Option<String>,
    /// At most so many.
    #[param(minimum = 1, maximum = 1000, default = 50, required = false)]
    limit: i64,
    /// After so many.
    #[param(minimum = 0, default = 0, required = false)]
    offset: i64,
}

impl Parameters for ListParameters {
    const NAMES: &'static [&'static str] = &["host", "limit", "offset"];

    fn read(given: &mut Given) -> Self {
        Self {
            host: given.parsed("host", "the name of a host", |text| Some(text.to_lowercase())),
            limit: given.integer("limit", 50, 1..=1000),
            offset: given.integer("offset", 0, 0..=i64::MAX),
        }
    }
}

/// Some hosts.
#[derive(Serialize, ToSchema)]
pub(super) struct HostList {
    hosts: Vec<HostEntry>,
    /// How many there are.
    total: i64,
    limit: i64,
    offset: i64,
}

/// What holds for a host, for all executions and workers together.
#[derive(Serialize, ToSchema)]
struct HostEntry {
    /// Its name; the registrable domain where a workflow's politeness is per domain.
    host: String,
    /// How many running executions visit it.
    executions: i64,
    /// Its pages that were sent to workers and have not ended.
    in_flight: i64,
    /// Least milliseconds between the starts of two of its pages; longer than anybody asks for where it answered lately that it
    /// is asked too fast.
    delay_ms: i32,
    /// What its robots.txt asks for, in milliseconds; it counts in `delay_ms` while an execution that obeys it runs.
    crawl_delay_ms: i32,
    /// At most so many of its pages at once.
    concurrency: Option<i32>,
    /// How long it took to answer lately, in milliseconds.
    latency_ms: i32,
    /// Until when it is left alone, because it answered 429 or 503 or could not be reached.
    backoff_until: Option<DateTime<Utc>>,
    /// How often in a row it could not be reached. From the third time on it is left alone for a while each time, 1 s to
    /// 1 min; from the tenth on its pages fail without being tried.
    unreachable: i16,
    /// How often in a row it answered 429 or 503. It is left alone for longer each time, 1 s to 5 min and at least as long as
    /// it says, and asked for one page then; from the twelfth time on its pages fail without being tried.
    refused: i16,
    /// Whether the pace was ever not kept: of all intervals between the starts of two of its pages, looked for among its last 128, the
    /// one that was the most too short for the delay that held then, or the least longer, in milliseconds.
    min_interval_ms: Option<i32>,
    /// The delay that this interval had to keep, in milliseconds. Where it was below 500, the interval may be some 10 ms too short.
    min_interval_delay_ms: Option<i32>,
    /// When that was: the later one of the two starts.
    min_interval_at: Option<DateTime<Utc>>,
    /// Whether the pace is kept now: the same of its last 128 starts alone.
    recent_interval_ms: Option<i32>,
    /// The delay that this interval had to keep, in milliseconds.
    recent_interval_delay_ms: Option<i32>,
    /// When that was.
    recent_interval_at: Option<DateTime<Utc>>,
}

impl From<HostPace> for HostEntry {
    fn from(pace: HostPace) -> Self {
        Self {
            host: pace.host,
            executions: pace.executions,
            in_flight: pace.in_flight,
            delay_ms: pace.delay_ms,
            crawl_delay_ms: pace.crawl_delay_ms,
            concurrency: pace.concurrency,
            latency_ms: pace.latency_ms,
            backoff_until: pace.backoff_until,
            unreachable: pace.unreachable,
            refused: pace.refused,
            min_interval_ms: pace.min_interval_ms,
            min_interval_delay_ms: pace.min_interval_delay_ms,
            min_interval_at: pace.min_interval_at,
            recent_interval_ms: pace.recent_interval_ms,
            recent_interval_delay_ms: pace.recent_interval_delay_ms,
            recent_interval_at: pace.recent_interval_at,
        }
    }
}

/// Lists hosts by name, each with its pace.
#[utoipa::path(
    get,
    path = "/api/v1/hosts",
    tag = "hosts",
    params(ListParameters),
    responses((status = 200, description = "The hosts", body = HostList))
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    Query(wanted): Query<ListParameters>,
) -> Result<Json<HostList>, ApiError> {
    let only = wanted.host.as_deref();
    let paces = state.store.host_paces(only, wanted.limit, wanted.offset).await?;
    let total = state.store.host_count(only).await?;
    Ok(Json(HostList {
        hosts: paces.into_iter().map(HostEntry::from).collect(),
        total,
        limit: wanted.limit,
        offset: wanted.offset,
    }))
}
