//! The rescuer: pages of lost workers and of lost messages go back to the frontier. It also repairs a broker that
//! lost everything: nothing depends on redelivery. What a lost worker's pages were charged for it is taken back when the
//! worker is heard again.

use std::time::Duration;

use crawlify_shared::config::LeaseTimes;
use crawlify_shared::store::heard_again::TakenBack;
use crawlify_shared::store::rescue::{MeantServer, Patience, Rescued};
use crawlify_shared::store::{Store, StoreError};
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::server_clock::{Course, Look};
use crate::steps::Step;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);
/// After this time in the queue a page is published once more: its message may be lost, or was never sent.
const MESSAGE_LOST_AFTER: Duration = Duration::from_secs(15);

/// Returns lost pages.
#[derive(Debug)]
pub struct Rescuer {
    store: Store,
    lease: LeaseTimes,
    metrics: Metrics,
    /// Zero in the first step after a broker's memory was lost, then the usual time.
    message_lost_after: Duration,
    /// When a step ended well for the last time.
    looked_at: Option<Instant>,
    /// The last look at the server's clock. Kept only once all is done that follows from it.
    last_look: Option<Look>,
    /// Until then nobody is lost: we have only just begun to look, or could not look for a while, and others may not have been
    /// heard either; or the server is another one, a standby that has taken over and that the last heartbeats have not reached;
    /// or its clock has leapt, as it does where the machine has slept.
    lenient_until: Instant,
    /// The leases are to begin anew once more when that is over: a claim that was under way when they did shows only after it.
    renews_again: bool,
}

impl Step for Rescuer {
    type Error = StoreError;

    async fn once(&mut self) -> Result<Duration, StoreError> {
        let worker_lost_after = self.lease.worker_lost_after;
        let (look, course) = self.look_at_clock().await?;
        // Heartbeats may have waited for the same answer.
        let comes_late = self.looked_at.is_some_and(|looked| looked.elapsed() > self.tolerated());
        if comes_late || course != Course::AsOurs {
            self.lenient_until = Instant::now() + worker_lost_after;
        }
        self.renews_again |= course != Course::AsOurs;
        let server = MeantServer {
            started_at: look.server.started_at,
            not_after: look.server.now + look.asked_at.elapsed() + self.tolerated(),
        };
        let patience = Patience { worker_lost_after, after_start: worker_lost_after, server: Some(server) };
        let patience = (self.lenient_until < Instant::now()).then_some(patience);
        if patience.is_some() && self.renews_again {
            self.renew_leases().await?;
            self.renews_again = false;
        }
        self.step(patience, self.message_lost_after).await?;
        self.message_lost_after = MESSAGE_LOST_AFTER;
        self.looked_at = Some(Instant::now());
        // Whatever comes of this, pages were rescued.
        self.take_back().await?;
        Ok(EVERY)
    }
}

impl Rescuer {
    pub(crate) fn new(store: Store, lease: LeaseTimes, broker_forgets: bool, metrics: Metrics) -> Self {
        let message_lost_after = if broker_forgets { Duration::ZERO } else { MESSAGE_LOST_AFTER };
        Self {
            store,
            lease,
            metrics,
            message_lost_after,
            looked_at: None,
            last_look: None,
            lenient_until: Instant::now(),
            renews_again: false,
        }
    }

    /// Looks once for lost workers, their pages, and pages queued for longer than `message_lost_after`. Without `patience` no
    /// worker is lost yet.
    ///
    /// # Errors
    /// As the store.
    pub async fn step(
        &self,
        patience: Option<Patience>,
        message_lost_after: Duration,
    ) -> Result<Rescued, StoreError> {
        let rescued = self.store.rescue(patience, message_lost_after).await?;
        if rescued != Rescued::default() {
            tracing::warn!(
                workers = rescued.workers_lost,
                returned = rescued.pages_returned,
                quarantined = rescued.pages_quarantined,
                requeued = rescued.pages_requeued,
                "rescued lost pages"
            );
        }
        self.metrics.leases_expired.inc_by(rescued.pages_returned + rescued.pages_quarantined);
        Ok(rescued)
    }

    /// Looks whether the server is the one that it was, and its clock went on as ours did. Where it may be later than it should
    /// be, leases of pages begin anew: they end by it, and the deadlines of pages by the workers' own clocks, which stand still
    /// while a machine sleeps.
    async fn look_at_clock(&mut self) -> Result<(Look, Course), StoreError> {
        let asked_at = Instant::now();
        let server = self.store.server_time().await?;
        let look = Look { server, asked_at, answered_at: Instant::now() };
        let course = look.after(self.last_look.as_ref(), self.tolerated());
        match course {
            Course::AsOurs => {}
            Course::Unseen | Course::OfAnother => {
                let pages = self.renew_leases().await?;
                if pages > 0 {
                    tracing::info!(
                        pages,
                        "the database's clock may have leapt unseen: leases of pages begin anew"
                    );
                }
            }
            Course::LeaptAhead(by) => {
                let (seconds, pages) = (by.as_secs(), self.renew_leases().await?);
                tracing::warn!(seconds, pages, "the database's clock has leapt: leases of pages begin anew");
            }
            Course::LeaptBack(by) => {
                let (seconds, workers) = (by.as_secs(), self.store.bring_heartbeats_back().await?);
                tracing::warn!(
                    seconds,
                    workers,
                    "the database's clock has leapt back: pages held too long, lost messages and pages that are to be \
                     tried again later wait for as much longer"
                );
            }
        }
        self.last_look = Some(look);
        Ok((look, course))
    }

    async fn renew_leases(&self) -> Result<u64, StoreError> {
        self.store.renew_leases(self.lease.page_deadline + self.lease.deadline_slack).await
    }

    /// How long may pass without a look, and how far the clock may leap unseen: with the time between two heartbeats that is
    /// less than a worker may be silent.
    fn tolerated(&self) -> Duration {
        self.lease.worker_lost_after / 2
    }

    async fn take_back(&self) -> Result<(), StoreError> {
        let TakenBack { losses, pages_put_back } = self.store.take_losses_back().await?;
        if losses > 0 {
            tracing::info!(
                losses,
                pages_put_back,
                "lost workers are heard again: no page is charged for them"
            );
        }
        Ok(())
    }
}
