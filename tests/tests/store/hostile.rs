//! What pages may contain: nothing of it may keep a page, or the pages recorded with it, from being recorded.

use crawlify_shared::domain::outcome::{ErrorClass, Failure, NodeEnd};
use crawlify_shared::domain::page::NextStatus;
use crawlify_shared::domain::page_url::{MAX_URL_BYTES, PageUrl};
use crawlify_shared::domain::storable::{parse_lossy, storable_json};
use crawlify_shared::store::StoreError;
use crawlify_shared::telemetry::chain;
use harness::crawl::{Crawl, NO_LIMITS, finished, small_table};
use serde_json::{Value, json};

const PAGES: [&str; 2] = ["http://shop.test/", "http://shop.test/2"];

#[tokio::test]
async fn text_that_postgres_refuses_is_cleaned_and_stored() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let worker = crawl.worker().await;
    let pages = crawl.claim(&worker).await;
    let scraped =
        parse_lossy(r#"{"title": "a\u0000b\ud800c", "k\u0000ey": ["\udc00", 1e308, -0.0]}"#).unwrap();
    let mut hostile = finished(&pages[0], &small_table(), &[]);
    hostile.outcome.item = Some(storable_json(scraped.clone(), 1 << 20));
    hostile.outcome.nodes[1].end = NodeEnd::Completed(storable_json(scraped, 1 << 20));
    let group = [hostile, finished(&pages[1], &small_table(), &[])];
    assert_eq!(worker.record(&group).await.unwrap().len(), 2);
    let titles = "SELECT data->>'title' FROM extracted_items ORDER BY 1";
    assert_eq!(crawl.texts(titles).await, ["a title", "ab\u{fffd}c"]);
}

#[tokio::test]
async fn error_messages_with_nul_are_stored_without_it() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let worker = crawl.worker().await;
    let pages = crawl.claim(&worker).await;
    let failure = Failure::new(ErrorClass::Script, format!("the page says \0 {}", "long ".repeat(100_000)));
    let mut node_failed = finished(&pages[0], &small_table(), &[]);
    node_failed.outcome.nodes[1].end = NodeEnd::Failed(failure.clone());
    let mut page_failed = finished(&pages[1], &small_table(), &[]);
    page_failed.next = NextStatus::Failed(failure);
    assert_eq!(worker.record(&[node_failed, page_failed]).await.unwrap().len(), 2);
    let errors = "SELECT error FROM url_queue WHERE error IS NOT NULL
        UNION ALL SELECT error FROM node_executions WHERE error IS NOT NULL";
    for error in crawl.texts(errors).await {
        assert!(error.starts_with("the page says  long"), "{error}");
        assert!(error.len() < 10_000, "an error is a sentence, not {} bytes", error.len());
    }
}

#[tokio::test]
async fn long_urls_are_stored_up_to_the_limit_and_refused_beyond() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let worker = crawl.worker().await;
    let page = crawl.claim(&worker).await.remove(0);
    let longest = format!("http://shop.test/{}", "x".repeat(MAX_URL_BYTES - "http://shop.test/".len()));
    assert!(PageUrl::parse(&format!("http://shop.test/{}", "x".repeat(12_000))).is_err());
    let mut done = finished(&page, &small_table(), &[longest]);
    // A redirect's address is not ours to refuse.
    done.outcome.final_url = Some(format!("http://shop.test/{}", "y".repeat(12_000)));
    assert_eq!(worker.record(&[done]).await.unwrap().len(), 1);
    assert_eq!(crawl.number("SELECT max(length(url))::int8 FROM url_queue").await, MAX_URL_BYTES as i64);
}

#[tokio::test]
async fn big_items_and_outputs_are_stored() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let worker = crawl.worker().await;
    let pages = crawl.claim(&worker).await;
    let big = json!({"text": "\"é".repeat(1 << 20), "list": vec![1; 10_000]});
    let group: Vec<_> = pages
        .iter()
        .map(|page| {
            let mut page = finished(page, &small_table(), &[]);
            page.outcome.item = Some(big.clone());
            page.outcome.nodes[1].end = NodeEnd::Completed(big.clone());
            page
        })
        .collect();
    assert_eq!(worker.record(&group).await.unwrap().len(), 2);
    assert_eq!(
        crawl.number("SELECT length(data->>'text')::int8 FROM extracted_items LIMIT 1").await,
        2 << 20
    );
}

#[tokio::test]
async fn data_that_postgres_refuses_all_the_same_are_told_apart_from_an_outage() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let worker = crawl.worker().await;
    let pages = crawl.claim(&worker).await;
    let mut bad = finished(&pages[0], &small_table(), &[]);
    bad.outcome.item = Some(Value::from("a\0b"));
    let good = finished(&pages[1], &small_table(), &[]);
    let error = worker.record(&[bad, good.clone()]).await.expect_err("an item has a NUL");
    assert!(matches!(error, StoreError::BadData(_)), "{error:?}");
    let logged = chain(&error);
    assert!(logged.contains("22P05") && !logged.contains("DETAIL"), "what it shows is the page's: {logged}");
    assert_eq!(crawl.number("SELECT count(*) FROM node_executions").await, 0, "all or nothing");
    assert_eq!(worker.record(&[good]).await.unwrap().len(), 1);
}
