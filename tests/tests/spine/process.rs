//! The processes of a fleet. Each has a runtime of its own, with which it is killed: whatever it does is dropped where it
//! waits, its connections end, and what it has sent goes on without it.

use std::sync::Arc;
use std::time::Duration;

use crawlify_coordinator::Coordinator;
use crawlify_shared::config::{LeaseTimes, SecretUrl};
use crawlify_shared::store::Store;
use crawlify_shared::telemetry;
use crawlify_worker::Worker;
use crawlify_worker::egress::{Egress, EgressOptions};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::broker::UnreliableBroker;
use super::browser::{Browser, Web};

/// Pages that a worker executes at once.
const SLOTS: usize = 3;
/// What hangs ends soon. Who is not heard is lost soon as well, but not because the machine is busy.
const TIMES: LeaseTimes = LeaseTimes {
    heartbeat_every: Duration::from_millis(500),
    worker_lost_after: Duration::from_secs(6),
    page_deadline: Duration::from_millis(300),
    deadline_slack: Duration::from_secs(30),
    fence_after: Duration::from_secs(4),
};

/// A process, until this is dropped: that kills it.
pub(super) struct Process<R> {
    pub(super) role: R,
    /// Tells it to stop.
    pub(super) stop: CancellationToken,
    _runtime: OwnRuntime,
}

/// There until it is dropped.
struct OwnRuntime(Option<Runtime>);

/// What the processes of a fleet work with.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) database: SecretUrl,
    pub(super) broker: Arc<UnreliableBroker>,
    pub(super) web: Arc<Web>,
}

impl<R: Send + 'static> Process<R> {
    async fn start<F>(begin: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = R> + Send + 'static,
    {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let stop = CancellationToken::new();
        let beginning = runtime.spawn(begin(stop.clone()));
        let runtime = OwnRuntime(Some(runtime));
        Self { role: beginning.await.unwrap(), stop, _runtime: runtime }
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        // Within another runtime none may be dropped in a way that waits.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Place {
    pub(super) async fn start_worker(&self) -> Process<Worker> {
        let place = self.clone();
        Process::start(|stop| place.worker(stop)).await
    }

    pub(super) async fn start_coordinator(&self) -> Process<Coordinator> {
        let place = self.clone();
        Process::start(|stop| place.coordinator(stop)).await
    }

    async fn worker(self, stop: CancellationToken) -> Worker {
        let config = crawlify_worker::Config {
            name: "test".to_owned(),
            slots: SLOTS,
            database_url: self.database,
            admin: None,
            lease: TIMES,
            newer_within: crawlify_worker::NEWER_WITHIN,
            drain_deadline: Duration::from_secs(1),
            egress: Egress::start(EgressOptions::off()).unwrap(),
            recorded: Arc::default(),
        };
        let browser = Arc::new(Browser::of(self.web));
        crawlify_worker::start(config, self.broker, browser, telemetry::registry(), stop).await.unwrap()
    }

    async fn coordinator(self, stop: CancellationToken) -> Coordinator {
        let config =
            crawlify_coordinator::Config { listen: None, lease: TIMES, only: None, broker_forgets: false };
        let store = Store::connect(&self.database, 8).unwrap();
        crawlify_coordinator::start(config, store, self.broker, telemetry::registry(), stop).await.unwrap()
    }
}
