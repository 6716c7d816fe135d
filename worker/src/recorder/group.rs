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

    /// Tells everybody that nothing more is to be done.
    pub(super) fn settle(self) {
        for answer in self.answers {
            // Who does not wait any more has been told to stop.
            let _ = answer.send(Recorded::Settled);
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

    /// Notes a failure after which it is not known whether the group was written. It may be the group's size that the database cannot
    /// cope with in time, or one page of it: then it gives the second half.
    pub(super) fn note_failure(&mut self) -> Option<Self> {
        self.is_ambiguous = true;
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
            StoreError::Unavailable(_) | StoreError::Unusable(_) => return false,
        };
        let taken = taken.like(page);
        let alone = self.alone.get_or_insert_with(|| Alone { since: Instant::now(), taken, passed_over: 0 });
        if taken > alone.taken {
            alone.taken = taken;
            alone.passed_over += 1;
        }
        alone.passed_over >= OTHERS_TAKEN && alone.since.elapsed() >= not_before
    }

    /// The refused page without its data. One that is refused so as well is given up: it comes back at the end of its lease, and fails
    /// after its last attempt.
    pub(super) fn strip(mut self, error: &StoreError) -> Option<Self> {
        if self.is_stripped {
            self.settle();
            return None;
        }
        self.pages = self.pages.into_iter().map(|page| refused(page, error)).collect();
        (self.failures, self.is_stripped, self.alone) = (0, true, None);
        Some(self)
    }
}

/// The same page without the data that the store refuses.
fn refused(page: FinishedPage, error: &StoreError) -> FinishedPage {
    // Without the details, which show the row.
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    tracing::error!(page.id = %page.page.page_id, cause, "the store refuses the page's data");
    let message = format!("the page's data could not be stored: {cause}");
    let failure = Failure::new(ErrorClass::Internal, message);
    FinishedPage {
        page: page.page,
        table: Arc::new(NodeTable { nodes: Vec::new() }),
        outcome: PageOutcome { rendered: page.outcome.rendered, ..PageOutcome::failed(failure.clone()) },
        next: NextStatus::Failed(failure),
    }
}

#[cfg(test)]
mod tests {
    use crawlify_shared::domain::outcome::{DiscoveredUrl, PageEnd};
    use crawlify_shared::domain::page_url::PageUrl;
    use serde_json::{Value, json};

    use super::*;
    use crate::page::sample::claimed_page;

    const NOBODY: Taken = Taken([0; 1 << PARTS]);

    fn completed(item: Option<Value>) -> FinishedPage {
        FinishedPage {
            page: claimed_page("http://shop.test/1"),
            table: Arc::new(NodeTable { nodes: Vec::new() }),
            outcome: PageOutcome { item, ..PageOutcome::nothing(PageEnd::Completed) },
            next: NextStatus::Completed,
        }
    }

    fn with_item() -> FinishedPage {
        completed(Some(json!({"title": "one"})))
    }

    /// A group, and what is told of its pages.
    fn group(pages: Vec<FinishedPage>) -> (Group, Vec<oneshot::Receiver<Recorded>>) {
        let job = |page| {
            let (answer, answered) = oneshot::channel();
            (Job { page, answer }, answered)
        };
        let (jobs, answers) = pages.into_iter().map(job).unzip();
        (Group::new(jobs), answers)
    }

    fn by_a_trigger() -> StoreError {
        StoreError::Raised("raised by a trigger (P0001)".into())
    }

    fn count(taken: &mut Taken, page: &FinishedPage) {
        taken.count(std::slice::from_ref(page), &[page.page.page_id]);
    }

    #[test]
    fn a_page_alone_is_refused_once_others_were_taken_three_times_between_its_failures() {
        let (mut alone, _answers) = group(vec![with_item()]);
        let mut taken = NOBODY;
        count(&mut taken, &with_item());
        // What was taken before its first failure says nothing, nor does that nobody else is there.
        for _ in 0..100 {
            assert!(!alone.is_refused(&by_a_trigger(), taken));
        }
        for time in 1..=OTHERS_TAKEN {
            for _ in 0..2 {
                count(&mut taken, &with_item());
            }
            assert_eq!(alone.is_refused(&by_a_trigger(), taken), time == OTHERS_TAKEN);
        }
    }

    #[test]
    fn a_page_with_an_item_is_compared_with_items_and_none_with_pages_that_failed() {
        let (mut item, _answers) = group(vec![with_item()]);
        let (mut list, _answers) = group(vec![completed(None)]);
        let failed = refused(with_item(), &by_a_trigger());
        let mut taken = NOBODY;
        let both = |taken: Taken, item: &mut Group, list: &mut Group| {
            [item, list].map(|group| group.is_refused(&by_a_trigger(), taken))
        };
        for _ in 0..=OTHERS_TAKEN {
            assert_eq!(both(taken, &mut item, &mut list), [false, false]);
            count(&mut taken, &failed);
        }
        for time in 1..=OTHERS_TAKEN {
            count(&mut taken, &completed(None));
            assert_eq!(both(taken, &mut item, &mut list), [false, time == OTHERS_TAKEN]);
        }
        // One whose lease was lost was not taken.
        taken.count(&[with_item()], &[]);
        assert_eq!((taken.like(&with_item()), taken.like(&completed(None))), (0, u64::from(OTHERS_TAKEN)));
    }

    #[test]
    fn a_page_with_links_is_not_compared_with_pages_that_have_none() {
        let url = PageUrl::parse("http://shop.test/2").unwrap();
        let link = DiscoveredUrl { url, discovered_by: "links".to_owned(), skipped: None, is_sitemap: false };
        let mut list = completed(None);
        list.outcome.discovered.push(link);
        let mut taken = NOBODY;
        count(&mut taken, &with_item());
        assert_eq!((taken.like(&list), taken.like(&with_item())), (0, 1));
        list.outcome.item = Some(json!({}));
        count(&mut taken, &list);
        assert_eq!((taken.like(&list), taken.like(&with_item())), (1, 2), "which has an item, too");
    }

    #[test]
    fn want_of_room_and_of_rights_is_waited_for_whatever_becomes_of_others() {
        let no_room = StoreError::Unavailable("No space left on device (53100)".into());
        let no_rights = StoreError::Unusable("permission denied for table node_records (42501)".into());
        let (mut alone, _answers) = group(vec![with_item()]);
        let mut taken = NOBODY;
        for _ in 0..10 * OTHERS_TAKEN {
            assert!(!alone.is_refused(&no_room, taken) && !alone.is_refused(&no_rights, taken));
            count(&mut taken, &with_item());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_waited_for_longer() {
        let timeout = StoreError::TimedOut("canceling statement due to statement timeout (57014)".into());
        let (mut alone, _answers) = group(vec![with_item()]);
        let mut taken = NOBODY;
        for _ in 0..10 * OTHERS_TAKEN {
            assert!(!alone.is_refused(&timeout, taken));
            count(&mut taken, &with_item());
        }
        tokio::time::advance(MAY_PASS_FOR).await;
        assert!(alone.is_refused(&timeout, taken));
    }

    #[test]
    fn a_group_that_fails_is_halved_until_each_page_is_alone_and_each_keeps_its_answer() {
        let pages: Vec<_> = (0..3).map(|_| with_item()).collect();
        let ids: Vec<_> = pages.iter().map(|page| page.page.page_id).collect();
        let (mut first, mut answers) = group(pages);
        assert!(!first.is_refused(&by_a_trigger(), NOBODY));
        assert!(first.note_failure().is_none() && first.note_failure().is_none());
        let mut rest = first.note_failure().expect("it is halved");
        assert_eq!((first.pages().len(), first.failures(), rest.pages().len()), (1, 0, 2));
        assert!(rest.is_ambiguous(), "it may have been written");
        let last = rest.halve().expect("it is halved");
        for _ in 0..=HALVE_AFTER {
            assert!(first.note_failure().is_none(), "a page is not halved");
        }
        assert_eq!([&first, &rest, &last].map(|group| group.pages()[0].page.page_id), ids[..]);
        rest.settle();
        let told: Vec<_> = answers.iter_mut().map(|answer| answer.try_recv().ok()).collect();
        assert_eq!(told, [None, Some(Recorded::Settled), None]);
    }

    #[test]
    fn a_page_that_is_refused_fails_with_what_the_database_said_and_is_given_up_the_second_time() {
        let (mut alone, mut answers) = group(vec![with_item()]);
        assert!(alone.is_refused(&StoreError::BadData("too long (22001)".into()), NOBODY));
        let mut stripped = alone.strip(&by_a_trigger()).expect("it is tried without its data");
        let page = &stripped.pages()[0];
        let NextStatus::Failed(failure) = &page.next else { panic!("{:?}", page.next) };
        assert_eq!(failure.message, "the page's data could not be stored: raised by a trigger (P0001)");
        assert_eq!(page.outcome.item, None);
        assert!(!stripped.is_refused(&by_a_trigger(), NOBODY), "it is compared with others anew");
        assert!(answers[0].try_recv().is_err());
        assert!(stripped.strip(&by_a_trigger()).is_none());
        assert_eq!(answers[0].try_recv().ok(), Some(Recorded::Settled));
    }
}
