//! The finisher: an execution without an open page has ended. Never asks the broker: only rows count.

use std::time::Duration;

use crawlify_shared::store::{Store, StoreError};

use crate::steps::Step;

/// How often it looks, beside when the dispatcher finds nothing left to do.
const EVERY: Duration = Duration::from_millis(250);

/// Ends executions.
#[derive(Debug)]
pub struct Finisher {
    store: Store,
}

impl Step for Finisher {
    type Error = StoreError;

    async fn once(&mut self) -> Result<Duration, StoreError> {
        self.step().await?;
        Ok(EVERY)
    }
}

impl Finisher {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }

    /// Skips what a page limit or a budget left over, cancels what belongs to cancelled executions, ends what has ended; answers
    /// how many executions ended.
    ///
    /// # Errors
    /// As the store.
    pub async fn step(&self) -> Result<usize, StoreError> {
        let swept = self.store.sweep_leftover_pages().await? + self.store.sweep_over_budget().await?;
        if swept > 0 {
            tracing::info!(pages = swept, "swept leftover pages");
        }
        let ended = self.store.finish_executions().await?;
        for (execution, status) in &ended {
            tracing::info!(execution.id = %execution, status, "the execution ended");
        }
        Ok(ended.len())
    }
}
