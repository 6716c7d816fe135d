//! How much a page loads, and that it is not too much. Chrome tells what its pages load only at a price
//! (docs/BENCHMARKS.md). So the egress guard is looked at first, which knows what all pages of an execution load together:
//! until that is more than one page may, none has loaded too much. From then on Chrome is asked to tell, and what a page
//! loads is counted, its workers and frames included, and a tab whose page has too much is closed at once. Asks nothing
//! else of the browser.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chromiumoxide_cdp::cdp::browser_protocol::network;
use chromiumoxide_cdp::cdp::browser_protocol::target::{
    CloseTargetParams, FilterEntry, SetAutoAttachParams, TargetFilter, TargetId,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::block::Sent;
use super::connection::{Connection, Listener};
use super::page_state::PageState;
use crate::egress::{Gate, Traffic};

/// What is of one page alone. Service workers and shared workers are not: their loads would be every page's of the site
/// (`shared_workers`).
const PARTS: [&str; 2] = ["worker", "iframe"];
/// A socket has received a whole message.
const RECEIVED_BY_SOCKET: &str = "Network.webSocketFrameReceived";

/// What a page has too much of, with the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    Requests(u64),
    Bytes(u64),
}

/// What is known of what one tab's page loads. Without a guard nothing is, and nothing is bounded.
#[derive(Debug)]
pub(super) struct PageLoad {
    target: String,
    session: String,
    gate: Option<Arc<Gate>>,
    /// The tab's; of it only `excess` is written here.
    state: watch::Sender<PageState>,
    /// Written by the tab, by whoever looks, and by the reader of the connection.
    count: Mutex<Count>,
}

#[derive(Debug, Default)]
struct Count {
    /// What the execution had loaded when the page began; `None` while the tab has no page of anybody's.
    began: Option<Traffic>,
    /// Whether Chrome was asked to tell.
    is_told: bool,
    requests: u64,
    /// Of bodies, unpacked.
    bytes: u64,
    /// The sessions of its workers and frames.
    parts: Vec<String>,
}

/// The listener of a worker or frame.
struct Part(Arc<PageLoad>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Received {
    data_length: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfPart {
    session_id: String,
}

impl PageLoad {
    pub(super) fn new(
        target: &str,
        session: &str,
        gate: Option<Arc<Gate>>,
        state: watch::Sender<PageState>,
    ) -> Self {
        Self { target: target.to_owned(), session: session.to_owned(), gate, state, count: Mutex::default() }
    }

    /// A page begins.
    pub(super) fn begin(&self) {
        let mut count = self.lock();
        count.began = self.gate.as_ref().map(|gate| {
            gate.page_begins();
            gate.traffic()
        });
        (count.requests, count.bytes) = (0, 0);
    }

    /// Its document is there: what came until now was of the page before it.
    pub(super) fn arrive(&self) {
        let mut count = self.lock();
        (count.requests, count.bytes) = (0, 0);
    }

    /// The page ends. Answers whether Chrome tells of the tab, which it does as long as there is the tab.
    pub(super) fn end(&self) -> bool {
        let mut count = self.lock();
        count.began = None;
        count.is_told
    }

    /// Has Chrome tell, if the page may have loaded too much.
    pub(super) fn look(&self, connection: &Connection) {
        let mut count = self.lock();
        let (Some(gate), Some(began), false) = (&self.gate, count.began, count.is_told) else { return };
        if gate.has_passed_page_bounds(began) {
            count.is_told = true;
            ask(connection, &self.session);
        }
    }

    /// Takes an event of the tab, or of one of its workers and frames.
    pub(super) fn hear(self: &Arc<Self>, connection: &Connection, method: &str, params: &RawValue) {
        match method {
            "Network.requestWillBeSent" => {
                let sent = serde_json::from_str(params.get());
                // Not what is in its own name, or in memory.
                if sent.is_ok_and(|sent: Sent<'_>| sent.request.url.starts_with("http")) {
                    self.count(connection, |count| count.requests += 1);
                }
            }
            "Network.requestServedFromCache" => {
                self.count(connection, |count| count.requests = count.requests.saturating_sub(1));
            }
            "Network.dataReceived" => {
                if let Ok(Received { data_length }) = serde_json::from_str(params.get()) {
                    self.count(connection, |count| count.bytes += data_length);
                }
            }
            // With what was received in it.
            RECEIVED_BY_SOCKET => {
                self.count(connection, |count| count.bytes += params.get().len() as u64);
            }
            "Target.attachedToTarget" => {
                if let Ok(OfPart { session_id }) = serde_json::from_str(params.get()) {
                    connection.listen(&session_id, Arc::new(Part(Arc::clone(self))));
                    ask(connection, &session_id);
                    self.lock().parts.push(session_id);
                }
            }
            "Target.detachedFromTarget" => {
                if let Ok(OfPart { session_id }) = serde_json::from_str(params.get()) {
                    connection.ignore(&session_id);
                    self.lock().parts.retain(|part| *part != session_id);
                }
            }
            _ => {}
        }
    }

    /// Takes that there was an event of the tab, or of one of its workers and frames, that was too long to be taken
    /// itself. It counts if a socket received it: others so long have in them what the page wrote itself.
    pub(super) fn skipped(&self, connection: &Connection, method: &str, bytes: u64) {
        if method == RECEIVED_BY_SOCKET {
            self.count(connection, |count| count.bytes += bytes);
        }
    }

    /// Listens to the workers and frames no longer.
    pub(super) fn ignore(&self, connection: &Connection) {
        self.lock().parts.drain(..).for_each(|part| connection.ignore(&part));
    }

    fn count(&self, connection: &Connection, more: impl FnOnce(&mut Count)) {
        let Some(bounds) = self.gate.as_ref().map(|gate| gate.page_bounds()) else { return };
        let excess = {
            let mut count = self.lock();
            more(&mut count);
            if count.requests > bounds.requests {
                Excess::Requests(bounds.requests)
            } else if count.bytes > bounds.bytes {
                Excess::Bytes(bounds.bytes)
            } else {
                return;
            }
        };
        // What was blocked, or came from memory, was asked for and never loaded: the guard knows what was.
        if self.lock().began.is_some_and(|began| !self.has_passed(began)) {
            return;
        }
        if self.state.send_if_modified(|state| state.excess.replace(excess).is_none()) {
            connection.send(None, &CloseTargetParams::new(TargetId::new(self.target.as_str())));
        }
    }

    fn has_passed(&self, began: Traffic) -> bool {
        self.gate.as_ref().is_some_and(|gate| gate.has_passed_page_bounds(began))
    }

    fn lock(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Part {
    fn event(&self, connection: &Connection, method: &str, params: &RawValue) {
        self.0.hear(connection, method, params);
    }

    fn skipped(&self, connection: &Connection, method: &str, bytes: u64) {
        self.0.skipped(connection, method, bytes);
    }
}

/// Has Chrome tell what is requested and received. No response body is ever asked for, so none need be kept.
pub(super) fn network_events() -> network::EnableParams {
    network::EnableParams::builder().max_total_buffer_size(0).max_resource_buffer_size(0).build()
}

fn ask(connection: &Connection, session: &str) {
    let mut parts = SetAutoAttachParams::new(true, false);
    parts.flatten = Some(true);
    parts.filter = Some(TargetFilter::new(PARTS.map(|kind| FilterEntry::builder().r#type(kind).build())));
    connection.send(Some(session), &network_events());
    connection.send(Some(session), &parts);
}
