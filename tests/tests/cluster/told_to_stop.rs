//! A worker that is told to stop (SIGTERM) while pages are in its browser, with real processes and a real Chrome: pages that end
//! before the drain deadline are ended, others go back, nobody is charged, and nothing of the worker is left. Where its servers are
//! silent, it ends in time all the same.

use std::time::{Duration, Instant};

use crawlify_shared::config::SecretUrl;
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::workflow::parse_document;
use crawlify_shared::store::Store;
use crawlify_shared::store::control::{CancelMode, Controlled};
use harness::bench::shop_crawl::start_execution;
use harness::chain_site::ChainSite;
use harness::crawl::NO_LIMITS;
use harness::fault_proxy::{FaultProxy, Mode};
use harness::fleet::stop;
use harness::invariants;
use harness::postgres::TestDatabase;
use harness::processes::wait_until_gone;
use harness::program::{Ended, Program, crawlify};
use harness::rabbitmq::TestVhost;
use harness::scratch::Scratch;
use harness::wait::wait_for;
use rustix::process::Signal;
use serde_json::json;
use uuid::Uuid;

use super::WITHIN;
use crate::CRAWLIFY;
use crate::fleet::{field, held_by};
use crate::recorded::Recorded;

/// Pages beside the first one: two workers with two slots need some eight seconds for them.
const LEAVES: usize = 32;
/// How long a page takes at least that a worker can end.
const SHORT: Duration = Duration::from_secs(1);
/// How long one takes that it cannot.
const LONG: Duration = Duration::from_secs(60);
/// When a worker has ended whose pages are short: one of them may have to wait for the tab of another, which makes two seconds;
/// the rest is for the end of its browser, on a busy machine. Half of the drain deadline (20 s), so that it is seen to wait for
/// its pages, and not for that.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// The drain deadline of a worker that does not get rid of its pages.
const DRAIN: Duration = Duration::from_secs(3);
/// How long it may take to give them back.
const GIVES_BACK_WITHIN: Duration = Duration::from_secs(2);
/// How long its browser may take to be gone, with the profile, on a busy machine: the worker waits for that before it ends.
const BROWSER_ENDS_WITHIN: Duration = Duration::from_secs(3);
/// How long after the drain deadline a worker has ended whatever is away, as documented, and two seconds for a busy machine.
const ENDS_ANYWAY_WITHIN: Duration = Duration::from_secs(7 + 2);

const COMPLETED: &str = "SELECT count(*) FROM url_queue WHERE execution_id = $1 AND status = 'completed'";
const CHARGED: &str = "SELECT sum(charged + site_faults + rate_limit_faults + unavailable_faults + proxy_faults + browser_faults
        + worker_faults)::int8
    FROM url_queue WHERE execution_id = $1";

/// Where a test's processes meet.
struct Servers {
    /// The coordinator's. Each worker has one of its own, where only it could leave something.
    scratch: Scratch,
    database: TestDatabase,
    vhost: TestVhost,
}

/// A worker that is ready.
struct Worker {
    program: Program,
    id: Uuid,
    scratch: Scratch,
}

#[tokio::test]
async fn a_worker_that_is_told_to_stop_with_pages_in_its_browser_ends_them_or_gives_them_back_in_time() {
    let (servers, site) = (Servers::create().await, ChainSite::start(LEAVES).await);
    let coordinator = servers.coordinator().await;
    let (goes, stays) = tokio::join!(servers.worker(&[]), servers.worker(&[]));
    let recorded = servers.execute(&[site.url("/")], SHORT).await;
    wait_for("some pages are completed", WITHIN, async || recorded.number(COMPLETED).await >= 4).await;
    wait_for("it has taken a page just now", WITHIN, async || goes.has_just_taken_a_page(&recorded).await)
        .await;
    let told = Instant::now();
    goes.program.signal(Signal::TERM);
    let in_hand = held_by(goes.id, &recorded.pool).await;
    assert!(!in_hand.is_empty(), "it had no page when it was told to stop");

    let id = goes.id;
    let (took, ended) = goes.ended(told).await;
    assert!(took <= ENDS_WITHIN, "it took {took:?}:\n{}", ended.stderr);
    assert!(held_by(id, &recorded.pool).await.is_empty(), "it holds pages after its end");
    let completed: i64 =
        sqlx::query_scalar("SELECT count(*) FROM url_queue WHERE id = ANY($1) AND status = 'completed'")
            .bind(&in_hand)
            .fetch_one(&recorded.pool)
            .await
            .unwrap();
    assert_eq!(completed, in_hand.len() as i64, "there was time for all of them:\n{}", ended.stderr);

    wait_for("the execution ended", WITHIN, async || recorded.statuses().await.0 != "running").await;
    let (status, pages) = recorded.statuses().await;
    assert_eq!((status.as_str(), pages), ("completed", [("completed".to_owned(), LEAVES as i64 + 1)].into()));
    let repeated = "SELECT count(*) FROM url_queue WHERE execution_id = $1 AND attempt <> 1";
    assert_eq!(recorded.number(repeated).await, 0);
    assert_eq!(recorded.number(CHARGED).await, 0);
    assert_eq!(site.log().len(), LEAVES + 1, "every page was asked for once");
    recorded.assert_is_sound().await;
    stop([stays.program, coordinator]).await;
    invariants::assert_none(&invariants::broker::leftovers(&servers.vhost.url()).await.unwrap());
    assert_eq!(stays.scratch.leftovers(), [""; 0]);
    assert_eq!(servers.scratch.leftovers(), [""; 0]);
}

/// There is no other worker, which would take the pages at once.
#[tokio::test]
async fn a_worker_whose_pages_outlast_the_drain_deadline_gives_them_back_uncharged() {
    let (servers, site) = (Servers::create().await, ChainSite::start(0).await);
    let coordinator = servers.coordinator().await;
    let worker = servers.worker(&["--drain-deadline", &DRAIN.as_secs().to_string()]).await;
    // One is never answered; of the other a node waits.
    let recorded = servers.execute(&[site.url("/never"), site.url("/leaf/1")], LONG).await;
    wait_for("both pages are in its browser", WITHIN, async || {
        site.log().len() >= 2 && held_by(worker.id, &recorded.pool).await.len() == 2
    })
    .await;
    let told = Instant::now();
    worker.program.signal(Signal::TERM);

    let (took, ended) = worker.ended(told).await;
    let ended = ended.saying(&["the drain deadline has passed: giving pages back"]);
    let latest = DRAIN + GIVES_BACK_WITHIN + BROWSER_ENDS_WITHIN;
    assert!((DRAIN..=latest).contains(&took), "it took {took:?}:\n{}", ended.stderr);
    // The coordinator may offer them to others already.
    let unharmed = "SELECT count(*) FROM url_queue
        WHERE execution_id = $1 AND status IN ('pending', 'queued') AND attempt = 0
            AND locked_by IS NULL AND error_class IS NULL";
    assert_eq!(recorded.number(unharmed).await, 2, "{}", ended.stderr);
    assert_eq!(recorded.number(CHARGED).await, 0);

    let store = Store::connect(&servers.database.url(), 2).unwrap();
    let cancelled = store.cancel_execution(ExecutionId(recorded.execution), CancelMode::Graceful, None).await;
    assert!(matches!(cancelled, Ok(Controlled::Done(_))), "{cancelled:?}");
    store.close().await;
    let swept = "SELECT count(*) FROM url_queue WHERE execution_id = $1 AND status = 'cancelled'";
    wait_for("its pages are cancelled", WITHIN, async || recorded.number(swept).await == 2).await;
    assert_eq!(recorded.number(CHARGED).await, 0);
    recorded.assert_is_sound().await;
    // The broker may hold messages of the pages: there is no worker that would forget them.
    stop([coordinator]).await;
    assert_eq!(servers.scratch.leftovers(), [""; 0]);
}

/// Neither its database nor its broker answers it any more, nor ends a connection: each wait is as long as it can be.
#[tokio::test]
async fn a_worker_whose_servers_fall_silent_ends_in_time_and_another_one_completes_its_pages() {
    let (servers, site) = (Servers::create().await, ChainSite::start(8).await);
    let (postgres, database_url) = FaultProxy::before_postgres(&servers.database.url()).await;
    let (rabbit, amqp_url) = FaultProxy::before_rabbitmq(&servers.vhost.url()).await;
    let coordinator = servers.coordinator().await;
    let drain = DRAIN.as_secs().to_string();
    let goes = Worker::start(&database_url, &amqp_url, &["--drain-deadline", &drain]).await;
    let recorded = servers.execute(&[site.url("/")], SHORT).await;
    wait_for("some pages are completed", WITHIN, async || recorded.number(COMPLETED).await >= 2).await;
    wait_for("it has taken a page just now", WITHIN, async || goes.has_just_taken_a_page(&recorded).await)
        .await;
    postgres.set(Mode::BlackHole);
    rabbit.set(Mode::BlackHole);
    let told = Instant::now();
    goes.program.signal(Signal::TERM);
    assert!(!held_by(goes.id, &recorded.pool).await.is_empty(), "it had no page when it was told to stop");
    let (took, ended) = goes.ended(told).await;
    assert!((DRAIN..=DRAIN + ENDS_ANYWAY_WITHIN).contains(&took), "it took {took:?}:\n{}", ended.stderr);

    // What was swallowed arrives, long after its sender has gone.
    postgres.set(Mode::Pass);
    rabbit.set(Mode::Pass);
    let stays = servers.worker(&[]).await;
    wait_for("the execution ended", WITHIN, async || recorded.statuses().await.0 != "running").await;
    let (status, pages) = recorded.statuses().await;
    assert_eq!((status.as_str(), pages), ("completed", [("completed".to_owned(), 9)].into()));
    let items = "SELECT count(*) FROM extracted_items WHERE execution_id = $1";
    assert_eq!(recorded.number(items).await, 9, "no page was recorded twice");
    recorded.assert_is_sound().await;
    stop([stays.program, coordinator]).await;
    invariants::assert_none(&invariants::broker::leftovers(&servers.vhost.url()).await.unwrap());
}

impl Servers {
    async fn create() -> Self {
        let (database, vhost) = (TestDatabase::create().await, TestVhost::create().await);
        Self { scratch: Scratch::create(), database, vhost }
    }

    async fn coordinator(&self) -> Program {
        let arguments = ["coordinator", "--port", "0"];
        let mut program = start(&self.scratch, &arguments, &self.database.url(), &self.vhost.url());
        program.says("the coordinator is ready", WITHIN).await;
        program
    }

    /// Starts a worker with further options, and waits until it is ready.
    async fn worker(&self, options: &[&str]) -> Worker {
        Worker::start(&self.database.url(), &self.vhost.url(), options).await
    }

    /// Starts an execution from these pages that follows every link, and waits so long in each page before.
    async fn execute(&self, start_urls: &[String], pause: Duration) -> Recorded {
        let milliseconds = u64::try_from(pause.as_millis()).unwrap();
        let document = json!({"name": "Pauses", "config": {
            "start_urls": start_urls,
            "url_discovery": [
                {"id": "pause", "type": "wait", "params": {"duration": milliseconds}},
                {"id": "links", "type": "extract_links", "params": {"selector": "a"}},
            ],
            "data_extraction": [
                {"id": "title", "type": "extract", "params": {"selector": "h1", "type": "text"}, "output_key": "title"}
            ],
        }});
        let definition = parse_document(&document).unwrap();
        let store = Store::connect(&self.database.url(), 2).unwrap();
        start_execution(&store, &definition, NO_LIMITS).await.unwrap();
        store.close().await;
        Recorded::open(self.database.url()).await
    }
}

fn start(scratch: &Scratch, arguments: &[&str], database: &SecretUrl, broker: &SecretUrl) -> Program {
    let mut command = crawlify(CRAWLIFY, scratch);
    command.args(arguments).args(["--database-url", database.expose(), "--amqp-url", broker.expose()]);
    Program::start(command)
}

impl Worker {
    /// Starts one that finds its servers at these addresses, and waits until it is ready.
    async fn start(database: &SecretUrl, broker: &SecretUrl, options: &[&str]) -> Self {
        let scratch = Scratch::create();
        let arguments = [&["worker", "--slots", "2", "--admin-port", "0"] as &[&str], options].concat();
        let mut program = start(&scratch, &arguments, database, broker);
        let line = program.says("the worker is ready", WITHIN).await;
        Self { program, id: field(&line, "worker.id").parse().unwrap(), scratch }
    }

    /// Whether a page of its has most of its second still before it.
    async fn has_just_taken_a_page(&self, recorded: &Recorded) -> bool {
        let taken: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM url_queue
             WHERE status = 'processing' AND locked_by = $1 AND locked_at > now() - interval '300 milliseconds'",
        )
        .bind(self.id)
        .fetch_one(&recorded.pool)
        .await
        .unwrap();
        taken > 0
    }

    /// Waits for its end, which must be a good one with nothing left behind. Answers how long after `told` it came, too.
    async fn ended(self, told: Instant) -> (Duration, Ended) {
        let (ended, family) = self.program.end_with_family(WITHIN).await;
        let took = told.elapsed();
        let ended = ended.with_code(0);
        let is_browser = |name: &str| ["chrom", "headless"].iter().any(|part| name.contains(part));
        assert!(family.iter().any(|process| is_browser(&process.name)), "it had no browser: {family:?}");
        wait_until_gone(&family, Duration::from_secs(5)).await;
        assert_eq!(self.scratch.leftovers(), [""; 0]);
        (took, ended)
    }
}
