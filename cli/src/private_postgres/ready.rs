//! Waits until the server answers, and creates the database. Its only SQL is that one statement.

use std::path::Path;
use std::time::{Duration, Instant};

use crawlify_shared::child::ChildProcess;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, NoTls};

use super::cluster::{ROLE, failed};
use super::error::StartError;
use super::folder::Folder;

/// The database that is created.
pub(crate) const DATABASE: &str = "crawlify";

/// How long a server may say nothing at all.
const SILENCE: Duration = Duration::from_secs(30);
/// How long it may say that it is starting: stopping it while it recovers would only make it begin again.
const RECOVERY: Duration = Duration::from_secs(600);
const ONE_TRY: Duration = Duration::from_secs(10);

/// Returns when the database exists and accepts connections.
pub(crate) async fn wait(child: &ChildProcess, socket: &Path, folder: &Folder) -> Result<(), StartError> {
    let started = Instant::now();
    let mut last_answer = started;
    loop {
        let error = match connect(socket, DATABASE, None).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        match error.code() {
            Some(&SqlState::INVALID_CATALOG_NAME) => {
                return create_database(socket).await.map_err(|error| {
                    failed(format!("cannot create the database `{DATABASE}`: {error}"), folder)
                });
            }
            Some(&SqlState::CANNOT_CONNECT_NOW) if started.elapsed() < RECOVERY => {
                last_answer = Instant::now()
            }
            _ => {}
        }
        if let Some(status) = child.exit_status() {
            return Err(failed(format!("Postgres ended while starting ({status})"), folder));
        }
        if last_answer.elapsed() > SILENCE {
            let seconds = SILENCE.as_secs();
            return Err(failed(format!("Postgres does not answer for {seconds} s: {error}"), folder));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn create_database(socket: &Path) -> Result<(), tokio_postgres::Error> {
    connect(socket, "postgres", Some(&format!("CREATE DATABASE {DATABASE}"))).await
}

/// Connects, runs a statement if there is one, and disconnects.
async fn connect(socket: &Path, database: &str, sql: Option<&str>) -> Result<(), tokio_postgres::Error> {
    let mut config = Config::new();
    config.host_path(socket).user(ROLE).dbname(database).connect_timeout(ONE_TRY);
    let (client, connection) = config.connect(NoTls).await?;
    let work = async {
        match sql {
            Some(sql) => client.batch_execute(sql).await,
            None => Ok(()),
        }
    };
    // The connection does the work of the client, so both are driven here, by nobody else.
    tokio::select! {
        done = work => done,
        lost = connection => lost,
    }
}
