//! The egress guard: the only way from the browser to the network, so that pages reach what they may and nothing else.
//!
//! Chrome is told to send everything through ports of ours (`gate`), one for each execution. What is asked for there is
//! understood (`request_head`; what is not, is refused by `garbled`), resolved once (`resolve`), judged (`policy`,
//! `special`, `ports`, `this_machine`), and what was judged is dialled (`dial`, `chain`); then bytes go both ways
//! (`exchange`, `tunnel`), unless they keep others from going (`seats`), which is over with their answer (`framing`).
//! TLS stays between the browser and the server. Why something was refused is `reason`; `traffic` counts, and so does
//! `records` in what cannot be read; `surplus` is what no page can have loaded.
//!
//! Knows nothing about browsers, pages or stores. What may be reached is said once, at the start of the process.

mod args;
mod chain;
mod dial;
mod exchange;
mod framing;
mod garbled;
mod gate;
mod host_rules;
mod policy;
mod ports;
mod reason;
mod records;
mod request_head;
pub mod resolve;
mod seats;
mod special;
mod surplus;
#[cfg(test)]
mod tests;
mod this_machine;
mod traffic;
mod tunnel;
mod uplink;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::workflow::Proxy;
use crawlify_shared::loops::{BrokenLoop, Loops};
use prometheus::Registry;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use args::{EgressArgs, EgressGuard};
pub(crate) use gate::{Gate, PageBounds};
pub use policy::{Allowed, Destination, NotAllowed, pinned};
pub(crate) use reason::{HEADER, Reason};
pub use traffic::Traffic;

use dial::Dialler;
use gate::{Shared, Way};
use policy::Policy;
use resolve::{Names, Resolver, SystemResolver};
use traffic::Metrics;
use uplink::Uplink;

/// What the worker itself fetches keeps nobody from anything: it makes as many connections as it needs.
const OWN_PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// How the guard is set up. Processes say this, never workflows.
#[derive(Clone, Debug)]
pub struct EgressOptions {
    /// Whether addresses are judged at all.
    pub guard: bool,
    /// What may be reached beside the public internet.
    pub allowed: Vec<Allowed>,
    /// A document with more bytes than this, as they are sent, is cut off, and its page fails.
    pub document_bytes: u64,
    /// A page that loads more bytes than this fails.
    pub page_bytes: u64,
    /// A page that makes more requests than this fails.
    pub page_requests: u64,
    /// How long a request may wait for the end of its answer where that keeps others from being sent. The document of a navigation
    /// may wait longer.
    pub patience: Duration,
    /// Who knows the addresses of names.
    pub resolver: Arc<dyn Resolver>,
    /// How long they are believed: the connections of one page ask once.
    pub names_kept_for: Duration,
}

/// The guard of one process. Dropping it closes every gate.
#[derive(Debug)]
pub struct Egress {
    guard: bool,
    shared: Arc<Shared>,
    /// The gates that are in use, by execution.
    gates: Mutex<HashMap<ExecutionId, Weak<Gate>>>,
    /// For what a browser asks by itself, which nobody wants: nothing goes through.
    closed: Gate,
    /// For what the worker itself fetches.
    own: Arc<Gate>,
    loops: Loops,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stopped: DropGuard,
}

/// The guard could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// No port on the loopback interface can be listened on.
    #[error("the egress guard cannot listen on a port of the loopback interface")]
    Listen(#[from] io::Error),
    /// Its metrics are not valid.
    #[error("the egress guard's metrics are not valid")]
    Metrics(#[from] prometheus::Error),
}

impl Default for EgressOptions {
    fn default() -> Self {
        Self {
            guard: true,
            allowed: Vec::new(),
            document_bytes: 32 << 20,
            page_bytes: 128 << 20,
            page_requests: 4_000,
            patience: Duration::from_secs(30),
            resolver: Arc::new(SystemResolver),
            names_kept_for: Duration::from_secs(10),
        }
    }
}

impl EgressOptions {
    /// The guard with these exceptions.
    ///
    /// # Errors
    /// One of the texts allows nothing.
    pub fn allowing(texts: &[&str]) -> Result<Self, NotAllowed> {
        let allowed = texts.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        Ok(Self { allowed, ..Self::default() })
    }

    /// No guard: only executions with a proxy of their own go through it.
    pub fn off() -> Self {
        Self { guard: false, ..Self::default() }
    }
}

impl Egress {
    /// Sets the guard up; within a runtime.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(options: EgressOptions) -> Result<Arc<Self>, EgressError> {
        let EgressOptions { guard, allowed, document_bytes, page_bytes, page_requests, .. } = options;
        let policy = if guard { Policy::new(allowed) } else { Policy::everything() };
        let shared = Arc::new(Shared {
            dialler: Dialler {
                policy,
                names: Names::new(options.resolver, options.names_kept_for),
                uplink: Uplink::default(),
            },
            metrics: Metrics::new()?,
            document_bytes,
            page: PageBounds { bytes: page_bytes, requests: page_requests },
            patience: options.patience,
        });
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let loops = Loops::new(Vec::new());
        let closed = Gate::open(Arc::clone(&shared), Way::Closed, shared.patience, &tasks, &loops, &stop)?;
        let own = Gate::open(Arc::clone(&shared), Way::Open, OWN_PATIENCE, &tasks, &loops, &stop)?;
        let stopped = stop.clone().drop_guard();
        Ok(Arc::new(Self {
            guard,
            shared,
            gates: Mutex::default(),
            closed,
            own: Arc::new(own),
            loops,
            tasks,
            stop,
            _stopped: stopped,
        }))
    }

    /// Exports what goes through.
    ///
    /// # Errors
    /// The registry has such metrics already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        self.shared.metrics.register(registry)
    }

    /// The gate of what the worker itself fetches, such as robots.txt and sitemaps; `None` where the guard is off.
    pub(crate) fn own_gate(&self) -> Option<Arc<Gate>> {
        self.guard.then(|| Arc::clone(&self.own))
    }

    /// What an execution has sent and received; `None` where it has no gate now.
    pub fn bytes(&self, execution: ExecutionId) -> Option<Traffic> {
        let gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        Some(gates.get(&execution)?.upgrade()?.traffic())
    }

    /// How many bytes an execution has received since this was asked last; `None` where it has no gate now.
    pub(crate) fn take_received(&self, execution: ExecutionId) -> Option<u64> {
        let gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        Some(gates.get(&execution)?.upgrade()?.take_received())
    }

    /// Waits until a gate breaks, so that it takes no connection any more.
    pub async fn broken(&self) -> BrokenLoop {
        self.loops.broken().await
    }

    /// Closes every gate, and waits until the connections through them have ended.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The proxy of a browser as a whole, through which nothing goes; `None` where the guard is off.
    pub(crate) fn browser_proxy(&self) -> Option<String> {
        self.guard.then(|| self.closed.proxy_url())
    }

    /// The gate of an execution, which is there while anybody holds it; `None` where it needs none.
    pub(crate) fn gate(
        &self,
        execution: ExecutionId,
        proxy: Option<&Proxy>,
    ) -> io::Result<Option<Arc<Gate>>> {
        if !self.guard && proxy.is_none() {
            return Ok(None);
        }
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let there = gates.get(&execution).and_then(Weak::upgrade).filter(|gate| gate.proxy() == proxy);
        if let Some(gate) = there {
            return Ok(Some(gate));
        }
        gates.retain(|_, gate| gate.strong_count() > 0);
        let way = proxy.map_or(Way::Open, |proxy| Way::Through(proxy.clone()));
        let (shared, patience) = (Arc::clone(&self.shared), self.shared.patience);
        let gate = Arc::new(Gate::open(shared, way, patience, &self.tasks, &self.loops, &self.stop)?);
        gates.insert(execution, Arc::downgrade(&gate));
        Ok(Some(gate))
    }
}
