//! The pace of hosts within this worker: a page starts no sooner after the last one of its host than the delay says,
//! whatever held that one up between its claim and its start.
//!
//! Between workers the claim keeps the pace (`hosts.next_start_at`). Knows nothing about stores and brokers.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Hosts remembered at the most; then those whose last start is longest ago are forgotten.
const REMEMBERED: usize = 4096;

/// When each host was last asked for a page. Every page of an execution with a delay reads and writes it; it is
/// locked for moments only, never across a wait.
#[derive(Debug, Default)]
pub(crate) struct HostTurns {
    last_starts: Mutex<HashMap<String, Instant>>,
}

impl HostTurns {
    /// Waits until `start_at`, and until the host's last start is `delay` ago; then this is its last start.
    pub(crate) async fn wait(&self, host: &str, delay: Duration, start_at: Instant) {
        while let Err(not_before) = self.take(host, delay, start_at, Instant::now()) {
            tokio::time::sleep_until(not_before).await;
        }
    }

    /// Takes the turn now, or says when to ask again.
    fn take(&self, host: &str, delay: Duration, start_at: Instant, now: Instant) -> Result<(), Instant> {
        if start_at > now {
            return Err(start_at);
        }
        if delay.is_zero() {
            return Ok(());
        }
        let mut last_starts = self.last_starts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(not_before) = last_starts.get(host).map(|last| *last + delay).filter(|turn| *turn > now) {
            return Err(not_before);
        }
        if last_starts.len() >= REMEMBERED && !last_starts.contains_key(host) {
            let oldest = last_starts.iter().min_by_key(|(_, last)| **last).map(|(host, _)| host.clone());
            last_starts.remove(&oldest.unwrap_or_default());
        }
        last_starts.insert(host.to_owned(), now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(1);

    #[test]
    fn a_late_start_puts_off_the_next_one_of_its_host_alone() {
        let turns = HostTurns::default();
        let begun = Instant::now();
        // It should have started at once, and was held up for 600 ms.
        let late = begun + Duration::from_millis(600);
        assert_eq!(turns.take("a.test", DELAY, begun, late), Ok(()));
        assert_eq!(turns.take("b.test", DELAY, begun, late), Ok(()));
        assert_eq!(turns.take("a.test", DELAY, begun + DELAY, begun + DELAY), Err(late + DELAY));
        assert_eq!(turns.take("a.test", DELAY, begun + DELAY, late + DELAY), Ok(()));
    }

    #[tokio::test]
    async fn a_page_never_starts_before_its_time() {
        let turns = HostTurns::default();
        let start_at = Instant::now() + Duration::from_millis(20);
        turns.wait("a.test", Duration::ZERO, start_at).await;
        assert!(Instant::now() >= start_at);
    }

    #[test]
    fn the_hosts_that_are_remembered_are_bounded() {
        let (turns, now) = (HostTurns::default(), Instant::now());
        for host in 0..=REMEMBERED {
            assert_eq!(turns.take(&host.to_string(), DELAY, now, now), Ok(()));
        }
        assert_eq!(turns.last_starts.lock().unwrap().len(), REMEMBERED);
    }
}
