//! The executions whose workflows this worker's version cannot run, as an older worker meets them in an upgrade. Their pages
//! are left to others, uncharged; and where no living worker can run them for long, that is what ends them. Whether there are
//! others the heartbeat asks, off the pages' way.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::outcome::{ErrorClass, Failure, PageEnd};
use crawlify_shared::domain::workflow::Problem;
use tokio::time::Instant;

/// How many are remembered.
const REMEMBERED: usize = 1_024;
/// How long at least a page of such an execution rests.
const LEAST_REST: Duration = Duration::from_secs(1);
/// How long at most.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// What this worker cannot run. Written by whoever reads workflows and by the heartbeat, read by pages and by the heartbeat, which
/// tells the fleet. Locked for moments only.
#[derive(Clone, Debug)]
pub(crate) struct Refusals {
    refused: Arc<Mutex<Vec<Refused>>>,
    /// So long pages wait for a worker that can run them, where there is none.
    newer_within: Duration,
}

#[derive(Debug)]
struct Refused {
    execution: ExecutionId,
    since: Instant,
    /// What its workflow has that this version does not know.
    why: String,
    /// Since when no living worker may be able to run it, as far as could be asked.
    by_all_since: Option<Instant>,
}

/// What becomes of the pages of such an execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// They are left to others.
    Rest(Rest),
    /// Nobody can run them.
    End(Failure),
}

/// How a page is left to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rest {
    /// For how long.
    pub(crate) time: Duration,
    /// What is said to people.
    pub(crate) why: String,
}

impl Refusals {
    pub(crate) fn new(newer_within: Duration) -> Self {
        Self { refused: Arc::default(), newer_within }
    }

    /// Notes one, for the first problem of its workflow. Answers what becomes of the page that showed it.
    pub(crate) fn note(&self, execution: ExecutionId, problems: &[Problem]) -> Refusal {
        let mut refused = self.lock();
        if let Some(known) = refused.iter().find(|known| known.execution == execution) {
            return known.refusal(self.newer_within);
        }
        let problem = problems.first();
        let problem =
            problem.map(|problem| format!("{}: {}", problem.pointer, problem.message)).unwrap_or_default();
        tracing::warn!(
            execution.id = %execution,
            version = env!("CARGO_PKG_VERSION"),
            problem,
            "this worker's version cannot run the workflow, and leaves its pages to others: upgrade this worker"
        );
        let why = format!("one of version {} cannot run the workflow ({problem})", env!("CARGO_PKG_VERSION"));
        let new = Refused { execution, since: Instant::now(), why, by_all_since: None };
        let refusal = new.refusal(self.newer_within);
        refused.push(new);
        let surplus = refused.len().saturating_sub(REMEMBERED);
        refused.drain(..surplus);
        refusal
    }

    /// What becomes of an execution's pages; `None`: nothing speaks against it here.
    pub(crate) fn of(&self, execution: ExecutionId) -> Option<Refusal> {
        let refused = self.lock();
        refused
            .iter()
            .find(|known| known.execution == execution)
            .map(|known| known.refusal(self.newer_within))
    }

    /// Notes which of them others may run, `None` where that is not known.
    pub(crate) fn note_others(&self, others_for: Option<&[ExecutionId]>) {
        for known in self.lock().iter_mut() {
            let may_be_there = others_for.is_none_or(|executions| executions.contains(&known.execution));
            if may_be_there {
                known.by_all_since = None;
            } else {
                known.by_all_since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// All of them, in no particular order.
    pub(crate) fn executions(&self) -> Vec<ExecutionId> {
        self.lock().iter().map(|known| known.execution).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Refused>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Refused {
    /// In an upgrade, a worker that can run it has its pages soon; and where there is none, they are looked at more and more
    /// rarely.
    fn refusal(&self, newer_within: Duration) -> Refusal {
        if self.by_all_since.is_some_and(|since| since.elapsed() >= newer_within) {
            let message = format!("no living worker can run the workflow: {}", self.why);
            return Refusal::End(Failure::new(ErrorClass::Internal, message));
        }
        let time = self.since.elapsed().clamp(LEAST_REST, LONGEST_REST);
        Refusal::Rest(Rest { time, why: self.why.clone() })
    }
}

impl From<Refusal> for PageEnd {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Rest(Rest { time, why }) => {
                let message = format!("waiting for a newer worker: {why}");
                Self::PutOff(Failure::new(ErrorClass::Internal, message), time)
            }
            Refusal::End(failure) => Self::Failed(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use crawlify_shared::domain::workflow::parse_config;
    use serde_json::json;

    use super::*;
    use crate::NEWER_WITHIN;

    fn problems_of_a_newer_one() -> Vec<Problem> {
        let newer = json!({
            "start_urls": ["http://shop.test/"],
            "url_discovery": [{"id": "a", "type": "of_a_newer_version", "params": {}}],
            "data_extraction": [{"id": "b", "type": "wait", "params": {"duration": 1}}],
        });
        parse_config(&newer).unwrap_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_workflow_of_a_newer_version_has_its_pages_put_off_uncharged_for_longer_and_longer() {
        let problems = problems_of_a_newer_one();
        let (refusals, execution, other) =
            (Refusals::new(NEWER_WITHIN), ExecutionId::generate(), ExecutionId::generate());
        let put_off = |execution| match PageEnd::from(refusals.note(execution, &problems)) {
            PageEnd::PutOff(failure, delay) => {
                assert!(failure.message.contains("/url_discovery/0/type"), "{}", failure.message);
                delay.as_secs()
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(refusals.of(execution), None);
        assert_eq!([put_off(execution), put_off(execution)], [1, 1]);
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!([put_off(execution), put_off(other)], [7, 1]);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!([put_off(execution), put_off(other)], [10, 10]);
        assert_eq!(refusals.executions(), [execution, other]);
    }

    #[tokio::test(start_paused = true)]
    async fn pages_fail_once_no_others_have_been_there_for_long_and_not_while_that_is_unknown() {
        let (refusals, execution, other) =
            (Refusals::new(NEWER_WITHIN), ExecutionId::generate(), ExecutionId::generate());
        for execution in [execution, other] {
            refusals.note(execution, &problems_of_a_newer_one());
        }
        let ends = |execution| match refusals.of(execution).map(PageEnd::from) {
            Some(PageEnd::Failed(failure)) => {
                assert!(failure.message.contains("/url_discovery/0/type"), "{}", failure.message);
                true
            }
            _ => false,
        };
        let later = async || tokio::time::advance(NEWER_WITHIN).await;
        later().await;
        refusals.note_others(Some(&[other]));
        assert!(!ends(execution), "the last of the others has just gone");
        later().await;
        assert_eq!([ends(execution), ends(other)], [true, false]);
        refusals.note_others(Some(&[execution]));
        assert!(!ends(execution), "a newer one has come");
        refusals.note_others(Some(&[]));
        later().await;
        refusals.note_others(None);
        refusals.note_others(Some(&[]));
        assert_eq!([ends(execution), ends(other)], [false, false], "nobody was heard for a while");
    }
}
