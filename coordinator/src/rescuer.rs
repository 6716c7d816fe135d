//! The rescuer: pages of lost workers and of lost messages go back to the frontier. It also repairs a broker that
//! lost everything: nothing depends on redelivery. And it makes tomorrow's partitions.

use std::time::Duration;

use crawlify_shared::config::LeaseTimes;
use crawlify_shared::domain::outcome::MAX_ATTEMPTS;
use crawlify_shared::store::frontier::Rescued;
use crawlify_shared::store::{Store, StoreError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::steps;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);
/// After this time in the queue a page is published once more: its message may be lost.
const MESSAGE_LOST_AFTER: Duration = Duration::from_secs(30);
/// For how many days ahead there are partitions.
const DAYS_AHEAD: i32 = 3;

/// Returns lost pages.
#[derive(Debug)]
pub struct Rescuer {
    store: Store,
    lease: LeaseTimes,
    broker_forgets: bool,
    metrics: Metrics,
}

impl Rescuer {
    pub(crate) fn new(store: Store, lease: LeaseTimes, broker_forgets: bool, metrics: Metrics) -> Self {
        Self { store, lease, broker_forgets, metrics }
    }

    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut message_lost_after = if self.broker_forgets { Duration::ZERO } else { MESSAGE_LOST_AFTER };
        let mut partitions_made: Option<tokio::time::Instant> = None;
        steps::repeat("rescue", &stop, &Notify::new(), async || {
            if partitions_made.is_none_or(|made| made.elapsed() > Duration::from_secs(3600)) {
                self.store.create_partitions(DAYS_AHEAD).await?;
                partitions_made = Some(tokio::time::Instant::now());
            }
            self.step(message_lost_after).await?;
            message_lost_after = MESSAGE_LOST_AFTER;
            Ok::<_, StoreError>(EVERY)
        })
        .await;
    }

    /// Looks once for lost workers, their pages, and pages queued for longer than `message_lost_after`.
    ///
    /// # Errors
    /// As the store.
    pub async fn step(&self, message_lost_after: Duration) -> Result<Rescued, StoreError> {
        let rescued =
            self.store.rescue(self.lease.worker_lost_after, message_lost_after, MAX_ATTEMPTS).await?;
        if rescued != Rescued::default() {
            tracing::warn!(
                workers = rescued.workers_lost,
                returned = rescued.pages_returned,
                failed = rescued.pages_failed,
                requeued = rescued.pages_requeued,
                "rescued lost pages"
            );
        }
        self.metrics.leases_expired.inc_by(rescued.pages_returned + rescued.pages_failed);
        Ok(rescued)
    }
}
