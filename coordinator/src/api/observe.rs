//! What surrounds every request: its id, its deadline, its measurement, its log line, and the body of its problem.

use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus::{HistogramOpts, HistogramVec, IntCounter, Registry};
use tokio::time::Instant;
use uuid::Uuid;

use super::problem::ApiError;
use crate::metrics::executions_started;

/// No request takes longer; the database's own limits are shorter.
const REQUEST_DEADLINE: Duration = Duration::from_secs(60);
/// Carries the request's id, both ways.
const REQUEST_ID: &str = "x-request-id";
/// The route label of requests that match none, so that their paths make no series.
const UNMATCHED: &str = "unmatched";

/// Measures requests.
#[derive(Clone)]
pub(super) struct Observer {
    duration: HistogramVec,
}

impl Observer {
    /// Registers the API's metrics.
    pub(super) fn new(registry: &Registry) -> Self {
        let options = HistogramOpts::new(
            "crawlify_http_request_duration_seconds",
            "How long requests to the REST API took, by route template",
        )
        .buckets(vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]);
        let duration = HistogramVec::new(options, &["method", "route", "status_class"])
            .expect("name, help and labels are constants that Prometheus accepts");
        if let Err(error) = registry.register(Box::new(duration.clone())) {
            tracing::error!(error = %error, "the API's metrics are not exported");
        }
        Self { duration }
    }
}

/// Counts the executions that requests have started.
#[derive(Clone)]
pub(super) struct Started {
    /// Of a workflow.
    pub(super) over_rest: IntCounter,
    /// Of a schedule, before its time.
    pub(super) by_hand: IntCounter,
}

impl Started {
    /// Registers the counters.
    pub(super) fn new(registry: &Registry) -> Self {
        let counter = |trigger| {
            executions_started(registry, trigger).unwrap_or_else(|error| {
                tracing::error!(error = %error, "the API's metrics are not exported");
                IntCounter::new("not_exported", "Counts for nobody.").expect("the name is a good one")
            })
        };
        Self { over_rest: counter("api"), by_hand: counter("schedule_run") }
    }
}

/// Serves one request.
pub(super) async fn observe(State(observer): State<Observer>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned());
    let request_id = request_id(request.headers());

    let mut response = if is_foreign_write(&method, request.headers()) {
        ApiError::new(
            StatusCode::FORBIDDEN,
            "cross_origin",
            "a web page of another origin may not change anything here",
        )
        .into_response()
    } else {
        // Every change is one statement, so that a handler that is dropped here leaves nothing half done.
        tokio::time::timeout(REQUEST_DEADLINE, next.run(request)).await.unwrap_or_else(|_| {
            ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "deadline_exceeded",
                "this took too long and was given up; try again later",
            )
            .into_response()
        })
    };

    if let Some(problem) = response.extensions_mut().remove::<ApiError>() {
        *response.body_mut() = problem.render(&path, &request_id);
        // That of the empty body.
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let elapsed = started.elapsed();
    let route = route.as_deref().unwrap_or(UNMATCHED);
    let status = response.status();
    observer
        .duration
        .with_label_values(&[method_label(&method), route, status_class(status)])
        .observe(elapsed.as_secs_f64());
    tracing::debug!(
        request.id = request_id,
        method = %method,
        route,
        status = status.as_u16(),
        duration_ms = elapsed.as_millis() as u64,
        "request served"
    );
    response
}

/// Takes the client's id where it is harmless in logs, and makes one otherwise.
fn request_id(headers: &HeaderMap) -> String {
    headers
        .get(REQUEST_ID)
        .and_then(|given| given.to_str().ok())
        .filter(|given| (1..=64).contains(&given.len()))
        .filter(|given| given.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)))
        .map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// Whether a browser sends this on behalf of another site's page. The API asks for no password on a loopback address,
/// so that any page its owner visits could otherwise start crawls. Programs send no `Origin`.
fn is_foreign_write(method: &Method, headers: &HeaderMap) -> bool {
    if method.is_safe() {
        return false;
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let own = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let of_origin =
        origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    of_origin.is_none() || of_origin != own
}

/// A bounded label: a client may invent methods.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

fn status_class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|&(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn a_clients_request_id_is_kept_only_where_it_is_harmless() {
        assert_eq!(request_id(&headers(&[(REQUEST_ID, "job-7.a_B")])), "job-7.a_B");
        assert_ne!(request_id(&headers(&[(REQUEST_ID, "a b")])), "a b");
        assert_eq!(request_id(&headers(&[(REQUEST_ID, "")])).len(), 36);
    }

    #[test]
    fn pages_of_other_origins_may_read_but_not_write() {
        let foreign = headers(&[("host", "127.0.0.1:8080"), ("origin", "https://example.com")]);
        let own = headers(&[("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:8080")]);
        let program = headers(&[("host", "127.0.0.1:8080")]);
        let sandboxed = headers(&[("host", "127.0.0.1:8080"), ("origin", "null")]);
        assert!(is_foreign_write(&Method::POST, &foreign));
        assert!(is_foreign_write(&Method::DELETE, &sandboxed));
        assert!(!is_foreign_write(&Method::GET, &foreign));
        assert!(!is_foreign_write(&Method::POST, &own));
        assert!(!is_foreign_write(&Method::POST, &program));
    }
}
