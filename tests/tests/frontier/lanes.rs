//! Lanes that are laid aside: nothing that comes into one lies there unseen, and however many there are, the others are looked at.

use std::time::Duration;

use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::control::LimitChanges;
use futures_util::future::join;
use harness::crawl::{Crawl, NO_LIMITS, finished, small_table};
use harness::wait::wait_for;

use super::WAITING;

/// Lays the lane of `b.test` aside, as a dispatcher does that has found it empty, in a transaction that is still open when
/// somebody comes who puts a page there, and waits for it.
async fn while_it_is_laid_aside<T>(crawl: &Crawl, act: impl Future<Output = T>) -> T {
    let mut dispatcher = crawl.pool.begin().await.unwrap();
    let lock = "SELECT host FROM lanes WHERE host = 'b.test' FOR UPDATE";
    sqlx::query(lock).execute(&mut *dispatcher).await.unwrap();
    let aside = async {
        let is_waited_for = async || crawl.number(WAITING).await == 1;
        wait_for("whoever puts a page there waits", Duration::from_secs(8), is_waited_for).await;
        let aside =
            "UPDATE lanes SET misses = 13, due_at = now() + interval '164 seconds' WHERE host = 'b.test'";
        sqlx::query(aside).execute(&mut *dispatcher).await.unwrap();
        dispatcher.commit().await.unwrap();
    };
    join(act, aside).await.0
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
    while_it_is_laid_aside(&crawl, worker.record(&found)).await.unwrap();
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
    let pages = while_it_is_laid_aside(&crawl, crawl.store.put_pages_back(None)).await;
    assert_eq!(pages.unwrap(), 1);
    assert!(crawl.number(NEXT_LOOK).await <= 0);
}

/// Lanes of hosts that have no page left, laid aside, as a broad crawl has very many of them at its end.
const LAID_ASIDE: &str = "
    INSERT INTO hosts (host) SELECT 'empty' || n || '.test' FROM generate_series(1, 3000) n;
    INSERT INTO lanes (execution_id, host, misses, due_at)
    SELECT id, 'empty' || n || '.test', 16, now() + interval '20 minutes' FROM workflow_executions, generate_series(1, 3000) n";
const DUE: &str = "SELECT count(*) FROM lanes WHERE due_at <= now()";
const MISSES: &str = "SELECT misses::int8 FROM lanes WHERE host = 'b.test'";

/// An execution with ten pages on each of two hosts, beside very many hosts that have none left.
async fn broad_crawl() -> Crawl {
    let host = |number| if number < 10 { "a.test" } else { "b.test" };
    let urls: Vec<_> = (0..20).map(|number| format!("http://{}/{number}", host(number))).collect();
    let crawl = Crawl::start(NO_LIMITS, &urls.iter().map(String::as_str).collect::<Vec<_>>()).await;
    sqlx::raw_sql(LAID_ASIDE).execute(&crawl.pool).await.unwrap();
    crawl
}

/// The hosts of the pages that a dispatcher takes in so many steps, in order.
async fn dispatched(crawl: &Crawl, steps: usize, limit: i64) -> Vec<String> {
    let mut hosts = Vec::new();
    for _ in 0..steps {
        let pages = crawl.store.reserve_pages(crawl.execution, limit).await.unwrap();
        hosts.extend(pages.iter().map(|page| page.url.host().to_owned()));
    }
    hosts
}

#[tokio::test]
async fn pages_that_are_put_back_wake_their_own_lanes_alone() {
    let crawl = broad_crawl().await;
    let limits = Limits { max_pages: Some(1), ..NO_LIMITS };
    let other = crawl.another(limits, &["http://c.test/1", "http://d.test/1"]).await;
    assert_eq!(crawl.store.reserve_pages(other, 10).await.unwrap().len(), 1);
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 1);
    let aside =
        "UPDATE lanes SET misses = 16, due_at = now() + interval '20 minutes' WHERE execution_id = $1";
    sqlx::query(aside).bind(other.0).execute(&crawl.pool).await.unwrap();
    let changes = LimitChanges { max_pages: Some(None), ..LimitChanges::default() };
    crawl.store.change_limits(other, changes, None).await.unwrap();
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 1);
    assert_eq!(crawl.number(DUE).await, 3, "its own, and the two that were due before");
    assert_eq!(crawl.store.reserve_pages(other, 10).await.unwrap().len(), 1);
    assert_eq!(dispatched(&crawl, 10, 4).await.len(), 20, "nobody is in the way of the others");
}

#[tokio::test]
async fn a_resumption_wakes_lanes_in_which_pages_wait_and_no_others() {
    let crawl = broad_crawl().await;
    // Its pages have just been found in somebody's hands.
    let missed = "UPDATE lanes SET misses = 8, due_at = now() + interval '5 seconds' WHERE host = 'b.test'";
    sqlx::query(missed).execute(&crawl.pool).await.unwrap();
    crawl.store.pause_execution(crawl.execution, None).await.unwrap();
    crawl.store.resume_execution(crawl.execution, None).await.unwrap();
    assert_eq!(crawl.number(DUE).await, 2);
    assert_eq!(dispatched(&crawl, 10, 4).await.len(), 20);
}

#[tokio::test]
async fn where_few_pages_are_wanted_a_step_gets_past_sixteen_lanes_that_have_none() {
    let crawl = broad_crawl().await;
    let before_all = "UPDATE lanes SET misses = 12, due_at = now() - interval '1 minute'
        WHERE host IN (SELECT 'empty' || n || '.test' FROM generate_series(1, 40) n)";
    sqlx::query(before_all).execute(&crawl.pool).await.unwrap();
    let mut hosts = dispatched(&crawl, 3, 3).await;
    hosts.sort();
    assert_eq!(hosts, ["a.test", "b.test"]);
    let aside = "SELECT count(*) FROM lanes WHERE misses = 16 AND due_at > now() + interval '10 minutes'";
    assert_eq!(crawl.number(aside).await, 3_000);
}

#[tokio::test]
async fn a_lane_whose_page_was_passed_over_comes_next_whatever_the_priority_of_its_page() {
    let urls = ["http://a.test/", "http://b.test/", "http://c.test/", "http://d.test/"];
    let crawl = Crawl::start(NO_LIMITS, &urls).await;
    // The last one has the highest priority, and the first one has been due for the longest time.
    let order = "UPDATE url_queue SET priority = ascii(host);
        UPDATE lanes SET misses = 3, due_at = now() - (105 - ascii(host)) * interval '1 second'";
    sqlx::raw_sql(order).execute(&crawl.pool).await.unwrap();
    assert_eq!(dispatched(&crawl, 4, 1).await, ["a.test", "b.test", "c.test", "d.test"]);
}

#[tokio::test]
async fn a_lane_waits_no_longer_than_it_has_been_empty_until_nobody_can_have_added_to_it_unseen() {
    let crawl = Crawl::start(NO_LIMITS, &["http://b.test/1"]).await;
    crawl.change("UPDATE url_queue SET status = 'completed'").await;
    let wait = "SELECT ceil(EXTRACT(EPOCH FROM due_at - now()) * 1000)::int8 FROM lanes";
    for look in 0..13 {
        sqlx::query("UPDATE lanes SET due_at = now()").execute(&crawl.pool).await.unwrap();
        assert!(dispatched(&crawl, 1, 10).await.is_empty());
        let (misses, wait) = (crawl.number(MISSES).await, crawl.number(wait).await);
        if look < 12 {
            assert!(misses == look + 1 && wait <= 20 << look, "{misses} misses, {wait} ms");
        } else {
            assert!(misses == 16 && wait > 20 * 60_000, "{misses} misses, {wait} ms");
        }
    }
}

#[tokio::test]
async fn a_lane_whose_host_bears_no_more_pages_now_is_not_taken_for_an_empty_one() {
    let limits = Limits { host_concurrency: Some(1), ..NO_LIMITS };
    let crawl = Crawl::start(limits, &["http://b.test/1"]).await;
    assert_eq!(dispatched(&crawl, 10, 1).await, ["b.test"]);
    let other = crawl.another(limits, &["http://b.test/2"]).await;
    sqlx::query("UPDATE url_queue SET status = 'completed' WHERE execution_id = $1")
        .bind(other.0)
        .execute(&crawl.pool)
        .await
        .unwrap();
    for _ in 0..13 {
        sqlx::query("UPDATE lanes SET due_at = now()").execute(&crawl.pool).await.unwrap();
        assert!(crawl.store.reserve_pages(other, 10).await.unwrap().is_empty());
    }
    assert_eq!(
        crawl.number("SELECT max(misses)::int8 FROM lanes").await,
        0,
        "nobody has seen that it is empty"
    );
}

#[tokio::test]
async fn a_lane_that_is_looked_at_late_and_has_no_page_is_laid_aside_for_as_long() {
    let crawl = Crawl::start(NO_LIMITS, &["http://b.test/1"]).await;
    let look = async |status| {
        crawl.change(status).await;
        let late = "UPDATE lanes SET misses = 1, due_at = now() - interval '1 minute'";
        sqlx::query(late).execute(&crawl.pool).await.unwrap();
        assert!(dispatched(&crawl, 1, 10).await.is_empty());
        (crawl.number(MISSES).await, crawl.number(NEXT_LOOK).await)
    };
    let (misses, wait) = look("UPDATE url_queue SET status = 'processing'").await;
    assert!(misses == 8 && wait <= 6, "its page may come back: {misses} misses, {wait} s");
    let (misses, wait) = look("UPDATE url_queue SET status = 'completed'").await;
    assert!(misses == 12 && wait <= 41, "{misses} misses, {wait} s");
}
