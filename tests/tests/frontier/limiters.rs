//! Hosts that serve so many pages in a time and refuse the others, in a time that is told and not waited for: every page is
//! served in the end, few are asked for in vain once the pace is known, and the host has little to wait for.

use std::time::{Duration, Instant};

use crawlify_shared::domain::fault::Verdict;
use crawlify_shared::domain::outcome::{Failure, PageOutcome};
use crawlify_shared::domain::page::{ClaimedPage, FinishedPage, NextStatus};
use crawlify_shared::domain::workflow::Limits;
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
            refused_since = refused_since - $1 * interval '1 ms', asked_at = asked_at - $1 * interval '1 ms', delay_seen_at = delay_seen_at - $1 * interval '1 ms'
    )
    UPDATE url_queue SET not_before = not_before - $1 * interval '1 ms', locked_at = locked_at - $1 * interval '1 ms'";

/// What a host bears.
enum Bears {
    /// Everything.
    All,
    /// A page for each token: one comes in this time, and so many are kept.
    Tokens(Duration, f64),
    /// So many pages in each such time.
    Quota(Duration, u32),
    /// Nothing at first, for so long, and then everything.
    After(Duration),
}

/// A host, of whose pages some are broken.
struct Host {
    bears: Bears,
    /// What it answers otherwise.
    status: u16,
    /// Which pages always answer 503.
    is_broken: fn(usize) -> bool,
    tokens: f64,
    at: Duration,
}

impl Host {
    fn new(bears: Bears, status: u16, is_broken: fn(usize) -> bool) -> Self {
        let tokens = if let Bears::Tokens(_, burst) = bears { burst } else { 0.0 };
        Self { bears, status, is_broken, tokens, at: Duration::ZERO }
    }

    fn status(&mut self, number: usize, now: Duration) -> u16 {
        let bears = match self.bears {
            Bears::All => true,
            Bears::Tokens(every, burst) => {
                let came = (now - self.at).as_secs_f64() / every.as_secs_f64();
                (self.at, self.tokens) = (now, (self.tokens + came).min(burst));
                let bears = self.tokens >= 1.0;
                self.tokens -= f64::from(u8::from(bears));
                bears
            }
            Bears::After(begins) => now >= begins,
            Bears::Quota(every, most) => {
                if now >= self.at + every {
                    (self.at, self.tokens) = (now, 0.0);
                }
                self.tokens += 1.0;
                self.tokens <= f64::from(most)
            }
        };
        match bears {
            false => self.status,
            true if (self.is_broken)(number) => 503,
            true => 200,
        }
    }

    /// How long so many pages take at the least.
    fn possible(&self, pages: usize) -> Duration {
        let pages = u32::try_from(pages).unwrap();
        match self.bears {
            Bears::All => Duration::ZERO,
            Bears::After(begins) => begins,
            Bears::Tokens(every, _) => every * pages,
            Bears::Quota(every, most) => every * (pages / most),
        }
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

/// What became of the pages of a host.
struct Crawled {
    /// Those that are not broken, and failed all the same.
    lost: usize,
    /// Requests of pages that are not broken and were refused, without those of the first window.
    refused: usize,
    /// When the last page was served.
    served_in: Duration,
    ended_in: Duration,
}

/// Crawls so many pages of a host.
async fn crawl_all(mut host: Host, pages: usize, delay: Duration) -> Crawled {
    let urls: Vec<_> = (0..pages).map(|number| format!("http://busy.test/{number}")).collect();
    let limits = Limits { rate_limit_delay: delay, ..NO_LIMITS };
    let crawl = Crawl::start(limits, &urls.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let workers = [crawl.worker().await, crawl.worker().await];
    let mut clock = Clock { begun: Instant::now(), skipped: Duration::ZERO };
    let (mut refused_pages, mut served_in) = (0, Duration::ZERO);
    for look in 0..60 * pages {
        let worker = &workers[look % 2];
        let requests = crawl.queue_at_most(WINDOW).await;
        let mut claimed = worker.claim(&requests, LEASE, false).await.unwrap();
        if claimed.is_empty() {
            if crawl.number("SELECT count(*) FROM url_queue WHERE status = 'pending'").await == 0 {
                break;
            }
            clock.skip_to_the_next_look(&crawl).await;
        }
        let mut ends = Vec::new();
        for place in 0..claimed.len() {
            let wait = claimed[place].start_in.saturating_sub(claimed[place].claimed_here.elapsed());
            clock.skip(&crawl, wait).await;
            claimed.iter_mut().for_each(|page| page.claimed_at -= wait);
            let page = &claimed[place];
            let number = page.url.as_str().rsplit('/').next().unwrap().parse().unwrap();
            ends.push(match host.status(number, clock.now()) {
                200 => {
                    served_in = clock.now();
                    finished(page, &small_table(), &[])
                }
                status => {
                    let is_counted = look > 0 && !(host.is_broken)(number);
                    refused_pages += usize::from(is_counted);
                    refused(page, status)
                }
            });
        }
        for group in ends.chunks(16) {
            worker.record(group).await.unwrap();
        }
        if crawl.store.sweep_leftover_pages().await.unwrap() > 0 {
            crawl.assert_counters_are_a_recount().await;
        }
    }
    let broken = (0..pages).filter(|number| (host.is_broken)(*number)).count();
    let served = crawl.number("SELECT count(*) FROM url_queue WHERE status = 'completed'").await;
    Crawled {
        lost: pages - broken - usize::try_from(served).unwrap(),
        refused: refused_pages,
        served_in,
        ended_in: clock.now(),
    }
}

fn tokens(every_ms: u64, burst: f64) -> Bears {
    Bears::Tokens(Duration::from_millis(every_ms), burst)
}

const NONE: fn(usize) -> bool = |_| false;
/// One of ten, and three of ten, in no order that a pace could fall in with.
const A_TENTH: fn(usize) -> bool = |number| number * 37 % 101 < 10;
const THREE_TENTHS: fn(usize) -> bool = |number| number * 37 % 101 < 30;
/// A part of the site.
const A_SECTION: fn(usize) -> bool = |number| (20..60).contains(&number);

/// Crawls a host and holds it to what it bears: no page is lost, so many requests at the most are refused beside those of the first
/// window, and the pages take hardly longer than they must. A broken page costs the others as much time as `a_broken_one_costs`.
async fn assert_is_crawled(
    name: &str,
    host: Host,
    (pages, delay): (usize, Duration),
    most: usize,
    a_broken_one_costs: Duration,
) -> Crawled {
    let possible = host.possible(pages).max(delay * u32::try_from(pages).unwrap());
    let broken = u32::try_from((0..pages).filter(|number| (host.is_broken)(*number)).count()).unwrap();
    let crawled = crawl_all(host, pages, delay).await;
    let Crawled { lost, refused, served_in, .. } = crawled;
    assert_eq!(lost, 0, "{name}");
    assert!(refused <= most, "{name}: {refused} requests of {pages} pages were refused");
    let longest = possible.mul_f64(1.6) + Duration::from_secs(30) + broken * a_broken_one_costs;
    assert!(served_in <= longest, "{name}: {served_in:?} instead of {possible:?}");
    crawled
}

#[tokio::test]
async fn a_host_that_says_that_it_is_asked_too_fast_is_asked_for_about_what_it_bears() {
    for (name, bears, pages, most) in [
        // At such a pace what is under way together is more than what a step changes.
        ("50 a second", tokens(20, 20.0), 300, 90),
        ("one a second", tokens(1_000, 1.0), 150, 20),
        ("one a minute", tokens(60_000, 2.0), 100, 20),
        ("ten each minute", Bears::Quota(Duration::from_secs(60), 10), 100, 20),
    ] {
        assert_is_crawled(name, Host::new(bears, 429, NONE), (pages, Duration::ZERO), most, Duration::ZERO)
            .await;
    }
}

#[tokio::test]
async fn a_host_that_answers_503_without_a_word_to_who_asks_too_fast_is_asked_for_about_what_it_bears() {
    for (name, bears, pages, most) in [
        ("50 a second", tokens(20, 20.0), 300, 90),
        ("two a second", tokens(500, 5.0), 150, 40),
        // The slower it is, the longer it takes to tell that from pages that are broken.
        ("one in five seconds", tokens(5_000, 1.0), 100, 180),
        ("hardly any after the first ones", tokens(2_000, 1.0), 40, 80),
    ] {
        assert_is_crawled(name, Host::new(bears, 503, NONE), (pages, Duration::ZERO), most, Duration::ZERO)
            .await;
    }
}

#[tokio::test]
async fn pages_that_are_broken_cost_the_others_of_their_host_little_time_and_lose_none() {
    for (name, bears, status, is_broken, delay_ms, most, costs) in [
        ("one of ten", Bears::All, 503, A_TENTH, 0, 10, 1),
        ("three of ten", Bears::All, 503, THREE_TENTHS, 0, 10, 2),
        ("three of ten with a pace", Bears::All, 503, THREE_TENTHS, 500, 10, 4),
        ("a section", Bears::All, 503, A_SECTION, 0, 10, 2),
        ("a section with a pace", Bears::All, 503, A_SECTION, 500, 10, 4),
        ("one of ten where the host says 429", tokens(100, 5.0), 429, A_TENTH, 0, 20, 4),
        ("one of ten where the host says 503", tokens(100, 5.0), 503, A_TENTH, 0, 40, 4),
    ] {
        let host = Host::new(bears, status, is_broken);
        let pages = (150, Duration::from_millis(delay_ms));
        let crawled = assert_is_crawled(name, host, pages, most, Duration::from_secs(costs)).await;
        // Eight tries of the last broken one.
        assert!(
            crawled.ended_in < crawled.served_in + Duration::from_secs(600),
            "{name}: {:?}",
            crawled.ended_in
        );
    }
}

#[tokio::test]
async fn an_outage_of_minutes_loses_no_page_and_costs_few_requests() {
    for seconds in [60, 240, 600] {
        let host = Host::new(Bears::After(Duration::from_secs(seconds)), 503, NONE);
        assert_is_crawled("an outage", host, (200, Duration::ZERO), 25, Duration::ZERO).await;
    }
}
