//! The end of a worker, by the clock. Every stage is counted from the moment at which the worker was told to stop, so that its
//! process has ended in time whatever is away: a database or a broker that does not answer costs the stage that asks it, and
//! nothing of those that follow. What cannot be recorded by then is left to its lease.

use std::time::Duration;

use tokio::time::Instant;

/// How long pages may take to be given back, after the drain deadline.
const GIVE_BACK: Duration = Duration::from_secs(2);
/// How long at least the worker's own tasks have for their last writes, after that.
const LAST_WRITES: Duration = Duration::from_secs(1);
/// How long after the drain deadline a worker has ended at the latest.
pub const ENDS_AFTER_DRAIN: Duration = GIVE_BACK.saturating_add(LAST_WRITES);
/// How long at least browser and broker have to be closed, after that.
pub(crate) const CLOSE: Duration = Duration::from_secs(2);
/// The clock cannot count beyond some time, and this is as good as any longer one.
const LONGEST_DRAIN: Duration = Duration::from_secs(365 * 24 * 3600);

/// When each stage of the end is over at the latest. What one of them leaves of its time, the next ones have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stages {
    /// Pages in hand may go on until then.
    pub(crate) drained: Instant,
    /// Those that went on for longer are given back.
    pub(crate) given_back: Instant,
    /// The worker's own tasks have ended.
    pub(crate) written: Instant,
    /// Browser and broker are closed.
    pub(crate) closed: Instant,
}

impl Stages {
    /// Of a worker that was told to stop then.
    pub(crate) fn after(told: Instant, drain_deadline: Duration) -> Self {
        let drained = told + drain_deadline.min(LONGEST_DRAIN);
        let given_back = drained + GIVE_BACK;
        let written = given_back + LAST_WRITES;
        Self { drained, given_back, written, closed: written + CLOSE }
    }

    /// The same where pages have no more time from now on.
    pub(crate) fn sooner(self, now: Instant) -> Self {
        if now < self.drained { Self::after(now, Duration::ZERO) } else { self }
    }
}

#[cfg(test)]
mod tests {
    use crawlify_shared::process;

    use super::*;

    #[test]
    fn with_ten_seconds_more_than_the_drain_deadline_three_are_to_spare() {
        let told = Instant::now();
        for drain in [0, 20, 600].map(Duration::from_secs) {
            let ended = Stages::after(told, drain).closed + process::ENDS_WITHIN;
            assert!(ended - told <= drain + Duration::from_secs(7), "{drain:?}");
        }
    }

    #[test]
    fn who_is_in_a_hurry_waits_for_no_drain_deadline() {
        let told = Instant::now();
        let stages = Stages::after(told, Duration::from_secs(600));
        let hurried = told + Duration::from_secs(10);
        assert_eq!(stages.sooner(hurried).closed, Stages::after(hurried, Duration::ZERO).closed);
        assert_eq!(
            stages.sooner(told + Duration::from_secs(601)).closed,
            stages.closed,
            "no later than without"
        );
    }

    #[test]
    fn a_drain_deadline_may_be_as_long_as_anybody_likes() {
        let told = Instant::now();
        assert!(Stages::after(told, Duration::MAX).drained > told + Duration::from_secs(24 * 3600));
    }
}
