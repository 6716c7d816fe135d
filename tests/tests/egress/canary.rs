//! The canary: every vector of a hostile site reaches it without the guard, and none does behind it, in the browser that
//! crawls use here and in a full one. Which are dead in which, guard or no guard, is said beside the vectors.

use std::time::Duration;

use axum::response::{Html, IntoResponse};
use crawlify_shared::domain::outcome::ErrorClass;
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_worker::chrome::driver::{DomProgram, Driver, Static};
use crawlify_worker::egress::EgressOptions;
use futures_util::StreamExt;
use futures_util::stream;
use harness::answering_site::AnsweringSite;
use harness::hostile::{
    Canary, DEAD_IN_FULL_BROWSER, DEAD_IN_HEADLESS_SHELL, HostileSite, LuredSite, VECTORS, Vector, Way,
};
use harness::postgres::TestDatabase;
use harness::wait::wait_for;
use tokio::time::Instant;

use super::{Browser, Kind};

/// Vectors that are tried at once, each on a canary of its own.
const AT_ONCE: usize = 6;
const PATIENCE: Duration = Duration::from_secs(15);
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// What became of a vector.
struct Tried {
    vector: &'static Vector,
    hits: usize,
    failed: Option<ErrorClass>,
}

/// Tries a vector. One that is to be live has time to reach its canary, however busy the machine is.
async fn try_one(browser: &Browser, site: &HostileSite, vector: &'static Vector, is_live: bool) -> Tried {
    let canary = Canary::start().await;
    let url = site.url_of(vector, canary.address);
    let visited = browser.visit(&url, async || {
        if matches!(vector.way, Way::Staying(_)) {
            let what = format!("the page of `{}` has done its work", vector.name);
            wait_for(&what, PATIENCE, async || site.is_done(vector)).await;
        }
        let reached = async {
            while canary.hits() == 0 {
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
        };
        if is_live {
            // Whoever tries it says what it means if it has not.
            let _ = tokio::time::timeout(PATIENCE, reached).await;
        }
    });
    let failed = visited.await.err().map(|failure| failure.class);
    Tried { vector, hits: canary.hits(), failed }
}

/// Tries all of them, of which those are live that are.
async fn try_all(browser: &Browser, site: &HostileSite, is_live: impl Fn(&Vector) -> bool) -> Vec<Tried> {
    let trying = VECTORS.iter().map(|vector| try_one(browser, site, vector, is_live(vector)));
    stream::iter(trying).buffered(AT_ONCE).collect().await
}

fn allowing(site: &HostileSite) -> EgressOptions {
    let (address, name) = (site.address.to_string(), format!("localhost:{}", site.address.port()));
    EgressOptions::allowing(&[&address, &name]).unwrap()
}

async fn try_behind_the_guard(kind: Kind) {
    let site = HostileSite::start().await;
    let browser = Browser::of(kind, Some(allowing(&site))).await;
    let tried = try_all(&browser, &site, |_| false).await;
    let hit: Vec<_> = tried.iter().filter(|one| one.hits > 0).map(|one| one.vector.name).collect();
    assert!(hit.is_empty(), "these reached the canary: {hit:?}");
    for one in &tried {
        let expected = matches!(one.vector.way, Way::Address(_) | Way::Leaving(_));
        let expected = expected.then_some(ErrorClass::SsrfBlocked);
        assert_eq!(one.failed, expected, "{}", one.vector.name);
    }
}

async fn try_without_the_guard(kind: Kind) {
    let site = HostileSite::start().await;
    let browser = Browser::of(kind, None).await;
    let dead = if browser.is_headless_shell() { DEAD_IN_HEADLESS_SHELL } else { DEAD_IN_FULL_BROWSER };
    let tried = try_all(&browser, &site, |vector| !dead.contains(&vector.name)).await;
    for one in &tried {
        let live = if one.hits > 0 { "live" } else { "dead" };
        eprintln!("{live:5} {:3} {}", one.hits, one.vector.name);
    }
    let is_silent = |one: &&Tried| one.hits == 0 && !dead.contains(&one.vector.name);
    let silent: Vec<_> = tried.iter().filter(is_silent).map(|one| one.vector.name).collect();
    assert!(
        silent.is_empty(),
        "these did not reach the canary, in {}: {silent:?}",
        browser.driver.description()
    );
}

#[tokio::test]
async fn no_vector_reaches_the_canary_behind_the_guard() {
    try_behind_the_guard(Kind::Usual).await;
}

#[tokio::test]
async fn no_vector_reaches_the_canary_from_the_full_browser_behind_the_guard() {
    try_behind_the_guard(Kind::Full).await;
}

#[tokio::test]
async fn every_vector_is_live_without_the_guard_but_those_that_are_dead_in_this_browser() {
    try_without_the_guard(Kind::Usual).await;
}

#[tokio::test]
async fn every_vector_is_live_in_the_full_browser_without_the_guard_but_those_that_are_dead_there() {
    try_without_the_guard(Kind::Full).await;
}

#[tokio::test]
async fn the_lure_of_other_tests_reaches_its_canary_without_the_guard_only() {
    let shop = AnsweringSite::start(|_, _| Html("<h1>shop</h1>").into_response()).await;
    for (options, is_live) in [(None, true), (Some(EgressOptions::allowing(&["127.0.0.1"]).unwrap()), false)]
    {
        let lured = LuredSite::before(&shop.url("/")).await;
        let browser = Browser::behind(options).await;
        let tried = async || {
            wait_for("the page has tried", PATIENCE, async || lured.tried() > 0).await;
        };
        browser.visit(&lured.url(), tried).await.unwrap();
        assert_eq!(lured.canary.hits() > 0, is_live);
    }
}

#[tokio::test]
async fn what_is_read_without_a_tab_goes_through_the_guard_too() {
    let site = HostileSite::start().await;
    for (options, is_live) in [(None, true), (Some(allowing(&site)), false)] {
        let browser = Browser::behind(options).await;
        let canary = Canary::start().await;
        let program = DomProgram::new(Vec::new());
        for address in [
            format!("http://{}/", canary.address),
            format!("http://{}/redirect?http://{}/", site.address, canary.address),
        ] {
            let url = PageUrl::parse(&address).unwrap();
            let deadline = Instant::now() + PATIENCE;
            let read = browser.driver.read_static(&browser.session, &url, &program, true, deadline).await;
            if let Static::Read { document, .. } = read {
                assert_eq!(document.status, Some(if is_live { 200 } else { 403 }), "{address}");
            }
        }
        assert_eq!(canary.hits() > 0, is_live);
    }
}

/// What would be asked of RabbitMQ or Postgres, of the API, and of DevTools, which listen on a worker's own machine
/// as a rule. None of them does here: the guard judges an address and a port, whoever listens there, so a canary
/// stands for all.
const PATHS: [&str; 3] = ["/", "/api/v1/workflows", "/json/new?http://localhost/"];
/// By which of the vectors a page would ask.
const WAYS: [&str; 4] = ["fetch_no_cors", "form_post_frame", "websocket", "form_localhost"];

#[tokio::test]
async fn a_port_of_the_workers_own_machine_is_reached_without_the_guard_only() {
    let ways: Vec<_> = VECTORS.iter().filter(|vector| WAYS.contains(&vector.name)).collect();
    assert_eq!(ways.len(), WAYS.len());
    for is_guarded in [false, true] {
        let site = HostileSite::start().await;
        let browser = Browser::behind(is_guarded.then(|| allowing(&site))).await;
        for path in PATHS {
            // It answers anything as a page, so that whoever gets so far goes on.
            let canary = Canary::start().await;
            let url = format!("http://{}{path}", canary.address);
            let failed = browser.visit(&url, async || ()).await.err().map(|failure| failure.class);
            assert_eq!(failed, is_guarded.then_some(ErrorClass::SsrfBlocked), "{path}");
            assert_eq!(canary.hits() > 0, !is_guarded, "{path} by its address");
        }
        let tried =
            stream::iter(&ways).map(|way| try_one(&browser, &site, way, !is_guarded)).buffered(AT_ONCE);
        for tried in tried.collect::<Vec<_>>().await {
            assert_eq!(tried.hits > 0, !is_guarded, "by {}", tried.vector.name);
        }
    }
}

#[tokio::test]
async fn a_forbidden_page_fails_for_good_and_says_no_more_than_that() {
    let site = HostileSite::start().await;
    let (canary, database) = (Canary::start().await, TestDatabase::create().await);
    let browser = Browser::behind(Some(allowing(&site))).await;
    let postgres = url::Url::parse(database.url().expose()).unwrap().port().unwrap_or(5432);
    for address in [
        format!("http://{}/", canary.address),
        format!("https://{}/", canary.address),
        format!("http://{}/redirect?https://{}/", site.address, canary.address),
        format!("http://127.0.0.1:{postgres}/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://[::ffff:169.254.169.254]/".to_owned(),
        "http://localhost:8080/api/v1/workflows".to_owned(),
    ] {
        let failure = browser.visit(&address, async || ()).await.unwrap_err();
        assert_eq!(
            (failure.class, failure.message.as_str()),
            (ErrorClass::SsrfBlocked, "the address is not allowed"),
            "{address}"
        );
        assert!(!failure.class.is_transient());
    }
    assert_eq!(canary.hits(), 0);
}
