//! Removes what nobody needs any more, portion by portion: what deleted workflows have left, and hosts that nobody has visited for
//! long. A loop of its own: it may go on for hours, and no execution waits for its end meanwhile.

use std::time::Duration;

use crawlify_shared::store::deletion::REMOVED_AT_ONCE;
use crawlify_shared::store::{Store, StoreError};

use crate::steps::Step;

/// How often it looks whether there is anything to remove.
const EVERY: Duration = Duration::from_secs(5);
/// The pause while there is: others get at the database in between.
const REMOVING_PAUSE: Duration = Duration::from_millis(50);

/// The smallest portion, however slow the database is.
const FEWEST: i64 = 10;

/// Removes rows.
#[derive(Debug)]
pub(crate) struct Remover {
    store: Store,
    /// Half as many after each time that it took too long or failed otherwise, twice as many after each that did not.
    at_once: i64,
}

impl Remover {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, at_once: REMOVED_AT_ONCE }
    }
}

impl Step for Remover {
    type Error = StoreError;

    async fn once(&mut self) -> Result<Duration, StoreError> {
        let portion = self.at_once;
        self.at_once = (portion / 2).max(FEWEST);
        let removed = self.store.remove_deleted(None, portion).await?;
        let hosts = self.store.forget_hosts(portion).await?;
        self.at_once = (portion * 2).min(REMOVED_AT_ONCE);
        if removed + hosts == 0 {
            return Ok(EVERY);
        }
        tracing::debug!(
            removed,
            hosts,
            "removed rows of deleted workflows, and looked at hosts that may be forgotten"
        );
        Ok(REMOVING_PAUSE)
    }
}
