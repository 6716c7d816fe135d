//! The recorder: finished pages of all slots go into the store together, group by group.
//!
//! It never gives a page up while the worker lives: a store that is down is waited for. A page whose data the store
//! refuses is found by halving its group, and is recorded as failed without that data.

pub(crate) mod decisions;
pub(crate) mod unrecorded;

use std::collections::HashSet;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crawlify_shared::domain::id::PageId;
use crawlify_shared::domain::outcome::{ErrorClass, Failure, PageOutcome};
use crawlify_shared::domain::page::{FinishedPage, NextStatus, NodeTable};
use crawlify_shared::store::StoreError;
use crawlify_shared::store::hot::{HotStore, UnrecordedPage};
use crawlify_shared::telemetry::chain;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::group_commit::gather_group;
use crate::lanes::Lanes;
use crate::metrics::Metrics;
use unrecorded::Unrecorded;

/// Node records of one statement at the most, give or take one page's.
const MAX_ROWS: usize = 2_000;
/// Pages of one statement at the most.
const MAX_PAGES: usize = 256;
/// Links of one statement at the most, give or take one page's.
const MAX_LINKS: usize = 50_000;
/// How long a group waits for further pages: a statement for one page costs as much as one for several.
const LINGER: Duration = Duration::from_millis(150);
/// A group of so many pages waits no longer.
const ENOUGH_PAGES: usize = 16;
/// After so many failures in a row the group is halved.
const HALVE_AFTER: u32 = 3;
/// The pause after a failure.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Where finished pages are recorded.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    jobs: mpsc::Sender<Job>,
    /// Pages that will be recorded, or are being. Written by [`Expected`].
    expected: Arc<AtomicUsize>,
    /// Pages that are being recorded.
    unrecorded: Unrecorded,
}

/// A page that will be recorded, until this is dropped: a group waits for it a little.
#[derive(Debug)]
pub(crate) struct Expected(Arc<AtomicUsize>);

impl Drop for Expected {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// It is committed, now or by an earlier try, or the page had lost its lease: the message can be forgotten.
    Settled,
    /// Nothing is known, because we stop: the message must go back.
    Unknown,
}

#[derive(Debug)]
struct Job {
    page: FinishedPage,
    answer: oneshot::Sender<Recorded>,
}

impl Recorder {
    /// Makes the way in; whoever owns the tasks runs the future, which ends on `stop`. It tells `recorded` when a
    /// group is.
    pub(crate) fn new(
        store: HotStore,
        metrics: Arc<Metrics>,
        lanes: Arc<Lanes>,
        recorded: Arc<Notify>,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (jobs, waiting) = mpsc::channel(MAX_PAGES);
        let expected = Arc::new(AtomicUsize::new(0));
        let recorder = Self { jobs, expected: Arc::clone(&expected), unrecorded: Unrecorded::default() };
        (recorder, run(store, metrics, waiting, expected, lanes, recorded, stop))
    }

    /// What it has in its hands.
    pub(crate) fn unrecorded(&self) -> Unrecorded {
        self.unrecorded.clone()
    }

    /// Announces that a page will be recorded.
    pub(crate) fn expect(&self) -> Expected {
        self.expected.fetch_add(1, Ordering::Relaxed);
        Expected(Arc::clone(&self.expected))
    }

    /// Records a page; waits while the store is down, and a little for others to come along.
    pub(crate) async fn record(&self, page: FinishedPage) -> Recorded {
        let _waiting = self.unrecorded.add(UnrecordedPage::from(&page.page));
        let (answer, answered) = oneshot::channel();
        if self.jobs.send(Job { page, answer }).await.is_err() {
            return Recorded::Unknown;
        }
        answered.await.unwrap_or(Recorded::Unknown)
    }
}

async fn run(
    store: HotStore,
    metrics: Arc<Metrics>,
    mut jobs: mpsc::Receiver<Job>,
    expected: Arc<AtomicUsize>,
    lanes: Arc<Lanes>,
    recorded: Arc<Notify>,
    stop: CancellationToken,
) {
    let full = |group: &[Job]| {
        group.len() >= MAX_PAGES
            || group.iter().map(|job| job.page.outcome.nodes.len()).sum::<usize>() >= MAX_ROWS
            || group.iter().map(|job| job.page.outcome.discovered.len()).sum::<usize>() >= MAX_LINKS
    };
    // Where no other page is on its way, nobody is waited for; and where slots are free, the links that these pages found
    // may be what they wait for.
    let enough = |group: &[Job]| {
        lanes.is_hungry() || group.len() >= ENOUGH_PAGES.min(expected.load(Ordering::Relaxed))
    };
    loop {
        let group = tokio::select! {
            group = gather_group(&mut jobs, full, enough, LINGER) => group,
            () = stop.cancelled() => None,
        };
        let Some(group) = group else { return };
        let (pages, answers): (Vec<_>, Vec<_>) = group.into_iter().map(|job| (job.page, job.answer)).unzip();
        let settled = tokio::select! {
            () = record_all(&store, &metrics, pages) => Recorded::Settled,
            () = stop.cancelled() => Recorded::Unknown,
        };
        recorded.notify_one();
        for answer in answers {
            let _ = answer.send(settled);
        }
    }
}

/// Records every page of a group, however long that takes.
async fn record_all(store: &HotStore, metrics: &Metrics, pages: Vec<FinishedPage>) {
    let mut open = vec![pages];
    let (mut ambiguous, mut failures) = (false, 0_u32);
    let mut stripped = HashSet::new();
    while let Some(mut group) = open.pop() {
        if group.is_empty() {
            continue;
        }
        let begun = Instant::now();
        match store.record(&group).await {
            Ok(written) => {
                failures = 0;
                metrics.observe_record(&group, &written, begun.elapsed());
                if !ambiguous {
                    report_lost_leases(&group, &written);
                }
            }
            Err(error @ StoreError::BadData(_)) => {
                if group.len() > 1 {
                    open.push(group.split_off(group.len() / 2));
                    open.push(group);
                } else {
                    // One that is refused without its data as well comes back at the end of its lease, and fails
                    // after its last attempt.
                    group.retain(|page| stripped.insert(page.page.page_id));
                    open.push(group.into_iter().map(|page| refused(page, &error)).collect());
                }
            }
            Err(error) => {
                failures += 1;
                let pages = group.len();
                if error.is_transient() {
                    tracing::warn!(
                        error = %chain(&error),
                        pages,
                        failures,
                        "cannot record, will go on"
                    );
                } else {
                    tracing::error!(
                        error = %chain(&error),
                        pages,
                        failures,
                        "cannot record: the database needs somebody"
                    );
                }
                ambiguous = true;
                // It may be the group's size that the database cannot cope with in time.
                if failures.is_multiple_of(HALVE_AFTER) && group.len() > 1 {
                    open.push(group.split_off(group.len() / 2));
                }
                open.push(group);
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

fn report_lost_leases(group: &[FinishedPage], written: &[PageId]) {
    for page in group.iter().filter(|page| !written.contains(&page.page.page_id)) {
        tracing::warn!(page.id = %page.page.page_id, attempt = page.page.attempt, "the page had lost its lease");
    }
}

/// The same page without the data that the store refuses.
fn refused(page: FinishedPage, error: &StoreError) -> FinishedPage {
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    tracing::error!(page.id = %page.page.page_id, cause, "the store refuses the page's data");
    let failure = Failure::new(ErrorClass::Internal, "the page's data could not be stored");
    FinishedPage {
        page: page.page,
        table: Arc::new(NodeTable { nodes: Vec::new() }),
        outcome: PageOutcome { rendered: page.outcome.rendered, ..PageOutcome::failed(failure.clone()) },
        next: NextStatus::Failed(failure),
    }
}
