//! Executes one page: opens a tab, loads the page, runs the program, and puts what came back into an outcome.
//!
//! Never answers an `Err`: whatever happens to the page, its tab or the browser is a [`PageOutcome`]. Knows nothing
//! about stores and brokers.

use std::time::Duration;

use chrono::Utc;
use crawlify_shared::domain::outcome::{ErrorClass, Failure, NodeEnd, NodeRecord, PageEnd, PageOutcome};
use crawlify_shared::domain::page::ClaimedPage;
use crawlify_shared::domain::workflow::PhaseKind;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::chrome::driver::{Document, DomStep, Driver, Session, Tab, TabError};
use crate::gather::Gathered;
use crate::host_turns::HostTurns;
use crate::program::{PhaseProgram, Program, ResultOf, Run};

/// How long a tab may take to open.
const OPEN_WITHIN: Duration = Duration::from_secs(30);

/// When a page may start, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The host's turn, as the claim gave it.
    pub(crate) start_at: Instant,
    /// From the start of the navigation to the end.
    pub(crate) page: Duration,
}

impl Limits {
    /// How long after `start_at` the page has ended at the latest, its host's pace being `delay`.
    pub(crate) fn longest(self, delay: Duration) -> Duration {
        OPEN_WITHIN.min(self.page) + delay + self.page + Duration::from_secs(1)
    }
}

/// Executes a page within its limits. The tab is there before the host's turn comes, so that opening it does not
/// make the turn late; waiting for the turn is not the page's fault, so its deadline starts after that.
pub(crate) async fn execute(
    page: &ClaimedPage,
    program: &Program,
    driver: &dyn Driver,
    turns: &HostTurns,
    limits: Limits,
) -> PageOutcome {
    let workflow = &program.workflow;
    let session = Session { execution_id: page.execution_id, headers: workflow.headers.clone() };
    let mut tab = match driver.open(&session, Instant::now() + OPEN_WITHIN.min(limits.page)).await {
        Ok(tab) => tab,
        Err(error) => return PageOutcome::failed(error.failure),
    };
    turns.wait(page.url.host(), workflow.limits.rate_limit_delay, limits.start_at).await;
    let deadline = Instant::now() + limits.page;
    let (outcome, tab_usable) = on_tab(page, program, tab.as_mut(), deadline).await;
    // A tab that is not given back is destroyed.
    if tab_usable {
        tab.release().await;
    }
    outcome
}

async fn on_tab(
    page: &ClaimedPage,
    program: &Program,
    tab: &mut dyn Tab,
    deadline: Instant,
) -> (PageOutcome, bool) {
    let document = match tab.navigate(&page.url, program.workflow.wait_until, deadline).await {
        Ok(document) => document,
        Err(error) => return (PageOutcome::failed(error.failure), error.tab_usable),
    };
    if let Some(failure) = http_failure(&document) {
        let mut outcome = PageOutcome::failed(failure);
        outcome.final_url = Some(document.final_url.into());
        return (outcome, true);
    }
    let mut gathered = Gathered::new(page, program, &document);
    let mut lost = None;
    for phase in &program.phases {
        let at_depth_limit = program.workflow.limits.max_depth.is_some_and(|limit| page.depth >= limit);
        if phase.kind == PhaseKind::Discovery && at_depth_limit {
            continue;
        }
        if let Some(error) = &lost {
            gathered.cancel_from(phase, 0, error);
        } else if let Err(error) = run_phase(phase, tab, &mut gathered, deadline).await {
            lost = Some(error);
        }
    }
    let tab_usable = lost.as_ref().is_none_or(|error| error.tab_usable);
    let end = lost.map_or(PageEnd::Completed, |error| PageEnd::Failed(error.failure));
    (gathered.into_outcome(end, &document), tab_usable)
}

/// A document that came with an HTTP error is not what the workflow was written for: the page fails, with its class.
fn http_failure(document: &Document) -> Option<Failure> {
    let status = document.status.filter(|status| *status >= 400)?;
    let class = match status {
        429 => ErrorClass::Http429,
        500.. => ErrorClass::Http5xx,
        _ => ErrorClass::Http4xx,
    };
    Some(Failure::new(class, format!("the server answered with HTTP status {status}")))
}

/// Runs a phase to its end, or to the first failure of a node that is not optional.
///
/// `Err`: the tab was lost, or the page's time is over; the rest of the phase is recorded as cancelled.
async fn run_phase(
    phase: &PhaseProgram,
    tab: &mut dyn Tab,
    gathered: &mut Gathered<'_>,
    deadline: Instant,
) -> Result<(), TabError> {
    for run in &phase.runs {
        let failed = match run {
            Run::Dom { first, steps } => {
                match run_in_page(phase, *first, steps, tab, gathered, deadline).await {
                    Ok(failed) => failed,
                    Err(error) => {
                        gathered.cancel_from(phase, *first, &error);
                        return Err(error);
                    }
                }
            }
            Run::Wait { node, pause } => {
                let started_at = Utc::now();
                let waited = tokio::time::timeout_at(deadline, tokio::time::sleep(*pause)).await;
                if waited.is_err() {
                    let failure =
                        Failure::new(ErrorClass::NavTimeout, "the page's time was over before the wait");
                    let error = TabError { failure, tab_usable: true };
                    gathered.cancel_from(phase, *node, &error);
                    return Err(error);
                }
                gathered.add(
                    phase,
                    *node,
                    NodeRecord {
                        position: 0,
                        started_at,
                        completed_at: Utc::now(),
                        end: NodeEnd::Completed(Value::Null),
                        retries: 0,
                    },
                );
                None
            }
            Run::Filter { node } => {
                gathered.filter(phase, *node);
                None
            }
        };
        if let Some((node, failure)) = failed {
            gathered.skip_after(phase, node, &failure);
            break;
        }
    }
    Ok(())
}

/// Runs one stretch of DOM nodes; answers the node that failed and ends the phase, if one did.
async fn run_in_page(
    phase: &PhaseProgram,
    first: usize,
    steps: &[DomStep],
    tab: &mut dyn Tab,
    gathered: &mut Gathered<'_>,
    deadline: Instant,
) -> Result<Option<(usize, Failure)>, TabError> {
    let results = tab.run(steps, deadline).await?;
    for (node, result) in (first..).zip(results) {
        let output = match result.output {
            Ok(raw) => Ok(gathered.refine(phase, node, raw)),
            Err(failure) => Err(failure),
        };
        let failure = output.as_ref().err().cloned();
        gathered.add(
            phase,
            node,
            NodeRecord {
                position: 0,
                started_at: result.started_at,
                completed_at: result.completed_at.max(result.started_at),
                end: output.map_or_else(NodeEnd::Failed, NodeEnd::Completed),
                retries: result.retries,
            },
        );
        if let Some(failure) = failure.filter(|_| !phase.nodes[node].optional) {
            return Ok(Some((node, failure)));
        }
    }
    Ok(None)
}

/// The output that a filter's record shows.
pub(crate) fn filter_output(kept: usize, dropped: &[&str]) -> Value {
    const SHOWN: usize = 20;
    json!({ "kept": kept, "dropped": dropped.len(), "dropped_urls": dropped.iter().take(SHOWN).collect::<Vec<_>>() })
}

/// Whether a node's output belongs into the item.
pub(crate) fn saves_output(result: &ResultOf) -> bool {
    matches!(result, ResultOf::Links | ResultOf::Value(_))
}
