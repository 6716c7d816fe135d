//! Lanes that are laid aside: nothing that comes into one lies there unseen.

use std::time::Duration;

use futures_util::future::join;
use harness::crawl::{Crawl, NO_LIMITS, finished, small_table};

/// Lays the lane of `b.test` aside, as a dispatcher does that has found it empty, in a transaction that is open for a while.
async fn lay_aside(crawl: &Crawl) {
    let mut dispatcher = crawl.pool.begin().await.unwrap();
    let lock = "SELECT host FROM lanes WHERE host = 'b.test' FOR UPDATE";
    sqlx::query(lock).execute(&mut *dispatcher).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let aside = "UPDATE lanes SET misses = 13, due_at = now() + interval '164 seconds' WHERE host = 'b.test'";
    sqlx::query(aside).execute(&mut *dispatcher).await.unwrap();
    dispatcher.commit().await.unwrap();
}

const NEXT_LOOK: &str =
    "SELECT ceil(EXTRACT(EPOCH FROM due_at - now()))::int8 FROM lanes WHERE host = 'b.test'";

#[tokio::test]
async fn a_link_that_is_recorded_while_a_dispatcher_lays_its_lane_aside_is_not_left_there() {
    let crawl = Crawl::start(NO_LIMITS, &["http://a.test/1", "http://b.test/1"]).await;
    let worker = crawl.worker().await;
    let pages = crawl.claim(&worker).await;
    crawl.change("UPDATE url_queue SET status = 'completed' WHERE host = 'b.test'").await;
    sqlx::query("UPDATE lanes SET misses = 12").execute(&crawl.pool).await.unwrap();
    let page = pages.iter().find(|page| page.host == "a.test").unwrap();
    let found = [finished(page, &small_table(), &["http://b.test/2".to_owned()])];
    let record = async {
        // The dispatcher has the lane by then.
        tokio::time::sleep(Duration::from_millis(100)).await;
        worker.record(&found).await.unwrap()
    };
    join(lay_aside(&crawl), record).await;
    assert!(crawl.number(NEXT_LOOK).await <= 0);
}

#[tokio::test]
async fn a_page_that_is_put_back_while_a_dispatcher_lays_its_lane_aside_is_not_left_there() {
    let crawl = Crawl::start(NO_LIMITS, &["http://b.test/1"]).await;
    let failed = "UPDATE url_queue SET status = 'failed', error_class = 'internal', processed_at = now() - interval '1 minute';
        INSERT INTO page_counters (execution_id, worker_id, failed)
        SELECT id, '00000000-0000-0000-0000-000000000000', 1 FROM workflow_executions";
    crawl.change(failed).await;
    sqlx::query("UPDATE lanes SET misses = 12").execute(&crawl.pool).await.unwrap();
    crawl.store.retry_execution(crawl.execution, None).await.unwrap();
    let put_back = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        crawl.store.put_pages_back(None).await.unwrap()
    };
    let ((), pages) = join(lay_aside(&crawl), put_back).await;
    assert_eq!(pages, 1);
    assert!(crawl.number(NEXT_LOOK).await <= 0);
}
