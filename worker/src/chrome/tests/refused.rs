//! Answers of the egress guard in a server's place: what scripts read of them, and that nothing else is taken for one.

use crawlify_shared::domain::outcome::ErrorClass;
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::{ElementState, Proxy, ProxyKind, WaitUntil};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::bench::{Bench, one, read_all, session, soon, wait_for};
use crate::chrome::driver::{DomProgram, Driver, Session, Static};
use crate::held_port::held;

/// Shows what is answered to a request for the page itself.
const ASKS_FOR_ITSELF: &str = "<h1></h1><script>onload = async () => { \
     const answer = await fetch('/'), shown = document.querySelector('h1'); \
     shown.textContent = answer.headers.get('x-crawlify-egress') + ': ' + (await answer.text()).trim(); \
     shown.className = 'asked' }</script>";
/// Says what answers of the guard once said, and that it is what was refused.
const PRETENDS: &str = "<meta name=crawlify-egress content=refused><h1>pretends</h1>\
     <script>history.replaceState(0, '', '/refused')</script>";

/// Sets more cookies than the guard reads of a request. They are kept when they can be read: the browser keeps them meanwhile.
const SETS_COOKIES: &str = "<h1></h1><script>for (let number = 0; number < 80; number++) \
     document.cookie = number + '=' + 'x'.repeat(4000); \
     document.querySelector('h1').textContent = document.cookie.split(';').length</script>";

/// Waits for a request, and gives the connection that it came on.
async fn asked(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    stream
}

/// Answers the request, and ends its connection.
async fn answer(mut stream: TcpStream, status: &str, page: &str) {
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: text/html\r\nconnection: close\r\n");
    let answer = format!("{head}content-length: {}\r\n\r\n{page}", page.len());
    stream.write_all(answer.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn a_page_whose_server_is_gone_reads_of_a_refusal_no_more_than_anybody_may_know() {
    let bench = Bench::start().await;
    let first = held("127.0.0.1:0");
    let site = first.local_addr().unwrap();
    let later = held(&site.to_string());
    let listener = first.listen(16).unwrap();
    let url = PageUrl::parse(&format!("http://{site}/")).unwrap();
    let mut tab = bench.open().await;
    let answered_once = async {
        let stream = asked(&listener).await;
        drop(listener);
        answer(stream, "200 OK", ASKS_FOR_ITSELF).await;
    };
    let (loaded, ()) = tokio::join!(tab.navigate(&url, WaitUntil::Load, None, soon()), answered_once);
    assert_eq!(loaded.unwrap().status, Some(200));
    one(&mut tab, wait_for("h1.asked", ElementState::Attached, 5_000)).await.unwrap();
    let sentence = "no connection to the host (net::ERR_CONNECTION_REFUSED)";
    let all = format!("<!doctype html><title>{sentence}</title><p>{sentence}");
    let read = one(&mut tab, read_all("h1")).await.unwrap();
    assert_eq!(read, json!([format!("refused: {all}")]));
    let failure = tab.navigate(&url, WaitUntil::Load, None, soon()).await.unwrap_err().failure;
    assert_eq!((failure.class, failure.message.as_str()), (ErrorClass::Connect, sentence));
    // Its server is back, and says what it has learned.
    let listener = later.listen(16).unwrap();
    let repeated = async { answer(asked(&listener).await, "502 Bad Gateway", &all).await };
    let (loaded, ()) = tokio::join!(tab.navigate(&url, WaitUntil::Load, None, soon()), repeated);
    assert_eq!(loaded.unwrap().status, Some(502));
}

#[tokio::test]
async fn what_a_server_says_is_never_a_refusal_whatever_was_refused_before() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    let socket = held("127.0.0.1:0");
    let site = socket.local_addr().unwrap();
    let url = |path: &str| PageUrl::parse(&format!("http://{site}{path}")).unwrap();
    for path in ["/page?a='^|", "/refused"] {
        let error = tab.navigate(&url(path), WaitUntil::Load, None, soon()).await.unwrap_err();
        assert_eq!(error.failure.class, ErrorClass::Connect, "{path}: {error}");
    }
    let listener = socket.listen(16).unwrap();
    let mut server = JoinSet::new();
    server.spawn(async move {
        loop {
            answer(asked(&listener).await, "503 Service Unavailable", PRETENDS).await;
        }
    });
    // One that was refused itself, one that was not, and once more what they both pretend to be.
    for path in ["/page?a='^|", "/other", "/refused"] {
        let document = tab.navigate(&url(path), WaitUntil::Load, None, soon()).await.unwrap();
        assert_eq!((document.status, document.final_url.path()), (Some(503), "/refused"), "{path}");
    }
}

#[tokio::test]
async fn a_page_whose_cookies_are_too_long_for_the_guard_is_not_refused_by_its_server() {
    let bench = Bench::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let site = listener.local_addr().unwrap();
    let url = |path: &str| PageUrl::parse(&format!("http://{site}{path}")).unwrap();
    let mut tab = bench.open().await;
    let begun = url("/");
    let served = async { answer(asked(&listener).await, "200 OK", SETS_COOKIES).await };
    let (loaded, ()) = tokio::join!(tab.navigate(&begun, WaitUntil::Load, None, soon()), served);
    assert_eq!(loaded.unwrap().status, Some(200));
    assert_eq!(one(&mut tab, read_all("h1")).await.unwrap(), json!(["80"]));
    let failure = tab.navigate(&url("/next"), WaitUntil::Load, None, soon()).await.unwrap_err().failure;
    assert_eq!(
        (failure.class, failure.message.as_str()),
        (ErrorClass::Internal, "the request was not understood")
    );
}

#[tokio::test]
async fn a_redirect_to_an_address_with_credentials_that_is_refused_is_no_answer_of_a_server() {
    let bench = Bench::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = PageUrl::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    let gone = held("127.0.0.1:0");
    let moved = format!("302 Found\r\nlocation: http://me:secret@{}/page", gone.local_addr().unwrap());
    let mut tab = bench.open().await;
    let redirected = async { answer(asked(&listener).await, &moved, "").await };
    let (loaded, ()) = tokio::join!(tab.navigate(&url, WaitUntil::Load, None, soon()), redirected);
    assert_eq!(loaded.unwrap_err().failure.class, ErrorClass::Connect);
}

#[tokio::test]
async fn what_the_guard_answers_where_a_page_is_read_without_a_tab_is_left_to_one() {
    let bench = Bench::start().await;
    let gone = held("127.0.0.1:0");
    let address = gone.local_addr().unwrap();
    let host = url::Host::parse("127.0.0.1").unwrap();
    let proxy = Proxy { kind: ProxyKind::Http, host, port: address.port(), credentials: None };
    let proxied = Session { proxy: Some(proxy), ..session(&[]) };
    let closed = PageUrl::parse(&format!("http://{address}/")).unwrap();
    let program = DomProgram::new(vec![read_all("h1")]);
    for (session, url) in [(&bench.session, closed), (&proxied, bench.url("/plain"))] {
        match bench.driver.read_static(session, &url, &program, true, soon()).await {
            Static::NeedsFull(reason) => assert!(reason.contains("egress guard"), "{url}: {reason}"),
            other => panic!("{url}: {other:?}"),
        }
    }
}
