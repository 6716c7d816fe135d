//! What the machine's own name server hears of: no name that a page plants, as the guard alone resolves those; and
//! what the guard makes of a name there that is an alias.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use crawlify_shared::domain::outcome::ErrorClass;
use crawlify_worker::chrome::driver::Driver;
use crawlify_worker::egress::EgressOptions;
use crawlify_worker::egress::resolve::Resolver;
use harness::hostile::{Alias, Canary, NameServer};
use harness::wait::wait_for;

use super::trying::{hold, since_asked_for, site_of, tried};
use super::{Browser, Kind};

const PATIENCE: Duration = Duration::from_secs(15);

/// What the names of a page end with. Before it comes the way by which it has one looked up.
const PLANTED: &str = ".planted.test";
/// By which elements a page has names looked up without the guard, and of it where there is one, in whatever browser.
const LOOKED_UP: [(&str, &str); 5] = [
    ("picture", "<img src='http://picture.planted.test/'>"),
    ("frame", "<iframe src='http://frame.planted.test/'></iframe>"),
    ("request", "<script>fetch('http://request.planted.test/', { mode: 'no-cors' })</script>"),
    ("socket", "<script>new WebSocket('ws://socket.planted.test/')</script>"),
    (
        "turn",
        "<script>again('turn', () => offer({ urls: 'turn:turn.planted.test:3478?transport=tcp', username: 'x', credential: 'x' }))</script>",
    ),
];
/// By which it may: what a browser does with them is its own affair, and is printed, and not held to anything.
const MAY_BE_LOOKED_UP: [(&str, &str); 4] = [
    ("prefetch", "<link rel=dns-prefetch href='http://prefetch.planted.test/'>"),
    ("preconnect", "<link rel=preconnect href='http://preconnect.planted.test/'>"),
    ("link", "<a href='http://link.planted.test/'>x</a>"),
    ("stun", "<script>again('stun', () => offer({ urls: 'stun:stun.planted.test:3478' }))</script>"),
];
/// Those of them that the page reports. Of the others it is not told what the browser did.
const REPORTED: [&str; 2] = ["turn", "stun"];

const ALIAS: Alias =
    Alias { name: "alias.planted.test", target: "inside.planted.test", address: Ipv4Addr::new(127, 0, 0, 2) };

/// Knows no name, and notes for which it was asked.
#[derive(Debug, Default)]
struct KnowsNone(Mutex<Vec<String>>);

#[async_trait]
impl Resolver for KnowsNone {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.0.lock().unwrap().push(name.to_owned());
        Err(io::ErrorKind::NotFound.into())
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

/// Visits a page that plants every name, until those have been asked for that must be, and holds it, given how long
/// that took without the guard. Answers how long it took.
async fn visit_planted(browser: &Browser, slowest: Duration, asked: impl Fn() -> Vec<String>) -> Duration {
    let elements: String = LOOKED_UP.iter().chain(&MAY_BE_LOOKED_UP).map(|(_, element)| *element).collect();
    let site = site_of(&elements).await;
    let (url, mut took) = (site.url("/"), Duration::ZERO);
    let visited = browser.visit(&url, async || {
        wait_for("its names are asked for", PATIENCE, async || {
            let asked = asked();
            LOOKED_UP.iter().all(|(way, _)| has_asked(&asked, way))
        })
        .await;
        took = since_asked_for(&site);
        tried(&site, &REPORTED).await;
        hold(&site, &REPORTED, slowest).await;
    });
    visited.await.unwrap();
    took
}

fn has_asked(names: &[String], way: &str) -> bool {
    let planted = format!("{way}{PLANTED}");
    names.contains(&planted)
}

/// In the test of this name.
fn plant_names(test: &str, kind: Kind) {
    let Some(_network) = NameServer::enter(&format!("egress::own_names::{test}")) else { return };
    run(async {
        let server = NameServer::start(&[]).await;
        let free = Browser::of(kind, None).await;
        let took = visit_planted(&free, Duration::ZERO, || server.asked()).await;
        free.driver.close().await;
        let asked = server.asked();
        for (way, _) in LOOKED_UP.iter().chain(&MAY_BE_LOOKED_UP) {
            eprintln!("{} {way}", if has_asked(&asked, way) { "live" } else { "dead" });
        }

        // Behind the guard the same page has the same server asked for nothing.
        let resolver = Arc::new(KnowsNone::default());
        let options = EgressOptions {
            resolver: Arc::clone(&resolver) as Arc<dyn Resolver>,
            ..EgressOptions::allowing(&["127.0.0.1"]).unwrap()
        };
        let guarded = Browser::of(kind, Some(options)).await;
        let before = server.asked().len();
        visit_planted(&guarded, took, || resolver.0.lock().unwrap().clone()).await;
        drop(guarded);
        let asked = server.asked().into_iter().skip(before);
        let leaked: Vec<_> = asked.filter(|name| name.contains(PLANTED)).collect();
        assert!(leaked.is_empty(), "these were asked for past the guard: {leaked:?}");
    });
}

#[test]
fn no_name_that_a_page_plants_is_asked_for_at_the_machines_own_name_server() {
    plant_names("no_name_that_a_page_plants_is_asked_for_at_the_machines_own_name_server", Kind::Usual);
}

#[test]
fn no_name_that_a_page_plants_is_asked_for_by_the_full_browser() {
    plant_names("no_name_that_a_page_plants_is_asked_for_by_the_full_browser", Kind::Full);
}

#[test]
fn an_alias_of_a_name_that_is_inside_leads_nowhere() {
    let name = "egress::own_names::an_alias_of_a_name_that_is_inside_leads_nowhere";
    let Some(_network) = NameServer::enter(name) else { return };
    run(async {
        let server = NameServer::start(&[ALIAS]).await;
        for is_guarded in [true, false] {
            let canary = Canary::at(&format!("{}:0", ALIAS.address)).await;
            let allowed = if is_guarded { "127.0.0.1" } else { "0.0.0.0/0" };
            // With the system's own resolver.
            let browser = Browser::behind(Some(EgressOptions::allowing(&[allowed]).unwrap())).await;
            let url = format!("http://{}:{}/", ALIAS.name, canary.address.port());
            let failed = browser.visit(&url, async || ()).await.err().map(|failure| failure.class);
            assert_eq!(failed, is_guarded.then_some(ErrorClass::SsrfBlocked));
            assert_eq!(canary.hits() > 0, !is_guarded);
        }
        assert!(server.asked().iter().any(|name| name == ALIAS.name), "{:?}", server.asked());
    });
}
