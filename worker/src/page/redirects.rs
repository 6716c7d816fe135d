//! The redirects of a request that a page makes without a browser. Each is a request like any other: to the page's own host it
//! waits for a turn, and to another host it is counted, so that the next page there waits for longer.

use std::time::Duration;

use crawlify_shared::domain::page::ClaimedPage;
use crawlify_shared::domain::page_url::PageUrl;
use tokio::time::Instant;
use url::Url;

use super::host_turns::{HEARD_WITHIN, HostTurns};

/// Redirects that are followed: as many as RFC 9309, section 2.3.1.2, asks for.
pub(crate) const MAX_REDIRECTS: u32 = 5;

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

    /// The longest that they take together, however slow the store is: for each it has a moment to hear of it, also where none is
    /// to wait any longer.
    pub(crate) fn longest(patience: Duration) -> Duration {
        patience + MAX_REDIRECTS * HEARD_WITHIN
    }

    /// Waits until an address may be asked for, and answers how long that took.
    pub(crate) async fn wait(&mut self, next: &Url) -> Duration {
        let begun = Instant::now();
        // Only its host counts. Whatever else is in it may be nothing for the address of a page.
        let Ok(origin) = PageUrl::parse(&next.origin().ascii_serialization()) else { return Duration::ZERO };
        let host = origin.unit_of_politeness(self.page.host_unit);
        if host == self.page.host {
            self.turns.wait_to_go_on(self.page, begun + self.patience).await;
        } else if tokio::time::timeout(HEARD_WITHIN, self.turns.count(host, 1)).await.is_err() {
            tracing::debug!(host, "a redirect may not be counted: the store has not answered in time");
        }
        let waited = begun.elapsed();
        self.patience = self.patience.saturating_sub(waited);
        waited
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::sample::{claimed_page, host_turns, silent_host_turns};

    fn page(host_delay: Duration) -> ClaimedPage {
        ClaimedPage { host_delay, ..claimed_page("http://a.test/robots.txt") }
    }

    #[tokio::test(start_paused = true)]
    async fn without_turns_from_the_store_redirects_keep_the_delay_by_themselves_as_far_as_they_may_wait() {
        let delay = Duration::from_secs(4);
        let (turns, page, next) = (host_turns(), page(delay), "http://a.test/next".parse().unwrap());
        let mut redirects = Redirects::of(&turns, &page, HostTurns::brief(delay));
        for redirect in 1..MAX_REDIRECTS {
            let waited = redirects.wait(&next).await;
            assert!(waited >= delay, "redirect {redirect}: {waited:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_says_nothing_keeps_redirects_no_longer_than_they_may_wait_and_a_moment_each() {
        let (turns, _store) = silent_host_turns();
        for (delay_s, next) in [(4, "http://a.test/"), (4, "http://b.test/"), (0, "http://b.test/")] {
            let page = page(Duration::from_secs(delay_s));
            let patience = HostTurns::brief(page.host_delay);
            let (mut redirects, next) = (Redirects::of(&turns, &page, patience), next.parse().unwrap());
            let begun = Instant::now();
            for _ in 0..MAX_REDIRECTS {
                redirects.wait(&next).await;
            }
            // A timer is as exact as a millisecond.
            let most = Redirects::longest(patience) + Duration::from_millis(100);
            assert!(begun.elapsed() <= most, "{delay_s} s, {next}: {:?}", begun.elapsed());
        }
    }
}
