//! Links that a worker does not give to the frontier, and what is said of them.

use std::time::Instant;

use crawlify_shared::domain::skip::SkipReason;
use harness::crawl::Crawl;
use serde_json::json;

use super::*;

async fn skipped(crawl: &Crawl, reason: SkipReason) -> Vec<String> {
    let rows = crawl.store.skipped_urls(crawl.execution, Some(reason), None, 100).await.unwrap();
    rows.iter().map(|row| format!("{}: {}", row.url.replace("http://shop.test", ""), row.detail)).collect()
}

fn filter(id: &str, needs: &str, pattern: &str) -> Value {
    json!({"id": id, "type": "filter_urls", "dependencies": [needs], "params": {"exclude_patterns": [pattern]}})
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
    config["budgets"] = json!({"time": 1});
    config["rate_limit_delay"] = json!(300);
    let links: Vec<String> = (0..200).map(|n| format!("/{n}")).collect();
    let links: Vec<&str> = links.iter().map(String::as_str).collect();
    let home = FakeDriver::new().with_page("http://shop.test/", [page(&links)]);
    let driver = links
        .iter()
        .fold(home, |driver, link| driver.with_page(&format!("http://shop.test{link}"), [page(&[])]));
    let began = Instant::now();
    let crawl = Running::start(&config, driver, TIMES).await.end().await;
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    let visited = crawl.number("SELECT count(*) FROM url_queue WHERE status = 'completed'").await;
    assert!((1..30).contains(&visited), "{visited} pages were visited");
    let skipped = crawl.number("SELECT count(*) FROM url_queue WHERE error_class = 'time_budget'").await;
    assert_eq!(visited + skipped, 201);
    assert_eq!(crawl.texts("SELECT status FROM workflow_executions").await, ["completed"]);
}
