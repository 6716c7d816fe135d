//! Pages that are on their way to a worker when less may be asked of their host than at their dispatch.

use std::time::Duration;

use crawlify_shared::domain::outcome::{ErrorClass, Failure, PageOutcome};
use crawlify_shared::domain::page::{ClaimedPage, NextStatus};
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::control::CancelMode;
use crawlify_shared::store::hot::{ClaimRequest, HotStore};
use harness::crawl::{Crawl, LEASE, NO_LIMITS, finished, small_table};

const DELAY: Duration = Duration::from_millis(2_000);
const URLS: [&str; 4] = ["http://a.test/1", "http://a.test/2", "http://a.test/3", "http://b.test/4"];
/// As if each delay had passed.
const NO_WAIT: &str = "UPDATE hosts SET next_dispatch_at = '-infinity', next_start_at = '-infinity'";

fn polite(delay: Duration) -> Limits {
    Limits { rate_limit_delay: delay, ..NO_LIMITS }
}

#[tokio::test]
async fn pages_that_were_dispatched_before_another_execution_brought_a_pace_go_back() {
    let crawl = Crawl::start(NO_LIMITS, &URLS).await;
    let worker = crawl.worker().await;
    let requests = crawl.queue().await;
    assert_eq!(requests.len(), 4);
    let patient = crawl.another(polite(DELAY), &["http://a.test/9"]).await;
    assert_eq!(crawl.store.reserve_pages(patient, 10).await.unwrap().len(), 1);
    let claimed = worker.claim(&requests, LEASE, false).await.unwrap();
    assert_eq!(claimed.iter().map(|page| page.host.as_str()).collect::<Vec<_>>(), ["b.test"]);
    let back = "SELECT count(*) FROM url_queue
        WHERE host = 'a.test' AND status = 'pending' AND attempt = 0 AND epoch = 1 AND not_before <= now()";
    assert_eq!(crawl.number(back).await, 3, "uncharged, and out of reach for their messages");
    assert!(worker.claim(&requests, LEASE, true).await.unwrap().iter().all(|page| page.host == "b.test"));
    // They come again, in that pace.
    crawl.change(NO_WAIT).await;
    let again = crawl.queue().await;
    assert_eq!(again.len(), 1);
    let claimed = worker.claim(&again, LEASE, false).await.unwrap();
    assert_eq!(claimed[0].host_delay, DELAY);
    // And without it once nobody asks for it any more.
    crawl.store.cancel_execution(patient, CancelMode::Graceful, None).await.unwrap();
    crawl.change(NO_WAIT).await;
    let rest = crawl.queue().await;
    let claimed = worker.claim(&rest, LEASE, false).await.unwrap();
    assert_eq!((claimed.len(), claimed[0].host_delay), (2, Duration::ZERO));
}

#[tokio::test]
async fn pages_that_were_dispatched_in_a_pace_that_is_not_much_shorter_keep_to_the_longer_one() {
    let crawl = Crawl::start(polite(DELAY), &URLS).await;
    let worker = crawl.worker().await;
    let mut requests = crawl.queue().await;
    crawl.change(NO_WAIT).await;
    requests.extend(crawl.queue().await);
    let longer = DELAY * 3 / 2;
    let patient = crawl.another(polite(longer), &["http://a.test/9"]).await;
    crawl.change(NO_WAIT).await;
    let pages = crawl.store.reserve_pages(patient, 10).await.unwrap();
    requests.extend(pages.iter().map(|page| ClaimRequest { page_id: page.page_id, epoch: page.epoch }));
    let mut claimed = worker.claim(&requests, LEASE, false).await.unwrap();
    claimed.retain(|page| page.host == "a.test");
    claimed.sort_by_key(|page| page.start_in);
    assert_eq!(claimed.len(), 3);
    for pair in claimed.windows(2) {
        assert_eq!((pair[0].host_delay, pair[1].host_delay), (longer, longer));
        assert!(pair[1].start_in - pair[0].start_in >= longer, "{claimed:?}");
    }
    let lease = "SELECT EXTRACT(EPOCH FROM min(locked_until - locked_at))::int8 FROM url_queue
        WHERE host = 'a.test' AND status = 'processing'";
    let needed = (LEASE + claimed[2].start_in).as_secs() as i64;
    assert!(crawl.number(lease).await >= needed, "leases cover the wait");
}

#[tokio::test]
async fn pages_that_hear_429_in_a_row_leave_their_host_alone_for_the_longest_that_it_asks_for() {
    let crawl = Crawl::start(NO_LIMITS, &URLS).await;
    let worker = crawl.worker().await;
    // All of them are in hand before the host says a word.
    let pages = crawl.claim(&worker).await;
    let mut refused: Vec<_> = pages.iter().filter(|page| page.host == "a.test").collect();
    refused.sort_by_key(|page| page.url.as_str());
    let rest = "SELECT EXTRACT(EPOCH FROM backoff_until - now())::int8 FROM hosts WHERE host = 'a.test'";
    for (page, (asked_for, expected)) in refused.into_iter().zip([(60, 60), (300, 300), (5, 300)]) {
        let failure = Failure::new(ErrorClass::Http429, "the server answered with HTTP status 429");
        let mut group = [finished(page, &small_table(), &[])];
        group[0].outcome = PageOutcome::failed(failure.clone());
        group[0].outcome.contact.back_off = Some(Duration::from_secs(asked_for));
        group[0].next = NextStatus::Retry(failure, Duration::ZERO);
        assert_eq!(worker.record(&group).await.unwrap().len(), 1);
        let rest = crawl.number(rest).await;
        assert!((expected - 3..=expected).contains(&rest), "{asked_for}: {rest} s");
    }
    let times = "SELECT refused::int8 FROM hosts WHERE host = 'a.test'";
    assert_eq!(crawl.number(times).await, 1, "they count as one time");
    assert!(crawl.queue().await.is_empty());
}

#[tokio::test]
async fn a_request_beside_the_pace_makes_the_next_page_of_its_host_wait_for_longer() {
    // So long that the next start is not reached meanwhile.
    let delay = DELAY * 30;
    let crawl = Crawl::start(polite(delay), &["http://a.test/1", "http://a.test/2"]).await;
    let free = crawl.another(NO_LIMITS, &["http://b.test/3"]).await;
    let worker = crawl.worker().await;
    let _ = (crawl.claim(&worker).await, crawl.store.reserve_pages(free, 10).await.unwrap());
    let next = "SELECT (EXTRACT(EPOCH FROM next_start_at) * 1000)::int8 FROM hosts WHERE host = 'a.test'";
    let before = crawl.number(next).await;
    for host in ["a.test", "b.test", "nobody.test"] {
        worker.was_asked_beside(host, 1).await.unwrap();
    }
    let later = crawl.number(next).await - before;
    let delay = i64::try_from(delay.as_millis()).unwrap();
    assert!((delay / 2..=delay * 11 / 10).contains(&later), "{later} ms");
    worker.was_asked_beside("a.test", 3).await.unwrap();
    let much_later = crawl.number(next).await - before - later;
    assert!((delay * 5 / 2..=delay * 31 / 10).contains(&much_later), "three delays: {much_later} ms");
    let of_b = "SELECT count(*) FROM hosts WHERE host = 'b.test' AND next_start_at = '-infinity'";
    assert_eq!(crawl.number(of_b).await, 1, "it has no pace");
}

/// A refusal of a page, as a tab hears it.
async fn record_refusal(worker: &HotStore, page: &ClaimedPage) {
    let failure = Failure::new(ErrorClass::Http429, "the server answered with HTTP status 429");
    let mut group = [finished(page, &small_table(), &[])];
    group[0].outcome = PageOutcome::failed(failure.clone());
    group[0].outcome.contact.back_off = Some(Duration::ZERO);
    group[0].next = NextStatus::Retry(failure, Duration::ZERO);
    assert_eq!(worker.record(&group).await.unwrap().len(), 1);
}

#[tokio::test]
async fn pages_of_a_host_that_is_asked_when_to_return_are_held_back_and_its_refusal_counts_all_the_same() {
    let costs = "SELECT concat_ws(' ', pace_level, refused, backoff_until > asked_at) FROM hosts WHERE host = 'a.test'";
    for delay in [Duration::ZERO, Duration::from_millis(500)] {
        let mut paid = Vec::new();
        for is_held_back in [false, true] {
            let crawl = Crawl::start(polite(delay), &URLS).await;
            let worker = crawl.worker().await;
            let requests = crawl.queue().await;
            let (first, others): (Vec<_>, Vec<_>) = {
                let of_a = crawl
                    .texts("SELECT id::text FROM url_queue WHERE host = 'a.test' AND status = 'queued'")
                    .await;
                let first = of_a[0].clone();
                requests.into_iter().partition(|request| request.page_id.0.to_string() == first)
            };
            let refused = worker.claim(&first, LEASE, false).await.unwrap().remove(0);
            if is_held_back {
                worker.hold_back("a.test", Duration::from_secs(60)).await.unwrap();
                let claimed = worker.claim(&others, LEASE, false).await.unwrap();
                assert!(claimed.iter().all(|page| page.host == "b.test"), "{delay:?}: {claimed:?}");
                let queued = crawl.queue().await;
                let claimed = worker.claim(&queued, LEASE, false).await.unwrap();
                assert!(claimed.iter().all(|page| page.host == "b.test"), "{delay:?}: {claimed:?}");
            }
            record_refusal(&worker, &refused).await;
            paid.push(crawl.texts(costs).await);
        }
        assert_eq!(paid[0], paid[1], "{delay:?}");
        assert!(paid[0][0].ends_with("1 t"), "{delay:?}: {paid:?}");
    }
}

#[tokio::test]
async fn a_host_that_was_held_back_without_a_word_after_that_has_its_pace_again() {
    for (delay, delay_ms) in [(Duration::ZERO, 0), (Duration::from_millis(500), 500)] {
        let crawl = Crawl::start(polite(delay), &URLS).await;
        let worker = crawl.worker().await;
        crawl.queue().await;
        worker.hold_back("a.test", Duration::from_secs(60)).await.unwrap();
        // Whoever held it back has died, and its rest is over.
        crawl.change("UPDATE url_queue SET status = 'pending'").await;
        crawl
            .change("UPDATE hosts SET delay_seen_at = now(), next_start_at = now(), next_dispatch_at = now()")
            .await;
        let queued = crawl.queue().await;
        let claimed = worker.claim(&queued, LEASE, false).await.unwrap();
        let of_a = claimed.iter().filter(|page| page.host == "a.test");
        assert!(of_a.clone().all(|page| page.host_delay == delay), "{claimed:?}");
        assert_eq!(of_a.count(), if delay.is_zero() { 3 } else { 1 });
        let pace = "SELECT delay_ms::int8 FROM hosts WHERE host = 'a.test'";
        assert_eq!(crawl.number(pace).await, delay_ms);
    }
}
