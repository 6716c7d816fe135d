//! The worker as a process of its own: what `crawlify-worker` and `crawlify worker` share.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use crawlify_shared::broker::Broker;
use crawlify_shared::broker::amqp::{AmqpBroker, AmqpOptions};
use crawlify_shared::config::{AMQP_URL, DATABASE_URL, LeaseTimes, SecretUrl};
use crawlify_shared::telemetry;
use tokio_util::sync::CancellationToken;

use crate::chrome::driver::Driver;
use crate::chrome::{ChromeDriver, ChromeOptions};
use crate::egress::EgressArgs;
use crate::machine::Slots;
use crate::{Config, StartError, start};

/// The command line.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Pages executed at once; `auto` is as many as there are cores, or as there is memory for.
    #[arg(long, value_name = "N", default_value_t)]
    pub slots: Slots,
    /// The port of /metrics, /livez and /readyz; 0 takes any free one.
    #[arg(long, default_value_t = 9090)]
    pub admin_port: u16,
    /// The address of that port.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub admin_host: IpAddr,
    /// How many seconds pages in hand may go on after SIGTERM.
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    pub drain_deadline: u64,
    /// The Postgres that holds the frontier.
    #[arg(long, env = DATABASE_URL, hide_env_values = true, value_name = "URL")]
    pub database_url: SecretUrl,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the flattened arguments have their own")]
    pub egress: EgressArgs,
    /// The RabbitMQ that carries the pages.
    #[arg(long, env = AMQP_URL, hide_env_values = true, value_name = "URL")]
    pub amqp_url: SecretUrl,
}

/// How long the broker may take to come up at the start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a worker until `stop`, then drains it; on `hurry` it gives back the pages in hand instead.
///
/// # Errors
/// There is no browser, the broker cannot be reached within a minute, or the admin address is taken.
pub async fn run(args: Args, stop: CancellationToken, hurry: CancellationToken) -> anyhow::Result<()> {
    let slots = args.slots.number();
    let broker = AmqpBroker::connect(
        &args.amqp_url,
        AmqpOptions { first_connection_within: PATIENCE, ..Default::default() },
    )
    .await
    .with_context(|| format!("cannot use the broker at {}", args.amqp_url))?;
    let broker: Arc<dyn Broker> = Arc::new(broker);
    // What a fleet may reach is said by whoever runs it, never by what it is asked to crawl.
    let egress = args.egress.start(Vec::new())?;
    let options = ChromeOptions { egress: Some(egress.clone()), ..ChromeOptions::for_slots(slots) };
    let driver = ChromeDriver::start(options).await?;
    let config = Config {
        name: host_name(),
        slots,
        database_url: args.database_url,
        admin: Some(SocketAddr::new(args.admin_host, args.admin_port)),
        lease: LeaseTimes::default(),
        drain_deadline: Duration::from_secs(args.drain_deadline),
        egress: egress.clone(),
        recorded: Arc::default(),
    };
    let as_driver: Arc<dyn Driver> = driver.clone();
    let registry = telemetry::registry();
    egress.register(&registry)?;
    let started = start(config, Arc::clone(&broker), as_driver, registry, stop).await;
    if let Ok(worker) = &started {
        let admin = worker.admin.map(tracing::field::display);
        tracing::info!(worker.id = %worker.id, slots, admin, browser = driver.description(), "the worker is ready");
        worker.stopped_or_hurried(&hurry).await;
    }
    driver.close().await;
    egress.close().await;
    broker.close().await;
    started.map(drop).map_err(|error| match error {
        StartError::Listen { .. } => anyhow::Error::new(error)
            .context("the admin port cannot be had: choose another with --admin-port, or 0 for any free one"),
        StartError::Database(_) | StartError::Metrics(_) | StartError::Http(_) => error.into(),
    })
}

/// The machine's or the pod's name, for people.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
