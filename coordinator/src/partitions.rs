//! Makes the partitions of the days to come. A loop of its own: while somebody reads for long they cannot be made, and nothing
//! else may wait for that.

use std::time::Duration;

use crawlify_shared::store::{Store, StoreError};
use crawlify_shared::telemetry::chain;

use crate::steps::Step;

/// For how many days ahead there are partitions.
const DAYS_AHEAD: i32 = 3;
/// How often they are looked after.
const EVERY: Duration = Duration::from_secs(3600);
/// The pause after a failure, once there are some: each try holds up whoever records, for as long as it waits.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Makes partitions.
#[derive(Debug)]
pub(crate) struct Partitions {
    store: Store,
    has_made_some: bool,
}

impl Partitions {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, has_made_some: false }
    }
}

impl Step for Partitions {
    type Error = StoreError;

    async fn once(&mut self) -> Result<Duration, StoreError> {
        match self.store.create_partitions(DAYS_AHEAD).await {
            Ok(()) => {
                self.has_made_some = true;
                Ok(EVERY)
            }
            Err(error) if self.has_made_some => {
                tracing::warn!(error = %chain(&error), "the partitions of the days to come cannot be made yet");
                Ok(AGAIN_AFTER)
            }
            Err(error) => Err(error),
        }
    }
}
