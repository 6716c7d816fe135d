//! A rolling upgrade: the definition of a workflow is of a newer version than the worker that is there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::telemetry;
use crawlify_worker::Worker;
use crawlify_worker::chrome::fake::FakeDriver;
use harness::crawl::{Crawl, NO_LIMITS};
use harness::wait::wait_for;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{PAGES, Running, TIMES, WITHIN, config, extract, page, shop, start_as, workflow};

const NEWER: &str = "UPDATE workflow_versions
    SET config = jsonb_set(config, '{data_extraction,0,type}', '\"of_a_newer_version\"')";
const HAS_NONE: &str = "SELECT (count(*) FILTER (WHERE status = 'processing') = 0)::int::int8 FROM url_queue";
/// What has the worker that is there stand for an upgraded one.
const KNOWN: &str = "UPDATE workflow_versions
    SET config = jsonb_set(config, '{data_extraction,0,type}', '\"extract\"')";

#[tokio::test]
async fn a_page_that_no_worker_is_new_enough_for_waits_uncharged_and_is_seldom_looked_at() {
    let driver = FakeDriver::new().with_page("http://shop.test/", [page(&[])]);
    let crawl = Crawl::of(&shop(), NO_LIMITS, &["http://shop.test/"]).await;
    crawl.change(NEWER).await;
    let begun = Instant::now();
    let running = Running::of(crawl, driver, TIMES).await;
    // Each time that it goes back it has another epoch.
    running.wait("it was put off three times", "SELECT count(*) FROM url_queue WHERE epoch >= 3").await;
    assert!(begun.elapsed() >= Duration::from_secs(10), "some seconds lie between two looks");
    let waits =
        "SELECT count(*) FROM url_queue WHERE status = 'pending' AND attempt = 0 AND error_class = 'internal'
        AND charged + site_faults + proxy_faults + browser_faults + worker_faults = 0";
    running.wait("it waits, and nothing was charged", waits).await;
    assert!(running.driver.loads().is_empty(), "the site was not asked for it");
    wait_for("whoever looks at the execution is told", WITHIN, async || {
        let summary = running.crawl.store.summary(running.crawl.execution).await.unwrap().unwrap();
        summary.page_errors.iter().any(|group| group.message.starts_with("waiting for a newer worker"))
    })
    .await;

    let driver = FakeDriver::new().with_page("http://shop.test/", [page(&[])]);
    let crawl = end_with_a_newer_one(running, driver, 0).await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 1"]);
}

/// Has a newer worker run what is left: so many pages beside the old one, and the rest once that has gone.
async fn end_with_a_newer_one(running: Running, driver: FakeDriver, beside: usize) -> Crawl {
    running.crawl.change(KNOWN).await;
    let (driver, stop) = (Arc::new(driver), CancellationToken::new());
    let newer = start_another(&running, &driver, &stop, crawlify_worker::NEWER_WITHIN).await;
    wait_for("the newer one runs pages", WITHIN, async || driver.loads().len() >= beside).await;
    running.stop_worker.cancel();
    wait_for("the execution ended", WITHIN, async || {
        // A page may rest for a while.
        running.crawl.change("UPDATE url_queue SET not_before = now() WHERE status = 'pending'").await;
        running.crawl.number(super::ENDED).await != 0
    })
    .await;
    assert!(running.driver.loads().is_empty(), "the old worker has run some");
    stop.cancel();
    newer.stopped().await;
    running.end().await
}

/// Starts a worker beside the others.
async fn start_another(
    running: &Running,
    driver: &Arc<FakeDriver>,
    stop: &CancellationToken,
    newer_within: Duration,
) -> Worker {
    let config = crawlify_worker::Config { newer_within, ..config(&running.crawl.database.url(), TIMES) };
    start_as(config, &running.broker, driver, stop, &telemetry::registry()).await
}

fn urls(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("http://shop.test/{number}")).collect()
}

fn site(urls: &[String]) -> FakeDriver {
    urls.iter().fold(FakeDriver::new(), |driver, url| driver.with_page(url, [page(&[])]))
}

#[tokio::test]
async fn an_old_worker_leaves_most_pages_to_a_newer_one_beside_it_and_runs_none_of_them() {
    const WENT_BACK: &str = "SELECT sum(epoch)::int8 FROM url_queue";
    let urls = urls(120);
    let starts: Vec<_> = urls.iter().map(String::as_str).collect();
    // The newer one runs sixteen pages a second.
    let takes_long = json!({"id": "wait", "type": "wait", "params": {"duration": 250}});
    let config = workflow(json!([]), json!([extract("title", "h1"), takes_long]));
    let crawl = Crawl::of(&config, NO_LIMITS, &starts).await;
    crawl.change(NEWER).await;
    let running = Running::of(crawl, site(&urls), TIMES).await;
    running.wait("it knows that it cannot", "SELECT count(*) FROM url_queue WHERE epoch > 0").await;
    running.wait("all it had has gone back", HAS_NONE).await;
    let (begun, before) = (Instant::now(), running.crawl.number(WENT_BACK).await);
    // It has read the definition once, and does not ask again.
    let crawl = end_with_a_newer_one(running, site(&urls), 100).await;
    assert_eq!(crawl.number("SELECT max(attempt)::int8 FROM url_queue").await, 1, "nothing was charged");
    let went_back = crawl.number(WENT_BACK).await - before;
    // It holds so many messages, each for five seconds.
    let most = (4 * 2 + 4) * (i64::try_from(begun.elapsed().as_secs()).unwrap() / 5 + 2);
    assert!((1..=most).contains(&went_back), "{went_back} of 120 pages went to the old worker, not {most}");
}

#[tokio::test]
async fn a_page_that_is_left_to_others_takes_no_turn_of_its_host() {
    const WENT_BACK: &str = "SELECT sum(epoch)::int8 FROM url_queue";
    const TURN: &str = "SELECT extract(epoch FROM next_start_at)::text FROM hosts";
    let urls = urls(20);
    let starts: Vec<_> = urls.iter().map(String::as_str).collect();
    let limits = Limits { rate_limit_delay: Duration::from_millis(200), ..NO_LIMITS };
    let crawl = Crawl::of(&shop(), limits, &starts).await;
    crawl.change(NEWER).await;
    let running = Running::of(crawl, site(&urls), TIMES).await;
    running.wait("it knows that it cannot", "SELECT count(*) FROM url_queue WHERE epoch > 0").await;
    running.wait("all it had has gone back", HAS_NONE).await;
    // Also what was being claimed then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (turn, before) = (running.crawl.texts(TURN).await, running.crawl.number(WENT_BACK).await);
    wait_for("more were left to others", WITHIN, async || {
        running.crawl.number(WENT_BACK).await >= before + 3
    })
    .await;
    assert_eq!(running.crawl.texts(TURN).await, turn, "they have taken turns");
    end_with_a_newer_one(running, site(&urls), 0).await;
}

#[tokio::test]
async fn a_workflow_that_no_living_worker_can_run_ends_with_the_reason_and_not_while_one_may() {
    const ENDED: &str = "SELECT count(*) FROM url_queue WHERE status = 'failed'";
    const FAILED: &str = "SELECT count(*) FROM url_queue WHERE charged > 0";
    let driver = FakeDriver::new().with_page("http://shop.test/", [page(&[])]);
    let crawl = Crawl::of(&shop(), NO_LIMITS, &["http://shop.test/"]).await;
    crawl.change(NEWER).await;
    // One that is heard, and has not tried.
    let may = "INSERT INTO workers (id, name, slots, heartbeat_at)
        VALUES (gen_random_uuid(), 'may', 1, now() + interval '1 hour')";
    crawl.change(may).await;
    let mut running = Running::of(crawl, driver, TIMES).await;
    running.wait("the first worker knows", "SELECT count(*) FROM url_queue WHERE epoch > 0").await;
    running.stop_worker.cancel();
    running.worker.stopped().await;
    let stop = CancellationToken::new();
    let patience = Duration::from_secs(2);
    running.worker = start_another(&running, &running.driver, &stop, patience).await;
    running.stop_worker = stop;
    running
        .wait(
            "so does the second",
            "SELECT count(*) FROM workers WHERE refuses IS NOT NULL AND status = 'ready'",
        )
        .await;
    let go_on = "UPDATE url_queue SET not_before = now() WHERE status = 'pending'";
    let went_back = running.crawl.number("SELECT epoch::int8 FROM url_queue").await;
    tokio::time::sleep(patience).await;
    wait_for("it is still left to the one that may", WITHIN, async || {
        running.crawl.change(go_on).await;
        running.crawl.number("SELECT epoch::int8 FROM url_queue").await >= went_back + 2
    })
    .await;
    assert_eq!(running.crawl.number(FAILED).await, 0);

    running.crawl.change("DELETE FROM workers WHERE name = 'may'").await;
    let gone = Instant::now();
    wait_for("the page fails for good", WITHIN, async || {
        running.crawl.change(go_on).await;
        let is_early = gone.elapsed() < patience;
        assert!(running.crawl.number(FAILED).await == 0 || !is_early, "another one may come");
        running.crawl.number(ENDED).await == 1
    })
    .await;
    assert!(running.driver.loads().is_empty());
    let crawl = running.end().await;
    let said = crawl.texts("SELECT error FROM url_queue").await.remove(0);
    assert!(
        said.starts_with("no living worker can run the workflow") && said.contains("/data_extraction/0/type"),
        "{said}"
    );
    assert_eq!(crawl.texts("SELECT status FROM workflow_executions").await, ["failed"]);
}
