//! Hosts that refuse pages: asked by one page first and at a slower pace then, and given up where they refuse every page.

use std::time::Duration;

use crawlify_shared::domain::fault::{Faults, HOST_REFUSES_AFTER};
use crawlify_shared::domain::outcome::{Failure, PageEnd, PageOutcome};
use crawlify_shared::domain::page::{ClaimedPage, FinishedPage, NextStatus};
use crawlify_shared::domain::page_url::HostUnit;
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::hot::HotStore;
use harness::crawl::{Crawl, NO_LIMITS, finished, small_table};

pub(super) const TIMES: &str = "SELECT refused::int8 FROM hosts WHERE host = 'busy.test'";
/// By how many steps its pace is slower.
pub(super) const LEVEL: &str = "SELECT pace_level::int8 FROM hosts WHERE host = 'busy.test'";
/// The pace that holds for it, as the last dispatcher saw it.
const DELAY: &str = "SELECT delay_ms::int8 FROM hosts WHERE host = 'busy.test'";
/// Seconds of its pause, from when it was asked last: however long ago that is on a busy machine.
pub(super) const PAUSE: &str =
    "SELECT ceil(EXTRACT(EPOCH FROM greatest(backoff_until, asked_at) - asked_at))::int8
    FROM hosts WHERE host = 'busy.test'";
/// When it is over, in microseconds.
const UNTIL: &str =
    "SELECT (EXTRACT(EPOCH FROM backoff_until) * 1000000)::int8 FROM hosts WHERE host = 'busy.test'";
pub(super) const PAUSE_LASTS: &str = "UPDATE hosts SET backoff_until = backoff_until + interval '1 minute'";
/// And its next turn has come.
const PAUSE_IS_OVER: &str =
    "UPDATE hosts SET backoff_until = least(backoff_until, now()), next_start_at = '-infinity',
        next_dispatch_at = '-infinity';
    UPDATE lanes SET due_at = now();
    UPDATE url_queue SET not_before = now() WHERE status = 'pending' AND site_faults + rate_limit_faults + unavailable_faults = 0";

pub(super) async fn start(limits: Limits, pages: usize) -> (Crawl, HotStore) {
    let urls: Vec<_> = (0..pages).map(|number| format!("http://busy.test/{number}")).collect();
    let crawl = Crawl::start(limits, &urls.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let worker = crawl.worker().await;
    (crawl, worker)
}

/// The page, answered with such a status and without a word of when to come back.
pub(super) fn refused(page: &ClaimedPage, status: u16) -> FinishedPage {
    let failure = Failure::of_status(status);
    let mut outcome = PageOutcome::failed(failure.clone());
    outcome.contact.back_off = Some(Duration::ZERO);
    let next = NextStatus::Retry(failure, Duration::from_secs(3_600));
    FinishedPage { outcome, next, ..finished(page, &small_table(), &[]) }
}

fn released(page: &ClaimedPage) -> FinishedPage {
    FinishedPage {
        outcome: PageOutcome::nothing(PageEnd::Released),
        next: NextStatus::Released,
        ..finished(page, &small_table(), &[])
    }
}

/// Claims what there is once the pause is over, and gives back all but one page.
pub(super) async fn claim_one(crawl: &Crawl, worker: &HotStore) -> ClaimedPage {
    crawl.change(PAUSE_IS_OVER).await;
    let mut pages = crawl.claim(worker).await;
    worker.record(&pages[1..].iter().map(released).collect::<Vec<_>>()).await.unwrap();
    pages.remove(0)
}

/// Has so many pages refused, that were not refused before, each after the pause of the one before it.
async fn refuse(crawl: &Crawl, worker: &HotStore, status: u16, times: i16) {
    for _ in 0..times {
        loop {
            let page = claim_one(crawl, worker).await;
            worker.record(&[refused(&page, status)]).await.unwrap();
            if page.faults == Faults::default() {
                break;
            }
        }
    }
}

/// Has one page served.
async fn serve(crawl: &Crawl, worker: &HotStore) {
    let page = claim_one(crawl, worker).await;
    worker.record(&[finished(&page, &small_table(), &[])]).await.unwrap();
}

/// Has so many pages served one after the other.
async fn serve_many(crawl: &Crawl, worker: &HotStore, pages: usize) {
    for _ in 0..pages {
        serve(crawl, worker).await;
    }
}

#[tokio::test]
async fn after_a_pause_one_page_sees_whether_the_host_serves_again() {
    let (crawl, worker) = start(NO_LIMITS, 40).await;
    let pages = crawl.claim(&worker).await;
    assert_eq!(pages.len(), 40);
    worker.record(&[refused(&pages[0], 503)]).await.unwrap();
    assert_eq!((crawl.number(TIMES).await, crawl.number(PAUSE).await), (1, 1));
    crawl.change(PAUSE_LASTS).await;
    let until = crawl.number(UNTIL).await;
    // Those that were not loaded go back.
    worker.record(&pages[1..].iter().map(released).collect::<Vec<_>>()).await.unwrap();
    assert_eq!((crawl.number(TIMES).await, crawl.number(UNTIL).await), (1, until));
    assert!(crawl.queue().await.is_empty());
    crawl.change(PAUSE_IS_OVER).await;
    let probe = crawl.claim(&worker).await;
    assert_eq!(probe.len(), 1);
    crawl.change(PAUSE_IS_OVER).await;
    assert!(crawl.queue().await.is_empty(), "until it has ended");
    assert_eq!(probe[0].page_id, pages[0].page_id, "the one that was refused");
    worker.record(&[finished(&probe[0], &small_table(), &[])]).await.unwrap();
    assert_eq!((crawl.number(TIMES).await, crawl.number(LEVEL).await), (0, 0));
    crawl.change(PAUSE_IS_OVER).await;
    assert_eq!(crawl.queue().await.len(), 39, "one 503 is no word of the pace");
}

#[tokio::test]
async fn a_host_that_is_asked_too_fast_is_asked_half_as_fast_until_it_serves_four_pages() {
    for (delay, slower, faster) in [
        (
            0,
            &[256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 65_536, 120_000, 120_000][..],
            &[65_536, 32_768, 16_384, 8_192, 4_096, 2_048, 1_024, 512, 256, 128, 64, 32][..],
        ),
        (
            3_000,
            &[6_000, 12_000, 24_000, 48_000, 96_000, 120_000, 120_000][..],
            &[96_000, 48_000, 24_000, 12_000, 6_000][..],
        ),
        // A pace of its own that is slower than any that we would choose.
        (600_000, &[600_000, 600_000][..], &[][..]),
    ] {
        let limits = Limits { rate_limit_delay: Duration::from_millis(delay), ..NO_LIMITS };
        let (crawl, worker) = start(limits, 100).await;
        refuse(&crawl, &worker, 429, 1).await;
        for expected in slower {
            let page = claim_one(&crawl, &worker).await;
            assert_eq!(crawl.number(DELAY).await, *expected);
            worker.record(&[refused(&page, 429)]).await.unwrap();
        }
        for expected in faster {
            serve_many(&crawl, &worker, 4).await;
            let page = claim_one(&crawl, &worker).await;
            assert_eq!(crawl.number(DELAY).await, *expected);
            worker.record(&[released(&page)]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn near_the_pace_at_which_a_host_refused_pages_it_becomes_faster_slowly() {
    let (crawl, worker) = start(NO_LIMITS, 120).await;
    refuse(&crawl, &worker, 429, 1).await;
    serve_many(&crawl, &worker, 4).await;
    assert_eq!(crawl.number(LEVEL).await, 12, "every 128 ms");
    // It refuses that, and bears every 256 ms. A step for each page would ask too much again at once.
    refuse(&crawl, &worker, 429, 1).await;
    for level in [16, 15, 14, 13] {
        assert_eq!(crawl.number(LEVEL).await, level);
        serve_many(&crawl, &worker, 8).await;
    }
    // It has changed, and bears twice as much: that it bears still more is seen soon.
    serve_many(&crawl, &worker, 5 * 8).await;
    assert_eq!(crawl.number(LEVEL).await, 7);
    serve_many(&crawl, &worker, 7).await;
    assert_eq!(crawl.number(LEVEL).await, 0);
}

#[tokio::test]
async fn a_host_is_left_alone_for_as_long_as_its_pace_is_when_it_refuses_that() {
    let limits = Limits { rate_limit_delay: Duration::from_secs(20), ..NO_LIMITS };
    let (crawl, worker) = start(limits, 10).await;
    refuse(&crawl, &worker, 429, 1).await;
    serve(&crawl, &worker).await;
    refuse(&crawl, &worker, 429, 1).await;
    assert_eq!((crawl.number(TIMES).await, crawl.number(PAUSE).await), (1, 80), "twice 40 s");
}

/// Of pages under way together two of three are refused.
async fn refuse_many(crawl: &Crawl, worker: &HotStore) {
    crawl.change(PAUSE_IS_OVER).await;
    let pages = crawl.claim(worker).await;
    let end = |(place, page)| match place % 3 {
        0 => finished(page, &small_table(), &[]),
        _ => refused(page, 503),
    };
    worker.record(&pages.iter().take(30).enumerate().map(end).collect::<Vec<_>>()).await.unwrap();
    let rest = pages.get(30..).unwrap_or_default();
    worker.record(&rest.iter().map(released).collect::<Vec<_>>()).await.unwrap();
}

#[tokio::test]
async fn many_a_503_without_a_word_means_the_pace_where_a_page_that_heard_it_is_served_after_the_pause() {
    let (crawl, worker) = start(NO_LIMITS, 200).await;
    refuse_many(&crawl, &worker).await;
    assert_eq!((crawl.number(TIMES).await, crawl.number(LEVEL).await), (1, 0));
    let page = claim_one(&crawl, &worker).await;
    assert!(page.faults.unavailable == 1, "{:?}", page.faults);
    worker.record(&[finished(&page, &small_table(), &[])]).await.unwrap();
    assert_eq!(crawl.number(LEVEL).await, 16);
    // The longer it refuses everything, the slower it is asked, but every 8 s at the least.
    for expected in [31..=31, 34..=35] {
        refuse(&crawl, &worker, 503, 4).await;
        let page = claim_one(&crawl, &worker).await;
        worker.record(&[finished(&page, &small_table(), &[])]).await.unwrap();
        let level = crawl.number(LEVEL).await;
        assert!(expected.contains(&level), "{level}");
    }
    let page = claim_one(&crawl, &worker).await;
    let delay = crawl.number(DELAY).await;
    assert!((5_700..=8_000).contains(&delay), "{delay}");
    worker.record(&[released(&page)]).await.unwrap();
}

#[tokio::test]
async fn many_a_503_of_pages_that_are_broken_slow_nobody_down() {
    let (crawl, worker) = start(NO_LIMITS, 200).await;
    for _ in 0..3 {
        refuse_many(&crawl, &worker).await;
        let page = claim_one(&crawl, &worker).await;
        worker.record(&[refused(&page, 503)]).await.unwrap();
        assert_eq!((crawl.number(TIMES).await, crawl.number(PAUSE).await), (1, 1), "no longer for it");
        serve(&crawl, &worker).await;
        assert_eq!((crawl.number(TIMES).await, crawl.number(LEVEL).await), (0, 0));
    }
}

#[tokio::test]
async fn a_few_503_among_many_pages_that_are_served_mean_nothing_in_one_group() {
    let (crawl, worker) = start(NO_LIMITS, 200).await;
    for _ in 0..2 {
        crawl.change(PAUSE_IS_OVER).await;
        let pages = crawl.claim(&worker).await;
        let end = |(place, page)| match place {
            20 | 40 => refused(page, 503),
            _ => finished(page, &small_table(), &[]),
        };
        worker.record(&pages.iter().take(60).enumerate().map(end).collect::<Vec<_>>()).await.unwrap();
        worker.record(&pages[60..].iter().map(released).collect::<Vec<_>>()).await.unwrap();
        let page = claim_one(&crawl, &worker).await;
        assert_eq!(page.faults.unavailable, 1);
        worker.record(&[finished(&page, &small_table(), &[])]).await.unwrap();
        assert_eq!(crawl.number(LEVEL).await, 0);
    }
}

#[tokio::test]
async fn a_host_that_has_refused_three_in_a_row_is_asked_for_its_last_page_then() {
    let (crawl, worker) = start(NO_LIMITS, 40).await;
    refuse(&crawl, &worker, 429, 3).await;
    let page = claim_one(&crawl, &worker).await;
    assert_eq!(page.url.as_str(), "http://busy.test/39");
    worker.record(&[refused(&page, 429)]).await.unwrap();
    assert_eq!(claim_one(&crawl, &worker).await.url.as_str(), "http://busy.test/3");
}

#[tokio::test]
async fn a_503_that_says_when_to_come_back_means_the_pace() {
    let (crawl, worker) = start(NO_LIMITS, 2).await;
    let page = crawl.claim(&worker).await.remove(0);
    let mut busy = refused(&page, 503);
    busy.outcome.contact.back_off = Some(Duration::from_secs(30));
    worker.record(&[busy]).await.unwrap();
    assert_eq!((crawl.number(LEVEL).await, crawl.number(PAUSE).await), (16, 30));
}

#[tokio::test]
async fn what_a_host_said_long_ago_slows_nobody_down() {
    let (crawl, worker) = start(NO_LIMITS, 40).await;
    refuse(&crawl, &worker, 429, 3).await;
    crawl.change(PAUSE_IS_OVER).await;
    crawl
        .change("UPDATE hosts SET backoff_until = now() - interval '11 minutes', asked_at = now() - interval '11 minutes'")
        .await;
    assert_eq!(crawl.queue().await.len(), 37);
    assert_eq!(crawl.number(DELAY).await, 0);
}

#[tokio::test]
async fn nor_where_a_host_has_a_pace_and_is_asked_again() {
    let limits = Limits { rate_limit_delay: Duration::from_millis(500), ..NO_LIMITS };
    let (crawl, worker) = start(limits, 40).await;
    refuse(&crawl, &worker, 429, 5).await;
    crawl.change(PAUSE_IS_OVER).await;
    crawl.change("UPDATE hosts SET backoff_until = now() - interval '7 days', asked_at = now() - interval '7 days'").await;
    for _ in 0..2 {
        let page = claim_one(&crawl, &worker).await;
        assert_eq!(crawl.number(DELAY).await, 500);
        worker.record(&[finished(&page, &small_table(), &[])]).await.unwrap();
        assert_eq!(crawl.number(LEVEL).await, 0);
    }
    // Nor does it count as refusing since then.
    refuse(&crawl, &worker, 503, 1).await;
    assert_eq!(crawl.number(TIMES).await, 1);
}

#[tokio::test]
async fn a_host_that_is_asked_rarely_is_remembered_for_as_long_as_it_is_asked() {
    let (crawl, worker) = start(NO_LIMITS, 40).await;
    refuse(&crawl, &worker, 429, 10).await;
    crawl.change(PAUSE_IS_OVER).await;
    crawl
        .change("UPDATE hosts SET backoff_until = now() - interval '11 minutes', asked_at = now() - interval '2 minutes'")
        .await;
    let page = crawl.claim(&worker).await.remove(0);
    assert_eq!(crawl.number(DELAY).await, 120_000);
    worker.record(&[finished(&page, &small_table(), &[])]).await.unwrap();
    assert_eq!(crawl.number(LEVEL).await, 51);
}

#[tokio::test]
async fn the_pages_of_a_host_that_refuses_every_page_fail_untried_and_a_retry_asks_again() {
    for (class, name, host_unit) in [(429, "http_429", HostUnit::Host), (503, "http_5xx", HostUnit::Domain)] {
        let (crawl, worker) = start(Limits { host_unit, ..NO_LIMITS }, 40).await;
        refuse(&crawl, &worker, class, HOST_REFUSES_AFTER - 1).await;
        assert_eq!(crawl.number(PAUSE).await, 300);
        assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 0);
        refuse(&crawl, &worker, class, 1).await;
        assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 40);
        let ends = "SELECT DISTINCT concat_ws(' ', status, error_class) FROM url_queue";
        assert_eq!(crawl.texts(ends).await, [format!("failed {name}")]);
        crawl.assert_counters_are_a_recount().await;
        assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 1);
        crawl.store.retry_execution(crawl.execution, None).await.unwrap();
        assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 40);
        assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 0);
        assert_eq!(crawl.number(TIMES).await, 0);
    }
}

#[tokio::test]
async fn a_host_that_wants_pauses_of_hours_is_given_up_after_some_of_them() {
    let (crawl, worker) = start(NO_LIMITS, 40).await;
    for (since, times) in [
        ("UPDATE hosts SET refused_since = NULL", 1),
        ("UPDATE hosts SET refused_since = now() - interval '3 hours'", 2),
        ("UPDATE hosts SET refused_since = now() - interval '7 hours'", HOST_REFUSES_AFTER),
    ] {
        let page = claim_one(&crawl, &worker).await;
        crawl.change(since).await;
        let mut busy = refused(&page, 503);
        busy.outcome.contact.back_off = Some(Duration::from_secs(3 * 3_600));
        worker.record(&[busy]).await.unwrap();
        assert_eq!((crawl.number(TIMES).await, crawl.number(PAUSE).await), (times.into(), 3 * 3_600));
    }
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 40);
    let ends = "SELECT DISTINCT concat_ws(' ', status, error_class) FROM url_queue";
    assert_eq!(crawl.texts(ends).await, ["failed http_5xx"], "as it said, whatever its pace");
}

#[tokio::test]
async fn a_page_that_is_always_refused_holds_its_host_up_no_longer_each_time() {
    let (crawl, worker) = start(NO_LIMITS, 2).await;
    let mut page = claim_one(&crawl, &worker).await;
    for _ in 0..6 {
        worker.record(&[refused(&page, 429)]).await.unwrap();
        assert_eq!(crawl.number(TIMES).await, 1);
        assert!(crawl.number(PAUSE).await <= 2, "no longer than its pace");
        crawl.change(PAUSE_IS_OVER).await;
        crawl
            .change("UPDATE url_queue SET not_before = now() - interval '1 hour' WHERE rate_limit_faults > 0")
            .await;
        page = crawl.claim(&worker).await.remove(0);
    }
    assert_eq!(crawl.number(LEVEL).await, 24, "nor does it make it slower for ever");
}

#[tokio::test]
async fn pages_that_were_in_hand_before_a_refusal_do_not_undo_it() {
    let (crawl, worker) = start(NO_LIMITS, 30).await;
    let pages = crawl.claim(&worker).await;
    worker.record(&[refused(&pages[0], 429)]).await.unwrap();
    for page in &pages[1..20] {
        worker.record(&[finished(page, &small_table(), &[])]).await.unwrap();
    }
    assert_eq!((crawl.number(TIMES).await, crawl.number(LEVEL).await), (1, 16));
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    worker.record(&[refused(&pages[20], 429)]).await.unwrap();
    assert_eq!((crawl.number(TIMES).await, crawl.number(LEVEL).await), (1, 16), "it counts as the same time");
}
