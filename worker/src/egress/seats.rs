//! The connections of one gate, and which of them keep others from a server. A browser makes no more than six to one server,
//! for all pages of an execution together: a page whose requests are not answered would keep the others from theirs. Where six
//! have been without an answer for some time, one that has been so for long gives way. Judges by times alone; ends no
//! connection itself.

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
/// An answer that has not gone on for so long is over, as far as anybody can tell.
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
    /// The navigations that wait for their document: when each began, and to which host. Written by tabs, read by connections.
    awaited: Mutex<Vec<(Instant, String)>>,
}

/// The last request of a connection; `None` before the first one, and when it has given way.
type Place = Arc<Mutex<Option<Request>>>;

#[derive(Clone, Copy, Debug)]
struct Request {
    asked: Instant,
    /// When something of its answer came last.
    heard: Option<Instant>,
    /// In a tunnel: what came that may be no answer, in bytes.
    unasked_bytes: usize,
    /// In a tunnel: answers before this request.
    answered_before: u32,
    /// Whether it may ask for a page's own document: of what is in tunnels nobody knows.
    may_be_document: bool,
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
    navigation: (Instant, String),
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
        let navigation = (Instant::now(), bare(host).to_owned());
        lock(&self.awaited).push(navigation.clone());
        AwaitedDocument { seats: self, navigation }
    }

    /// Whether a navigation waits that may have sent what was asked then. It may have been led from one scheme to the other, or to the
    /// site's name with or without `www.`.
    fn may_be_awaited(&self, asked: Instant, destination: &Destination) -> bool {
        let host = destination.host();
        lock(&self.awaited).iter().any(|(since, awaited)| *since <= asked && *awaited == bare(&host))
    }
}

impl Seat<'_> {
    /// A request goes to the server.
    pub(super) fn ask(&self, may_be_document: bool) {
        *lock(&self.place) = Some(Request::begin(may_be_document, 0));
    }

    /// Something goes to the server through a tunnel: another request, if anything has come since the last one.
    pub(super) fn send(&self) {
        let mut place = lock(&self.place);
        match *place {
            None => *place = Some(Request::begin(true, 0)),
            Some(Request { unasked_bytes: 1.., answered_before, .. }) => {
                *place = Some(Request::begin(true, answered_before.saturating_add(1)));
            }
            Some(_) => {}
        }
    }

    /// Something of an answer comes.
    pub(super) fn hear(&self) {
        if let Some(request) = lock(&self.place).as_mut() {
            request.heard = Some(Instant::now());
        }
    }

    /// So much comes through a tunnel.
    pub(super) fn receive(&self, bytes: usize) {
        if let Some(request) = lock(&self.place).as_mut() {
            request.unasked_bytes = request.unasked_bytes.saturating_add(bytes);
            if request.unasked_bytes > TICKET_BYTES {
                request.heard = Some(Instant::now());
            }
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
        // A document that comes slowly must not be cut off, nor one that its page still waits for.
        let is_spared = request.may_be_document
            && (request.heard.is_some() || self.seats.may_be_awaited(request.asked, &self.destination))
            || request.answered_before >= ANSWERED_BEFORE;
        if is_spared || !request.holds(now, patience) {
            return false;
        }
        let taken = lock(&self.seats.taken);
        let holds = |place: &&Place| lock(place).is_some_and(|other| other.holds(now, patience / SOME_OF_IT));
        let to_its_server =
            taken.get(&self.destination).map_or(0, |places| places.iter().filter(holds).count());
        let must = to_its_server >= TO_ONE_SERVER || taken.values().flatten().filter(holds).count() >= IN_ALL;
        if must {
            *lock(&self.place) = None;
        }
        must
    }
}

impl Request {
    fn begin(may_be_document: bool, answered_before: u32) -> Self {
        Self { asked: Instant::now(), heard: None, unasked_bytes: 0, answered_before, may_be_document }
    }

    /// Whether its connection is of no use to others, and has not been for so long.
    fn holds(&self, now: Instant, at_least: Duration) -> bool {
        now.duration_since(self.asked) >= at_least
            && self.heard.is_none_or(|heard| now.duration_since(heard) < FLOWS_WITHIN)
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
        if let Some(at) = awaited.iter().position(|navigation| *navigation == self.navigation) {
            awaited.swap_remove(at);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use futures_util::stream::FuturesUnordered;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::egress::tests::{Server, ask, client, gate, get};
    use crate::egress::{Egress, EgressOptions, Gate};

    fn server(name: &str) -> Destination {
        Destination::parse(name, Some(80)).unwrap()
    }

    fn patient() -> (Seats, Instant, Instant) {
        let now = Instant::now();
        let seats = Seats::new(Duration::from_secs(30));
        (seats, now + Duration::from_secs(29), now + Duration::from_secs(31))
    }

    /// Connections to one server that have asked for something.
    fn asking(seats: &Seats, count: usize, may_be_document: bool) -> Vec<Seat<'_>> {
        let taken: Vec<_> = (0..count).map(|_| seats.take(&server("shop.test"))).collect();
        taken.iter().for_each(|seat| seat.ask(may_be_document));
        taken
    }

    #[test]
    fn one_gives_way_where_six_wait_and_another_when_its_place_is_taken_again() {
        let (seats, too_early, late) = patient();
        let taken = asking(&seats, 6, false);
        assert!(!taken.iter().any(|seat| seat.gives_way(too_early)));
        assert!(taken[0].gives_way(late));
        assert!(!taken.iter().any(|seat| seat.gives_way(late)), "one connection is free by then");
        let next = asking(&seats, 1, false);
        assert!(taken[1].gives_way(late), "which was asked for something that is not answered either");
        drop((taken, next));
        assert!(lock(&seats.taken).is_empty(), "connections that have ended are forgotten");
    }

    #[test]
    fn what_is_not_in_the_way_is_left_alone() {
        let (seats, _, late) = patient();
        let taken = asking(&seats, 5, false);
        let idle = seats.take(&server("shop.test"));
        let answered = asking(&seats, 1, false);
        answered[0].hear();
        let elsewhere = seats.take(&server("other.test"));
        elsewhere.ask(false);
        for seat in taken.iter().chain([&idle, &elsewhere]).chain(&answered) {
            assert!(!seat.gives_way(late));
        }
    }

    #[test]
    fn a_page_that_asks_many_servers_gives_connections_back_too() {
        let (seats, _, late) = patient();
        let taken: Vec<_> =
            (0..IN_ALL).map(|number| seats.take(&server(&format!("{number}.test")))).collect();
        taken.iter().for_each(|seat| seat.ask(false));
        assert!(taken[0].gives_way(late));
        assert!(!taken[1].gives_way(late));
    }

    #[test]
    fn a_document_that_is_waited_for_stays_and_one_of_a_frame_does_not() {
        let (seats, _, late) = patient();
        let waits = seats.await_document("www.shop.test");
        let taken = asking(&seats, 6, true);
        assert!(!taken.iter().any(|seat| seat.gives_way(late)));
        drop(waits);
        let began_later = seats.await_document("shop.test");
        assert!(taken[0].gives_way(late), "who began later waits for another one");
        drop((began_later, taken));
        let elsewhere = seats.await_document("other.test");
        assert!(asking(&seats, 6, true)[0].gives_way(Instant::now() + Duration::from_secs(31)));
        drop(elsewhere);
        assert!(lock(&seats.awaited).is_empty());
    }

    #[test]
    fn an_answer_that_goes_on_and_on_keeps_its_connection_and_one_that_is_over_does_not() {
        let asked = Instant::now();
        let after = |seconds| asked + Duration::from_secs(seconds);
        let request = Request { asked, heard: Some(after(30)), ..Request::begin(false, 0) };
        assert!(request.holds(after(30), Duration::from_secs(30)));
        assert!(!request.holds(after(31), Duration::from_secs(30)));
    }

    #[test]
    fn tickets_are_no_answer_and_a_tunnel_that_had_answers_is_not_ended() {
        let (seats, _, late) = patient();
        let tunnels: Vec<_> = (0..6).map(|_| seats.take(&server("shop.test"))).collect();
        let greet_and_ask = |tunnel: &Seat<'_>| {
            tunnel.send();
            tunnel.receive(4_000);
            // The end of the greeting, and a request, which two tickets answer.
            tunnel.send();
            tunnel.receive(2 * 255);
        };
        tunnels.iter().for_each(greet_and_ask);
        assert!(tunnels[0].gives_way(late));
        tunnels[1].receive(4_000);
        tunnels[1].send();
        greet_and_ask(&tunnels[0]);
        assert!(!tunnels[1].gives_way(late), "its second request would be sent once more");
        assert!(tunnels[2].gives_way(late));
        // The greeting of a connection that takes up an earlier one is short, and so is many an answer.
        let short = seats.take(&server("shop.test"));
        for bytes in [300, 200] {
            short.send();
            short.receive(bytes);
        }
        short.send();
        assert!(!short.gives_way(late), "so would this one's");
    }

    /// The way to a server that never answers, and six connections of a browser that go it.
    async fn six(server: &Server) -> (Arc<Egress>, Arc<Gate>, Vec<TcpStream>) {
        let patience = Duration::from_millis(300);
        let allowed = EgressOptions::allowing(&[&server.address.to_string()]).unwrap();
        let egress = Egress::start(EgressOptions { patience, ..allowed }).unwrap();
        let (_, gate) = gate(&egress, None);
        let mut browser = Vec::new();
        for _ in 0..TO_ONE_SERVER {
            browser.push(client(&gate.proxy_url()).await);
        }
        (egress, gate, browser)
    }

    #[tokio::test]
    async fn a_request_that_gives_way_is_answered_by_the_guard() {
        let server = Server::start(|_| Vec::new()).await;
        let (_egress, _gate, mut browser) = six(&server).await;
        let request = get(&format!("http://{}/picture", server.address));
        let mut asked: FuturesUnordered<_> = browser.iter_mut().map(|stream| ask(stream, &request)).collect();
        let answer = asked.next().await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
        assert!(answer.contains("x-crawlify-egress: gave_way"), "{answer}");
    }

    #[tokio::test]
    async fn a_tunnel_that_gives_way_ends() {
        let server = Server::start(|_| Vec::new()).await;
        let (_egress, _gate, mut browser) = six(&server).await;
        let connect = format!("CONNECT {} HTTP/1.1\r\nHost: x\r\n\r\n", server.address);
        let mut ended: FuturesUnordered<_> = browser
            .iter_mut()
            .map(|stream| {
                let connect = connect.as_str();
                async move {
                    assert!(ask(stream, connect).await.starts_with("HTTP/1.1 200"));
                    stream.write_all(b"hello").await.unwrap();
                    stream.read(&mut [0]).await
                }
            })
            .collect();
        let read = tokio::time::timeout(Duration::from_secs(20), ended.next()).await.unwrap().unwrap();
        assert!(!read.is_ok_and(|bytes| bytes > 0), "nothing has come");
    }
}
