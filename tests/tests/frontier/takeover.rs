//! A server that has taken over, and takes pages for a worker's that have long ended: the worker gives them back.

use std::time::Duration;

use crawlify_shared::store::hot::{ClaimRequest, HotStore};
use harness::crawl::{Crawl, NO_LIMITS, VITALS, finished, small_table};

const PAGES: [&str; 3] = ["http://shop.test/1", "http://shop.test/2", "http://shop.test/3"];
const LEASE: Duration = Duration::from_secs(300);

async fn rows(crawl: &Crawl) -> Vec<String> {
    let rows =
        "SELECT concat_ws(' ', status, attempt, epoch, worker_faults) AS row FROM url_queue ORDER BY row";
    crawl.texts(rows).await
}

#[tokio::test]
async fn what_a_worker_does_not_hold_goes_back_uncharged_and_nothing_else_does() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let (worker, other) = (crawl.worker().await, crawl.worker().await);
    let requests = crawl.queue().await;
    let claim = async |worker: &HotStore, request: &ClaimRequest| {
        worker.claim(std::slice::from_ref(request), LEASE, false).await.unwrap().remove(0)
    };
    let (ended, held) = (claim(&worker, &requests[0]).await, claim(&worker, &requests[1]).await);
    let of_the_other = claim(&other, &requests[2]).await;
    crawl.change("UPDATE workers SET unrecorded = ARRAY['named before']").await;
    other.heartbeat(VITALS).await.unwrap();
    worker.heartbeat(VITALS).await.unwrap();
    assert_eq!(crawl.number("SELECT count(unrecorded) FROM workers").await, 0, "nothing waits any more");

    let theirs = worker.taken_for_ours().await.unwrap();
    assert_eq!(theirs.len(), 2);
    let unheld: Vec<_> = theirs.into_iter().filter(|page| page.page_id != held.page_id).collect();
    // What the other one has is not this one's to give back.
    let asked = [unheld[0], ClaimRequest { page_id: of_the_other.page_id, epoch: of_the_other.epoch }];
    assert_eq!(worker.return_unheld(&asked).await.unwrap(), 1);
    assert_eq!(worker.return_unheld(&asked).await.unwrap(), 0);
    assert_eq!(rows(&crawl).await, ["pending 0 1 0", "processing 1 0 0", "processing 1 0 0"]);

    // It may be had again, and those that were left are recorded as if nothing had been.
    let again = crawl.claim(&worker).await.remove(0);
    assert_eq!((again.page_id, again.attempt), (ended.page_id, 1));
    assert_eq!(worker.return_unheld(&asked).await.unwrap(), 0, "it was claimed since");
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
    let theirs = worker.taken_for_ours().await.unwrap();
    let mut somebody = crawl.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM url_queue FOR UPDATE").execute(&mut *somebody).await.unwrap();
    assert_eq!(worker.return_unheld(&theirs).await.unwrap(), 0);
    somebody.rollback().await.unwrap();
    assert_eq!(worker.return_unheld(&theirs).await.unwrap(), 1);
}

/// What was sent before the goodbye may come after it, over another connection.
#[tokio::test]
async fn what_is_heard_of_a_worker_after_its_goodbye_brings_nobody_back() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    let worker = crawl.worker().await;
    worker.retire().await.unwrap();
    worker.heartbeat(VITALS).await.unwrap();
    worker.announce("test", 4).await.unwrap();
    assert_eq!(crawl.texts("SELECT status FROM workers").await, ["stopped"]);
}
