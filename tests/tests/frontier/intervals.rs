//! Intervals between the starts of a host's pages, held against the delays that these had to keep: whether a pace was ever not
//! kept, and whether it is now.

use std::time::Duration;

use chrono::{DateTime, Utc};
use crawlify_shared::domain::page::ClaimedPage;
use crawlify_shared::store::hosts::HostPace;
use crawlify_shared::store::hot::HotStore;
use harness::crawl::{Crawl, NO_LIMITS, finished, small_table};

/// Pages of one host in a worker's hands, which start when a test says so.
struct Starts {
    crawl: Crawl,
    worker: HotStore,
    pages: std::vec::IntoIter<ClaimedPage>,
    claimed_at: DateTime<Utc>,
}

impl Starts {
    async fn of(pages: usize) -> Self {
        let urls: Vec<_> = (0..pages).map(|number| format!("http://a.test/{number}")).collect();
        let urls: Vec<_> = urls.iter().map(String::as_str).collect();
        let crawl = Crawl::start(NO_LIMITS, &urls).await;
        let worker = crawl.worker().await;
        let claimed = crawl.claim(&worker).await;
        assert_eq!(claimed.len(), pages);
        let claimed_at = claimed[0].claimed_at;
        Self { crawl, worker, pages: claimed.into_iter(), claimed_at }
    }

    /// Records pages that started so many milliseconds after the claim, and had to keep a delay of so many.
    async fn record(&mut self, starts: impl IntoIterator<Item = (u64, u64)>) {
        let starts: Vec<_> = starts.into_iter().collect();
        let claimed_at = self.claimed_at;
        let started = |((at_ms, delay_ms), mut page): ((u64, u64), ClaimedPage)| {
            page.claimed_at = claimed_at;
            page.host_delay = Duration::from_millis(delay_ms);
            let mut done = finished(&page, &small_table(), &[]);
            done.outcome.contact.started_in = Some(Duration::from_millis(at_ms));
            done
        };
        let group: Vec<_> = starts.iter().copied().zip(self.pages.by_ref()).map(started).collect();
        assert_eq!(self.worker.record(&group).await.unwrap().len(), starts.len());
    }

    async fn shown(&self) -> HostPace {
        self.crawl.store.host_paces(Some("a.test"), 1, 0).await.unwrap().remove(0)
    }

    /// The worst interval of all, and of the last ones, each with its delay.
    async fn intervals(&self) -> [(Option<i32>, Option<i32>); 2] {
        let pace = self.shown().await;
        [
            (pace.min_interval_ms, pace.min_interval_delay_ms),
            (pace.recent_interval_ms, pace.recent_interval_delay_ms),
        ]
    }

    fn at(&self, milliseconds: u64) -> Option<DateTime<Utc>> {
        Some(self.claimed_at + Duration::from_millis(milliseconds))
    }
}

const fn of(interval_ms: i32, delay_ms: i32) -> (Option<i32>, Option<i32>) {
    (Some(interval_ms), Some(delay_ms))
}

#[tokio::test]
async fn the_smallest_interval_between_starts_is_kept_however_late_they_are_recorded() {
    // The last one took so long that many have been recorded which started after it.
    let starts: Vec<_> =
        [0, 2_000, 5_000].into_iter().chain((5..45).map(|n| n * 2_000)).chain([3_999]).collect();
    let mut host = Starts::of(starts.len()).await;
    for at_ms in starts {
        host.record([(at_ms, 2_000)]).await;
    }
    assert_eq!(host.intervals().await, [of(1_001, 2_000); 2]);
    assert_eq!(host.shown().await.min_interval_at, host.at(5_000));
}

#[tokio::test]
async fn a_faster_pace_that_was_kept_hides_no_slower_one_that_was_not() {
    let mut host = Starts::of(6 + 129).await;
    host.record([(0, 100), (103, 100), (206, 100)]).await;
    assert_eq!(host.intervals().await, [of(103, 100); 2]);
    host.record([(10_000, 500), (10_450, 500), (10_965, 500)]).await;
    assert_eq!(host.intervals().await, [of(450, 500); 2]);
    // It is kept again, for as long as starts are remembered.
    host.record((0..129).map(|number| (20_000 + 515 * number, 500))).await;
    assert_eq!(host.intervals().await, [of(450, 500), of(515, 500)]);
    let pace = host.shown().await;
    assert_eq!(pace.min_interval_at, host.at(10_450));
    assert_eq!(pace.recent_interval_at, host.at(20_000 + 515 * 128), "the last of those that are alike");
}

#[tokio::test]
async fn a_pace_that_changes_was_kept_and_one_that_holds_for_a_moment_begins_nothing_anew() {
    let mut host = Starts::of(10).await;
    host.record([(0, 1_000), (1_030, 1_000), (1_545, 500), (2_060, 500), (2_575, 1_000), (3_605, 1_000)])
        .await;
    assert_eq!(host.intervals().await, [of(515, 500); 2]);
    host.worker.hold_back("a.test", Duration::from_secs(1)).await.unwrap();
    assert_eq!(host.intervals().await, [of(515, 500); 2]);
    // Starts may be some 10 ms late, which of such a delay is much. That hides nothing worse.
    host.record([(5_000, 16), (5_010, 16)]).await;
    assert_eq!(host.intervals().await, [of(10, 16); 2]);
    host.record([(6_000, 500), (6_480, 500)]).await;
    assert_eq!(host.intervals().await, [of(480, 500); 2]);
}

#[tokio::test]
async fn starts_of_which_an_older_worker_does_not_say_the_delay_are_compared_with_none() {
    const OLDER: &str = "SELECT note_contacts(ARRAY['a.test'], ARRAY[recent_starts[1] + interval '100 ms'],
            ARRAY[NULL::bigint], ARRAY[NULL::integer], ARRAY[true], ARRAY[NULL::text], ARRAY[true], ARRAY[false], ARRAY[1],
            ARRAY[true], ARRAY[now()], ARRAY[false], ARRAY[NULL::text], ARRAY[false])
        FROM hosts";
    let mut host = Starts::of(2).await;
    host.record([(0, 500)]).await;
    host.crawl.change(OLDER).await;
    host.record([(615, 500)]).await;
    assert_eq!(host.crawl.number("SELECT cardinality(recent_starts)::int8 FROM hosts").await, 3);
    assert_eq!(host.intervals().await, [(None, None); 2]);
}
