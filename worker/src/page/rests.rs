//! The rests of hosts: a worker leaves a host alone by itself that wants that, until the store has it for all.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use super::host_turns::HOSTS;

/// How long this worker leaves a host alone by itself that wants that: until the store has it for all.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// Until when hosts are left alone that said so to this worker. Locked for moments only, by pages that hear it and pages that start.
#[derive(Debug)]
pub(super) struct Rests(Mutex<LruCache<String, Instant>>);

impl Rests {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(HOSTS)))
    }

    /// Leaves a host alone from now on, and no shorter than was known already. Answers whether it was not left alone.
    pub(super) fn leave_alone(&self, host: &str, wanted: Duration, now: Instant) -> bool {
        let until = now + wanted.clamp(REST.0, REST.1);
        let mut rests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match rests.get_mut(host) {
            Some(before) => {
                let is_news = *before <= now;
                *before = until.max(*before);
                is_news
            }
            None => {
                rests.put(host.to_owned(), until);
                true
            }
        }
    }

    /// Whether a host is left alone now.
    pub(super) fn holds(&self, host: &str, now: Instant) -> bool {
        let rests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rests.peek(host).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_host_is_left_alone_for_a_moment_however_short_or_long_it_wants() {
        let (rests, now) = (Rests::new(), Instant::now());
        assert!(!rests.holds("a.test", now), "it has said nothing");
        for (host, wanted, rest) in [
            ("a.test", seconds(0), REST.0),
            ("b.test", seconds(3), seconds(3)),
            ("c.test", seconds(600), REST.1),
        ] {
            assert!(rests.leave_alone(host, wanted, now), "{host}");
            assert!(rests.holds(host, now + rest - Duration::from_millis(1)), "{host}");
            assert!(!rests.holds(host, now + rest), "{host}");
        }
        assert!(!rests.holds("d.test", now), "another host is not left alone");
    }

    #[test]
    fn who_hears_less_later_makes_no_rest_shorter() {
        let (rests, now) = (Rests::new(), Instant::now());
        assert!(rests.leave_alone("a.test", seconds(120), now));
        assert!(!rests.leave_alone("a.test", seconds(0), now + seconds(1)), "that is known");
        assert!(rests.holds("a.test", now + seconds(4)), "it said more before");
        assert!(!rests.leave_alone("a.test", seconds(120), now + seconds(4)));
        assert!(rests.holds("a.test", now + seconds(8)), "and more after that");
        assert!(!rests.holds("a.test", now + seconds(9)));
        assert!(rests.leave_alone("a.test", seconds(0), now + seconds(9)), "its rest was over");
    }
}
