//! A crawl that meets a host which is not there: the others are crawled, its pages are given up, and it ends.

use std::time::Duration;

use crawlify_shared::domain::outcome::ErrorClass;
use crawlify_worker::chrome::fake::{FakeDriver, FakePage};
use harness::wait::wait_for;
use serde_json::json;

use super::{ENDED, Running, TIMES, extract, links, page, workflow};

/// Pages of the host that is not there.
const PAGES: usize = 300;

#[tokio::test]
async fn three_hundred_pages_of_a_host_that_is_gone_cost_a_few_tries_and_the_crawl_ends() {
    let gone: Vec<String> = (0..PAGES).map(|number| format!("http://gone.test/{number}")).collect();
    let mut found: Vec<&str> = gone.iter().map(String::as_str).collect();
    found.extend(["http://shop.test/1", "http://shop.test/2"]);
    let mut driver = FakeDriver::new()
        .with_page("http://shop.test/", [page(&found)])
        .with_page("http://shop.test/1", [page(&[])])
        .with_page("http://shop.test/2", [page(&[])]);
    for url in &gone {
        driver = driver.with_page(url, [FakePage::fails(ErrorClass::Connect, "no connection to the host")]);
    }
    let config = workflow(json!([links("links", "a")]), json!([extract("title", "h1")]));
    let running = Running::start(&config, driver, TIMES).await;
    // Its pauses are over as soon as they begin.
    let is_over = "UPDATE hosts SET unreachable_until = now()
        WHERE unreachable_until > now() AND unreachable BETWEEN 3 AND 9";
    wait_for("the execution ended", Duration::from_secs(60), async || {
        running.crawl.change(is_over).await;
        running.crawl.number(ENDED).await == 1
    })
    .await;
    let tries = running.driver.loads().iter().filter(|(_, url)| url.host() == "gone.test").count();
    let crawl = running.stop().await;
    let ends = crawl
        .texts(
            "SELECT concat_ws(' ', host, status, error_class, count(*)) FROM url_queue
        GROUP BY host, status, error_class ORDER BY 1",
        )
        .await;
    assert_eq!(ends, ["gone.test failed connect 300", "shop.test completed 3"]);
    assert!(tries < PAGES / 3, "it was asked {tries} times");
}
