//! The coordinator's own metrics; those of the REST API are registered beside their routes.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};

/// Handles that are cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Pages that were published, confirmed and marked.
    pub(crate) pages_dispatched: IntCounter,
    /// How long a step took that dispatched pages.
    pub(crate) dispatch_duration: Histogram,
    /// Pages taken back from workers that were lost or over their deadline.
    pub(crate) leases_expired: IntCounter,
    /// Runs of schedules that fell due, by what became of them.
    pub(crate) schedule_fires: IntCounterVec,
    /// Executions that schedules have started.
    pub(crate) executions_scheduled: IntCounter,
}

/// Counts the executions that are started for one reason; each reason registers its own.
pub(crate) fn executions_started(
    registry: &Registry,
    trigger: &'static str,
) -> Result<IntCounter, prometheus::Error> {
    let options = Opts::new("crawlify_executions_started_total", "Executions started, by what started them.")
        .const_label("trigger", trigger);
    let counter = IntCounter::with_opts(options)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let buckets = vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
        let help = "How long a step of the dispatcher took that dispatched pages.";
        let dispatch_duration = Histogram::with_opts(
            HistogramOpts::new("crawlify_dispatch_duration_seconds", help).buckets(buckets),
        )?;
        registry.register(Box::new(dispatch_duration.clone()))?;
        let schedule_fires = IntCounterVec::new(
            Opts::new(
                "crawlify_schedule_fires_total",
                "Runs of schedules that fell due, by what became of them.",
            ),
            &["outcome"],
        )?;
        registry.register(Box::new(schedule_fires.clone()))?;
        Ok(Self {
            dispatch_duration,
            schedule_fires,
            executions_scheduled: executions_started(registry, "schedule")?,
            pages_dispatched: counter("crawlify_pages_dispatched_total", "Pages published and confirmed.")?,
            leases_expired: counter(
                "crawlify_leases_expired_total",
                "Pages taken back from workers that were lost or over their deadline.",
            )?,
        })
    }
}
