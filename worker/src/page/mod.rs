//! The spine: the life of one page in a worker, from the delivery of its message to the acknowledgement.
//!
//! The steps' numbers are those of ARCHITECTURE's walkthrough. Everything else in this crate serves this function.

pub(crate) mod claims;
pub(crate) mod host_turns;
pub(crate) mod programs;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::broker::Delivery;
use crawlify_shared::crash::{self, CrashPoint};
use crawlify_shared::domain::outcome::{ErrorClass, Failure, MAX_ATTEMPTS, PageEnd, PageOutcome};
use crawlify_shared::domain::page::{ClaimedPage, FinishedPage, NextStatus, NodeTable};
use futures_util::FutureExt;
use tokio::time::Instant;

use crate::Shared;
use crate::execute::{Limits, Means, execute};
use crate::lanes::Slot;
use crate::metrics::Step;
use crate::recorder::Recorded;
use claims::Claim;

/// Takes one page through its life. The slot is free again as soon as the page was executed.
pub(crate) async fn run(delivery: Delivery, mut slot: Slot, worker: Arc<Shared>) {
    crash::reach(CrashPoint::AfterDeliveryBeforeClaim);
    // 4. Claimed: from here on the page is ours, and the attempt is charged.
    let begun = Instant::now();
    let page = match worker.claims.claim(&delivery.message).await {
        Claim::Ours(page) => *page,
        Claim::Nobodys => return acknowledge(delivery).await,
        Claim::Unknown => return delivery.requeue().await,
    };
    crash::reach(CrashPoint::AfterClaimBeforeNavigate);
    // 5. Executed: whatever happens is an outcome.
    worker.metrics.observe_step(Step::Claim, begun.elapsed());
    let expected = worker.recorder.expect();
    let begun = Instant::now();
    let (outcome, table) = execute_within_lease(&page, &mut slot, &worker).await;
    drop(slot);
    crash::reach(CrashPoint::AfterNodesBeforeRecord);
    // 6. Recorded: one fenced statement for this page and whichever else has ended.
    let next = next_status(&page, &outcome);
    worker.metrics.observe_page(&next, outcome.rendered, begun.elapsed());
    let begun = Instant::now();
    let recorded = worker.recorder.record(FinishedPage { page, table, outcome, next }).await;
    drop(expected);
    worker.metrics.observe_step(Step::Record, begun.elapsed());
    crash::reach(CrashPoint::AfterCommitBeforeAck);
    // 7. Acknowledged, only after the commit.
    match recorded {
        Recorded::Settled => acknowledge(delivery).await,
        Recorded::Unknown => delivery.requeue().await,
    }
}

/// A page that is interrupted, because the worker gives its pages back, has lost its lease, or has heard that the
/// execution was cancelled at once, is released. If others have the page by then, the record's fence lets the release
/// do nothing; if nobody has, it is free at once and need not wait for the end of its lease.
async fn execute_within_lease(
    page: &ClaimedPage,
    slot: &mut Slot,
    worker: &Shared,
) -> (PageOutcome, Arc<NodeTable>) {
    let released = PageOutcome {
        end: PageEnd::Released,
        ..PageOutcome::failed(Failure::new(ErrorClass::Cancelled, ""))
    };
    let nothing = || Arc::new(NodeTable { nodes: Vec::new() });
    let claimed_at = Instant::now();
    let start_at = claimed_at + page.start_in;
    let work = async {
        let program = match worker.programs.get(page.execution_id).await {
            Ok(program) => program,
            Err(failure) => return (PageOutcome::failed(failure), nothing()),
        };
        let limits = Limits { claimed_at, start_at, page: worker.lease.page_deadline };
        let means = Means {
            driver: worker.driver.as_ref(),
            turns: &worker.host_turns,
            renders: &worker.renders,
            metrics: &worker.metrics,
        };
        let executed = AssertUnwindSafe(execute(page, &program, means, slot, limits));
        // Every call on the driver has a deadline; this one is for what lies between them.
        let deadline = start_at + limits.longest();
        let outcome = match tokio::time::timeout_at(deadline, executed.catch_unwind()).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_panic)) => PageOutcome::failed(Failure::new(
                ErrorClass::Internal,
                "a fault in the worker: the execution panicked",
            )),
            Err(_elapsed) => PageOutcome::failed(Failure::new(
                ErrorClass::NavTimeout,
                format!("the page did not end within {} s", worker.lease.page_deadline.as_secs()),
            )),
        };
        (outcome, Arc::clone(&program.table))
    };
    tokio::select! {
        done = work => done,
        () = worker.abandon.cancelled() => (released, nothing()),
        () = worker.leases.lost() => (released, nothing()),
        () = worker.leases.abandoned(page.execution_id) => (released, nothing()),
    }
}

/// What becomes of the page's row: a failure that may pass is tried again, later each time.
fn next_status(page: &ClaimedPage, outcome: &PageOutcome) -> NextStatus {
    match &outcome.end {
        PageEnd::Completed => NextStatus::Completed,
        PageEnd::Released => NextStatus::Released,
        PageEnd::Failed(failure) if failure.class.is_transient() && page.attempt < MAX_ATTEMPTS => {
            let exponent = u32::try_from(page.attempt - 1).unwrap_or(0).min(6);
            let base = Duration::from_secs(1) * 2_u32.pow(exponent);
            NextStatus::Retry(failure.clone(), base.mul_f64(rand::random_range(0.5..1.5)))
        }
        PageEnd::Failed(failure) => NextStatus::Failed(failure.clone()),
    }
}

/// An acknowledgement that fails costs nothing: the message comes again, and its claim finds nothing.
async fn acknowledge(delivery: Delivery) {
    let page_id = delivery.message.page_id;
    if let Err(error) = delivery.ack().await {
        tracing::debug!(page.id = %page_id, %error, "the acknowledgement failed");
    }
}
