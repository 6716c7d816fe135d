//! Pages that use far too much memory.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use crawlify_shared::domain::fault::FaultDomain;
use crawlify_shared::domain::outcome::ErrorClass;
use crawlify_shared::domain::workflow::{ElementState, WaitUntil};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::bench::{Bench, eventually, is_running, one, options, read_all, run, session, soon, wait_for};
use crate::chrome::ChromeOptions;
use crate::chrome::driver::{Driver, Tab, TabError};
use crate::egress::{Egress, EgressOptions};

/// Takes more and more memory, far more than the tests allow, and not all that a machine has.
const TAKE: &str = "const kept = []; const take = () => { kept.push(new Uint8Array(16 << 20).fill(kept.length + 1)); \
                    if (kept.length < 40) setTimeout(take, 20) };";

/// Takes far more than the tests allow while it is being closed, and goes on until it is not waited for any longer.
const LAST_WORDS: &str = "<h1>small so far</h1><script>const kept = []; const go = () => { for (;;) if (kept.length < 20) \
                          kept.push(new Uint8Array(16 << 20).fill(kept.length + 1)) }; \
                          for (const end of ['pagehide', 'visibilitychange', 'unload']) addEventListener(end, go)</script>";

/// Takes 640 MiB, and no more.
const LARGE: &str = "<script>const kept = []; for (let i = 0; i < 40; i++) \
                     kept.push(new Uint8Array(16 << 20).fill(i + 1))</script><h1>large</h1>";

/// The site of these tests: a large page, a page with a worker, and pages with a frame, which is at that port of
/// another site.
pub(super) fn answer(path: &str) -> Response {
    match path.trim_start_matches("/memory/") {
        "worker" => {
            Html("<h1>with a worker</h1><script>new Worker('/memory/worker.js')</script>").into_response()
        }
        "worker.js" => {
            ([(header::CONTENT_TYPE, "text/javascript")], format!("{TAKE} take()")).into_response()
        }
        "large" => Html(LARGE).into_response(),
        "last-words" => Html(LAST_WORDS).into_response(),
        port => Html(format!("<h1>with a frame</h1><iframe src='http://127.0.0.2:{port}/'></iframe>"))
            .into_response(),
    }
}

/// Another site than the bench's, with a page that takes more and more memory once it is there.
async fn hungry_site() -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(|| async { Html(format!("<script>{TAKE} onload = take</script>")) });
    let mut server = JoinSet::new();
    server.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, server)
}

/// Works on until something breaks: an element that never comes.
async fn stay(tab: &mut Box<dyn Tab>) -> TabError {
    let deadline = Instant::now() + Duration::from_secs(60);
    run(tab, [wait_for(".never", ElementState::Attached, 120_000)], deadline).await.unwrap_err()
}

#[tokio::test]
async fn a_document_that_is_unpacked_without_end_ends_alone() {
    let bench = Bench::with(ChromeOptions { page_memory: 150 << 20, ..options() }).await;
    let browser = bench.driver.browser_pid();
    // Of another execution, and of the same one.
    let neighbour = session(&[]);
    let mut other = bench.driver.open(&neighbour, soon()).await.unwrap();
    bench.load(&mut other, "/").await.unwrap();
    let mut beside = bench.open().await;
    bench.load(&mut beside, "/plain").await.unwrap();
    let mut tab = bench.open().await;
    let deadline = Instant::now() + Duration::from_secs(200);
    let loaded = tab.navigate(&bench.url("/bomb"), WaitUntil::Load, None, deadline).await;
    assert_eq!(loaded.unwrap_err().failure.class, ErrorClass::TabCrash);
    assert!(Instant::now() < deadline, "it was ended before its deadline");
    assert_eq!(one(&mut other, read_all("h1")).await.unwrap()[0], " The  Shop ");
    assert_eq!(one(&mut beside, read_all("h1")).await.unwrap()[0], "plain");
    drop(tab);
    assert_eq!(bench.texts(&bench.session, "/plain", "h1").await, ["plain"]);
    assert_eq!(bench.driver.browser_pid(), browser);
}

#[tokio::test]
async fn a_document_that_is_unpacked_without_end_takes_its_browser_down_before_the_machine() {
    let bench = Bench::with(ChromeOptions { browser_memory: 220 << 20, ..options() }).await;
    let first = bench.driver.browser_pid().unwrap();
    let mut tab = bench.open().await;
    let deadline = Instant::now() + Duration::from_secs(200);
    let loaded = tab.navigate(&bench.url("/bomb"), WaitUntil::Load, None, deadline).await;
    assert_eq!(loaded.unwrap_err().failure.class, ErrorClass::BrowserLost);
    eventually("the browser is gone", || !is_running(first)).await;
    drop(tab);
    bench.driver.ready().await;
    assert_eq!(bench.texts(&bench.session, "/plain", "h1").await, ["plain"]);
}

#[tokio::test]
async fn a_page_whose_worker_takes_memory_without_end_ends_alone() {
    let bench = Bench::with(ChromeOptions { page_memory: 150 << 20, ..options() }).await;
    let browser = bench.driver.browser_pid();
    let mut beside = bench.open().await;
    bench.load(&mut beside, "/plain").await.unwrap();
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/memory/worker").await.unwrap();
    let error = stay(&mut tab).await;
    assert_eq!(error.failure.class, ErrorClass::TabCrash, "{error}");
    drop(tab);
    assert_eq!(one(&mut beside, read_all("h1")).await.unwrap()[0], "plain");
    assert_eq!(bench.texts(&bench.session, "/plain", "h1").await, ["plain"]);
    assert_eq!(bench.driver.browser_pid(), browser);
}

/// The page would be recorded without it.
#[tokio::test]
async fn a_frame_in_a_process_of_its_own_that_takes_memory_without_end_has_its_browser_replaced() {
    let (frame, _server) = hungry_site().await;
    let egress = EgressOptions::allowing(&["127.0.0.1", "127.0.0.2"]).unwrap();
    let egress = Some(Egress::start(egress).unwrap());
    let mut options = ChromeOptions { egress, page_memory: 150 << 20, ..options() };
    // Full Chromium keeps sites apart by itself, the headless shell where it is told to.
    options.extra_flags.push("--site-per-process".to_owned());
    let bench = Bench::with(options).await;
    let first = bench.driver.browser_pid().unwrap();
    let mut beside = bench.open().await;
    bench.load(&mut beside, "/plain").await.unwrap();
    let mut tab = bench.open().await;
    bench.load(&mut tab, &format!("/memory/{}", frame.port())).await.unwrap();
    let (error, neighbours) = tokio::join!(stay(&mut tab), stay(&mut beside));
    for error in [error, neighbours] {
        assert_eq!(error.failure.class, ErrorClass::BrowserLost, "{error}");
        assert_eq!(error.failure.domain(), FaultDomain::Browser, "no attempt of its own is used up");
    }
    eventually("the browser is gone", || !is_running(first)).await;
    drop((tab, beside));
    bench.driver.ready().await;
    assert_eq!(bench.texts(&bench.session, "/plain", "h1").await, ["plain"]);
    assert_ne!(bench.driver.browser_pid(), Some(first));
}

/// It is weighed while it dies, which takes half a second, more often than not. Were it weighed more often, a browser
/// that does not run for a second or two would be lost.
#[tokio::test]
async fn a_tab_that_takes_memory_while_it_is_closed_costs_its_neighbours_nothing() {
    let ping_every = Duration::from_millis(900);
    let bench = Bench::with(ChromeOptions { page_memory: 150 << 20, ping_every, ..options() }).await;
    let browser = bench.driver.browser_pid();
    let mut beside = bench.open().await;
    bench.load(&mut beside, "/plain").await.unwrap();
    for _ in 0..5 {
        let mut tab = bench.open().await;
        bench.load(&mut tab, "/memory/last-words").await.unwrap();
        drop(tab);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(bench.driver.browser_pid(), browser);
    }
    assert_eq!(one(&mut beside, read_all("h1")).await.unwrap()[0], "plain");
}

#[tokio::test]
async fn a_browser_that_uses_too_much_memory_is_replaced() {
    let bench = Bench::with(ChromeOptions { browser_memory: 430 << 20, ..options() }).await;
    let first = bench.driver.browser_pid().unwrap();
    assert_eq!(bench.texts(&bench.session, "/plain", "h1").await, ["plain"]);
    // Longer than from one weighing to the next.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(bench.driver.browser_pid(), Some(first), "it uses little so far");
    let mut hungry = bench.open().await;
    bench.load(&mut hungry, "/hungry").await.unwrap();
    eventually("the browser is replaced", || bench.driver.browser_pid().is_some_and(|pid| pid != first))
        .await;
    drop(hungry);
    eventually("the old browser is gone", || !is_running(first)).await;
}

/// One large page fits into what two browsers may have together, beside all that is not the page's, and two do not.
#[tokio::test]
async fn a_browser_that_ends_its_last_pages_goes_where_it_has_too_much_memory_with_the_next_one() {
    let options = ChromeOptions { browser_memory: 900 << 20, pages_per_browser: 2, ..options() };
    let bench = Bench::with(options).await;
    let first = bench.driver.browser_pid().unwrap();
    let mut old = bench.open().await;
    bench.load(&mut old, "/memory/large").await.unwrap();
    assert_eq!(bench.texts(&bench.session, "/plain", "h1").await, ["plain"]);
    eventually("the browser is replaced", || bench.driver.browser_pid().is_some_and(|pid| pid != first))
        .await;
    let next = bench.driver.browser_pid();
    // Longer than from one weighing to the next.
    let weighed = Duration::from_secs(5);
    tokio::time::sleep(weighed).await;
    assert_eq!(one(&mut old, read_all("h1")).await.unwrap()[0], "large", "there is room for both");
    let mut new = bench.open().await;
    let (loaded, error) = tokio::join!(bench.load(&mut new, "/memory/large"), stay(&mut old));
    loaded.unwrap();
    assert_eq!(error.failure.class, ErrorClass::BrowserLost, "{error}");
    assert_eq!(error.failure.domain(), FaultDomain::Browser, "no attempt of its own is used up");
    eventually("the old browser is gone", || !is_running(first)).await;
    tokio::time::sleep(weighed).await;
    assert_eq!(one(&mut new, read_all("h1")).await.unwrap()[0], "large");
    assert_eq!(bench.driver.browser_pid(), next);
}
