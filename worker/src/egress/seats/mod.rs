//! The connections of one gate, and which of them keep others from a server. A browser makes no more than six to one server,
//! for all pages of an execution together: a page whose requests are not answered, or without end, would keep the others from
//! theirs. Where six have been without the end of an answer for some time, one that has been so for long gives way. Judges by times,
//! by what it is told of answers, and by who waits; ends no connection itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::policy::Destination;
use crate::http::bare;

/// The connections that Chrome makes to one server by way of one proxy (`g_max_sockets_per_group` in
/// `net/socket/client_socket_pool_manager.cc`).
const TO_ONE_SERVER: usize = 6;
/// The connections that Chrome makes by way of one proxy; later versions make more.
const IN_ALL: usize = 32;
/// A request has waited for some time after this part of the time that is long.
const SOME_OF_IT: u32 = 6;
/// A tunnel in which nothing has come for so long may be idle: only its ends know.
const FLOWS_WITHIN: Duration = Duration::from_secs(1);
/// What a server says in a tunnel without having been asked: tickets for further connections (RFC 8446, section 4.6.1), mostly two of
/// some 250 bytes. A document is more.
const TICKET_BYTES: usize = 1_500;
/// Answers in a tunnel after which it gives way no more, one of them that to the greeting. Chrome sends a request once more, even one
/// that orders something, if the connection ends on which others were answered.
const ANSWERED_BEFORE: u32 = 2;

/// What the connections of one gate are doing.
#[derive(Debug)]
pub(super) struct Seats {
    /// How long a request may keep a connection from others.
    patience: Duration,
    /// By destination. Written by connections that begin and end, read by those that have waited for long.
    taken: Mutex<HashMap<Destination, Vec<Place>>>,
    /// The navigations that wait for their document. Written by tabs and by connections, read by connections.
    awaited: Mutex<Vec<Navigation>>,
}

#[derive(Debug)]
struct Navigation {
    since: Instant,
    /// Without `www.`: it may be led from the name with it to the one without, or back, as from one scheme to the other.
    host: String,
    /// Whether a document has begun to come in plain HTTP that may be its own.
    is_answered: bool,
}

/// The last request of a connection; `None` before the first one, and when it has given way.
type Place = Arc<Mutex<Option<Request>>>;

#[derive(Clone, Copy, Debug)]
struct Request {
    asked: Instant,
    document: Document,
    /// Whether all of its answer has come, as far as the guard sees.
    is_over: bool,
    /// Whether the browser would send it once more if its connection were reset, and must not.
    must_stay: bool,
    /// `None` in plain HTTP.
    tunnel: Option<Tunnel>,
}

/// Whether a request is for a page's own document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Document {
    /// It is for something else, or no navigation waited for it when its answer began.
    No,
    /// It may be, and its answer has not begun: of what is in tunnels nobody knows.
    Maybe,
    /// A navigation waited for it when its answer began.
    Yes,
}

/// What is known of a request in a tunnel.
#[derive(Clone, Copy, Debug)]
struct Tunnel {
    /// When something was sent last.
    sent: Instant,
    /// When something of its answer came last.
    heard: Option<Instant>,
    /// What came that may be no answer, in bytes.
    unasked_bytes: usize,
    /// Answers before this request.
    answered_before: u32,
}

/// The seat of one connection, which is given up when it is dropped.
#[derive(Debug)]
pub(super) struct Seat<'a> {
    seats: &'a Seats,
    destination: Destination,
    place: Place,
}

/// A navigation that waits for its document, until this is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct AwaitedDocument<'a> {
    seats: &'a Seats,
    since: Instant,
    host: String,
}

impl Seats {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, taken: Mutex::default(), awaited: Mutex::default() }
    }

    /// Takes a seat for a connection to a destination.
    pub(super) fn take(&self, destination: &Destination) -> Seat<'_> {
        let place = Place::default();
        lock(&self.taken).entry(destination.clone()).or_default().push(Arc::clone(&place));
        Seat { seats: self, destination: destination.clone(), place }
    }

    /// A navigation to a host begins.
    pub(super) fn await_document(&self, host: &str) -> AwaitedDocument<'_> {
        let (since, host) = (Instant::now(), bare(host).to_owned());
        lock(&self.awaited).push(Navigation { since, host: host.clone(), is_answered: false });
        AwaitedDocument { seats: self, since, host }
    }

    /// Whether a navigation waits that may have sent what was asked then.
    fn is_awaited(&self, asked: Instant, destination: &Destination) -> bool {
        let host = destination.host();
        lock(&self.awaited).iter().any(|navigation| navigation.may_have_asked(asked, &host))
    }

    /// Whether a navigation waits for the document that begins to come now in plain HTTP. None waits for two: a page's frames may be
    /// asked for before its tab knows that the page has come.
    fn takes(&self, asked: Instant, destination: &Destination) -> bool {
        let host = destination.host();
        let mut awaited = lock(&self.awaited);
        let last = awaited
            .iter_mut()
            .filter(|navigation| !navigation.is_answered && navigation.may_have_asked(asked, &host))
            .max_by_key(|navigation| navigation.since);
        let Some(navigation) = last else { return false };
        navigation.is_answered = true;
        true
    }

    /// Whether a navigation has waited for some time while nothing was sent to its server. It would have been sent on an idle
    /// connection: there is none, however silent they are. A script need not take an answer that has come, and keeps its connection.
    fn is_kept_from(&self, now: Instant, destination: &Destination, places: &[Place]) -> bool {
        let host = destination.host();
        let sent = places.iter().filter_map(|place| lock(place).map(|request| request.last_sent())).max();
        lock(&self.awaited).iter().any(|navigation| {
            navigation.host == bare(&host)
                && sent.is_none_or(|sent| sent < navigation.since)
                && now.duration_since(navigation.since) >= self.patience / SOME_OF_IT
        })
    }
}

impl Navigation {
    fn may_have_asked(&self, asked: Instant, host: &str) -> bool {
        self.since <= asked && self.host == bare(host)
    }
}

impl Seat<'_> {
    /// A request goes to the server.
    pub(super) fn ask(&self, may_be_document: bool) {
        let document = if may_be_document { Document::Maybe } else { Document::No };
        let asked = Instant::now();
        let request = Request { asked, document, is_over: false, must_stay: false, tunnel: None };
        *lock(&self.place) = Some(request);
    }

    /// What may be a document begins to come: whether a navigation waits for it shows now, and not later.
    pub(super) fn hear(&self) {
        if let Some(request) = lock(&self.place).as_mut() {
            self.settle(request);
        }
    }

    /// Whether the browser, with what has come, would send the request once more if its connection were reset, and must not.
    pub(super) fn keep(&self, must_stay: bool) {
        if let Some(request) = lock(&self.place).as_mut() {
            request.must_stay = must_stay;
        }
    }

    /// The answer is over.
    pub(super) fn end(&self) {
        if let Some(request) = lock(&self.place).as_mut() {
            request.is_over = true;
        }
    }

    /// Something goes to the server through a tunnel: another request, if anything has come since the last one.
    pub(super) fn send(&self) {
        let now = Instant::now();
        let mut place = lock(&self.place);
        match place.as_mut().and_then(|request| request.tunnel.as_mut()) {
            None => *place = Some(Request::in_tunnel(now, 0)),
            Some(&mut Tunnel { unasked_bytes: 1.., answered_before, .. }) => {
                *place = Some(Request::in_tunnel(now, answered_before.saturating_add(1)));
            }
            Some(tunnel) => tunnel.sent = now,
        }
    }

    /// So much comes through a tunnel.
    pub(super) fn receive(&self, bytes: usize) {
        let mut place = lock(&self.place);
        let Some(request) = place.as_mut() else { return };
        let Some(tunnel) = request.tunnel.as_mut() else { return };
        tunnel.unasked_bytes = tunnel.unasked_bytes.saturating_add(bytes);
        if tunnel.unasked_bytes <= TICKET_BYTES {
            return;
        }
        tunnel.heard = Some(Instant::now());
        // A greeting is no document, and what comes in a tunnel that never gives way need not be spared.
        if (1..ANSWERED_BEFORE).contains(&tunnel.answered_before) {
            self.settle(request);
        }
    }

    fn settle(&self, request: &mut Request) {
        if request.document == Document::Maybe {
            let is_awaited = match request.tunnel {
                None => self.seats.takes(request.asked, &self.destination),
                // Any of them may be the document, and a picture must not be taken for it in its stead: so each is spared.
                Some(_) => self.seats.is_awaited(request.asked, &self.destination),
            };
            request.document = if is_awaited { Document::Yes } else { Document::No };
        }
    }

    /// Ends when the connection is to give way to others.
    pub(super) async fn must_give_way(&self) {
        let mut looks =
            tokio::time::interval((self.seats.patience / SOME_OF_IT).max(Duration::from_millis(1)));
        while !self.gives_way(looks.tick().await) {}
    }

    /// Whether it gives way now; it counts no more from then on, so that no more give way than must.
    fn gives_way(&self, now: Instant) -> bool {
        let patience = self.seats.patience;
        let Some(request) = *lock(&self.place) else { return false };
        if now.duration_since(request.asked) < patience || self.is_spared(&request) {
            return false;
        }
        let taken = lock(&self.seats.taken);
        let places = taken.get(&self.destination).map(Vec::as_slice).unwrap_or_default();
        let none_is_idle = self.seats.is_kept_from(now, &self.destination, places);
        let holds = |place: &Place, none_is_idle: bool| {
            lock(place).is_some_and(|other| other.holds(now, patience / SOME_OF_IT, none_is_idle))
        };
        let must = request.holds(now, patience, none_is_idle)
            && (places.iter().filter(|place| holds(place, none_is_idle)).count() >= TO_ONE_SERVER
                || taken.values().flatten().filter(|place| holds(place, false)).count() >= IN_ALL);
        if must {
            *lock(&self.place) = None;
        }
        must
    }

    /// Whether it must not give way, however long it lasts.
    fn is_spared(&self, request: &Request) -> bool {
        request.must_stay
            || request.tunnel.is_some_and(|tunnel| tunnel.answered_before >= ANSWERED_BEFORE)
            || match request.document {
                Document::No => false,
                // A page still waits for it.
                Document::Maybe => self.seats.is_awaited(request.asked, &self.destination),
                // The rest of it must not be cut off, though it comes slowly.
                Document::Yes => true,
            }
    }
}

impl Request {
    fn in_tunnel(now: Instant, answered_before: u32) -> Self {
        let tunnel = Tunnel { sent: now, heard: None, unasked_bytes: 0, answered_before };
        Self { asked: now, document: Document::Maybe, is_over: false, must_stay: false, tunnel: Some(tunnel) }
    }

    fn last_sent(&self) -> Instant {
        self.tunnel.map_or(self.asked, |tunnel| tunnel.sent)
    }

    /// Whether its connection is of no use to others, and has not been for so long.
    fn holds(&self, now: Instant, at_least: Duration, none_is_idle: bool) -> bool {
        now.duration_since(self.asked) >= at_least && (none_is_idle || !self.may_be_idle(now))
    }

    fn may_be_idle(&self, now: Instant) -> bool {
        let heard = self.tunnel.and_then(|tunnel| tunnel.heard);
        self.is_over || heard.is_some_and(|heard| now.duration_since(heard) >= FLOWS_WITHIN)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut taken = lock(&self.seats.taken);
        if let Some(places) = taken.get_mut(&self.destination) {
            places.retain(|place| !Arc::ptr_eq(place, &self.place));
            if places.is_empty() {
                taken.remove(&self.destination);
            }
        }
    }
}

impl Drop for AwaitedDocument<'_> {
    fn drop(&mut self) {
        let mut awaited = lock(&self.seats.awaited);
        let is_this = |other: &Navigation| other.since == self.since && other.host == self.host;
        if let Some(at) = awaited.iter().position(is_this) {
            awaited.swap_remove(at);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
