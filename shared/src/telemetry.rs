//! Logs and metrics: how a process writes lines, and what every metric of ours has in common.

use std::time::{Duration, Instant};

use prometheus::{Encoder, Registry, TextEncoder};
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Starts logging to stderr. `filter` is in the syntax of `RUST_LOG`; a second call does nothing.
pub fn init_logging(filter: &str, format: LogFormat) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// An error with its causes, as one line for the log.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

/// How often a failure that goes on is told again.
const REMIND_EVERY: Duration = Duration::from_secs(30);

/// When a failure that comes again and again is told: at first, and then every half a minute for as long as it goes on.
#[derive(Debug, Default)]
pub struct Reminder {
    told: Option<Instant>,
}

impl Reminder {
    /// Whether the failure of now is to be told.
    pub fn is_due(&mut self) -> bool {
        self.is_due_at(Instant::now())
    }

    /// What failed works again: its next failure is a new one.
    pub fn forget(&mut self) {
        self.told = None;
    }

    fn is_due_at(&mut self, now: Instant) -> bool {
        let is_due = self.told.is_none_or(|told| now.duration_since(told) >= REMIND_EVERY);
        if is_due {
            self.told = Some(now);
        }
        is_due
    }
}

/// Makes a registry that already holds the process metrics (`process_*`).
pub fn registry() -> Registry {
    let registry = Registry::new();
    #[cfg(target_os = "linux")]
    let _ = registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()));
    registry
}

/// Writes a registry in the text format that Prometheus scrapes.
///
/// # Errors
/// A metric cannot be encoded.
pub fn encode(registry: &Registry) -> Result<String, prometheus::Error> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_goes_on_is_told_at_first_and_then_every_half_a_minute() {
        let (mut reminder, begun) = (Reminder::default(), Instant::now());
        let told = |reminder: &mut Reminder, seconds: std::ops::Range<u64>| {
            let told = seconds.filter(|second| reminder.is_due_at(begun + Duration::from_secs(*second)));
            told.collect::<Vec<_>>()
        };
        assert_eq!(told(&mut reminder, 0..100), [0, 30, 60, 90]);
        reminder.forget();
        assert_eq!(told(&mut reminder, 100..140), [100, 130]);
    }
}
