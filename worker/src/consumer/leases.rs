//! The worker's lease on all of its pages: a heartbeat row that it renews, and the knowledge whether it did.
//!
//! A worker that cannot renew fences itself: it stops its pages before others take them over. The heartbeat's answer
//! also says of which executions pages in hand are to be given up. With the heartbeat the worker names the pages that the
//! database does not let it record, whose leases hold for longer, and the executions whose workflows it cannot run.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::config::LeaseTimes;
use crawlify_shared::crash::{self, CrashPoint};
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::store::hot::{Heartbeat, HotStore, Standing, UnrecordedPage, Vitals};
use crawlify_shared::telemetry::{Reminder, chain};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::takeover::Takeover;
use crate::lanes::Lanes;
use crate::page::claims::InHand;
use crate::page::refusals::Refusals;
use crate::recorder::unrecorded::Unrecorded;

/// The longest pause after a heartbeat that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Whether the lease holds. The heartbeat's task writes it, pages and consumer read it.
#[derive(Clone, Debug)]
pub(crate) struct Leases {
    lease: watch::Receiver<Lease>,
    /// Executions whose pages in hand are to be given up, as the last heartbeat said.
    abandoned: watch::Receiver<Vec<ExecutionId>>,
}

/// The lease as far as we know.
#[derive(Clone, Copy, Debug, Default)]
struct Lease {
    held: bool,
    /// How often it was lost: a loss that lasted a moment counts too.
    losses: u64,
}

/// What the fleet is told of.
#[derive(Debug)]
pub(crate) struct Pages {
    pub(crate) lanes: Arc<Lanes>,
    pub(crate) in_hand: InHand,
    pub(crate) unrecorded: Unrecorded,
    pub(crate) refusals: Refusals,
}

impl Leases {
    /// Makes the lease, not held yet; whoever owns the tasks runs the future, which ends on `stop`.
    pub(crate) fn new(
        store: HotStore,
        times: LeaseTimes,
        name: String,
        Pages { lanes, in_hand, unrecorded, refusals }: Pages,
        draining: CancellationToken,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (set, lease) = watch::channel(Lease::default());
        let (set_abandoned, abandoned) = watch::channel(Vec::new());
        let beat = async move {
            let mut capacity = lanes.capacity();
            // When the last heartbeat that succeeded was sent: the database counts from then, or later.
            let mut last_success: Option<Instant> = None;
            let mut reminder = Reminder::default();
            let mut takeover = Takeover::default();
            loop {
                let begun = Instant::now();
                let mut fence_at = last_success.map(|last| last + times.fence_after);
                if fence_at.is_some_and(|fence_at| fence_at <= begun) {
                    if lose(&set) {
                        tracing::error!("no heartbeat for too long: the pages in hand are given up");
                    }
                    fence_at = None;
                }
                let not_after_fence =
                    |wanted: Instant| fence_at.map_or(wanted, |fence_at| wanted.min(fence_at));
                let deadline = not_after_fence(begun + times.heartbeat_every);
                let announced = last_success.is_some();
                // Mostly there are none.
                let waiting = unrecorded.for_longer_than(times.heartbeat_every);
                let vitals = Vitals {
                    slots: *capacity.borrow_and_update(),
                    wants: lanes.wants(),
                    is_draining: draining.is_cancelled(),
                    has_unrecorded: !waiting.is_empty(),
                };
                let beat = beat(&store, &name, vitals, announced, deadline);
                // The pages have ended by the stop: nobody needs the heartbeat of a database that does not answer.
                let Some(heartbeat) = stop.run_until_cancelled(beat).await else { break };
                let next = match heartbeat {
                    Ok(Heartbeat { standing: Standing::Unknown, .. }) => {
                        tracing::warn!("the fleet has forgotten this worker; it announces itself again");
                        lose(&set);
                        last_success = None;
                        Instant::now()
                    }
                    Ok(Heartbeat { standing, abandoned, server_started_at }) => {
                        last_success = Some(begun);
                        server_started_at.into_iter().for_each(|started_at| takeover.note(started_at));
                        reminder.forget();
                        tell_abandoned(&set_abandoned, abandoned);
                        if standing == Standing::WasLost {
                            tracing::warn!(
                                "this worker was given up by the fleet; its pages are others' now"
                            );
                            lose(&set);
                        }
                        set.send_if_modified(|lease| !std::mem::replace(&mut lease.held, true));
                        begun + times.heartbeat_every
                    }
                    Err(error) => {
                        refusals.note_others(None);
                        if reminder.is_due() {
                            tracing::warn!(error, "the heartbeat failed");
                        } else {
                            tracing::debug!(error, "the heartbeat failed again");
                        }
                        // More often than usual, so that one lost packet does not end a lease.
                        not_after_fence(Instant::now() + times.heartbeat_every.min(RETRY_PAUSE))
                    }
                };
                if last_success == Some(begun) {
                    let more = async {
                        let deadline = begun + times.heartbeat_every;
                        name_unrecorded(&store, &waiting, deadline).await;
                        ask_for_others(&store, &refusals, times.worker_lost_after, deadline).await;
                        takeover.settle(&store, &in_hand, deadline).await;
                    };
                    stop.run_until_cancelled(more).await;
                }
                tokio::select! {
                    () = tokio::time::sleep_until(next) => {}
                    // The dispatcher should know at once.
                    Ok(()) = capacity.changed(), if last_success.is_some() => {}
                    () = stop.cancelled() => break,
                }
            }
            crash::reach(CrashPoint::AfterDrainBeforeRetire);
            let retired = tokio::time::timeout(Duration::from_secs(2), store.retire()).await;
            if !matches!(retired, Ok(Ok(()))) {
                tracing::info!("could not say goodbye; the lease will run out");
            }
        };
        (Self { lease, abandoned }, beat)
    }

    /// Waits until the lease is held.
    pub(crate) async fn held(&self) {
        if self.lease.clone().wait_for(|lease| lease.held).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the lease is lost; one that is not held is lost already.
    pub(crate) async fn lost(&self) {
        let mut lease = self.lease.clone();
        let before = *lease.borrow();
        if before.held && lease.wait_for(|now| now.losses != before.losses).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the pages of this execution are to be given up, because somebody cancelled it at once.
    pub(crate) async fn abandoned(&self, execution: ExecutionId) {
        if self.abandoned.clone().wait_for(|abandoned| abandoned.contains(&execution)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether the lease is held now.
    pub(crate) fn is_held(&self) -> bool {
        self.lease.borrow().held
    }
}

/// Takes the lease away; answers whether it was held.
fn lose(lease: &watch::Sender<Lease>) -> bool {
    lease.send_if_modified(|lease| {
        let lost = std::mem::replace(&mut lease.held, false);
        lease.losses += u64::from(lost);
        lost
    })
}

/// An execution is named as long as this worker holds pages of it, so the last answer is all that counts.
fn tell_abandoned(told: &watch::Sender<Vec<ExecutionId>>, now: Vec<ExecutionId>) {
    told.send_if_modified(|before| {
        if *before == now {
            return false;
        }
        if !now.is_empty() {
            tracing::info!(executions = now.len(), "cancelled at once: their pages in hand are given up");
        }
        *before = now;
        true
    });
}

/// Says which pages wait to be recorded, where any do, until the deadline. The next heartbeat says it again.
async fn name_unrecorded(store: &HotStore, waiting: &[UnrecordedPage], deadline: Instant) {
    if waiting.is_empty() {
        return;
    }
    if let Ok(Err(error)) = tokio::time::timeout_at(deadline, store.name_unrecorded(waiting)).await {
        tracing::debug!(
            error = %chain(&error),
            pages = waiting.len(),
            "cannot say which pages wait to be recorded"
        );
    }
}

/// Says whose workflows cannot be run here, where there are any, and asks whether others can, until the deadline. The next
/// heartbeat does it again.
async fn ask_for_others(store: &HotStore, refusals: &Refusals, lost_after: Duration, deadline: Instant) {
    let executions = refusals.executions();
    if executions.is_empty() {
        return;
    }
    let others_for = tokio::time::timeout_at(deadline, store.refuse(&executions, lost_after)).await;
    if let Ok(Err(error)) = &others_for {
        tracing::debug!(error = %chain(error), "cannot say which workflows cannot be run here");
    }
    refusals.note_others(others_for.ok().and_then(Result::ok).as_deref());
}

/// One heartbeat, until the deadline.
async fn beat(
    store: &HotStore,
    name: &str,
    vitals: Vitals,
    announced: bool,
    deadline: Instant,
) -> Result<Heartbeat, String> {
    let beat = async {
        if announced {
            store.heartbeat(vitals).await
        } else {
            store.announce(name, vitals.slots).await.map(|started_at| Heartbeat {
                standing: Standing::Alive,
                abandoned: Vec::new(),
                server_started_at: Some(started_at),
            })
        }
    };
    match tokio::time::timeout_at(deadline, beat).await {
        Ok(Ok(heartbeat)) => Ok(heartbeat),
        Ok(Err(error)) => Err(match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        }),
        Err(_) => Err("the database did not answer".to_owned()),
    }
}
