//! One process of the fleet: a coordinator as it is, or a worker with pages that no browser executes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use crawlify_coordinator::keys::KeyArgs;
use crawlify_coordinator::role as coordinator;
use crawlify_shared::broker::Broker;
use crawlify_shared::broker::amqp::{AmqpBroker, AmqpOptions};
use crawlify_shared::config::{LeaseTimes, SecretUrl};
use crawlify_shared::signals::until_stopped;
use crawlify_shared::telemetry;
use crawlify_worker::Config;
use harness::synthetic::SyntheticDriver;
use tokio_util::sync::CancellationToken;

/// What to be.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Coordinator or worker.
    #[arg(value_enum)]
    kind: Kind,
    /// Pages executed at once.
    #[arg(long, default_value_t = 32)]
    slots: usize,
    /// Ask for each page over HTTP.
    #[arg(long)]
    ask: bool,
    #[arg(long)]
    database_url: SecretUrl,
    #[arg(long)]
    amqp_url: SecretUrl,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Kind {
    Coordinator,
    Worker,
}

/// Runs until SIGTERM.
///
/// # Errors
/// It does not start.
pub(crate) async fn run(options: Options) -> Result<()> {
    telemetry::init_logging("info,sqlx=warn,lapin=off", telemetry::LogFormat::Json);
    let stop = CancellationToken::new();
    until_stopped(stop.clone(), be(options, stop)).await?.unwrap_or(Ok(()))
}

async fn be(options: Options, stop: CancellationToken) -> Result<()> {
    match options.kind {
        Kind::Coordinator => {
            let args = coordinator::Args {
                port: 0,
                host: std::net::Ipv4Addr::LOCALHOST.into(),
                database_url: options.database_url,
                amqp_url: options.amqp_url,
                keys: KeyArgs::default(),
            };
            coordinator::run(args, stop).await
        }
        Kind::Worker => {
            let patience =
                AmqpOptions { first_connection_within: Duration::from_secs(60), ..Default::default() };
            let broker: Arc<dyn Broker> = Arc::new(AmqpBroker::connect(&options.amqp_url, patience).await?);
            let driver = if options.ask { SyntheticDriver::asking() } else { SyntheticDriver::default() };
            let config = Config {
                name: "synthetic".to_owned(),
                slots: options.slots,
                database_url: options.database_url,
                admin: None,
                lease: LeaseTimes::default(),
                drain_deadline: Duration::from_secs(5),
                recorded: Arc::default(),
            };
            let registry = telemetry::registry();
            let worker =
                crawlify_worker::start(config, Arc::clone(&broker), Arc::new(driver), registry, stop).await?;
            worker.stopped().await;
            broker.close().await;
            Ok(())
        }
    }
}
