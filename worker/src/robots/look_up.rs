//! How a worker comes to know a robots file: from the store, where another worker has put it, or from the site, if it is the
//! one to fetch it for the fleet. Only then it waits for the host's turn: another worker may have been the one until then, for
//! much longer than a turn lasts.

use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::outcome::Failure;
use crawlify_shared::domain::page::ClaimedPage;
use crawlify_shared::store::StoreError;
use crawlify_shared::store::hot::{FetchedRobots, HotStore};
use crawlify_shared::telemetry::chain;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use url::Url;

use super::agent::Agent;
use super::fetch::{FETCH_WITHIN, fetch};
use super::known::Known;
use crate::http::Outlet;
use crate::page::host_turns::{HostTurns, TooFar};
use crate::page::redirects::Redirects;

/// How long a file is gone by (RFC 9309, section 2.4: 24 hours at the most).
const FRESH_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the store may take to give the right to fetch a file, which may have begun when it was asked for.
const RESERVED_WITHIN: Duration = Duration::from_secs(5);
/// How long it may take to store the file.
const STORED_WITHIN: Duration = Duration::from_secs(2);
/// How long the store may take to hear that a fetch was given up.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(2);
/// How often the store is asked while another worker fetches.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The pause after a failure of the store.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// A host that answers 429 or 503 is left alone for so long at the least: its file is not asked for again before either.
const LEAST_REST: Duration = Duration::from_secs(10);
/// One in so many fetches is followed by a clean-up of what nobody asks for any more.
const CLEAN_UP_EVERY: u32 = 500;

/// Looking up one robots file.
#[derive(Debug)]
pub(super) struct LookUp<'a> {
    pub(super) store: HotStore,
    /// The page that it is done for.
    pub(super) page: &'a ClaimedPage,
    pub(super) turns: &'a HostTurns,
    /// The page's turn.
    pub(super) start_at: Instant,
    pub(super) outlet: Outlet,
    /// Where it is.
    pub(super) file: Url,
    /// By what it is known to all crawls that ask as this one does.
    pub(super) key: String,
    pub(super) agent: Agent,
    /// Whoever awaits what is still to be done after the look-up was dropped.
    pub(super) tasks: TaskTracker,
}

/// The right to fetch a file. Dropped with the fetch half done, as the page behind it is given up, it is given back at once: others
/// need not wait for its end.
#[derive(Debug)]
struct Reserved<'a> {
    look_up: &'a LookUp<'a>,
    is_used: bool,
}

/// Nothing is known of a file.
#[derive(Debug)]
pub(super) enum NotKnown {
    /// The store has failed.
    Store(StoreError),
    /// There was no way to ask the site, for this execution.
    NoWay(ExecutionId, Failure),
    /// The turn in which the site could be asked is too far away, or its host wants to be left alone by now.
    TooFar,
}

impl From<StoreError> for NotKnown {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl LookUp<'_> {
    /// Looks until something is known; waits while the store is down, or while another worker fetches.
    pub(super) async fn run(self) -> Result<Arc<Known>, NotKnown> {
        loop {
            let pause = match self.look().await {
                Ok(Some(known)) => return Ok(Arc::new(known)),
                Ok(None) => LOOK_EVERY,
                // Also where only a person can mend it, as for claims and records.
                Err(NotKnown::Store(error)) if !matches!(error, StoreError::BadData(_)) => {
                    tracing::warn!(error = %chain(&error), "cannot look at robots files, will go on");
                    RETRY_PAUSE
                }
                Err(error) => return Err(error),
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// `None`: another worker is fetching it.
    async fn look(&self) -> Result<Option<Known>, NotKnown> {
        let stored = self.store.robots_file(&self.key).await?;
        if let Some(stored) = stored.filter(|stored| !stored.fresh_for.is_zero()) {
            return Ok(Some(Known::of(stored, false)));
        }
        let asked_at = Instant::now();
        let within = fetched_within(self.page.host_delay);
        if !self.store.reserve_robots_fetch(&self.key, within).await? {
            return Ok(None);
        }
        let mut reserved = Reserved { look_up: self, is_used: false };
        if asked_at.elapsed() > RESERVED_WITHIN {
            // What is left of it may be too short: it is given back, and asked for anew.
            return Ok(None);
        }
        let until = Instant::now() + HostTurns::brief(self.page.host_delay);
        let turn = self.turns.wait_until(self.page, Some(self.start_at), until).await;
        turn.map_err(|TooFar| NotKnown::TooFar)?;
        let patience = until.saturating_duration_since(Instant::now());
        let redirects = Redirects::of(self.turns, self.page, patience);
        let fetched = self.fetch(redirects).await;
        // Also where it failed: a store that does not take it is no reason to ask the site again at once.
        reserved.is_used = true;
        fetched.map(Some)
    }

    /// Fetches the file and stores it, for which it must be reserved.
    async fn fetch(&self, redirects: Redirects<'_>) -> Result<Known, NotKnown> {
        let fetched = match fetch(&self.outlet, &self.file, &self.agent, redirects).await {
            Ok(fetched) => fetched,
            Err(failure) => {
                self.store.release_robots_fetch(&self.key).await?;
                return Err(NotKnown::NoWay(self.page.execution_id, failure));
            }
        };
        // The pace first: once the file is stored, nobody fetches it for a day.
        match &fetched {
            FetchedRobots::Answer { crawl_delay, .. } => {
                self.store.set_crawl_delay(&self.page.host, *crawl_delay).await?;
            }
            FetchedRobots::Unreachable { back_off: Some(back_off), .. } => {
                self.store.leave_alone(&self.page.host, (*back_off).max(LEAST_REST)).await?;
            }
            FetchedRobots::Unreachable { back_off: None, .. } => {}
        }
        let stored = self.store.store_robots_file(&self.key, &fetched, FRESH_FOR).await?;
        if rand::random_ratio(1, CLEAN_UP_EVERY) {
            self.store.forget_robots_files().await?;
        }
        Ok(Known::of(stored, true))
    }
}

/// How long a file is reserved: another worker may fetch it if the one that wanted to has not done so by then. It is longer than all
/// that this one may take for a host with such a delay, waits for its own turn and those of redirects included, and shorter than a
/// page waits for the file.
fn fetched_within(host_delay: Duration) -> Duration {
    RESERVED_WITHIN + Redirects::longest(HostTurns::brief(host_delay)) + FETCH_WITHIN + STORED_WITHIN
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if self.is_used {
            return;
        }
        // Best effort: without a runtime, or a store that answers, the reservation ends by itself.
        let Ok(runtime) = Handle::try_current() else { return };
        let (store, file) = (self.look_up.store.clone(), self.look_up.file.clone());
        let key = self.look_up.key.clone();
        let give_back = async move {
            let given_back = tokio::time::timeout(GIVEN_BACK_WITHIN, store.release_robots_fetch(&key)).await;
            if !matches!(given_back, Ok(Ok(()))) {
                tracing::debug!(url = %file, "a robots file that nobody fetches stays reserved for a while");
            }
        };
        self.look_up.tasks.spawn_on(give_back, &runtime);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::host_turns::HEARD_WITHIN;
    use crate::page::redirects::MAX_REDIRECTS;
    use crate::robots::patience;

    #[test]
    fn a_file_is_reserved_for_longer_than_a_fetch_takes_and_shorter_than_a_page_waits_for_it() {
        for milliseconds in [0, 100, 1_000, 2_000, 30_000, 3_600_000] {
            let host_delay = Duration::from_millis(milliseconds);
            let waits = HostTurns::brief(host_delay) + MAX_REDIRECTS * HEARD_WITHIN;
            let reserved = fetched_within(host_delay);
            assert!(reserved > RESERVED_WITHIN + waits + FETCH_WITHIN, "{host_delay:?}: {reserved:?}");
            // There is time for who looks again after that to find out.
            let seen_at = reserved + LOOK_EVERY + RESERVED_WITHIN;
            assert!(seen_at < patience(host_delay), "{host_delay:?}: {reserved:?}");
        }
    }
}
