//! Probes and metrics. Liveness never asks the database: restarting us would not bring it back.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use chrono::{DateTime, Utc};
use crawlify_shared::store::Store;
use crawlify_shared::telemetry;
use serde::Serialize;
use utoipa::ToSchema;

use super::ApiState;
use super::problem::ApiError;

/// A database that takes longer counts as away.
const PING_DEADLINE: Duration = Duration::from_secs(2);

/// How we are.
#[derive(Serialize, ToSchema)]
pub(super) struct HealthBody {
    /// `healthy`, or `unhealthy` when the database does not answer.
    status: &'static str,
    /// The program's version.
    version: &'static str,
    /// Our clock.
    time: DateTime<Utc>,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
}

/// Says whether the database answers, as the old system did.
#[utoipa::path(
    get,
    path = "/health",
    tag = "system",
    responses(
        (status = 200, description = "All is well", body = HealthBody),
        (status = 503, description = "The database does not answer", body = HealthBody)
    )
)]
pub(super) async fn health(State(state): State<ApiState>) -> impl IntoResponse {
    let answers = database_answers(&state.store).await;
    let body = HealthBody {
        status: if answers { "healthy" } else { "unhealthy" },
        version: state.version,
        time: Utc::now(),
        error: (!answers).then_some("the database does not answer"),
    };
    let status = if answers { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body))
}

/// Says that the process runs.
#[utoipa::path(get, path = "/livez", tag = "system", responses((status = 200, description = "It runs", body = String)))]
pub(super) async fn livez() -> &'static str {
    "ok"
}

/// Says whether requests can be served.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "system",
    responses((status = 200, description = "They can", body = String), (status = 503, description = "They cannot"))
)]
pub(super) async fn readyz(State(state): State<ApiState>) -> Result<&'static str, ApiError> {
    if database_answers(&state.store).await {
        Ok("ok")
    } else {
        Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "database_unavailable",
            "the database does not answer",
        ))
    }
}

/// Shows the metrics in the text format that Prometheus scrapes.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "system",
    responses((status = 200, description = "Metrics", body = String, content_type = "text/plain; version=0.0.4"))
)]
pub(super) async fn metrics(State(state): State<ApiState>) -> Result<impl IntoResponse, ApiError> {
    let text = telemetry::encode(&state.metrics).map_err(|error| {
        tracing::error!(error = %error, "the metrics cannot be written");
        ApiError::internal()
    })?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text))
}

async fn database_answers(store: &Store) -> bool {
    match tokio::time::timeout(PING_DEADLINE, store.ping()).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(error = %error, "the database does not answer a probe");
            false
        }
        Err(_) => {
            tracing::warn!("the database does not answer a probe in time");
            false
        }
    }
}
