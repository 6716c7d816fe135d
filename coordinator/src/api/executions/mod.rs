//! Executions over REST: started, listed, watched, and their data. How they are controlled is in [`super::control`].

mod body;
pub(super) mod quarantine;
mod render;
pub(super) mod skipped;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use crawlify_shared::domain::id::{ExecutionId, WorkflowId};
use crawlify_shared::domain::workflow::parse_config;
use crawlify_shared::store::executions::{ExecutionStatus, StartExecution};
use crawlify_shared::store::start::Beginning;
use utoipa::IntoParams;
use uuid::Uuid;

use super::ApiState;
use super::extract::PathId;
use super::idempotency::IdempotencyKey;
use super::observe::Started;
use super::problem::ApiError;
use super::query::{Given, Parameters, Query};
use super::versions::etag;
use body::{DataBody, ExecutionBody, ExecutionEntry, ExecutionList, Figures, StartedBody, StatsBody};

/// Starts an execution of a workflow. A start that is asked for again with the same `Idempotency-Key`, because its answer was
/// lost, is answered with the execution that it made, and makes no other.
#[utoipa::path(
    post,
    path = "/api/v1/workflows/{id}/execute",
    tag = "executions",
    params(
        ("id" = Uuid, Path, description = "The workflow, which must be active"),
        ("Idempotency-Key" = Option<String>, Header, description = "What the client calls this start: 1 to 255 visible \
            ASCII characters, such as a UUID. It is kept as long as the execution")
    ),
    responses((status = 202, description = "It runs, or was started before with the same key", body = StartedBody))
)]
pub(super) async fn start(
    State(state): State<ApiState>,
    Extension(started): Extension<Started>,
    PathId(id): PathId<WorkflowId>,
    IdempotencyKey(key): IdempotencyKey,
    _: Query<()>,
) -> Result<impl IntoResponse, ApiError> {
    let row = state.store.workflow(id).await?.ok_or_else(ApiError::no_workflow)?;
    let workflow = parse_config(&row.config).map_err(ApiError::invalid_workflow)?;
    let beginning = Beginning { key: key.as_deref(), ..Beginning::of(row.version, &workflow) };
    let outcome = state.store.start_execution(id, &beginning).await?;
    if matches!(outcome, StartExecution::Started(_)) {
        started.over_rest.inc();
        state.frontier_changed.notify_one();
    }
    match outcome {
        StartExecution::Started(execution) | StartExecution::Repeated(execution) => {
            let location = format!("/api/v1/executions/{execution}");
            let body = StartedBody {
                message: "workflow execution started",
                execution_id: execution.0,
                workflow_id: id.0,
            };
            Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(body)))
        }
        StartExecution::NotActive(status) => Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "workflow_not_active",
            format!("the workflow is {}; only an active workflow can be executed", status.as_str()),
        )),
        StartExecution::NotFound => Err(ApiError::no_workflow()),
    }
}

/// Which executions are listed.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParameters {
    /// Only those of this workflow.
    workflow_id: Option<Uuid>,
    /// Only those with this status.
    #[param(value_type = Option<String>)]
    status: Option<ExecutionStatus>,
    /// At most so many.
    #[param(minimum = 1, maximum = 1000, default = 50, required = false)]
    limit: i64,
    /// After so many.
    #[param(minimum = 0, default = 0, required = false)]
    offset: i64,
}

impl Parameters for ListParameters {
    const NAMES: &'static [&'static str] = &["workflow_id", "status", "limit", "offset"];

    fn read(given: &mut Given) -> Self {
        let statuses = "`pending`, `running`, `paused`, `completed`, `failed` or `cancelled`";
        Self {
            workflow_id: given.parsed("workflow_id", "a UUID", |text| Uuid::try_parse(text).ok()),
            status: given.parsed("status", statuses, ExecutionStatus::parse),
            limit: given.integer("limit", 50, 1..=1000),
            offset: given.integer("offset", 0, 0..=i64::MAX),
        }
    }
}

/// Lists executions, newest first.
#[utoipa::path(
    get,
    path = "/api/v1/executions",
    tag = "executions",
    params(ListParameters),
    responses((status = 200, description = "The executions", body = ExecutionList))
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    Query(wanted): Query<ListParameters>,
) -> Result<Json<ExecutionList>, ApiError> {
    let workflow = wanted.workflow_id.map(WorkflowId);
    let rows = state.store.executions(workflow, wanted.status, wanted.limit, wanted.offset).await?;
    let total = state.store.execution_count(workflow, wanted.status).await?;
    Ok(Json(ExecutionList {
        executions: rows.into_iter().map(ExecutionEntry::from).collect(),
        total,
        limit: wanted.limit,
        offset: wanted.offset,
    }))
}

/// Reads an execution.
#[utoipa::path(
    get,
    path = "/api/v1/executions/{id}",
    tag = "executions",
    params(("id" = Uuid, Path, description = "The execution")),
    responses((status = 200, description = "The execution; the ETag is its control_version", body = ExecutionBody))
)]
pub(super) async fn get(
    State(state): State<ApiState>,
    PathId(id): PathId<ExecutionId>,
    _: Query<()>,
) -> Result<impl IntoResponse, ApiError> {
    let row = state.store.execution(id).await?.ok_or_else(ApiError::no_execution)?;
    let pages = state.store.page_counts(id).await?;
    let totals = state.store.totals(id).await?;
    let stats = Figures::new(&pages, &totals, row.started_at, row.completed_at);
    let budgets = state.store.budgets(id).await?.into();
    Ok(([etag(row.control_version)], Json(ExecutionBody::new(row, stats, budgets))))
}

/// Sums an execution up: pages, attempts, nodes with their durations, and errors.
#[utoipa::path(
    get,
    path = "/api/v1/executions/{id}/stats",
    tag = "executions",
    params(("id" = Uuid, Path, description = "The execution")),
    responses((status = 200, description = "The figures", body = StatsBody))
)]
pub(super) async fn stats(
    State(state): State<ApiState>,
    PathId(id): PathId<ExecutionId>,
    _: Query<()>,
) -> Result<Json<StatsBody>, ApiError> {
    let summary = state.store.summary(id).await?.ok_or_else(ApiError::no_execution)?;
    Ok(Json(StatsBody::new(id.0, summary)))
}

/// Which items are listed.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct DataParameters {
    /// At most so many.
    #[param(minimum = 1, maximum = 1000, default = 100, required = false)]
    limit: i64,
    /// After so many.
    #[param(minimum = 0, default = 0, required = false)]
    offset: i64,
    /// Whether `data` of each entry of `items` is a string of JSON, as the old system's newest version wrote it.
    #[param(default = false, required = false)]
    legacy: bool,
}

impl Parameters for DataParameters {
    const NAMES: &'static [&'static str] = &["limit", "offset", "legacy"];

    fn read(given: &mut Given) -> Self {
        let legacy = given.parsed("legacy", "`1`, `true`, `0` or `false`", |text| match text {
            "1" | "true" => Some(true),
            "0" | "false" => Some(false),
            _ => None,
        });
        Self {
            limit: given.integer("limit", 100, 1..=1000),
            offset: given.integer("offset", 0, 0..=i64::MAX),
            legacy: legacy.unwrap_or(false),
        }
    }
}

/// Lists what an execution extracted, in the order of extraction.
#[utoipa::path(
    get,
    path = "/api/v1/executions/{id}/data",
    tag = "executions",
    params(("id" = Uuid, Path, description = "The execution"), DataParameters),
    responses((status = 200, description = "The data, under the keys of both versions of the old system", body = DataBody))
)]
pub(super) async fn data(
    State(state): State<ApiState>,
    PathId(id): PathId<ExecutionId>,
    Query(wanted): Query<DataParameters>,
) -> Result<Json<DataBody>, ApiError> {
    if state.store.execution(id).await?.is_none() {
        return Err(ApiError::no_execution());
    }
    let rows = state.store.items(id, wanted.limit, wanted.offset).await?;
    let total = state.store.item_count(id).await?;
    Ok(Json(DataBody::new(id.0, &rows, total, wanted.limit, wanted.offset, wanted.legacy)))
}
