//! What is owed to a database server that has taken over: it may lack the last of what was written, and have pages as this worker's
//! that have long ended. Nobody would speak of these before the end of their leases, which would then be charged to them.

use chrono::{DateTime, Utc};
use crawlify_shared::store::hot::{Answered, HotStore};
use crawlify_shared::telemetry::chain;
use tokio::time::Instant;

use crate::page::claims::InHand;

/// Which server answers, and since when it is to be told what is in hand.
#[derive(Debug, Default)]
pub(super) struct Takeover {
    /// By its start. One that was merely started again lacks nothing, and is told in vain.
    server: Option<DateTime<Utc>>,
    owed: Option<DateTime<Utc>>,
}

impl Takeover {
    /// Notes who has answered a heartbeat.
    pub(super) fn note(&mut self, answered: Answered) {
        let before = self.server.replace(answered.server_started_at);
        if before.is_some_and(|before| before != answered.server_started_at) {
            self.owed = Some(answered.at);
        }
    }

    /// Gives back what a server that has taken over takes for this worker's, and is not in hand. What cannot be given back until the
    /// deadline is given back with the next heartbeat.
    pub(super) async fn settle(&mut self, store: &HotStore, in_hand: &InHand, deadline: Instant) {
        let Some(since) = self.owed else { return };
        let held = in_hand.pages();
        match tokio::time::timeout_at(deadline, store.return_unheld(&held, since)).await {
            Ok(Ok(returned)) => {
                if returned.pages > 0 {
                    tracing::info!(
                        pages = returned.pages,
                        "another database server has taken over: pages that it takes for this worker's are given back"
                    );
                }
                self.owed = self.owed.filter(|_| returned.left > 0);
            }
            Ok(Err(error)) => {
                tracing::debug!(error = %chain(&error), "cannot give back what is not in hand");
            }
            Err(_) => tracing::debug!("no time to give back what is not in hand"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_a_server_that_answers_in_anothers_place_is_owed_something() {
        let (first, second) = (Utc::now(), Utc::now() + Duration::from_secs(3));
        let answered = |server_started_at, at| Answered { server_started_at, at };
        let mut takeover = Takeover::default();
        takeover.note(answered(first, first));
        takeover.note(answered(first, first + Duration::from_secs(1)));
        assert_eq!(takeover.owed, None);
        takeover.note(answered(second, second + Duration::from_secs(1)));
        takeover.note(answered(second, second + Duration::from_secs(2)));
        assert_eq!(takeover.owed, Some(second + Duration::from_secs(1)), "since its first answer");
    }
}
