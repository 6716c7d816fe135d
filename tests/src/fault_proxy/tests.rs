//! Each fault, against a server that answers everything with itself.

use std::time::Instant;

use super::*;
use crate::wait::wait_for;

const SOON: Duration = Duration::from_secs(10);

/// A server that answers everything with itself, behind a proxy.
async fn echo() -> (FaultProxy, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    (FaultProxy::before(Upstream::Tcp(address)).await, tasks)
}

async fn connect(proxy: &FaultProxy) -> TcpStream {
    TcpStream::connect(proxy.address).await.unwrap()
}

/// What comes back of a text: all of it, or what came before the connection ended.
async fn say(stream: &mut TcpStream, text: &[u8]) -> Vec<u8> {
    let mut answer = vec![0; text.len()];
    let mut length = 0;
    if stream.write_all(text).await.is_ok() {
        while length < answer.len() {
            match stream.read(&mut answer[length..]).await {
                Ok(read @ 1..) => length += read,
                _ => break,
            }
        }
    }
    answer.truncate(length);
    answer
}

async fn passes(proxy: &FaultProxy) -> bool {
    say(&mut connect(proxy).await, b"hello").await == b"hello"
}

#[tokio::test]
async fn what_passes_passes_unchanged() {
    let (proxy, _server) = echo().await;
    let long: Vec<u8> = (0..200_000).map(|number| (number % 251) as u8).collect();
    let mut stream = connect(&proxy).await;
    let (mut from, mut to) = stream.split();
    let mut answer = vec![0; long.len()];
    let (sent, read) = tokio::join!(to.write_all(&long), from.read_exact(&mut answer));
    sent.unwrap();
    read.unwrap();
    assert!(answer == long);
}

#[tokio::test]
async fn what_connections_carry_is_kept_once_it_is_wanted_each_direction_by_itself() {
    let (proxy, _server) = echo().await;
    let mut stream = connect(&proxy).await;
    assert_eq!(say(&mut stream, b"before").await, b"before");
    proxy.record();
    for piece in [b"hel", b"lo!"] {
        assert_eq!(say(&mut stream, piece).await, piece);
    }
    assert!(passes(&proxy).await, "another connection");
    let mut kept = proxy.recorded();
    kept.sort();
    assert_eq!(kept, [b"hello".to_vec(), b"hello".to_vec(), b"hello!".to_vec(), b"hello!".to_vec()]);
}

#[tokio::test]
async fn a_cut_resets_what_is_open_and_leaves_what_comes() {
    let (proxy, _server) = echo().await;
    let mut stream = connect(&proxy).await;
    assert_eq!(say(&mut stream, b"hello").await, b"hello");
    proxy.cut();
    assert!(stream.read(&mut [0]).await.is_err(), "it is reset, which is no orderly end");
    assert!(passes(&proxy).await);
}

#[tokio::test]
async fn whoever_is_refused_gets_nothing_until_the_proxy_is_open_again() {
    let (proxy, _server) = echo().await;
    proxy.set(Mode::Refuse);
    assert!(!passes(&proxy).await);
    proxy.set(Mode::Pass);
    assert!(passes(&proxy).await);
}

#[tokio::test]
async fn a_black_hole_gives_back_at_its_end_what_it_swallowed() {
    let (proxy, _server) = echo().await;
    let mut stream = connect(&proxy).await;
    assert_eq!(say(&mut stream, b"hello").await, b"hello");
    proxy.set(Mode::BlackHole);
    stream.write_all(b"are you there?").await.unwrap();
    let silence = tokio::time::timeout(Duration::from_millis(300), stream.read_u8()).await;
    silence.expect_err("nothing comes, and the connection is open");
    proxy.set(Mode::Pass);
    let mut answer = [0; 14];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"are you there?");
}

#[tokio::test]
async fn what_is_delayed_or_throttled_comes_late() {
    let (proxy, _server) = echo().await;
    let mut stream = connect(&proxy).await;
    for slow in [Mode::Delay(Duration::from_millis(100)), Mode::Throttle(50)] {
        proxy.set(slow);
        let begun = Instant::now();
        assert_eq!(say(&mut stream, b"hello").await, b"hello");
        assert!(begun.elapsed() >= Duration::from_millis(200), "{slow:?}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn connections_are_cut_at_the_byte_that_was_said_once() {
    let (proxy, _server) = echo().await;
    for bytes in [0, 3, 5, 8] {
        proxy.cut_after(bytes);
        let mut stream = connect(&proxy).await;
        assert_eq!(say(&mut stream, b"hello").await.len(), bytes.saturating_sub(5), "{bytes}");
        wait_for("the trap sprung", SOON, async || proxy.has_sprung()).await;
        assert!(passes(&proxy).await);
    }
    proxy.cut_after(1_000);
    assert!(passes(&proxy).await && proxy.disarm());
}

#[tokio::test]
async fn the_answer_to_a_text_is_lost_once_although_the_server_gave_it() {
    let (proxy, _server) = echo().await;
    proxy.drop_reply_to("commit");
    let mut other = connect(&proxy).await;
    assert_eq!(say(&mut other, b"hello").await, b"hello");
    let mut stream = connect(&proxy).await;
    // In two pieces.
    stream.write_all(b"please com").await.unwrap();
    stream.read_exact(&mut [0; 10]).await.unwrap();
    assert_eq!(say(&mut stream, b"mit").await, b"");
    assert!(proxy.has_sprung());
    assert_eq!(say(&mut other, b"commit").await, b"commit", "once");
}
