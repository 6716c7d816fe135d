//! Whole workers, whose pages no browser executes, on one frontier: how executions share them, and limits that are exact
//! however many there are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crawlify_cli::private_postgres::{Options, PrivatePostgres};
use crawlify_coordinator::Coordinator;
use crawlify_shared::broker::InProcessBroker;
use crawlify_shared::config::LeaseTimes;
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::Store;
use crawlify_shared::store::control::LimitChanges;
use crawlify_shared::telemetry;
use crawlify_worker::Worker;
use crawlify_worker::egress::{Egress, EgressOptions};
use futures_util::future::join_all;
use harness::bench::stalls::Watch;
use harness::crawl::{Crawl, NO_LIMITS, small_workflow};
use harness::paced_site::PacedSite;
use harness::postgres::TestDatabase;
use harness::synthetic::{Site, SyntheticDriver, page_address};
use harness::wait::wait_for;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// How long anything may take on a busy machine.
const WITHIN: Duration = Duration::from_secs(120);

/// A crawl's coordinators and workers.
struct Fleet {
    coordinators: Vec<Coordinator>,
    workers: Vec<Worker>,
    stop: CancellationToken,
}

impl Fleet {
    /// Starts so many coordinators and workers of so many slots; a page takes `takes`.
    async fn start(crawl: &Crawl, sizes: (usize, usize), slots: usize, takes: Duration) -> Self {
        Self::on(crawl, sizes, slots, Site { pages: u64::MAX, takes, ..Site::default() }).await
    }

    async fn on(crawl: &Crawl, sizes: (usize, usize), slots: usize, site: Site) -> Self {
        let (broker, stop) = (Arc::new(InProcessBroker::new()), CancellationToken::new());
        let url = crawl.database.url();
        let (mut coordinators, mut workers) = (Vec::new(), Vec::new());
        let driver = Arc::new(SyntheticDriver(site));
        for _ in 0..sizes.1 {
            let config = crawlify_worker::Config {
                name: "synthetic".to_owned(),
                slots,
                database_url: url.clone(),
                admin: None,
                lease: LeaseTimes::default(),
                newer_within: crawlify_worker::NEWER_WITHIN,
                drain_deadline: Duration::from_secs(5),
                egress: Egress::start(EgressOptions::off()).unwrap(),
                recorded: Arc::default(),
            };
            let worker = crawlify_worker::start(
                config,
                broker.clone(),
                driver.clone(),
                telemetry::registry(),
                stop.clone(),
            );
            workers.push(worker.await.unwrap());
        }
        // Nothing is dispatched before all workers are there: the first ones shall not have done everything by then.
        for _ in 0..sizes.0 {
            let config = crawlify_coordinator::Config {
                listen: None,
                lease: LeaseTimes::default(),
                only: None,
                broker_forgets: false,
            };
            let store = Store::connect(&url, 4).unwrap();
            let coordinator = crawlify_coordinator::start(
                config,
                store,
                broker.clone(),
                telemetry::registry(),
                stop.clone(),
            );
            coordinators.push(coordinator.await.unwrap());
        }
        Self { coordinators, workers, stop }
    }

    async fn stop(self) {
        self.stop.cancel();
        let workers = join_all(self.workers.iter().map(Worker::stopped));
        tokio::time::timeout(WITHIN, workers).await.expect("the workers stop");
        let coordinators = join_all(self.coordinators.iter().map(Coordinator::stopped));
        tokio::time::timeout(WITHIN, coordinators).await.expect("the coordinators stop");
    }
}

/// A workflow of pages that are nobody's: there is no site that could be asked for a robots file.
fn made_up() -> Value {
    let mut config = small_workflow();
    config["politeness"] = json!({"robots": "ignore"});
    config["max_depth"] = json!(50);
    config
}

/// The first pages of many hosts, each of which leads to pages without end.
fn first_pages() -> Vec<String> {
    (0..40).map(|site| page_address(&format!("site{site}.test"), 1)).collect()
}

async fn completed(crawl: &Crawl, execution: ExecutionId) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM url_queue WHERE execution_id = $1 AND status = 'completed'")
        .bind(execution.0)
        .fetch_one(&crawl.pool)
        .await
        .unwrap()
}

/// The part of a fleet's pages that the second of two executions gets, both of which have more than enough.
async fn part_of_the_second(crawl: &Crawl, second: ExecutionId) -> f64 {
    const PAGES: i64 = 1_000;
    let fleet = Fleet::start(crawl, (1, 2), 8, Duration::from_millis(20)).await;
    let both = async || [completed(crawl, crawl.execution).await, completed(crawl, second).await];
    wait_for("both are under way", WITHIN, async || both().await.iter().all(|pages| *pages >= 10)).await;
    let before = both().await;
    let mut part = 0.0;
    wait_for("many more pages are completed", WITHIN, async || {
        let now = both().await;
        let (first, second) = (now[0] - before[0], now[1] - before[1]);
        part = second as f64 / (first + second).max(1) as f64;
        first + second >= PAGES
    })
    .await;
    fleet.stop().await;
    part
}

#[tokio::test]
async fn executions_have_shares_of_the_fleet_by_their_weights() {
    let urls = first_pages();
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    let crawl = Crawl::of(&made_up(), NO_LIMITS, &urls).await;
    let heavy = crawl.another_of(&made_up(), NO_LIMITS, &urls).await;
    let changes = LimitChanges { weight: Some(3), ..LimitChanges::default() };
    crawl.store.change_limits(heavy, changes, None).await.unwrap();
    let part = part_of_the_second(&crawl, heavy).await;
    assert!((0.65..0.85).contains(&part), "the heavier one has {part:.2} of the pages instead of 0.75");
}

#[tokio::test]
async fn the_priority_that_a_workflow_asks_for_has_its_executions_go_first_and_the_others_go_on() {
    let urls = first_pages();
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    let crawl = Crawl::of(&made_up(), NO_LIMITS, &urls).await;
    let mut urgent = made_up();
    urgent["scheduling"] = json!({"priority": 10});
    let urgent = crawl.another_of(&urgent, NO_LIMITS, &urls).await;
    let part = part_of_the_second(&crawl, urgent).await;
    assert!((0.75..1.0).contains(&part), "it has {part:.2} of the pages");
}

#[tokio::test]
async fn of_two_executions_on_one_host_with_a_pace_that_of_the_lower_priority_has_turns_too() {
    let polite = Limits { rate_limit_delay: Duration::from_millis(50), ..NO_LIMITS };
    let first = page_address("one.test", 1);
    let crawl = Crawl::of(&made_up(), polite, &[&first]).await;
    let mut urgent = made_up();
    urgent["scheduling"] = json!({"priority": 10});
    let urgent = crawl.another_of(&urgent, polite, &[&first]).await;
    let fleet = Fleet::start(&crawl, (1, 2), 8, Duration::ZERO).await;
    let both = async || (completed(&crawl, crawl.execution).await, completed(&crawl, urgent).await);
    // Each has links to follow by then.
    let (mut low_before, mut high_before) = (0, 0);
    wait_for("both have begun", WITHIN, async || {
        (low_before, high_before) = both().await;
        low_before >= 4 && high_before >= 4
    })
    .await;
    // So many that it is no matter of luck: it has about every eighth turn, and with luck alone every second.
    let (mut low, mut high) = (0, 0);
    wait_for("the lower one goes on", WITHIN, async || {
        (low, high) = both().await;
        low >= low_before + 25
    })
    .await;
    fleet.stop().await;
    let (low, high) = (low - low_before, high - high_before);
    assert!(high > 2 * low, "the urgent one has {high} pages more, the other one {low}");
}

#[tokio::test]
async fn fifty_workers_and_a_limit_of_a_thousand_give_exactly_a_thousand_pages() {
    const PAGES: i64 = 1_000;
    // So many connections would leave too few to the tests beside this one.
    let postgres = PrivatePostgres::start(&Options::default()).await.unwrap();
    let database = TestDatabase::on(&postgres.url()).await;
    let urls = first_pages();
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    let limits = Limits { max_pages: Some(PAGES as u64), ..NO_LIMITS };
    let crawl = Crawl::on(database, &made_up(), limits, &urls).await;
    let fleet = Fleet::start(&crawl, (2, 50), 2, Duration::from_millis(20)).await;
    let ended = "SELECT count(*) FROM workflow_executions WHERE status = 'completed'";
    wait_for("the execution ended", WITHIN, async || crawl.number(ended).await == 1).await;
    fleet.stop().await;
    for (what, query) in [
        ("admitted", "SELECT pages_admitted FROM workflow_executions"),
        ("completed", "SELECT count(*) FROM url_queue WHERE status = 'completed'"),
        ("tried", "SELECT count(*) FROM url_queue WHERE attempt > 0"),
        ("attempts", "SELECT sum(attempt)::int8 FROM url_queue"),
        ("counted", "SELECT sum(completed)::int8 FROM page_counters"),
    ] {
        assert_eq!(crawl.number(query).await, PAGES, "{what}");
    }
    let workers = "SELECT count(*) FROM page_counters WHERE completed > 0";
    assert!(crawl.number(workers).await >= 25, "hardly any of the workers had a page");
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn a_host_is_asked_in_its_pace_by_all_workers_and_executions_together() {
    const DELAY: Duration = Duration::from_secs(1);
    const MEASURED: Duration = Duration::from_secs(15);
    let site = PacedSite::start(4).await.unwrap();
    let first: Vec<_> = site.hosts.iter().map(|host| page_address(host, 1)).collect();
    let first: Vec<_> = first.iter().map(String::as_str).collect();
    let crawl = Crawl::of(&made_up(), Limits { rate_limit_delay: DELAY, ..NO_LIMITS }, &first).await;
    // The longest delay that anybody asks for holds for all.
    let others = [NO_LIMITS, Limits { rate_limit_delay: DELAY / 10, ..NO_LIMITS }];
    for limits in others {
        crawl.another_of(&made_up(), limits, &first).await;
    }
    let client = Some(reqwest::Client::builder().no_proxy().build().unwrap());
    let site_as_seen = Site { pages: u64::MAX, client, ..Site::default() };
    let began = Instant::now();
    let fleet = Fleet::on(&crawl, (2, 3), 4, site_as_seen).await;
    let watch = Watch::start();
    tokio::time::sleep(MEASURED).await;
    fleet.stop().await;
    // Pages in hand had their turns while it stopped. One is the first, and one is to spare.
    let most = began.elapsed().as_millis() / DELAY.as_millis() + 2;
    let stalled = watch.end().iter().map(|stall| stall.length).max().unwrap_or_default();
    let possible = MEASURED.as_millis() / DELAY.as_millis();
    for starts in site.log() {
        let spaces: Vec<_> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        // What lies between a start and the request is the machine's, which is busy, and now and then stands still. Without
        // a common pace they would be nothing.
        let least = (DELAY * 6 / 10).saturating_sub(stalled);
        assert!(spaces.iter().all(|space| *space > least), "{spaces:?}, and it stood still for {stalled:?}");
        assert!(starts.len() as u128 > possible / 2, "only {} of {possible}", starts.len());
        // However long it stood still: who waits does not come more often.
        assert!(starts.len() as u128 <= most, "{} instead of {most}", starts.len());
    }
    let visited = "SELECT count(DISTINCT execution_id) FROM url_queue WHERE status = 'completed'";
    assert_eq!(crawl.number(visited).await, 3, "each of them has its turns");
}
