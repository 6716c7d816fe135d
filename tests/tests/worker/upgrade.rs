//! A rolling upgrade: the definition of a workflow is of a newer version than the worker that is there.

use std::time::{Duration, Instant};

use crawlify_worker::chrome::fake::FakeDriver;
use harness::crawl::{Crawl, NO_LIMITS};
use harness::wait::wait_for;

use super::{PAGES, Running, TIMES, WITHIN, page, shop};

const NEWER: &str = "UPDATE workflow_versions
    SET config = jsonb_set(config, '{data_extraction,0,type}', '\"of_a_newer_version\"')";
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
    // Each time that it goes back it has another epoch. As failures of its own, so many were the end of it.
    running.wait("it was put off four times", "SELECT count(*) FROM url_queue WHERE epoch >= 4").await;
    assert!(begun.elapsed() >= Duration::from_secs(3), "a second or more lies between two looks");
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

    running.crawl.change(KNOWN).await;
    running.crawl.change("UPDATE url_queue SET not_before = now()").await;
    let crawl = running.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 1"]);
}
