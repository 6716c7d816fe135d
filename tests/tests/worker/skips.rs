//! Links that a worker does not give to the frontier, and what is said of them.

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
