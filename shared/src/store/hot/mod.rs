//! The worker's hot path over deadpool-postgres: claim, record, heartbeat, the workflow of an execution, and what was
//! decided about its pages.
//!
//! Every statement stands alone: there is no `BEGIN`, so a future that is dropped half-way leaves no open
//! transaction behind in the pool.

mod claim;
mod clock;
mod contact_columns;
mod decisions;
mod definitions;
mod held;
mod known_links;
mod lease;
mod line;
mod record;
mod record_columns;
mod robots;
mod skipped_columns;
mod starts;

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadpool_postgres::{Hook, Manager, ManagerConfig, Pool, RecyclingMethod, Timeouts};
use serde_json::Value;
use tokio_postgres::NoTls;
use tokio_postgres::config::TargetSessionAttrs;

pub use claim::ClaimRequest;
pub use lease::{Heartbeat, Standing, UnrecordedPage, Vitals};
pub use robots::{FetchedRobots, StoredRobots};

use line::{Line, Silences};

use super::StoreError;
use crate::config::SecretUrl;
use crate::domain::id::{ExecutionId, WorkerId};

/// Connections of one such pool at the most: for claims, recording and the rest. The heartbeat has a pool of its own.
pub const POOL_SIZE: usize = 4;

/// Every statement here finds its rows by key. While a crawl grows, statistics are always old, and the planner would
/// take a table of a million pages for a small one and read the whole of it; so it is left no other way than by index.
/// And a statement is planned once, not for each execution: planning takes longer than executing.
const SETTINGS: &str = "-c statement_timeout=30s -c lock_timeout=10s -c enable_seqscan=off -c enable_hashjoin=off \
    -c enable_mergejoin=off -c plan_cache_mode=force_generic_plan -c jit=off";

/// A worker's connections.
#[derive(Clone, Debug)]
pub struct HotStore {
    pool: Pool,
    silences: Silences,
    worker: WorkerId,
    clock: Arc<clock::ServerClock>,
    definitions: Arc<definitions::Definitions>,
    known_links: Arc<known_links::KnownLinks>,
    /// Raised with each new connection, read by whoever remembers what was written.
    generation: Arc<AtomicU64>,
}

impl HotStore {
    /// Makes the pool; a connection is made when the first statement needs one.
    ///
    /// # Errors
    /// The URL does not parse.
    pub fn connect(url: &SecretUrl, worker: WorkerId) -> Result<Self, StoreError> {
        let mut config = tokio_postgres::Config::from_str(url.expose())
            .map_err(|error| StoreError::Unusable(error.into()))?;
        config
            .application_name("crawlify-worker")
            .connect_timeout(Duration::from_secs(5))
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(20))
            // A standby answers, and takes nothing.
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .options(SETTINGS);
        let manager =
            Manager::from_config(config, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let (definitions, known_links) =
            (Arc::<definitions::Definitions>::default(), Arc::<known_links::KnownLinks>::default());
        let clock = Arc::<clock::ServerClock>::default();
        let (of_definitions, of_links) = (Arc::clone(&definitions), Arc::clone(&known_links));
        let of_clock = Arc::clone(&clock);
        let generation = Arc::<AtomicU64>::default();
        let raised = Arc::clone(&generation);
        // Another server may be there now, without the last of what was written.
        let forget = Hook::sync_fn(move |_, _| {
            of_definitions.forget();
            of_links.forget();
            of_clock.forget();
            raised.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        let pool = Pool::builder(manager)
            .post_create(forget)
            .max_size(POOL_SIZE)
            .runtime(deadpool_postgres::Runtime::Tokio1)
            .timeouts(Timeouts {
                wait: Some(Duration::from_secs(5)),
                create: Some(Duration::from_secs(5)),
                recycle: Some(Duration::from_secs(5)),
            })
            .build()
            .map_err(|error| StoreError::Unusable(error.into()))?;
        Ok(Self { pool, silences: Silences::default(), worker, clock, definitions, known_links, generation })
    }

    /// Who writes through these connections.
    pub fn worker(&self) -> WorkerId {
        self.worker
    }

    /// Rises with each new connection: another server may be there then, without the last of what was written.
    pub fn generation(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.generation)
    }

    /// Asks the database for nothing, to see whether it lets us in.
    ///
    /// # Errors
    /// It does not; [`StoreError::is_transient`] tells whether it may later.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.client().await?.query_one("SELECT 1", &[]).await?;
        Ok(())
    }

    async fn client(&self) -> Result<Line, StoreError> {
        Ok(Line::new(self.pool.get().await?, self.silences.clone()))
    }

    /// The configuration of the workflow version that an execution runs; `None` for an unknown execution.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn workflow_config(&self, execution: ExecutionId) -> Result<Option<Value>, StoreError> {
        let client = self.client().await?;
        let statement = client
            .prepare_cached(
                "SELECT v.config
                 FROM workflow_executions e
                 JOIN workflow_versions v ON v.workflow_id = e.workflow_id AND v.version = e.version
                 WHERE e.id = $1",
            )
            .await?;
        let row = client.query_opt(&statement, &[&execution.0]).await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Ends every connection.
    pub fn close(&self) {
        self.pool.close();
    }
}
