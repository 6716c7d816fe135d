//! Not one packet leaves the machine behind the guard, of whatever kind: not over UDP, and none that asks the neighbours for a
//! name (mDNS).

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::response::{Html, IntoResponse};
use crawlify_worker::egress::EgressOptions;
use crawlify_worker::egress::resolve::Resolver;
use harness::answering_site::{AnsweringSite, text};
use harness::own_network::OwnNetwork;
use harness::wait::wait_for;

use super::{Browser, Kind};

const PATIENCE: Duration = Duration::from_secs(15);
/// A host of the network, for an address that this machine has beside loopback's.
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

/// By what a page has packets sent, without the guard.
const WAYS: [(&str, &str); 5] = [
    ("a STUN server", "connect({ urls: 'stun:203.0.113.9:3478' })"),
    ("a TURN server", "connect({ urls: 'turn:203.0.113.9:3478', username: 'x', credential: 'x' })"),
    (
        "a TURN server among the neighbours",
        "connect({ urls: 'turn:planted.local:3478?transport=tcp', username: 'x', credential: 'x' })",
    ),
    ("a peer among the neighbours", "meet('1b2c3d4e-0000-4000-8000-123456789abc.local')"),
    ("WebTransport", "setInterval(() => new WebTransport('https://203.0.113.9/'), 500)"),
];
/// Again and again, as some connections never come to send anything.
const SCRIPT: &str = "async function offer(servers) {
        const peer = new RTCPeerConnection({ iceServers: servers });
        peer.createDataChannel('x');
        await peer.setLocalDescription(await peer.createOffer());
        setTimeout(() => peer.close(), 2000);
        return peer;
    }
    const connect = (server) => setInterval(() => offer([server]), 500);
    const meet = (name) => setInterval(async () => {
        const [mine, other] = [await offer([]), new RTCPeerConnection()];
        await other.setRemoteDescription(mine.localDescription);
        await other.setLocalDescription(await other.createAnswer());
        await mine.setRemoteDescription(other.localDescription);
        await mine.addIceCandidate({ candidate: `candidate:1 1 udp 2113937151 ${name} 50000 typ host`, sdpMid: '0' });
        setTimeout(() => other.close(), 2000);
    }, 500);
    setTimeout(() => fetch('/done'), 3000);";

/// Knows no name.
#[derive(Debug)]
struct KnowsNone;

#[async_trait]
impl Resolver for KnowsNone {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn guard() -> EgressOptions {
    EgressOptions { resolver: Arc::new(KnowsNone), ..EgressOptions::allowing(&["127.0.0.1"]).unwrap() }
}

/// A site whose page does all that.
async fn site_of(acts: &str) -> AnsweringSite {
    let page = format!("<!doctype html><link rel=icon href='data:,'><script>{SCRIPT}; {acts}</script>");
    AnsweringSite::start(move |_, path| match path {
        "/" => Html(page.clone()).into_response(),
        _ => text(""),
    })
    .await
}

async fn try_all(network: &OwnNetwork, kind: Kind) {
    network.lead_out();
    let acts: Vec<_> = WAYS.iter().map(|(_, act)| *act).collect();
    let site = site_of(&acts.join(";")).await;
    let before = network.packets_sent();
    let guarded = Browser::of(kind, Some(guard())).await;
    let is_done = async || {
        wait_for("the page is done", PATIENCE, async || site.asked_for("/done") > 0).await;
    };
    guarded.visit(&site.url("/"), is_done).await.unwrap();
    drop(guarded);
    assert_eq!(network.packets_sent() - before, 0, "packets that left the machine behind the guard");

    for (way, act) in WAYS {
        let site = site_of(act).await;
        // One of its own, so that nothing comes late.
        let free = Browser::of(kind, None).await;
        let before = network.packets_sent();
        let sends = async || {
            let what = format!("{way} has packets sent without the guard");
            wait_for(&what, PATIENCE, async || network.packets_sent() > before).await;
        };
        free.visit(&site.url("/"), sends).await.unwrap();
    }
}

/// In the test of this name.
fn within_a_network(test: &str, kind: Kind) {
    let Some(network) = OwnNetwork::enter(&format!("egress::packets::{test}"), &[HOST]) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(try_all(&network, kind));
}

#[test]
fn no_packet_leaves_the_machine_behind_the_guard() {
    within_a_network("no_packet_leaves_the_machine_behind_the_guard", Kind::Usual);
}

#[test]
fn no_packet_of_the_full_browsers_leaves_the_machine_behind_the_guard() {
    within_a_network("no_packet_of_the_full_browsers_leaves_the_machine_behind_the_guard", Kind::Full);
}
