//! Pages that try ways out again and again, and tell their site of each attempt; and how long they are held behind
//! the guard.

use std::time::Duration;

use axum::response::{Html, IntoResponse};
use harness::answering_site::{AnsweringSite, text};
use harness::wait::wait_for;

const PATIENCE: Duration = Duration::from_secs(15);
/// How many times as long a page is held behind the guard as the slowest way takes without it.
const TIMES: u32 = 3;
/// However fast that is.
pub(super) const LEAST: Duration = Duration::from_secs(5);
/// However slow that is.
const MOST: Duration = Duration::from_secs(30);

/// Again and again, as some connections never come to send anything. A way is reported when its attempt has come to an
/// end without an error; that of a connection does when the browser says that it looks for candidates.
const SCRIPT: &str = "const again = (way, attempt) =>
        setInterval(() => attempt().then(() => fetch('/tried/' + way)), 500);
    async function offer(server) {
        const peer = new RTCPeerConnection({ iceServers: server ? [server] : [] });
        const gathers = new Promise((resolve) => { peer.onicegatheringstatechange = resolve; });
        peer.createDataChannel('x');
        await peer.setLocalDescription(await peer.createOffer());
        setTimeout(() => peer.close(), 2000);
        await gathers;
        return peer;
    }";

/// A site with one page, whose scripts may call `again` with the name of a way and a function that tries it, and
/// `offer` with a server of WebRTC or none.
pub(super) async fn site_of(body: &str) -> AnsweringSite {
    let page = format!("<!doctype html><link rel=icon href='data:,'><script>{SCRIPT}</script>{body}");
    AnsweringSite::start(move |_, path| match path {
        "/" => Html(page.clone()).into_response(),
        _ => text(""),
    })
    .await
}

/// How long ago the page was asked for.
pub(super) fn since_asked_for(site: &AnsweringSite) -> Duration {
    site.times().first().expect("the page was asked for").elapsed()
}

/// Waits until the page has reported each of these ways.
pub(super) async fn tried(site: &AnsweringSite, ways: &[&str]) {
    for way in ways {
        let report = format!("/tried/{way}");
        wait_for(&format!("`{way}` is tried"), PATIENCE, async || site.asked_for(&report) > 0).await;
    }
}

/// Holds a page behind the guard, given how long the slowest way takes without it, and sees that it tries each of these
/// ways to the end.
pub(super) async fn hold(site: &AnsweringSite, ways: &[&str], slowest: Duration) {
    tokio::time::sleep((slowest * TIMES).clamp(LEAST, MOST)).await;
    for way in ways {
        let report = format!("/tried/{way}");
        let before = site.asked_for(&report);
        wait_for(&format!("`{way}` is still tried"), PATIENCE, async || site.asked_for(&report) > before)
            .await;
    }
}
