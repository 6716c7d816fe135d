//! The coordinator as a process of its own: what `crawlify-coordinator` and `crawlify coordinator` share.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use crawlify_shared::broker::Broker;
use crawlify_shared::broker::amqp::{AmqpBroker, AmqpOptions};
use crawlify_shared::config::{AMQP_URL, DATABASE_URL, LeaseTimes, SecretUrl};
use crawlify_shared::store::{POOL_SIZE, Store};
use crawlify_shared::telemetry;
use tokio_util::sync::CancellationToken;

use crate::keys::KeyArgs;
use crate::{Config, Listen, StartError, start};

/// The command line.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The port of the REST API; 0 takes any free one.
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// The address to listen on; other than loopback ones need API keys.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub host: IpAddr,
    /// The Postgres that holds the frontier.
    #[arg(long, env = DATABASE_URL, hide_env_values = true, value_name = "URL")]
    pub database_url: SecretUrl,
    /// The RabbitMQ that carries the pages.
    #[arg(long, env = AMQP_URL, hide_env_values = true, value_name = "URL")]
    pub amqp_url: SecretUrl,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the flattened arguments have their own")]
    pub keys: KeyArgs,
}

/// How long the servers may take to come up at the start, after ours does.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a coordinator until `stop`.
///
/// # Errors
/// The database or the broker cannot be reached within a minute, the API keys are not as they should be, or the address
/// is taken.
pub async fn run(args: Args, stop: CancellationToken) -> anyhow::Result<()> {
    // Before anything is waited for: who forgot the keys is to hear it at once.
    let listen = Listen { address: SocketAddr::new(args.host, args.port), keys: args.keys.read()? };
    listen.check()?;
    let store = Store::connect(&args.database_url, POOL_SIZE).context("the database URL is not valid")?;
    migrate(&store, &args.database_url, &stop).await?;
    let broker = AmqpBroker::connect(
        &args.amqp_url,
        AmqpOptions { first_connection_within: PATIENCE, ..Default::default() },
    )
    .await
    .with_context(|| format!("cannot use the broker at {}", args.amqp_url))?;
    let broker: Arc<dyn Broker> = Arc::new(broker);
    let config =
        Config { listen: Some(listen), lease: LeaseTimes::default(), only: None, broker_forgets: false };
    let started =
        start(config, store.clone(), Arc::clone(&broker), telemetry::registry(), stop.clone()).await;
    if let Ok(coordinator) = &started {
        if let Some(address) = coordinator.address {
            tracing::info!(%address, "the coordinator is ready");
        }
        coordinator.stopped().await;
    }
    broker.close().await;
    store.close().await;
    started.map(drop).map_err(|error| match error {
        StartError::Listen { .. } => anyhow::Error::new(error)
            .context("the REST API has no port: choose another with --port, or 0 for any free one"),
        StartError::NoKeys { .. } | StartError::Metrics(_) => error.into(),
    })
}

/// Migrates; waits for a database that is still starting.
async fn migrate(store: &Store, url: &SecretUrl, stop: &CancellationToken) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match store.migrate().await {
            Ok(()) => return Ok(()),
            Err(error)
                if error.is_transient() && tokio::time::Instant::now() < deadline && !stop.is_cancelled() =>
            {
                tracing::warn!(error = &error as &dyn std::error::Error, "the database is not there yet");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(error).with_context(|| format!("cannot use the database at {url}")),
        }
    }
}
