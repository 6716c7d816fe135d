//! A delay between the pages of one host: one dispatch in each delay, and starts that are spaced whoever claims.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use crawlify_shared::domain::page::ClaimedPage;
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::hot::{ClaimRequest, HotStore};
use futures_util::future::join_all;
use harness::crawl::{Crawl, LEASE, NO_LIMITS};

const DELAY: Duration = Duration::from_millis(2_000);

fn polite(delay: Duration) -> Limits {
    Limits { rate_limit_delay: delay, ..NO_LIMITS }
}

/// Reserves and marks every page, as if each delay had passed.
async fn queue_all(crawl: &Crawl) -> Vec<ClaimRequest> {
    let mut requests = Vec::new();
    for execution in crawl.store.running_executions(None).await.unwrap() {
        loop {
            crawl.change("UPDATE hosts SET next_dispatch_at = '-infinity'").await;
            let pages = crawl.store.reserve_pages(execution.id, 100).await.unwrap();
            if pages.is_empty() {
                break;
            }
            crawl.store.mark_queued(&pages).await.unwrap();
            requests
                .extend(pages.iter().map(|page| ClaimRequest { page_id: page.page_id, epoch: page.epoch }));
        }
    }
    requests
}

/// When a worker that was answered at `answered` starts the page, with the page.
async fn claim(worker: &HotStore, requests: &[ClaimRequest]) -> Vec<(DateTime<Utc>, ClaimedPage)> {
    let pages = worker.claim(requests, LEASE, false).await.unwrap();
    let answered = Utc::now();
    pages.into_iter().map(|page| (answered + page.start_in, page)).collect()
}

/// Asserts that no two starts are nearer than the delay, but for what the answers took.
fn assert_spaced(mut starts: Vec<(DateTime<Utc>, ClaimedPage)>, delay: Duration) {
    starts.sort_by_key(|(start, _)| *start);
    for pair in starts.windows(2) {
        let gap = (pair[1].0 - pair[0].0).to_std().unwrap();
        assert!(gap >= delay - Duration::from_millis(100), "a gap of {gap:?} under {delay:?}");
    }
}

#[tokio::test]
async fn one_page_of_a_host_is_dispatched_in_each_delay() {
    let urls =
        ["http://a.test/1", "http://a.test/2", "http://b.test/1", "http://b.test/2", "http://b.test/3"];
    let crawl = Crawl::start(polite(DELAY), &urls).await;
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
    let crawl = Crawl::start(polite(DELAY), &["http://a.test/1"]).await;
    let other = crawl.another(polite(DELAY), &["http://a.test/1", "http://a.test/2"]).await;
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
    assert!(waits.iter().min().unwrap() < &Duration::from_millis(100), "{waits:?}");
    assert!(waits.iter().max().unwrap() <= &(DELAY * 5), "{waits:?}");
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
async fn executions_with_different_delays_keep_the_longer_one_between_them() {
    let crawl = Crawl::start(polite(DELAY / 10), &["http://a.test/1", "http://a.test/2"]).await;
    crawl.another(polite(DELAY), &["http://a.test/3", "http://a.test/4"]).await;
    crawl.another(NO_LIMITS, &["http://a.test/5"]).await;
    // The page of the patient execution is the older one, so that it comes before the hasty ones.
    for order in ["UPDATE url_queue SET priority = depth", "UPDATE url_queue SET priority = length(url) + 1"]
    {
        sqlx::query(order).execute(&crawl.pool).await.unwrap();
        crawl
            .change("UPDATE url_queue SET status = 'pending', epoch = epoch + 1, reserved_until = NULL")
            .await;
        crawl.change("DELETE FROM hosts").await;
        let requests = queue_all(&crawl).await;
        let worker = crawl.worker().await;
        let (unlimited, limited): (Vec<_>, Vec<_>) = claim(&worker, &requests)
            .await
            .into_iter()
            .partition(|(_, page)| page.url.as_str().ends_with('5'));
        assert_eq!((unlimited.len(), limited.len()), (1, 4));
        assert!(unlimited[0].1.start_in.is_zero(), "who asked for no delay has none");
        assert_spaced(limited, DELAY);
    }
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
            let needed = (start - Utc::now()).num_seconds() + LEASE.as_secs() as i64;
            assert!(lease >= needed - 1, "a lease of {lease} s for a page that needs {needed} s");
        }
    }
}
