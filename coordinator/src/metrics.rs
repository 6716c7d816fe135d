//! The coordinator's own metrics; those of the REST API are registered beside their routes.

use prometheus::{IntCounter, Registry};

/// Handles that are cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Pages that were published, confirmed and marked.
    pub(crate) pages_dispatched: IntCounter,
    /// Pages taken back from workers that were lost or over their deadline.
    pub(crate) leases_expired: IntCounter,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        Ok(Self {
            pages_dispatched: counter("crawlify_pages_dispatched_total", "Pages published and confirmed.")?,
            leases_expired: counter(
                "crawlify_leases_expired_total",
                "Pages taken back from workers that were lost or over their deadline.",
            )?,
        })
    }
}
