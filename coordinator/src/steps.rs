//! What the coordinator's loops have in common: a step, a pause, again, until the stop. A step that takes far too long is
//! dropped: a database or a broker that falls silent would hold it up for ever.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::telemetry::chain;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The pause after a failure; it doubles with each further one in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(400);
/// Longest pause after failures in a row. A step that fails costs hardly anything, and whatever was away is used again
/// at once when it is back.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long a step may take: twice as long as a statement may.
const STEP_PATIENCE: Duration = Duration::from_secs(60);

/// What a loop repeats.
pub(crate) trait Step: Send {
    /// What can go wrong; the loop goes on after a pause.
    type Error: Error + Send + 'static;

    /// Does the work once, and says how long to pause. May be dropped half-way.
    fn once(&mut self) -> impl Future<Output = Result<Duration, Self::Error>> + Send;
}

/// Repeats a step until the stop; `wake` ends a pause early.
pub(crate) async fn repeat(
    name: &'static str,
    mut step: impl Step,
    stop: CancellationToken,
    wake: Arc<Notify>,
) {
    let mut failures = 0_u32;
    while !stop.is_cancelled() {
        let pause = match tokio::time::timeout(STEP_PATIENCE, step.once()).await {
            Ok(Ok(pause)) => {
                if failures > 0 {
                    tracing::info!(step = name, failures, "works again");
                }
                failures = 0;
                pause
            }
            Ok(Err(error)) => {
                failures += 1;
                tracing::warn!(step = name, error = %chain(&error), failures, "the step failed");
                pause_after(failures)
            }
            Err(_) => {
                failures += 1;
                tracing::warn!(step = name, failures, "the step took too long and is given up");
                pause_after(failures)
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = wake.notified(), if failures == 0 => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn pause_after(failures: u32) -> Duration {
    (FIRST_PAUSE * 2_u32.pow(failures.saturating_sub(1).min(16))).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_long_something_was_away_it_is_used_again_within_two_seconds() {
        let pauses: Vec<_> =
            [1, 2, 3, 4, 100, u32::MAX].map(|failures| pause_after(failures).as_millis()).to_vec();
        assert_eq!(pauses, [400, 800, 1_600, 2_000, 2_000, 2_000]);
    }
}
