//! A server that has taken over, and takes pages for a worker's that have long ended: the worker says what it holds.

use std::time::Duration;

use chrono::{DateTime, Utc};
use crawlify_shared::store::hot::{ClaimRequest, HotStore, Returned, Vitals};
use harness::crawl::{Crawl, NO_LIMITS, finished, small_table};

const PAGES: [&str; 3] = ["http://shop.test/1", "http://shop.test/2", "http://shop.test/3"];
const ROWS: &str = "SELECT concat_ws(' ', status, attempt, epoch, worker_faults) FROM url_queue ORDER BY url";

async fn beat(worker: &HotStore) -> DateTime<Utc> {
    let beat = worker.heartbeat(Vitals { slots: 4, wants: 16, ..Vitals::default() }).await.unwrap();
    beat.answered.expect("it says who answers").at
}

#[tokio::test]
async fn what_a_worker_does_not_hold_goes_back_uncharged_and_nothing_else_does() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let (worker, other) = (crawl.worker().await, crawl.worker().await);
    let requests = crawl.queue().await;
    let lease = Duration::from_secs(300);
    let claim = async |worker: &HotStore, request: &ClaimRequest| {
        worker.claim(std::slice::from_ref(request), lease, false).await.unwrap().remove(0)
    };
    let (ended, held) = (claim(&worker, &requests[0]).await, claim(&worker, &requests[1]).await);
    let of_the_other = claim(&other, &requests[2]).await;
    worker.begin_alone(&ended).await.unwrap();
    crawl.change("UPDATE workers SET unrecorded = ARRAY['named before'] WHERE alone_with IS NOT NULL").await;
    let since = beat(&worker).await;

    assert_eq!(crawl.number("SELECT count(unrecorded) FROM workers").await, 0, "nothing waits any more");
    let holds = [ClaimRequest { page_id: held.page_id, epoch: held.epoch }];
    let returned = worker.return_unheld(&holds, since).await.unwrap();
    assert_eq!(returned, Returned { pages: 1, left: 0 });
    assert_eq!(worker.return_unheld(&holds, since).await.unwrap(), Returned { pages: 0, left: 0 });
    assert_eq!(crawl.number("SELECT count(alone_with) FROM workers").await, 0);
    let mut rows = crawl.texts(ROWS).await;
    rows.sort_unstable();
    assert_eq!(rows, ["pending 0 1 0", "processing 1 0 0", "processing 1 0 0"]);

    // It may be had again, and those that were left are recorded as if nothing had been.
    let again = crawl.claim(&worker).await.remove(0);
    assert_eq!((again.page_id, again.attempt), (ended.page_id, 1));
    let unseen = worker.return_unheld(&holds, since).await.unwrap();
    assert_eq!(unseen, Returned { pages: 0, left: 0 }, "it was claimed since");
    for (worker, page) in [(&worker, &held), (&worker, &again), (&other, &of_the_other)] {
        let recorded = worker.record(&[finished(page, &small_table(), &[])]).await.unwrap();
        assert_eq!(recorded, [page.page_id]);
    }
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn a_page_that_somebody_holds_at_that_moment_is_given_back_later() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    let worker = crawl.worker().await;
    crawl.claim(&worker).await;
    let since = beat(&worker).await;
    let mut somebody = crawl.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM url_queue FOR UPDATE").execute(&mut *somebody).await.unwrap();
    assert_eq!(worker.return_unheld(&[], since).await.unwrap(), Returned { pages: 0, left: 1 });
    somebody.rollback().await.unwrap();
    assert_eq!(worker.return_unheld(&[], since).await.unwrap(), Returned { pages: 1, left: 0 });
}

/// What was sent before the goodbye may come after it, over another connection.
#[tokio::test]
async fn a_heartbeat_that_comes_after_the_goodbye_brings_nobody_back() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    let worker = crawl.worker().await;
    worker.retire().await.unwrap();
    worker.heartbeat(Vitals::default()).await.unwrap();
    assert_eq!(crawl.texts("SELECT status FROM workers").await, ["stopped"]);
}
