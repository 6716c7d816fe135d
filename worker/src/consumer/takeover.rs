//! What is owed to a database server that has taken over: it may lack the last of what was written, and have pages as this worker's
//! that have long ended. Nobody would speak of these before the end of their leases, which would then be charged to them.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use crawlify_shared::store::StoreError;
use crawlify_shared::store::hot::HotStore;
use crawlify_shared::telemetry::chain;
use tokio::time::Instant;

use crate::page::claims::InHand;

/// Which server answers, and whether it is still to be told what is in hand.
#[derive(Debug, Default)]
pub(super) struct Takeover {
    /// By its start. One that was merely started again lacks nothing, and is told in vain.
    server: Option<DateTime<Utc>>,
    is_owed: bool,
}

impl Takeover {
    /// Notes who has answered a heartbeat.
    pub(super) fn note(&mut self, server_started_at: DateTime<Utc>) {
        let before = self.server.replace(server_started_at);
        self.is_owed |= before.is_some_and(|before| before != server_started_at);
    }

    /// Gives back what a server that has taken over takes for this worker's, and is not in hand. What cannot be given back until the
    /// deadline is given back with the next heartbeat.
    pub(super) async fn settle(&mut self, store: &HotStore, in_hand: &InHand, deadline: Instant) {
        if !self.is_owed {
            return;
        }
        match tokio::time::timeout_at(deadline, return_unheld(store, in_hand)).await {
            Ok(Ok(are_all)) => self.is_owed = !are_all,
            Ok(Err(error)) => {
                tracing::debug!(error = %chain(&error), "cannot give back what is not in hand");
            }
            Err(_) => tracing::debug!("no time to give back what is not in hand"),
        }
    }
}

/// Answers whether that were all.
async fn return_unheld(store: &HotStore, in_hand: &InHand) -> Result<bool, StoreError> {
    // In this order: what is claimed meanwhile is not asked about, and in hand before its row says so.
    let theirs = store.taken_for_ours().await?;
    let held: HashSet<_> = in_hand.pages().into_iter().collect();
    let unheld: Vec<_> = theirs.into_iter().filter(|page| !held.contains(page)).collect();
    if unheld.is_empty() {
        return Ok(true);
    }
    let returned = store.return_unheld(&unheld).await?;
    tracing::info!(
        pages = returned,
        "another database server has taken over: pages that it takes for this worker's are given back"
    );
    Ok(returned == unheld.len() as u64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_a_server_that_answers_in_anothers_place_is_owed_something() {
        let (first, second) = (Utc::now(), Utc::now() + Duration::from_secs(3));
        let mut takeover = Takeover::default();
        takeover.note(first);
        takeover.note(first);
        assert!(!takeover.is_owed);
        takeover.note(second);
        takeover.note(second);
        assert!(takeover.is_owed);
    }
}
