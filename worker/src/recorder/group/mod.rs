//! Pages that one statement records, and what is to be done with those that the database does not take. Knows nothing of the store.
//!
//! A database that takes nothing is waited for. One that takes the records of others again and again, and this page's never, does
//! so because of the page: then the page is recorded as failed, without its data.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::domain::id::PageId;
use crawlify_shared::domain::outcome::{ErrorClass, Failure, PageOutcome};
use crawlify_shared::domain::page::{FinishedPage, NextStatus, NodeTable};
use crawlify_shared::store::StoreError;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Job, Recorded};

#[cfg(test)]
mod tests;

/// After so many failures a group is halved.
const HALVE_AFTER: u32 = 3;
/// A page alone that fails again so often, each time after others were taken, is refused.
const OTHERS_TAKEN: u32 = 3;
/// Where it took too long, not before so long: somebody may hold a lock on rows of this page's execution alone.
const MAY_PASS_FOR: Duration = Duration::from_secs(600);

/// Pages that are recorded together.
#[derive(Debug)]
pub(super) struct Group {
    pages: Vec<FinishedPage>,
    /// Who waits for the pages, in their order.
    answers: Vec<oneshot::Sender<Recorded>>,
    /// How often it failed since it is this group.
    failures: u32,
    /// Whether a try that failed may have written it after all.
    is_ambiguous: bool,
    /// Whether it is a page without the data that were refused.
    is_stripped: bool,
    /// Of a page that failed alone.
    alone: Option<Alone>,
}

/// A page that failed alone, beside others.
#[derive(Debug)]
struct Alone {
    since: Instant,
    /// What had been taken of others when it failed last.
    taken: u64,
    /// How often it failed after others had been taken since its failure before.
    passed_over: u32,
}

/// How many groups of this worker the database has taken, by what a completed page of them had ([`parts`]). One that failed, or was
/// refused, is written without data, which says nothing of others' data.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken([u64; 1 << PARTS]);

/// Of a page's record, besides the page itself: rows of nodes, links, an item.
const PARTS: usize = 3;

impl Taken {
    /// Counts a group that was taken.
    pub(super) fn count(&mut self, group: &[FinishedPage], written: &[PageId]) {
        let is_such = |page: &&FinishedPage| {
            matches!(page.next, NextStatus::Completed) && written.contains(&page.page.page_id)
        };
        let mut seen = [false; 1 << PARTS];
        group.iter().filter(is_such).for_each(|page| seen[parts(page)] = true);
        for (count, seen) in self.0.iter_mut().zip(seen) {
            *count += u64::from(seen);
        }
    }

    /// Those that had all parts that a page like this one has.
    fn like(self, page: &FinishedPage) -> u64 {
        let parts = parts(page);
        self.0
            .iter()
            .enumerate()
            .filter(|(of_taken, _)| of_taken & parts == parts)
            .map(|(_, count)| count)
            .sum()
    }
}

/// Which parts a page's record has, a bit each.
fn parts(page: &FinishedPage) -> usize {
    let PageOutcome { nodes, discovered, item, .. } = &page.outcome;
    [!nodes.is_empty(), !discovered.is_empty(), item.is_some()]
        .into_iter()
        .enumerate()
        .map(|(bit, has)| usize::from(has) << bit)
        .sum()
}

impl Group {
    /// Makes a group of what waits.
    pub(super) fn new(jobs: Vec<Job>) -> Self {
        let (pages, answers) = jobs.into_iter().map(|job| (job.page, job.answer)).unzip();
        Self { pages, answers, failures: 0, is_ambiguous: false, is_stripped: false, alone: None }
    }

    pub(super) fn pages(&self) -> &[FinishedPage] {
        &self.pages
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether a try that failed may have written it after all.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.is_ambiguous
    }

    /// Tells everybody what became of the pages, of which the last try wrote these; nothing more is to be done.
    pub(super) fn settle(self, written: &[PageId]) {
        let told: Vec<_> = (0..self.pages.len()).map(|place| self.told(place, written)).collect();
        for (answer, told) in self.answers.into_iter().zip(told) {
            // Who does not wait any more has been told to stop.
            let _ = answer.send(told);
        }
    }

    /// What is told of the page at a place.
    fn told(&self, place: usize, written: &[PageId]) -> Recorded {
        match is_written(&self.pages, place, written) {
            true if self.is_stripped => Recorded::Settled,
            true => Recorded::Written,
            // An earlier try may have done it.
            false if self.is_ambiguous => Recorded::Settled,
            false => Recorded::NotWritten,
        }
    }

    /// Keeps the first half and gives the second; `None` of a page alone.
    pub(super) fn halve(&mut self) -> Option<Self> {
        if self.pages.len() < 2 {
            return None;
        }
        let half = self.pages.len() / 2;
        self.failures = 0;
        Some(Self {
            pages: self.pages.split_off(half),
            answers: self.answers.split_off(half),
            failures: 0,
            is_ambiguous: self.is_ambiguous,
            is_stripped: false,
            alone: None,
        })
    }

    /// Notes a failure. Where the connection may have ended before the answer, it is not known from then on whether
    /// the group was written. What the server refuses or stops it undoes; but where it says that it is not available just
    /// now, that is not told from silence here. It may be the group's size that the
    /// database cannot cope with in time, or one page of it: then it gives the second half.
    pub(super) fn note_failure(&mut self, error: &StoreError) -> Option<Self> {
        self.is_ambiguous |= matches!(error, StoreError::Unavailable(_) | StoreError::Silent(_));
        self.failures = self.failures.saturating_add(1);
        if self.failures < HALVE_AFTER { None } else { self.halve() }
    }

    /// Whether it is a page that is refused for itself, to be asked at each of its failures: because of its data, as the database
    /// says, or because others are taken and this one is not.
    pub(super) fn is_refused(&mut self, error: &StoreError, taken: Taken) -> bool {
        let [page] = self.pages.as_slice() else { return false };
        let not_before = match error {
            StoreError::BadData(_) => return true,
            StoreError::Raised(_) => Duration::ZERO,
            StoreError::TimedOut(_) => MAY_PASS_FOR,
            // Whoever has no room, no rights or no such table has them for no page of this kind.
            StoreError::Unavailable(_) | StoreError::Silent(_) | StoreError::Unusable(_) => return false,
        };
        let taken = taken.like(page);
        let alone = self.alone.get_or_insert_with(|| Alone { since: Instant::now(), taken, passed_over: 0 });
        if taken > alone.taken {
            alone.taken = taken;
            alone.passed_over += 1;
        }
        alone.passed_over >= OTHERS_TAKEN && alone.since.elapsed() >= not_before
    }

    /// The refused page without its data. One that is refused so as well is given up: it is taken from this worker with its lease, as
    /// if it had been held for too long, and quarantined in the end.
    pub(super) fn strip(mut self, error: &StoreError) -> Option<Self> {
        if self.is_stripped {
            self.settle(&[]);
            return None;
        }
        self.pages = self.pages.into_iter().map(|page| refused(page, error)).collect();
        (self.failures, self.is_stripped, self.alone) = (0, true, None);
        Some(self)
    }
}

/// Whether the page at a place of a group is among those that were written. Of one that is there twice it is the last
/// attempt alone, and of the same attempt the first: so the store chooses.
fn is_written(group: &[FinishedPage], place: usize, written: &[PageId]) -> bool {
    let page = &group[place].page;
    let is_chosen_before = |(other_place, other): (usize, &FinishedPage)| {
        let (ours, others) = ((page.epoch, page.attempt), (other.page.epoch, other.page.attempt));
        other.page.page_id == page.page_id && (others > ours || (others == ours && other_place < place))
    };
    written.contains(&page.page_id) && !group.iter().enumerate().any(is_chosen_before)
}

/// The same page without the data that the store refuses.
fn refused(page: FinishedPage, error: &StoreError) -> FinishedPage {
    // Without the details, which show the row.
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    tracing::error!(page.id = %page.page.page_id, cause, "the store refuses the page's data");
    let message = format!("the page's data could not be stored: {cause}");
    let failure = Failure::new(ErrorClass::Internal, message);
    // What was loaded was loaded, whatever becomes of it.
    let PageOutcome { rendered, bytes, received, .. } = page.outcome;
    FinishedPage {
        page: page.page,
        table: Arc::new(NodeTable { nodes: Vec::new() }),
        outcome: PageOutcome { rendered, bytes, received, ..PageOutcome::failed(failure.clone()) },
        next: NextStatus::Failed(failure),
    }
}
