//! The whole system in one process: what it stands on (database, broker, browser), and what runs on that.
//!
//! Whatever is not given by URL is private to the process, and ends with it.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crawlify_coordinator::{Coordinator, Listen};
use crawlify_shared::broker::amqp::{AmqpBroker, AmqpOptions};
use crawlify_shared::broker::in_process::InProcessBroker;
use crawlify_shared::broker::{Broker, BrokerError};
use crawlify_shared::config::{LeaseTimes, SecretUrl};
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::store::{POOL_SIZE, Store, StoreError};
use crawlify_shared::telemetry;
use crawlify_worker::Worker;
use crawlify_worker::chrome::driver::Driver;
use crawlify_worker::chrome::{ChromeDriver, ChromeOptions, find_browser};
use crawlify_worker::egress::Egress;
use crawlify_worker::machine::Slots;
use crawlify_worker::role::host_name;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::args::Servers;
use crate::doctor;
use crate::exit::{Code, Failure, chain};
use crate::private_postgres::{self, PrivatePostgres};
use crate::stopping::{DRAIN_DEADLINE, Stages};

/// What the system stands on.
#[derive(Debug)]
pub struct Foundation {
    /// Migrated.
    pub store: Store,
    /// Where the store is.
    pub database_url: SecretUrl,
    /// The private Postgres, unless one was given.
    pub postgres: Option<PrivatePostgres>,
    /// RabbitMQ, or the broker inside the process.
    pub broker: Arc<dyn Broker>,
    /// Whether the broker is inside the process.
    pub broker_is_private: bool,
    /// What Chrome's traffic goes through.
    pub egress: Arc<Egress>,
    /// Chrome, under supervision.
    pub driver: Arc<ChromeDriver>,
    /// Pages executed at once.
    pub slots: usize,
}

/// A running system.
#[derive(Debug)]
pub struct System {
    /// What it stands on.
    pub foundation: Foundation,
    /// REST API, dispatcher, finisher, rescuer.
    pub coordinator: Coordinator,
    /// Cancelled by whoever wants the end at once: a worker that is told to stop gives its pages back then.
    pub hurry: CancellationToken,
    worker: Worker,
    stop_coordinator: CancellationToken,
    stop_worker: CancellationToken,
    /// When the worker was told to stop. Written by the first who tells it.
    told: OnceLock<Instant>,
}

impl Foundation {
    /// Starts, or connects to, the servers; the database is migrated. `data_dir` is where a private Postgres keeps
    /// its data; without it, they are removed at the end.
    ///
    /// # Errors
    /// Says what is missing or unreachable, and what to do.
    pub async fn lay(
        servers: &Servers,
        data_dir: Option<PathBuf>,
        slots: Slots,
        egress: Arc<Egress>,
    ) -> Result<Self, Failure> {
        let slots = slots.number();
        find_programs(servers).await?;
        // Both take a moment, and neither needs the other.
        let database = async {
            let (url, postgres) = open_database(servers, data_dir).await?;
            let store = open_store(&url, POOL_SIZE).await?;
            Ok::<_, Failure>((url, postgres, store))
        };
        let browser = async {
            let options = ChromeOptions { egress: Some(egress.clone()), ..ChromeOptions::for_slots(slots) };
            ChromeDriver::start(options).await.map_err(|error| Failure::of(Code::Configuration, &error))
        };
        let (database, driver, broker) = tokio::join!(database, browser, open_broker(servers));
        let failed = match (database, driver, broker) {
            (Ok((database_url, postgres, store)), Ok(driver), Ok(broker)) => {
                let broker_is_private = servers.amqp_url.is_none();
                return Ok(Self {
                    store,
                    database_url,
                    postgres,
                    broker,
                    broker_is_private,
                    egress,
                    driver,
                    slots,
                });
            }
            (database, driver, broker) => {
                // What did start must not outlive the failure of the rest.
                let mut messages: Vec<Failure> = Vec::new();
                match database {
                    Ok((_, postgres, store)) => {
                        store.close().await;
                        if let Some(postgres) = postgres {
                            postgres.stop().await;
                        }
                    }
                    Err(failure) => messages.push(failure),
                }
                match driver {
                    Ok(driver) => driver.close().await,
                    Err(failure) => messages.push(failure),
                }
                match broker {
                    Ok(broker) => broker.close().await,
                    Err(failure) => messages.push(failure),
                }
                messages
            }
        };
        Err(together(failed))
    }

    /// Starts coordinator and worker; `only` narrows the dispatcher down to one execution.
    ///
    /// # Errors
    /// The address is taken.
    pub async fn run(
        self,
        listen: Option<Listen>,
        only: Option<ExecutionId>,
    ) -> Result<System, (Self, Failure)> {
        let (stop_coordinator, stop_worker) = (CancellationToken::new(), CancellationToken::new());
        let lease = LeaseTimes::default();
        let registry = telemetry::registry();
        if let Err(error) = self.egress.register(&registry) {
            return Err((self, Failure::of(Code::Configuration, &error)));
        }
        let config =
            crawlify_coordinator::Config { listen, lease, only, broker_forgets: self.broker_is_private };
        let coordinator = crawlify_coordinator::start(
            config,
            self.store.clone(),
            Arc::clone(&self.broker),
            registry.clone(),
            stop_coordinator.clone(),
        )
        .await;
        let coordinator = match coordinator {
            Ok(coordinator) => coordinator,
            Err(error) => return Err((self, Failure::of(Code::Configuration, &error))),
        };
        let config = crawlify_worker::Config {
            name: host_name(),
            slots: self.slots,
            database_url: self.database_url.clone(),
            admin: None,
            lease,
            newer_within: crawlify_worker::NEWER_WITHIN,
            drain_deadline: DRAIN_DEADLINE,
            egress: Arc::clone(&self.egress),
            recorded: Arc::clone(&coordinator.frontier_changed),
        };
        let driver: Arc<dyn Driver> = self.driver.clone();
        let worker =
            crawlify_worker::start(config, Arc::clone(&self.broker), driver, registry, stop_worker.clone())
                .await;
        match worker {
            Ok(worker) => Ok(System {
                foundation: self,
                coordinator,
                hurry: CancellationToken::new(),
                worker,
                stop_coordinator,
                stop_worker,
                told: OnceLock::new(),
            }),
            Err(error) => {
                stop_coordinator.cancel();
                coordinator.stopped().await;
                Err((self, Failure::of(Code::Configuration, &error)))
            }
        }
    }

    /// Ends everything that is private to the process, and every connection.
    pub async fn clear(self) {
        self.clear_by(Stages::after(Instant::now())).await;
    }

    async fn clear_by(self, stages: Stages) {
        let browser = async {
            self.driver.close().await;
            self.egress.close().await;
        };
        let servers = async {
            self.broker.close().await;
            self.store.close().await;
        };
        let closed = async { tokio::join!(browser, servers) };
        if timeout_at(stages.closed, closed).await.is_err() {
            // Neither outlives the process: the kernel kills the browser, and closes the connections.
            tracing::warn!("browser or connections did not close in time; the process ends without that");
        }
        if let Some(postgres) = self.postgres {
            postgres.stop_by(stages.ended).await;
        }
    }
}

impl System {
    /// Lets the worker end its pages: it takes no more. Returns when it has ended, at most 3 s after the drain deadline.
    pub async fn drain(&self) {
        self.told.get_or_init(Instant::now);
        self.stop_worker.cancel();
        self.worker.stopped_or_hurried(&self.hurry).await;
    }

    /// Waits until it cannot go on, because a loop of the coordinator or the worker has broken, and says so. It is to
    /// be stopped then.
    pub async fn broken(&self) -> Failure {
        let broken = tokio::select! {
            broken = self.coordinator.broken() => broken,
            broken = self.worker.broken() => broken,
        };
        Failure::of_loop(&broken)
    }

    /// Lets the worker end its pages, then stops everything in the order in which one part needs another, each by the clock.
    ///
    /// # Errors
    /// A loop of either has broken, now or before.
    pub async fn stop(self) -> Result<(), Failure> {
        self.drain().await;
        let now = Instant::now();
        let stages = Stages::of(*self.told.get_or_init(|| now), now);
        self.stop_coordinator.cancel();
        if timeout_at(stages.coordinated, self.coordinator.stopped()).await.is_err() {
            // The next coordinator looks for itself what is to be done.
            tracing::warn!("the coordinator's last steps do not end, and are given up");
        }
        let unbroken = self.worker.check().and_then(|()| self.coordinator.check());
        self.foundation.clear_by(stages).await;
        unbroken.map_err(|broken| Failure::of_loop(&broken))
    }
}

/// Looks for the programs that will be started, which takes no time: what is missing is said before anything starts.
async fn find_programs(servers: &Servers) -> Result<(), Failure> {
    let mut missing = Vec::new();
    if let Err(error) = find_browser() {
        missing.push(Failure::of(Code::Configuration, &error));
    }
    if servers.database_url.is_none()
        && let Err(error) = private_postgres::look(&private_postgres::Options::default()).await
    {
        missing.push(Failure::of(Code::Configuration, &error));
    }
    if missing.is_empty() { Ok(()) } else { Err(together(missing)) }
}

/// All problems at once; the code is the first one's.
fn together(failed: Vec<Failure>) -> Failure {
    let code = failed.first().map_or(Code::Configuration, |failure| failure.code);
    let message = failed.iter().map(|failure| failure.message.as_str()).collect::<Vec<_>>().join("\n");
    Failure::new(code, message)
}

async fn open_database(
    servers: &Servers,
    data_dir: Option<PathBuf>,
) -> Result<(SecretUrl, Option<PrivatePostgres>), Failure> {
    if let Some(url) = &servers.database_url {
        return Ok((url.clone(), None));
    }
    let options = private_postgres::Options { data_dir, ..Default::default() };
    let postgres = PrivatePostgres::start(&options).await.map_err(|error| {
        let code = match &error {
            private_postgres::StartError::AlreadyRunning { .. } => Code::Unreachable,
            _ => Code::Configuration,
        };
        Failure::of(code, &error)
    })?;
    Ok((postgres.url(), Some(postgres)))
}

async fn open_broker(servers: &Servers) -> Result<Arc<dyn Broker>, Failure> {
    let Some(url) = &servers.amqp_url else { return Ok(Arc::new(InProcessBroker::new())) };
    // Somebody is watching: a broker that does not answer is said soon.
    let options = AmqpOptions { first_connection_within: Duration::from_secs(5), ..AmqpOptions::default() };
    match AmqpBroker::connect(url, options).await {
        Ok(broker) => Ok(Arc::new(broker)),
        Err(error) => {
            let code = match &error {
                BrokerError::Refused(_) => Code::Configuration,
                _ => Code::Unreachable,
            };
            Err(Failure::new(code, format!("cannot use the broker at {url}: {}", chain(&error))))
        }
    }
}

/// Connects, and brings the schema up to date.
///
/// # Errors
/// Says which database cannot be used, and why.
pub(crate) async fn open_store(url: &SecretUrl, pool_size: u32) -> Result<Store, Failure> {
    let store = match Store::connect(url, pool_size) {
        Ok(store) => store,
        Err(error) => return Err(unusable_database(url, &error).await),
    };
    match store.migrate().await {
        Ok(()) => Ok(store),
        Err(error) => {
            store.close().await;
            Err(unusable_database(url, &error).await)
        }
    }
}

async fn unusable_database(url: &SecretUrl, error: &StoreError) -> Failure {
    let code = if error.is_transient() { Code::Unreachable } else { Code::Configuration };
    // The pool only knows that its time is over; why nobody answers is seen by knocking once more.
    let why = match doctor::knock(url).await {
        Err(why) if error.is_transient() => why,
        _ => chain(error),
    };
    Failure::new(code, format!("cannot use the database at {url}: {why}"))
}

/// Where `up` and `--keep` keep the private database.
///
/// # Errors
/// There is no home directory.
pub(crate) fn default_data_dir() -> Result<PathBuf, Failure> {
    private_postgres::default_data_dir()
        .ok_or_else(|| Failure::new(Code::Configuration, "there is no home directory: give --data-dir"))
}
