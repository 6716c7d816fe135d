//! The admin port: `/metrics`, `/livez`, `/readyz`. Never anything that changes something.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use crawlify_shared::telemetry;

use crate::Shared;

pub(crate) fn router(worker: Arc<Shared>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        // That it is answered is the answer: the event loop turns. It must not depend on the database, or an outage
        // there would restart every worker.
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .with_state(worker)
}

async fn metrics(State(worker): State<Arc<Shared>>) -> impl IntoResponse {
    worker.metrics.set_messages_rejected(worker.broker.rejected_messages());
    match telemetry::encode(&worker.registry) {
        Ok(text) => (StatusCode::OK, [("content-type", "text/plain; version=0.0.4")], text),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, [("content-type", "text/plain")], error.to_string())
        }
    }
}

async fn ready(State(worker): State<Arc<Shared>>) -> impl IntoResponse {
    let mut missing = Vec::new();
    if worker.draining.is_cancelled() {
        missing.push("draining");
    }
    if !worker.driver.is_ready() {
        missing.push("no browser");
    }
    if !worker.leases.is_held() {
        missing.push("no database");
    }
    if !worker.broker.is_connected().await {
        missing.push("no broker");
    }
    if missing.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join(", ")))
    }
}
