//! A page that lost two workers and is alone in the third, or waits to be; and its neighbours, which wait for it or go elsewhere.

use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::config::LeaseTimes;
use crawlify_shared::telemetry;
use crawlify_worker::chrome::fake::{FakeDriver, FakePage};
use harness::crawl::{Crawl, NO_LIMITS};
use harness::wait::wait_for;
use tokio_util::sync::CancellationToken;

use super::{ENDED, PAGES, Running, TIMES, WITHIN, page, shop, start_worker};

/// A lease is longer than one page takes, and shorter than two of them, one after the other.
const SHORT: LeaseTimes = LeaseTimes {
    worker_lost_after: Duration::from_secs(5),
    page_deadline: Duration::from_secs(6),
    deadline_slack: Duration::from_secs(3),
    fence_after: Duration::from_secs(4),
    ..TIMES
};

/// A suspect takes so long that others would wait for it for minutes: they do for 10 s.
const SLOW: LeaseTimes = LeaseTimes { page_deadline: Duration::from_secs(240), ..TIMES };
/// Longer than the whole test.
const SLOWER: LeaseTimes = LeaseTimes { page_deadline: Duration::from_secs(24 * 60), ..TIMES };

/// A crawl of a suspect that hangs, and of others that come later.
async fn with_a_suspect(urls: &[&str]) -> Crawl {
    let crawl = Crawl::of(&shop(), NO_LIMITS, urls).await;
    let others = "UPDATE url_queue SET not_before = now() + interval '1 hour' WHERE url NOT LIKE '%/suspect'";
    crawl.change(others).await;
    crawl.change("UPDATE url_queue SET worker_faults = 2, attempt = 2 WHERE url LIKE '%/suspect'").await;
    crawl
}

#[tokio::test]
async fn a_suspect_waits_for_the_slowest_page_and_its_time_and_its_lease_begin_then() {
    let crawl = Crawl::of(&shop(), NO_LIMITS, &["http://shop.test/slow", "http://shop.test/suspect"]).await;
    let suspect =
        "UPDATE url_queue SET worker_faults = 2, attempt = 2, not_before = now() + interval '1 hour'
        WHERE url LIKE '%/suspect'";
    crawl.change(suspect).await;
    let driver = FakeDriver::new()
        .with_page("http://shop.test/slow", [FakePage::Hangs, page(&[])])
        .with_page("http://shop.test/suspect", [FakePage::Hangs, page(&[])]);
    let running = Running::of(crawl, driver, SHORT).await;
    running.loaded(1).await;
    running.crawl.change("UPDATE url_queue SET not_before = now() WHERE url LIKE '%/suspect'").await;
    running.wait("the suspect is here", "SELECT count(*) FROM url_queue WHERE attempt = 3").await;
    assert_eq!(running.driver.loads().len(), 1, "it waits");
    running.loaded(2).await;
    assert_eq!(running.driver.loads()[1].1.as_str(), "http://shop.test/suspect");
    assert_eq!(running.driver.open_tabs(), 1, "it is alone");
    let slow = "SELECT site_faults::int8 FROM url_queue WHERE url LIKE '%/slow'";
    assert_eq!(running.crawl.number(slow).await, 1, "the slow one had its whole time");
    // The lease that it was claimed with has ended long before.
    let timed_out = "SELECT site_faults::int8 FROM url_queue WHERE url LIKE '%/suspect'";
    wait_for("it had its whole time as well", WITHIN, async || running.crawl.number(timed_out).await == 1)
        .await;
    let crawl = running.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/slow completed 2", "/suspect completed 4"]);
    assert_eq!(
        crawl.number("SELECT sum(worker_faults)::int8 FROM url_queue").await,
        2,
        "nobody took it away"
    );
}

#[tokio::test]
async fn pages_that_wait_for_a_suspect_go_back_unclaimed_when_the_worker_is_told_to_stop() {
    let crawl =
        with_a_suspect(&["http://shop.test/suspect", "http://shop.test/1", "http://shop.test/2"]).await;
    let driver = FakeDriver::new()
        .with_page("http://shop.test/suspect", [FakePage::Hangs])
        .with_page("http://shop.test/1", [page(&[])])
        .with_page("http://shop.test/2", [page(&[])]);
    let running = Running::of(crawl, driver, SLOWER).await;
    running.loaded(1).await;
    running.crawl.change("UPDATE url_queue SET not_before = now() WHERE status = 'pending'").await;
    running.exports("crawlify_worker_pages_waiting 2").await;
    running.stop_worker.cancel();
    tokio::time::timeout(WITHIN, running.worker.stopped()).await.expect("the worker stops");
    assert_eq!(running.driver.loads().len(), 1);
    running.assert_exported("crawlify_worker_pages_waiting 0");
    let claimed = "SELECT (sum(attempt) + sum(epoch))::int8 FROM url_queue WHERE url NOT LIKE '%/suspect'";
    assert_eq!(running.crawl.number(claimed).await, 0, "claimed, or given back after that");
    running.stop_coordinator.cancel();
    tokio::time::timeout(WITHIN, running.coordinator.stopped()).await.expect("the coordinator stops");
}

#[tokio::test]
async fn while_a_suspect_is_alone_for_long_another_worker_has_the_pages_that_wait_for_it() {
    // More than there are slots: some wait in them, the others have not been looked at.
    let others: Vec<String> = (0..8).map(|number| format!("http://shop.test/{number}")).collect();
    let all: Vec<&str> = others.iter().map(String::as_str).chain(["http://shop.test/suspect"]).collect();
    let driver = |suspect: FakePage| {
        let driver = FakeDriver::new().with_page("http://shop.test/suspect", [suspect]);
        others.iter().fold(driver, |driver, url| driver.with_page(url, [page(&[])]))
    };
    let running = Running::of(with_a_suspect(&all).await, driver(FakePage::Hangs), SLOW).await;
    running.loaded(1).await;
    running.crawl.change("UPDATE url_queue SET not_before = now() WHERE status = 'pending'").await;
    running.exports("crawlify_worker_pages_waiting 5").await;

    let (second, stop, url) =
        (Arc::new(driver(page(&[]))), CancellationToken::new(), running.crawl.database.url());
    let registry = telemetry::registry();
    let worker = start_worker(&url, &running.broker, &second, SLOW, &stop, &registry).await;
    let completed =
        "SELECT (count(*) = 8)::int::int8 FROM url_queue WHERE status = 'completed' AND attempt = 1";
    running.wait("the others are completed", completed).await;
    let suspect = "SELECT count(*) FROM url_queue WHERE status = 'processing' AND url LIKE '%/suspect'";
    assert_eq!(running.crawl.number(suspect).await, 1, "it still runs");
    assert_eq!((running.driver.loads().len(), second.loads().len()), (1, 8));
    assert_eq!(
        running.crawl.number("SELECT sum(epoch)::int8 FROM url_queue").await,
        0,
        "they went back unclaimed"
    );

    // The suspect, given back, is alone in the other one.
    running.stop_worker.cancel();
    running.wait("the execution ended", ENDED).await;
    stop.cancel();
    tokio::time::timeout(WITHIN, worker.stopped()).await.expect("the other worker stops");
    let crawl = running.stop().await;
    assert_eq!(crawl.texts(PAGES).await[8], "/suspect completed 3");
}
