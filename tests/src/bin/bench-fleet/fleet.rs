//! A fleet on this machine: a durable Postgres, a RabbitMQ, one coordinator and some workers.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crawlify_shared::child::ChildProcess;
use crawlify_shared::config::SecretUrl;
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::workflow::{Limits, parse_document};
use crawlify_shared::store::Store;
use crawlify_shared::store::executions::ExecutionStatus;
use harness::bench::shop_crawl::{DurablePostgres, start_execution};
use harness::rabbitmq::PrivateRabbitMq;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};
use tokio_util::task::TaskTracker;

/// How long a process may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// How long a bounded execution may take.
const ENDS_WITHIN: Duration = Duration::from_secs(300);

/// Everything that runs.
pub(crate) struct Fleet {
    pub(crate) store: Store,
    pub(crate) client: Client,
    /// With their names.
    pub(crate) processes: Vec<(String, ChildProcess)>,
    postgres: DurablePostgres,
    rabbit: Option<PrivateRabbitMq>,
    connections: TaskTracker,
}

impl Fleet {
    /// Starts Postgres, with the current schema, and nothing else.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) async fn without_processes() -> Result<Self> {
        let postgres = DurablePostgres::start().await?;
        let url = postgres.server().url();
        let store = Store::connect(&url, 6)?;
        store.migrate().await?;
        store.create_partitions(1).await?;
        let (client, connection) = tokio_postgres::connect(url.expose(), NoTls).await?;
        let connections = TaskTracker::new();
        connections.spawn(connection);
        connections.close();
        Ok(Self { store, client, processes: Vec::new(), postgres, rabbit: None, connections })
    }

    /// Changes settings of Postgres, each `NAME=VALUE`.
    ///
    /// # Errors
    /// Postgres does not know one.
    pub(crate) async fn set(&self, settings: &[String]) -> Result<()> {
        for setting in settings {
            let (name, value) = setting.split_once('=').context("a setting is NAME=VALUE")?;
            self.client.batch_execute(&format!("ALTER SYSTEM SET {name} = '{value}'")).await?;
        }
        self.client.batch_execute("SELECT pg_reload_conf()").await?;
        Ok(())
    }

    /// Takes these changes back.
    ///
    /// # Errors
    /// Postgres does not know one.
    pub(crate) async fn unset(&self, settings: &[String]) -> Result<()> {
        for setting in settings {
            let name = setting.split('=').next().unwrap_or(setting);
            self.client.batch_execute(&format!("ALTER SYSTEM RESET {name}")).await?;
        }
        self.client.batch_execute("SELECT pg_reload_conf()").await?;
        Ok(())
    }

    /// Has Postgres finish what rows that were written at once leave to do: no part of what is measured.
    ///
    /// # Errors
    /// Postgres does not answer.
    pub(crate) async fn checkpoint(&self) -> Result<()> {
        Ok(self.client.batch_execute("CHECKPOINT").await?)
    }

    /// Starts RabbitMQ too, a coordinator, and workers with so many slots each; `ask`: they ask for pages over HTTP.
    ///
    /// # Errors
    /// Something does not start.
    pub(crate) async fn start(workers: usize, slots: usize, ask: bool) -> Result<Self> {
        Self::start_with(workers, slots, &[], if ask { &["--ask"] } else { &[] }).await
    }

    /// The same, with further options of their roles.
    ///
    /// # Errors
    /// Something does not start.
    pub(crate) async fn start_with(
        workers: usize,
        slots: usize,
        of_coordinator: &[&str],
        of_workers: &[&str],
    ) -> Result<Self> {
        let mut fleet = Self::without_processes().await?;
        fleet.run(workers, slots, of_coordinator, of_workers).await?;
        Ok(fleet)
    }

    /// Starts what is missing: RabbitMQ, a coordinator and workers.
    ///
    /// # Errors
    /// Something does not start.
    pub(crate) async fn run(
        &mut self,
        workers: usize,
        slots: usize,
        of_coordinator: &[&str],
        of_workers: &[&str],
    ) -> Result<()> {
        self.rabbit = Some(PrivateRabbitMq::start().await?);
        self.spawn("coordinator", slots, of_coordinator)?;
        for number in 1..=workers {
            self.spawn(&format!("worker {number}"), slots, of_workers)?;
        }
        let count = "SELECT count(*) FROM workers WHERE status = 'ready'";
        while self.number(count).await? < workers as i64 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    fn spawn(&mut self, name: &str, slots: usize, options: &[&str]) -> Result<()> {
        let rabbit = self.rabbit.as_ref().context("RabbitMQ runs")?;
        let kind = name.split(' ').next().unwrap_or(name);
        let log = std::fs::File::create(log_of(name))?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["role", kind, "--slots", &slots.to_string()])
            .args([
                "--database-url",
                self.postgres.server().url().expose(),
                "--amqp-url",
                rabbit.url().expose(),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .args(options);
        let child = ChildProcess::spawn(command, None, Signal::KILL)?;
        self.processes.push((name.to_owned(), child));
        Ok(())
    }

    /// Starts an execution of the demo shop's workflow from these pages.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn execute(&self, start_urls: &[String], limits: Limits) -> Result<ExecutionId> {
        let document: Value = serde_json::from_str(crawlify_cli::demo_site::WORKFLOW)?;
        let mut document = document;
        document["config"]["start_urls"] = json!(start_urls);
        // Nobody answers there, or only to pages.
        document["config"]["politeness"] = json!({"robots": "ignore"});
        let definition = parse_document(&document).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
        start_execution(&self.store, &definition, limits).await
    }

    /// Waits until an execution is completed.
    ///
    /// # Errors
    /// It is not, for too long.
    pub(crate) async fn completed(&self, execution: ExecutionId) -> Result<()> {
        let begun = Instant::now();
        loop {
            let row = self.store.execution(execution).await?;
            if row.is_some_and(|row| row.status == ExecutionStatus::Completed) {
                return Ok(());
            }
            ensure!(begun.elapsed() < ENDS_WITHIN, "the execution does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Where Postgres is.
    pub(crate) fn database_url(&self) -> SecretUrl {
        self.postgres.server().url()
    }

    /// The one number that a query gives.
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn number(&self, query: &str) -> Result<i64> {
        Ok(self.client.query_one(query, &[]).await?.get(0))
    }

    /// Postgres' and RabbitMQ's processes are below this one, like the fleet's.
    pub(crate) async fn stop(mut self) {
        for (_, process) in &mut self.processes {
            process.stop(Signal::TERM, STOP_WITHIN).await;
        }
        self.store.close().await;
        drop(self.client);
        self.connections.wait().await;
        if let Some(mut rabbit) = self.rabbit.take() {
            rabbit.stop().await;
        }
        self.postgres.stop().await;
    }
}

/// Where a process writes its log.
fn log_of(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("bench-fleet-{}.log", name.replace(' ', "-")))
}
