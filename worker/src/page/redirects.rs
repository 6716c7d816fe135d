//! The redirects of a request that a page makes without a browser. Each is a request like any other: to the page's own host it
//! waits for a turn, and to another host it is counted, so that the next page there waits for longer.

use std::time::Duration;

use crawlify_shared::domain::page::ClaimedPage;
use crawlify_shared::domain::page_url::PageUrl;
use tokio::time::Instant;
use url::Url;

use super::host_turns::HostTurns;

/// The turns of one request's redirects.
#[derive(Debug)]
pub(crate) struct Redirects<'a> {
    turns: &'a HostTurns,
    page: &'a ClaimedPage,
    /// How long they may still wait.
    patience: Duration,
}

impl<'a> Redirects<'a> {
    /// Of a request for this page. All together they wait no longer than `patience`: a chain of them that takes longer goes on at
    /// once, and is counted.
    pub(crate) fn of(turns: &'a HostTurns, page: &'a ClaimedPage, patience: Duration) -> Self {
        Self { turns, page, patience }
    }

    /// Waits until an address may be asked for, and answers how long that took.
    pub(crate) async fn wait(&mut self, next: &Url) -> Duration {
        let begun = Instant::now();
        // Only its host counts. Whatever else is in it may be nothing for the address of a page.
        let Ok(origin) = PageUrl::parse(&next.origin().ascii_serialization()) else { return Duration::ZERO };
        let host = origin.unit_of_politeness(self.page.host_unit);
        if host == self.page.host {
            self.turns.wait_to_go_on(self.page, self.patience).await;
        } else {
            self.turns.count(host, 1).await;
        }
        let waited = begun.elapsed();
        self.patience = self.patience.saturating_sub(waited);
        waited
    }
}
