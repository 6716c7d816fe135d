//! Schedules over REST: made, listed, read, changed, deleted, run before their time.

mod body;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use crawlify_shared::domain::id::{ScheduleId, WorkflowId};
use crawlify_shared::domain::workflow::parse_config;
use crawlify_shared::store::schedules::fire::{Fired, Occasion};
use crawlify_shared::store::schedules::{ScheduleRow, ScheduleText};
use crawlify_shared::store::start::Beginning;
use utoipa::IntoParams;
use uuid::Uuid;

use super::ApiState;
use super::extract::{Document, PathId};
use super::observe::Started;
use super::problem::{ApiError, Mistake};
use super::query::{Given, Parameters, Query};
use super::versions::{IfMatch, etag, other_version};
use body::{RunBody, ScheduleBody, ScheduleChanges, ScheduleDocument, ScheduleList, Wanted};

/// How often something is tried that somebody else's change has come before.
const TRIES: usize = 5;

/// Makes a schedule of a workflow.
#[utoipa::path(
    post,
    path = "/api/v1/schedules",
    tag = "schedules",
    request_body = ScheduleDocument,
    responses((status = 201, description = "It is made", body = ScheduleBody))
)]
pub(super) async fn create(
    State(state): State<ApiState>,
    _: Query<()>,
    Document(document, _held): Document,
) -> Result<impl IntoResponse, ApiError> {
    let (workflow, wanted) = Wanted::new(document)?;
    let now = state.store.clock().await?;
    let next_run_at = wanted.schedule.next_after(now).filter(|_| wanted.enabled);
    let row = state.store.create_schedule(workflow, text(&wanted, next_run_at)).await?;
    let Some(row) = row else {
        let mistake = Mistake {
            pointer: Some("/workflow_id".to_owned()),
            parameter: None,
            code: "workflow_not_found".to_owned(),
            message: "there is no workflow with this id".to_owned(),
        };
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        return Err(ApiError::of_mistakes(status, "invalid_schedule", "the schedule", vec![mistake]));
    };
    let location = (header::LOCATION, format!("/api/v1/schedules/{}", row.id));
    Ok((StatusCode::CREATED, [location, etag(row.version)], Json(ScheduleBody::from(row))))
}

/// Which schedules are listed.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParameters {
    /// Only those of this workflow.
    workflow_id: Option<Uuid>,
    /// Only those that are enabled, or are not.
    enabled: Option<bool>,
    /// At most so many.
    #[param(minimum = 1, maximum = 1000, default = 50, required = false)]
    limit: i64,
    /// After so many.
    #[param(minimum = 0, default = 0, required = false)]
    offset: i64,
}

impl Parameters for ListParameters {
    const NAMES: &'static [&'static str] = &["workflow_id", "enabled", "limit", "offset"];

    fn read(given: &mut Given) -> Self {
        Self {
            workflow_id: given.parsed("workflow_id", "a UUID", |text| Uuid::try_parse(text).ok()),
            enabled: given.parsed("enabled", "`true` or `false`", |text| text.parse().ok()),
            limit: given.integer("limit", 50, 1..=1000),
            offset: given.integer("offset", 0, 0..=i64::MAX),
        }
    }
}

/// Lists schedules, newest first.
#[utoipa::path(
    get,
    path = "/api/v1/schedules",
    tag = "schedules",
    params(ListParameters),
    responses((status = 200, description = "The schedules", body = ScheduleList))
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    Query(wanted): Query<ListParameters>,
) -> Result<Json<ScheduleList>, ApiError> {
    let workflow = wanted.workflow_id.map(WorkflowId);
    let rows = state.store.schedules(workflow, wanted.enabled, wanted.limit, wanted.offset).await?;
    let total = state.store.schedule_count(workflow, wanted.enabled).await?;
    let schedules = rows.into_iter().map(ScheduleBody::from).collect();
    Ok(Json(ScheduleList { schedules, total, limit: wanted.limit, offset: wanted.offset }))
}

/// Reads a schedule.
#[utoipa::path(
    get,
    path = "/api/v1/schedules/{id}",
    tag = "schedules",
    params(("id" = Uuid, Path, description = "The schedule")),
    responses((status = 200, description = "The schedule; the ETag is its version", body = ScheduleBody))
)]
pub(super) async fn get(
    State(state): State<ApiState>,
    PathId(id): PathId<ScheduleId>,
    _: Query<()>,
) -> Result<impl IntoResponse, ApiError> {
    let row = state.store.schedule(id).await?.ok_or_else(ApiError::no_schedule)?;
    Ok(([etag(row.version)], Json(ScheduleBody::from(row))))
}

/// Changes a schedule. What it has started goes on; a run that waits is forgotten when the schedule is to `queue` no more, or is
/// disabled, unless somebody has asked for it.
#[utoipa::path(
    patch,
    path = "/api/v1/schedules/{id}",
    tag = "schedules",
    params(
        ("id" = Uuid, Path, description = "The schedule"),
        ("If-Match" = Option<String>, Header, description = "The version that this was decided upon")
    ),
    request_body = ScheduleChanges,
    responses((status = 200, description = "It is changed", body = ScheduleBody))
)]
pub(super) async fn change(
    State(state): State<ApiState>,
    PathId(id): PathId<ScheduleId>,
    if_match: IfMatch,
    _: Query<()>,
    Document(document, _held): Document,
) -> Result<impl IntoResponse, ApiError> {
    for _ in 0..TRIES {
        let row = state.store.schedule(id).await?.ok_or_else(ApiError::no_schedule)?;
        if !if_match.allows(row.version) {
            return Err(other_version("schedule", row.version, ""));
        }
        let wanted = Wanted::changed(&row, document.clone())?;
        let next_run_at = next_run_at(&state, &row, &wanted).await?;
        let changed = state.store.update_schedule(id, row.version, text(&wanted, next_run_at)).await?;
        if let Some(changed) = changed {
            return Ok(([etag(changed.version)], Json(ScheduleBody::from(changed))));
        }
    }
    Err(busy())
}

/// A run that is due already stays so, unless its time is not what is wanted any more.
async fn next_run_at(
    state: &ApiState,
    row: &ScheduleRow,
    wanted: &Wanted,
) -> Result<Option<chrono::DateTime<chrono::Utc>>, ApiError> {
    let same_times = row.cron == wanted.cron && row.time_zone == wanted.time_zone;
    Ok(match (wanted.enabled, row.next_run_at) {
        (false, _) => None,
        (true, Some(next)) if same_times && row.enabled => Some(next),
        (true, _) => wanted.schedule.next_after(state.store.clock().await?),
    })
}

/// Deletes a schedule. What it has started goes on.
#[utoipa::path(
    delete,
    path = "/api/v1/schedules/{id}",
    tag = "schedules",
    params(
        ("id" = Uuid, Path, description = "The schedule"),
        ("If-Match" = Option<String>, Header, description = "The version that this was decided upon")
    ),
    responses((status = 204, description = "It is gone"))
)]
pub(super) async fn delete(
    State(state): State<ApiState>,
    PathId(id): PathId<ScheduleId>,
    if_match: IfMatch,
    _: Query<()>,
) -> Result<StatusCode, ApiError> {
    if state.store.delete_schedule(id, if_match.expected()).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let row = state.store.schedule(id).await?.ok_or_else(ApiError::no_schedule)?;
    Err(other_version("schedule", row.version, ""))
}

/// Runs a schedule now, whether it is enabled or not. Its next time stays; what it says of runs that overlap holds. A
/// run that has to wait starts when the earlier one has ended, also of a schedule that is disabled by then.
#[utoipa::path(
    post,
    path = "/api/v1/schedules/{id}/run",
    tag = "schedules",
    params(("id" = Uuid, Path, description = "The schedule")),
    responses((status = 202, description = "It runs, or waits for the end of an earlier run", body = RunBody))
)]
pub(super) async fn run(
    State(state): State<ApiState>,
    Extension(started): Extension<Started>,
    PathId(id): PathId<ScheduleId>,
    _: Query<()>,
) -> Result<impl IntoResponse, ApiError> {
    for _ in 0..TRIES {
        let row = state.store.schedule(id).await?.ok_or_else(ApiError::no_schedule)?;
        let workflow = state.store.workflow(WorkflowId(row.workflow_id)).await?;
        let workflow = workflow.ok_or_else(ApiError::no_workflow)?;
        let parsed = parse_config(&workflow.config).map_err(ApiError::invalid_workflow)?;
        let run = Beginning::of(workflow.version, &parsed);
        let fired = state.store.fire_schedule(id, row.version, Occasion::Asked, Some(&run)).await?;
        let message = match fired {
            None => continue,
            Some(Fired::Started(_) | Fired::Replaced(_)) => "workflow execution started",
            Some(Fired::Queued) => "the run waits for the end of an earlier one",
            Some(Fired::Skipped) => return Err(overlapping()),
            Some(Fired::WorkflowNotActive | Fired::WorkflowInvalid) => {
                return Err(ApiError::new(
                    StatusCode::BAD_REQUEST,
                    "workflow_not_active",
                    format!(
                        "the workflow is {}; only an active workflow can be executed",
                        workflow.status.as_str()
                    ),
                ));
            }
        };
        let execution = fired.and_then(Fired::execution);
        let mut headers = HeaderMap::new();
        if let Some(execution) = execution {
            started.by_hand.inc();
            state.frontier_changed.notify_one();
            let location = HeaderValue::try_from(format!("/api/v1/executions/{execution}"));
            headers.extend(location.ok().map(|location| (header::LOCATION, location)));
        }
        let body = RunBody {
            message,
            schedule_id: id.0,
            outcome: fired.map_or("", Fired::as_str),
            execution_id: execution.map(|execution| execution.0),
        };
        return Ok((StatusCode::ACCEPTED, headers, Json(body)));
    }
    Err(busy())
}

fn text(wanted: &Wanted, next_run_at: Option<chrono::DateTime<chrono::Utc>>) -> ScheduleText<'_> {
    ScheduleText {
        cron: &wanted.cron,
        time_zone: &wanted.time_zone,
        enabled: wanted.enabled,
        overlap: wanted.overlap,
        next_run_at,
    }
}

fn overlapping() -> ApiError {
    ApiError::new(
        StatusCode::CONFLICT,
        "run_would_overlap",
        "an earlier run of this schedule has not ended, and its overlap policy is `skip`",
    )
}

fn busy() -> ApiError {
    ApiError::new(
        StatusCode::CONFLICT,
        "schedule_busy",
        "others keep changing this schedule; read it, and try again",
    )
}
