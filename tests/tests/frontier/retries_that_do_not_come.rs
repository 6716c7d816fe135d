//! Retries that were counted when their pages were recorded, and do not come, as time is over or the execution is
//! cancelled: they are counted no longer, nor are they in what is told of the execution.

use std::time::Duration;

use crawlify_shared::domain::outcome::{Failure, PageOutcome};
use crawlify_shared::domain::page::{ClaimedPage, FinishedPage, NextStatus};
use crawlify_shared::domain::workflow::parse_budget_changes;
use crawlify_shared::store::control::{CancelMode, Controlled, LimitChanges};
use crawlify_shared::store::heard_again::TakenBack;
use crawlify_shared::store::hot::{HotStore, Standing};
use crawlify_shared::store::rescue::Patience;
use harness::crawl::{Crawl, NO_LIMITS, VITALS, finished, small_table, small_workflow};
use harness::invariants::{assert_ended_are_sound, assert_sound};
use serde_json::json;

const PAGES: [&str; 3] = ["http://shop.test/1", "http://shop.test/2", "http://shop.test/3"];
const RETRIED: &str = "SELECT COALESCE(sum(retried), 0)::int8 FROM page_counters";
/// How many pages of each status and attempt there are.
const STATUSES: &str =
    "SELECT concat_ws(' ', status, attempt, count(*)) FROM url_queue GROUP BY status, attempt ORDER BY 1";
const TIME_PASSES: &str = "UPDATE workflow_executions SET started_at = started_at - interval '61 seconds'";
const SILENCE: &str = "UPDATE workers SET heartbeat_at = now() - interval '16 seconds'";
// The tests' server may have been started just now.
const PATIENCE: Patience =
    Patience { worker_lost_after: Duration::from_secs(15), after_start: Duration::ZERO, server: None };

/// A crawl of so many pages that has a minute.
async fn crawl_of(pages: usize) -> (Crawl, HotStore) {
    let mut config = small_workflow();
    config["budgets"] = json!({"time": 60});
    let crawl = Crawl::of(&config, NO_LIMITS, &PAGES[..pages]).await;
    let worker = crawl.worker().await;
    (crawl, worker)
}

/// Its server answered that it can serve nobody, and the page is to be tried again.
fn retried(page: &ClaimedPage) -> FinishedPage {
    let failure = Failure::of_status(503);
    FinishedPage {
        outcome: PageOutcome::failed(failure.clone()),
        next: NextStatus::Retry(failure, Duration::ZERO),
        ..finished(page, &small_table(), &[])
    }
}

/// All pages were tried once, and wait for their second attempt.
async fn fail_once(crawl: &Crawl, worker: &HotStore) {
    let pages = crawl.claim(worker).await;
    worker.record(&pages.iter().map(retried).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(crawl.number(RETRIED).await, pages.len() as i64);
}

/// The time is over: what a dispatcher has reserved just now it skips itself, the rest is swept.
async fn time_is_over(crawl: &Crawl) {
    crawl.change(TIME_PASSES).await;
    let waiting = crawl.number(RETRIED).await;
    let reserved = crawl.store.reserve_pages(crawl.execution, 1).await.unwrap();
    assert_eq!(reserved.len(), 1);
    assert!(crawl.store.within_budgets(crawl.execution, reserved).await.unwrap().is_empty());
    assert_eq!(crawl.number(RETRIED).await, waiting - 1);
    crawl.store.sweep_over_budget().await.unwrap();
    assert_eq!(crawl.number(RETRIED).await, 0);
}

/// There is more time, and pages that were skipped for want of it come back.
async fn there_is_more_time(crawl: &Crawl, pages: u64) {
    let budgets = parse_budget_changes(&json!({"time": 600}), "").unwrap();
    let changes = LimitChanges { budgets: Some(budgets), ..LimitChanges::default() };
    let changed = crawl.store.change_limits(crawl.execution, changes, None).await.unwrap();
    assert!(matches!(changed, Controlled::Done(_)), "{changed:?}");
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), pages);
}

async fn complete(crawl: &Crawl, worker: &HotStore) {
    let pages = crawl.claim(worker).await;
    let done: Vec<_> = pages.iter().map(|page| finished(page, &small_table(), &[])).collect();
    assert_eq!(worker.record(&done).await.unwrap().len(), pages.len());
    assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_retry_before_which_the_time_is_over_is_counted_no_longer() {
    let (crawl, worker) = crawl_of(3).await;
    fail_once(&crawl, &worker).await;
    time_is_over(&crawl).await;
    assert_eq!(crawl.texts(STATUSES).await, ["skipped 1 3"]);
    assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 1);
    assert_eq!(crawl.store.totals(crawl.execution).await.unwrap().retried, 0, "as the summary says");
    assert_ended_are_sound(&crawl.pool).await;
}

#[tokio::test]
async fn it_is_counted_again_where_there_is_more_time_and_the_page_waits_again() {
    let (crawl, worker) = crawl_of(3).await;
    fail_once(&crawl, &worker).await;
    time_is_over(&crawl).await;
    there_is_more_time(&crawl, 3).await;
    assert_eq!(crawl.number(RETRIED).await, 3);
    complete(&crawl, &worker).await;
    assert_eq!(crawl.texts(STATUSES).await, ["completed 2 3"]);
    assert_eq!(crawl.number(RETRIED).await, 3);
    assert_ended_are_sound(&crawl.pool).await;
}

#[tokio::test]
async fn a_page_that_was_never_tried_takes_no_retry_with_it() {
    let (crawl, worker) = crawl_of(3).await;
    let requests = crawl.queue_at_most(1).await;
    let page = worker.claim(&requests, harness::crawl::LEASE, false).await.unwrap().remove(0);
    worker.record(&[retried(&page)]).await.unwrap();
    crawl.change(TIME_PASSES).await;
    assert_eq!(crawl.store.sweep_over_budget().await.unwrap(), 3);
    assert_eq!(crawl.texts(STATUSES).await, ["skipped 0 2", "skipped 1 1"]);
    assert_eq!(crawl.number(RETRIED).await, 0);
    there_is_more_time(&crawl, 3).await;
    assert_eq!(crawl.number(RETRIED).await, 1);
    complete(&crawl, &worker).await;
    assert_ended_are_sound(&crawl.pool).await;
}

#[tokio::test]
async fn a_retry_before_which_the_execution_is_cancelled_is_counted_no_longer() {
    let (crawl, worker) = crawl_of(3).await;
    fail_once(&crawl, &worker).await;
    // One is published, the others wait.
    assert_eq!(crawl.queue_at_most(1).await.len(), 1);
    crawl.store.cancel_execution(crawl.execution, CancelMode::Graceful, None).await.unwrap();
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 3);
    assert_eq!(crawl.texts(STATUSES).await, ["cancelled 1 3"]);
    assert_eq!(crawl.number(RETRIED).await, 0);
    assert_sound(&crawl.pool, crawl.execution, None).await;
}

/// A page whose worker was lost with it, and is heard again only when it waits no longer.
async fn heard_too_late(end: impl AsyncFn(&Crawl)) -> Crawl {
    let (crawl, worker) = crawl_of(1).await;
    assert_eq!(crawl.claim(&worker).await.len(), 1);
    crawl.change(SILENCE).await;
    let rescued = crawl.store.rescue(Some(PATIENCE), Duration::from_secs(30)).await.unwrap();
    assert_eq!((rescued.pages_returned, crawl.number(RETRIED).await), (1, 1));
    end(&crawl).await;
    assert_eq!(crawl.number(RETRIED).await, 0);
    assert_eq!(worker.heartbeat(VITALS).await.unwrap().standing, Standing::WasLost);
    let taken_back = crawl.store.take_losses_back().await.unwrap();
    assert_eq!(taken_back, TakenBack { losses: 1, pages_put_back: 0 });
    assert_eq!(crawl.number(RETRIED).await, 0, "once");
    crawl
}

#[tokio::test]
async fn the_retry_of_a_lost_page_that_the_time_has_skipped_is_taken_back_once() {
    let crawl = heard_too_late(async |crawl: &Crawl| time_is_over(crawl).await).await;
    // Nothing is charged to it any more.
    there_is_more_time(&crawl, 1).await;
    assert_eq!(crawl.number(RETRIED).await, 0);
    complete(&crawl, &crawl.worker().await).await;
    assert_ended_are_sound(&crawl.pool).await;
}

#[tokio::test]
async fn the_retry_of_a_lost_page_that_was_cancelled_is_taken_back_once() {
    let crawl = heard_too_late(async |crawl: &Crawl| {
        crawl.store.cancel_execution(crawl.execution, CancelMode::Now, None).await.unwrap();
        assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 1);
    })
    .await;
    assert_sound(&crawl.pool, crawl.execution, None).await;
}
