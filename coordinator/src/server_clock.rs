//! Compares how far the database's clock went on between two looks with our own one, which nobody can set. Knows nothing of
//! what follows from it.
//!
//! When between question and answer the server looked at its clock is unknown: a leap is only what a slow answer does not
//! explain.

use std::time::Duration;

use crawlify_shared::store::server_time::ServerTime;
use tokio::time::Instant;

/// What the server said of its clock, and when by ours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) server: ServerTime,
    pub(crate) asked_at: Instant,
    pub(crate) answered_at: Instant,
}

/// How the server's clock went on since the look before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// As ours did.
    AsOurs,
    /// Nobody knows: it was not looked at before.
    Unseen,
    /// As ours did, but it is that of another server, which has taken over.
    OfAnother,
    /// It is later by so much at the least. Ours stands still while the machine sleeps.
    LeaptAhead(Duration),
    /// It is earlier by so much at the least.
    LeaptBack(Duration),
}

impl Look {
    /// Compares it with the look `before`. What is no more than `tolerated` is no leap.
    pub(crate) fn after(&self, before: Option<&Self>, tolerated: Duration) -> Course {
        let Some(before) = before else {
            return Course::Unseen;
        };
        let went_on = (self.server.now - before.server.now).to_std().unwrap_or_default();
        let went_back = (before.server.now - self.server.now).to_std().unwrap_or_default();
        let (at_least, at_most) = (self.asked_at - before.answered_at, self.answered_at - before.asked_at);
        let ahead = went_on.saturating_sub(at_most);
        let back = (went_back + at_least).saturating_sub(went_on);
        if ahead > tolerated {
            Course::LeaptAhead(ahead)
        } else if back > tolerated {
            Course::LeaptBack(back)
        } else if self.server.started_at == before.server.started_at {
            Course::AsOurs
        } else {
            Course::OfAnother
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};

    use super::*;

    const TOLERATED: Duration = Duration::from_secs(7);
    const HOUR: i64 = 3_600;

    /// Two clocks that are read as a test likes.
    struct Clocks {
        ours: Instant,
        server: DateTime<Utc>,
    }

    impl Clocks {
        fn new() -> Self {
            Self { ours: Instant::now(), server: DateTime::UNIX_EPOCH }
        }

        /// A look that begins and ends so many seconds later by our clock, and shows so many by the server's.
        fn look(&self, asked: u64, answered: u64, shown: i64) -> Look {
            Look {
                server: ServerTime {
                    started_at: DateTime::UNIX_EPOCH,
                    now: self.server + TimeDelta::seconds(shown),
                },
                asked_at: self.ours + Duration::from_secs(asked),
                answered_at: self.ours + Duration::from_secs(answered),
            }
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_clock_that_was_not_looked_at_before_may_have_leapt() {
        assert_eq!(Clocks::new().look(0, 0, 0).after(None, TOLERATED), Course::Unseen);
    }

    #[test]
    fn a_clock_that_goes_on_as_ours_has_not_leapt_and_one_that_goes_a_little_wrong_neither() {
        let clocks = Clocks::new();
        let before = clocks.look(0, 0, 0);
        for shown in [100, 107, 93] {
            assert_eq!(clocks.look(100, 100, shown).after(Some(&before), TOLERATED), Course::AsOurs);
        }
    }

    #[test]
    fn a_leap_is_told_with_its_direction_and_its_least_length() {
        let clocks = Clocks::new();
        let before = clocks.look(0, 1, 0);
        let course = |shown| clocks.look(10, 12, shown).after(Some(&before), TOLERATED);
        assert_eq!(course(HOUR), Course::LeaptAhead(seconds(3_588)));
        assert_eq!(course(20), Course::LeaptAhead(seconds(8)));
        assert_eq!(course(-HOUR), Course::LeaptBack(seconds(3_609)));
        assert_eq!(course(1), Course::LeaptBack(seconds(8)), "it went on, and by too little");
    }

    #[test]
    fn a_slow_answer_is_no_leap_whenever_the_server_looked_at_its_clock() {
        let clocks = Clocks::new();
        let quick = |at: u64, shown| clocks.look(at, at, shown);
        for shown in [1, 15, 30] {
            let slow = clocks.look(1, 30, shown);
            assert_eq!(slow.after(Some(&quick(0, 0)), TOLERATED), Course::AsOurs);
            assert_eq!(quick(31, 31).after(Some(&slow), TOLERATED), Course::AsOurs);
        }
        let slow = clocks.look(1, 30, HOUR);
        assert_eq!(slow.after(Some(&quick(0, 0)), TOLERATED), Course::LeaptAhead(seconds(3_570)));
    }

    #[test]
    fn another_server_is_told_by_its_start_and_a_leap_to_its_clock_is_one() {
        let clocks = Clocks::new();
        let before = clocks.look(0, 0, 0);
        let of_another = |shown| {
            let look = clocks.look(1, 1, shown);
            let started_at = look.server.started_at + TimeDelta::seconds(1);
            Look { server: ServerTime { started_at, ..look.server }, ..look }
        };
        assert_eq!(of_another(1).after(Some(&before), TOLERATED), Course::OfAnother);
        assert_eq!(of_another(HOUR).after(Some(&before), TOLERATED), Course::LeaptAhead(seconds(3_599)));
    }
}
