//! The spine: the life of one page in a worker, from the delivery of its message to the acknowledgement.
//!
//! The steps' numbers are those of ARCHITECTURE's walkthrough. Everything else in this crate serves this function.

pub(crate) mod claims;
pub(crate) mod programs;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::broker::Delivery;
use crawlify_shared::domain::outcome::{ErrorClass, Failure, MAX_ATTEMPTS, PageEnd, PageOutcome};
use crawlify_shared::domain::page::{ClaimedPage, FinishedPage, NextStatus, NodeTable};
use futures_util::FutureExt;
use tokio::time::Instant;

use crate::Shared;
use crate::execute::{Limits, Means, execute};
use crate::lanes::Slot;
use crate::metrics::Step;
use crate::recorder::Recorded;
use crate::sitemap::Turn;
use claims::Claim;

/// The pause before a page is tried for the second time; then it doubles.
const PAUSE: Duration = Duration::from_secs(1);
/// The same where the site's robots file cannot be had.
const ROBOTS_PAUSE: Duration = Duration::from_secs(15);

/// Takes one page through its life. The slot is free again as soon as the page was executed.
pub(crate) async fn run(delivery: Delivery, mut slot: Slot, worker: Arc<Shared>) {
    // 4. Claimed: from here on the page is ours, and the attempt is charged.
    let begun = Instant::now();
    let page = match worker.claims.claim(&delivery.message).await {
        Claim::Ours(page) => *page,
        Claim::Nobodys => return acknowledge(delivery).await,
        Claim::Unknown => return delivery.requeue().await,
    };
    // 5. Executed: whatever happens is an outcome.
    worker.metrics.observe_step(Step::Claim, begun.elapsed());
    let expected = worker.recorder.expect();
    // A sitemap names more links than can be held for many at once: it keeps its turn until it is recorded.
    let mut sitemap_turn = None;
    let begun = Instant::now();
    let (outcome, table) = execute_within_lease(&page, &mut slot, &mut sitemap_turn, &worker).await;
    drop(slot);
    // 6. Recorded: one fenced statement for this page and whichever else has ended.
    let next = next_status(&page, &outcome);
    worker.metrics.observe_page(&next, outcome.rendered, begun.elapsed());
    let begun = Instant::now();
    let recorded = worker.recorder.record(FinishedPage { page, table, outcome, next }).await;
    drop((expected, sitemap_turn));
    worker.metrics.observe_step(Step::Record, begun.elapsed());
    // 7. Acknowledged, only after the commit.
    match recorded {
        Recorded::Settled => acknowledge(delivery).await,
        Recorded::Unknown => delivery.requeue().await,
    }
}

/// A page that is interrupted, because the worker gives its pages back or has lost its lease, is released. If others
/// have the page by then, the record's fence lets the release do nothing; if nobody has, it is free at once and need
/// not wait for the end of its lease.
async fn execute_within_lease(
    page: &ClaimedPage,
    slot: &mut Slot,
    sitemap_turn: &mut Option<Turn>,
    worker: &Shared,
) -> (PageOutcome, Arc<NodeTable>) {
    let released = PageOutcome {
        end: PageEnd::Released,
        ..PageOutcome::failed(Failure::new(ErrorClass::Cancelled, ""))
    };
    let nothing = || Arc::new(NodeTable { nodes: Vec::new() });
    let start_at = Instant::now() + page.start_in;
    let work = async {
        let program = match worker.programs.get(page.execution_id).await {
            Ok(program) => program,
            Err(failure) => return (PageOutcome::failed(failure), nothing()),
        };
        let workflow = &program.workflow;
        if let Some(end) = worker.robots.admit(page, workflow, start_at).await {
            return (PageOutcome::nothing(end), nothing());
        }
        let limits = Limits { start_at, page: worker.lease.page_deadline };
        let means = Means {
            driver: worker.driver.as_ref(),
            turns: &worker.host_turns,
            renders: &worker.renders,
            metrics: &worker.metrics,
        };
        let executed = async {
            if page.is_sitemap {
                slot.go_static().await;
                *sitemap_turn = worker.sitemaps.turn().await;
                if sitemap_turn.is_none() {
                    return PageOutcome::nothing(PageEnd::Released);
                }
                let delay = workflow.limits.rate_limit_delay;
                worker.host_turns.wait(page.url.host(), delay, start_at).await;
                worker.sitemaps.read(page, workflow, Instant::now() + limits.page).await
            } else {
                execute(page, &program, means, slot, limits).await
            }
        };
        let executed = AssertUnwindSafe(executed);
        // Every call on the driver has a deadline; this one is for what lies between them.
        let deadline = start_at + limits.longest(workflow.limits.rate_limit_delay);
        let mut outcome = match tokio::time::timeout_at(deadline, executed.catch_unwind()).await {
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
        worker.robots.judge_links(page, workflow, &mut outcome).await;
        (outcome, Arc::clone(&program.table))
    };
    tokio::select! {
        done = work => done,
        () = worker.abandon.cancelled() => (released, nothing()),
        () = worker.leases.lost() => (released, nothing()),
    }
}

/// What becomes of the page's row: a failure that may pass is tried again, later each time.
fn next_status(page: &ClaimedPage, outcome: &PageOutcome) -> NextStatus {
    match &outcome.end {
        PageEnd::Completed => NextStatus::Completed,
        PageEnd::Released => NextStatus::Released,
        PageEnd::Failed(failure) if failure.class.is_transient() && page.attempt < MAX_ATTEMPTS => {
            let exponent = u32::try_from(page.attempt - 1).unwrap_or(0).min(6);
            // A robots file that cannot be had is not asked for again at once.
            let first = if failure.class == ErrorClass::RobotsUnreachable { ROBOTS_PAUSE } else { PAUSE };
            let base = first * 2_u32.pow(exponent);
            NextStatus::Retry(failure.clone(), base.mul_f64(rand::random_range(0.5..1.5)))
        }
        PageEnd::Failed(failure) => NextStatus::Failed(failure.clone()),
        PageEnd::Skipped(failure) => NextStatus::Skipped(failure.clone()),
    }
}

/// An acknowledgement that fails costs nothing: the message comes again, and its claim finds nothing.
async fn acknowledge(delivery: Delivery) {
    let page_id = delivery.message.page_id;
    if let Err(error) = delivery.ack().await {
        tracing::debug!(page.id = %page_id, %error, "the acknowledgement failed");
    }
}
