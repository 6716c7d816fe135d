//! The worker as a process of its own: what `crawlify-worker` and `crawlify worker` share.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use crawlify_shared::broker::Broker;
use crawlify_shared::broker::amqp::{AmqpBroker, AmqpOptions};
use crawlify_shared::config::{AMQP_URL, DATABASE_URL, LeaseTimes, SecretUrl};
use crawlify_shared::domain::id::WorkerId;
use crawlify_shared::store::StoreError;
use crawlify_shared::store::hot::HotStore;
use crawlify_shared::telemetry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::chrome::driver::Driver;
use crate::chrome::{ChromeDriver, ChromeOptions};
use crate::egress::EgressArgs;
use crate::machine::Slots;
use crate::stopping::CLOSE;
use crate::{Config, NEWER_WITHIN, StartError, Worker, start};

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
    /// How many seconds pages in hand may go on after SIGTERM; 7 s later the process has ended.
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

/// How often a database that is away is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Runs a worker until `stop`, then drains it; on `hurry` it gives back the pages in hand instead. Servers that are away are
/// waited for, however long; meanwhile the admin port says so. Its end waits for none of them: 5 s after the drain deadline it is
/// over.
///
/// # Errors
/// Waiting does not help: there is no browser, a server refuses us, or the admin address is taken. Or one of its loops
/// broke.
pub async fn run(args: Args, stop: CancellationToken, hurry: CancellationToken) -> anyhow::Result<()> {
    let slots = args.slots.number();
    let broker = AmqpBroker::open(&args.amqp_url, AmqpOptions::default()).with_context(|| {
        format!("cannot use the broker at {} (--amqp-url, CRAWLIFY_AMQP_URL)", args.amqp_url)
    })?;
    let broker = Arc::new(broker);
    // What a fleet may reach is said by whoever runs it, never by what it is asked to crawl.
    let egress = args.egress.start(Vec::new())?;
    let options = ChromeOptions { egress: Some(egress.clone()), ..ChromeOptions::for_slots(slots) };
    let Some(driver) = stop.run_until_cancelled(ChromeDriver::start(options)).await else {
        return Ok(());
    };
    let driver = driver?;
    let config = Config {
        name: host_name(),
        slots,
        database_url: args.database_url.clone(),
        admin: Some(SocketAddr::new(args.admin_host, args.admin_port)),
        lease: LeaseTimes::default(),
        newer_within: NEWER_WITHIN,
        drain_deadline: Duration::from_secs(args.drain_deadline),
        egress: egress.clone(),
        recorded: Arc::default(),
    };
    let as_driver: Arc<dyn Driver> = driver.clone();
    let registry = telemetry::registry();
    egress.register(&registry)?;
    // Also ends when a server refuses us, or a loop breaks.
    let stop = stop.child_token();
    let mut closes_by = Instant::now() + CLOSE;
    let ended = match start(config, broker.clone(), as_driver, registry, stop.clone()).await {
        Ok(worker) => {
            let admin = worker.admin.map(tracing::field::display);
            tracing::info!(worker.id = %worker.id, admin, "the worker has started; waiting for its servers");
            let reached = stop.run_until_cancelled(reach_servers(&args, &broker)).await;
            match &reached {
                Some(Ok(())) => say_ready(&worker, slots, driver.description()),
                Some(Err(_)) => stop.cancel(),
                None => {}
            }
            worker.stopped_or_hurried(&hurry).await;
            closes_by = worker.closes_by();
            // A broker of which a link broke cannot be reached either.
            worker.check().map_err(anyhow::Error::from).and_then(|()| reached.unwrap_or(Ok(())))
        }
        Err(error @ StartError::Listen { .. }) => Err(anyhow::Error::new(error).context(
            "the admin port cannot be had: choose another with --admin-port, or 0 for any free one",
        )),
        Err(error @ (StartError::Database(_) | StartError::Metrics(_) | StartError::Http(_))) => {
            Err(error.into())
        }
    };
    let browser = async {
        driver.close().await;
        egress.close().await;
    };
    let closed = async { tokio::join!(browser, broker.close()) };
    if tokio::time::timeout_at(closes_by, closed).await.is_err() {
        // Neither outlives the process: the kernel kills the browser, and closes the broker's connections.
        tracing::warn!("browser or broker did not close in time; the process ends without that");
    }
    ended
}

fn say_ready(worker: &Worker, slots: usize, browser: &str) {
    let admin = worker.admin.map(tracing::field::display);
    tracing::info!(worker.id = %worker.id, slots, admin, browser, "the worker is ready");
}

/// Waits for both servers, however long. What waiting does not heal is an error.
async fn reach_servers(args: &Args, broker: &AmqpBroker) -> anyhow::Result<()> {
    let database = async {
        let reached = reach_database(&args.database_url).await;
        reached.with_context(|| {
            format!(
                "cannot use the database at {} (--database-url, CRAWLIFY_DATABASE_URL)",
                args.database_url
            )
        })
    };
    let broker = async {
        let reached = broker.reached().await;
        reached.with_context(|| {
            format!("cannot use the broker at {} (--amqp-url, CRAWLIFY_AMQP_URL)", args.amqp_url)
        })
    };
    tokio::try_join!(database, broker).map(|((), ())| ())
}

/// Waits until the database lets us in. That it is away is in the log already: the heartbeat says so.
async fn reach_database(url: &SecretUrl) -> Result<(), StoreError> {
    let store = HotStore::connect(url, WorkerId::generate())?;
    loop {
        match store.ping().await {
            Err(error) if error.is_transient() => tokio::time::sleep(ASK_AGAIN_AFTER).await,
            reached_or_refused => {
                store.close();
                return reached_or_refused;
            }
        }
    }
}

/// The machine's or the pod's name, for people.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
