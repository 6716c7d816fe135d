//! The finisher: an execution without an open page has ended. It also does what control leaves to be done with many
//! pages at once, portion by portion. Never asks the broker: only rows count.

use std::time::Duration;

use crawlify_shared::crash::{self, CrashPoint};
use crawlify_shared::store::sweep::SWEPT_AT_ONCE;
use crawlify_shared::store::{Store, StoreError};

use crate::steps::Step;

/// How often it looks, beside when the dispatcher finds nothing left to do.
const EVERY: Duration = Duration::from_millis(250);
/// The pause while pages are left to be swept: others get at the database in between.
const SWEEPING_PAUSE: Duration = Duration::from_millis(50);

/// Ends executions.
#[derive(Debug)]
pub struct Finisher {
    store: Store,
}

impl Step for Finisher {
    type Error = StoreError;

    async fn once(&mut self) -> Result<Duration, StoreError> {
        // What has ended ends, also where a sweep fails.
        let swept = self.sweep().await;
        self.finish().await?;
        let are_more_likely = swept? >= SWEPT_AT_ONCE.unsigned_abs();
        Ok(if are_more_likely { SWEEPING_PAUSE } else { EVERY })
    }
}

impl Finisher {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }

    /// Sweeps a portion of the pages, then ends what has ended; answers how many executions ended.
    ///
    /// # Errors
    /// As the store.
    pub async fn step(&self) -> Result<usize, StoreError> {
        self.sweep().await?;
        self.finish().await
    }

    /// Puts back what a raised limit or a retry wants, skips what a page limit or a budget left over, fails what belongs to
    /// hosts that are gone, cancels what belongs to cancelled executions; answers how many pages these were.
    async fn sweep(&self) -> Result<u64, StoreError> {
        let put_back = self.store.put_pages_back(None).await?;
        crash::reach(CrashPoint::AfterPutBackBeforeSweep);
        let swept = self.store.sweep_leftover_pages().await? + self.store.sweep_over_budget().await?;
        if put_back + swept > 0 {
            tracing::info!(put_back, swept, "swept pages");
        }
        Ok(put_back + swept)
    }

    async fn finish(&self) -> Result<usize, StoreError> {
        crash::reach(CrashPoint::AfterSweepBeforeFinish);
        let ended = self.store.finish_executions().await?;
        for (execution, status) in &ended {
            tracing::info!(execution.id = %execution, status, "the execution ended");
        }
        Ok(ended.len())
    }
}
