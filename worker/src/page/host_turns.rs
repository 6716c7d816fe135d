//! A page's turn on its host: it starts at the time that the claim gave it, no sooner and hardly later. One that was held
//! up beyond that gives its turn away and takes a later one, because the next start was planned by it.

use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crawlify_shared::domain::page::ClaimedPage;
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::store::hot::HotStore;
use lru::LruCache;
use tokio::time::Instant;

use super::rests::Rests;
use crate::metrics::Metrics;

/// How late a page may start, at the least; otherwise a fiftieth of the delay, which is less than the margin that starts are
/// planned with.
const LEAST_TOLERANCE: Duration = Duration::from_millis(10);
/// A page whose next turn is farther away than this goes back instead: others can use its slot. But one that has to ask its
/// host twice must be able to, however long the delay is.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20 * 60));
/// How long before its turn a page begins to find out what it must know by then: as long as it may be dispatched before its start.
const AHEAD: Duration = Duration::from_secs(1);
/// How long requests may wait for turns whose answer others wait for: at the least, however short the delay is, and at the most.
const BRIEF: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(20));
/// How long the store may take, at the least, to hear of a request that goes on however little may be waited for it.
pub(crate) const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// The pause before a turn is asked for again that the store did not give.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long the whole fleet leaves a host alone that wants that, until the store has it for all. Pages are dispatched up to a second before their start, so that at least for
/// a second none is.
const HELD_BACK: Duration = Duration::from_secs(2);
/// How long a host is held to say nothing that did not say for how long it wants to be left alone.
const SILENT_FOR: Duration = Duration::from_secs(10 * 60);
/// Hosts whose last start, rest or silence is remembered.
pub(super) const HOSTS: NonZeroUsize = NonZeroUsize::new(4096).expect("it is not zero");

/// Gives pages their turns.
#[derive(Debug)]
pub(crate) struct HostTurns {
    store: HotStore,
    /// How long a page's lease goes on after its turn.
    lease: Duration,
    metrics: Arc<Metrics>,
    /// When a page of a host had its turn last, and the delay that it kept. Locked for moments only, by the page that starts.
    last: Mutex<LruCache<String, (Instant, Duration)>>,
    rests: Rests,
    /// When hosts were asked last for how long they want to be left alone, and did not say. Locked for moments only.
    silent: Mutex<LruCache<String, Instant>>,
}

/// The turn is too far away, or the host wants to be left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooFar;

impl HostTurns {
    /// The longest wait of one call of [`HostTurns::wait`] after the time that it was given.
    pub(crate) fn longest(delay: Duration) -> Duration {
        if delay.is_zero() { Duration::ZERO } else { 2 * patience(delay) }
    }

    /// How long a request and its redirects may wait for their turns, all together, where others wait for what is answered: long
    /// enough for a few turns, unless the delay is long.
    pub(crate) fn brief(delay: Duration) -> Duration {
        if delay.is_zero() { Duration::ZERO } else { (AHEAD + 8 * delay).clamp(BRIEF.0, BRIEF.1) }
    }

    pub(crate) fn new(store: HotStore, lease: Duration, metrics: Arc<Metrics>) -> Self {
        let (last, silent) = (Mutex::new(LruCache::new(HOSTS)), Mutex::new(LruCache::new(HOSTS)));
        Self { store, lease, metrics, last, rests: Rests::new(), silent }
    }

    /// Leaves a host alone, with all its pages that have not started, for as long as it wants: no page of this worker starts
    /// before the store knows of it. Answers whether it was news.
    pub(crate) fn leave_alone(&self, host: &str, wanted: Duration) -> bool {
        self.rests.leave_alone(host, wanted, Instant::now())
    }

    /// Notes for how long a host wants to be left alone that was asked.
    pub(crate) fn note_answer(&self, host: &str, said: Option<Duration>) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|said| said.is_zero()) {
            silent.put(host.to_owned(), Instant::now());
        } else {
            silent.pop(host);
        }
    }

    /// Whether a host was asked for how long lately, and did not say.
    pub(crate) fn says_nothing(&self, host: &str) -> bool {
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.peek(host).is_some_and(|at| at.elapsed() < SILENT_FOR)
    }

    /// Waits for `start_at`, and for a later turn if that has passed; without it, for the host's next turn. Answers at
    /// once for a host without a pace.
    ///
    /// # Errors
    /// The turn is too far away, or the host wants to be left alone by now: the page must go back.
    pub(crate) async fn wait(&self, page: &ClaimedPage, start_at: Option<Instant>) -> Result<(), TooFar> {
        let (now, patience) = (Instant::now(), patience(page.host_delay));
        // Who is late for a turn that was not too far away waits for a later one for as long again.
        let near = start_at.filter(|at| (now..=now + patience).contains(at));
        self.wait_until(page, start_at, near.unwrap_or(now) + patience).await
    }

    /// As [`HostTurns::wait`], where a turn later than `until` is too far, and so is one that the store has not given by then.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn wait_until(
        &self,
        page: &ClaimedPage,
        start_at: Option<Instant>,
        until: Instant,
    ) -> Result<(), TooFar> {
        if self.rests.holds(&page.host, Instant::now()) {
            return Err(TooFar);
        }
        if page.host_delay.is_zero() {
            return Ok(());
        }
        let asked_at = Instant::now();
        let had = match self.wait_from(page, start_at, until).await {
            Ok(()) if self.rests.holds(&page.host, Instant::now()) => Err(TooFar),
            had => had,
        };
        self.note(page, asked_at, had)
    }

    /// Waits until the turn at `start_at` is near. Who finds something out before it asks its host begins no sooner: those whose
    /// turns come earlier shall not have to wait for it.
    ///
    /// # Errors
    /// As those of [`HostTurns::wait`].
    pub(crate) async fn come_near(&self, page: &ClaimedPage, start_at: Instant) -> Result<(), TooFar> {
        if self.rests.holds(&page.host, Instant::now()) {
            return Err(TooFar);
        }
        if page.host_delay.is_zero() {
            return Ok(());
        }
        if start_at > Instant::now() + patience(page.host_delay) {
            self.metrics.observe_too_far();
            return Err(TooFar);
        }
        if let Some(near) = start_at.checked_sub(AHEAD) {
            tokio::time::sleep_until(near).await;
        }
        Ok(())
    }

    /// Waits for the host's next turn, for a request to which another one of the same page has led. One that is later than
    /// `until` is not waited for: as nobody else has that turn, the next page of the host starts a delay later. Where the store gives
    /// none, the request keeps the delay by itself, as far as `until` allows. It ends by then, or [`HEARD_WITHIN`] where that is later.
    pub(crate) async fn wait_to_go_on(&self, page: &ClaimedPage, until: Instant) {
        if page.host_delay.is_zero() {
            return;
        }
        let asked_at = Instant::now();
        let left = until.saturating_duration_since(asked_at);
        // A store that is away shall not use up at once what the next requests may wait.
        let given_within = page.host_delay.max(left / 4).min(left).max(HEARD_WITHIN);
        let turn = async {
            loop {
                if let Some(turn) = self.reserve(page).await {
                    break turn;
                }
            }
        };
        let Ok(turn) = tokio::time::timeout(given_within, turn).await else { return };
        if self.wait_from(page, Some(turn), until).await.is_ok() {
            self.note_start(page, asked_at);
        }
    }

    /// Counts requests that did not wait for their turns, as nobody can hold up where a redirect leads: whoever comes next on that
    /// host waits for longer.
    pub(crate) async fn count(&self, host: &str, requests: u32) {
        if let Err(error) = self.store.was_asked_beside(host, requests).await {
            tracing::debug!(host, requests, %error, "requests beside the pace were not counted");
        }
    }

    /// Waits for the next turn of a host that has refused a page, to ask it for how long it wants to be left alone. Until it is
    /// known what it says, no worker's page starts there: the record of the refusal comes only then.
    ///
    /// # Errors
    /// The turn is too far away.
    pub(crate) async fn wait_to_ask(&self, page: &ClaimedPage) -> Result<(), TooFar> {
        let asked_at = Instant::now();
        let hold_back = self.hold_back(page);
        if page.host_delay.is_zero() {
            hold_back.await;
            return Ok(());
        }
        let until = asked_at + patience(page.host_delay);
        // Its turn first, so that the question does not wait for what holds back the others; it may come before they are told.
        let turn = tokio::time::timeout_at(until, self.reserve(page)).await.ok().flatten();
        let ((), had) = tokio::join!(hold_back, self.wait_from(page, turn, until));
        self.note(page, asked_at, had)
    }

    /// Has no page of the host start for a moment, wherever: it has refused one, which is not recorded yet.
    async fn hold_back(&self, page: &ClaimedPage) {
        if let Err(error) = self.store.hold_back(&page.host, HELD_BACK).await {
            tracing::debug!(host = page.host, %error, "others do not know yet that a host has refused a page");
        }
    }

    /// Waits for the answer to a question, and holds the other pages of the host back as long as it takes.
    pub(crate) async fn while_others_wait<T>(
        &self,
        page: &ClaimedPage,
        question: impl Future<Output = T>,
    ) -> T {
        let mut question = pin!(question);
        loop {
            // Beside the question: a slow store must not put its deadline off.
            let hold_back = async {
                tokio::time::sleep(HELD_BACK / 4).await;
                self.hold_back(page).await;
            };
            tokio::select! {
                biased;
                answer = &mut question => return answer,
                () = hold_back => {}
            }
        }
    }

    fn note(&self, page: &ClaimedPage, asked_at: Instant, had: Result<(), TooFar>) -> Result<(), TooFar> {
        match had {
            Ok(()) => self.note_start(page, asked_at),
            Err(TooFar) => self.metrics.observe_too_far(),
        }
        had
    }

    /// Waits for the turn at `start_at`, or a later one, and no longer than `until`, however slow the store is.
    async fn wait_from(
        &self,
        page: &ClaimedPage,
        start_at: Option<Instant>,
        until: Instant,
    ) -> Result<(), TooFar> {
        let mut tolerance = (page.host_delay / 50).max(LEAST_TOLERANCE);
        let mut turn = start_at;
        loop {
            if let Some(start_at) = turn {
                if start_at > until {
                    return Err(TooFar);
                }
                tokio::time::sleep_until(start_at).await;
                if start_at.elapsed() <= tolerance {
                    return Ok(());
                }
                // A machine that is always late must get on all the same.
                tolerance += tolerance / 4;
            }
            if Instant::now() > until {
                return Err(TooFar);
            }
            turn = tokio::time::timeout_at(until, self.reserve(page)).await.map_err(|_elapsed| TooFar)?;
        }
    }

    /// The host's next turn, for this page; `None`, after a pause, where the store gives none.
    async fn reserve(&self, page: &ClaimedPage) -> Option<Instant> {
        match self.store.next_start(page, self.lease).await {
            Ok(start_at) => Some(Instant::from_std(start_at)),
            Err(error) => {
                tracing::debug!(page.id = %page.page_id, %error, "no turn was given");
                tokio::time::sleep(RETRY_PAUSE).await;
                None
            }
        }
    }

    fn note_start(&self, page: &ClaimedPage, asked_at: Instant) {
        let now = Instant::now();
        self.metrics.observe_turn(now - asked_at);
        let start = (now, page.host_delay);
        let last = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            match last.get_mut(&page.host) {
                Some(last) => Some(std::mem::replace(last, start)),
                None => {
                    last.put(page.host.clone(), start);
                    None
                }
            }
        };
        if let Some((at, delay)) = last {
            // The later start was planned with the delay of the earlier one: a pace that has just become longer, or shorter,
            // is no violation.
            self.metrics.observe_interval(now - at, delay.min(page.host_delay));
        }
    }
}

/// Whether an address is of the host of a page, as far as politeness goes.
pub(crate) fn is_of_its_host(page: &ClaimedPage, url: &str) -> bool {
    PageUrl::parse(url).is_ok_and(|url| url.unit_of_politeness(page.host_unit) == page.host)
}

fn patience(delay: Duration) -> Duration {
    (2 * delay).clamp(PATIENCE.0, PATIENCE.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::sample::{claimed_page, silent_host_turns};

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn patience_grows_with_the_pace_within_bounds() {
        for (delay, expected) in [(0, 30), (1, 30), (15, 30), (60, 120), (600, 1_200), (3_600, 1_200)] {
            assert_eq!(patience(seconds(delay)), seconds(expected), "{delay} s");
        }
        assert_eq!(HostTurns::longest(Duration::ZERO), Duration::ZERO, "nobody waits where there is no pace");
        assert_eq!(HostTurns::longest(seconds(60)), seconds(240));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_says_nothing_puts_no_deadline_off() {
        let (turns, _store) = silent_host_turns();
        let page = ClaimedPage { host_delay: seconds(1), ..claimed_page("http://a.test/") };
        let until = Instant::now() + seconds(3);
        assert_eq!(turns.wait_until(&page, None, until).await, Err(TooFar));
        assert!(until.elapsed() < seconds(1), "{:?}", until.elapsed());
        let until = Instant::now() + seconds(3);
        turns.while_others_wait(&page, tokio::time::sleep_until(until)).await;
        assert!(until.elapsed() < seconds(1), "{:?}", until.elapsed());
    }

    #[test]
    fn what_others_wait_for_waits_for_a_few_turns_within_bounds() {
        assert_eq!(HostTurns::brief(Duration::ZERO), Duration::ZERO, "nobody waits where there is no pace");
        assert_eq!(HostTurns::brief(Duration::from_millis(100)), BRIEF.0);
        assert_eq!(HostTurns::brief(seconds(2)), seconds(17));
        assert_eq!(HostTurns::brief(seconds(600)), BRIEF.1);
        assert!(AHEAD < BRIEF.0, "a turn that has come near is within it");
    }
}
