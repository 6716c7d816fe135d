//! A page that lost two workers and waits to be alone in the third, while its neighbours take long.

use std::time::Duration;

use crawlify_shared::config::LeaseTimes;
use crawlify_worker::chrome::fake::{FakeDriver, FakePage};
use harness::crawl::{Crawl, NO_LIMITS};
use harness::wait::wait_for;

use super::{PAGES, Running, TIMES, WITHIN, page, shop};

/// A lease is longer than one page takes, and shorter than two of them, one after the other.
const SHORT: LeaseTimes = LeaseTimes {
    worker_lost_after: Duration::from_secs(5),
    page_deadline: Duration::from_secs(6),
    deadline_slack: Duration::from_secs(3),
    fence_after: Duration::from_secs(4),
    ..TIMES
};

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
    let urls = ["http://shop.test/suspect", "http://shop.test/1", "http://shop.test/2"];
    let crawl = Crawl::of(&shop(), NO_LIMITS, &urls).await;
    let others = "UPDATE url_queue SET not_before = now() + interval '1 hour' WHERE url NOT LIKE '%/suspect'";
    crawl.change(others).await;
    crawl.change("UPDATE url_queue SET worker_faults = 2, attempt = 2 WHERE url LIKE '%/suspect'").await;
    let driver = FakeDriver::new()
        .with_page("http://shop.test/suspect", [FakePage::Hangs])
        .with_page("http://shop.test/1", [page(&[])])
        .with_page("http://shop.test/2", [page(&[])]);
    let running = Running::of(crawl, driver, TIMES).await;
    running.loaded(1).await;
    running.crawl.change("UPDATE url_queue SET not_before = now() WHERE status = 'pending'").await;
    running
        .wait(
            "the others are on their way",
            "SELECT (count(*) = 2)::int::int8 FROM url_queue WHERE status = 'queued'",
        )
        .await;
    running.stop_worker.cancel();
    tokio::time::timeout(WITHIN, running.worker.stopped()).await.expect("the worker stops");
    assert_eq!(running.driver.loads().len(), 1);
    let claimed = "SELECT (sum(attempt) + sum(epoch))::int8 FROM url_queue WHERE url NOT LIKE '%/suspect'";
    assert_eq!(running.crawl.number(claimed).await, 0, "claimed, or given back after that");
    running.stop_coordinator.cancel();
    tokio::time::timeout(WITHIN, running.coordinator.stopped()).await.expect("the coordinator stops");
}
