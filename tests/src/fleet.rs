//! A fleet without browsers on a database and a virtual host of its own: real processes over real servers, whose pages
//! cost nothing (`role`, `synthetic`). Tests start, arm, kill and freeze them.

use std::process::Command;
use std::time::Duration;

use crawlify_cli::demo_site::WORKFLOW;
use crawlify_shared::config::{CRASH_POINT, SecretUrl};
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::workflow::{Limits, parse_document};
use crawlify_shared::store::Store;
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::bench::shop_crawl::start_execution;
use crate::crawl::NO_LIMITS;
use crate::invariants;
use crate::postgres::TestDatabase;
use crate::program::Program;
use crate::rabbitmq::TestVhost;
use crate::synthetic::page_address;
use crate::wait::wait_for;

/// Pages that a worker executes at once.
pub const SLOTS: usize = 8;
/// A worker unheard of for so long has lost its pages.
pub const LOST_AFTER: Duration = Duration::from_secs(6);
/// How long anything may take on a busy machine: a lost message takes 15 s, a lost connection 20 s.
const WITHIN: Duration = Duration::from_secs(120);

/// Where a fleet works. Its processes are whatever [`Fleet::start`] has started.
#[derive(Debug)]
pub struct Fleet {
    /// The program `bench-fleet`.
    program: String,
    pages: u64,
    /// For what coordinators do.
    pub store: Store,
    /// For rows.
    pub pool: PgPool,
    /// Of the pages.
    pub vhost: TestVhost,
    database: TestDatabase,
}

impl Fleet {
    /// Makes room for a fleet that crawls a site of so many pages.
    pub async fn create(program: &str, pages: u64) -> Self {
        Self::on(TestDatabase::create().await, program, pages).await
    }

    /// The same on this database.
    ///
    /// # Panics
    /// It is not there.
    pub async fn on(database: TestDatabase, program: &str, pages: u64) -> Self {
        let vhost = TestVhost::create().await;
        let store = Store::connect(&database.url(), 2).expect("the URL is valid");
        let pool = PgPool::connect(database.url().expose()).await.expect("the database is there");
        Self { program: program.to_owned(), pages, store, pool, vhost, database }
    }

    /// Starts a `coordinator` or a `worker`; `crash` is what happens to it where, if anything.
    pub fn start(&self, kind: &str, crash: Option<&str>) -> Program {
        self.start_at(kind, crash, &self.database.url(), &self.vhost.url())
    }

    /// Starts one with other addresses of the servers.
    pub fn start_at(
        &self,
        kind: &str,
        crash: Option<&str>,
        database: &SecretUrl,
        broker: &SecretUrl,
    ) -> Program {
        let mut command = self.command(kind, database, broker);
        if let Some(crash) = crash {
            command.env(CRASH_POINT, crash);
        }
        Program::start(command)
    }

    /// Starts one with further options of `bench-fleet role`.
    pub fn start_with(&self, kind: &str, options: &[&str]) -> Program {
        self.start_among(kind, options, &[])
    }

    /// Starts a worker whose pages take so long, with other addresses of the servers.
    pub fn start_slow(&self, takes_ms: u64, database: &SecretUrl, broker: &SecretUrl) -> Program {
        let mut command = self.command("worker", database, broker);
        command.args(["--takes", &takes_ms.to_string()]);
        Program::start(command)
    }

    /// The same in an environment with these variables.
    pub fn start_among(&self, kind: &str, options: &[&str], variables: &[(&str, &str)]) -> Program {
        let mut command = self.command(kind, &self.database.url(), &self.vhost.url());
        command.args(options).envs(variables.iter().copied());
        Program::start(command)
    }

    fn command(&self, kind: &str, database: &SecretUrl, broker: &SecretUrl) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["role", kind, "--slots", &SLOTS.to_string(), "--pages", &self.pages.to_string()]);
        command.args(["--lost-after", &LOST_AFTER.as_millis().to_string()]);
        command.args(["--database-url", database.expose(), "--amqp-url", broker.expose()]);
        command.env_remove("RUST_LOG").env_remove(CRASH_POINT);
        command
    }

    /// The address of the database.
    pub fn database_url(&self) -> SecretUrl {
        self.database.url()
    }

    /// Starts an execution of the demo shop's workflow from these pages.
    ///
    /// # Panics
    /// It does not start.
    pub async fn execute(&self, pages: &[u64], max_pages: Option<u64>) -> ExecutionId {
        let mut document: Value = serde_json::from_str(WORKFLOW).expect("the demo's workflow is JSON");
        let urls: Vec<_> = pages.iter().map(|page| page_address("site.test", *page)).collect();
        document["config"]["start_urls"] = json!(urls);
        // Its pages are nobody's: there is no site that could be asked.
        document["config"]["politeness"] = json!({"robots": "ignore"});
        let definition = parse_document(&document).expect("the demo's workflow is valid");
        let limits = Limits { max_pages, ..NO_LIMITS };
        start_execution(&self.store, &definition, limits).await.expect("it starts")
    }

    /// Crawls the whole site from its first page while nothing happens: what others are compared with.
    pub async fn calm_crawl(&self) -> ExecutionId {
        let (coordinator, worker) = (self.start("coordinator", None), self.start("worker", None));
        let calm = self.execute(&[1], None).await;
        self.ended(calm).await;
        stop([worker, coordinator]).await;
        invariants::assert_sound(&self.pool, calm, None).await;
        let repeated = "SELECT count(*) FROM url_queue WHERE attempt <> 1 OR status <> 'completed'";
        assert_eq!(self.number(repeated).await, 0, "nothing happened to it");
        calm
    }

    /// Waits until an execution has ended.
    pub async fn ended(&self, execution: ExecutionId) {
        wait_for("the execution ended", WITHIN, async || {
            let row = self.store.execution(execution).await;
            row.is_ok_and(|row| row.is_some_and(|row| row.status.has_ended()))
        })
        .await;
    }

    /// Waits until so many pages of the execution that runs are completed.
    pub async fn completed(&self, pages: i64) {
        let of_this_one =
            "SELECT count(*) FROM url_queue q JOIN workflow_executions e ON e.id = q.execution_id
            WHERE q.status = 'completed' AND e.status = 'running'";
        let what = format!("{pages} pages are completed");
        wait_for(&what, WITHIN, async || self.number(of_this_one).await >= pages).await;
    }

    /// The one number that a query gives.
    pub async fn number(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&self.pool).await.expect("the query is right")
    }

    /// Waits until a query gives a number that is not zero.
    pub async fn wait(&self, what: &str, query: &'static str) {
        wait_for(what, WITHIN, async || self.number(query).await != 0).await;
    }

    /// Stops all processes gently, and holds the fleet to what must be true then: every execution is sound, `execution`
    /// equals the calm one, and the broker is empty.
    ///
    /// # Panics
    /// It is not so.
    pub async fn close<const N: usize>(
        self,
        processes: [Program; N],
        execution: ExecutionId,
        calm: Option<ExecutionId>,
    ) {
        stop(processes).await;
        invariants::assert_sound(&self.pool, execution, calm).await;
        invariants::assert_ended_are_sound(&self.pool).await;
        let left = invariants::broker::leftovers(&self.vhost.url()).await.expect("the broker is there");
        invariants::assert_none(&left);
    }
}

/// Waits until a process has died of its crash point.
///
/// # Panics
/// It lives on, or ended in another way.
pub async fn died(process: Program) {
    let _ = process.end(WITHIN).await.with_code(128 + Signal::KILL.as_raw());
}

/// Stops processes gently, one after the other.
///
/// # Panics
/// One does not stop, or not well.
pub async fn stop<const N: usize>(processes: [Program; N]) {
    for process in processes {
        process.signal(Signal::TERM);
        let _ = process.end(WITHIN).await.with_code(0);
    }
}
