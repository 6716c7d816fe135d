//! Pages that load more than a page may.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use crawlify_shared::domain::outcome::ErrorClass;
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::{Block, ElementState, ResourceKind, WaitUntil};
use futures_util::StreamExt;
use serde_json::json;
use tokio::time::Instant;

use super::bench::{Bench, one, options, read_all, run, session, soon, wait_for};
use super::socket_site::socket_site;
use super::tls_site::self_signed_site;
use crate::chrome::ChromeOptions;
use crate::chrome::driver::{Driver, Session, Tab, TabError};
use crate::egress::{Egress, EgressOptions};

const REQUESTS: u64 = 200;
const BYTES: u64 = 8 << 20;

/// The site of these tests.
pub(super) fn answer(path: &str) -> Response {
    let page = |script: &str| Html(format!("<h1>begun</h1><script>{script}</script>")).into_response();
    match path.trim_start_matches("/loads/") {
        "pictures" => page(
            "let next = 0; const load = () => { const picture = new Image(); picture.onerror = load; \
             picture.src = '/loads/small?' + next++ }; load(); load()",
        ),
        "counted" => page(
            "let tried = 0; const load = () => { document.querySelector('h1').dataset.tried = ++tried; \
             const picture = new Image(); if (tried < 1000) picture.onerror = load; \
             picture.src = '/loads/small.png?' + tried }; load()",
        ),
        "fetches" => {
            page("onload = async () => { for (let next = 0; ; next++) await fetch('/loads/small?' + next) }")
        }
        "worker" => page("new Worker('/loads/worker.js')"),
        "service" => page("navigator.serviceWorker.register('/loads/worker.js')"),
        "shared" => page("new SharedWorker('/loads/worker.js')"),
        "worker.js" => (
            [(header::CONTENT_TYPE, "text/javascript")],
            "(async () => { for (let next = 0; ; next++) await fetch('/loads/small?' + next) })()",
        )
            .into_response(),
        "stream" => {
            page("onload = async () => (await fetch('/loads/bytes')).body.pipeTo(new WritableStream())")
        }
        "bytes" => {
            let piece = Bytes::from_static(&[b'x'; 1 << 16]);
            let body = futures_util::stream::repeat(piece).map(Ok::<_, Infallible>);
            Body::from_stream(body).into_response()
        }
        "few" => page("for (let next = 0; next < 20; next++) fetch('/loads/small?' + next)"),
        _ => ([(header::CACHE_CONTROL, "no-store")], "small").into_response(),
    }
}

/// With bounds that are soon passed, and a browser that looks at no certificates.
async fn bench() -> Bench {
    let allowed = EgressOptions::allowing(&["127.0.0.1"]).unwrap();
    let egress = EgressOptions { page_bytes: BYTES, page_requests: REQUESTS, ..allowed };
    let mut options = ChromeOptions { egress: Some(Egress::start(egress).unwrap()), ..options() };
    options.extra_flags.push("--ignore-certificate-errors".to_owned());
    Bench::with(options).await
}

/// Loads a page, and waits there for what never comes.
async fn stay(tab: &mut Box<dyn Tab>, url: &PageUrl) -> TabError {
    match tab.navigate(url, WaitUntil::Load, None, soon()).await {
        Ok(_) => run(tab, [wait_for(".never", ElementState::Attached, 60_000)], soon()).await.unwrap_err(),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_page_that_loads_without_end_fails_for_good_and_its_neighbours_do_not() {
    let bench = bench().await;
    let (tls, _server) = self_signed_site().await;
    let requests = format!("more than {REQUESTS} requests");
    let bytes = format!("more than {BYTES} bytes");
    let endless = PageUrl::parse(&format!("{tls}endless")).unwrap();
    for (url, bound) in [
        (bench.url("/loads/pictures"), &requests),
        (bench.url("/loads/fetches"), &requests),
        (bench.url("/loads/worker"), &requests),
        (bench.url("/loads/stream"), &bytes),
        (endless, &bytes),
    ] {
        let (mut tab, mut neighbour) = (bench.open().await, bench.open().await);
        bench.load(&mut neighbour, "/loads/few").await.unwrap();
        let never = [wait_for(".never", ElementState::Attached, 3_000)];
        let (error, stayed) = tokio::join!(stay(&mut tab, &url), run(&mut neighbour, never, soon()));
        assert_eq!(error.failure.class, ErrorClass::TooLarge, "{url}: {error}");
        assert!(
            error.failure.message.contains(bound) && !error.failure.class.is_transient(),
            "{url}: {error}"
        );
        assert!(!error.tab_usable, "what it does now is not known");
        drop(tab);
        assert!(stayed.unwrap()[0].output.is_err(), "it was waited for to the end");
        assert_eq!(one(&mut neighbour, read_all("h1")).await.unwrap(), json!(["begun"]));
        bench.load(&mut neighbour, "/plain").await.unwrap();
        neighbour.release().await;
    }
}

#[tokio::test]
async fn messages_of_sockets_count_although_they_are_too_long_to_be_taken() {
    let bench = bench().await;
    let (url, _server) = socket_site().await;
    let mut tab = bench.open().await;
    let error = stay(&mut tab, &url).await;
    assert_eq!(error.failure.class, ErrorClass::TooLarge, "{error}");
    assert!(error.failure.message.contains(&format!("more than {BYTES} bytes")), "{error}");
}

#[tokio::test]
async fn what_a_workflow_blocks_is_not_loaded_and_not_counted() {
    let bench = bench().await;
    for block in [
        Block { kinds: vec![ResourceKind::Image], patterns: Vec::new() },
        Block { kinds: Vec::new(), patterns: vec!["*/loads/small*".to_owned()] },
    ] {
        let blocking = Session { block, ..session(&[]) };
        let mut tab = bench.driver.open(&blocking, soon()).await.unwrap();
        bench.load(&mut tab, "/loads/counted").await.unwrap();
        // Far more than it may load, if they counted.
        let tried = [wait_for("h1[data-tried='1000']", ElementState::Attached, 15_000)];
        assert_eq!(run(&mut tab, tried, soon()).await.unwrap()[0].output, Ok(json!(null)));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(one(&mut tab, read_all("h1")).await.unwrap(), json!(["begun"]));
    }
}

#[tokio::test]
async fn many_pages_may_load_together_what_one_may_not() {
    let bench = bench().await;
    let mut resting = bench.open().await;
    bench.load(&mut resting, "/loads/few").await.unwrap();
    for _ in 0..REQUESTS / 10 {
        let mut tab = bench.open().await;
        bench.load(&mut tab, "/loads/few").await.unwrap();
        tab.release().await;
    }
    let never = [wait_for(".never", ElementState::Attached, 1_000)];
    assert!(run(&mut resting, never, soon()).await.unwrap()[0].output.is_err());
}

#[tokio::test]
async fn what_all_pages_of_a_site_share_is_charged_to_none() {
    let bench = bench().await;
    for path in ["/loads/service", "/loads/shared"] {
        let mut tab = bench.open().await;
        bench.load(&mut tab, path).await.unwrap();
        let never = [wait_for(".never", ElementState::Attached, 3_000)];
        assert!(run(&mut tab, never, soon()).await.unwrap()[0].output.is_err(), "{path}");
    }
}

#[tokio::test]
async fn what_all_pages_of_a_site_share_is_ended_where_it_loads_more_than_pages_may() {
    for path in ["/loads/service", "/loads/shared"] {
        let allowed = EgressOptions::allowing(&["127.0.0.1"]).unwrap();
        let egress = Egress::start(EgressOptions { page_requests: 50, ..allowed }).unwrap();
        // A browser that does not run for a second or two is not lost.
        let ping_every = Duration::from_secs(2);
        let bench = Bench::with(ChromeOptions { egress: Some(egress), ping_every, ..options() }).await;
        let execution = bench.session.execution_id;
        let mut tab = bench.open().await;
        bench.load(&mut tab, path).await.unwrap();
        let mut received = 0;
        let deadline = soon();
        // Until nothing comes any more, after far more than the page alone.
        loop {
            assert!(Instant::now() < deadline, "{path} goes on and on: {received} bytes");
            tokio::time::sleep(Duration::from_millis(700)).await;
            match bench.driver.take_received(execution) {
                Some(0) if received > 20_000 => break,
                more => received += more.unwrap_or_default(),
            }
        }
        assert_eq!(one(&mut tab, read_all("h1")).await.unwrap(), json!(["begun"]), "no page pays for it");
        bench.load(&mut tab, "/plain").await.unwrap();
        tab.release().await;
    }
}

#[tokio::test]
async fn what_a_page_does_while_nobody_looks_at_it_ends_as_soon() {
    let bench = bench().await;
    let execution = bench.session.execution_id;
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/loads/stream").await.unwrap();
    let mut received = 0;
    let deadline = soon();
    // Until nothing comes any more, after as much as a page may load.
    loop {
        assert!(Instant::now() < deadline, "it goes on and on: {received} bytes");
        tokio::time::sleep(Duration::from_millis(500)).await;
        match bench.driver.take_received(execution) {
            Some(0) if received > BYTES => break,
            more => received += more.unwrap_or_default(),
        }
    }
    let error = run(&mut tab, [read_all("h1")], soon()).await.unwrap_err();
    assert_eq!(error.failure.class, ErrorClass::TooLarge, "{error}");
}
