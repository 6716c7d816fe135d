//! A delay between the pages of one host: one dispatch in each delay, and starts that are spaced whoever claims.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crawlify_shared::domain::outcome::{ErrorClass, Failure, PageOutcome};
use crawlify_shared::domain::page::{ClaimedPage, NextStatus};
use crawlify_shared::domain::page_url::HostUnit;
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::Store;
use crawlify_shared::store::control::{CancelMode, LimitChanges};
use crawlify_shared::store::hot::{ClaimRequest, HotStore};
use futures_util::future::join_all;
use harness::crawl::{Crawl, LEASE, NO_LIMITS, finished, small_table, small_workflow};
use serde_json::json;

const DELAY: Duration = Duration::from_millis(2_000);
/// One that does not pass during a test, however busy the machine is.
const LONG: Duration = Duration::from_secs(600);

fn polite(delay: Duration) -> Limits {
    Limits { rate_limit_delay: delay, ..NO_LIMITS }
}

/// Dispatches every page, as if each delay had passed.
async fn queue_all(crawl: &Crawl) -> Vec<ClaimRequest> {
    let mut requests = Vec::new();
    for execution in crawl.store.running_executions(None).await.unwrap() {
        loop {
            crawl.change("UPDATE hosts SET next_dispatch_at = '-infinity'").await;
            let pages = crawl.store.reserve_pages(execution.id, 100).await.unwrap();
            if pages.is_empty() {
                break;
            }
            requests
                .extend(pages.iter().map(|page| ClaimRequest { page_id: page.page_id, epoch: page.epoch }));
        }
    }
    requests
}

/// When a worker starts the page, with the page.
async fn claim(worker: &HotStore, requests: &[ClaimRequest]) -> Vec<(Instant, ClaimedPage)> {
    let pages = worker.claim(requests, LEASE, false).await.unwrap();
    pages.into_iter().map(|page| (page.claimed_here + page.start_in, page)).collect()
}

/// Asserts that no two starts are nearer than the delay, however long the answers took.
fn assert_spaced(mut starts: Vec<(Instant, ClaimedPage)>, delay: Duration) {
    starts.sort_by_key(|(start, _)| *start);
    for pair in starts.windows(2) {
        let gap = pair[1].0 - pair[0].0;
        assert!(gap >= delay, "a gap of {gap:?} under {delay:?}");
    }
}

#[tokio::test]
async fn one_page_of_a_host_is_dispatched_in_each_delay() {
    let urls =
        ["http://a.test/1", "http://a.test/2", "http://b.test/1", "http://b.test/2", "http://b.test/3"];
    let crawl = Crawl::start(polite(LONG), &urls).await;
    let first = crawl.store.reserve_pages(crawl.execution, 100).await.unwrap();
    let hosts: HashSet<_> = first.iter().map(|page| page.url.host().to_owned()).collect();
    assert_eq!((first.len(), hosts.len()), (2, 2), "one of each host");
    assert!(crawl.store.reserve_pages(crawl.execution, 100).await.unwrap().is_empty());
    crawl.change("UPDATE hosts SET next_dispatch_at = now() WHERE host = 'b.test'").await;
    let next = crawl.store.reserve_pages(crawl.execution, 100).await.unwrap();
    assert_eq!(next.iter().map(|page| page.url.host()).collect::<Vec<_>>(), ["b.test"]);
    assert_eq!(crawl.number("SELECT pages_admitted FROM workflow_executions").await, 3);
}

#[tokio::test]
async fn two_executions_share_the_delay_of_a_host() {
    let crawl = Crawl::start(polite(LONG), &["http://a.test/1"]).await;
    let other = crawl.another(polite(LONG), &["http://a.test/1", "http://a.test/2"]).await;
    let reserved = join_all([
        crawl.store.reserve_pages(crawl.execution, 10),
        crawl.store.reserve_pages(other, 10),
        crawl.store.reserve_pages(other, 10),
    ])
    .await;
    assert_eq!(reserved.into_iter().map(|pages| pages.unwrap().len()).sum::<usize>(), 1);
}

#[tokio::test]
async fn pages_claimed_together_start_one_delay_apart_and_the_first_at_once() {
    let urls: Vec<_> = (0..6).map(|number| format!("http://a.test/{number}")).collect();
    let crawl = Crawl::start(polite(DELAY), &urls.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let worker = crawl.worker().await;
    let requests = queue_all(&crawl).await;
    assert_eq!(requests.len(), 6);
    let starts = claim(&worker, &requests).await;
    assert_eq!(starts.len(), 6);
    let waits: Vec<_> = starts.iter().map(|(_, page)| page.start_in).collect();
    let (first, last) = (*waits.iter().min().unwrap(), *waits.iter().max().unwrap());
    // The claim itself may take a while.
    assert!(first < DELAY / 2, "{waits:?}");
    // With the margin of 3 %.
    assert!(last - first <= DELAY * 52 / 10, "{waits:?}");
    assert_spaced(starts, DELAY);
}

#[tokio::test]
async fn pages_claimed_by_several_workers_start_one_delay_apart() {
    let urls: Vec<_> = (0..12).map(|number| format!("http://a.test/{number}")).collect();
    let crawl = Crawl::start(polite(DELAY), &urls.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let workers = [crawl.worker().await, crawl.worker().await, crawl.worker().await];
    let requests = queue_all(&crawl).await;
    let claims = requests.chunks(2).zip(workers.iter().cycle()).map(|(part, worker)| claim(worker, part));
    let starts: Vec<_> = join_all(claims).await.into_iter().flatten().collect();
    assert_eq!(starts.len(), 12);
    assert_spaced(starts, DELAY);
}

#[tokio::test]
async fn the_longest_delay_that_an_execution_asks_for_holds_for_all_pages_of_the_host() {
    let crawl = Crawl::start(polite(DELAY / 10), &["http://a.test/1", "http://a.test/2"]).await;
    crawl.another(polite(DELAY), &["http://a.test/3", "http://a.test/4"]).await;
    crawl.another(NO_LIMITS, &["http://a.test/5", "http://b.test/6"]).await;
    let requests = queue_all(&crawl).await;
    let worker = crawl.worker().await;
    let (unlimited, limited): (Vec<_>, Vec<_>) =
        claim(&worker, &requests).await.into_iter().partition(|(_, page)| page.url.as_str().ends_with('6'));
    assert_eq!((unlimited.len(), limited.len()), (1, 5));
    assert!(unlimited[0].1.start_in.is_zero(), "the other host has no delay");
    assert_spaced(limited, DELAY);
}

#[tokio::test]
async fn a_host_is_asked_no_faster_than_it_answers_while_somebody_adapts() {
    let urls = ["http://a.test/1", "http://a.test/2", "http://a.test/3"];
    let crawl = Crawl::start(Limits { adaptive_delay: true, ..NO_LIMITS }, &urls).await;
    let other = crawl.another(NO_LIMITS, &["http://a.test/4", "http://a.test/5"]).await;
    let worker = crawl.worker().await;
    let first = crawl.store.reserve_pages(crawl.execution, 1).await.unwrap();
    let request = ClaimRequest { page_id: first[0].page_id, epoch: first[0].epoch };
    let page = claim(&worker, &[request]).await.remove(0).1;
    assert!(page.host_delay.is_zero(), "nothing is known of it yet");
    let mut slow = finished(&page, &small_table(), &[]);
    slow.outcome.contact.answered_in = Some(DELAY);
    worker.record(&[slow]).await.unwrap();
    let starts = claim(&worker, &queue_all(&crawl).await).await;
    assert_eq!(starts.iter().filter(|(_, page)| page.execution_id == other).count(), 2);
    assert_eq!(starts.len(), 4);
    assert_spaced(starts, DELAY);
}

#[tokio::test]
async fn a_delay_ends_with_the_execution_that_asked_for_it() {
    let crawl = Crawl::start(NO_LIMITS, &["http://a.test/1", "http://a.test/2", "http://a.test/3"]).await;
    let patient = crawl.another(polite(DELAY), &["http://a.test/9"]).await;
    assert_eq!(crawl.store.reserve_pages(crawl.execution, 10).await.unwrap().len(), 1, "one at a time");
    crawl.store.cancel_execution(patient, CancelMode::Graceful, None).await.unwrap();
    crawl.change("UPDATE hosts SET next_dispatch_at = '-infinity'").await;
    assert_eq!(crawl.store.reserve_pages(crawl.execution, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn the_pace_of_a_robots_file_holds_for_all_while_an_execution_obeys_it() {
    let mut config = small_workflow();
    config["politeness"] = json!({"robots": "obey"});
    let obeying = Crawl::of(&config, NO_LIMITS, &["http://a.test/9"]).await;
    let ignoring =
        obeying.another(NO_LIMITS, &["http://a.test/1", "http://a.test/2", "http://a.test/3"]).await;
    let worker = obeying.worker().await;
    worker.raise_crawl_delay("a.test", DELAY).await.unwrap();
    let pages = obeying.store.reserve_pages(ignoring, 10).await.unwrap();
    assert_eq!(pages.len(), 1, "one at a time");
    let request = ClaimRequest { page_id: pages[0].page_id, epoch: pages[0].epoch };
    let claimed = worker.claim(&[request], LEASE, false).await.unwrap();
    assert_eq!(claimed[0].host_delay, DELAY, "its worker knows the pace");
    assert!(obeying.store.reserve_pages(obeying.execution, 10).await.unwrap().is_empty());
    obeying.store.cancel_execution(obeying.execution, CancelMode::Graceful, None).await.unwrap();
    obeying.change("UPDATE hosts SET next_dispatch_at = '-infinity'").await;
    assert_eq!(obeying.store.reserve_pages(ignoring, 10).await.unwrap().len(), 2, "nobody obeys any more");
}

#[tokio::test]
async fn a_host_is_asked_for_no_more_pages_at_once_than_the_strictest_execution_allows() {
    let limits = Limits { host_concurrency: Some(2), ..NO_LIMITS };
    let crawl = Crawl::start(limits, &["http://a.test/1", "http://a.test/2", "http://a.test/3"]).await;
    let other = crawl.another(NO_LIMITS, &["http://a.test/4", "http://a.test/5", "http://b.test/6"]).await;
    let hosts = async |execution| -> Vec<String> {
        let pages = crawl.store.reserve_pages(execution, 10).await.unwrap();
        pages.iter().map(|page| page.url.host().to_owned()).collect()
    };
    assert_eq!(hosts(crawl.execution).await.len(), 2);
    assert_eq!(hosts(other).await, ["b.test"], "the places of the other host are taken");
    crawl.change("UPDATE url_queue SET status = 'completed' WHERE url LIKE '%a.test/1'").await;
    assert_eq!(hosts(other).await, ["a.test"], "one is free again");
    assert!(hosts(crawl.execution).await.is_empty());
}

#[tokio::test]
async fn dispatchers_that_meet_ask_a_host_for_no_more_pages_than_it_is_allowed() {
    const ALLOWED: i64 = 2;
    let limits = Limits { host_concurrency: Some(2), ..NO_LIMITS };
    let urls: Vec<_> = (0..8).map(|page| format!("http://a.test/{page}")).collect();
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    let crawl = Crawl::start(limits, &urls).await;
    let executions =
        [crawl.execution, crawl.another(NO_LIMITS, &urls).await, crawl.another(NO_LIMITS, &urls).await];
    let coordinators: Vec<_> = (0..12).map(|_| Store::connect(&crawl.database.url(), 1).unwrap()).collect();
    for round in 0..100 {
        // Nothing ends while they dispatch: what is too much stays and is seen.
        let steps = coordinators.iter().enumerate().map(async |(place, store)| {
            for execution in executions.iter().cycle().skip(place).take(executions.len()) {
                store.reserve_pages(*execution, 5).await.unwrap();
            }
        });
        join_all(steps).await;
        let in_flight = crawl.number("SELECT count(*) FROM url_queue WHERE status = 'queued'").await;
        assert!((1..=ALLOWED).contains(&in_flight), "{in_flight} pages in round {round}");
        crawl.change("UPDATE url_queue SET status = 'pending' WHERE status = 'queued'").await;
    }
}

#[tokio::test]
async fn hosts_of_one_domain_share_its_limits_where_that_is_wanted() {
    let limits = Limits { host_unit: HostUnit::Domain, ..polite(DELAY) };
    let urls =
        ["http://a.shop.co.uk/1", "http://b.shop.co.uk/2", "http://other.co.uk/3", "http://127.0.0.1/4"];
    let crawl = Crawl::start(limits, &urls).await;
    let pages = crawl.store.reserve_pages(crawl.execution, 10).await.unwrap();
    assert_eq!(pages.len(), 3, "one of shop.co.uk, one of other.co.uk, one of the address");
    let hosts = "SELECT host FROM hosts ORDER BY host";
    assert_eq!(crawl.texts(hosts).await, ["127.0.0.1", "other.co.uk", "shop.co.uk"]);
}

#[tokio::test]
async fn starts_that_are_planned_far_ahead_hold_the_next_page_back() {
    let crawl = Crawl::start(polite(Duration::from_secs(60)), &["http://a.test/1"]).await;
    // The page before gave its turn away twice.
    crawl.change("UPDATE hosts SET delay_ms = 60000, next_start_at = now() + interval '20 seconds'").await;
    assert!(crawl.store.reserve_pages(crawl.execution, 10).await.unwrap().is_empty());
    let due_in = "SELECT EXTRACT(EPOCH FROM due_at - now())::int8 FROM lanes";
    assert!((12..=18).contains(&crawl.number(due_in).await), "not before its start is near");
    crawl.change("UPDATE hosts SET next_start_at = now() + interval '1 second'").await;
    crawl.change("UPDATE lanes SET due_at = now()").await;
    assert_eq!(crawl.store.reserve_pages(crawl.execution, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn pages_are_dispatched_no_faster_than_they_start() {
    let crawl = Crawl::start(polite(LONG), &["http://a.test/1", "http://a.test/2"]).await;
    crawl.store.reserve_pages(crawl.execution, 10).await.unwrap();
    let next = "SELECT EXTRACT(EPOCH FROM next_dispatch_at - now())::int8 FROM hosts";
    assert!((611..=618).contains(&crawl.number(next).await), "a delay and 3 %");
}

#[tokio::test]
async fn a_shorter_delay_counts_from_the_last_start() {
    let crawl =
        Crawl::start(polite(Duration::from_secs(3_600)), &["http://a.test/1", "http://a.test/2"]).await;
    let worker = crawl.worker().await;
    crawl.claim(&worker).await;
    let longest =
        "SELECT EXTRACT(EPOCH FROM greatest(next_dispatch_at, next_start_at) - now())::int8 FROM hosts";
    assert!(crawl.number(longest).await > 3_000);
    let changes = LimitChanges { host_delay_ms: Some(1_000), ..LimitChanges::default() };
    crawl.store.change_limits(crawl.execution, changes, None).await.unwrap();
    assert_eq!(crawl.number("SELECT count(*) FROM lanes WHERE due_at <= now()").await, 1, "it is looked at");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(crawl.store.reserve_pages(crawl.execution, 10).await.unwrap().len(), 1);
    assert!(crawl.number(longest).await <= 4);
}

#[tokio::test]
async fn pages_that_are_on_their_way_when_their_host_wants_to_be_left_alone_go_back() {
    let crawl = Crawl::start(NO_LIMITS, &["http://a.test/1", "http://b.test/2"]).await;
    let worker = crawl.worker().await;
    let requests = queue_all(&crawl).await;
    crawl.change("UPDATE hosts SET backoff_until = now() + interval '1 minute' WHERE host = 'a.test'").await;
    let claimed = worker.claim(&requests, LEASE, false).await.unwrap();
    assert_eq!(claimed.iter().map(|page| page.url.as_str()).collect::<Vec<_>>(), ["http://b.test/2"]);
    let waiting = "SELECT concat_ws(' ', status, attempt, charged + site_faults,
            (not_before = (SELECT backoff_until FROM hosts WHERE host = 'a.test'))::text)
        FROM url_queue WHERE host = 'a.test'";
    assert_eq!(crawl.texts(waiting).await, ["pending 0 0 true"]);
    crawl.change("UPDATE hosts SET backoff_until = '-infinity', next_start_at = '-infinity'").await;
    crawl.change("UPDATE url_queue SET not_before = now()").await;
    assert!(worker.claim(&requests, LEASE, true).await.unwrap().iter().all(|page| page.host == "b.test"));
}

#[tokio::test]
async fn a_host_that_answers_429_is_left_alone_by_all_for_as_long_as_it_says() {
    let crawl = Crawl::start(NO_LIMITS, &["http://a.test/1", "http://a.test/2", "http://b.test/3"]).await;
    let other = crawl.another(NO_LIMITS, &["http://a.test/4"]).await;
    let worker = crawl.worker().await;
    let pages = crawl.claim(&worker).await;
    let busy = pages.iter().find(|page| page.url.as_str() == "http://a.test/1").unwrap();
    let failure = Failure::new(ErrorClass::Http429, "the server answered with HTTP status 429");
    let mut refused = finished(busy, &small_table(), &[]);
    refused.outcome = PageOutcome::failed(failure.clone());
    refused.outcome.contact.back_off = Some(Duration::from_secs(120));
    refused.next = NextStatus::Retry(failure, Duration::ZERO);
    worker.record(std::slice::from_ref(&refused)).await.unwrap();
    crawl.change("").await;
    assert!(crawl.store.reserve_pages(crawl.execution, 10).await.unwrap().is_empty());
    assert!(crawl.store.reserve_pages(other, 10).await.unwrap().is_empty());
    // From its answer on, however long ago that is on a busy machine.
    let waits = "SELECT EXTRACT(EPOCH FROM backoff_until - asked_at)::int8 FROM hosts WHERE host = 'a.test'";
    assert!((118..=120).contains(&crawl.number(waits).await));
    // Without a word of the host: longer each time. The others are served, but for one.
    crawl.change("UPDATE url_queue SET status = 'completed' WHERE status = 'processing'").await;
    const SINCE: &str =
        "UPDATE hosts SET backoff_until = now() - interval '1 second', next_start_at = '-infinity',
        next_dispatch_at = '-infinity' WHERE host = 'a.test';
        UPDATE lanes SET due_at = now(); UPDATE url_queue SET rate_limit_faults = 0";
    for (times, seconds) in [(2, 2), (3, 4), (4, 8)] {
        crawl.change(SINCE).await;
        let page = crawl.claim(&worker).await.into_iter().find(|page| page.host == "a.test").unwrap();
        refused.page = page;
        refused.outcome.contact.back_off = Some(Duration::ZERO);
        worker.record(std::slice::from_ref(&refused)).await.unwrap();
        assert_eq!(crawl.number("SELECT refused::int8 FROM hosts WHERE host = 'a.test'").await, times);
        assert!(
            (seconds - 1..=seconds).contains(&crawl.number(waits).await),
            "{}",
            crawl.number(waits).await
        );
    }
}

#[tokio::test]
async fn a_page_that_came_too_late_takes_the_next_turn_and_keeps_its_lease_for_that() {
    let crawl = Crawl::start(polite(DELAY), &["http://a.test/1", "http://a.test/2"]).await;
    let worker = crawl.worker().await;
    let requests = queue_all(&crawl).await;
    let page = claim(&worker, &requests).await.into_iter().max_by_key(|(start, _)| *start).unwrap().1;
    // The two starts of the claim are taken: the next ones are one delay apart.
    for turn in [2.0, 3.0] {
        let wait = worker.next_start(&page, LEASE * 2).await.unwrap() - page.claimed_here;
        // The claim itself may take a while.
        let expected = DELAY.mul_f64(turn * 1.03) + DELAY / 4;
        assert!(wait <= expected && wait + Duration::from_secs(1) > expected, "turn {turn} in {wait:?}");
    }
    let lease: i64 = sqlx::query_scalar(
        "SELECT EXTRACT(EPOCH FROM locked_until - now())::int8 FROM url_queue WHERE id = $1",
    )
    .bind(page.page_id.0)
    .fetch_one(&crawl.pool)
    .await
    .unwrap();
    assert!(lease >= 124, "a lease of {lease} s");
}

#[tokio::test]
async fn a_lease_covers_the_wait_for_the_hosts_turn() {
    let urls: Vec<_> = (0..5).map(|number| format!("http://a.test/{number}")).collect();
    let crawl = Crawl::start(polite(LEASE), &urls.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let worker = crawl.worker().await;
    let requests = queue_all(&crawl).await;
    let (first, second) = requests.split_at(2);
    for part in [first, second] {
        for (start, page) in claim(&worker, part).await {
            let left = "SELECT EXTRACT(EPOCH FROM locked_until - now())::int8 FROM url_queue WHERE id = $1";
            let lease: i64 =
                sqlx::query_scalar(left).bind(page.page_id.0).fetch_one(&crawl.pool).await.unwrap();
            let needed = (start.saturating_duration_since(Instant::now()) + LEASE).as_secs() as i64;
            assert!(lease >= needed - 1, "a lease of {lease} s for a page that needs {needed} s");
        }
    }
}
