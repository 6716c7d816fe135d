//! Which public addresses are the worker's own machine's, where the kernel lets one listen at any; and what a workflow's proxy is told
//! that stands at one of them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use crawlify_shared::domain::workflow::{Proxy, ProxyKind};
use crawlify_worker::egress::resolve::Resolver;
use crawlify_worker::egress::{Destination, EgressOptions, pinned};
use harness::own_network::OwnNetwork;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::Browser;

const OURS: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 99);
const OF_THE_INTERNET: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);
const TUNNEL: &str = "HTTP/1.1 200 OK\r\n\r\n";
const PAGE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<h1>shop</h1>";

/// What is not public must be pinned to be reached.
fn is_public(address: Ipv4Addr) -> bool {
    let destination = Destination::of(&format!("http://{address}/").parse().unwrap()).unwrap();
    pinned(destination, vec![address.into()]).is_none()
}

#[test]
fn where_one_can_listen_at_any_address_only_the_machines_own_are_its_own() {
    let name = "egress::own_addresses::where_one_can_listen_at_any_address_only_the_machines_own_are_its_own";
    let Some(network) = OwnNetwork::enter(name, &[OURS]) else { return };
    assert!(is_public(OF_THE_INTERNET) && !is_public(OURS));
    network.let_any_address_be_listened_at();
    UdpSocket::bind((OF_THE_INTERNET, 0)).expect("one can listen there now");
    assert!(is_public(OF_THE_INTERNET) && !is_public(OURS));
}

/// Has every name in the internet.
#[derive(Debug)]
struct InTheInternet;

#[async_trait]
impl Resolver for InTheInternet {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Ok(vec![OF_THE_INTERNET.into()])
    }
}

#[test]
fn a_proxy_at_a_public_address_of_the_machines_own_is_given_no_name() {
    let name = "egress::own_addresses::a_proxy_at_a_public_address_of_the_machines_own_is_given_no_name";
    let Some(_network) = OwnNetwork::enter(name, &[OURS]) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind((OURS, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut server = JoinSet::new();
        server.spawn(answer_for_all(listener, Arc::clone(&asked)));

        let allowed = EgressOptions::allowing(&[&address.to_string()]).unwrap();
        let options = EgressOptions { resolver: Arc::new(InTheInternet), ..allowed };
        let mut browser = Browser::behind(Some(options)).await;
        let (kind, host, port) = (ProxyKind::Http, url::Host::Ipv4(OURS), address.port());
        browser.session.proxy = Some(Proxy { kind, host, port, credentials: None });
        browser.visit("http://shop.test/", async || ()).await.unwrap();

        let asked = asked.lock().unwrap();
        assert_eq!(asked[0], format!("CONNECT {OF_THE_INTERNET}:80 HTTP/1.1"));
        assert!(!asked.iter().any(|line| line.contains("shop.test")), "{asked:?}");
    });
}

/// A proxy that answers in the place of every site, and notes what it was asked for.
async fn answer_for_all(listener: TcpListener, asked: Arc<Mutex<Vec<String>>>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(answer(stream, Arc::clone(&asked)));
    }
}

async fn answer(mut client: TcpStream, asked: Arc<Mutex<Vec<String>>>) {
    while let Some(head) = read_head(&mut client).await {
        let said = if head.starts_with("CONNECT ") { TUNNEL } else { PAGE };
        asked.lock().unwrap().extend(head.lines().next().map(str::to_owned));
        if client.write_all(said.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read_head(client: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}
