//! The REST API under `/api/v1`, with the old system's paths and response keys, and the probes beside it.
//!
//! Reads and writes rows and never publishes a page: that something is new in the frontier is only hinted to the
//! dispatcher. Sends no CORS headers: scripts of other sites cannot read answers, and cannot change anything.

mod access;
mod bodies;
mod budgets;
mod control;
mod executions;
mod extract;
mod fields;
mod health;
mod hosts;
mod idempotency;
mod observe;
mod openapi;
mod problem;
mod query;
mod schedules;
mod serve;
mod versions;
mod waiting;
mod workflows;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use crawlify_shared::store::Store;
use tokio::sync::Notify;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::broker_link::BrokerLink;
use crate::keys::ApiKeys;
use crate::missing::Missing;
pub use bodies::Bodies;
pub use extract::{MAX_BODY_BYTES, MAX_WORKFLOW_BYTES};
use problem::ApiError;
pub use serve::{HEAD_WITHIN, serve};

/// What the handlers work with.
#[derive(Clone, Debug)]
pub struct ApiState {
    /// Where everything is kept.
    pub store: Store,
    /// Notified when an execution has new pages; the dispatcher waits for it.
    pub frontier_changed: Arc<Notify>,
    /// The version that the program reports.
    pub version: &'static str,
    /// What `/metrics` shows; the API's own metrics are registered in it.
    pub metrics: prometheus::Registry,
    /// Who may ask.
    pub keys: ApiKeys,
    /// What is waited for: until then nothing is served.
    pub missing: Missing,
    /// Asked by probes and scrapes.
    pub broker_link: BrokerLink,
    /// What is held of the bodies of all requests.
    pub bodies: Bodies,
}

/// Builds the router: every route, then what surrounds them all.
pub fn router(state: ApiState) -> Router {
    let observer = observe::Observer::new(&state.metrics);
    let (router, document) = OpenApiRouter::with_openapi(openapi::document(state.version))
        .routes(routes!(workflows::create, workflows::list))
        .routes(routes!(workflows::get, workflows::replace, workflows::delete))
        .routes(routes!(workflows::set_status))
        .routes(routes!(workflows::validate))
        .routes(routes!(executions::start))
        .routes(routes!(executions::list))
        .routes(routes!(executions::get, control::change, control::delete))
        .routes(routes!(control::pause))
        .routes(routes!(control::resume))
        .routes(routes!(control::cancel))
        .routes(routes!(control::retry))
        .routes(routes!(executions::stats))
        .routes(routes!(executions::data))
        .routes(routes!(executions::quarantine::quarantine))
        .routes(routes!(executions::skipped::list_skipped))
        .routes(routes!(schedules::create, schedules::list))
        .routes(routes!(schedules::get, schedules::change, schedules::delete))
        .routes(routes!(schedules::run))
        .routes(routes!(hosts::list))
        .routes(routes!(health::health))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .routes(routes!(openapi::serve))
        .split_for_parts();
    let started = observe::Started::new(&state.metrics);
    let router = router
        .layer(axum::Extension(openapi::Served::new(document)))
        .layer(axum::Extension(started))
        .layer(axum::Extension(health::AskedWhenScraped::new(&state.metrics)));
    surround(router, observer, &state).with_state(state)
}

/// Puts around all routes what every request goes through; the last layer is the outermost.
fn surround(router: Router<ApiState>, observer: observe::Observer, state: &ApiState) -> Router<ApiState> {
    router
        .fallback(|| async { ApiError::not_found("there is no such path") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(CatchPanicLayer::custom(problem::of_panic))
        .layer(from_fn_with_state(state.missing.clone(), waiting::until_reached))
        .layer(from_fn_with_state(state.keys.clone(), access::admit))
        .layer(from_fn_with_state(observer, observe::observe))
}

#[cfg(test)]
mod tests;
