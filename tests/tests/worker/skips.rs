//! Links that a worker does not give to the frontier, and what is said of them.

use std::time::Instant;

use crawlify_shared::domain::skip::SkipReason;
use harness::crawl::{Crawl, NO_LIMITS};
use harness::fault_proxy::FaultProxy;
use serde_json::json;

use super::*;

async fn skipped(crawl: &Crawl, reason: SkipReason) -> Vec<String> {
    let rows = crawl.store.skipped_urls(crawl.execution, Some(reason), None, 100).await.unwrap();
    rows.iter().map(|row| format!("{}: {}", row.url.replace("http://shop.test", ""), row.detail)).collect()
}

fn filter(id: &str, needs: &str, pattern: &str) -> Value {
    json!({"id": id, "type": "filter_urls", "dependencies": [needs], "params": {"exclude_patterns": [pattern]}})
}

/// One of the pages has to wait, until the test wants it.
const LATE: &str =
    "UPDATE url_queue SET not_before = now() + interval '1 hour' WHERE url = 'http://shop.test/late'";
const NOW: &str = "UPDATE url_queue SET not_before = now() WHERE status = 'pending'";

/// What is said of the link that [`without_login`] skips.
const LOGIN: [&str; 1] = ["/login: the filter `no_login` dropped it"];

/// A shop whose login is not visited.
fn without_login() -> Value {
    workflow(
        json!([links("links", "a"), filter("no_login", "links", "login")]),
        json!([extract("title", "h1")]),
    )
}

#[tokio::test]
async fn links_that_filters_drop_are_reported_with_the_filter_unless_another_node_keeps_them() {
    let config = workflow(
        json!([
            links("menu", "nav a"),
            filter("no_login", "menu", "login|sale"),
            links("more", "a"),
            filter("no_print", "more", "login|print")
        ]),
        json!([extract("title", "h1")]),
    );
    let links = page(&["/1", "/sale", "/login", "/print"]);
    let driver = FakeDriver::new()
        .with_page("http://shop.test/", [links])
        .with_page("http://shop.test/1", [page(&["/print"])])
        .with_page("http://shop.test/print", [page(&[])])
        .with_page("http://shop.test/sale", [page(&[])]);
    let crawl = Running::start(&config, driver, TIMES).await.end().await;
    assert_eq!(
        crawl.texts(PAGES).await,
        ["/ completed 1", "/1 completed 1", "/print completed 1", "/sale completed 1"]
    );
    assert_eq!(skipped(&crawl, SkipReason::Scope).await, ["/login: the filter `no_login` dropped it"]);
}

#[tokio::test]
async fn links_beyond_the_depth_are_reported_where_they_are_known() {
    let mut config = workflow(json!([links("links", "a")]), json!([links("related", "aside a")]));
    config["max_depth"] = json!(1);
    let driver = FakeDriver::new()
        .with_page("http://shop.test/", [page(&["/1"])])
        .with_page("http://shop.test/1", [page(&["/", "/2"])]);
    let crawl = Running::start(&config, driver, TIMES).await.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 1", "/1 completed 1"]);
    let expected = "/2: it lies at depth 2, and links are followed to depth 1";
    assert_eq!(skipped(&crawl, SkipReason::Depth).await, [expected], "the start page is known");
}

#[tokio::test]
async fn a_crawl_visits_no_more_pages_below_a_path_than_its_budget_says() {
    let mut config = shop();
    config["budgets"] = json!({"path_prefixes": [{"prefix": "/sale/", "max_pages": 3}]});
    let links: Vec<String> = (0..12).flat_map(|n| [format!("/sale/{n}"), format!("/book/{n}")]).collect();
    let links: Vec<&str> = links.iter().map(String::as_str).collect();
    let home = FakeDriver::new().with_page("http://shop.test/", [page(&links)]);
    let driver = links.iter().fold(home, |driver, link| {
        driver.with_page(&format!("http://shop.test{link}"), [page(&["/sale/late"])])
    });
    let driver = driver.with_page("http://shop.test/sale/late", [page(&[])]);
    let crawl = Running::start(&config, driver, TIMES).await.end().await;
    let visited = "SELECT count(*) FROM url_queue WHERE status = 'completed'";
    assert_eq!(crawl.number(visited).await, 1 + 12 + 3);
    assert_eq!(
        skipped(&crawl, SkipReason::PathBudget).await.len(),
        10,
        "nine of the first page's, and the late one"
    );
    assert_eq!(crawl.texts("SELECT status FROM workflow_executions").await, ["completed"]);
}

#[tokio::test]
async fn a_crawl_ends_when_its_time_is_over() {
    let mut config = shop();
    // Its start counts too.
    config["budgets"] = json!({"time": 5});
    config["rate_limit_delay"] = json!(300);
    let links: Vec<String> = (0..200).map(|n| format!("/{n}")).collect();
    let links: Vec<&str> = links.iter().map(String::as_str).collect();
    let home = FakeDriver::new().with_page("http://shop.test/", [page(&links)]);
    let driver = links
        .iter()
        .fold(home, |driver, link| driver.with_page(&format!("http://shop.test{link}"), [page(&[])]));
    let began = Instant::now();
    let crawl = Running::start(&config, driver, TIMES).await.end().await;
    assert!(began.elapsed() < Duration::from_secs(25), "it took {:?}", began.elapsed());
    let visited = crawl.number("SELECT count(*) FROM url_queue WHERE status = 'completed'").await;
    assert!((1..30).contains(&visited), "{visited} pages were visited");
    let skipped = crawl.number("SELECT count(*) FROM url_queue WHERE error_class = 'time_budget'").await;
    assert_eq!(visited + skipped, 201);
    assert_eq!(crawl.texts("SELECT status FROM workflow_executions").await, ["completed"]);
}

#[tokio::test]
async fn links_of_a_page_that_lost_its_lease_before_it_was_recorded_are_reported_when_it_is_executed_again() {
    const REFUSING: &str = "
        CREATE SEQUENCE refusals;
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM nextval('refusals');
            RAISE EXCEPTION 'refused by the test';
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON extracted_items FOR EACH STATEMENT EXECUTE FUNCTION refuse();";
    const WAITS: &str = "SELECT (last_value > 1)::int::int8 FROM refusals";
    // As the rescuer does, but for the time when it may be tried.
    const TAKEN_AWAY: &str = "
        UPDATE url_queue SET status = 'pending', attempt = attempt - 1, epoch = epoch + 1,
        locked_at = NULL, locked_by = NULL, locked_until = NULL, not_before = now() + interval '1 hour'";
    let driver = FakeDriver::new().with_page("http://shop.test/", [page(&["/login"])]);
    let crawl = Crawl::of(&without_login(), NO_LIMITS, &["http://shop.test/"]).await;
    crawl.change(REFUSING).await;
    let running = Running::of(crawl, driver, TIMES).await;
    running.wait("the page was executed, and waits to be recorded", WAITS).await;
    running.crawl.change(TAKEN_AWAY).await;
    running.crawl.change("DROP FUNCTION refuse CASCADE").await;
    running.exports("crawlify_duplicates_dropped_total 1").await;
    assert_eq!(skipped(&running.crawl, SkipReason::Scope).await, [""; 0], "nothing of it was written");
    running.crawl.change(NOW).await;
    let crawl = running.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 1"]);
    assert_eq!(skipped(&crawl, SkipReason::Scope).await, LOGIN);
}

#[tokio::test]
async fn links_of_a_page_whose_data_are_refused_are_reported_by_the_next_page_that_has_them() {
    const REFUSING: &str = "
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'refused by the test' USING ERRCODE = '22P05'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON extracted_items
            FOR EACH ROW WHEN (NEW.url LIKE '%/bad') EXECUTE FUNCTION refuse();";
    const REFUSED: &str = "SELECT count(*) FROM url_queue WHERE status = 'failed'";
    let urls = ["http://shop.test/bad", "http://shop.test/late"];
    let driver =
        urls.iter().fold(FakeDriver::new(), |driver, url| driver.with_page(url, [page(&["/login"])]));
    let crawl = Crawl::of(&without_login(), NO_LIMITS, &urls).await;
    crawl.change(LATE).await;
    crawl.change(REFUSING).await;
    let running = Running::of(crawl, driver, TIMES).await;
    running.wait("one page is refused", REFUSED).await;
    running.crawl.change(NOW).await;
    let crawl = running.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/bad failed 1 internal", "/late completed 1"]);
    assert_eq!(skipped(&crawl, SkipReason::Scope).await, LOGIN);
}

#[tokio::test]
async fn links_are_reported_once_more_where_another_server_may_be_there_that_does_not_have_them() {
    const RECORDED: &str = "SELECT count(*) FROM url_queue WHERE status = 'completed'";
    let urls = ["http://shop.test/", "http://shop.test/late"];
    let driver =
        urls.iter().fold(FakeDriver::new(), |driver, url| driver.with_page(url, [page(&["/login"])]));
    let crawl = Crawl::of(&without_login(), NO_LIMITS, &urls).await;
    crawl.change(LATE).await;
    let (proxy, url) = FaultProxy::before_postgres(&crawl.database.url()).await;
    let running = Running::behind(crawl, &url, driver, TIMES).await;
    running.wait("one page is recorded", RECORDED).await;
    assert_eq!(skipped(&running.crawl, SkipReason::Scope).await, LOGIN);
    // As a standby that takes over may have missed them.
    running.crawl.change("DELETE FROM skipped_links").await;
    proxy.cut();
    running.crawl.change(NOW).await;
    let crawl = running.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 1", "/late completed 1"]);
    assert_eq!(skipped(&crawl, SkipReason::Scope).await, LOGIN);
}
