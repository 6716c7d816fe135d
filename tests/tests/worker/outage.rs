//! A database that goes away, and a worker that the fleet has given up.

use std::time::Duration;

use crawlify_cli::private_postgres::{Options, PrivatePostgres};
use crawlify_shared::config::LeaseTimes;
use crawlify_worker::chrome::fake::{FakeDriver, FakePage};
use harness::crawl::{Crawl, NO_LIMITS};
use harness::postgres::TestDatabase;
use harness::wait::wait_for;

use super::{ENDED, PAGES, Running, TIMES, WITHIN, page, shop};

/// Fenced soon, and not because the machine stood still for a second; given up by the fleet, and the page's lease at an
/// end, only long after the test.
const SHORT: LeaseTimes = LeaseTimes {
    heartbeat_every: Duration::from_millis(200),
    worker_lost_after: Duration::from_secs(300),
    fence_after: Duration::from_secs(3),
    ..TIMES
};

#[tokio::test]
async fn a_worker_without_its_database_stops_its_pages_and_goes_on_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { data_dir: Some(folder.path().join("data")), ..Options::default() };
    let postgres = PrivatePostgres::start(&options).await.unwrap();
    let database = TestDatabase::on(&postgres.url()).await;
    let crawl = Crawl::on(database, &shop(), NO_LIMITS, &["http://shop.test/", "http://shop.test/2"]).await;
    let driver = FakeDriver::new()
        .with_page("http://shop.test/", [FakePage::Hangs, page(&["/3"])])
        .with_page("http://shop.test/2", [FakePage::Hangs, page(&[])])
        .with_page("http://shop.test/3", [page(&[])]);
    let running = Running::of(crawl, driver, SHORT).await;
    running.loaded(2).await;
    assert_eq!(running.driver.open_tabs(), 2);
    postgres.stop().await;
    wait_for("the worker stopped its pages", WITHIN, async || running.driver.open_tabs() == 0).await;
    assert_eq!(running.driver.loads().len(), 2);
    let postgres = PrivatePostgres::start(&options).await.unwrap();
    let reconnected = async || sqlx::query("SELECT 1").execute(&running.crawl.pool).await.is_ok();
    wait_for("the database is back", WITHIN, reconnected).await;
    let crawl = running.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 1", "/2 completed 1", "/3 completed 1"]);
    drop(crawl);
    postgres.stop().await;
}

#[tokio::test]
async fn a_worker_that_was_given_up_stops_its_pages_and_takes_others() {
    let driver = FakeDriver::new().with_page("http://shop.test/", [FakePage::Hangs, page(&[])]);
    let running = Running::start(&shop(), driver, SHORT).await;
    running.loaded(1).await;
    // Whether the rescuer or the worker is the first to see it: the page does not wait for the end of its lease.
    running.crawl.change("UPDATE workers SET status = 'lost'").await;
    running.wait("the execution ended", ENDED).await;
    wait_for("the first attempt stopped", WITHIN, async || running.driver.open_tabs() == 0).await;
    let crawl = running.stop().await;
    let attempts = crawl.texts(PAGES).await;
    assert!(attempts == ["/ completed 1"] || attempts == ["/ completed 2"], "{attempts:?}");
    assert_eq!(crawl.number("SELECT count(*) FROM extracted_items").await, 1);
}

#[tokio::test]
async fn a_worker_whose_row_is_gone_announces_itself_again() {
    let driver = FakeDriver::new().with_page("http://shop.test/", [FakePage::Hangs, page(&[])]);
    let running = Running::start(&shop(), driver, SHORT).await;
    running.loaded(1).await;
    running.crawl.change("DELETE FROM workers").await;
    running.wait("the execution ended", ENDED).await;
    let crawl = running.stop().await;
    assert_eq!(crawl.number("SELECT count(*) FROM url_queue WHERE status = 'completed'").await, 1);
    assert_eq!(crawl.number("SELECT count(*) FROM workers").await, 1);
}
