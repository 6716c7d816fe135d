//! The whole system in one process: what it stands on (database, broker, browser), and what runs on that.
//!
//! Whatever is not given by URL is private to the process, and ends with it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crawlify_coordinator::Coordinator;
use crawlify_shared::broker::amqp::{AmqpBroker, AmqpOptions};
use crawlify_shared::broker::in_process::InProcessBroker;
use crawlify_shared::broker::{Broker, BrokerError};
use crawlify_shared::config::{LeaseTimes, SecretUrl};
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::store::{POOL_SIZE, Store, StoreError};
use crawlify_shared::telemetry;
use crawlify_worker::Worker;
use crawlify_worker::chrome::driver::Driver;
use crawlify_worker::chrome::{ChromeDriver, ChromeOptions};
use crawlify_worker::role::{default_slots, host_name};
use tokio_util::sync::CancellationToken;

use crate::args::Servers;
use crate::exit::{Code, Failure, chain};
use crate::private_postgres::{self, PrivatePostgres};

/// How long the worker may take to end its pages after the stop.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(20);

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
    worker: Worker,
    stop_coordinator: CancellationToken,
    stop_worker: CancellationToken,
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
        slots: Option<u16>,
    ) -> Result<Self, Failure> {
        let slots = slots.map_or_else(default_slots, usize::from);
        // Both take a moment, and neither needs the other.
        let database = async {
            let (url, postgres) = open_database(servers, data_dir).await?;
            let store = Store::connect(&url, POOL_SIZE).map_err(|error| unusable_database(&url, &error))?;
            store.migrate().await.map_err(|error| unusable_database(&url, &error))?;
            Ok::<_, Failure>((url, postgres, store))
        };
        let browser = async {
            ChromeDriver::start(ChromeOptions { idle_tabs: slots, ..ChromeOptions::from_environment() })
                .await
                .map_err(|error| Failure::of(Code::Configuration, &error))
        };
        let (database, driver, broker) = tokio::join!(database, browser, open_broker(servers));
        let failed = match (database, driver, broker) {
            (Ok((database_url, postgres, store)), Ok(driver), Ok(broker)) => {
                let broker_is_private = servers.amqp_url.is_none();
                return Ok(Self { store, database_url, postgres, broker, broker_is_private, driver, slots });
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
        // All problems at once; the code is the first one's.
        let code = failed.first().map_or(Code::Configuration, |failure| failure.code);
        let message = failed.iter().map(|failure| failure.message.as_str()).collect::<Vec<_>>().join("\n");
        Err(Failure::new(code, message))
    }

    /// Starts coordinator and worker; `only` narrows the dispatcher down to one execution.
    ///
    /// # Errors
    /// The address is taken.
    pub async fn run(
        self,
        listen: Option<SocketAddr>,
        only: Option<ExecutionId>,
    ) -> Result<System, (Self, Failure)> {
        let (stop_coordinator, stop_worker) = (CancellationToken::new(), CancellationToken::new());
        let lease = LeaseTimes::default();
        let registry = telemetry::registry();
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
            drain_deadline: DRAIN_DEADLINE,
        };
        let driver: Arc<dyn Driver> = self.driver.clone();
        let worker =
            crawlify_worker::start(config, Arc::clone(&self.broker), driver, registry, stop_worker.clone())
                .await;
        match worker {
            Ok(worker) => Ok(System { foundation: self, coordinator, worker, stop_coordinator, stop_worker }),
            Err(error) => {
                stop_coordinator.cancel();
                coordinator.stopped().await;
                Err((self, Failure::of(Code::Configuration, &error)))
            }
        }
    }

    /// Ends everything that is private to the process, and every connection.
    pub async fn clear(self) {
        self.driver.close().await;
        self.broker.close().await;
        self.store.close().await;
        if let Some(postgres) = self.postgres {
            postgres.stop().await;
        }
    }
}

impl System {
    /// Lets the worker end its pages, then stops everything in the order in which one part needs another.
    pub async fn stop(self) {
        self.stop_worker.cancel();
        self.worker.stopped().await;
        self.stop_coordinator.cancel();
        self.coordinator.stopped().await;
        self.foundation.clear().await;
    }
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
    match AmqpBroker::connect(url, AmqpOptions::default()).await {
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

/// Says which database cannot be used.
pub(crate) fn unusable_database(url: &SecretUrl, error: &StoreError) -> Failure {
    let code = if error.is_transient() { Code::Unreachable } else { Code::Configuration };
    Failure::new(code, format!("cannot use the database at {url}: {}", chain(error)))
}

/// Where `up` and `--keep` keep the private database.
///
/// # Errors
/// There is no home directory.
pub(crate) fn default_data_dir() -> Result<PathBuf, Failure> {
    private_postgres::default_data_dir()
        .ok_or_else(|| Failure::new(Code::Configuration, "there is no home directory: give --data-dir"))
}
