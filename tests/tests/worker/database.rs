//! A network between everybody and Postgres that cuts, swallows, delays, and loses the one answer that matters.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use crawlify_shared::broker::{Broker, MESSAGE_VERSION, PageMessage};
use crawlify_shared::config::LeaseTimes;
use crawlify_shared::domain::id::{ExecutionId, PageId, WorkerId};
use crawlify_shared::store::hot::{HotStore, POOL_SIZE};
use crawlify_worker::chrome::fake::{FakeDriver, FakePage};
use harness::crawl::{Crawl, LEASE, NO_LIMITS, finished, page_url, small_table};
use harness::fault_proxy::{FaultProxy, Mode};
use harness::invariants::assert_ended_are_sound;
use harness::wait::{wait_for, wait_for_value};
use serde_json::Value;
use uuid::Uuid;

use super::{ENDED, PAGES, Running, TIMES, WITHIN, page, shop};

/// Pages beside the start page.
const LEAVES: usize = 30;

/// Fenced soon, and not because the machine stood still for a second; given up by the fleet only long after the test.
const FENCED_SOON: LeaseTimes = LeaseTimes {
    heartbeat_every: Duration::from_millis(200),
    worker_lost_after: Duration::from_secs(300),
    fence_after: Duration::from_secs(3),
    ..TIMES
};

/// The same, and given up soon after.
const LOST_SOON: LeaseTimes = LeaseTimes { worker_lost_after: Duration::from_secs(6), ..FENCED_SOON };

/// A start page that links to many others.
fn leaves(count: usize) -> FakeDriver {
    let paths: Vec<String> = (1..=count).map(|number| format!("/leaf/{number}")).collect();
    let links: Vec<&str> = paths.iter().map(String::as_str).collect();
    let driver = FakeDriver::new().with_page("http://shop.test/", [page(&links)]);
    paths
        .iter()
        .fold(driver, |driver, path| driver.with_page(&format!("http://shop.test{path}"), [page(&[])]))
}

/// A crawl whose database is behind a proxy.
async fn behind_a_proxy(driver: FakeDriver, times: LeaseTimes) -> (Running, FaultProxy) {
    let crawl = Crawl::of(&shop(), NO_LIMITS, &["http://shop.test/"]).await;
    let (proxy, url) = FaultProxy::before_postgres(&crawl.database.url()).await;
    (Running::behind(crawl, &url, driver, times).await, proxy)
}

/// Every page was executed once, and completed at its first attempt.
async fn assert_once(running: Running, pages: usize) -> Crawl {
    assert_eq!(running.driver.loads().len(), pages, "each page was fetched once");
    let crawl = running.end().await;
    let once = "SELECT count(*) FROM url_queue WHERE status = 'completed' AND attempt = 1";
    assert_eq!(crawl.number(once).await, pages as i64);
    crawl
}

#[tokio::test]
async fn a_record_that_is_cut_at_any_byte_is_written_once() {
    const STEP: usize = 13;
    let urls: Vec<String> = (0..1_000).map(|number| format!("http://shop.test/{number}")).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let crawl = Crawl::start(NO_LIMITS, &urls).await;
    let (proxy, url) = FaultProxy::before_postgres(&crawl.database.url()).await;
    let worker = HotStore::connect(&url, WorkerId::generate()).unwrap();
    worker.announce("test", 4).await.unwrap();
    let pages = worker.claim(&crawl.queue().await, LEASE, false).await.unwrap();
    let table = small_table();
    let links = |number: usize| [format!("http://shop.test/of/{number}")];
    let mut pages = pages.iter().enumerate().map(|(number, page)| [finished(page, &table, &links(number))]);
    let (mut written, mut not_written) = (0, 0);
    for cut_after in (0..).step_by(STEP) {
        // A connection that has everything prepared, so that every byte is the record's.
        worker.record(&pages.next().expect("there are enough pages")).await.unwrap();
        let page = pages.next().expect("there are enough pages");
        proxy.cut_after(cut_after);
        if worker.record(&page).await.is_ok() && proxy.disarm() {
            assert!(cut_after > 1_000, "the whole exchange has only {cut_after} bytes");
            break;
        }
        // It may have been written all the same: the same once more tells, and writes nothing twice.
        let again =
            wait_for_value("the connection is back", WITHIN, async || worker.record(&page).await.ok()).await;
        *if again.is_empty() { &mut written } else { &mut not_written } += 1;
    }
    assert!(written > 0 && not_written > 10, "{written} were written, {not_written} were not");
    let rest: Vec<_> = pages.flatten().collect();
    worker.record(&rest).await.unwrap();
    crawl.change("UPDATE url_queue SET status = 'skipped', processed_at = now() WHERE depth = 1").await;
    assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 1);
    assert_ended_are_sound(&crawl.pool).await;
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_a_commit() {
    let (running, proxy) = behind_a_proxy(leaves(LEAVES), TIMES).await;
    // Only a record names a page to Postgres: that of the start page, with all its links.
    proxy.drop_reply_to("http://shop.test/leaf/7");
    running.wait("the execution ended", ENDED).await;
    assert!(proxy.has_sprung());
    assert_once(running, LEAVES + 1).await;
}

#[tokio::test]
async fn a_claim_whose_answer_is_lost_costs_no_attempt() {
    let driver = leaves(LEAVES);
    driver.set_ready(false);
    let (running, proxy) = behind_a_proxy(driver, TIMES).await;
    let page: Uuid =
        sqlx::query_scalar("SELECT id FROM url_queue").fetch_one(&running.crawl.pool).await.unwrap();
    running.wait("the page was published", "SELECT count(*) FROM url_queue WHERE status = 'queued'").await;
    proxy.drop_reply_to(page.as_bytes());
    running.driver.set_ready(true);
    running.wait("the execution ended", ENDED).await;
    assert!(proxy.has_sprung());
    assert_once(running, LEAVES + 1).await;
}

#[tokio::test]
async fn a_page_in_hand_whose_message_comes_again_is_not_executed_beside_itself_when_a_claim_fails() {
    let times = LeaseTimes { page_deadline: Duration::from_secs(4), ..TIMES };
    let driver = FakeDriver::new().with_page("http://shop.test/", [FakePage::Hangs, page(&[])]);
    let (running, proxy) = behind_a_proxy(driver, times).await;
    running.loaded(1).await;
    let in_hand = "SELECT id, execution_id, epoch FROM url_queue";
    let (page, execution, epoch): (Uuid, Uuid, i32) =
        sqlx::query_as(in_hand).fetch_one(&running.crawl.pool).await.unwrap();
    // The first statement that names the page from now on fails: its next claim, or else its record.
    proxy.drop_reply_to(page.as_bytes());
    let again = PageMessage {
        v: MESSAGE_VERSION,
        page_id: PageId(page),
        execution_id: ExecutionId(execution),
        epoch,
        url: page_url("http://shop.test/"),
    };
    assert_eq!(running.broker.publish(&[again]).await.unwrap(), [true]);
    running.wait("the execution ended", ENDED).await;
    assert!(proxy.has_sprung());
    let driver = Arc::clone(&running.driver);
    let crawl = running.stop().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 2"], "its first attempt ends at its deadline");
    assert_eq!(driver.loads().len(), 2, "it was asked for once an attempt");
}

#[tokio::test]
async fn connections_that_are_cut_again_and_again_cost_nothing() {
    let (running, proxy) = behind_a_proxy(leaves(LEAVES), TIMES).await;
    for cut in 1..=10 {
        running.loaded(cut * 3).await;
        proxy.cut();
    }
    running.wait("the execution ended", ENDED).await;
    assert_once(running, LEAVES + 1).await;
}

/// A start page, and two others that hang the first time.
fn hanging() -> FakeDriver {
    FakeDriver::new()
        .with_page("http://shop.test/", [page(&["/1", "/2"])])
        .with_page("http://shop.test/1", [FakePage::Hangs, page(&[])])
        .with_page("http://shop.test/2", [FakePage::Hangs, page(&[])])
}

#[tokio::test]
async fn a_worker_that_only_the_database_cannot_hear_stops_its_pages_and_goes_on_later() {
    let (running, proxy) = behind_a_proxy(hanging(), FENCED_SOON).await;
    running.loaded(3).await;
    proxy.set(Mode::BlackHole);
    wait_for("it stopped its pages", WITHIN, async || running.driver.open_tabs() == 0).await;
    assert_eq!(running.driver.loads().len(), 3, "it takes nothing");
    proxy.set(Mode::Pass);
    let crawl = running.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 1", "/1 completed 1", "/2 completed 1"]);
}

#[tokio::test]
async fn a_worker_that_only_the_database_could_not_hear_for_long_costs_its_pages_nothing_once_it_is_heard() {
    const CHARGED: &str = "SELECT sum(worker_faults)::int8 FROM url_queue";
    const CHARGED_TWICE: &str = "SELECT (sum(worker_faults) = 2)::int::int8 FROM url_queue";
    const TAKEN_BACK: &str = "SELECT bool_and(standing = 'taken_back')::int::int8 FROM lost_attempts";
    const STATUSES: &str =
        "SELECT concat_ws(' ', replace(url, 'http://shop.test', ''), status) FROM url_queue ORDER BY url";
    let crawl = Crawl::of(&shop(), NO_LIMITS, &["http://shop.test/"]).await;
    let directly = crawl.database.url();
    let (proxy, behind) = FaultProxy::before_postgres(&directly).await;
    let running = Running::apart(crawl, [&directly, &behind], hanging(), LOST_SOON).await;
    running.loaded(3).await;
    proxy.set(Mode::BlackHole);
    running.wait("it was given up, and its pages were charged", CHARGED_TWICE).await;
    wait_for("it stopped its pages", WITHIN, async || running.driver.open_tabs() == 0).await;
    proxy.set(Mode::Pass);
    running.wait("it was heard, and what was charged was taken back", TAKEN_BACK).await;
    let crawl = running.end().await;
    assert_eq!(crawl.texts(STATUSES).await, ["/ completed", "/1 completed", "/2 completed"]);
    assert_eq!(crawl.number(CHARGED).await, 0);
}

#[tokio::test]
async fn a_slow_database_slows_the_crawl_and_costs_no_lease() {
    let (running, proxy) = behind_a_proxy(leaves(LEAVES), TIMES).await;
    proxy.set(Mode::Delay(Duration::from_millis(60)));
    running.loaded(5).await;
    let titles = "SELECT count(*) FROM extracted_items WHERE data->>'title' = 'the h1'";
    running.wait("the execution ended", ENDED).await;
    proxy.set(Mode::Pass);
    let crawl = assert_once(running, LEAVES + 1).await;
    assert_eq!(crawl.number(titles).await, LEAVES as i64 + 1);
}

#[tokio::test]
async fn a_database_that_refuses_connections_is_waited_for() {
    let (running, proxy) = behind_a_proxy(leaves(LEAVES), TIMES).await;
    running.loaded(5).await;
    proxy.set(Mode::Refuse);
    proxy.cut();
    let before = running.crawl.number("SELECT count(*) FROM url_queue WHERE status = 'completed'").await;
    wait_for("what was in hand has been executed", WITHIN, async || running.driver.open_tabs() == 0).await;
    proxy.set(Mode::Pass);
    let more = format!("more than {before} pages are completed");
    wait_for(&more, WITHIN, async || {
        running.crawl.number("SELECT count(*) FROM url_queue WHERE status = 'completed'").await > before
    })
    .await;
    running.wait("the execution ended", ENDED).await;
    let crawl = assert_once(running, LEAVES + 1).await;
    let item: Value =
        sqlx::query_scalar("SELECT data FROM extracted_items LIMIT 1").fetch_one(&crawl.pool).await.unwrap();
    assert_eq!(item["title"], "the h1");
}

#[tokio::test]
async fn pages_whose_statements_all_wait_for_a_lock_do_not_keep_the_worker_from_saying_that_it_lives() {
    const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'crawlify-worker' AND datname = current_database() AND wait_event_type = 'Lock'";
    const BEATS: &str = "SELECT max(heartbeat_at) FROM workers";
    let urls: Vec<String> = (0..8).map(|number| format!("http://shop.test/{number}")).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let driver = urls.iter().fold(FakeDriver::new(), |driver, url| driver.with_page(url, [page(&[])]));
    driver.set_ready(false);
    let crawl = Crawl::of(&shop(), NO_LIMITS, &urls).await;
    let running = Running::of(crawl, driver, TIMES).await;
    let published = "SELECT (count(*) = 8)::int::int8 FROM url_queue WHERE status = 'queued'";
    running.wait("every page is published", published).await;
    let pool = &running.crawl.pool;
    let mut lock = pool.begin().await.unwrap();
    // Each page reads its workflow first.
    sqlx::query("LOCK TABLE workflow_versions IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    running.driver.set_ready(true);
    let beat = async || -> DateTime<Utc> { sqlx::query_scalar(BEATS).fetch_one(pool).await.unwrap() };
    let all = POOL_SIZE as i64;
    wait_for("every connection waits", WITHIN, async || running.crawl.number(WAITING).await >= all).await;
    let first = beat().await;
    // A statement waits for a lock for ten seconds.
    wait_for("the heart goes on", Duration::from_secs(8), async || {
        beat().await - first > TimeDelta::seconds(3)
    })
    .await;
    assert!(running.crawl.number(WAITING).await >= all, "they wait all the time");
    lock.rollback().await.unwrap();
    let crawl = running.end().await;
    assert_eq!(
        crawl.number("SELECT count(*) FROM url_queue WHERE status = 'completed' AND attempt = 1").await,
        8
    );
}
