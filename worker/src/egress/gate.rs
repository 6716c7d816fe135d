//! A gate: one port on the loopback interface, with a browser context before it and the network behind it. It goes when
//! it is dropped, with every connection through it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::crash::{self, CrashPoint};
use crawlify_shared::domain::workflow::Proxy;
use crawlify_shared::loops::Loops;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use url::Url;

use super::dial::{Dialled, Dialler};
use super::exchange;
use super::policy::Destination;
use super::reason::{Reason, Refusals, document_name};
use super::seats::{AwaitedDocument, Seats};
use super::surplus::Surplus;
use super::traffic::{Counters, Metrics, Outcome, Traffic};

/// A port that a browser context is told to go through.
#[derive(Debug)]
pub(crate) struct Gate {
    address: SocketAddr,
    core: Arc<Core>,
    _open: DropGuard,
}

/// What all gates of a process share. Nothing here is written after the start.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) dialler: Dialler,
    pub(super) metrics: Metrics,
    pub(super) document_bytes: u64,
    pub(super) page: PageBounds,
    /// How long a browser's request may keep a connection from others.
    pub(super) patience: Duration,
}

/// What one page may load, all its parts included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageBounds {
    pub(crate) bytes: u64,
    pub(crate) requests: u64,
}

/// Where a gate leads.
#[derive(Debug)]
pub(super) enum Way {
    /// Nowhere: everything is refused.
    Closed,
    /// To the network.
    Open,
    /// To the network through a workflow's own proxy.
    Through(Proxy),
}

/// What the connections of one gate share.
#[derive(Debug)]
pub(super) struct Core {
    shared: Arc<Shared>,
    way: Way,
    counters: Counters,
    /// Written by tabs that begin pages, read by whoever looks after the browser.
    surplus: Surplus,
    /// Written by connections and by tabs that wait for documents, read by connections.
    pub(super) seats: Seats,
    /// Written by connections, read by tabs whose page did not come, or came with an error.
    pub(super) refusals: Refusals,
    /// How many documents were cut off. Written by connections, awaited by tabs.
    pub(super) cuts: watch::Sender<u64>,
}

impl Gate {
    /// Opens a gate; its tasks are the tracker's, and that it takes connections is one of the loops.
    pub(super) fn open(
        shared: Arc<Shared>,
        way: Way,
        patience: Duration,
        tasks: &TaskTracker,
        loops: &Loops,
        stop: &CancellationToken,
    ) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let core = Arc::new(Core {
            shared,
            way,
            counters: Counters::default(),
            surplus: Surplus::default(),
            seats: Seats::new(patience),
            refusals: Refusals::default(),
            cuts: watch::Sender::new(0),
        });
        let open = stop.child_token();
        let accepting = accept(listener, Arc::clone(&core), tasks.clone(), open.clone());
        tasks.spawn(loops.clone().watch("egress", open.clone(), accepting));
        Ok(Self { address, core, _open: open.drop_guard() })
    }

    /// As Chrome's `--proxy-server` wants it.
    pub(crate) fn proxy_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Why a request to a URL's host was refused last, a tunnel included; `None` where a server there has answered in
    /// plain HTTP since.
    pub(crate) fn why_not(&self, url: &Url) -> Option<Reason> {
        self.core.refusals.hosts.of(&Destination::of(url)?.to_string())
    }

    /// How many documents were cut off so far, and when it is one more.
    pub(crate) fn watch_cuts(&self) -> watch::Receiver<u64> {
        self.core.cuts.subscribe()
    }

    /// Why the document that was asked for last at this URL, in plain HTTP, is not its server's; `None` where it is.
    pub(crate) fn why_no_document(&self, url: &Url) -> Option<Reason> {
        self.core.refusals.documents.of(&document_name(url))
    }

    /// Whether what came from this URL was cut off, because it was more than a document may have.
    pub(crate) fn was_too_large(&self, url: &Url) -> bool {
        self.core.refusals.too_large.of(&document_name(url)).is_some()
    }

    /// How many bytes a document may have.
    pub(crate) fn document_bytes(&self) -> u64 {
        self.core.document_bytes()
    }

    /// What one page may load.
    pub(crate) fn page_bounds(&self) -> PageBounds {
        self.core.shared.page
    }

    /// Whether so much has gone through since then that one page alone may have loaded more than it may.
    pub(crate) fn has_passed_page_bounds(&self, since: Traffic) -> bool {
        let (now, bounds) = (self.traffic(), self.page_bounds());
        let requests = now.requests + now.records_sent - since.requests - since.records_sent;
        now.bytes_received - since.bytes_received > bounds.bytes || requests > bounds.requests
    }

    /// Notes that a page begins, which may load its part.
    pub(crate) fn page_begins(&self) {
        self.core.surplus.page_begins();
    }

    /// Notes that a navigation to a host begins, which waits for its document until what this gives is dropped.
    pub(crate) fn await_document(&self, host: &str) -> AwaitedDocument<'_> {
        self.core.seats.await_document(host)
    }

    /// Whether more has gone through than the pages that began may load, and some pages' worth. What is told once is not told
    /// again: the count begins anew.
    pub(crate) fn has_passed_its_pages(&self) -> bool {
        self.core.surplus.is_too_much(self.traffic(), self.page_bounds())
    }

    /// What its connections share.
    #[cfg(test)]
    pub(super) fn core(&self) -> &Core {
        &self.core
    }

    /// Which proxy it leads through.
    pub(super) fn proxy(&self) -> Option<&Proxy> {
        self.core.proxy()
    }

    /// What has gone through so far.
    pub(crate) fn traffic(&self) -> Traffic {
        self.core.counters.traffic()
    }

    pub(super) fn take_received(&self) -> u64 {
        self.core.counters.take_received()
    }
}

async fn accept(listener: TcpListener, core: Arc<Core>, tasks: TaskTracker, open: CancellationToken) {
    while let Some(accepted) = open.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((client, _)) => {
                crash::reach(CrashPoint::AfterAcceptBeforeServe);
                let (core, open) = (Arc::clone(&core), open.clone());
                tasks.spawn(async move {
                    let _ = client.set_nodelay(true);
                    open.run_until_cancelled(serve(client, &core)).await;
                });
            }
            // Too many open files, most likely: it may pass.
            Err(error) => {
                tracing::warn!(%error, "the egress guard cannot accept a connection");
                let pause = tokio::time::sleep(Duration::from_millis(100));
                open.run_until_cancelled(pause).await;
            }
        }
    }
}

async fn serve(client: TcpStream, core: &Core) {
    // Either side may go at any time; that is no event.
    if let Err(error) = exchange::serve(client, core).await {
        tracing::trace!(%error, "a connection through the egress guard ended");
    }
}

impl Core {
    #[cfg(test)]
    pub(super) fn dialler(&self) -> &Dialler {
        &self.shared.dialler
    }

    pub(super) async fn connect(&self, destination: &Destination, tunnel: bool) -> Result<Dialled, Reason> {
        match &self.way {
            Way::Closed => Err(Reason::NotAllowed),
            Way::Open => self.shared.dialler.connect(destination, None, tunnel).await,
            Way::Through(proxy) => self.shared.dialler.connect(destination, Some(proxy), tunnel).await,
        }
    }

    pub(super) fn document_bytes(&self) -> u64 {
        self.shared.document_bytes
    }

    pub(super) fn count(&self, result: Result<(), Reason>) {
        // What the browser asks for by itself is nobody's request.
        if matches!(self.way, Way::Closed) {
            return;
        }
        self.counters.count_request();
        self.shared.metrics.count_request(match result {
            Ok(()) => Outcome::Allowed,
            Err(Reason::NotAllowed) => Outcome::Refused,
            Err(_) => Outcome::Failed,
        });
    }

    pub(super) fn count_records(&self, records: u64) {
        self.counters.count_records(records);
    }

    pub(super) fn count_sent(&self, bytes: usize) {
        self.counters.count_sent(bytes);
        self.shared.metrics.count_bytes(bytes);
    }

    pub(super) fn count_received(&self, bytes: usize) {
        self.counters.count_received(bytes);
        self.shared.metrics.count_bytes(bytes);
    }

    fn proxy(&self) -> Option<&Proxy> {
        match &self.way {
            Way::Through(proxy) => Some(proxy),
            Way::Closed | Way::Open => None,
        }
    }
}
