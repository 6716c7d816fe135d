//! Not one packet leaves the machine behind the guard, of whatever kind: not over UDP, and none that asks the neighbours for a
//! name (mDNS).

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use crawlify_worker::chrome::driver::Driver;
use crawlify_worker::egress::EgressOptions;
use crawlify_worker::egress::resolve::Resolver;
use harness::own_network::OwnNetwork;
use harness::wait::wait_for;

use super::trying::{LEAST, hold, since_asked_for, site_of, tried};
use super::{Browser, Kind};

const PATIENCE: Duration = Duration::from_secs(15);
/// A host of the network, for an address that this machine has beside loopback's.
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

/// By what a page has packets sent, without the guard: the name of each way, and how it is tried. First those to far addresses.
const FAR_WAYS: [(&str, &str); 3] = [
    ("stun", "offer({ urls: 'stun:203.0.113.9:3478' })"),
    ("turn", "offer({ urls: 'turn:203.0.113.9:3478', username: 'x', credential: 'x' })"),
    // It fails everywhere: what counts is that the browser has said so.
    ("web_transport", "new WebTransport('https://203.0.113.9/').ready.catch(() => {})"),
];
/// Then those that ask for neighbours.
const NEAR_WAYS: [(&str, &str); 2] = [
    (
        "turn_among_the_neighbours",
        "offer({ urls: 'turn:planted.local:3478?transport=tcp', username: 'x', credential: 'x' })",
    ),
    ("peer_among_the_neighbours", "meet('1b2c3d4e-0000-4000-8000-123456789abc.local')"),
];
const MEET: &str = "async function meet(name) {
        const [mine, other] = [await offer(), new RTCPeerConnection()];
        await other.setRemoteDescription(mine.localDescription);
        await other.setLocalDescription(await other.createAnswer());
        await mine.setRemoteDescription(other.localDescription);
        await mine.addIceCandidate({ candidate: `candidate:1 1 udp 2113937151 ${name} 50000 typ host`, sdpMid: '0' });
        setTimeout(() => other.close(), 2000);
    }";

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

/// What a page has in it that tries these ways.
fn trying_by(ways: &[(&str, &str)]) -> String {
    let acts: String = ways.iter().map(|(way, act)| format!("again('{way}', () => {act});")).collect();
    format!("<script>{MEET} {acts}</script>")
}

async fn try_all(network: &OwnNetwork, kind: Kind) {
    // One cable for all: a browser that comes to another one of the same name sends none of what it would, guard or not.
    network.lead_out();
    let mut slowest = Duration::ZERO;
    for way in FAR_WAYS {
        let sent = || network.packets_sent_far();
        slowest = slowest.max(sent_without_the_guard(kind, way, sent).await);
    }
    // Unguarded, a full browser sends packets whatever its page does, so that these two would show nothing.
    if matches!(kind, Kind::Usual) {
        assert_idle_sends_nothing(network, kind).await;
        for way in NEAR_WAYS {
            slowest = slowest.max(sent_without_the_guard(kind, way, || network.packets_sent()).await);
        }
    }

    let ways = [&FAR_WAYS[..], &NEAR_WAYS].concat();
    let site = site_of(&trying_by(&ways)).await;
    let before = network.packets_sent();
    let guarded = Browser::of(kind, Some(guard())).await;
    let url = site.url("/");
    let visited = guarded.visit(&url, async || {
        let ways: Vec<_> = ways.iter().map(|(way, _)| *way).collect();
        tried(&site, &ways).await;
        hold(&site, &ways, slowest).await;
    });
    visited.await.unwrap();
    guarded.driver.close().await;
    assert_eq!(network.packets_sent() - before, 0, "packets that left the machine behind the guard");
}

/// A page that tries nothing has nothing sent without the guard either.
async fn assert_idle_sends_nothing(network: &OwnNetwork, kind: Kind) {
    let site = site_of("").await;
    let (url, before) = (site.url("/"), network.packets_sent());
    let free = Browser::of(kind, None).await;
    free.visit(&url, async || tokio::time::sleep(LEAST).await).await.unwrap();
    free.driver.close().await;
    assert_eq!(network.packets_sent() - before, 0, "packets that nobody had sent");
}

/// Tries one way without the guard. Answers how long it took from the request for the page to the first packet.
async fn sent_without_the_guard(
    kind: Kind,
    (way, act): (&str, &str),
    packets_sent: impl Fn() -> u64,
) -> Duration {
    let site = site_of(&trying_by(&[(way, act)])).await;
    // A browser of its own, which is gone in the end, so that nothing comes late.
    let free = Browser::of(kind, None).await;
    let before = packets_sent();
    let (url, mut took) = (site.url("/"), Duration::ZERO);
    let visited = free.visit(&url, async || {
        let what = format!("`{way}` has packets sent without the guard");
        wait_for(&what, PATIENCE, async || packets_sent() > before).await;
        took = since_asked_for(&site);
        tried(&site, &[way]).await;
    });
    visited.await.unwrap();
    free.driver.close().await;
    took
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
