//! Clients that are too slow.

use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use crawlify_coordinator::api::{HEAD_WITHIN, serve};
use harness::wait::wait_for;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Shortened, so that the test need not wait for the real one.
const SHORT: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(10);

struct Serving {
    address: std::net::SocketAddr,
    stop: CancellationToken,
    server: JoinSet<()>,
}

impl Serving {
    async fn start(router: Router, head_within: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop, mut server) =
            (listener.local_addr().unwrap(), CancellationToken::new(), JoinSet::new());
        server.spawn(serve(listener, router, head_within, stop.clone()));
        Self { address, stop, server }
    }
}

/// Whether the other side has closed the connection. What it says first is read and forgotten.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = [0; 1024];
    loop {
        match tokio::time::timeout(Duration::from_millis(1), stream.read(&mut rest)).await {
            Err(_) => return false,
            Ok(Ok(0) | Err(_)) => return true,
            Ok(Ok(_)) => {}
        }
    }
}

#[tokio::test]
async fn who_sends_a_head_byte_by_byte_or_nothing_at_all_is_hung_up_on_while_others_are_served() {
    let serving = Serving::start(Router::new().route("/", get(|| async { "hello" })), SHORT).await;
    let begun = Instant::now();
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(serving.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").await.unwrap();
        slow.push(stream);
    }
    let mut silent = TcpStream::connect(serving.address).await.unwrap();
    let url = format!("http://{}/", serving.address);
    assert_eq!(reqwest::get(&url).await.unwrap().text().await.unwrap(), "hello");
    wait_for("the slow clients are hung up on", PATIENCE, async || {
        let mut open = Vec::new();
        for mut stream in slow.drain(..) {
            // One more byte each time: that the connection is not idle does not help.
            if stream.write_all(b"x").await.is_ok() && !is_closed(&mut stream).await {
                open.push(stream);
            }
        }
        slow = open;
        slow.is_empty()
    })
    .await;
    wait_for("the silent client is hung up on", PATIENCE, async || is_closed(&mut silent).await).await;
    assert!(begun.elapsed() >= SHORT, "{:?}", begun.elapsed());
    assert_eq!(reqwest::get(&url).await.unwrap().text().await.unwrap(), "hello");
    assert!(HEAD_WITHIN <= Duration::from_secs(10));
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let serving = Serving::start(Router::new().route("/", get(|| async { "hello" })), SHORT).await;
    let client = reqwest::Client::new();
    let url = format!("http://{}/", serving.address);
    let of_size = |size: usize| client.get(&url).header("x-filler", "x".repeat(size)).send();
    assert_eq!(of_size(32 << 10).await.unwrap().status(), 200);
    assert_eq!(of_size(100 << 10).await.unwrap().status(), 431);
}

#[tokio::test]
async fn the_stop_lets_a_request_in_hand_end_and_takes_no_other() {
    let (begun, go_on) = (std::sync::Arc::new(Notify::new()), std::sync::Arc::new(Notify::new()));
    let (of_handler, waited_for) = (begun.clone(), go_on.clone());
    let handler = move || async move {
        of_handler.notify_one();
        waited_for.notified().await;
        "at last"
    };
    let mut serving = Serving::start(Router::new().route("/", get(handler)), SHORT).await;
    let idle = TcpStream::connect(serving.address).await.unwrap();
    let mut asked = JoinSet::new();
    let url = format!("http://{}/", serving.address);
    asked.spawn(async move { reqwest::get(url).await.unwrap().text().await.unwrap() });
    begun.notified().await;
    serving.stop.cancel();
    wait_for("nobody is accepted any more", PATIENCE, async || {
        TcpStream::connect(serving.address).await.is_err()
    })
    .await;
    go_on.notify_one();
    assert_eq!(asked.join_next().await.unwrap().unwrap(), "at last");
    tokio::time::timeout(PATIENCE, serving.server.join_next())
        .await
        .expect("it ends, idle connections or not");
    drop(idle);
}
