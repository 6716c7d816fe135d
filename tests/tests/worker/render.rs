//! Which pages get a tab, and which are read as they came.

use std::time::Duration;

use crawlify_shared::config::LeaseTimes;
use crawlify_worker::chrome::fake::{FakeDriver, FakePage};
use harness::crawl::{Crawl, NO_LIMITS};
use serde_json::{Value, json};

use super::{PAGES, Running, TIMES, answers, page, shop};

const ITEMS: usize = 40;
const RENDERED: &str =
    "SELECT concat_ws(' ', replace(url, 'http://shop.test', ''), rendered) FROM url_queue ORDER BY 1";

fn shop_with(render: &str) -> Value {
    let mut config = shop();
    config["render"] = json!(render);
    config
}

/// A start page that lists items, and the items. Read as they came, the titles of items begin with `article`.
fn items(article: &'static str) -> FakeDriver {
    let paths: Vec<String> = (1..=ITEMS).map(|number| format!("/item/{number}")).collect();
    let links: Vec<&str> = paths.iter().map(String::as_str).collect();
    let driver = FakeDriver::new().with_page("http://shop.test/", [page(&links)]);
    paths.iter().fold(driver, |driver, path| {
        let url = format!("http://shop.test{path}");
        driver.with_page(&url, [page(&[])]).with_static(&url, answers(&[], article))
    })
}

async fn titles(crawl: &Crawl) -> Vec<String> {
    crawl.texts("SELECT DISTINCT data->>'title' FROM extracted_items ORDER BY 1").await
}

#[tokio::test]
async fn a_static_page_that_needs_a_tab_gets_one() {
    let driver = FakeDriver::new()
        .with_page("http://shop.test/", [page(&["/1", "/2"])])
        .with_page("http://shop.test/2", [page(&[])])
        .with_static("http://shop.test/", answers(&["/1", "/2"], "the"))
        .with_static("http://shop.test/1", answers(&[], "the"));
    let running = Running::start(&shop_with("static"), driver, TIMES).await;
    let driver = running.driver.clone();
    let crawl = running.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 1", "/1 completed 1", "/2 completed 1"]);
    assert_eq!(crawl.texts(RENDERED).await, ["/ static", "/1 static", "/2 full"]);
    assert_eq!((driver.static_reads(), driver.loads().len()), (3, 1));
}

#[tokio::test]
async fn a_page_that_hangs_read_and_loaded_has_the_time_of_one_for_both() {
    let driver = FakeDriver::new().with_page("http://shop.test/", [FakePage::Hangs]);
    let times = LeaseTimes { page_deadline: Duration::from_secs(6), ..TIMES };
    let crawl = Crawl::of(&shop_with("static"), NO_LIMITS, &["http://shop.test/"]).await;
    // It is tried no more.
    crawl.change("UPDATE url_queue SET site_faults = 3").await;
    let running = Running::of(crawl, driver, times).await;
    running.wait("the page failed", "SELECT count(*) FROM url_queue WHERE error_class = 'nav_timeout'").await;
    let took = "SELECT (extract(epoch FROM now() - started_at) * 1000)::int8 FROM workflow_executions";
    let took = running.crawl.number(took).await;
    assert!((6_000..11_000).contains(&took), "{took} ms");
    assert_eq!((running.driver.static_reads(), running.driver.loads().len()), (1, 1));
    running.stop().await;
}

#[tokio::test]
async fn the_dispatcher_knows_at_once_that_static_pages_leave_room_for_more() {
    let driver = FakeDriver::new().with_static("http://shop.test/", answers(&[], "the"));
    let hour = Duration::from_secs(3600);
    let times =
        LeaseTimes { heartbeat_every: hour, worker_lost_after: 4 * hour, fence_after: 3 * hour, ..TIMES };
    let running = Running::start(&shop_with("static"), driver, times).await;
    // Four slots, each with its tab and places for eight.
    running.wait("more slots", "SELECT count(*) FROM workers WHERE slots = 4 * (1 + 8)").await;
    running.end().await;
}

#[tokio::test]
async fn pages_that_give_the_same_both_ways_leave_the_tabs() {
    let running = Running::start(&shop_with("auto"), items("the"), TIMES).await;
    let driver = running.driver.clone();
    let crawl = running.end().await;
    assert_eq!(titles(&crawl).await, ["the h1"]);
    let read = crawl.number("SELECT count(*) FROM url_queue WHERE rendered = 'static'").await;
    // The slots may all have begun with a trial before the fifth has ended.
    assert!((25..=35).contains(&read), "{read} pages were read as they came");
    assert_eq!(driver.loads().len(), ITEMS + 1 - usize::try_from(read).unwrap());
    let why =
        "SELECT DISTINCT mode || ': ' || (compared >= 5) FROM render_decisions WHERE shape LIKE '%/item/#'";
    assert_eq!(crawl.texts(why).await, ["static: true"]);
}

#[tokio::test]
async fn pages_that_differ_stay_in_their_tabs_and_what_the_tab_gave_counts() {
    let running = Running::start(&shop_with("auto"), items("another"), TIMES).await;
    let driver = running.driver.clone();
    let crawl = running.end().await;
    assert_eq!(titles(&crawl).await, ["the h1"]);
    assert_eq!(driver.loads().len(), ITEMS + 1);
    let why = "SELECT DISTINCT mode || ': ' || reason FROM render_decisions
        WHERE shape LIKE '%/item/#' AND phase = 'data_extraction'";
    assert_eq!(crawl.texts(why).await, ["full: `title` gives another output in a tab"]);
}

#[tokio::test]
async fn a_phase_that_is_to_be_static_is_not_on_trial_beside_one_that_is() {
    let mut config = shop();
    config["render"] = json!({"url_discovery": "auto", "data_extraction": "static"});
    let running = Running::start(&config, items("another"), TIMES).await;
    let crawl = running.end().await;
    assert_eq!(titles(&crawl).await, ["another h1", "the h1"], "the first ones were loaded both ways");
    let read = crawl.number("SELECT count(*) FROM url_queue WHERE rendered = 'static'").await;
    assert!((25..=35).contains(&read), "{read} pages were read as they came");
}

#[tokio::test]
async fn a_page_on_trial_that_is_not_there_or_wants_to_be_left_alone_is_asked_for_once() {
    for (status, ends) in [(404, "failed 1 http_4xx"), (503, "failed 1 http_5xx")] {
        let driver = FakeDriver::new()
            .with_page("http://shop.test/", [page(&[])])
            .with_static("http://shop.test/", answers(&[], "the"))
            .with_page("http://shop.test/1", [page(&[])])
            .with_static_status("http://shop.test/1", status);
        let starts = ["http://shop.test/", "http://shop.test/1"];
        let crawl = Crawl::of(&shop_with("auto"), NO_LIMITS, &starts).await;
        // It is tried no more, whatever it is answered with.
        crawl.change("UPDATE url_queue SET unavailable_faults = 7 WHERE url LIKE '%/1'").await;
        let running = Running::of(crawl, driver, TIMES).await;
        let driver = running.driver.clone();
        let crawl = running.end().await;
        assert_eq!(crawl.texts(PAGES).await, ["/ completed 1".to_owned(), format!("/1 {ends}")]);
        let loads: Vec<_> = driver.loads().into_iter().map(|(_, url)| url.as_str().to_owned()).collect();
        assert_eq!(loads, ["http://shop.test/"], "only the page that is there was loaded too");
    }
}

#[tokio::test]
async fn a_host_that_is_asked_rarely_is_not_asked_twice() {
    let mut config = shop_with("auto");
    config["rate_limit_delay"] = json!(1000);
    let driver = FakeDriver::new()
        .with_page("http://shop.test/", [page(&["/1"])])
        .with_page("http://shop.test/1", [page(&[])])
        .with_static("http://shop.test/", answers(&["/1"], "the"));
    let running = Running::start(&config, driver, TIMES).await;
    let driver = running.driver.clone();
    running.end().await;
    assert_eq!((driver.static_reads(), driver.loads().len()), (0, 2));
}
