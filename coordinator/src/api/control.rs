//! Control of executions over REST: paused, resumed, cancelled, limited anew, retried.
//!
//! An answer means that it is so: from then on nobody dispatches or claims what may not be. What has to be done with
//! the pages themselves, which may be millions, is done afterwards.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::workflow::parse_budget_changes;
use crawlify_shared::store::control::{CancelMode, Controlled, LimitChanges, Standing};
use crawlify_shared::store::executions::ExecutionStatus;
use crawlify_shared::store::retry::SpentBudget;
use serde::Serialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::ApiState;
use super::budgets::BudgetsBody;
use super::extract::{Document, OptionalDocument, PathId};
use super::fields::Fields;
use super::problem::{ApiError, Mistake};
use super::query::{Given, Parameters, Query};
use super::versions::{IfMatch, etag, other_version};

/// The longest `rate_limit_delay`, a day, and the largest `max_pages`.
const MAX_DELAY_MS: i64 = 24 * 60 * 60 * 1000;
const MODES: &str = "`graceful` or `now`";
/// What it means that the limits of an execution that has ended were changed.
const FOR_A_RETRY: &str = "execution changed; it has ended and does not go on by itself: a retry (`POST .../retry`) tries its failed \
     pages again, and those that its limits have left out and now admit";
const FOR_NOTHING: &str = "execution changed; but it has ended, and does not go on: no page of it has failed, so that there is nothing \
     to retry. Start another execution for the pages that its limits have left out";

/// What became of an act.
#[derive(Serialize, ToSchema)]
pub(super) struct ControlBody {
    message: &'static str,
    execution_id: Uuid,
    /// The execution's status now.
    status: &'static str,
    /// How often the execution was acted upon; also the `ETag`. To be sent back as `If-Match`.
    version: i32,
    /// Failed pages that are tried again, unless it is cancelled, or a new budget of a path forbids it, before they have gone back; of a
    /// retry alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pages: Option<i64>,
}

/// Pauses a running execution. Pages in hand end by themselves; no other page is begun.
#[utoipa::path(
    post,
    path = "/api/v1/executions/{id}/pause",
    tag = "executions",
    params(
        ("id" = Uuid, Path, description = "The execution"),
        ("If-Match" = Option<String>, Header, description = "The version that this was decided upon")
    ),
    responses((status = 202, description = "It is paused", body = ControlBody))
)]
pub(super) async fn pause(
    State(state): State<ApiState>,
    PathId(id): PathId<ExecutionId>,
    if_match: IfMatch,
    _: Query<()>,
) -> Result<impl IntoResponse, ApiError> {
    let act = state.store.pause_execution(id, if_match.expected()).await?;
    answer(id, act, "execution paused", "execution was paused before", "only a running one can be paused")
}

/// Resumes a paused execution.
#[utoipa::path(
    post,
    path = "/api/v1/executions/{id}/resume",
    tag = "executions",
    params(
        ("id" = Uuid, Path, description = "The execution"),
        ("If-Match" = Option<String>, Header, description = "The version that this was decided upon")
    ),
    responses((status = 202, description = "It runs", body = ControlBody))
)]
pub(super) async fn resume(
    State(state): State<ApiState>,
    PathId(id): PathId<ExecutionId>,
    if_match: IfMatch,
    _: Query<()>,
) -> Result<impl IntoResponse, ApiError> {
    let act = state.store.resume_execution(id, if_match.expected()).await?;
    state.frontier_changed.notify_one();
    answer(id, act, "execution resumed", "execution is running", "only a paused one can be resumed")
}

/// How an execution is cancelled.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct CancelParameters {
    /// `graceful`: pages in hand end by themselves. `now`: they are given up. May be in the body instead.
    #[param(value_type = Option<String>)]
    mode: Option<CancelMode>,
}

impl Parameters for CancelParameters {
    const NAMES: &'static [&'static str] = &["mode"];

    fn read(given: &mut Given) -> Self {
        Self { mode: given.parsed("mode", MODES, CancelMode::parse) }
    }
}

/// How an execution is cancelled.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read by hand, for better messages")]
pub(super) struct CancelDocument {
    /// `graceful`, unless given: pages in hand end by themselves. `now`: they are given up.
    mode: Option<String>,
}

/// Cancels an execution. Doing so again changes nothing, except that `now` may follow `graceful`.
#[utoipa::path(
    post,
    path = "/api/v1/executions/{id}/cancel",
    tag = "executions",
    params(
        ("id" = Uuid, Path, description = "The execution"),
        CancelParameters,
        ("If-Match" = Option<String>, Header, description = "The version that this was decided upon")
    ),
    request_body = Option<CancelDocument>,
    responses((status = 202, description = "It is cancelled", body = ControlBody))
)]
pub(super) async fn cancel(
    State(state): State<ApiState>,
    PathId(id): PathId<ExecutionId>,
    if_match: IfMatch,
    Query(wanted): Query<CancelParameters>,
    OptionalDocument(document, _held): OptionalDocument,
) -> Result<impl IntoResponse, ApiError> {
    let mut fields = Fields::of(document.unwrap_or_else(|| Value::Object(Default::default())));
    let mode = fields.read("mode", MODES, |value| value.as_str().and_then(CancelMode::parse));
    if mode.zip(wanted.mode).is_some_and(|(body, query)| body != query) {
        fields.mistake("/mode", "contradiction", "the body and the query give different modes".to_owned());
    }
    fields.finish("invalid_cancellation", "the cancellation")?;
    let mode = mode.or(wanted.mode).unwrap_or(CancelMode::Graceful);
    let act = state.store.cancel_execution(id, mode, if_match.expected()).await?;
    answer(id, act, "execution cancelled", "execution was cancelled before", "there is nothing to cancel")
}

/// Cancels an execution; its pages in hand end by themselves. Doing so again changes nothing.
#[utoipa::path(
    delete,
    path = "/api/v1/executions/{id}",
    tag = "executions",
    params(
        ("id" = Uuid, Path, description = "The execution"),
        ("If-Match" = Option<String>, Header, description = "The version that this was decided upon")
    ),
    responses((status = 200, description = "It is cancelled", body = ControlBody))
)]
pub(super) async fn delete(
    State(state): State<ApiState>,
    PathId(id): PathId<ExecutionId>,
    if_match: IfMatch,
    _: Query<()>,
) -> Result<impl IntoResponse, ApiError> {
    let act = state.store.cancel_execution(id, CancelMode::Graceful, if_match.expected()).await?;
    let told = answer(
        id,
        act,
        "execution cancelled",
        "execution was cancelled before",
        "there is nothing to cancel",
    );
    // As the old system answers.
    told.map(|told| (StatusCode::OK, told))
}

/// What may be changed of an execution that has not ended; what is absent stays.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read by hand, for better messages")]
pub(super) struct LimitsDocument {
    /// At most so many pages are dispatched; 0 or null is no limit. Less than were dispatched already: no more are.
    max_pages: Option<i64>,
    /// Least milliseconds between the starts of two pages of one host.
    rate_limit_delay: Option<i32>,
    /// At most so many pages of one host at once; 0 or null is no limit.
    concurrency: Option<i32>,
    /// Its share of the fleet beside other executions, from 1 to 1000.
    weight: Option<i32>,
    /// Executions with a higher one go first; from -1000 to 1000.
    priority: Option<i32>,
    /// What it may spend, as a workflow says it; null is no budget at all.
    budgets: Option<BudgetsBody>,
}

/// Changes the limits of an execution that has not ended. A higher page limit, or budget, also admits pages that were left out.
/// Of one that has ended, and was not cancelled, `max_pages` and budgets alone may be changed, for a retry: it does not go on by
/// itself, and `message` says whether a retry would have it do so.
#[utoipa::path(
    patch,
    path = "/api/v1/executions/{id}",
    tag = "executions",
    params(
        ("id" = Uuid, Path, description = "The execution"),
        ("If-Match" = Option<String>, Header, description = "The version that this was decided upon")
    ),
    request_body = LimitsDocument,
    responses((status = 200, description = "It is changed", body = ControlBody))
)]
pub(super) async fn change(
    State(state): State<ApiState>,
    PathId(id): PathId<ExecutionId>,
    if_match: IfMatch,
    _: Query<()>,
    Document(document, _held): Document,
) -> Result<impl IntoResponse, ApiError> {
    let changes = limits(document)?;
    let act = state.store.change_limits(id, changes, if_match.expected()).await?;
    let message = match act {
        Controlled::Done(standing) if !standing.status.has_ended() => {
            put_back(&state, id).await;
            "execution changed"
        }
        Controlled::Done(_) if state.store.has_failed_pages(id).await? => FOR_A_RETRY,
        Controlled::Done(_) => FOR_NOTHING,
        _ => "",
    };
    let told = answer(id, act, message, "", "its limits mean nothing any more");
    told.map(|told| (StatusCode::OK, told))
}

/// Tries the failed pages of an execution afresh: those that have their places, or find one that is left, in `max_pages` and in the
/// budgets of paths. The others stay failed. One that has ended runs again; a cancelled one does not, and neither does one whose
/// time or bytes are used up, or of which no failed page finds its places: raise them first.
#[utoipa::path(
    post,
    path = "/api/v1/executions/{id}/retry",
    tag = "executions",
    params(
        ("id" = Uuid, Path, description = "The execution"),
        ("If-Match" = Option<String>, Header, description = "The version that this was decided upon")
    ),
    responses(
        (status = 202, description = "Its failed pages are tried again", body = ControlBody),
        (status = 409, description = "There is nothing to retry, or a budget or `max_pages` is used up")
    )
)]
pub(super) async fn retry(
    State(state): State<ApiState>,
    PathId(id): PathId<ExecutionId>,
    if_match: IfMatch,
    _: Query<()>,
) -> Result<impl IntoResponse, ApiError> {
    let retried = state.store.retry_execution(id, if_match.expected()).await?;
    if matches!(retried.act, Controlled::Done(_)) {
        put_back(&state, id).await;
    } else if let Controlled::Refused(standing) = retried.act
        && retried.pages == 0
    {
        let status = standing.status.as_str();
        let instead = match standing.status {
            ExecutionStatus::Completed | ExecutionStatus::Failed => {
                ". Pages that a limit has left out come back with failed ones only: start another execution for them"
            }
            _ => "",
        };
        let why = format!("no page of the execution has failed; it is {status}{instead}");
        return Err(ApiError::new(StatusCode::CONFLICT, "nothing_to_retry", why));
    } else if let Controlled::Refused(standing) = retried.act
        && standing.status != ExecutionStatus::Cancelled
        && !retried.spent.is_empty()
    {
        return Err(spent(&retried.spent));
    }
    let told = answer(id, retried.act, "failed pages are tried again", "", "its pages cannot be tried again");
    told.map(|(status, headers, Json(body))| {
        (status, headers, Json(ControlBody { pages: Some(retried.pages), ..body }))
    })
}

fn limits(document: Value) -> Result<LimitChanges, ApiError> {
    let mut fields = Fields::of(document);
    let nothing = fields.is_empty();
    let max_pages = fields.read("max_pages", "a whole number, where 0 or null is no limit", |value| {
        let pages = if value.is_null() { Some(0) } else { value.as_i64() };
        pages.filter(|pages| *pages >= 0)
    });
    let concurrency =
        fields.read("concurrency", "a whole number to 10000, where 0 or null is no limit", |value| {
            let pages = if value.is_null() { Some(0) } else { value.as_i64() };
            pages.filter(|pages| (0..=10_000).contains(pages)).and_then(|pages| i32::try_from(pages).ok())
        });
    let mut small = |name, bounds| fields.whole(name, bounds).and_then(|number| i32::try_from(number).ok());
    let changes = LimitChanges {
        max_pages: max_pages.map(|pages| Some(pages).filter(|pages| *pages > 0)),
        host_delay_ms: small("rate_limit_delay", 0..=MAX_DELAY_MS),
        host_concurrency: concurrency.map(|pages| Some(pages).filter(|pages| *pages > 0)),
        weight: small("weight", 1..=1000),
        priority: small("priority", -1000..=1000),
        budgets: fields.parsed("budgets", |value| parse_budget_changes(value, "/budgets")),
    };
    if nothing {
        let message = "there is nothing to change; give `max_pages`, `rate_limit_delay`, `concurrency`, `weight`, `priority` or \
             `budgets`";
        fields.mistake("", "nothing_to_change", message.to_owned());
    }
    fields.finish("invalid_limits", "the change")?;
    Ok(changes)
}

/// Puts the first pages back at once, so that nobody waits for the finisher, who does the rest; if it fails, all.
async fn put_back(state: &ApiState, execution: ExecutionId) {
    if let Err(error) = state.store.put_pages_back(Some(execution)).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(execution.id = %execution, error, "the pages are put back a little later");
    }
    state.frontier_changed.notify_one();
}

type Told = (StatusCode, [(header::HeaderName, String); 1], Json<ControlBody>);

fn answer(
    id: ExecutionId,
    act: Controlled,
    done: &'static str,
    before: &'static str,
    refused: &'static str,
) -> Result<Told, ApiError> {
    let tell = |message, Standing { status, version }| {
        let body = ControlBody { message, execution_id: id.0, status: status.as_str(), version, pages: None };
        (StatusCode::ACCEPTED, [etag(version)], Json(body))
    };
    match act {
        Controlled::Done(standing) => Ok(tell(done, standing)),
        Controlled::Already(standing) => Ok(tell(before, standing)),
        Controlled::Refused(standing) => Err(refusal(standing.status, refused)),
        Controlled::OtherVersion(Standing { status, version }) => {
            Err(other_version("execution", version, &format!(" and {}", status.as_str())))
        }
        Controlled::NotFound => Err(ApiError::no_execution()),
    }
}

/// Budgets, or the page limit, keep every failed page from being tried.
fn spent(budgets: &[SpentBudget]) -> ApiError {
    let mistakes = budgets.iter().map(|budget| {
        let (name, what) = match budget {
            SpentBudget::Time => ("time", "the execution's time is over (`budgets.time`)".to_owned()),
            SpentBudget::Bytes => ("bytes", "the execution's bytes are used up (`budgets.bytes`)".to_owned()),
            SpentBudget::Pages => ("max_pages", "the execution's pages are used up (`max_pages`)".to_owned()),
            SpentBudget::Path(prefix) => {
                ("path_prefixes", format!("the pages below `{prefix}` are used up (`budgets.path_prefixes`)"))
            }
        };
        let message = format!(
            "{what}: no failed page can be tried; raise it with `PATCH /api/v1/executions/{{id}}` first"
        );
        Mistake { pointer: None, parameter: None, code: name.to_owned(), message }
    });
    ApiError::of_mistakes(StatusCode::CONFLICT, "budget_spent", "the retry", mistakes.collect())
}

/// The act makes no sense where the execution stands.
fn refusal(status: ExecutionStatus, why: &str) -> ApiError {
    let code = if status.has_ended() { "execution_ended" } else { "execution_not_running" };
    let detail = format!("the execution is {}; {why}", status.as_str());
    let mistake =
        Mistake { pointer: None, parameter: None, code: status.as_str().to_owned(), message: detail };
    ApiError::of_mistakes(StatusCode::CONFLICT, code, "the execution", vec![mistake])
}
