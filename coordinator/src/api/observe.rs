//! What surrounds every request: its id, its deadline, its measurement, its log line, the body of its problem, and the
//! headers that tell a browser to make nothing of the answer.

use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus::{HistogramOpts, HistogramVec, IntCounter, Registry};
use tokio::time::Instant;
use uuid::Uuid;

use super::access::KeyId;
use super::problem::ApiError;
use crate::metrics::executions_started;

/// No request takes longer, the reading of its body included.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// The longest path with its query, in bytes.
const MAX_TARGET_BYTES: usize = 4096;
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

    let mut response = if target_bytes(request.uri()) > MAX_TARGET_BYTES {
        ApiError::new(
            StatusCode::URI_TOO_LONG,
            "url_too_long",
            format!("the path and the query have more than {MAX_TARGET_BYTES} bytes together"),
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
    harden(response.headers_mut());
    let key_id = response.extensions_mut().remove::<KeyId>().map(|KeyId(id)| id);
    let elapsed = started.elapsed();
    let route = route.as_deref().unwrap_or(UNMATCHED);
    let status = response.status();
    observer
        .duration
        .with_label_values(&[method_label(&method), route, status_class(status)])
        .observe(elapsed.as_secs_f64());
    tracing::debug!(
        request.id = request_id,
        key.id = key_id,
        method = %method,
        route,
        status = status.as_u16(),
        duration_ms = elapsed.as_millis() as u64,
        "request served"
    );
    response
}

fn target_bytes(uri: &Uri) -> usize {
    uri.path_and_query().map_or(0, |target| target.as_str().len())
}

/// Keeps browsers from taking an answer for anything else than it says, from showing it within another page, from
/// running or loading what is in it, and from keeping it. What a handler says itself stays.
fn harden(headers: &mut HeaderMap) {
    let is_page = headers.get(header::CONTENT_TYPE).is_some_and(|of| of.as_bytes().starts_with(b"text/html"));
    let may_load = if is_page {
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    } else {
        "default-src 'none'; frame-ancestors 'none'; sandbox"
    };
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, may_load),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
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
    fn a_page_may_load_its_own_parts_and_a_document_nothing() {
        let policy = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = headers(pairs);
            harden(&mut headers);
            assert_eq!(headers["x-content-type-options"], "nosniff");
            assert_eq!(headers["cache-control"], "no-store");
            headers["content-security-policy"].to_str().unwrap().to_owned()
        };
        for (content_type, may_load) in [
            ("application/json", "default-src 'none'"),
            ("text/plain", "default-src 'none'"),
            ("text/html; charset=utf-8", "default-src 'self'"),
        ] {
            let policy = policy(&[("content-type", content_type)]);
            assert!(policy.starts_with(may_load) && policy.contains("frame-ancestors 'none'"), "{policy}");
        }
        assert_eq!(policy(&[("content-security-policy", "default-src data:")]), "default-src data:");
    }
}
