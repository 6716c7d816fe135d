//! Which pages are reserved for publishing: in order, by one dispatcher, up to the page limit.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::broker::InProcessBroker;
use crawlify_shared::config::LeaseTimes;
use crawlify_shared::domain::outcome::{ErrorClass, Failure};
use crawlify_shared::domain::page::{FinishedPage, NextStatus};
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::Store;
use crawlify_shared::store::control::CancelMode;
use crawlify_shared::telemetry;
use futures_util::future::{join, join_all};
use harness::crawl::{Crawl, NO_LIMITS, finished, small_table};
use harness::wait::wait_for;
use tokio_util::sync::CancellationToken;

use super::WAITING;

fn urls(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("http://shop.test/{number}")).collect()
}

async fn crawl_of(pages: usize, max_pages: Option<u64>) -> Crawl {
    let urls = urls(pages);
    let limits = Limits { max_pages, ..NO_LIMITS };
    Crawl::start(limits, &urls.iter().map(String::as_str).collect::<Vec<_>>()).await
}

async fn reserve(crawl: &Crawl, limit: i64) -> Vec<String> {
    let pages = crawl.store.reserve_pages(crawl.execution, limit).await.unwrap();
    pages.iter().map(|page| page.url.as_str().trim_start_matches("http://shop.test/").to_owned()).collect()
}

#[tokio::test]
async fn pages_are_reserved_by_priority_then_by_age() {
    let crawl = crawl_of(5, None).await;
    crawl
        .change(
            "UPDATE url_queue SET not_before = now() - interval '1 hour' WHERE url LIKE '%/3';
             UPDATE url_queue SET not_before = now() - interval '2 hours' WHERE url LIKE '%/1';
             UPDATE url_queue SET priority = 7, not_before = now() - interval '1 day' WHERE url LIKE '%/0';
             UPDATE url_queue SET priority = 101 WHERE url LIKE '%/4'",
        )
        .await;
    let mut order = Vec::new();
    for _ in 0..5 {
        order.extend(reserve(&crawl, 1).await);
    }
    assert_eq!(order, ["4", "1", "3", "2", "0"]);
}

#[tokio::test]
async fn what_one_dispatcher_has_no_other_one_gets_until_it_is_returned() {
    let crawl = crawl_of(2, None).await;
    let reserved = crawl.store.reserve_pages(crawl.execution, 10).await.unwrap();
    assert_eq!(reserved.len(), 2);
    let other = Store::connect(&crawl.database.url(), 1).unwrap();
    assert!(other.reserve_pages(crawl.execution, 10).await.unwrap().is_empty());
    crawl.store.return_unpublished(&reserved[..1]).await.unwrap();
    let again = other.reserve_pages(crawl.execution, 10).await.unwrap();
    assert_eq!(again.iter().map(|page| page.page_id).collect::<Vec<_>>(), [reserved[0].page_id]);
    assert_eq!(crawl.number("SELECT pages_admitted FROM workflow_executions").await, 2, "each counts once");
}

#[tokio::test]
async fn nothing_is_reserved_before_its_time_or_for_an_execution_that_does_not_run() {
    let crawl = crawl_of(2, None).await;
    crawl.change("UPDATE url_queue SET not_before = now() + interval '1 hour' WHERE url LIKE '%/0'").await;
    assert_eq!(reserve(&crawl, 10).await, ["1"]);
    crawl.change("UPDATE url_queue SET not_before = now(), status = 'pending'").await;
    crawl.store.cancel_execution(crawl.execution, CancelMode::Graceful, None).await.unwrap();
    assert!(reserve(&crawl, 10).await.is_empty());
    assert!(crawl.store.running_executions(None).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_page_limit_is_exact_however_many_dispatch_at_once() {
    const LIMIT: usize = 37;
    let crawl = crawl_of(200, Some(LIMIT as u64)).await;
    let coordinators: Vec<_> = (0..8).map(|_| Store::connect(&crawl.database.url(), 2).unwrap()).collect();
    let mut pages = HashSet::new();
    let mut total = 0;
    for _ in 0..40 {
        let steps = coordinators.iter().map(|store| store.reserve_pages(crawl.execution, 5));
        for reserved in join_all(steps).await {
            let reserved = reserved.unwrap();
            total += reserved.len();
            pages.extend(reserved.iter().map(|page| page.page_id));
        }
        if total >= LIMIT {
            break;
        }
    }
    assert_eq!((total, pages.len()), (LIMIT, LIMIT));
    let steps = coordinators.iter().map(|store| store.reserve_pages(crawl.execution, 5));
    assert!(join_all(steps).await.into_iter().all(|reserved| reserved.unwrap().is_empty()));
    assert_eq!(crawl.number("SELECT count(*) FROM url_queue WHERE admitted").await, LIMIT as i64);
}

#[tokio::test]
async fn a_page_that_comes_back_counts_towards_the_limit_once() {
    let crawl = crawl_of(4, Some(2)).await;
    assert_eq!(crawl.queue().await.len(), 2);
    crawl.change("UPDATE url_queue SET status = 'pending', epoch = epoch + 1 WHERE status = 'queued'").await;
    assert_eq!(crawl.queue().await.len(), 2, "the same two");
    assert_eq!(crawl.number("SELECT pages_admitted FROM workflow_executions").await, 2);
}

#[tokio::test]
async fn recording_pages_does_not_keep_the_dispatcher_out() {
    let crawl = crawl_of(3, None).await;
    // Whoever writes a row that belongs to an execution holds this lock until its commit; a busy fleet always does.
    let mut recording = crawl.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM workflow_executions FOR KEY SHARE").execute(&mut *recording).await.unwrap();
    assert_eq!(reserve(&crawl, 10).await.len(), 3);
    recording.rollback().await.unwrap();
}

#[tokio::test]
async fn one_row_that_this_version_cannot_read_fails_alone() {
    let crawl = crawl_of(3, None).await;
    crawl.change("UPDATE url_queue SET url = 'gopher://shop.test/1' WHERE url LIKE '%/1'").await;
    let requests = crawl.queue().await;
    assert_eq!(requests.len(), 2);
    let worker = crawl.worker().await;
    let pages = worker.claim(&requests, harness::crawl::LEASE, false).await.unwrap();
    let group: Vec<_> = pages.iter().map(|page| finished(page, &small_table(), &[])).collect();
    worker.record(&group).await.unwrap();
    let ended = crawl.store.finish_executions().await.unwrap();
    assert_eq!(ended, [(crawl.execution, "completed".to_owned())]);
    let failed = "SELECT concat_ws(' ', url, error_class) FROM url_queue WHERE status = 'failed'";
    assert_eq!(crawl.texts(failed).await, ["gopher://shop.test/1 internal"]);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn what_was_published_after_all_is_not_returned() {
    let crawl = crawl_of(2, None).await;
    let reserved = crawl.store.reserve_pages(crawl.execution, 10).await.unwrap();
    crawl.change("UPDATE url_queue SET status = 'completed' WHERE url LIKE '%/0'").await;
    crawl.change("UPDATE url_queue SET epoch = epoch + 1 WHERE url LIKE '%/1'").await;
    crawl.store.return_unpublished(&reserved).await.unwrap();
    assert_eq!(crawl.number("SELECT count(*) FROM url_queue WHERE status = 'pending'").await, 0);
}

#[tokio::test]
async fn lanes_take_turns_however_many_pages_one_of_them_has() {
    let urls = urls(20).into_iter().chain((0..3).map(|number| format!("http://small{number}.test/")));
    let urls: Vec<_> = urls.collect();
    let crawl = Crawl::start(NO_LIMITS, &urls.iter().map(String::as_str).collect::<Vec<_>>()).await;
    crawl.change("UPDATE url_queue SET priority = 200 WHERE host = 'shop.test'").await;
    let mut hosts = Vec::new();
    for _ in 0..4 {
        let pages = crawl.store.reserve_pages(crawl.execution, 1).await.unwrap();
        hosts.extend(pages.iter().map(|page| page.url.host().to_owned()));
    }
    hosts.sort();
    assert_eq!(hosts, ["shop.test", "small0.test", "small1.test", "small2.test"]);
}

#[tokio::test]
async fn a_lane_without_pages_is_looked_at_more_rarely_until_a_page_comes() {
    let crawl = crawl_of(1, None).await;
    let worker = crawl.worker().await;
    let page = crawl.claim(&worker).await.remove(0);
    for misses in 1..=3 {
        let looked_at: chrono::DateTime<chrono::Utc> =
            sqlx::query_scalar("UPDATE lanes SET due_at = now() RETURNING due_at")
                .fetch_one(&crawl.pool)
                .await
                .unwrap();
        assert!(reserve(&crawl, 10).await.is_empty());
        assert_eq!(crawl.number("SELECT misses::int8 FROM lanes").await, misses);
        // Twice as long each time, from 20 ms on.
        let later: bool = sqlx::query_scalar(
            "SELECT due_at >= $1::timestamptz + 10 * (1 << misses) * interval '1 ms' FROM lanes",
        )
        .bind(looked_at)
        .fetch_one(&crawl.pool)
        .await
        .unwrap();
        assert!(later, "after {misses} misses");
    }
    worker.record(&[finished(&page, &small_table(), &["http://shop.test/new".to_owned()])]).await.unwrap();
    assert_eq!(reserve(&crawl, 10).await, ["new"], "at once");
}

#[tokio::test]
async fn only_a_lane_without_any_page_is_hardly_ever_looked_at() {
    let crawl = crawl_of(1, None).await;
    let misses = async || {
        sqlx::query("UPDATE lanes SET due_at = now(), misses = 8").execute(&crawl.pool).await.unwrap();
        assert!(reserve(&crawl, 10).await.is_empty());
        crawl.number("SELECT misses::int8 FROM lanes").await
    };
    crawl.change("UPDATE url_queue SET not_before = now() + interval '1 hour'").await;
    assert_eq!(misses().await, 8, "a page waits for its time");
    crawl.change("UPDATE url_queue SET status = 'processing'").await;
    assert_eq!(misses().await, 8, "a page may come back");
    crawl.change("UPDATE url_queue SET status = 'completed'").await;
    assert_eq!(misses().await, 9);
}

#[tokio::test]
async fn pages_that_are_to_be_tried_again_come_after_those_that_were_there_before_and_those_given_back_do_not()
 {
    let crawl = crawl_of(5, None).await;
    let worker = crawl.worker().await;
    let mut pages = crawl.claim(&worker).await;
    pages.sort_by_key(|page| page.url.as_str().to_owned());
    let failure = Failure::new(ErrorClass::Http5xx, "the server answered with HTTP status 500");
    let back = |page, next| FinishedPage { next, ..finished(page, &small_table(), &[]) };
    let retried = [back(&pages[0], NextStatus::Retry(failure, Duration::from_millis(50)))];
    worker.record(&retried).await.unwrap();
    let released: Vec<_> = pages[1..].iter().map(|page| back(page, NextStatus::Released)).collect();
    worker.record(&released).await.unwrap();
    let order = "SELECT url FROM url_queue WHERE status = 'pending' ORDER BY priority DESC, not_before, id";
    let mut order = crawl.texts(order).await;
    assert_eq!(order.pop().as_deref(), Some(pages[0].url.as_str()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let first = crawl.store.reserve_pages(crawl.execution, 4).await.unwrap();
    assert!(first.iter().all(|page| page.page_id != pages[0].page_id));
    let last = crawl.store.reserve_pages(crawl.execution, 4).await.unwrap();
    assert_eq!(last.iter().map(|page| page.page_id).collect::<Vec<_>>(), [pages[0].page_id]);
}

/// Adds older executions, each with a page that waits for its time on a host of its own.
const OLDER: &str = "
    WITH older AS (
        INSERT INTO workflow_executions (id, workflow_id, version, status, started_at)
        SELECT gen_random_uuid(), workflow_id, version, 'running', started_at - interval '1 hour'
        FROM workflow_executions, generate_series(1, 1200)
        RETURNING id
    ), hosts AS (
        INSERT INTO hosts (host) SELECT id || '.test' FROM older
    ), lanes AS (
        INSERT INTO lanes (execution_id, host) SELECT id, id || '.test' FROM older
    )
    INSERT INTO url_queue (id, execution_id, url, url_hash, host, not_before)
    SELECT gen_random_uuid(), id, 'http://' || id || '.test/', 'hash', id || '.test', now() + interval '1 hour' FROM older";

#[tokio::test]
async fn the_youngest_of_very_many_executions_is_dispatched_too() {
    let crawl = crawl_of(2, None).await;
    crawl.change(OLDER).await;
    let stop = CancellationToken::new();
    let coordinator = crawlify_coordinator::start(
        crawlify_coordinator::Config {
            listen: None,
            lease: LeaseTimes::default(),
            only: None,
            broker_forgets: false,
        },
        Store::connect(&crawl.database.url(), 8).unwrap(),
        Arc::new(InProcessBroker::new()),
        telemetry::registry(),
        stop.clone(),
    )
    .await
    .unwrap();
    wait_for("its pages are dispatched", Duration::from_secs(60), async || {
        crawl.number("SELECT count(*) FROM url_queue WHERE status = 'queued'").await == 2
    })
    .await;
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(60), coordinator.stopped()).await.unwrap();
}

#[tokio::test]
async fn pages_are_dispatched_while_requests_have_all_connections() {
    let crawl = Crawl::start(NO_LIMITS, &["http://a.test/1"]).await;
    let store = Store::connect(&crawl.database.url(), 1).unwrap();
    let mut holder = crawl.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE workflows").execute(&mut *holder).await.unwrap();
    let dispatching = async {
        let is_waiting = async || crawl.number(WAITING).await == 1;
        wait_for("the request waits", Duration::from_secs(10), is_waiting).await;
        let pages = store.reserve_pages(crawl.execution, 10).await;
        holder.rollback().await.unwrap();
        pages.unwrap().len()
    };
    let (workflows, pages) = join(store.workflow_count(None), dispatching).await;
    assert_eq!((workflows.unwrap(), pages), (1, 1));
}
