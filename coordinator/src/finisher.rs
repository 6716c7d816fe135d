//! The finisher: an execution without an open page has ended. Never asks the broker: only rows count.

use std::time::Duration;

use crawlify_shared::store::{Store, StoreError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::steps;

/// How often it looks.
const EVERY: Duration = Duration::from_millis(250);

/// Ends executions.
#[derive(Debug)]
pub struct Finisher {
    store: Store,
}

impl Finisher {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }

    pub(crate) async fn run(self, stop: CancellationToken) {
        steps::repeat("finish", &stop, &Notify::new(), async || {
            self.step().await?;
            Ok::<_, StoreError>(EVERY)
        })
        .await;
    }

    /// Skips what a page limit left over, cancels what belongs to cancelled executions, ends what has ended; answers
    /// how many executions ended.
    ///
    /// # Errors
    /// As the store.
    pub async fn step(&self) -> Result<usize, StoreError> {
        let swept = self.store.sweep_leftover_pages().await?;
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
