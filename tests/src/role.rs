//! One process of a fleet without browsers: a coordinator as it is, or a worker whose pages no browser executes. The
//! program `bench-fleet role` is this; benchmarks and tests start it.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use crawlify_shared::broker::Broker;
use crawlify_shared::broker::amqp::{AmqpBroker, AmqpOptions};
use crawlify_shared::config::{LeaseTimes, SecretUrl};
use crawlify_shared::process;
use crawlify_shared::signals::until_stopped;
use crawlify_shared::store::{POOL_SIZE, Store};
use crawlify_shared::telemetry;
use crawlify_worker::egress::{Egress, EgressOptions};
use tokio_util::sync::CancellationToken;

use crate::doubling::Doubling;
use crate::synthetic::{Site, SyntheticDriver};

/// What to be.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Coordinator or worker.
    #[arg(value_enum)]
    kind: Kind,
    /// Pages executed at once.
    #[arg(long, default_value_t = 32)]
    slots: usize,
    /// The worker asks for each page over HTTP.
    #[arg(long)]
    ask: bool,
    /// No page links to one with a greater number.
    #[arg(long, value_name = "N", default_value_t = u64::MAX)]
    pages: u64,
    /// The coordinator publishes every message twice.
    #[arg(long)]
    double: bool,
    /// How long a page takes.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0)]
    takes: u64,
    /// The worker dies when it executes this page.
    #[arg(long, value_name = "N")]
    poison: Option<u64>,
    /// A worker unheard of for so long has lost its pages; the other times of the lease follow.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 15_000)]
    lost_after: u64,
    /// How long pages in hand may go on after SIGTERM.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 5_000)]
    drain: u64,
    /// How often its connections to the broker say that they are there.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    heartbeat: u64,
    #[arg(long)]
    database_url: SecretUrl,
    #[arg(long)]
    amqp_url: SecretUrl,
}

/// Which process.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    Coordinator,
    Worker,
}

/// Runs until SIGTERM, and ends with the exit code of the role's own program.
///
/// # Errors
/// The signals cannot be listened to.
pub async fn run(options: Options) -> Result<ExitCode> {
    telemetry::init_logging("info,sqlx=warn,lapin=off", telemetry::LogFormat::Json);
    let (stop, hurry) = (CancellationToken::new(), CancellationToken::new());
    let ended = until_stopped(stop.clone(), hurry.clone(), be(options, stop, hurry)).await?;
    Ok(match ended.unwrap_or(Ok(())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the role ends");
            process::exit_code(error.as_ref()).into()
        }
    })
}

async fn be(options: Options, stop: CancellationToken, hurry: CancellationToken) -> Result<()> {
    let patience = AmqpOptions {
        first_connection_within: Duration::from_secs(60),
        heartbeat: Duration::from_secs(options.heartbeat),
        ..Default::default()
    };
    let broker: Arc<dyn Broker> = Arc::new(AmqpBroker::connect(&options.amqp_url, patience).await?);
    let broker = if options.double { Arc::new(Doubling(broker)) } else { broker };
    let lost_after = Duration::from_millis(options.lost_after);
    let lease = LeaseTimes {
        heartbeat_every: lost_after / 3,
        worker_lost_after: lost_after,
        fence_after: lost_after * 2 / 3,
        ..LeaseTimes::default()
    };
    match options.kind {
        Kind::Coordinator => {
            let store = Store::connect(&options.database_url, POOL_SIZE)?;
            let config =
                crawlify_coordinator::Config { listen: None, lease, only: None, broker_forgets: false };
            let coordinator = crawlify_coordinator::start(
                config,
                store.clone(),
                Arc::clone(&broker),
                telemetry::registry(),
                stop,
            )
            .await?;
            tracing::info!("the coordinator is ready");
            coordinator.stopped().await;
            store.close().await;
            coordinator.check()?;
        }
        Kind::Worker => {
            let config = crawlify_worker::Config {
                name: "synthetic".to_owned(),
                slots: options.slots,
                database_url: options.database_url,
                admin: None,
                lease,
                newer_within: crawlify_worker::NEWER_WITHIN,
                drain_deadline: Duration::from_millis(options.drain),
                egress: Egress::start(EgressOptions::off())?,
                recorded: Arc::default(),
            };
            let driver = SyntheticDriver(Site {
                pages: options.pages,
                client: options.ask.then(reqwest::Client::new),
                poison: options.poison,
                takes: Duration::from_millis(options.takes),
            });
            let worker = crawlify_worker::start(
                config,
                Arc::clone(&broker),
                Arc::new(driver),
                telemetry::registry(),
                stop,
            )
            .await?;
            tracing::info!(worker.id = %worker.id, "the worker is ready");
            worker.stopped_or_hurried(&hurry).await;
            worker.check()?;
        }
    }
    broker.close().await;
    Ok(())
}
