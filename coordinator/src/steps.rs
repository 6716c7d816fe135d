//! What the coordinator's loops have in common: a step, a pause, again, until the stop. A step is never cut off
//! half-way, so it needs not be safe to drop.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::telemetry::chain;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Longest pause after failures in a row.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// What a loop repeats.
pub(crate) trait Step: Send {
    /// What can go wrong; the loop goes on after a pause.
    type Error: Error + Send + 'static;

    /// Does the work once, and says how long to pause.
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
        let pause = match step.once().await {
            Ok(pause) => {
                if failures > 0 {
                    tracing::info!(step = name, failures, "works again");
                }
                failures = 0;
                pause
            }
            Err(error) => {
                failures += 1;
                tracing::warn!(step = name, error = %chain(&error), failures, "the step failed");
                (Duration::from_millis(200) * 2_u32.pow(failures.min(6))).min(MAX_BACKOFF)
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = wake.notified(), if failures == 0 => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
