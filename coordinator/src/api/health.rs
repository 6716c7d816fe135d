//! Probes and metrics. Liveness never asks the database: restarting us would not bring it back. Readiness does, as nothing can
//! be served without it; of a broker that has gone away it tells and no more, since the frontier is in the database: whoever
//! takes us out of service for that takes everything away that still works.

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
use crate::broker_link::BrokerLink;

/// A database that takes longer counts as away.
const PING_DEADLINE: Duration = Duration::from_secs(2);
/// A scrape waits no longer than this for what only the database knows.
const LOOK_DEADLINE: Duration = Duration::from_secs(1);
/// What `/readyz` says.
const READY: &str = "ok";
const READY_WITHOUT_BROKER: &str = "ok, but the broker is away: pages wait until it is back";

/// How we are.
#[derive(Serialize, ToSchema)]
pub(super) struct HealthBody {
    /// `healthy`, or `unhealthy` when the database does not answer or nothing is served yet.
    status: &'static str,
    /// The program's version.
    version: &'static str,
    /// Our clock.
    time: DateTime<Utc>,
    /// `connected` or `away`. While it is away executions can be started and read, and no page is sent to a worker.
    broker: &'static str,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Says whether the database answers, as the old system did, and whether the broker is there.
#[utoipa::path(
    get,
    path = "/health",
    tag = "system",
    responses(
        (status = 200, description = "All is well", body = HealthBody),
        (status = 503, description = "The database does not answer, or a server has not been reached since the start", body = HealthBody)
    )
)]
pub(super) async fn health(State(state): State<ApiState>) -> impl IntoResponse {
    let error = if database_answers(&state.store).await {
        state.missing.names().map(|missing| format!("this coordinator still waits for {missing}"))
    } else {
        Some("the database does not answer".to_owned())
    };
    let is_well = error.is_none();
    let body = HealthBody {
        status: if is_well { "healthy" } else { "unhealthy" },
        version: state.version,
        time: Utc::now(),
        broker: if state.broker_link.is_up().await { "connected" } else { "away" },
        error,
    };
    let status = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body))
}

/// Says that the process runs.
#[utoipa::path(get, path = "/livez", tag = "system", responses((status = 200, description = "It runs", body = String)))]
pub(super) async fn livez() -> &'static str {
    "ok"
}

/// Says whether requests can be served, and whether the broker is away meanwhile.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "system",
    responses((status = 200, description = "They can", body = String), (status = 503, description = "They cannot"))
)]
pub(super) async fn readyz(State(state): State<ApiState>) -> Result<&'static str, ApiError> {
    if database_answers(&state.store).await {
        Ok(if state.broker_link.is_up().await { READY } else { READY_WITHOUT_BROKER })
    } else {
        Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "database_unavailable",
            "the database does not answer",
        ))
    }
}

/// What the servers are asked when metrics are scraped.
#[derive(Clone)]
pub(super) struct AskedWhenScraped {
    broker_connected: IntGauge,
    held_back_hosts: IntGauge,
}

impl AskedWhenScraped {
    /// Registers the metrics.
    pub(super) fn new(registry: &Registry) -> Self {
        let gauge = |name: &str, help: &str| {
            let gauge =
                IntGauge::new(name, help).expect("name and help are constants that Prometheus accepts");
            if let Err(error) = registry.register(Box::new(gauge.clone())) {
                tracing::error!(error = %error, "the API's metrics are not exported");
            }
            gauge
        };
        Self {
            broker_connected: gauge(
                "crawlify_broker_connected",
                "Whether this coordinator's broker is there; without it no page is sent to a worker.",
            ),
            held_back_hosts: gauge(
                "crawlify_politeness_hosts",
                "Hosts that are left alone now, because they asked for it or cannot be reached; of the whole fleet.",
            ),
        }
    }

    /// A database that does not answer leaves the last values of what it is asked.
    async fn ask(&self, store: &Store, broker_link: &BrokerLink) {
        self.broker_connected.set(i64::from(broker_link.is_up().await));
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
    asked.ask(&state.store, &state.broker_link).await;
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
