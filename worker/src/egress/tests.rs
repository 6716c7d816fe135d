//! The guard as a proxy, against servers and proxies of its own: what it lets through, and what it does not.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::workflow::{Proxy, ProxyCredentials, ProxyKind};
use prometheus::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::resolve::Resolver;
use super::{Egress, EgressOptions, Gate, Reason};

const PATIENCE: Duration = Duration::from_secs(30);

/// A server that keeps connections, answers each head with `answer`, and remembers both.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    heads: Mutex<Vec<String>>,
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    seen: Arc<Seen>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(super) async fn start(answer: impl Fn(&str) -> Vec<u8> + Clone + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1:0", answer).await
    }

    pub(super) async fn at(
        address: &str,
        answer: impl Fn(&str) -> Vec<u8> + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let (of_server, mut tasks) = (Arc::clone(&seen), JoinSet::new());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                of_server.connections.fetch_add(1, Ordering::Relaxed);
                let (seen, answer) = (Arc::clone(&of_server), answer.clone());
                connections.spawn(async move {
                    while let Some(head) = read_head(&mut stream).await {
                        let said = answer(&head);
                        seen.heads.lock().unwrap().push(head);
                        if stream.write_all(&said).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, seen, _tasks: tasks }
    }

    fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Relaxed)
    }

    fn heads(&self) -> Vec<String> {
        self.seen.heads.lock().unwrap().clone()
    }
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

pub(super) fn hello(_head: &str) -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".to_vec()
}

/// Names with the answers they give, one after the other; the last one stays. What is no address is no answer.
#[derive(Debug, Default)]
struct Stub(Mutex<HashMap<&'static str, Vec<Vec<&'static str>>>>);

#[async_trait]
impl Resolver for Stub {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let mut names = self.0.lock().unwrap();
        let answers = names.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
        answer.iter().map(|address| address.parse().map_err(|_| io::ErrorKind::TimedOut.into())).collect()
    }
}

pub(super) fn guard(allowed: &[&str], names: &[(&'static str, &[&[&'static str]])]) -> Arc<Egress> {
    let names = names.iter().map(|(name, answers)| (*name, answers.iter().map(|one| one.to_vec()).collect()));
    let resolver = Arc::new(Stub(Mutex::new(names.collect())));
    let options = EgressOptions::allowing(allowed).unwrap();
    Egress::start(EgressOptions { resolver, names_kept_for: Duration::ZERO, document_bytes: 100, ..options })
        .unwrap()
}

pub(super) fn gate(egress: &Egress, proxy: Option<&Proxy>) -> (ExecutionId, Arc<Gate>) {
    let execution = ExecutionId::generate();
    (execution, egress.gate(execution, proxy).unwrap().unwrap())
}

pub(super) async fn client(proxy_url: &str) -> TcpStream {
    TcpStream::connect(proxy_url.trim_start_matches("http://")).await.unwrap()
}

/// Sends a request and reads the answer, as long as it says it is.
pub(super) async fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let asked = async {
        let head = read_head(stream).await.unwrap_or_default();
        let length = head.lines().find_map(|line| {
            line.split_once(": ")
                .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))?
                .1
                .parse()
                .ok()
        });
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).await.unwrap();
        head + &String::from_utf8(body).unwrap()
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap()
}

pub(super) fn get(url: &str) -> String {
    format!("GET {url} HTTP/1.1\r\nHost: x\r\nProxy-Connection: keep-alive\r\n\r\n")
}

async fn ask_once(proxy_url: &str, request: &str) -> String {
    ask(&mut client(proxy_url).await, request).await
}

#[tokio::test]
async fn requests_of_one_connection_share_one_connection_to_their_server() {
    let server = Server::start(hello).await;
    let egress = guard(&[&server.address.to_string()], &[]);
    let (execution, gate) = gate(&egress, None);
    let mut browser = client(&gate.proxy_url()).await;
    for path in ["/a", "/b", "/c"] {
        let answer = ask(&mut browser, &get(&format!("http://{}{path}", server.address))).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello"), "{answer}");
    }
    assert_eq!(server.connections(), 1);
    assert!(server.heads()[2].starts_with("GET /c HTTP/1.1\r\n"), "{:?}", server.heads());
    let traffic = egress.bytes(execution).unwrap();
    assert_eq!(traffic.requests, 3);
    assert!(traffic.bytes_received >= 3 * 40 && traffic.bytes_sent >= 3 * 30, "{traffic:?}");
    assert_eq!(egress.take_received(execution), Some(traffic.bytes_received));
    assert_eq!(egress.take_received(execution), Some(0), "what was taken is not told twice");
    let registry = Registry::new();
    egress.register(&registry).unwrap();
    let text = crawlify_shared::telemetry::encode(&registry).unwrap();
    assert!(text.contains("crawlify_egress_requests_total{result=\"allowed\"} 3"), "{text}");
}

#[tokio::test]
async fn a_connection_is_never_used_for_another_server() {
    let (server, other) = (Server::start(hello).await, Server::start(hello).await);
    let egress = guard(&["127.0.0.1"], &[]);
    let (_, gate) = gate(&egress, None);
    let mut browser = client(&gate.proxy_url()).await;
    ask(&mut browser, &get(&format!("http://{}/", server.address))).await;
    browser.write_all(get(&format!("http://{}/", other.address)).as_bytes()).await.unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, browser.read_to_end(&mut rest)).await.unwrap();
    assert!(ended.is_err() || rest.is_empty());
    assert_eq!((server.connections(), other.connections()), (1, 0));
}

#[tokio::test]
async fn what_is_not_allowed_is_refused_without_a_connection_or_a_word_about_why() {
    let server = Server::start(hello).await;
    let port = server.address.port();
    let egress = guard(
        &[],
        &[("private.test", &[&["127.0.0.1"]]), ("one-of-two.test", &[&["93.184.216.34", "127.0.0.1"]])],
    );
    let (_, gate) = gate(&egress, None);
    for host in
        ["127.0.0.1", "0x7f.1", "2130706433", "0177.0.0.1", "127.1", "private.test", "one-of-two.test"]
    {
        let answer = ask_once(&gate.proxy_url(), &get(&format!("http://{host}:{port}/"))).await;
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("x-crawlify-egress: not_allowed"),
            "{answer}"
        );
        assert!(!answer.contains("127.") && !answer.contains("93."), "{answer}");
        let answer = ask_once(&gate.proxy_url(), &format!("CONNECT {host}:{port} HTTP/1.1\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    }
    let asked = url::Url::parse(&format!("https://private.test:{port}/")).unwrap();
    assert_eq!(gate.why_not(&asked), Some(Reason::NotAllowed));
    let answer = ask_once(&gate.proxy_url(), &get("http://nobody.test/")).await;
    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("not_resolved"), "{answer}");
    let answer = ask_once(&gate.proxy_url(), &get("/of-a-server")).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_name_that_moves_is_judged_at_each_connection_and_dialled_where_it_was_judged() {
    let server = Server::start(hello).await;
    let canary = Server::at(&format!("127.0.0.2:{}", server.address.port()), hello).await;
    let egress = guard(&["127.0.0.1"], &[("moves.test", &[&["127.0.0.1"], &["127.0.0.2"]])]);
    let (_, gate) = gate(&egress, None);
    let request = get(&format!("http://moves.test:{}/", server.address.port()));
    assert!(ask_once(&gate.proxy_url(), &request).await.ends_with("hello"));
    assert!(ask_once(&gate.proxy_url(), &request).await.starts_with("HTTP/1.1 403"));
    assert_eq!((server.connections(), canary.connections()), (1, 0));
}

#[tokio::test]
async fn nothing_goes_through_the_gate_of_the_browser_itself() {
    let server = Server::start(hello).await;
    let egress = guard(&["127.0.0.1"], &[]);
    let request = get(&format!("http://{}/", server.address));
    let answer = ask_once(&egress.browser_proxy().unwrap(), &request).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let own = egress.own_gate().unwrap().proxy_url();
    let answer = ask_once(&own, &request).await;
    assert!(answer.ends_with("hello"), "{answer}");
    egress.close().await;
    assert!(TcpStream::connect(own.trim_start_matches("http://")).await.is_err());
}

#[tokio::test]
async fn a_document_is_cut_off_where_it_is_too_large_and_other_things_are_not() {
    let long =
        |_: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{}", "x".repeat(500)).into_bytes();
    let server = Server::start(long).await;
    let egress = guard(&["127.0.0.1"], &[]);
    let (_, gate) = gate(&egress, None);
    let url = format!("http://{}/page?x", server.address);
    assert!(ask_once(&gate.proxy_url(), &get(&url)).await.ends_with("xxx"));
    let mut browser = client(&gate.proxy_url()).await;
    let request = format!("GET {url} HTTP/1.1\r\nUpgrade-Insecure-Requests: 1\r\n\r\n");
    browser.write_all(request.as_bytes()).await.unwrap();
    let mut came = Vec::new();
    tokio::time::timeout(PATIENCE, browser.read_to_end(&mut came)).await.unwrap().unwrap();
    assert!(came.len() < 500 || came.starts_with(b"HTTP/1.1 502"), "{}", came.len());
    assert!(gate.was_too_large(&url::Url::parse(&format!("{url}#part")).unwrap()));
}

/// Connections to this address that somebody still has open: the kernel lists with inode 0 those that it ends by itself.
fn held_connections_to(address: SocketAddr) -> usize {
    let port = format!(":{:04X}", address.port());
    let listed = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = listed.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|fields| fields[2].ends_with(&port) && fields[9] != "0").count()
}

#[tokio::test]
async fn a_server_that_never_closes_keeps_nothing_that_the_browser_has_closed() {
    const TUNNELS: usize = 5;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let egress = guard(&["127.0.0.1"], &[]);
    let (_, gate) = gate(&egress, None);
    let mut held = Vec::new();
    for _ in 0..TUNNELS {
        let mut stream = client(&gate.proxy_url()).await;
        let connect = format!("CONNECT {address} HTTP/1.1\r\nhost: {address}\r\n\r\n");
        stream.write_all(connect.as_bytes()).await.unwrap();
        assert!(read_head(&mut stream).await.unwrap().contains("200"));
        held.push(listener.accept().await.unwrap());
    }
    assert_eq!(
        held_connections_to(address),
        TUNNELS,
        "the guard's, of which the browser's sides are closed by now"
    );
    let begun = std::time::Instant::now();
    while held_connections_to(address) > 0 {
        assert!(begun.elapsed() < PATIENCE, "{} are still held", held_connections_to(address));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(held);
}

#[tokio::test]
async fn a_gate_goes_with_its_last_holder() {
    let egress = guard(&[], &[]);
    let (execution, gate) = gate(&egress, None);
    let again = egress.gate(execution, None).unwrap().unwrap();
    assert!(Arc::ptr_eq(&gate, &again));
    let url = gate.proxy_url();
    drop((gate, again));
    assert_eq!((egress.bytes(execution), egress.take_received(execution)), (None, None));
    let gone = async { while TcpStream::connect(url.trim_start_matches("http://")).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}

fn proxy(kind: ProxyKind, address: SocketAddr, password: &str) -> Proxy {
    let credentials = ProxyCredentials { username: "me".to_owned(), password: password.to_owned() };
    let host = url::Host::parse(&address.ip().to_string()).unwrap();
    Proxy { kind, host, port: address.port(), credentials: Some(credentials) }
}

/// An HTTP proxy that makes every tunnel into an answer of its own.
fn upstream(head: &str) -> Vec<u8> {
    // `me:hunter2`
    let knows_us = head.contains("Proxy-Authorization: Basic bWU6aHVudGVyMg==\r\n");
    match (head.starts_with("CONNECT "), knows_us) {
        (true, true) => b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
        (true, false) => b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n".to_vec(),
        (false, _) => hello(head),
    }
}

#[tokio::test]
async fn a_workflows_own_http_proxy_is_asked_with_its_credentials_for_what_was_judged() {
    let server = Server::start(upstream).await;
    let names: &[(&str, &[&[&str]])] =
        &[("shop.test", &[&["93.184.216.34"]]), ("inside.test", &[&["10.0.0.1"]])];
    let egress = guard(&[&server.address.to_string()], names);
    let (_, through) = gate(&egress, Some(&proxy(ProxyKind::Http, server.address, "hunter2")));
    let answer = ask_once(&through.proxy_url(), &get("http://shop.test/page")).await;
    assert!(answer.ends_with("hello"), "{answer}");
    // The proxy is among private addresses, so it is given no name that it could understand otherwise.
    let heads = server.heads();
    assert!(heads[0].starts_with("CONNECT 93.184.216.34:80 HTTP/1.1\r\n"), "{heads:?}");
    assert!(
        heads[1].starts_with("GET /page HTTP/1.1\r\n") && !heads[1].contains("Authorization"),
        "{heads:?}"
    );
    let answer = ask_once(&through.proxy_url(), &get("http://inside.test/")).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let (_, denied) = gate(&egress, Some(&proxy(ProxyKind::Http, server.address, "wrong")));
    let answer = ask_once(&denied.proxy_url(), &get("http://shop.test/")).await;
    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("x-crawlify-egress: proxy"), "{answer}");
}

#[tokio::test]
async fn a_workflows_own_proxy_must_be_allowed_itself() {
    let server = Server::start(upstream).await;
    let egress = guard(&[], &[("shop.test", &[&["93.184.216.34"]])]);
    for kind in [ProxyKind::Http, ProxyKind::Socks5] {
        let (_, gate) = gate(&egress, Some(&proxy(kind, server.address, "hunter2")));
        let answer = ask_once(&gate.proxy_url(), &get("http://shop.test/")).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_workflows_own_socks_proxy_is_asked_with_its_credentials() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let egress = guard(&[&address.to_string()], &[("shop.test", &[&["93.184.216.34"]])]);
    let (_, gate) = gate(&egress, Some(&proxy(ProxyKind::Socks5, address, "hunter2")));
    let served = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut methods = vec![0; 2];
        stream.read_exact(&mut methods).await.unwrap();
        let mut offered = vec![0; usize::from(methods[1])];
        stream.read_exact(&mut offered).await.unwrap();
        assert!(methods[0] == 5 && offered.contains(&2), "{offered:?}");
        stream.write_all(&[5, 2]).await.unwrap();
        let mut login = [0; 12];
        stream.read_exact(&mut login).await.unwrap();
        assert_eq!(&login, b"\x01\x02me\x07hunter2");
        stream.write_all(&[1, 0]).await.unwrap();
        let mut request = [0; 10];
        stream.read_exact(&mut request).await.unwrap();
        assert_eq!(request, [5, 1, 0, 1, 93, 184, 216, 34, 0, 80]);
        stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
        let head = read_head(&mut stream).await.unwrap();
        stream.write_all(&hello(&head)).await.unwrap();
        // Kept until the browser has read.
        stream
    };
    let request = get("http://shop.test/");
    let url = gate.proxy_url();
    let (answer, _stream) = tokio::join!(ask_once(&url, &request), served);
    assert!(answer.ends_with("hello"), "{answer}");
}
