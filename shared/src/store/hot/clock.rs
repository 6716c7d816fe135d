//! The database's clock as seen from here, which is the only one that counts. Starts on a host are planned in its time, by
//! whichever worker; how long an answer took, a commit to the disk included, must not move them. And where this machine's
//! clock is wrong, what nodes are recorded with is put right.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

use super::line::Line;
use crate::store::StoreError;

/// Clocks run apart by some 0.1 ms in this time.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Clocks that are kept by NTP are within some milliseconds of each other.
const TOLERATED: TimeDelta = TimeDelta::seconds(1);
/// The quickest of so many answers counts: the time may have been read at any moment of it.
const LOOKS: usize = 4;

/// What is known of the database's clock.
#[derive(Debug, Default)]
pub(super) struct ServerClock {
    reading: Mutex<Option<Reading>>,
}

/// Two clocks at the same moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    here: Instant,
    there: DateTime<Utc>,
}

impl ServerClock {
    /// Knows nothing any more: another server has another clock.
    pub(super) fn forget(&self) {
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What the clock shows, looked at anew now and then.
    ///
    /// # Errors
    /// As every statement of the store.
    pub(super) async fn read(&self, client: &Line) -> Result<Reading, StoreError> {
        let known = *self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.filter(|known| known.here.elapsed() < LOOK_EVERY) {
            return Ok(known);
        }
        let mut quickest = look(client).await?;
        for _ in 1..LOOKS {
            let another = look(client).await?;
            if another.0 < quickest.0 {
                quickest = another;
            }
        }
        let reading = quickest.1;
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
        Ok(reading)
    }
}

/// One look at the clock, and how long it took.
async fn look(client: &Line) -> Result<(Duration, Reading), StoreError> {
    let statement = client.prepare_cached("SELECT clock_timestamp()").await?;
    let asked = Instant::now();
    let there = client.query_one(&statement, &[]).await?.get(0);
    let took = asked.elapsed();
    Ok((took, Reading { here: asked + took / 2, there }))
}

impl Reading {
    /// How far the time there is ahead of what this machine's clock shows, where they are further apart than clocks that
    /// somebody sets; zero otherwise.
    pub(super) fn ahead(&self) -> TimeDelta {
        let ahead = self.there + self.here.elapsed() - Utc::now();
        if ahead.abs() > TOLERATED { ahead } else { TimeDelta::zero() }
    }

    /// When it is so late there, by the clock here.
    pub(super) fn here(&self, there: DateTime<Utc>) -> Instant {
        let ahead = there - self.there;
        match ahead.to_std() {
            Ok(ahead) => self.here + ahead,
            Err(_) => self.here.checked_sub((-ahead).to_std().unwrap_or_default()).unwrap_or(self.here),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_there_is_as_far_from_the_reading_here() {
        let (here, there) = (Instant::now(), Utc::now() + Duration::from_secs(3_600));
        let reading = Reading { here, there };
        let second = Duration::from_secs(1);
        assert_eq!(reading.here(there + second), here + second);
        assert_eq!(reading.here(there - second), here.checked_sub(second).unwrap());
        let hour = TimeDelta::seconds(3_600);
        assert!((reading.ahead() - hour).abs() < TimeDelta::seconds(1));
        assert_eq!(Reading { here, there: Utc::now() }.ahead(), TimeDelta::zero());
    }
}
