//! A worker with a real Chrome. One of its slots has pages that misbehave, one after the other, and the other slot a crawl
//! of a site that behaves, in the same browser: the former give their slot back when their time is over, and the latter
//! loses nothing.

mod site;

use std::sync::Arc;
use std::time::Duration;

use crawlify_coordinator::Coordinator;
use crawlify_shared::broker::{AmqpBroker, AmqpOptions, Broker};
use crawlify_shared::config::LeaseTimes;
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::Store;
use crawlify_shared::telemetry;
use crawlify_worker::Worker;
use crawlify_worker::chrome::driver::Driver;
use crawlify_worker::chrome::{ChromeDriver, ChromeOptions};
use crawlify_worker::egress::{Egress, EgressOptions};
use harness::crawl::{Crawl, NO_LIMITS};
use harness::invariants;
use harness::rabbitmq::TestVhost;
use harness::wait::wait_for;
use prometheus::Registry;
use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use site::{GoodSite, PAGES, hostile_site};

const SLOTS: usize = 2;
/// How long a page may take, from its navigation to its end.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long after that its slot is to be free again, on a machine that has nothing else to do.
const FREE_WITHIN: Duration = Duration::from_secs(1);
/// How much more is let pass, as other tests run beside this one. What does not end by itself keeps its slot for 10 s.
const BESIDE_OTHER_TESTS: Duration = Duration::from_secs(4);
/// Pages of the crawl beside them after the last one that misbehaves.
const AFTERWARDS: usize = 5;
/// How long each part of the test may take at most: every page for itself is bounded.
const WITHIN: Duration = Duration::from_secs(200);

/// The other slot is left to the other execution.
const ONE_AT_A_TIME: Limits = Limits { host_concurrency: Some(1), ..NO_LIMITS };

/// Notes each attempt, from the claim to the record. A page is given its slot's tab after the one, and has left its slot
/// before the other: so no slot was a page's for longer.
const NOTE_ATTEMPTS: &str = "
    CREATE TABLE attempts (page_id uuid NOT NULL, claimed_at timestamptz NOT NULL, recorded_at timestamptz NOT NULL);
    CREATE FUNCTION note_attempt() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO attempts VALUES (OLD.id, OLD.locked_at, clock_timestamp());
        RETURN NULL;
    END $$;
    CREATE TRIGGER note_attempt AFTER UPDATE ON url_queue FOR EACH ROW
        WHEN (OLD.status = 'processing' AND NEW.status <> 'processing') EXECUTE FUNCTION note_attempt();";
/// One more failure is one too many: each page is seen once, and nobody waits for its other attempts.
const LAST_ATTEMPT: &str = "UPDATE url_queue SET charged = 3, site_faults = 3";
/// With how many pages of the other execution were claimed and completed meanwhile.
const ATTEMPTS: &str = "
    SELECT q.url, COALESCE(q.error_class, q.status), extract(epoch FROM a.recorded_at - a.claimed_at)::float8,
        (SELECT count(*) FROM attempts o JOIN url_queue n ON n.id = o.page_id
         WHERE n.execution_id = $2 AND n.status = 'completed'
            AND o.claimed_at >= a.claimed_at AND o.recorded_at <= a.recorded_at)
    FROM attempts a JOIN url_queue q ON q.id = a.page_id
    WHERE q.execution_id = $1 ORDER BY a.claimed_at";
const ENDS: &str = "
    SELECT DISTINCT concat_ws(' ', status, attempt, failed_nodes, charged + site_faults + browser_faults + worker_faults)
    FROM url_queue WHERE execution_id = $1";
const TITLES: &str =
    "SELECT data->>'title' FROM extracted_items WHERE execution_id = $1 ORDER BY length(url), url";

/// An attempt of a page that misbehaves.
struct Attempt {
    path: String,
    /// `completed`, or its error class.
    end: String,
    /// How long it had its slot at most.
    seconds: f64,
    /// Pages of the other crawl that were executed meanwhile.
    beside: i64,
}

/// A coordinator and a worker, with what they work with.
struct Running {
    vhost: TestVhost,
    broker: Arc<AmqpBroker>,
    egress: Arc<Egress>,
    driver: Arc<ChromeDriver>,
    coordinator: Coordinator,
    worker: Worker,
    /// The worker's metrics.
    registry: Registry,
    stop_coordinator: CancellationToken,
    stop_worker: CancellationToken,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_that_misbehave_give_their_slot_back_in_time_and_a_crawl_beside_them_loses_nothing() {
    let (hostile, good) = (hostile_site().await, GoodSite::start().await);
    let urls: Vec<String> = PAGES.iter().map(|(path, _)| hostile.url(path)).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let title =
        json!({"id": "title", "type": "extract", "params": {"selector": "h1"}, "output_key": "title"});
    let config = json!({
        "start_urls": urls, "max_depth": 1,
        // There is time to misbehave in after the load as well.
        "url_discovery": [{"id": "pause", "type": "wait", "params": {"duration": 1000}}],
        "data_extraction": [title],
    });
    let crawl = Crawl::of(&config, ONE_AT_A_TIME, &urls).await;
    crawl.change(NOTE_ATTEMPTS).await;
    crawl.change(LAST_ATTEMPT).await;
    let first = good.first();
    let config = json!({
        "start_urls": [first], "max_depth": 1_000_000, "traps": false,
        "url_discovery": [{"id": "links", "type": "extract_links", "params": {"selector": "a"}}],
        "data_extraction": [title],
    });
    let beside = crawl.another_of(&config, NO_LIMITS, &[first.as_str()]).await;
    let running = Running::start(&crawl).await;
    let browser = running.driver.browser_pid();
    ended(&crawl, crawl.execution).await;
    let pages = good.end_after(AFTERWARDS);
    ended(&crawl, beside).await;
    let attempts = attempts(&crawl, &hostile.url(""), beside).await;
    for Attempt { path, end, seconds, beside } in &attempts {
        eprintln!("{path}: {end} after {seconds:.2} s, {beside} pages beside it");
    }
    let longest = attempts.iter().map(|attempt| attempt.seconds).fold(0.0, f64::max);
    eprintln!("no page had its slot for longer than {longest:.2} s, with a deadline of {DEADLINE:?}");
    assert!(browser.is_some() && running.driver.browser_pid() == browser, "it is the same browser");
    running.stop().await;

    let mut paths: Vec<&str> = attempts.iter().map(|attempt| attempt.path.as_str()).collect();
    let mut expected = PAGES.map(|(path, _)| path);
    paths.sort_unstable();
    expected.sort_unstable();
    assert_eq!(paths, expected, "each was tried once");
    for attempt in &attempts {
        attempt.assert_is_as_it_must_be();
    }

    assert_eq!(texts(&crawl, ENDS, beside).await, ["completed 1 0 0"]);
    let titles: Vec<String> = (1..=pages).map(|number| format!("page {number}")).collect();
    assert_eq!(texts(&crawl, TITLES, beside).await, titles);
    let paths: Vec<String> = (1..=pages).map(|number| format!("/page/{number}")).collect();
    assert_eq!(good.asked_for(), paths, "each was asked for once");
    invariants::assert_ended_are_sound(&crawl.pool).await;
}

impl Attempt {
    fn assert_is_as_it_must_be(&self) {
        let Self { path, end, seconds, beside } = self;
        let (_, ends) = PAGES.iter().find(|(known, _)| known == path).unwrap();
        assert!(ends.contains(&end.as_str()), "{path} ended as {end}, not as one of {ends:?}");
        let most = DEADLINE + FREE_WITHIN + BESIDE_OTHER_TESTS;
        assert!(*seconds <= most.as_secs_f64(), "{path} had its slot for {seconds} s");
        // In so long, at least one page of the other crawl began and ended.
        let had_all_its_time = *seconds >= DEADLINE.as_secs_f64();
        assert!(*beside > 0 || !had_all_its_time, "nothing went on beside {path} in {seconds} s");
    }
}

impl Running {
    async fn start(crawl: &Crawl) -> Self {
        let vhost = TestVhost::create().await;
        let lease = LeaseTimes { page_deadline: DEADLINE, ..LeaseTimes::default() };
        let broker = Arc::new(AmqpBroker::connect(&vhost.url(), AmqpOptions::default()).await.unwrap());
        let (stop_coordinator, stop_worker) = (CancellationToken::new(), CancellationToken::new());
        let coordinator = crawlify_coordinator::start(
            crawlify_coordinator::Config { listen: None, lease, only: None, broker_forgets: false },
            Store::connect(&crawl.database.url(), 8).unwrap(),
            broker.clone(),
            telemetry::registry(),
            stop_coordinator.clone(),
        )
        .await
        .unwrap();
        let egress = Egress::start(EgressOptions::allowing(&["127.0.0.1", "127.0.0.3"]).unwrap()).unwrap();
        let options = ChromeOptions { egress: Some(egress.clone()), ..ChromeOptions::for_slots(SLOTS) };
        let driver = ChromeDriver::start(options).await.unwrap();
        let config = crawlify_worker::Config {
            name: "test".to_owned(),
            slots: SLOTS,
            database_url: crawl.database.url(),
            admin: None,
            lease,
            newer_within: crawlify_worker::NEWER_WITHIN,
            drain_deadline: Duration::from_secs(2),
            egress: egress.clone(),
            recorded: Arc::clone(&coordinator.frontier_changed),
        };
        let registry = telemetry::registry();
        let worker = crawlify_worker::start(
            config,
            broker.clone(),
            driver.clone(),
            registry.clone(),
            stop_worker.clone(),
        )
        .await
        .unwrap();
        Self { vhost, broker, egress, driver, coordinator, worker, registry, stop_coordinator, stop_worker }
    }

    /// Stops everything. No slot is taken, none had to be freed by force, and no message is left.
    async fn stop(self) {
        let metrics = telemetry::encode(&self.registry).unwrap();
        for line in ["crawlify_worker_slots_busy 0", "crawlify_pages_overdue_total 0"] {
            assert!(metrics.lines().any(|exported| exported == line), "{line} is not among\n{metrics}");
        }
        self.stop_worker.cancel();
        timeout(WITHIN, self.worker.stopped()).await.expect("the worker stops");
        self.stop_coordinator.cancel();
        timeout(WITHIN, self.coordinator.stopped()).await.expect("the coordinator stops");
        self.driver.close().await;
        self.egress.close().await;
        self.broker.close().await;
        invariants::assert_none(&invariants::broker::leftovers(&self.vhost.url()).await.unwrap());
    }
}

async fn ended(crawl: &Crawl, execution: ExecutionId) {
    wait_for("the execution ended", WITHIN, async || {
        let row = crawl.store.execution(execution).await;
        row.is_ok_and(|row| row.is_some_and(|row| row.status.has_ended()))
    })
    .await;
}

/// The attempts of pages of this origin, in order, beside an execution.
async fn attempts(crawl: &Crawl, origin: &str, beside: ExecutionId) -> Vec<Attempt> {
    let rows: Vec<(String, String, f64, i64)> =
        sqlx::query_as(ATTEMPTS).bind(crawl.execution.0).bind(beside.0).fetch_all(&crawl.pool).await.unwrap();
    let attempt = |(url, end, seconds, beside): (String, String, f64, i64)| {
        let path = url.strip_prefix(origin).expect("it is a page of the site").to_owned();
        Attempt { path, end, seconds, beside }
    };
    rows.into_iter().map(attempt).collect()
}

async fn texts(crawl: &Crawl, query: &'static str, of: ExecutionId) -> Vec<String> {
    sqlx::query_scalar(query).bind(of.0).fetch_all(&crawl.pool).await.unwrap()
}
