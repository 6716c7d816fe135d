//! Probes and metrics. Liveness never asks the database: restarting us would not bring it back.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use chrono::{DateTime, Utc};
use crawlify_shared::store::Store;
use crawlify_shared::telemetry;
use prometheus::{IntGauge, Registry};
use serde::Serialize;
use utoipa::ToSchema;

use super::ApiState;
use super::problem::ApiError;

/// A database that takes longer counts as away.
const PING_DEADLINE: Duration = Duration::from_secs(2);
/// A scrape waits no longer than this for what only the database knows.
const LOOK_DEADLINE: Duration = Duration::from_secs(1);

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

/// What the database is asked when metrics are scraped.
#[derive(Clone)]
pub(super) struct AskedWhenScraped {
    held_back_hosts: IntGauge,
}

impl AskedWhenScraped {
    /// Registers the metrics.
    pub(super) fn new(registry: &Registry) -> Self {
        let held_back_hosts = IntGauge::new(
            "crawlify_politeness_hosts",
            "Hosts that are left alone now, because they asked for it or cannot be reached; of the whole fleet.",
        )
        .expect("name and help are constants that Prometheus accepts");
        if let Err(error) = registry.register(Box::new(held_back_hosts.clone())) {
            tracing::error!(error = %error, "the API's metrics are not exported");
        }
        Self { held_back_hosts }
    }

    /// A database that does not answer leaves the last values.
    async fn ask(&self, store: &Store) {
        match tokio::time::timeout(LOOK_DEADLINE, store.held_back_hosts()).await {
            Ok(Ok(hosts)) => self.held_back_hosts.set(hosts),
            Ok(Err(error)) => tracing::debug!(error = %error, "the database does not answer a scrape"),
            Err(_elapsed) => tracing::debug!("the database does not answer a scrape in time"),
        }
    }
}

/// Shows the metrics in the text format that Prometheus scrapes.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "system",
    responses((status = 200, description = "Metrics", body = String, content_type = "text/plain; version=0.0.4"))
)]
pub(super) async fn metrics(
    State(state): State<ApiState>,
    Extension(asked): Extension<AskedWhenScraped>,
) -> Result<impl IntoResponse, ApiError> {
    asked.ask(&state.store).await;
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
