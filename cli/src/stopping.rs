//! The end of the whole system in one process, by the clock: each stage has a moment at which it is over at the latest, so that
//! the process has ended within 10 s of the drain deadline whatever is away or hangs. What one stage leaves of its time, the next
//! ones have.

use std::time::Duration;

use crawlify_worker::ENDS_AFTER_DRAIN;
use tokio::time::Instant;

/// How long the worker may take to end its pages after the stop.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(20);
/// How long at least the coordinator's last steps and requests may take, after the worker's end.
const LAST_STEPS: Duration = Duration::from_secs(1);
/// How long at least browser, broker and the connections to the database have to be closed, after that.
const CLOSE: Duration = Duration::from_secs(2);
/// How long at least the private Postgres has to end, after that; it is killed within that time if need be.
const POSTGRES: Duration = Duration::from_secs(2);

/// When each stage after the worker's end is over at the latest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stages {
    /// Nobody waits for the coordinator any longer.
    pub(crate) coordinated: Instant,
    /// Browser, broker and connections are closed.
    pub(crate) closed: Instant,
    /// The private Postgres is gone.
    pub(crate) ended: Instant,
}

impl Stages {
    /// Of a system whose worker was told to stop then, and has ended now. A crawl may be summed up in between, for as long as that takes.
    pub(crate) fn of(told: Instant, now: Instant) -> Self {
        Self::after((told + DRAIN_DEADLINE + ENDS_AFTER_DRAIN).max(now))
    }

    /// Of a system without a worker after that moment.
    pub(crate) fn after(without_worker: Instant) -> Self {
        let coordinated = without_worker + LAST_STEPS;
        let closed = coordinated + CLOSE;
        Self { coordinated, closed, ended: closed + POSTGRES }
    }
}

#[cfg(test)]
mod tests {
    use crawlify_shared::process;

    use super::*;

    #[test]
    fn whatever_is_away_the_process_has_ended_within_ten_seconds_of_the_drain_deadline() {
        let told = Instant::now();
        for worker_took in [0, 7, 23].map(Duration::from_secs) {
            let ended = Stages::of(told, told + worker_took).ended + process::ENDS_WITHIN;
            assert!(ended - told <= DRAIN_DEADLINE + Duration::from_secs(10), "{worker_took:?}");
        }
    }

    #[test]
    fn after_a_long_summary_the_stages_have_their_times_all_the_same() {
        let told = Instant::now();
        let now = told + Duration::from_secs(600);
        assert_eq!(Stages::of(told, now).ended - now, LAST_STEPS + CLOSE + POSTGRES);
    }
}
