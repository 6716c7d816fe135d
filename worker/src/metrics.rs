//! The worker's metrics. No label names a URL, an execution or a worker: the instance comes from the scrape.

use std::time::Duration;

use crawlify_shared::domain::id::PageId;
use crawlify_shared::domain::outcome::{ErrorClass, NodeEnd, Rendered};
use crawlify_shared::domain::page::{FinishedPage, NextStatus};
use crawlify_shared::domain::skip::SkipReason;
use crawlify_shared::domain::workflow::NODE_TYPES;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

const NODE_BUCKETS: [f64; 14] =
    [0.0001, 0.0005, 0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
const PAGE_BUCKETS: [f64; 12] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0];
const RECORD_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const ROW_BUCKETS: [f64; 7] = [1.0, 10.0, 50.0, 100.0, 500.0, 1000.0, 5000.0];
const PAGE_OUTCOMES: [&str; 6] = ["completed", "retry", "failed", "skipped", "interrupted", "put_off"];
/// Seconds that a page waits in a slot for its host.
const WAIT_BUCKETS: [f64; 14] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0];
/// Parts of a host's delay.
const INTERVAL_BUCKETS: [f64; 10] = [0.5, 0.9, 0.98, 1.0, 1.02, 1.04, 1.1, 1.25, 2.0, 10.0];
const STEP_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// A step of a page's life in the worker, whose duration is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// The claim, its group's round trip included.
    Claim,
    /// A tab is waited for, and opened where none is free.
    Open,
    /// The host's turn is waited for.
    Turn,
    /// The page is navigated to, until it has loaded.
    Navigate,
    /// Its nodes are executed.
    Nodes,
    /// It is fetched and parsed, and its nodes are executed, without a tab of its own.
    Static,
    /// The record, its group's statement included.
    Record,
}

impl Step {
    const ALL: [Self; 7] =
        [Self::Claim, Self::Open, Self::Turn, Self::Navigate, Self::Nodes, Self::Static, Self::Record];

    fn as_str(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Open => "open",
            Self::Turn => "turn",
            Self::Navigate => "navigate",
            Self::Nodes => "nodes",
            Self::Static => "static",
            Self::Record => "record",
        }
    }
}

/// Every metric of a worker.
#[derive(Debug)]
pub(crate) struct Metrics {
    slots: IntGauge,
    slots_busy: IntGauge,
    pages_waiting: IntGauge,
    pages: IntCounterVec,
    page_duration: HistogramVec,
    steps: HistogramVec,
    politeness_wait: Histogram,
    politeness_interval: Histogram,
    politeness_violations: IntCounter,
    pages_handed_back: IntCounter,
    node_duration: HistogramVec,
    node_errors: IntCounterVec,
    nodes_recorded: IntCounterVec,
    record_rows: Histogram,
    record_duration: Histogram,
    items: IntCounter,
    skipped_links: IntCounterVec,
    leases_lost: IntCounter,
    overdue: IntCounter,
    messages_rejected: IntCounter,
    last_page: IntGauge,
}

/// Counts in a gauge until it is dropped: a slot that is busy, a page that waits.
#[derive(Debug)]
pub(crate) struct Counted(IntGauge);

impl Counted {
    fn one_in(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub(crate) fn register(registry: &Registry, slots: usize) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let counters =
            |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
                let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(counters.clone()))?;
                Ok(counters)
            };
        let histogram = |name: &str, help: &str, buckets: &[f64]| -> Result<Histogram, prometheus::Error> {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok(histogram)
        };
        let histograms = |name: &str, help: &str, buckets: &[f64], labels: &[&str]| {
            let histograms =
                HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?;
            registry.register(Box::new(histograms.clone()))?;
            Ok::<_, prometheus::Error>(histograms)
        };
        let metrics = Self {
            slots: gauge("crawlify_worker_slots", "Pages that this worker executes at once.")?,
            slots_busy: gauge("crawlify_worker_slots_busy", "Slots with a page now.")?,
            pages_waiting: gauge(
                "crawlify_worker_pages_waiting",
                "Pages that cannot begin here now, because one that may take down what executes it runs alone.",
            )?,
            pages: counters(
                "crawlify_pages_total",
                "Attempts of pages by outcome, and by how they were loaded.",
                &["outcome", "render"],
            )?,
            page_duration: histograms(
                "crawlify_page_duration_seconds",
                "From the claim to the end of the execution.",
                &PAGE_BUCKETS,
                &["outcome", "render"],
            )?,
            steps: histograms(
                "crawlify_page_step_duration_seconds",
                "Durations of the steps of pages in this worker.",
                &STEP_BUCKETS,
                &["step"],
            )?,
            politeness_wait: histogram(
                "crawlify_politeness_wait_seconds",
                "How long pages of hosts with a pace waited in a slot for their turn.",
                &WAIT_BUCKETS,
            )?,
            politeness_interval: histogram(
                "crawlify_politeness_interval_ratio",
                "Intervals between two starts of this worker on a host, as parts of the delay that was to be kept.",
                &INTERVAL_BUCKETS,
            )?,
            politeness_violations: counter(
                "crawlify_politeness_violations_total",
                "Intervals between two starts of this worker on a host that were shorter than the delay.",
            )?,
            pages_handed_back: counter(
                "crawlify_politeness_handed_back_total",
                "Waits that were given up, and the page handed back, because its turn was too far away.",
            )?,
            node_duration: histograms(
                "crawlify_node_duration_seconds",
                "Durations of node executions.",
                &NODE_BUCKETS,
                &["node_type", "outcome"],
            )?,
            node_errors: counters(
                "crawlify_node_errors_total",
                "Failed node executions by class.",
                &["node_type", "error_class"],
            )?,
            nodes_recorded: counters(
                "crawlify_node_executions_recorded_total",
                "Node executions committed to the database.",
                &["node_type", "status"],
            )?,
            record_rows: histogram(
                "crawlify_record_batch_rows",
                "Node executions in one recording statement.",
                &ROW_BUCKETS,
            )?,
            record_duration: histogram(
                "crawlify_record_duration_seconds",
                "Durations of recording statements.",
                &RECORD_BUCKETS,
            )?,
            items: counter("crawlify_items_extracted_total", "Items committed to the database.")?,
            skipped_links: counters(
                "crawlify_links_skipped_total",
                "Links that were not given to the frontier, each time that a page had one.",
                &["reason"],
            )?,
            leases_lost: counter(
                "crawlify_duplicates_dropped_total",
                "Finished pages that were not recorded, because their lease was lost.",
            )?,
            overdue: counter(
                "crawlify_pages_overdue_total",
                "Pages that went on long after their deadline, and were stopped by force: a fault in the worker.",
            )?,
            messages_rejected: counter(
                "crawlify_messages_rejected_total",
                "Messages that were none of ours, put aside into the dead queue.",
            )?,
            last_page: gauge(
                "crawlify_last_page_finished_timestamp_seconds",
                "When a page was last recorded, in Unix time.",
            )?,
        };
        metrics.export_zeros();
        metrics.slots.set(i64::try_from(slots).unwrap_or(i64::MAX));
        Ok(metrics)
    }

    /// Exports every known series beforehand, so that a rate over the first event is right.
    fn export_zeros(&self) {
        for outcome in PAGE_OUTCOMES {
            for rendered in Rendered::ALL {
                self.pages.with_label_values(&[outcome, rendered.as_str()]);
                self.page_duration.with_label_values(&[outcome, rendered.as_str()]);
            }
        }
        for reason in SkipReason::ALL {
            self.skipped_links.with_label_values(&[reason.as_str()]);
        }
        for step in Step::ALL {
            self.steps.with_label_values(&[step.as_str()]);
        }
        for node_type in NODE_TYPES {
            for outcome in ["completed", "failed"] {
                self.node_duration.with_label_values(&[node_type, outcome]);
            }
            for status in ["completed", "failed", "cancelled"] {
                self.nodes_recorded.with_label_values(&[node_type, status]);
            }
            for class in ErrorClass::ALL {
                self.node_errors.with_label_values(&[node_type, class.as_str()]);
            }
        }
    }

    /// Takes over the broker's own count, just before it is scraped.
    pub(crate) fn set_messages_rejected(&self, total: u64) {
        self.messages_rejected.inc_by(total.saturating_sub(self.messages_rejected.get()));
    }

    pub(crate) fn slot_busy(&self) -> Counted {
        Counted::one_in(&self.slots_busy)
    }

    pub(crate) fn page_waiting(&self) -> Counted {
        Counted::one_in(&self.pages_waiting)
    }

    pub(crate) fn observe_step(&self, step: Step, took: Duration) {
        self.steps.with_label_values(&[step.as_str()]).observe(took.as_secs_f64());
    }

    /// A page had its host's turn, after this wait.
    pub(crate) fn observe_turn(&self, waited: Duration) {
        self.politeness_wait.observe(waited.as_secs_f64());
    }

    /// A page's turn was too far away.
    pub(crate) fn observe_too_far(&self) {
        self.pages_handed_back.inc();
    }

    /// A start came so long after the host's last one, which was to be as far away as the delay.
    pub(crate) fn observe_interval(&self, interval: Duration, delay: Duration) {
        self.politeness_interval.observe(interval.div_duration_f64(delay));
        if interval < delay {
            self.politeness_violations.inc();
        }
    }

    pub(crate) fn observe_skipped_link(&self, reason: SkipReason) {
        self.skipped_links.with_label_values(&[reason.as_str()]).inc();
    }

    /// Counts a page that was stopped by force.
    pub(crate) fn observe_overdue(&self) {
        self.overdue.inc();
    }

    pub(crate) fn observe_page(&self, next: &NextStatus, rendered: Rendered, took: Duration) {
        let labels = [outcome_name(next), rendered.as_str()];
        self.pages.with_label_values(&labels).inc();
        self.page_duration.with_label_values(&labels).observe(took.as_secs_f64());
    }

    /// A page that was left to others before it was claimed.
    pub(crate) fn observe_put_off(&self) {
        self.pages.with_label_values(&["put_off", Rendered::Full.as_str()]).inc();
    }

    pub(crate) fn observe_record(&self, pages: &[FinishedPage], written: &[PageId], took: Duration) {
        self.record_duration.observe(took.as_secs_f64());
        let mut rows = 0;
        for finished in pages {
            if !written.contains(&finished.page.page_id) {
                self.leases_lost.inc();
                continue;
            }
            rows += finished.outcome.nodes.len();
            for (record, definition) in
                finished.outcome.nodes.iter().filter_map(|record| {
                    Some((record, finished.table.nodes.get(usize::from(record.position))?))
                })
            {
                let node_type = definition.node_type;
                let seconds = (record.completed_at - record.started_at).as_seconds_f64().max(0.0);
                let status = match &record.end {
                    NodeEnd::Completed(_) => "completed",
                    NodeEnd::Failed(failure) => {
                        self.node_errors.with_label_values(&[node_type, failure.class.as_str()]).inc();
                        "failed"
                    }
                    NodeEnd::Cancelled(_) => "cancelled",
                };
                if status != "cancelled" {
                    self.node_duration.with_label_values(&[node_type, status]).observe(seconds);
                }
                self.nodes_recorded.with_label_values(&[node_type, status]).inc();
            }
            if finished.next == NextStatus::Completed && finished.outcome.item.is_some() {
                self.items.inc();
            }
        }
        self.record_rows.observe(rows as f64);
        self.last_page.set(chrono::Utc::now().timestamp());
    }
}

/// What an attempt of a page came to, in metrics and logs.
pub(crate) fn outcome_name(next: &NextStatus) -> &'static str {
    match next {
        NextStatus::Completed => "completed",
        NextStatus::Retry(..) => "retry",
        NextStatus::Failed(_) => "failed",
        NextStatus::Skipped(_) => "skipped",
        NextStatus::Released => "interrupted",
        NextStatus::PutOff(..) => "put_off",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_comes_too_soon_is_a_violation() {
        let metrics = Metrics::register(&Registry::new(), 1).unwrap();
        let delay = Duration::from_millis(500);
        for (interval_ms, violations) in [(515, 0), (500, 0), (499, 1), (2_000, 1)] {
            metrics.observe_interval(Duration::from_millis(interval_ms), delay);
            assert_eq!(metrics.politeness_violations.get(), violations, "after {interval_ms} ms");
        }
        assert_eq!(metrics.politeness_interval.get_sample_count(), 4);
    }
}
