//! Removes what deleted workflows have left, portion by portion. A loop of its own: it may go on for hours, and no execution waits
//! for its end meanwhile.

use std::time::Duration;

use crawlify_shared::store::deletion::REMOVED_AT_ONCE;
use crawlify_shared::store::{Store, StoreError};

use crate::steps::Step;

/// How often it looks whether there is anything to remove.
const EVERY: Duration = Duration::from_secs(5);
/// The pause while there is: others get at the database in between.
const REMOVING_PAUSE: Duration = Duration::from_millis(50);

/// Removes rows.
#[derive(Debug)]
pub(crate) struct Remover {
    store: Store,
}

impl Remover {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }
}

impl Step for Remover {
    type Error = StoreError;

    async fn once(&mut self) -> Result<Duration, StoreError> {
        let removed = self.store.remove_deleted(None, REMOVED_AT_ONCE).await?;
        if removed == 0 {
            return Ok(EVERY);
        }
        tracing::debug!(removed, "removed rows of deleted workflows");
        Ok(REMOVING_PAUSE)
    }
}
