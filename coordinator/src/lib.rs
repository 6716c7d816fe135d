//! The coordinator: REST API, dispatcher, finisher, rescuer, scheduler and remover. Any number of them may run against one database.
//!
//! Knows nothing about workers: their only common ground is rows and messages.

pub mod api;
pub mod broker_link;
pub mod dispatcher;
pub mod finisher;
pub mod keys;
mod metrics;
pub mod missing;
mod partitions;
mod remover;
pub mod rescuer;
pub mod role;
pub mod scheduler;
mod server_clock;
mod shares;
mod steps;

use std::net::SocketAddr;
use std::sync::Arc;

use crawlify_shared::broker::Broker;
use crawlify_shared::config::LeaseTimes;
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::loops::{BrokenLoop, Loops};
use crawlify_shared::store::Store;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use broker_link::BrokerLink;
use dispatcher::Dispatcher;
use finisher::Finisher;
use keys::ApiKeys;
use metrics::Metrics;
use missing::Missing;
use partitions::Partitions;
use remover::Remover;
use rescuer::Rescuer;
use scheduler::Scheduler;
use steps::{Step, repeat};

/// How a coordinator runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The REST API; `None` runs without one.
    pub listen: Option<Listen>,
    /// What leases are made of; the workers must use the same.
    pub lease: LeaseTimes,
    /// Dispatches pages of this execution only, and starts no others by schedules.
    pub only: Option<ExecutionId>,
    /// Whether the broker's messages are gone when this process ends: then what is `queued` at the start is sent
    /// again at once.
    pub broker_forgets: bool,
}

/// Where the REST API listens, and who may ask.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Port 0 takes any free port. Without keys it must be a loopback address.
    pub address: SocketAddr,
    /// Without any, nobody is asked for one.
    pub keys: ApiKeys,
}

impl Listen {
    /// Looks whether others could reach the API without being asked who they are.
    ///
    /// # Errors
    /// They could.
    pub fn check(&self) -> Result<(), StartError> {
        // An IPv4 address may be written as one of IPv6.
        if self.keys.is_empty() && !self.address.ip().to_canonical().is_loopback() {
            return Err(StartError::NoKeys { address: self.address });
        }
        Ok(())
    }
}

/// Without keys.
impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self { address, keys: ApiKeys::default() }
    }
}

/// A running coordinator.
#[derive(Debug)]
pub struct Coordinator {
    /// Where the REST API listens.
    pub address: Option<SocketAddr>,
    /// Tell it that rows of the frontier have come, so that the dispatcher looks at once.
    pub frontier_changed: Arc<Notify>,
    loops: Loops,
    tasks: TaskTracker,
}

/// Why a coordinator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Others could reach it, and would not be asked who they are.
    #[error(
        "will not listen on {address}, where others can reach it, without API keys: make one with `crawlify keys create \
         --scope admin`, and give the hash that it shows with --api-key-hash or --api-key-file"
    )]
    NoKeys {
        /// Which address.
        address: SocketAddr,
    },
    /// A metric is registered twice in the given registry.
    #[error("cannot register the metrics")]
    Metrics(#[from] prometheus::Error),
}

/// A coordinator whose REST API listens, and whose loops do not run yet.
#[derive(Debug)]
pub struct Listening {
    /// Where the REST API listens.
    pub address: Option<SocketAddr>,
    store: Store,
    broker: Arc<dyn Broker>,
    metrics: Metrics,
    frontier_changed: Arc<Notify>,
    stop: CancellationToken,
    loops: Loops,
    tasks: TaskTracker,
}

/// Starts a coordinator; it runs until `stop`. The database must be migrated.
///
/// Where one of its loops breaks, or one of the broker's, it cancels `stop` itself: [`Coordinator::check`] says so
/// afterwards.
///
/// # Errors
/// The address is taken, or not a loopback one while there are no keys; or the metrics are registered already.
pub async fn start(
    config: Config,
    store: Store,
    broker: Arc<dyn Broker>,
    registry: Registry,
    stop: CancellationToken,
) -> Result<Coordinator, StartError> {
    let listening = listen(config.listen.clone(), store, broker, registry, Missing::nothing(), stop).await?;
    Ok(listening.begin(&config))
}

/// Starts the REST API alone, which serves nothing but probes while something is `missing`.
///
/// # Errors
/// As [`start`].
pub async fn listen(
    wanted: Option<Listen>,
    store: Store,
    broker: Arc<dyn Broker>,
    registry: Registry,
    missing: Missing,
    stop: CancellationToken,
) -> Result<Listening, StartError> {
    let metrics = Metrics::register(&registry)?;
    let frontier_changed = Arc::new(Notify::new());
    let (tasks, loops) = (TaskTracker::new(), Loops::new(vec![stop.clone()]));
    let mut address = None;
    if let Some(wanted) = wanted {
        wanted.check()?;
        let Listen { address: wanted, keys } = wanted;
        let listen = |source| StartError::Listen { address: wanted, source };
        let listener = TcpListener::bind(wanted).await.map_err(listen)?;
        address = Some(listener.local_addr().map_err(listen)?);
        let state = api::ApiState {
            store: store.clone(),
            frontier_changed: Arc::clone(&frontier_changed),
            version: env!("CARGO_PKG_VERSION"),
            metrics: registry.clone(),
            keys,
            missing,
            broker_link: link_to(Arc::clone(&broker)),
            bodies: api::Bodies::default(),
        };
        let serving = api::serve(listener, api::router(state), api::HEAD_WITHIN, stop.clone());
        tasks.spawn(loops.clone().watch("api", stop.clone(), serving));
    }
    // Without the broker's links nothing is dispatched either.
    let of_broker = Arc::clone(&broker);
    tasks.spawn(loops.clone().pass_on(stop.clone(), async move { of_broker.broken().await }));
    Ok(Listening { address, store, broker, metrics, frontier_changed, stop, loops, tasks })
}

fn link_to(broker: Arc<dyn Broker>) -> BrokerLink {
    BrokerLink::asked_by(move || {
        let broker = Arc::clone(&broker);
        async move { broker.is_connected().await }
    })
}

impl Listening {
    /// Starts the loops. The servers must be there, and the database migrated.
    pub fn begin(self, config: &Config) -> Coordinator {
        let Self { address, store, broker, metrics, frontier_changed, stop, loops, tasks } = self;
        let drained = Arc::new(Notify::new());
        let dispatcher = Dispatcher::new(
            store.clone(),
            broker,
            config.lease,
            config.only,
            metrics.clone(),
            Arc::clone(&drained),
        );
        let finisher = Finisher::new(store.clone());
        let scheduler = Scheduler::new(store.clone(), metrics.clone(), Arc::clone(&frontier_changed));
        let partitions = Partitions::new(store.clone());
        let remover = Remover::new(store.clone());
        let rescuer = Rescuer::new(store, config.lease, config.broker_forgets, metrics);
        let nobody = || Arc::new(Notify::new());
        let watch = Watch { loops: &loops, stop: &stop, tasks: &tasks };
        watch.repeat("dispatch", dispatcher, Arc::clone(&frontier_changed));
        watch.repeat("finish", finisher, drained);
        if config.only.is_none() {
            watch.repeat("schedule", scheduler, nobody());
        }
        watch.repeat("partition", partitions, nobody());
        watch.repeat("remove", remover, nobody());
        watch.repeat("rescue", rescuer, nobody());
        tasks.close();
        Coordinator { address, frontier_changed, loops, tasks }
    }

    /// Waits until the REST API has ended, after the stop; the loops never run.
    ///
    /// # Errors
    /// It broke, or a link of the broker.
    pub async fn stopped(self) -> Result<(), BrokenLoop> {
        self.tasks.close();
        self.tasks.wait().await;
        self.loops.check()
    }
}

/// What the loops have in common.
struct Watch<'a> {
    loops: &'a Loops,
    stop: &'a CancellationToken,
    tasks: &'a TaskTracker,
}

impl Watch<'_> {
    fn repeat(&self, name: &'static str, step: impl Step + 'static, wake: Arc<Notify>) {
        let work = repeat(name, step, self.stop.clone(), wake);
        self.tasks.spawn(self.loops.clone().watch(name, self.stop.clone(), work));
    }
}

impl Coordinator {
    /// Waits until every task has ended, after the stop.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }

    /// Looks whether it ended as it was told to.
    ///
    /// # Errors
    /// One of its loops broke, or of the broker's: whoever runs the coordinator is to end as if it had crashed.
    pub fn check(&self) -> Result<(), BrokenLoop> {
        self.loops.check()
    }

    /// Waits until one of its loops breaks.
    pub async fn broken(&self) -> BrokenLoop {
        self.loops.broken().await
    }
}
