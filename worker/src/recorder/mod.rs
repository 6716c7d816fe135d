//! The recorder: finished pages of all slots go into the store together, group by group.
//!
//! It never gives a page up while the worker lives: a store that is down is waited for. A page whose data the store
//! refuses, or that it does not take while it takes others, is found by halving its group, and is recorded as failed without that
//! data. What fails is tried again behind what came meanwhile, so that no page keeps others from being recorded.

pub(crate) mod decisions;
mod group;
mod uncounted;
pub(crate) mod unrecorded;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crawlify_shared::domain::id::PageId;
use crawlify_shared::domain::page::FinishedPage;
use crawlify_shared::store::StoreError;
use crawlify_shared::store::hot::{HotStore, UnrecordedPage};
use crawlify_shared::telemetry::chain;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::group_commit::gather_group;
use crate::lanes::Lanes;
use crate::metrics::Metrics;
use group::{Group, Taken};
use uncounted::Uncounted;
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
/// The pause after a failure before anything that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Where finished pages are recorded.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    jobs: mpsc::Sender<Job>,
    /// Pages that will be recorded, or are being. Written by [`Expected`].
    expected: Arc<AtomicUsize>,
    /// Pages that are being recorded.
    unrecorded: Unrecorded,
    /// What was received for pages that were not recorded.
    uncounted: Uncounted,
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
    /// It is committed, with all that the page gave: the message can be forgotten.
    Written,
    /// Nothing of it was or will be written, because the page had lost its lease, or because it is refused even without
    /// its data: the message can be forgotten.
    NotWritten,
    /// The message can be forgotten, but it is not sure that all that the page gave is there: its data were refused, or
    /// it had lost its lease after a try of which the answer is not known.
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
        let recorder = Self {
            jobs,
            expected: Arc::clone(&expected),
            unrecorded: Unrecorded::default(),
            uncounted: Uncounted::new(),
        };
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
    pub(crate) async fn record(&self, mut page: FinishedPage) -> Recorded {
        let _waiting = self.unrecorded.add(UnrecordedPage::from(&page.page));
        let (execution, bytes) = (page.page.execution_id, self.uncounted.tell_with(&mut page));
        let (answer, answered) = oneshot::channel();
        if self.jobs.send(Job { page, answer }).await.is_err() {
            return Recorded::Unknown;
        }
        let recorded = answered.await.unwrap_or(Recorded::Unknown);
        // Of one that may have been written they may have been counted, and nothing is counted twice.
        if recorded == Recorded::NotWritten {
            self.uncounted.add(execution, bytes);
        }
        recorded
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
    let mut recording = Recording {
        store,
        metrics,
        recorded,
        failed: VecDeque::new(),
        again_at: Instant::now(),
        taken: Taken::default(),
    };
    loop {
        let first = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // First, so that what comes all the time does not keep it waiting.
            () = tokio::time::sleep_until(recording.again_at), if !recording.failed.is_empty() => None,
            first = jobs.recv() => match first {
                Some(first) => Some(first),
                None => return,
            },
        };
        let group = match first {
            Some(first) => Some(Group::new(gather_group(first, &mut jobs, full, enough, LINGER).await)),
            None => recording.failed.pop_front(),
        };
        let Some(group) = group else { continue };
        // Of pages that are dropped with it nothing is known.
        if stop.run_until_cancelled(recording.record(group)).await.is_none() {
            return;
        }
    }
}

/// What [`run`] records with, and what it could not record yet.
struct Recording {
    store: HotStore,
    metrics: Arc<Metrics>,
    recorded: Arc<Notify>,
    /// Groups that failed, the one that waits the longest first.
    failed: VecDeque<Group>,
    /// When the first of them is tried again: others have at least as much time as the last try kept the database busy.
    again_at: Instant,
    taken: Taken,
}

impl Recording {
    /// Tries to record a group. Data that are refused are dealt with at once; what fails for another reason goes behind the others.
    async fn record(&mut self, group: Group) {
        let mut at_hand = vec![group];
        while let Some(mut group) = at_hand.pop() {
            let begun = Instant::now();
            match self.store.record(group.pages()).await {
                Ok(written) => {
                    self.taken.count(group.pages(), &written);
                    self.metrics.observe_record(group.pages(), &written, begun.elapsed());
                    if !group.is_ambiguous() {
                        report_lost_leases(group.pages(), &written);
                    }
                    group.settle(&written);
                    self.recorded.notify_one();
                }
                Err(error) if group.is_refused(&error, self.taken) => at_hand.extend(group.strip(&error)),
                Err(StoreError::BadData(_)) => {
                    let second = group.halve();
                    at_hand.extend(second);
                    at_hand.push(group);
                }
                Err(error) => {
                    report_failure(&error, &group);
                    // Silence keeps nobody busy, and another connection may be answered at once.
                    let busy = match error {
                        StoreError::Silent(_) => Duration::ZERO,
                        _ => begun.elapsed(),
                    };
                    self.again_at = Instant::now() + RETRY_PAUSE.max(busy);
                    let second = group.note_failure(&error);
                    self.failed.push_back(group);
                    self.failed.extend(second);
                }
            }
        }
    }
}

fn report_failure(error: &StoreError, group: &Group) {
    let (pages, failures) = (group.pages().len(), group.failures() + 1);
    if error.is_transient() {
        tracing::warn!(error = %chain(error), pages, failures, "cannot record, will go on");
    } else {
        tracing::error!(error = %chain(error), pages, failures, "cannot record: the database needs somebody");
    }
}

fn report_lost_leases(group: &[FinishedPage], written: &[PageId]) {
    for page in group.iter().filter(|page| !written.contains(&page.page.page_id)) {
        tracing::warn!(page.id = %page.page.page_id, attempt = page.page.attempt, "the page had lost its lease");
    }
}

#[cfg(test)]
mod tests {
    use crawlify_shared::domain::id::ExecutionId;
    use crawlify_shared::domain::outcome::{PageEnd, PageOutcome};
    use crawlify_shared::domain::page::{NextStatus, NodeTable};

    use super::*;
    use crate::page::sample::claimed_page;

    fn received(execution: ExecutionId, bytes: u64, received: Option<u64>) -> FinishedPage {
        let mut page = claimed_page("http://shop.test/");
        page.execution_id = execution;
        FinishedPage {
            page,
            table: Arc::new(NodeTable { nodes: Vec::new() }),
            outcome: PageOutcome { bytes, received, ..PageOutcome::nothing(PageEnd::Completed) },
            next: NextStatus::Completed,
        }
    }

    #[tokio::test]
    async fn what_was_received_for_a_page_that_is_not_written_is_told_once_by_the_next_one() {
        let (jobs, mut waiting) = mpsc::channel(1);
        let recorder = Recorder {
            jobs,
            expected: Arc::default(),
            unrecorded: Unrecorded::default(),
            uncounted: Uncounted::new(),
        };
        let (one, other) = (ExecutionId::generate(), ExecutionId::generate());
        // What each page has, what becomes of its record, and what that tells.
        for (page, becomes, told) in [
            (received(one, 7, Some(100)), Recorded::NotWritten, Some(100)),
            (received(other, 7, Some(1)), Recorded::Written, Some(1)),
            // Nobody counts: what its document has.
            (received(one, 20, None), Recorded::NotWritten, Some(120)),
            (received(one, 0, Some(3)), Recorded::Settled, Some(123)),
            (received(one, 5, None), Recorded::Written, None),
        ] {
            let record = async {
                let job = waiting.recv().await.unwrap();
                assert_eq!(job.page.outcome.received, told);
                job.answer.send(becomes).unwrap();
            };
            let (recorded, ()) = tokio::join!(recorder.record(page), record);
            assert_eq!(recorded, becomes);
        }
    }
}
