//! The coordinator as a process of its own: what `crawlify-coordinator` and `crawlify coordinator` share.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use crawlify_shared::broker::Broker;
use crawlify_shared::broker::amqp::{AmqpBroker, AmqpOptions};
use crawlify_shared::config::{AMQP_URL, DATABASE_URL, LeaseTimes, SecretUrl};
use crawlify_shared::store::{POOL_SIZE, Store, StoreError};
use crawlify_shared::telemetry::{self, Reminder, chain};
use tokio_util::sync::CancellationToken;

use crate::keys::KeyArgs;
use crate::missing::{Missing, Server};
use crate::{Config, Listen, Listening, StartError};

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

/// How often a database that is away is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Runs a coordinator until `stop`. Servers that are away are waited for, however long; meanwhile the REST API says so.
///
/// # Errors
/// Waiting does not help: a server refuses us, the database cannot be used, the API keys are not as they should be, or the
/// address is taken. Or one of its loops broke.
pub async fn run(args: Args, stop: CancellationToken) -> anyhow::Result<()> {
    // Before anything is waited for: who forgot the keys is to hear it at once.
    let listen = Listen { address: SocketAddr::new(args.host, args.port), keys: args.keys.read()? };
    listen.check()?;
    let servers = Servers::open(&args)?;
    let config =
        Config { listen: Some(listen), lease: LeaseTimes::default(), only: None, broker_forgets: false };
    // Also ends when a server refuses us, or a loop breaks.
    let stop = stop.child_token();
    let listening = crate::listen(
        config.listen.clone(),
        servers.store.clone(),
        servers.broker.clone(),
        telemetry::registry(),
        servers.missing.clone(),
        stop.clone(),
    )
    .await;
    let ended = match listening {
        Ok(listening) => wait_and_work(listening, &config, &servers, &stop).await,
        Err(error @ StartError::Listen { .. }) => Err(anyhow::Error::new(error)
            .context("the REST API has no port: choose another with --port, or 0 for any free one")),
        Err(error @ (StartError::NoKeys { .. } | StartError::Metrics(_))) => Err(error.into()),
    };
    servers.close().await;
    ended
}

/// Waits for the servers, and works until the stop.
async fn wait_and_work(
    listening: Listening,
    config: &Config,
    servers: &Servers,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if let Some(address) = listening.address {
        tracing::info!(%address, "the REST API listens, and says so as long as a server is missing");
    }
    match stop.run_until_cancelled(servers.reached()).await {
        Some(Ok(())) => {
            let coordinator = listening.begin(config);
            if let Some(address) = coordinator.address {
                tracing::info!(%address, "the coordinator is ready");
            }
            coordinator.stopped().await;
            Ok(coordinator.check()?)
        }
        refused_or_stopped => {
            stop.cancel();
            // A broker of which a link broke cannot be reached either.
            listening.stopped().await?;
            refused_or_stopped.unwrap_or(Ok(()))
        }
    }
}

/// The two servers, there or not.
struct Servers {
    store: Store,
    database_url: SecretUrl,
    broker: Arc<AmqpBroker>,
    amqp_url: SecretUrl,
    missing: Missing,
}

impl Servers {
    fn open(args: &Args) -> anyhow::Result<Self> {
        let store = Store::connect(&args.database_url, POOL_SIZE).context("the database URL is not valid")?;
        let (database_url, amqp_url) = (args.database_url.clone(), args.amqp_url.clone());
        let broker = AmqpBroker::open(&amqp_url, AmqpOptions::default()).with_context(|| {
            format!("cannot use the broker at {amqp_url} (--amqp-url, CRAWLIFY_AMQP_URL)")
        })?;
        Ok(Self { store, database_url, broker: Arc::new(broker), amqp_url, missing: Missing::everything() })
    }

    /// Waits for both, however long. What waiting does not heal is an error.
    async fn reached(&self) -> anyhow::Result<()> {
        let database = async {
            let reached = reach_database(&self.store).await;
            reached.with_context(|| {
                format!(
                    "cannot use the database at {} (--database-url, CRAWLIFY_DATABASE_URL)",
                    self.database_url
                )
            })?;
            self.missing.cross_out(Server::Database);
            anyhow::Ok(())
        };
        let broker = async {
            let reached = self.broker.reached().await;
            reached.with_context(|| {
                format!("cannot use the broker at {} (--amqp-url, CRAWLIFY_AMQP_URL)", self.amqp_url)
            })?;
            self.missing.cross_out(Server::Broker);
            anyhow::Ok(())
        };
        tokio::try_join!(database, broker).map(|((), ())| ())
    }

    async fn close(&self) {
        self.broker.close().await;
        self.store.close().await;
    }
}

/// Waits until the database lets us in, and brings its schema up to date.
async fn reach_database(store: &Store) -> Result<(), StoreError> {
    let mut reminder = Reminder::default();
    loop {
        let reached = match store.knock().await {
            Ok(()) => store.migrate().await,
            Err(error) => Err(error),
        };
        match reached {
            Err(error) if error.is_transient() => {
                if reminder.is_due() {
                    tracing::warn!(error = %chain(&error), "the database is not there; waiting for it");
                } else {
                    tracing::debug!(error = %chain(&error), "the database is still not there");
                }
                tokio::time::sleep(ASK_AGAIN_AFTER).await;
            }
            reached_or_refused => return reached_or_refused,
        }
    }
}
