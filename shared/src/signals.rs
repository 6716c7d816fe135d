//! The signals that ask a process to stop.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// SIGINT and SIGTERM, one after the other.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Begins to listen: from here on the signals do not end the process by themselves.
    ///
    /// # Errors
    /// The signals cannot be listened to.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// How long whoever is told a second time may take, to give back what it holds.
pub const HURRIED: Duration = Duration::from_secs(2);

/// Runs one of the roles: the first signal asks it to drain (`stop`), the second to end at once (`hurry`), which it has two
/// seconds for.
///
/// Answers what the role answered; `None` means that a second signal came.
///
/// # Errors
/// The signals cannot be listened to.
pub async fn until_stopped<T>(
    stop: CancellationToken,
    hurry: CancellationToken,
    role: impl Future<Output = T>,
) -> std::io::Result<Option<T>> {
    let mut signals = StopSignals::listen()?;
    tokio::pin!(role);
    tokio::select! {
        done = &mut role => return Ok(Some(done)),
        () = signals.next() => stop.cancel(),
    }
    tokio::select! {
        done = &mut role => return Ok(Some(done)),
        () = signals.next() => hurry.cancel(),
    }
    let _ = tokio::time::timeout(HURRIED, role).await;
    Ok(None)
}
