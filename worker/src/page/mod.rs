//! The spine: the life of one page in a worker, from the delivery of its message to the acknowledgement.
//!
//! The steps' numbers are those of ARCHITECTURE's walkthrough. Everything else in this crate serves this function.

pub(crate) mod claims;
pub(crate) mod company;
mod ending;
pub(crate) mod host_turns;
pub(crate) mod overdue;
pub(crate) mod programs;
pub(crate) mod redirects;
pub(crate) mod refusals;
mod rests;
#[cfg(test)]
pub(crate) mod sample;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::broker::Delivery;
use crawlify_shared::crash::{self, CrashPoint};
use crawlify_shared::domain::outcome::{ErrorClass, Failure, PageEnd, PageOutcome};
use crawlify_shared::domain::page::{ClaimedPage, FinishedPage, NextStatus, NodeTable};
use crawlify_shared::domain::workflow::Workflow;
use crawlify_shared::telemetry::{Reminder, chain};
use futures_util::FutureExt;
use tokio::time::Instant;
use tokio::time::error::Elapsed;

use crate::Shared;
use crate::execute::{Limits, Means, execute};
use crate::lanes::Slot;
use crate::metrics::{Step, outcome_name};
use crate::program::Program;
use crate::recorder::Recorded;
use crate::robots::Robots;
use crate::sitemap::Turn;
use claims::Claim;
use company::Leave;
use ending::Settled;
use refusals::Rest;

/// How long a message is held whose page is left to others, in which newer workers have the next ones: longer than most
/// pages take.
const HELD_FROM_OTHERS: Duration = Duration::from_secs(5);
/// The pause after a failure.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Takes one page through its life. The slot is free again as soon as the page was executed.
pub(crate) async fn run(delivery: Delivery, mut slot: Slot, worker: Arc<Shared>) {
    crash::reach(CrashPoint::AfterDeliveryBeforeClaim);
    if let Some(rest) = worker.programs.rest(delivery.message.execution_id) {
        drop(slot);
        return leave_to_others(delivery, rest, &worker).await;
    }
    // 4. Claimed: from here on the page is ours, and the attempt is counted.
    let begun = Instant::now();
    let Some(leave) = leave_to_begin(&worker).await else { return delivery.requeue().await };
    let (page, held) = match worker.claims.claim(&delivery.message).await {
        Claim::Ours(page, held) => (*page, held),
        Claim::Nobodys => return acknowledge(delivery).await,
        Claim::Unknown => return delivery.requeue().await,
    };
    crash::reach(CrashPoint::AfterClaimBeforeNavigate);
    // 5. Executed: whatever happens is an outcome.
    worker.metrics.observe_step(Step::Claim, begun.elapsed());
    let expected = worker.recorder.expect();
    // A sitemap names more links than can be held for many at once: it keeps its turn until it is recorded.
    let mut sitemap_turn = None;
    let begun = Instant::now();
    let Executed { outcome, table, leave } =
        execute_within_lease(&page, leave, &mut slot, &mut sitemap_turn, &worker).await;
    drop(slot);
    if let Some(waited) = outcome.contact.started_in {
        worker.lanes.note_page(begun.elapsed().saturating_sub(waited));
    }
    let generation = worker.skips.generation();
    let Settled { outcome, next, reported } = ending::settle(&page, outcome, |outcome| {
        let count = |reason| worker.metrics.observe_skipped_link(reason);
        worker.skips.select(page.execution_id, &mut outcome.discovered, count)
    });
    crash::reach(CrashPoint::AfterNodesBeforeRecord);
    // 6. Recorded: one fenced statement for this page and whichever else has ended.
    worker.metrics.observe_page(&next, outcome.rendered, begun.elapsed());
    tracing::debug!(
        execution.id = %page.execution_id,
        page.id = %page.page_id,
        attempt = page.attempt,
        outcome = outcome_name(&next),
        duration_ms = begun.elapsed().as_millis(),
        "a page was executed"
    );
    let begun = Instant::now();
    let (execution, has_completed) = (page.execution_id, next == NextStatus::Completed);
    let recorded = worker.recorder.record(FinishedPage { page, table, outcome, next }).await;
    // Whoever takes down the worker before a page is recorded has it charged too: a suspect comes alone until then.
    drop((expected, sitemap_turn, leave, held));
    worker.metrics.observe_step(Step::Record, begun.elapsed());
    crash::reach(CrashPoint::AfterCommitBeforeAck);
    // 7. Acknowledged, only after the commit.
    if has_completed && recorded == Recorded::Written {
        worker.skips.were_written(execution, generation, reported);
    }
    match recorded {
        Recorded::Written | Recorded::NotWritten | Recorded::Settled => acknowledge(delivery).await,
        Recorded::Unknown => delivery.requeue().await,
    }
}

/// Leaves a page whose workflow this worker's version cannot run to others, and holds its message for a while first: a worker
/// that is done with pages at once would have most of those that newer ones could run.
async fn leave_to_others(delivery: Delivery, rest: Rest, worker: &Shared) {
    let held = async {
        tokio::time::sleep(HELD_FROM_OTHERS).await;
        let mut reminder = Reminder::default();
        while let Err(error) = worker.programs.leave_to_others(&delivery.message, &rest).await {
            if reminder.is_due() {
                tracing::warn!(error = %chain(&error), "cannot leave a page to others, will go on");
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    };
    if worker.draining.run_until_cancelled(held).await.is_some() {
        worker.metrics.observe_put_off();
        acknowledge(delivery).await;
    } else {
        delivery.requeue().await;
    }
}

/// Waits while a page runs alone here. `None`: others may have this one who need not wait for that.
async fn leave_to_begin(worker: &Shared) -> Option<Leave> {
    let _waiting = worker.metrics.page_waiting();
    tokio::select! {
        biased;
        () = worker.draining.cancelled() => None,
        leave = worker.company.join() => Some(leave),
        () = worker.company.taken() => None,
    }
}

/// What an attempt came to.
struct Executed {
    outcome: PageOutcome,
    table: Arc<NodeTable>,
    /// To be kept until the page is recorded.
    leave: Option<Leave>,
}

impl Executed {
    /// The page goes back unharmed.
    fn released() -> Self {
        Self { outcome: PageOutcome::nothing(PageEnd::Released), table: nothing(), leave: None }
    }
}

/// A page that is interrupted, because the worker gives its pages back, has lost its lease, or has heard that the
/// execution was cancelled at once, is released. If others have the page by then, the record's fence lets the release
/// do nothing; if nobody has, it is free at once and need not wait for the end of its lease.
async fn execute_within_lease(
    page: &ClaimedPage,
    leave: Leave,
    slot: &mut Slot,
    sitemap_turn: &mut Option<Turn>,
    worker: &Shared,
) -> Executed {
    let claimed_at = Instant::from_std(page.claimed_here);
    let start_at = claimed_at + page.start_in;
    let work = async {
        let leave = match worker.company.fit(page, leave).await {
            Ok(leave) => leave,
            Err(leave) => return Executed { leave: Some(leave), ..Executed::released() },
        };
        // That it had to wait to be alone is not taken from its time.
        let from = start_at.max(Instant::now());
        let program = match worker.programs.get(page.execution_id).await {
            Ok(program) => program,
            Err(end) => {
                return Executed { outcome: PageOutcome::nothing(end), table: nothing(), leave: Some(leave) };
            }
        };
        let limits = Limits { claimed_at, start_at, page: worker.lease.page_deadline };
        // On the heap: it is the largest part of a page, and would be in the stack frame of all around it.
        let visited = Box::pin(visit(page, &program, slot, sitemap_turn, limits, worker));
        let judge = |outcome: &mut PageOutcome| worker.traps.judge(page, &program, outcome);
        // Every call on the driver has a deadline, and is held to it; this one is for what lies between them.
        let deadline = from + longest(limits, page.host_delay);
        let outcome = match attempt(visited, judge, deadline).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => {
                overdue::note(page.page_id, &worker.metrics);
                PageOutcome::failed(Failure::new(
                    ErrorClass::NavTimeout,
                    format!("the page did not end within {} s", worker.lease.page_deadline.as_secs()),
                ))
            }
        };
        Executed { outcome, table: Arc::clone(&program.table), leave: Some(leave) }
    };
    tokio::select! {
        done = unless_panicked(work) => done,
        () = worker.abandon.cancelled() => Executed::released(),
        () = worker.leases.lost() => Executed::released(),
        () = worker.leases.abandoned(page.execution_id) => Executed::released(),
    }
}

/// A panic of what stands around the attempt is a fault of ours as well. Nothing of the page goes on by then, so that nobody
/// needs to be kept away from it.
async fn unless_panicked(work: impl Future<Output = Executed>) -> Executed {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.unwrap_or_else(|_panic| Executed { outcome: ending::panicked(), table: nothing(), leave: None })
}

/// What the page comes to, and what is judged of that. A panic in either is a fault of ours that fails this page alone.
async fn attempt(
    visit: impl Future<Output = PageOutcome>,
    judge: impl FnOnce(&mut PageOutcome),
    deadline: Instant,
) -> Result<PageOutcome, Elapsed> {
    let judged = AssertUnwindSafe(async {
        let mut outcome = visit.await;
        judge(&mut outcome);
        outcome
    });
    let ended = tokio::time::timeout_at(deadline, judged.catch_unwind()).await?;
    Ok(ended.unwrap_or_else(|_panic| ending::panicked()))
}

/// How long after its turn a page of a host with such a delay has ended at the latest.
fn longest(limits: Limits, host_delay: Duration) -> Duration {
    Robots::longest(host_delay) + limits.longest(host_delay)
}

/// Executes the page if its site's robots file allows that, and judges the links that came of it by what is known of
/// such files.
async fn visit(
    page: &ClaimedPage,
    program: &Program,
    slot: &mut Slot,
    sitemap_turn: &mut Option<Turn>,
    limits: Limits,
    worker: &Shared,
) -> PageOutcome {
    let workflow = &program.workflow;
    let mut outcome = match worker.robots.admit(page, workflow, &worker.host_turns, limits.start_at).await {
        Some(end) => PageOutcome::nothing(end),
        None if page.is_sitemap => read_sitemap(page, workflow, slot, sitemap_turn, limits, worker).await,
        None => {
            let means = Means {
                driver: worker.driver.as_ref(),
                http: &worker.http,
                turns: &worker.host_turns,
                renders: &worker.renders,
                metrics: &worker.metrics,
            };
            execute(page, program, means, slot, limits).await
        }
    };
    outcome.contact.through_own_proxy = workflow.proxy.is_some();
    if let Some(wanted) = outcome.contact.back_off {
        worker.host_turns.leave_alone(&page.host, wanted);
    }
    outcome = worker.robots.judge_end(page, workflow, outcome).await;
    worker.robots.judge_links(page, workflow, &mut outcome).await;
    outcome
}

/// A sitemap needs no tab. It goes back unharmed where others are in its way for too long.
async fn read_sitemap(
    page: &ClaimedPage,
    workflow: &Workflow,
    slot: &mut Slot,
    turn: &mut Option<Turn>,
    limits: Limits,
    worker: &Shared,
) -> PageOutcome {
    slot.go_static().await;
    *turn = worker.sitemaps.turn().await;
    if turn.is_none() || worker.host_turns.wait(page, Some(limits.start_at)).await.is_err() {
        return PageOutcome::nothing(PageEnd::Released);
    }
    let started_in = limits.claimed_at.elapsed();
    let deadline = Instant::now() + limits.page;
    let mut outcome = worker.sitemaps.read(page, workflow, &worker.host_turns, deadline).await;
    outcome.contact.started_in = Some(started_in);
    if workflow.proxy.is_some() {
        // Its bytes came the way of the execution's pages, where they are counted.
        outcome.received = worker.driver.take_received(page.execution_id);
    }
    outcome
}

/// The nodes of a page whose workflow nobody looked at.
fn nothing() -> Arc<NodeTable> {
    Arc::new(NodeTable { nodes: Vec::new() })
}

/// An acknowledgement that fails costs nothing: the message comes again, and its claim finds nothing.
async fn acknowledge(delivery: Delivery) {
    let page_id = delivery.message.page_id;
    if let Err(error) = delivery.ack().await {
        tracing::debug!(page.id = %page_id, %error, "the acknowledgement failed");
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use crawlify_shared::config::LeaseTimes;

    use super::host_turns::HostTurns;
    use super::*;

    /// How long RabbitMQ leaves a delivery with a consumer where nobody told it otherwise (`consumer_timeout`).
    const BROKER_PATIENCE: Duration = Duration::from_secs(30 * 60);

    #[tokio::test]
    async fn a_fault_of_whoever_judges_a_page_fails_that_page_alone() {
        let soon = Instant::now() + Duration::from_secs(20);
        let visit = async { PageOutcome::nothing(PageEnd::Completed) };
        let outcome = attempt(visit, |_| panic!("a fault of the judge"), soon).await.unwrap();
        let PageEnd::Failed(failure) = &outcome.end else { panic!("{:?}", outcome.end) };
        assert_eq!(failure.class, ErrorClass::Internal);
        let never = attempt(std::future::pending(), |_| {}, Instant::now()).await;
        assert!(never.is_err(), "the deadline holds for both");
    }

    #[tokio::test]
    async fn a_fault_of_what_stands_around_an_attempt_fails_that_page_alone() {
        let broken = poll_fn(|_| -> Poll<Executed> { panic!("a fault of whoever reads the workflow") });
        let executed = unless_panicked(broken).await;
        let PageEnd::Failed(failure) = &executed.outcome.end else { panic!("{:?}", executed.outcome.end) };
        assert_eq!(failure.class, ErrorClass::Internal);
        let executed = unless_panicked(async { Executed::released() }).await;
        assert_eq!(executed.outcome.end, PageEnd::Released);
    }

    fn ends_after(host_delay: Duration) -> Duration {
        let now = Instant::now();
        longest(
            Limits { claimed_at: now, start_at: now, page: LeaseTimes::default().page_deadline },
            host_delay,
        )
    }

    #[test]
    fn a_page_whose_host_has_no_pace_ends_before_its_lease() {
        let times = LeaseTimes::default();
        assert!(ends_after(Duration::ZERO) < times.page_deadline + times.deadline_slack);
    }

    #[test]
    fn a_page_ends_before_the_broker_wants_its_message_back() {
        for seconds in [0, 1, 10, 30] {
            let host_delay = Duration::from_secs(seconds);
            let held = HostTurns::longest(host_delay) + ends_after(host_delay);
            // Before it is claimed, its message may wait for a page like it.
            assert!(2 * held < BROKER_PATIENCE, "{seconds} s: {held:?}");
        }
    }
}
