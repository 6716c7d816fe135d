//! Pages that are on their way to a worker when less may be asked of their host than at their dispatch.

use std::time::Duration;

use crawlify_shared::domain::outcome::{ErrorClass, Failure, PageOutcome};
use crawlify_shared::domain::page::NextStatus;
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::control::CancelMode;
use crawlify_shared::store::hot::ClaimRequest;
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
    let lease = "SELECT EXTRACT(EPOCH FROM min(locked_until) - now())::int8 FROM url_queue
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
    let crawl = Crawl::start(polite(DELAY), &["http://a.test/1", "http://a.test/2"]).await;
    let free = crawl.another(NO_LIMITS, &["http://b.test/3"]).await;
    let worker = crawl.worker().await;
    let _ = (crawl.claim(&worker).await, crawl.store.reserve_pages(free, 10).await.unwrap());
    let next = "SELECT (EXTRACT(EPOCH FROM greatest(next_start_at, now()) - now()) * 1000)::int8 FROM hosts WHERE host = 'a.test'";
    let before = crawl.number(next).await;
    for host in ["a.test", "b.test", "nobody.test"] {
        worker.was_asked_beside(host).await.unwrap();
    }
    let later = crawl.number(next).await - before;
    let delay = i64::try_from(DELAY.as_millis()).unwrap();
    assert!((delay / 2..=delay * 11 / 10).contains(&later), "{later} ms");
    let of_b = "SELECT count(*) FROM hosts WHERE host = 'b.test' AND next_start_at = '-infinity'";
    assert_eq!(crawl.number(of_b).await, 1, "it has no pace");
}
