//! The signals that ask a process to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

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

/// Runs one of the roles: the first signal asks it to drain, the second ends the process at once.
///
/// Answers what the role answered; `None` means that a second signal came.
///
/// # Errors
/// The signals cannot be listened to.
pub async fn until_stopped<T>(
    stop: tokio_util::sync::CancellationToken,
    role: impl Future<Output = T>,
) -> std::io::Result<Option<T>> {
    let mut signals = StopSignals::listen()?;
    tokio::pin!(role);
    tokio::select! {
        done = &mut role => return Ok(Some(done)),
        () = signals.next() => stop.cancel(),
    }
    tokio::select! {
        done = &mut role => Ok(Some(done)),
        () = signals.next() => Ok(None),
    }
}
