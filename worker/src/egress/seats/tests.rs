//! When a connection gives way to others, by times alone and through a gate.

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::egress::tests::{Server, ask, client, gate, get, hello};
use crate::egress::{Egress, EgressOptions, Gate, Reason};

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
    answered[0].end();
    let elsewhere = seats.take(&server("other.test"));
    elsewhere.ask(false);
    for seat in taken.iter().chain([&idle, &elsewhere]).chain(&answered) {
        assert!(!seat.gives_way(late));
    }
}

#[test]
fn a_page_that_asks_many_servers_gives_connections_back_too() {
    let (seats, _, late) = patient();
    let taken: Vec<_> = (0..IN_ALL).map(|number| seats.take(&server(&format!("{number}.test")))).collect();
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
fn an_answer_that_goes_on_and_on_or_stops_holds_its_connection_and_one_that_is_over_does_not() {
    let (seats, _, late) = patient();
    let taken = asking(&seats, 6, false);
    taken.iter().for_each(Seat::hear);
    taken[5].end();
    assert!(!taken.iter().any(|seat| seat.gives_way(late)));
    taken[5].ask(false);
    taken[5].hear();
    assert!(taken[0].gives_way(late));
}

#[test]
fn an_answer_that_is_over_holds_its_connection_where_a_navigation_waits_that_would_take_an_idle_one() {
    let (seats, _, late) = patient();
    let taken = asking(&seats, 6, false);
    taken.iter().for_each(Seat::end);
    let waits = seats.await_document("shop.test");
    assert!(taken[0].gives_way(late));
    assert!(!taken[1].gives_way(late), "one is enough");
    let next = asking(&seats, 1, true);
    assert!(!taken[1].gives_way(late), "it does not wait for a connection any more");
    drop((waits, next));
}

#[test]
fn what_began_to_come_for_a_navigation_stays_and_frames_that_come_drop_by_drop_do_not() {
    let (seats, _, late) = patient();
    let waits = seats.await_document("shop.test");
    let taken = asking(&seats, 6, true);
    taken.iter().for_each(Seat::hear);
    assert!(!taken[0].gives_way(late));
    drop(waits);
    assert!(!taken[0].gives_way(late), "the rest of it is still to come");
    assert!(taken[1].gives_way(late));
    drop(taken);
    let unasked = asking(&seats, 6, true);
    unasked.iter().for_each(Seat::hear);
    assert!(unasked[0].gives_way(late + Duration::from_secs(1)));
}

#[test]
fn documents_of_two_navigations_stay_whichever_comes_first() {
    let (seats, _, late) = patient();
    let first = seats.await_document("shop.test");
    let of_first = asking(&seats, 1, true);
    let second = seats.await_document("shop.test");
    let others = asking(&seats, 5, true);
    others[0].hear();
    of_first[0].hear();
    others[1].hear();
    drop((first, second));
    assert!(!of_first[0].gives_way(late) && !others[0].gives_way(late));
    assert!(others[1].gives_way(late));
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

/// Tunnels to one server that have greeted it and asked for something, of which so much has come.
fn tunnelling(seats: &Seats, count: usize, bytes: usize) -> Vec<Seat<'_>> {
    let tunnels: Vec<_> = (0..count).map(|_| seats.take(&server("shop.test"))).collect();
    for tunnel in &tunnels {
        tunnel.send();
        tunnel.receive(4_000);
        tunnel.send();
        tunnel.receive(bytes);
    }
    tunnels
}

#[test]
fn a_tunnel_that_has_gone_silent_holds_only_where_that_keeps_a_navigation_from_its_server() {
    let (seats, _, late) = patient();
    let tunnels = tunnelling(&seats, 6, 4_000);
    let elsewhere = seats.await_document("other.test");
    assert!(!tunnels.iter().any(|tunnel| tunnel.gives_way(late)), "they may be idle");
    let waits = seats.await_document("www.shop.test");
    let only_begun = Instant::now() + Duration::from_secs(4);
    assert!(!seats.is_kept_from(only_begun, &server("shop.test"), &[]));
    assert!(tunnels[0].gives_way(late), "an idle one would have been asked");
    let next = seats.take(&server("shop.test"));
    next.send();
    assert!(!tunnels[1].gives_way(late), "which has been done now");
    drop((elsewhere, waits));
}

#[test]
fn tunnels_whose_answers_began_while_a_navigation_waited_stay_and_the_others_do_not() {
    let (seats, _, late) = patient();
    let waits = seats.await_document("shop.test");
    // A neighbour's picture, perhaps, and the document after it.
    let may_be_document = tunnelling(&seats, 2, 4_000);
    drop(waits);
    let others = tunnelling(&seats, 4, 4_000);
    let kept_waiting = seats.await_document("shop.test");
    for tunnel in &may_be_document {
        assert!(!tunnel.gives_way(late), "the rest of the document is still to come in one of them");
    }
    assert!(others[0].gives_way(late));
    drop(kept_waiting);
}

#[test]
fn what_comes_in_tunnels_leaves_a_navigation_its_document_in_plain_http() {
    let (seats, _, late) = patient();
    let waits = seats.await_document("shop.test");
    let pictures = tunnelling(&seats, 1, 4_000);
    let taken = asking(&seats, 6, true);
    taken.iter().for_each(Seat::hear);
    drop(waits);
    assert!(!taken[0].gives_way(late));
    assert!(taken[1].gives_way(late), "none waits for two");
    drop(pictures);
}

#[test]
fn what_the_browser_would_send_once_more_and_must_not_stays_as_long_as_that_is_so() {
    let (seats, _, late) = patient();
    let taken = asking(&seats, 6, false);
    taken[0].keep(true);
    assert!(!taken[0].gives_way(late));
    taken[0].keep(false);
    assert!(taken[0].gives_way(late));
}

#[test]
fn a_tunnel_in_which_something_comes_again_and_again_holds_its_connection() {
    let asked = Instant::now();
    let after = |seconds| asked + Duration::from_secs(seconds);
    let mut request = Request::in_tunnel(asked, 1);
    request.tunnel.as_mut().unwrap().heard = Some(after(30));
    assert!(request.holds(after(30), Duration::from_secs(30), false));
    assert!(!request.holds(after(31), Duration::from_secs(30), false), "it may be idle");
    assert!(request.holds(after(31), Duration::from_secs(30), true), "it is not");
}

/// The way to a server, and six connections of a browser that go it.
async fn six(server: &Server, patience: Duration) -> (Arc<Egress>, Arc<Gate>, Vec<TcpStream>) {
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
    let (_egress, gate, mut browser) = six(&server, Duration::from_millis(300)).await;
    let url = format!("http://{}/frame", server.address);
    let request = get(&url).replace("Host: x", "Host: x\r\nUpgrade-Insecure-Requests: 1");
    let mut asked: FuturesUnordered<_> = browser.iter_mut().map(|stream| ask(stream, &request)).collect();
    let answer = asked.next().await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert!(answer.contains("x-crawlify-egress: gave_way"), "{answer}");
    assert_eq!(gate.why_no_document(&url::Url::parse(&url).unwrap()), Some(Reason::GaveWay));
}

#[tokio::test]
async fn a_tunnel_that_gives_way_ends() {
    let server = Server::start(|_| Vec::new()).await;
    let (_egress, _gate, mut browser) = six(&server, Duration::from_millis(300)).await;
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

/// What comes on the connection that ends first, once these bytes were sent on each, and how it ends.
async fn first_to_end(browser: &mut [TcpStream], sent: &[u8]) -> (Vec<u8>, std::io::Result<usize>) {
    let mut ended: FuturesUnordered<_> = browser
        .iter_mut()
        .map(|stream| async move {
            stream.write_all(sent).await.unwrap();
            let mut came = Vec::new();
            let ended = stream.read_to_end(&mut came).await;
            (came, ended)
        })
        .collect();
    tokio::time::timeout(Duration::from_secs(20), ended.next()).await.unwrap().unwrap()
}

#[tokio::test]
async fn an_answer_that_stops_gives_way_and_nobody_takes_it_for_the_whole() {
    for head in ["HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"] {
        let server = Server::start(move |_| format!("{head}x").into_bytes()).await;
        // Long enough for each answer to begin.
        let (_egress, _gate, mut browser) = six(&server, Duration::from_secs(2)).await;
        let request = get(&format!("http://{}/picture", server.address));
        let (came, ended) = first_to_end(&mut browser, request.as_bytes()).await;
        assert_eq!(String::from_utf8(came).unwrap(), format!("{head}x"));
        assert!(ended.is_err(), "{ended:?}");
    }
}

#[tokio::test]
async fn an_order_whose_answer_stops_within_its_head_stays_and_a_picture_whose_answer_does_gives_way() {
    const BEGUN: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-le";
    let answer = |head: &str| if head.starts_with("GET /whole") { hello(head) } else { BEGUN.to_vec() };
    let server = Server::start(answer).await;
    let (_egress, gate, mut browser) = six(&server, Duration::from_secs(2)).await;
    let url = |path: &str| format!("http://{}/{path}", server.address);
    let order = format!("POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", url("order"));
    for stream in &mut browser {
        assert!(ask(stream, &get(&url("whole"))).await.ends_with("hello"));
        stream.write_all(order.as_bytes()).await.unwrap();
        let mut came = vec![0; BEGUN.len()];
        stream.read_exact(&mut came).await.unwrap();
        assert_eq!(came, BEGUN);
    }
    // By the time that the second one has given way, the orders have been there for twice as long.
    for _ in 0..2 {
        let mut picture = [client(&gate.proxy_url()).await];
        let (came, ended) = first_to_end(&mut picture, get(&url("picture")).as_bytes()).await;
        assert_eq!(came, BEGUN);
        assert!(ended.is_err(), "{ended:?}");
    }
    for stream in &mut browser {
        let ended = stream.read(&mut [0]).now_or_never();
        assert!(ended.is_none(), "the browser would send its order once more: {ended:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_over_gives_way_only_where_a_navigation_is_kept_from_its_server() {
    let server = Server::start(hello).await;
    let (_egress, gate, mut browser) = six(&server, Duration::from_secs(2)).await;
    for path in ["one", "two"] {
        let request = get(&format!("http://{}/{path}", server.address));
        for stream in &mut browser {
            assert!(ask(stream, &request).await.ends_with("hello"));
        }
        let taken = lock(&gate.core().seats.taken);
        assert!(taken.values().flatten().all(|place| lock(place).is_some_and(|request| request.is_over)));
    }
    let _waits = gate.await_document(&server.address.ip().to_string());
    let (came, ended) = first_to_end(&mut browser, b"").await;
    assert!(came.is_empty() && ended.is_err(), "{ended:?}");
}

#[tokio::test]
async fn a_tunnel_whose_answer_stops_gives_way_where_a_navigation_is_kept_from_its_server() {
    let server = Server::start(|_| vec![b'x'; 2_000]).await;
    let (_egress, gate, mut browser) = six(&server, Duration::from_secs(2)).await;
    let connect = format!("CONNECT {} HTTP/1.1\r\nHost: x\r\n\r\n", server.address);
    for stream in &mut browser {
        assert!(ask(stream, &connect).await.starts_with("HTTP/1.1 200"));
        for sent in ["the greeting\r\n\r\n", "a request\r\n\r\n"] {
            stream.write_all(sent.as_bytes()).await.unwrap();
            stream.read_exact(&mut [0; 2_000]).await.unwrap();
        }
    }
    let _waits = gate.await_document(&server.address.ip().to_string());
    let (came, ended) = first_to_end(&mut browser, b"").await;
    assert!(came.is_empty() && ended.is_err(), "{ended:?}");
}
