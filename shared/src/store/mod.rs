//! The store: the only SQL. One function answers one question.
//!
//! Two libraries, each with one job. sqlx runs the migrations and every query that a person may read, checked at
//! compile time. deadpool-postgres carries the worker's hot path ([`hot`]): claim and record.

pub mod budgets;
pub mod control;
pub mod counters;
pub mod deletion;
pub mod dispatch;
pub mod error;
pub mod executions;
pub mod frontier;
pub mod heard_again;
pub mod hosts;
pub mod hot;
pub mod items;
pub mod quarantine;
pub mod render;
pub mod rescue;
pub mod retry;
pub mod schedules;
pub mod server_time;
pub mod skips;
pub mod start;
pub mod summary;
pub mod sweep;
pub mod workflows;

use std::str::FromStr;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool, Postgres};

use crate::config::SecretUrl;
pub use error::StoreError;

/// The coordinator's connections.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    /// For what is asked again and again, one thing after the other. A server plans a statement anew the first five times on
    /// each connection, and a pool takes all of its connections by turns: these are few. No request takes their turn.
    steady: PgPool,
}

/// As for the worker's connections (`hot`): statistics are old while a crawl grows, so that tables are read by index
/// wherever there is one.
const SETTINGS: [(&str, &str); 4] = [
    ("statement_timeout", "30s"),
    ("idle_in_transaction_session_timeout", "30s"),
    ("enable_seqscan", "off"),
    // What has no index costs so much in the planner's eyes then that it would be compiled.
    ("jit", "off"),
];

/// The schema, step by step.
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

/// The version of the schema that this program was written for.
pub(crate) fn schema_version() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}

/// How long a connection that is given back may take to answer, and a new one to be there.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// How long connections may take to end; one that has fallen silent does not.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);

/// Whether a connection still answers: sqlx itself asks, but waits for ever, with the connection's place in the pool, where the
/// server has fallen silent.
async fn still_answers(connection: &mut PgConnection) -> sqlx::Result<bool> {
    match tokio::time::timeout(ANSWERS_WITHIN, connection.ping()).await {
        Ok(answer) => answer.map(|()| true),
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

/// Refuses a standby, which answers and takes nothing: whoever kept to one after a failover would do nothing for as long as the
/// connection lives.
async fn takes_writes(connection: &mut PgConnection) -> sqlx::Result<()> {
    let is_standby: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(connection).await?;
    if is_standby { Err(sqlx::Error::Io(std::io::Error::other("the server is a standby"))) } else { Ok(()) }
}

/// Connections of one coordinator process at the most, beside the steady ones.
pub const POOL_SIZE: u32 = 6;
/// Connections for what is asked again and again: while one that was given back is asked whether it still answers, there is the
/// other one.
const STEADY: u32 = 2;

impl Store {
    /// Connects lazily: an unreachable database shows with the first query.
    ///
    /// # Errors
    /// The URL does not parse.
    pub fn connect(url: &SecretUrl, pool_size: u32) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url.expose())?
            .application_name("crawlify-coordinator")
            .options(SETTINGS);
        let pool = |most: u32| {
            PgPoolOptions::new()
                .max_connections(most)
                .acquire_timeout(Duration::from_secs(5))
                .max_lifetime(Duration::from_secs(900))
                .after_connect(|connection, _| Box::pin(takes_writes(connection)))
                .after_release(|connection, _| Box::pin(still_answers(connection)))
                .connect_lazy_with(options.clone())
        };
        Ok(Self { pool: pool(pool_size), steady: pool(STEADY) })
    }

    /// Brings the schema up to date; several processes may do so at once.
    ///
    /// # Errors
    /// The database is unreachable, or holds migrations that this program does not know.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        Ok(MIGRATIONS.run(&self.pool).await?)
    }

    /// Asks the database for nothing, to see whether it answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query_scalar!("SELECT 1").fetch_one(&self.pool).await?;
        Ok(())
    }

    /// Opens a connection beside the pool, to see whether the database lets us in. The pool would say only that its time is
    /// over, and not why.
    ///
    /// # Errors
    /// It does not; [`StoreError::is_transient`] tells whether it may later.
    pub async fn knock(&self) -> Result<(), StoreError> {
        let options = self.pool.connect_options();
        let knock = async {
            let mut connection = PgConnection::connect_with(&options).await?;
            takes_writes(&mut connection).await?;
            connection.close().await
        };
        match tokio::time::timeout(ANSWERS_WITHIN, knock).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()).into()),
        }
    }

    /// A connection for one transaction, closed when it is dropped. sqlx's `begin` is not to be dropped half-way: a
    /// connection of the pool would go back with an open transaction, which whoever comes next is caught in
    /// (<https://github.com/transact-rs/sqlx/issues/4385>). Requests are dropped when their clients go.
    async fn connection_for_a_transaction(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        connection.close_on_drop();
        Ok(connection)
    }

    /// Ends every connection and waits for them, but not for those whose server has fallen silent.
    pub async fn close(&self) {
        let closed = async { tokio::join!(self.pool.close(), self.steady.close()) };
        if tokio::time::timeout(CLOSED_WITHIN, closed).await.is_err() {
            tracing::info!("connections to the database do not end, and are left to it");
        }
    }
}
