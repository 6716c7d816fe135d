//! What a client is told when something is wrong: `application/problem+json` (RFC 9457) with a stable code, a sentence
//! and a pointer to each mistake, and the old system's `error` key. Never an internal cause: that goes to the log.

use std::any::Any;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use crawlify_shared::domain::workflow::Problem;
use crawlify_shared::store::StoreError;
use serde::Serialize;
use utoipa::ToSchema;

/// Seconds after which a client may ask again when the database is away, or there is no room for a body.
const RETRY_AFTER_SECONDS: u16 = 5;

/// The body of every answer with a status of 400 or more.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProblemBody {
    /// The kind of problem as a URI: `urn:crawlify:problem:` and the code.
    r#type: String,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What is wrong and what to do, in one sentence.
    detail: String,
    /// The path that was asked for.
    instance: String,
    /// A stable name of the kind of problem.
    code: &'static str,
    /// Every mistake on its own, where there are several or where a place can be named.
    errors: Vec<Mistake>,
    /// Names the request in our logs.
    request_id: String,
    /// The same as `detail`: the key that users of the old system read.
    error: String,
}

/// One mistake in a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Mistake {
    /// Where in the body: a JSON pointer (RFC 6901).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pointer: Option<String>,
    /// Which query parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parameter: Option<String>,
    /// A stable name of the kind of mistake.
    pub(super) code: String,
    /// What is wrong and what to do, in one sentence.
    pub(super) message: String,
}

impl From<Problem> for Mistake {
    fn from(problem: Problem) -> Self {
        Self { pointer: Some(problem.pointer), parameter: None, code: problem.code, message: problem.message }
    }
}

/// Why a request was not done.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    detail: String,
    mistakes: Vec<Mistake>,
    /// For the log alone.
    cause: Option<Arc<StoreError>>,
}

impl ApiError {
    /// Makes a problem without particulars.
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), mistakes: Vec::new(), cause: None }
    }

    /// Makes a problem out of mistakes, of which there is at least one. The sentence is that of the only mistake.
    pub(super) fn of_mistakes(
        status: StatusCode,
        code: &'static str,
        what: &str,
        mistakes: Vec<Mistake>,
    ) -> Self {
        let detail = match mistakes.as_slice() {
            [] => format!("{what} is not right"),
            [only] => only.message.clone(),
            [first, rest @ ..] => {
                format!("{what} has {} problems, the first: {}", rest.len() + 1, first.message)
            }
        };
        Self { mistakes, ..Self::new(status, code, detail) }
    }

    /// The workflow document is well-formed JSON but no workflow.
    pub(super) fn invalid_workflow(problems: Vec<Problem>) -> Self {
        let mistakes = problems.into_iter().map(Mistake::from).collect();
        Self::of_mistakes(StatusCode::UNPROCESSABLE_ENTITY, "invalid_workflow", "the workflow", mistakes)
    }

    /// The path leads nowhere.
    pub(super) fn not_found(detail: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// No workflow has this id.
    pub(super) fn no_workflow() -> Self {
        Self::new(StatusCode::NOT_FOUND, "workflow_not_found", "there is no workflow with this id")
    }

    /// No execution has this id.
    pub(super) fn no_execution() -> Self {
        Self::new(StatusCode::NOT_FOUND, "execution_not_found", "there is no execution with this id")
    }

    /// No schedule has this id.
    pub(super) fn no_schedule() -> Self {
        Self::new(StatusCode::NOT_FOUND, "schedule_not_found", "there is no schedule with this id")
    }

    /// The path exists, but not with this method; the `Allow` header names those it has.
    pub(super) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "this path does not take this method; the Allow header names those that it takes",
        )
    }

    /// A fault of ours.
    pub(super) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "something went wrong on our side; the log names the request by its request_id",
        )
    }

    /// Turns the problem into what is sent, and logs its cause. Called once, where the request is at its end.
    pub(super) fn render(&self, instance: &str, request_id: &str) -> Body {
        if let Some(cause) = &self.cause {
            let chain = chain(cause.as_ref());
            if cause.is_transient() {
                tracing::warn!(
                    request.id = request_id,
                    code = self.code,
                    error = chain,
                    "request not served"
                );
            } else {
                tracing::error!(request.id = request_id, code = self.code, error = chain, "request failed");
            }
        }
        let body = ProblemBody {
            r#type: format!("urn:crawlify:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: self.detail.clone(),
            instance: instance.to_owned(),
            code: self.code,
            errors: self.mistakes.clone(),
            request_id: request_id.to_owned(),
            error: self.detail.clone(),
        };
        // Strings and numbers always serialise.
        Body::from(serde_json::to_vec(&body).unwrap_or_default())
    }
}

/// Writes an error with everything that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let told = match &error {
            StoreError::Unavailable(_) | StoreError::Silent(_) | StoreError::TimedOut(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "database_unavailable",
                "the database is not available at the moment; try again in a few seconds",
            ),
            StoreError::BadData(_) => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "not_storable",
                "the database cannot store this: look for NUL characters (\\u0000) and for numbers beyond all measure",
            ),
            StoreError::Unusable(_) | StoreError::Raised(_) => Self::internal(),
        };
        Self { cause: Some(Arc::new(error)), ..told }
    }
}

impl IntoResponse for ApiError {
    /// Leaves the body open: path and request id are known to the layer around all handlers, which fills it in.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Answers for a handler that panicked.
pub(super) fn of_panic(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("not a message");
    tracing::error!(panic = message, "a request handler panicked");
    ApiError::internal().into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(message: &str) -> Problem {
        Problem {
            pointer: "/config/start_urls".into(),
            code: "missing_start_url".into(),
            message: message.into(),
        }
    }

    #[test]
    fn the_sentence_of_a_single_mistake_is_the_mistakes_own() {
        assert_eq!(ApiError::invalid_workflow(vec![problem("no start URL")]).detail, "no start URL");
    }

    #[test]
    fn the_sentence_of_several_mistakes_counts_them_and_quotes_the_first() {
        let error = ApiError::invalid_workflow(vec![problem("no start URL"), problem("no name")]);
        assert_eq!(error.detail, "the workflow has 2 problems, the first: no start URL");
        assert_eq!(error.mistakes.len(), 2);
    }

    #[test]
    fn an_internal_cause_is_never_sent() {
        let cause = StoreError::Unusable("relation \"workflows\" does not exist".into());
        let error = ApiError::from(cause);
        assert_eq!(error.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!error.detail.contains("workflows"));
    }

    #[test]
    fn an_absent_database_is_said_to_be_temporary() {
        let response = ApiError::from(StoreError::Unavailable("refused".into())).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "5");
    }
}
