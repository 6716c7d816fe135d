//! A page is claimed by one worker, for the dispatch that the message speaks of, while its execution runs.

use std::time::Duration;

use crawlify_shared::domain::outcome::{ErrorClass, Failure};
use crawlify_shared::domain::page::NextStatus;
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::control::{CancelMode, Controlled};
use crawlify_shared::store::hot::ClaimRequest;
use futures_util::future::join_all;
use harness::crawl::{Crawl, LEASE, NO_LIMITS, finished, small_table};

const PAGE: [&str; 1] = ["http://shop.test/"];

#[tokio::test]
async fn a_page_is_claimed_once_however_often_it_is_asked_for() {
    let crawl = Crawl::start(NO_LIMITS, &PAGE).await;
    let (one, other) = (crawl.worker().await, crawl.worker().await);
    let requests = crawl.queue().await;
    let workers = [&one, &other, &one, &other, &one, &other];
    let claims = join_all(workers.map(|worker| worker.claim(&requests, LEASE, false))).await;
    let claimed: Vec<_> = claims.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(claimed.len(), 1);
    assert_eq!((claimed[0].attempt, claimed[0].depth, claimed[0].priority), (1, 0, 100));
    assert_eq!(claimed[0].url.as_str(), PAGE[0]);
    assert!(claimed[0].start_in.is_zero());
    assert_eq!(crawl.number("SELECT attempt::int8 FROM url_queue WHERE status = 'processing'").await, 1);
}

#[tokio::test]
async fn a_message_whose_confirm_was_lost_still_claims_its_page() {
    let crawl = Crawl::start(NO_LIMITS, &PAGE).await;
    let worker = crawl.worker().await;
    let reserved = crawl.store.reserve_pages(crawl.execution, 10).await.unwrap();
    let request = ClaimRequest { page_id: reserved[0].page_id, epoch: reserved[0].epoch };
    crawl.store.return_unpublished(&reserved).await.unwrap();
    assert_eq!(worker.claim(&[request], LEASE, false).await.unwrap().len(), 1);
    crawl.store.return_unpublished(&reserved).await.unwrap();
    assert_eq!(crawl.number("SELECT count(*) FROM url_queue WHERE status = 'processing'").await, 1);
}

#[tokio::test]
async fn another_epoch_claims_nothing() {
    let crawl = Crawl::start(NO_LIMITS, &PAGE).await;
    let worker = crawl.worker().await;
    let request = crawl.queue().await[0];
    for epoch in [request.epoch - 1, request.epoch + 1] {
        let other = ClaimRequest { epoch, ..request };
        assert!(worker.claim(&[other], LEASE, false).await.unwrap().is_empty());
        assert!(worker.claim(&[other], LEASE, true).await.unwrap().is_empty());
    }
    assert_eq!(worker.claim(&[request], LEASE, false).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_page_that_has_ended_is_not_claimed() {
    let crawl = Crawl::start(NO_LIMITS, &PAGE).await;
    let worker = crawl.worker().await;
    let request = crawl.queue().await[0];
    for status in ["completed", "failed", "skipped", "cancelled"] {
        sqlx::query("UPDATE url_queue SET status = $1").bind(status).execute(&crawl.pool).await.unwrap();
        assert!(worker.claim(&[request], LEASE, true).await.unwrap().is_empty(), "{status}");
    }
}

#[tokio::test]
async fn a_page_of_a_cancelled_execution_is_not_claimed() {
    let crawl = Crawl::start(NO_LIMITS, &PAGE).await;
    let worker = crawl.worker().await;
    let request = crawl.queue().await[0];
    let cancelled = crawl.store.cancel_execution(crawl.execution, CancelMode::Graceful, None).await.unwrap();
    assert!(matches!(cancelled, Controlled::Done(_)));
    assert!(worker.claim(&[request], LEASE, false).await.unwrap().is_empty());
}

#[tokio::test]
async fn asking_again_finds_a_lost_answer_and_charges_nothing_more() {
    let crawl = Crawl::start(NO_LIMITS, &PAGE).await;
    let (worker, other) = (crawl.worker().await, crawl.worker().await);
    let request = crawl.queue().await[0];
    let lost = worker.claim(&[request], LEASE, false).await.unwrap();
    assert!(worker.claim(&[request], LEASE, false).await.unwrap().is_empty());
    assert!(other.claim(&[request], LEASE, true).await.unwrap().is_empty(), "it is not the other's");
    let found = worker.claim(&[request], LEASE, true).await.unwrap();
    assert_eq!((found[0].page_id, found[0].attempt), (lost[0].page_id, 1));
}

#[tokio::test]
async fn a_retried_page_comes_back_after_its_delay_and_old_messages_find_nothing() {
    let crawl = Crawl::start(NO_LIMITS, &PAGE).await;
    let worker = crawl.worker().await;
    let request = crawl.queue().await[0];
    let page = worker.claim(&[request], LEASE, false).await.unwrap().remove(0);
    let failure = Failure::new(ErrorClass::Http5xx, "the server answered with HTTP status 503");
    let mut failed = finished(&page, &small_table(), &[]);
    failed.next = NextStatus::Retry(failure, LEASE);
    assert_eq!(worker.record(&[failed]).await.unwrap(), [page.page_id]);
    assert!(worker.claim(&[request], LEASE, true).await.unwrap().is_empty(), "the old message");
    assert!(crawl.queue().await.is_empty(), "it waits");
    assert_eq!(crawl.number("SELECT count(*) FROM extracted_items").await, 0);
    crawl.change("UPDATE url_queue SET not_before = now()").await;
    let page = crawl.claim(&worker).await.remove(0);
    assert_eq!(page.attempt, 2);
    let done = finished(&page, &small_table(), &[]);
    assert_eq!(worker.record(&[done]).await.unwrap(), [page.page_id]);
    assert_eq!(
        crawl.texts("SELECT DISTINCT attempt::text FROM node_executions ORDER BY 1").await,
        ["1", "2"]
    );
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn one_row_that_this_version_cannot_read_does_not_keep_the_others_from_being_claimed() {
    let crawl = Crawl::start(NO_LIMITS, &["http://shop.test/1", "http://shop.test/2"]).await;
    let worker = crawl.worker().await;
    let requests = crawl.queue().await;
    crawl.change("UPDATE url_queue SET url = 'gopher://shop.test/1' WHERE url = 'http://shop.test/1'").await;
    let claimed = worker.claim(&requests, LEASE, false).await.unwrap();
    assert_eq!(claimed.iter().map(|page| page.url.as_str()).collect::<Vec<_>>(), ["http://shop.test/2"]);
}

#[tokio::test]
async fn a_row_that_this_version_cannot_read_goes_back_uncharged_and_is_left_to_newer_workers_for_a_while() {
    const STATE: &str =
        "SELECT concat_ws(' ', status, attempt, epoch, worker_faults, locked_by, locked_until,
        not_before > now() + interval '20 seconds', error_class) FROM url_queue";
    let crawl = Crawl::start(NO_LIMITS, &PAGE).await;
    let worker = crawl.worker().await;
    let request = crawl.queue().await[0];
    crawl.change("UPDATE url_queue SET url = 'gopher://shop.test/'").await;
    for again in [false, true] {
        // What is claimed stays claimed for the whole lease, and is charged to the page when that is over.
        assert!(worker.claim(&[request], LEASE, again).await.unwrap().is_empty());
        assert_eq!(crawl.texts(STATE).await, ["pending 0 1 0 t internal"]);
    }
    assert!(crawl.queue().await.is_empty(), "nobody is asked at once whether he can");
    let told = crawl.store.summary(crawl.execution).await.unwrap().unwrap().page_errors;
    assert!(told[0].message.starts_with("waiting for a newer worker"), "{told:?}");
    // A newer worker reads it.
    crawl.change("UPDATE url_queue SET url = 'http://shop.test/', not_before = now()").await;
    let page = crawl.claim(&worker).await.remove(0);
    assert_eq!((page.attempt, page.faults.charged, page.faults.worker), (1, 0, 0));
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn a_page_that_is_left_to_others_unclaimed_gives_back_its_turn_and_keeps_its_attempts() {
    const TURN: &str = "SELECT round(extract(epoch FROM next_dispatch_at - now()))::text FROM hosts";
    let limits = Limits { rate_limit_delay: Duration::from_secs(100), ..NO_LIMITS };
    let crawl = Crawl::start(limits, &PAGE).await;
    let worker = crawl.worker().await;
    let request = crawl.queue().await[0];
    let turn: f64 = crawl.texts(TURN).await[0].parse().unwrap();
    assert!((90.0..=103.0).contains(&turn), "{turn} s");
    worker.leave_to_others(&[request], Duration::from_secs(7), "nobody can").await.unwrap();
    let turn: f64 = crawl.texts(TURN).await[0].parse().unwrap();
    assert!(turn <= 0.0, "{turn} s");
    let state =
        "SELECT concat_ws(' ', status, attempt, epoch, queued_at, not_before > now(), error) FROM url_queue";
    assert_eq!(crawl.texts(state).await, ["pending 0 1 t waiting for a newer worker: nobody can"]);
    // Whoever has claimed it keeps it.
    crawl.change("UPDATE url_queue SET not_before = now()").await;
    let (other, request) = (crawl.worker().await, crawl.queue().await[0]);
    assert_eq!(other.claim(&[request], LEASE, false).await.unwrap().len(), 1);
    worker.leave_to_others(&[request], Duration::from_secs(7), "nobody can").await.unwrap();
    assert_eq!(crawl.number("SELECT count(*) FROM url_queue WHERE status = 'processing'").await, 1);
}
