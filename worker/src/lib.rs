//! The worker: pulls pages, executes their nodes in headless Chrome, records what happened. Stateless: everything
//! that it knows about a crawl is a row or a message.
//!
//! To read it in order: this file (how a worker starts and drains), `consumer`, `page` (the spine), `page::claims`,
//! `execute`, `nodes` and `program` (what runs), `chrome` (how), `gather`, `recorder`.

mod admin;
pub mod chrome;
mod consumer;
pub mod egress;
mod execute;
pub mod explain;
mod gather;
mod group_commit;
#[cfg(test)]
mod held_port;
mod http;
mod lanes;
pub mod machine;
mod metrics;
mod nodes;
mod page;
mod program;
mod recorder;
mod render;
mod robots;
pub mod role;
mod sitemap;
mod skips;
mod stopping;
mod traps;
mod when_to_return;

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crawlify_shared::broker::Broker;
use crawlify_shared::config::{LeaseTimes, SecretUrl};
use crawlify_shared::crash::{self, CrashPoint};
use crawlify_shared::domain::id::WorkerId;
use crawlify_shared::loops::{BrokenLoop, Loops};
use crawlify_shared::store::StoreError;
use crawlify_shared::store::hot::HotStore;
use futures_util::FutureExt;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use chrome::driver::Driver;
use consumer::leases::{Leases, Pages};
use egress::Egress;
use http::Http;
use lanes::Lanes;
use metrics::Metrics;
use page::claims::{Claims, InHand};
use page::company::Company;
use page::host_turns::HostTurns;
use page::programs::Programs;
use page::refusals::Refusals;
use recorder::Recorder;
use recorder::decisions::write_decisions;
use render::Renders;
use robots::Robots;
use sitemap::Sitemaps;
use skips::Skips;
pub use stopping::ENDS_AFTER_DRAIN;
use stopping::{CLOSE, Stages};
use traps::Traps;

/// How a worker runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// For people: the host's or the pod's name.
    pub name: String,
    /// Pages executed at once.
    pub slots: usize,
    /// Where the frontier is.
    pub database_url: SecretUrl,
    /// Where `/metrics`, `/livez` and `/readyz` are served; `None` is nowhere.
    pub admin: Option<SocketAddr>,
    /// What leases are made of; the coordinators must use the same.
    pub lease: LeaseTimes,
    /// How long the pages of a workflow that no living worker's version can run wait for one that can, before they fail.
    pub newer_within: Duration,
    /// How long pages in hand may go on after the stop, before they are given back.
    pub drain_deadline: Duration,
    /// What the worker itself fetches goes through this, as its browser's requests do.
    pub egress: Arc<Egress>,
    /// Told when pages are recorded: a dispatcher in the same process then need not wait until it looks again.
    pub recorded: Arc<Notify>,
}

/// [`Config::newer_within`] as it is meant to be: the first worker of an upgrade is there long before.
pub const NEWER_WITHIN: Duration = Duration::from_secs(15 * 60);

/// How long the admin port may go on answering after the worker's end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    /// Where the admin port listens.
    pub admin: Option<SocketAddr>,
    /// This life's id.
    pub id: WorkerId,
    /// Has the pages in hand given back.
    abandon: CancellationToken,
    /// Until when the caller may close driver and broker. Written before the worker has ended.
    closes_by: Arc<OnceLock<Instant>>,
    loops: Loops,
    finished: TaskTracker,
}

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The admin address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The database's address is no URL of one.
    #[error("the database URL is not valid")]
    Database(#[from] StoreError),
    /// A metric is registered twice in the given registry.
    #[error("cannot register the metrics")]
    Metrics(#[from] prometheus::Error),
    /// The HTTP client cannot be made.
    #[error("cannot set up HTTP")]
    Http(#[from] reqwest::Error),
}

/// A task that goes on until the end of the worker.
type Loop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What every task of a worker reads. Nothing here is written after the start.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) lanes: Arc<Lanes>,
    pub(crate) company: Company,
    pub(crate) renders: Arc<Renders>,
    pub(crate) lease: LeaseTimes,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) http: Arc<Http>,
    pub(crate) claims: Claims,
    pub(crate) recorder: Recorder,
    pub(crate) programs: Programs,
    pub(crate) host_turns: HostTurns,
    pub(crate) robots: Robots,
    pub(crate) sitemaps: Sitemaps,
    pub(crate) leases: Leases,
    pub(crate) traps: Traps,
    pub(crate) skips: Skips,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) registry: Registry,
    /// Take no more pages.
    pub(crate) draining: CancellationToken,
    /// Give the pages in hand back.
    pub(crate) abandon: CancellationToken,
    /// Nothing of the worker goes on.
    pub(crate) cut: CancellationToken,
}

/// Starts a worker. It drains when `stop` is cancelled: it takes nothing more, ends the pages in hand within the
/// drain deadline, gives the others back uncharged, and then ends, at most 3 s after that deadline whatever is away. The caller
/// closes driver and broker afterwards.
///
/// Where one of its loops breaks, or one of its broker, driver or egress guard, it cancels `stop` itself, and gives its
/// pages back: [`Worker::check`] says so afterwards.
///
/// # Errors
/// The address is taken, the database's URL does not parse, the metrics are registered already, or TLS cannot be set up.
pub async fn start(
    config: Config,
    broker: Arc<dyn Broker>,
    driver: Arc<dyn Driver>,
    registry: Registry,
    stop: CancellationToken,
) -> Result<Worker, StartError> {
    let id = WorkerId::generate();
    let store = HotStore::connect(&config.database_url, id)?;
    // Of its own: pages that wait for locks must not keep the worker from saying that it lives.
    let heart = HotStore::connect(&config.database_url, id)?;
    let http = Arc::new(Http::new(Arc::clone(&config.egress))?);
    let metrics = Arc::new(Metrics::register(&registry, config.slots)?);
    let listener = match config.admin {
        Some(address) => {
            let listen = |source| StartError::Listen { address, source };
            Some(TcpListener::bind(address).await.map_err(listen)?)
        }
        None => None,
    };
    let admin = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let (end, abandon, cut) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    // Without any of its loops a worker is not what others take it for.
    let loops = Loops::new(vec![stop.clone(), abandon.clone()]);
    // Of a worker whose time is over no task goes on, whatever it waits for.
    let (last, until_cut) = (TaskTracker::new(), || cut.clone());
    let lease = config.lease.page_deadline + config.lease.deadline_slack;
    let (in_hand, refusals) = (InHand::default(), Refusals::new(config.newer_within));
    let (claims, claiming) = Claims::new(store.clone(), lease, in_hand.clone(), end.clone());
    let lanes = Lanes::new(config.slots);
    let (recorder, recording) =
        Recorder::new(store.clone(), Arc::clone(&metrics), Arc::clone(&lanes), config.recorded, end.clone());
    let (leases, beating) = Leases::new(
        heart.clone(),
        config.lease,
        config.name,
        Pages {
            lanes: Arc::clone(&lanes),
            in_hand,
            unrecorded: recorder.unrecorded(),
            refusals: refusals.clone(),
        },
        stop.clone(),
        end.clone(),
    );
    let watch = |name, work: Loop| {
        last.spawn(loops.clone().watch(name, end.clone(), until_cut().run_until_cancelled_owned(work)))
    };
    watch("claim", Box::pin(claiming));
    watch("record", Box::pin(recording));
    watch("heartbeat", Box::pin(beating));
    let renders = Arc::new(Renders::default());
    let deciding = write_decisions(store.clone(), Arc::clone(&renders), end.clone());
    watch("decisions", Box::pin(deciding));
    let (of_broker, of_driver, egress) = (Arc::clone(&broker), Arc::clone(&driver), config.egress);
    let below = async move {
        tokio::select! {
            broken = of_broker.broken() => broken,
            broken = of_driver.broken() => broken,
            broken = egress.broken() => broken,
        }
    };
    last.spawn(loops.clone().pass_on(end.clone(), below));
    let shared = Arc::new(Shared {
        lanes,
        company: Company::new(store.clone(), config.lease.page_deadline),
        renders,
        lease: config.lease,
        broker,
        driver,
        http: Arc::clone(&http),
        claims,
        recorder,
        programs: Programs::new(store.clone(), refusals),
        host_turns: HostTurns::new(store.clone(), lease, Arc::clone(&metrics)),
        robots: Robots::new(store.clone(), Arc::clone(&http), last.clone()),
        sitemaps: Sitemaps::new(http),
        leases,
        traps: Traps::new(),
        skips: Skips::new(store.generation()),
        metrics,
        registry,
        draining: stop.clone(),
        abandon: abandon.clone(),
        cut: cut.clone(),
    });
    if let Some(listener) = listener {
        let router = admin::router(Arc::clone(&shared));
        let (ended, end_of_serving) = (end.clone().cancelled_owned(), end.clone());
        let serving = async move {
            let long_ended = async {
                end_of_serving.cancelled().await;
                tokio::time::sleep(LAST_ANSWERS).await;
            };
            tokio::select! {
                served = axum::serve(listener, router).with_graceful_shutdown(ended).into_future() => {
                    if let Err(error) = served {
                        tracing::error!(%error, "the admin port ended");
                    }
                }
                // Somebody may hold a connection for ever.
                () = long_ended => {}
            }
        };
        watch("admin", Box::pin(serving));
    }
    last.close();
    let (finished, closes_by) = (TaskTracker::new(), Arc::<OnceLock<Instant>>::default());
    let (set_closes_by, consuming, ends) = (Arc::clone(&closes_by), loops.clone(), end.clone());
    let ending = async move {
        // Also where this panics, nothing of the worker goes on after it.
        let _over = [end.clone().drop_guard(), shared.cut.clone().drop_guard()];
        let pages = TaskTracker::new();
        let told_to_stop = async {
            shared.draining.cancelled().await;
            Instant::now()
        };
        let consumer = consumer::run(Arc::clone(&shared), pages.clone());
        let ((), told) =
            tokio::join!(consuming.watch("consume", shared.draining.clone(), consumer), told_to_stop);
        pages.close();
        let stages = Stages::after(told, config.drain_deadline);
        let drained = AssertUnwindSafe(drain(&shared, &pages, stages)).catch_unwind().await;
        let stages = match &drained {
            Ok(stages) => *stages,
            // The pages have done nothing: they go back, and the worker says goodbye, before that is told.
            Err(_panic) => {
                give_back(&shared, &pages, stages.sooner(Instant::now()), "a fault in the drain").await
            }
        };
        let _ = set_closes_by.set(stages.closed);
        end.cancel();
        let ended = async { tokio::join!(pages.wait(), last.wait()) };
        if tokio::time::timeout_at(stages.written, ended).await.is_err() {
            tracing::warn!("the worker ends without its last writes; what it holds is left to its lease");
            shared.cut.cancel();
        }
        store.close();
        heart.close();
        if let Err(panic) = drained {
            resume_unwind(panic);
        }
    };
    finished.spawn(loops.clone().watch("drain", ends, ending));
    finished.close();
    Ok(Worker { admin, id, abandon, closes_by, loops, finished })
}

/// Waits for the pages in hand, then gives back what is left. What cannot be given back is left to the end of its lease. Answers by
/// when the rest of the end is to be done.
async fn drain(shared: &Shared, pages: &TaskTracker, stages: Stages) -> Stages {
    crash::reach(CrashPoint::AfterStopBeforeDrain);
    tokio::select! {
        () = pages.wait() => stages,
        () = tokio::time::sleep_until(stages.drained) => {
            give_back(shared, pages, stages, "the drain deadline has passed").await
        }
        () = shared.abandon.cancelled() => {
            give_back(shared, pages, stages.sooner(Instant::now()), "somebody is in a hurry").await
        }
    }
}

/// Gives back the pages in hand. Answers by when the rest of the end is to be done.
async fn give_back(shared: &Shared, pages: &TaskTracker, stages: Stages, why: &str) -> Stages {
    tracing::info!(pages = pages.len(), "{why}: giving pages back");
    shared.abandon.cancel();
    if tokio::time::timeout_at(stages.given_back, pages.wait()).await.is_err() {
        tracing::warn!(pages = pages.len(), "some pages could not be given back");
    }
    stages
}

impl Worker {
    /// Waits until the worker has ended, after the stop.
    pub async fn stopped(&self) {
        self.finished.wait().await;
    }

    /// Looks whether it ended as it was told to.
    ///
    /// # Errors
    /// One of its loops broke, or of what it stands on: whoever runs the worker is to end as if it had crashed.
    pub fn check(&self) -> Result<(), BrokenLoop> {
        self.loops.check()
    }

    /// Waits until one of its loops breaks.
    pub async fn broken(&self) -> BrokenLoop {
        self.loops.broken().await
    }

    /// Waits until the worker has ended, as well; on `hurry` the pages in hand go back at once, uncharged. It must have
    /// been told to stop before.
    pub async fn stopped_or_hurried(&self, hurry: &CancellationToken) {
        tokio::select! {
            () = self.stopped() => {}
            () = hurry.cancelled() => {
                self.abandon.cancel();
                self.stopped().await;
            }
        }
    }

    /// Until when driver and broker may be closed, once the worker has ended.
    pub(crate) fn closes_by(&self) -> Instant {
        self.closes_by.get().copied().unwrap_or_else(|| Instant::now() + CLOSE)
    }
}
