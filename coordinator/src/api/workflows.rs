//! Workflows over REST: made, listed, read, replaced, deleted, activated, checked.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use chrono::{DateTime, Utc};
use crawlify_shared::domain::id::WorkflowId;
use crawlify_shared::domain::workflow::{Definition, hide_secrets, parse_document, restore_secrets};
use crawlify_shared::store::deletion::{DeleteWorkflow, REMOVED_AT_ONCE};
use crawlify_shared::store::workflows::{WorkflowRow, WorkflowStatus, WorkflowText};
use serde::Serialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::ApiState;
use super::extract::{Document, MAX_WORKFLOW_BYTES, PathId};
use super::problem::{ApiError, Mistake};
use super::query::{Given, Parameters, Query};

const STATUSES: &str = "`draft`, `active`, `paused` or `archived`";
/// How many portions of a deleted workflow's rows are removed before the answer: all of most workflows.
const PORTIONS: usize = 5;

/// What a workflow is made from. A config of any generation of the format is accepted.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what the domain's parser reads")]
pub(super) struct WorkflowDocument {
    name: String,
    description: Option<String>,
    /// Start URLs, limits, and the nodes in phases.
    config: Value,
    /// `draft` unless given; when replacing: unchanged unless given.
    status: Option<String>,
}

/// A workflow with its newest definition.
#[derive(Serialize, ToSchema)]
pub(super) struct WorkflowBody {
    id: Uuid,
    name: String,
    description: String,
    /// As its author wrote it, but for secrets: `***` stands for each, and may be sent back, for the one that is stored.
    config: Value,
    status: &'static str,
    /// The number of the definition, from 1.
    version: i32,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    /// After a change alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    compat: Option<Compat>,
}

/// What was accepted but will not do what its author may expect.
#[derive(Serialize, ToSchema)]
pub(super) struct Compat {
    warnings: Vec<Mistake>,
}

impl WorkflowBody {
    fn new(mut row: WorkflowRow, compat: Option<Compat>) -> Self {
        hide_secrets(&mut row.config);
        Self {
            id: row.id,
            name: row.name,
            description: row.description,
            config: row.config,
            status: row.status.as_str(),
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
            compat,
        }
    }
}

/// Makes a workflow.
#[utoipa::path(
    post,
    path = "/api/v1/workflows",
    tag = "workflows",
    request_body = WorkflowDocument,
    responses((status = 201, description = "It is made", body = WorkflowBody))
)]
pub(super) async fn create(
    State(state): State<ApiState>,
    _: Query<()>,
    Document(document, _held): Document<MAX_WORKFLOW_BYTES>,
) -> Result<impl IntoResponse, ApiError> {
    let mut definition = parse_document(&document).map_err(ApiError::invalid_workflow)?;
    restore(&mut definition, &document, &Value::Null)?;
    let status = status(&definition).unwrap_or(WorkflowStatus::Draft);
    let row = state.store.create_workflow(text(&definition), status).await?;
    let location = format!("/api/v1/workflows/{}", row.id);
    let body = WorkflowBody::new(row, Some(compat(definition)));
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(body)))
}

/// Which workflows are listed.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParameters {
    /// Only those with this status.
    #[param(value_type = Option<String>)]
    status: Option<WorkflowStatus>,
    /// At most so many.
    #[param(minimum = 1, maximum = 1000, default = 50, required = false)]
    limit: i64,
    /// After so many.
    #[param(minimum = 0, default = 0, required = false)]
    offset: i64,
}

impl Parameters for ListParameters {
    const NAMES: &'static [&'static str] = &["status", "limit", "offset"];

    fn read(given: &mut Given) -> Self {
        Self {
            status: given.parsed("status", STATUSES, WorkflowStatus::parse),
            limit: given.integer("limit", 50, 1..=1000),
            offset: given.integer("offset", 0, 0..=i64::MAX),
        }
    }
}

/// Some workflows.
#[derive(Serialize, ToSchema)]
pub(super) struct WorkflowList {
    workflows: Vec<WorkflowBody>,
    /// How many are in this answer.
    count: usize,
    /// How many there are.
    total: i64,
}

/// Lists workflows, newest first.
#[utoipa::path(
    get,
    path = "/api/v1/workflows",
    tag = "workflows",
    params(ListParameters),
    responses((status = 200, description = "The workflows", body = WorkflowList))
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    Query(wanted): Query<ListParameters>,
) -> Result<Json<WorkflowList>, ApiError> {
    let rows = state.store.workflows(wanted.status, wanted.limit, wanted.offset).await?;
    let total = state.store.workflow_count(wanted.status).await?;
    let workflows: Vec<_> = rows.into_iter().map(|row| WorkflowBody::new(row, None)).collect();
    Ok(Json(WorkflowList { count: workflows.len(), workflows, total }))
}

/// Reads a workflow.
#[utoipa::path(
    get,
    path = "/api/v1/workflows/{id}",
    tag = "workflows",
    params(("id" = Uuid, Path, description = "The workflow")),
    responses((status = 200, description = "The workflow", body = WorkflowBody))
)]
pub(super) async fn get(
    State(state): State<ApiState>,
    PathId(id): PathId<WorkflowId>,
    _: Query<()>,
) -> Result<Json<WorkflowBody>, ApiError> {
    let row = state.store.workflow(id).await?.ok_or_else(ApiError::no_workflow)?;
    Ok(Json(WorkflowBody::new(row, None)))
}

/// Replaces a workflow. Executions that run keep the definition that they started with.
#[utoipa::path(
    put,
    path = "/api/v1/workflows/{id}",
    tag = "workflows",
    params(("id" = Uuid, Path, description = "The workflow")),
    request_body = WorkflowDocument,
    responses((status = 200, description = "It is replaced", body = WorkflowBody))
)]
pub(super) async fn replace(
    State(state): State<ApiState>,
    PathId(id): PathId<WorkflowId>,
    _: Query<()>,
    Document(document, _held): Document<MAX_WORKFLOW_BYTES>,
) -> Result<Json<WorkflowBody>, ApiError> {
    let mut definition = parse_document(&document).map_err(ApiError::invalid_workflow)?;
    let stored = state.store.workflow(id).await?.ok_or_else(ApiError::no_workflow)?;
    restore(&mut definition, &document, &stored.config)?;
    let row = state.store.update_workflow(id, text(&definition), status(&definition)).await?;
    let row = row.ok_or_else(ApiError::no_workflow)?;
    Ok(Json(WorkflowBody::new(row, Some(compat(definition)))))
}

/// Deletes a workflow, its executions and all their data. Refused while one of them runs. The API shows nothing of it after the
/// answer; where it is much, the database takes some time to remove it all.
#[utoipa::path(
    delete,
    path = "/api/v1/workflows/{id}",
    tag = "workflows",
    params(("id" = Uuid, Path, description = "The workflow")),
    responses((status = 204, description = "It is gone"))
)]
pub(super) async fn delete(
    State(state): State<ApiState>,
    PathId(id): PathId<WorkflowId>,
    _: Query<()>,
) -> Result<StatusCode, ApiError> {
    match state.store.delete_workflow(id).await? {
        DeleteWorkflow::Deleted => {
            remove_rows(&state, id).await;
            Ok(StatusCode::NO_CONTENT)
        }
        DeleteWorkflow::NotFound => Err(ApiError::no_workflow()),
        DeleteWorkflow::InUse => Err(ApiError::new(
            StatusCode::CONFLICT,
            "workflow_in_use",
            "an execution of this workflow still runs; cancel it, wait until its last pages have ended, and try again",
        )),
    }
}

/// Removes the first portions of what a deleted workflow has left; the coordinator's loop does the rest, and all if this fails.
async fn remove_rows(state: &ApiState, workflow: WorkflowId) {
    for _ in 0..PORTIONS {
        match state.store.remove_deleted(Some(workflow), REMOVED_AT_ONCE).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(workflow.id = %workflow, error, "the rows of a deleted workflow are removed later");
                return;
            }
        }
    }
}

/// A status to set.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read by hand, for better messages")]
pub(super) struct StatusDocument {
    /// `draft`, `active`, `paused` or `archived`.
    status: String,
}

/// A status that was set.
#[derive(Serialize, ToSchema)]
pub(super) struct StatusBody {
    message: &'static str,
    status: &'static str,
}

/// Sets a workflow's status. Only an active workflow can be executed.
#[utoipa::path(
    patch,
    path = "/api/v1/workflows/{id}/status",
    tag = "workflows",
    params(("id" = Uuid, Path, description = "The workflow")),
    request_body = StatusDocument,
    responses((status = 200, description = "It is set", body = StatusBody))
)]
pub(super) async fn set_status(
    State(state): State<ApiState>,
    PathId(id): PathId<WorkflowId>,
    _: Query<()>,
    Document(document, _held): Document,
) -> Result<Json<StatusBody>, ApiError> {
    let wanted = document.get("status").and_then(Value::as_str).and_then(WorkflowStatus::parse);
    let Some(status) = wanted else {
        let mistake = Mistake {
            pointer: Some("/status".to_owned()),
            parameter: None,
            code: "invalid_status".to_owned(),
            message: format!("`status` must be {STATUSES}"),
        };
        return Err(ApiError::of_mistakes(
            StatusCode::BAD_REQUEST,
            "invalid_status",
            "the status",
            vec![mistake],
        ));
    };
    if state.store.set_workflow_status(id, status).await? {
        Ok(Json(StatusBody { message: "workflow status updated", status: status.as_str() }))
    } else {
        Err(ApiError::no_workflow())
    }
}

/// What a check found.
#[derive(Serialize, ToSchema)]
pub(super) struct ValidationBody {
    /// Whether there is no problem.
    valid: bool,
    /// Why it would be refused: all of it.
    problems: Vec<Mistake>,
    compat: Compat,
}

/// Checks a workflow without making it.
#[utoipa::path(
    post,
    path = "/api/v1/workflows/validate",
    tag = "workflows",
    request_body = WorkflowDocument,
    responses((status = 200, description = "What was found, good or bad", body = ValidationBody))
)]
pub(super) async fn validate(
    _: Query<()>,
    Document(document, _held): Document<MAX_WORKFLOW_BYTES>,
) -> Result<Json<ValidationBody>, ApiError> {
    Ok(Json(match parse_document(&document) {
        Ok(definition) => ValidationBody { valid: true, problems: Vec::new(), compat: compat(definition) },
        Err(problems) => ValidationBody {
            valid: false,
            problems: problems.into_iter().map(Mistake::from).collect(),
            compat: Compat { warnings: Vec::new() },
        },
    }))
}

/// Puts the secrets of the stored configuration where the new document shows none.
fn restore(definition: &mut Definition, document: &Value, stored: &Value) -> Result<(), ApiError> {
    // A document may have its settings beside its name.
    let at = if document.get("config").is_some_and(|config| !config.is_null()) { "/config" } else { "" };
    restore_secrets(&mut definition.config, stored, at).map_err(ApiError::invalid_workflow)
}

/// What the store keeps of a definition.
fn text(definition: &Definition) -> WorkflowText<'_> {
    WorkflowText { name: &definition.name, description: &definition.description, config: &definition.config }
}

/// The status that the author gave, which the parser has found to be one.
fn status(definition: &Definition) -> Option<WorkflowStatus> {
    definition.status.as_deref().and_then(WorkflowStatus::parse)
}

fn compat(definition: Definition) -> Compat {
    Compat { warnings: definition.workflow.warnings.into_iter().map(Mistake::from).collect() }
}
