//! Postgres and RabbitMQ under the fleet: killed as a crash does it, and started again on what they had written.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use crawlify_cli::private_postgres::{Options, PrivatePostgres};
use crawlify_shared::config::SecretUrl;
use crawlify_shared::store::Store;
use futures_util::FutureExt;
use rustix::process::{Pid, Signal};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::members::ComesBack;
use crate::rabbitmq::PrivateRabbitMq;
use crate::scratch::Scratch;

/// How long a killed Postgres may take to be back: its own processes must have ended, and its log must be read.
const BACK_WITHIN: Duration = Duration::from_secs(60);
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// Both servers. Each is locked while it is killed and started.
#[derive(Debug)]
pub(super) struct Servers {
    /// `None` while it is not there.
    postgres: Arc<Mutex<Option<PrivatePostgres>>>,
    rabbit: Arc<Mutex<PrivateRabbitMq>>,
    options: Options,
    /// The same over all lives of the server.
    pub(super) database_url: SecretUrl,
    pub(super) broker_url: SecretUrl,
}

impl Servers {
    /// Starts both, with an empty database of the current schema that keeps what it confirms.
    pub(super) async fn start(scratch: &Scratch) -> Result<Self> {
        let options = Options { data_dir: Some(scratch.path("postgres")), ..Options::default() };
        let (postgres, rabbit) = tokio::join!(PrivatePostgres::start(&options), PrivateRabbitMq::start());
        let (postgres, rabbit) = (postgres?, rabbit?);
        let (database_url, broker_url) = (postgres.url(), rabbit.url());
        let store = Store::connect(&database_url, 1)?;
        store.migrate().await?;
        store.close().await;
        Ok(Self {
            postgres: Arc::new(Mutex::new(Some(postgres))),
            rabbit: Arc::new(Mutex::new(rabbit)),
            options,
            database_url,
            broker_url,
        })
    }

    /// Kills RabbitMQ and starts it again; `None` while that happens already.
    pub(super) fn kill_broker(&self) -> Option<ComesBack> {
        let mut rabbit = Arc::clone(&self.rabbit).try_lock_owned().ok()?;
        Some(
            async move {
                rabbit.kill().await;
                rabbit.restart().await
            }
            .boxed(),
        )
    }

    /// Kills Postgres' first process, at which the others end by themselves, and starts it again; `None` while that
    /// happens already.
    pub(super) fn kill_database(&self) -> Option<ComesBack> {
        let mut postgres = Arc::clone(&self.postgres).try_lock_owned().ok()?;
        let running = postgres.take()?;
        let options = self.options.clone();
        Some(
            async move {
                let pid = first_process(running.folder()).context("Postgres has written its process down")?;
                rustix::process::kill_process(pid, Signal::KILL)?;
                // It sees that the server is gone, and waits for nothing.
                drop(running);
                let killed = Instant::now();
                *postgres = loop {
                    match PrivatePostgres::start(&options).await {
                        Ok(started) => break Some(started),
                        // A process of the old one holds its memory still.
                        Err(_) if killed.elapsed() < BACK_WITHIN => tokio::time::sleep(BETWEEN_TRIES).await,
                        Err(error) => return Err(error).context("Postgres does not start after a crash"),
                    }
                };
                Ok(())
            }
            .boxed(),
        )
    }

    /// Stops RabbitMQ gently and starts it again: 3.10 forgets a quorum queue that was made seconds before a crash.
    pub(super) async fn settle_broker(&self) -> Result<()> {
        self.rabbit.lock().await.restart().await
    }

    /// Ends both.
    pub(super) async fn stop(self) {
        self.rabbit.lock().await.kill().await;
        if let Some(postgres) = self.postgres.lock().await.take() {
            postgres.stop().await;
        }
    }
}

/// The server's first process, as its pid file in the folder of its data has it.
fn first_process(folder: &Path) -> Option<Pid> {
    let majors = std::fs::read_dir(folder.join("pg")).ok()?.flatten();
    let mut files = majors.map(|major| major.path().join("data/postmaster.pid"));
    let text = files.find_map(|file| std::fs::read_to_string(file).ok())?;
    Pid::from_raw(text.lines().next()?.trim().parse().ok()?)
}
