//! An execution ends when none of its pages is open, and its pages end with it.

use crawlify_shared::domain::outcome::{ErrorClass, Failure, PageOutcome};
use crawlify_shared::domain::page::NextStatus;
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::control::CancelMode;
use harness::crawl::{Crawl, NO_LIMITS, finished, small_table};

const PAGES: [&str; 2] = ["http://shop.test/", "http://shop.test/2"];
const EXECUTION: &str = "SELECT concat_ws(' ', status, error) FROM workflow_executions";

async fn ended(crawl: &Crawl) -> bool {
    !crawl.store.finish_executions().await.unwrap().is_empty()
}

#[tokio::test]
async fn an_execution_ends_only_when_no_page_is_open() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    let worker = crawl.worker().await;
    assert!(!ended(&crawl).await, "pending");
    let requests = crawl.queue().await;
    assert!(!ended(&crawl).await, "queued");
    let page = worker.claim(&requests, harness::crawl::LEASE, false).await.unwrap().remove(0);
    assert!(!ended(&crawl).await, "processing");
    worker.record(&[finished(&page, &small_table(), &["http://shop.test/2".to_owned()])]).await.unwrap();
    assert!(!ended(&crawl).await, "its link is pending");
    let page = crawl.claim(&worker).await.remove(0);
    worker.record(&[finished(&page, &small_table(), &["http://shop.test/".to_owned()])]).await.unwrap();
    assert!(ended(&crawl).await);
    assert!(!ended(&crawl).await, "once");
    assert_eq!(crawl.texts(EXECUTION).await, ["completed"]);
    let stats = "SELECT concat_ws(' ', stats->>'urls_discovered', stats->>'urls_processed', stats->>'urls_failed',
        stats->>'items_extracted', stats->>'nodes_executed', stats->>'nodes_failed') FROM workflow_executions";
    assert_eq!(crawl.texts(stats).await, ["1 2 0 2 4 0"]);
}

#[tokio::test]
async fn an_execution_none_of_whose_pages_loaded_has_failed_and_says_why() {
    for all in [true, false] {
        let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
        let worker = crawl.worker().await;
        let failure = Failure::new(ErrorClass::Dns, "the host name does not resolve");
        let pages = crawl.claim(&worker).await;
        let group: Vec<_> = pages
            .iter()
            .map(|page| {
                let mut page = finished(page, &small_table(), &[]);
                if all || page.page.url.as_str() == PAGES[0] {
                    page.outcome = PageOutcome::failed(failure.clone());
                    page.next = NextStatus::Failed(failure.clone());
                }
                page
            })
            .collect();
        worker.record(&group).await.unwrap();
        assert!(ended(&crawl).await);
        let expected =
            if all { "failed no page could be loaded: the host name does not resolve" } else { "completed" };
        assert_eq!(crawl.texts(EXECUTION).await, [expected]);
    }
}

#[tokio::test]
async fn pages_over_the_limit_are_skipped_and_the_execution_is_completed() {
    let crawl = Crawl::start(Limits { max_pages: Some(1), ..NO_LIMITS }, &PAGES).await;
    let worker = crawl.worker().await;
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 0, "the limit is not reached");
    let page = crawl.claim(&worker).await.remove(0);
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 1);
    worker.record(&[finished(&page, &small_table(), &["http://shop.test/3".to_owned()])]).await.unwrap();
    assert!(!ended(&crawl).await, "its link is open");
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 1);
    assert!(ended(&crawl).await);
    let rows = "SELECT concat_ws(' ', status, error_class, error) FROM url_queue ORDER BY 1";
    let skipped = "skipped limit the page limit (max_pages) was reached";
    assert_eq!(crawl.texts(rows).await, ["completed", skipped, skipped]);
}

#[tokio::test]
async fn a_retried_page_is_not_skipped_by_the_limit_that_admitted_it() {
    let crawl = Crawl::start(Limits { max_pages: Some(1), ..NO_LIMITS }, &PAGES).await;
    let worker = crawl.worker().await;
    let page = crawl.claim(&worker).await.remove(0);
    let mut retried = finished(&page, &small_table(), &[]);
    retried.next = NextStatus::Retry(Failure::new(ErrorClass::Http5xx, "503"), std::time::Duration::ZERO);
    worker.record(&[retried]).await.unwrap();
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 1, "the other one");
    assert!(!ended(&crawl).await);
    assert_eq!(crawl.claim(&worker).await[0].attempt, 2);
}

#[tokio::test]
async fn the_pages_of_a_cancelled_execution_are_cancelled_and_those_in_hand_end_by_themselves() {
    let crawl =
        Crawl::start(NO_LIMITS, &["http://shop.test/1", "http://shop.test/2", "http://shop.test/3"]).await;
    let other = crawl.another(NO_LIMITS, &PAGES).await;
    let worker = crawl.worker().await;
    crawl.store.reserve_pages(crawl.execution, 1).await.unwrap();
    let page = crawl.claim(&worker).await.remove(0);
    crawl.store.cancel_execution(crawl.execution, CancelMode::Graceful, None).await.unwrap();
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 1, "one was queued");
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 0);
    // What a page in hand finds is not crawled any more.
    worker.record(&[finished(&page, &small_table(), &["http://shop.test/4".to_owned()])]).await.unwrap();
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 1);
    // However long nobody has looked.
    crawl
        .change(
            "UPDATE workflow_executions SET completed_at = now() - interval '3 days' WHERE status = 'cancelled';
             UPDATE url_queue SET status = 'completed' WHERE status = 'processing';
             UPDATE url_queue SET status = 'pending' WHERE url LIKE '%/4'",
        )
        .await;
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 1);
    const SWEPT: &str = "SELECT count(*) FROM workflow_executions WHERE swept_at IS NOT NULL";
    assert_eq!(crawl.number(SWEPT).await, 0, "it was just now that something was left");
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 0);
    assert_eq!(crawl.number(SWEPT).await, 1, "the cancelled one alone");
    let open = "SELECT count(*) FROM url_queue q JOIN workflow_executions e ON e.id = q.execution_id
        WHERE e.status = 'cancelled' AND q.status = 'pending'";
    assert_eq!(crawl.number(open).await, 0);
    assert_eq!(crawl.store.page_counts(other).await.unwrap().pending, 2, "the other execution goes on");
    assert!(!ended(&crawl).await);
}
