//! Counts what goes through: for each gate, and for the metrics of the process.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// What has gone through so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests in plain HTTP, and tunnels, refused ones included.
    pub requests: u64,
    /// Records of TLS with data in them, from the browser to servers: no fewer than the requests in tunnels.
    pub records_sent: u64,
    /// From the browser to servers.
    pub bytes_sent: u64,
    /// From servers to the browser; heads and the framing of TLS included.
    pub bytes_received: u64,
}

/// The counters of one gate.
#[derive(Debug, Default)]
pub(super) struct Counters {
    requests: AtomicU64,
    records_sent: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    /// Of the bytes received, those that nobody has taken yet.
    untaken: AtomicU64,
}

/// The counters of the process.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    bytes: IntCounter,
    requests: IntCounterVec,
}

/// How a request ended for the guard.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    /// It went to its server.
    Allowed,
    /// Its address is one that pages are kept from.
    Refused,
    /// It might have gone there, but there was no connection.
    Failed,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Allowed, Self::Refused, Self::Failed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl Counters {
    pub(super) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_records(&self, records: u64) {
        self.records_sent.fetch_add(records, Ordering::Relaxed);
    }

    pub(super) fn count_sent(&self, bytes: usize) {
        self.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn count_received(&self, bytes: usize) {
        self.bytes_received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.untaken.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn take_received(&self) -> u64 {
        self.untaken.swap(0, Ordering::Relaxed)
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            requests: self.requests.load(Ordering::Relaxed),
            records_sent: self.records_sent.load(Ordering::Relaxed),
            bytes_sent: self.bytes_sent.load(Ordering::Relaxed),
            bytes_received: self.bytes_received.load(Ordering::Relaxed),
        }
    }
}

impl Metrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let bytes = IntCounter::new("crawlify_network_bytes_total", "Bytes between browser and network.")?;
        let requests = IntCounterVec::new(
            Opts::new("crawlify_egress_requests_total", "Requests of the browser, by what became of them."),
            &["result"],
        )?;
        for outcome in Outcome::ALL {
            requests.with_label_values(&[outcome.as_str()]);
        }
        Ok(Self { bytes, requests })
    }

    pub(super) fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.bytes.clone()))?;
        registry.register(Box::new(self.requests.clone()))
    }

    pub(super) fn count_bytes(&self, bytes: usize) {
        self.bytes.inc_by(bytes as u64);
    }

    pub(super) fn count_request(&self, outcome: Outcome) {
        self.requests.with_label_values(&[outcome.as_str()]).inc();
    }
}
