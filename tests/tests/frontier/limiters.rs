//! Hosts that serve so many pages in a time and refuse the others, in a time that is told and not waited for: every page is
//! served in the end, hardly one is asked for in vain, and the host has little to wait for.

use std::time::{Duration, Instant};

use crawlify_shared::domain::fault::Verdict;
use crawlify_shared::domain::outcome::{Failure, PageOutcome};
use crawlify_shared::domain::page::{ClaimedPage, FinishedPage, NextStatus};
use crawlify_shared::store::hot::HotStore;
use harness::crawl::{Crawl, LEASE, NO_LIMITS, finished, small_table};

/// Pages that may be under way together where there is no pace.
const WINDOW: i64 = 40;
/// How long the next look at the host is away, in milliseconds: for its pause, its pace, or pages that wait to be tried again.
const NEXT_LOOK: &str = "
    SELECT greatest(1, ceil(EXTRACT(EPOCH FROM greatest(
        h.backoff_until, h.next_dispatch_at - least(h.delay_ms, 1000) * interval '1 ms',
        h.next_start_at - greatest(2 * least(h.delay_ms, 1000), 1000) * interval '1 ms',
        (SELECT min(not_before) FROM url_queue WHERE status = 'pending')) - now()) * 1000))::int8
    FROM hosts h WHERE host = 'busy.test'";
/// So much time goes by.
const GOES_BY: &str = "
    WITH host AS (
        UPDATE hosts SET backoff_until = backoff_until - $1 * interval '1 ms',
            next_start_at = next_start_at - $1 * interval '1 ms', next_dispatch_at = next_dispatch_at - $1 * interval '1 ms',
            refused_since = refused_since - $1 * interval '1 ms', delay_seen_at = delay_seen_at - $1 * interval '1 ms'
    )
    UPDATE url_queue SET not_before = not_before - $1 * interval '1 ms' WHERE status = 'pending'";

/// A host that serves a page for each token that it has.
struct Limiter {
    status: u16,
    /// How long a token takes to come.
    every: Duration,
    /// How many it keeps.
    burst: f64,
    tokens: f64,
    at: Duration,
}

impl Limiter {
    fn serves(&mut self, now: Duration) -> bool {
        let came = (now - self.at).as_secs_f64() / self.every.as_secs_f64();
        (self.at, self.tokens) = (now, (self.tokens + came).min(self.burst));
        let serves = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(serves));
        serves
    }
}

/// Time that went by, and time that was said to go by.
struct Clock {
    begun: Instant,
    skipped: Duration,
}

impl Clock {
    fn now(&self) -> Duration {
        self.begun.elapsed() + self.skipped
    }

    async fn skip_to_the_next_look(&mut self, crawl: &Crawl) {
        let wait = crawl.number(NEXT_LOOK).await;
        self.skip(crawl, Duration::from_millis(wait.unsigned_abs())).await;
    }

    async fn skip(&mut self, crawl: &Crawl, wait: Duration) {
        sqlx::query(GOES_BY).bind(wait.as_secs_f64() * 1000.0).execute(&crawl.pool).await.unwrap();
        self.skipped += wait;
    }
}

fn refused(page: &ClaimedPage, status: u16) -> FinishedPage {
    let failure = Failure::of_status(status);
    let mut outcome = PageOutcome::failed(failure.clone());
    outcome.contact.back_off = Some(Duration::ZERO);
    let next = match page.faults.judge(&failure) {
        Verdict::Retry(pause) => NextStatus::Retry(failure, pause),
        _ => NextStatus::Failed(failure),
    };
    FinishedPage { outcome, next, ..finished(page, &small_table(), &[]) }
}

async fn claim(crawl: &Crawl, worker: &HotStore) -> Vec<ClaimedPage> {
    let requests = crawl.queue_at_most(WINDOW).await;
    worker.claim(&requests, LEASE, false).await.unwrap()
}

/// Crawls so many pages of a host. Answers how many were refused, and how long it took.
async fn crawl_all(mut host: Limiter, pages: usize) -> (usize, Duration) {
    let urls: Vec<_> = (0..pages).map(|number| format!("http://busy.test/{number}")).collect();
    let crawl = Crawl::start(NO_LIMITS, &urls.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let worker = crawl.worker().await;
    let mut clock = Clock { begun: Instant::now(), skipped: Duration::ZERO };
    let (mut served, mut refusals) = (0, 0);
    for _ in 0..40 * pages {
        let claimed = claim(&crawl, &worker).await;
        if claimed.is_empty() {
            if crawl.number("SELECT count(*) FROM url_queue WHERE status = 'pending'").await == 0 {
                break;
            }
            clock.skip_to_the_next_look(&crawl).await;
        }
        for page in &claimed {
            clock.skip(&crawl, page.start_in.saturating_sub(page.claimed_here.elapsed())).await;
            let end = match host.serves(clock.now()) {
                true => finished(page, &small_table(), &[]),
                false => refused(page, host.status),
            };
            (served, refusals) = match end.next {
                NextStatus::Completed => (served + 1, refusals),
                _ => (served, refusals + 1),
            };
            worker.record(&[end]).await.unwrap();
        }
    }
    assert_eq!(served, pages, "{refusals} were refused");
    (refusals, clock.now())
}

#[tokio::test]
async fn a_host_that_bears_so_many_pages_in_a_time_is_asked_for_hardly_more_and_serves_all() {
    for (status, every_ms, burst, pages) in [
        (429, 20, 20.0, 400),
        (429, 1_000, 1.0, 200),
        (429, 10_000, 1.0, 200),
        (429, 60_000, 2.0, 200),
        (503, 20, 20.0, 400),
        (503, 500, 5.0, 300),
        (503, 5_000, 1.0, 200),
    ] {
        let every = Duration::from_millis(every_ms);
        let host = Limiter { status, every, burst, tokens: burst, at: Duration::ZERO };
        let (refused, took) = crawl_all(host, pages).await;
        let possible = every * u32::try_from(pages).unwrap();
        // Those that are under way together at first, and one in thirty once its pace is known; of 503s it takes two to tell.
        // Pages that were refused before say less of the pace than others: the last ones are refused more often.
        let in_vain = if status == 429 { pages / 10 } else { pages / 3 };
        assert!(refused <= 40 + in_vain, "{status} every {every:?}: {refused} of {pages} were refused");
        let longest = possible.mul_f64(1.6) + Duration::from_secs(15);
        assert!(took <= longest, "{status} every {every:?}: {took:?} instead of {possible:?}");
    }
}
