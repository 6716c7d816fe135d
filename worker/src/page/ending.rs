//! What an attempt of a page comes to: its outcome as it is recorded, and what becomes of the page's row. A panic on the way
//! there is a fault of ours that fails this attempt, as `internal`, and nothing else: the page is recorded all the same, and
//! nobody has to wait for the end of its lease. Knows nothing of the store.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crawlify_shared::domain::fault::{FaultDomain, Verdict};
use crawlify_shared::domain::outcome::{ErrorClass, Failure, PageEnd, PageOutcome};
use crawlify_shared::domain::page::{ClaimedPage, NextStatus};

use crate::skips::Hash;

/// An attempt that can be recorded.
pub(crate) struct Settled {
    pub(crate) outcome: PageOutcome,
    pub(crate) next: NextStatus,
    /// The skipped links that the outcome reports.
    pub(crate) reported: Vec<Hash>,
}

/// Settles what becomes of an attempt, once `report` has left those of its skipped links that are to be reported.
pub(crate) fn settle(
    page: &ClaimedPage,
    mut outcome: PageOutcome,
    report: impl FnOnce(&mut PageOutcome) -> Vec<Hash>,
) -> Settled {
    let (rendered, contact, received) = (outcome.rendered, outcome.contact, outcome.received);
    let settled = catch_unwind(AssertUnwindSafe(|| {
        let reported = report(&mut outcome);
        let next = next_status(page, &outcome);
        Settled { outcome, next, reported }
    }));
    settled.unwrap_or_else(|_panic| {
        // What was asked of the host, and what came of it, is so whatever happens afterwards.
        let outcome = PageOutcome { rendered, contact, received, ..panicked() };
        let next = next_status(page, &outcome);
        Settled { outcome, next, reported: Vec::new() }
    })
}

/// The outcome of an attempt that a panic ended.
pub(crate) fn panicked() -> PageOutcome {
    let message = "a fault in the worker: the execution panicked";
    PageOutcome::failed(Failure::new(ErrorClass::Internal, message))
}

/// What becomes of the page's row: a failure that may pass is tried again, later each time.
fn next_status(page: &ClaimedPage, outcome: &PageOutcome) -> NextStatus {
    match &outcome.end {
        PageEnd::Completed => NextStatus::Completed,
        PageEnd::Released => NextStatus::Released,
        PageEnd::PutOff(failure, delay) => NextStatus::PutOff(failure.clone(), *delay),
        PageEnd::Failed(failure) => match page.faults.judge(failure) {
            Verdict::Retry(pause) => {
                NextStatus::Retry(failure.clone(), pause.mul_f64(rand::random_range(0.5..1.5)))
            }
            Verdict::GiveUp => NextStatus::Failed(failure.clone()),
            Verdict::Quarantine => NextStatus::Failed(quarantined(page, failure)),
        },
        PageEnd::Skipped(failure) => NextStatus::Skipped(failure.clone()),
    }
}

/// What is said of a page that took down one browser too many.
fn quarantined(page: &ClaimedPage, failure: &Failure) -> Failure {
    let browsers = page.faults.and(FaultDomain::Browser).browser;
    let message = format!(
        "quarantined: {browsers} browsers were lost with the page in hand, the last one: {}",
        failure.message
    );
    Failure::new(ErrorClass::Poison, message)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::page::sample::claimed_page;

    #[test]
    fn a_fault_of_whoever_reports_links_fails_the_attempt_and_leaves_what_is_known_of_the_host() {
        let mut outcome = PageOutcome::nothing(PageEnd::Completed);
        outcome.contact.back_off = Some(Duration::from_secs(7));
        outcome.received = Some(1_000);
        let page = claimed_page("http://shop.test/");
        let settled = settle(&page, outcome, |_| panic!("a fault of whoever reports"));
        let PageEnd::Failed(failure) = &settled.outcome.end else { panic!("{:?}", settled.outcome.end) };
        assert_eq!(failure.class, ErrorClass::Internal);
        assert!(
            matches!(settled.next, NextStatus::Retry(..)),
            "it gets the attempts of any internal failure"
        );
        assert_eq!(settled.outcome.contact.back_off, Some(Duration::from_secs(7)));
        assert_eq!(settled.outcome.received, Some(1_000), "these bytes are told once only");
        assert!(settled.reported.is_empty());
    }

    #[test]
    fn an_attempt_without_a_fault_ends_as_it_did() {
        let page = claimed_page("http://shop.test/");
        let settled = settle(&page, PageOutcome::nothing(PageEnd::Completed), |_| vec![[1; 16]]);
        assert_eq!((settled.next, settled.reported), (NextStatus::Completed, vec![[1; 16]]));
        assert_eq!(settled.outcome, PageOutcome::nothing(PageEnd::Completed));
    }
}
