//! Pages that are read without being rendered give what they give in a tab, or say that they need one.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use crawlify_shared::domain::workflow::{ElementState, Read, WaitUntil};
use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};

use super::bench::{Bench, css, read, read_all, run, session, soon, step, wait_for};
use crate::chrome::driver::{Document, DomOp, DomProgram, DomStep, Driver, Session, Static};

/// The site of these tests: each page is one trap.
pub(super) fn answer(request: &Request) -> Response {
    let typed = |kind: &'static str, body: Vec<u8>| ([(header::CONTENT_TYPE, kind)], body).into_response();
    let set_by_script = || {
        let body = "<h1>plain</h1><script>document.cookie = 'seen=yes; path=/'; navigator.serviceWorker.register('/static/worker.js')\
            .then(() => navigator.serviceWorker.ready).then(() => document.body.append('ready'))</script>";
        Html(body).into_response()
    };
    match request.uri().path().trim_start_matches("/static/") {
        "declared-latin1" => typed("text/html; charset=ISO-8859-1", b"<h1>caf\xe9 \x80</h1>".to_vec()),
        "meta-latin1" => typed("text/html", b"<!-- <meta charset=utf-8> --><meta charset=latin1><h1>caf\xe9</h1>".to_vec()),
        "meta-http-equiv" => typed(
            "text/html",
            b"<meta http-equiv=content-type content='text/html; charset=windows-1251'><h1>\xcf\xf0\xe8</h1>".to_vec(),
        ),
        "bom" => typed("text/html; charset=latin1", b"\xef\xbb\xbf<h1>caf\xc3\xa9</h1>".to_vec()),
        "utf16" => {
            let text = "\u{feff}<h1>caf\u{e9}</h1>".encode_utf16().flat_map(u16::to_le_bytes).collect();
            typed("text/html", text)
        }
        "shift-jis" => typed("text/html; charset=Shift_JIS", b"<h1>\x93\xfa\x96\x7b</h1>".to_vec()),
        "undeclared" => typed("text/html", b"<h1>caf\xe9</h1>".to_vec()),
        "undeclared-ascii" => typed("text/html", b"<h1>cafe</h1>".to_vec()),
        "unknown-charset" => typed("text/html; charset=nonsense", b"<meta charset=utf-8><h1>caf\xc3\xa9</h1>".to_vec()),
        "xhtml" => typed(
            "application/xhtml+xml",
            b"<html xmlns='http://www.w3.org/1999/xhtml'><head><title>x</title></head><body><h1>strict</h1></body></html>".to_vec(),
        ),
        "text" => typed("text/plain", b"<h1>no markup</h1>".to_vec()),
        "xml" => typed("application/xml", b"<h1>xml</h1>".to_vec()),
        "base" => Html("<base href='/other/'><base href='/second/'><h1>x</h1><a href='page'>p</a>").into_response(),
        "noscript" => Html(
            "<head><noscript><img src=/pixel><h1>in head</h1></noscript><title>t</title></head>\
             <noscript class=n><h1>in body</h1> &amp; more</noscript><h1>outside</h1><p><noscript></noscript>",
        )
        .into_response(),
        "noscript-in-comment" => {
            Html("<!-- <noscript> old --><h1>T</h1><noscript>x</noscript><h2>rest</h2>").into_response()
        }
        "noscript-in-script" => Html("<script>x = '<noscript>'</script><h1>T</h1><noscript>x</noscript>").into_response(),
        "noscript-in-attribute" => Html("<div data-f='<noscript>a</noscript>'><h1>T</h1></div>").into_response(),
        "noscript-in-template" => Html("<template><noscript>a</noscript></template><h1>T</h1>").into_response(),
        "noscript-without-end" => Html("<h1>T</h1><noscript><p>x").into_response(),
        "misleading-meta" => typed(
            "text/html",
            b"<meta name=description content='charset=latin1'><meta charset=utf-8><h1>caf\xc3\xa9</h1>".to_vec(),
        ),
        "meta-in-script" => typed(
            "text/html",
            b"<script>x = '<meta charset=windows-1251>'</script><meta charset=utf-8><h1>caf\xc3\xa9</h1>".to_vec(),
        ),
        "meta-in-title" => typed(
            "text/html",
            b"<title><meta charset=windows-1251></title><meta charset=utf-8><h1>caf\xc3\xa9</h1>".to_vec(),
        ),
        "meta-in-attribute" => typed(
            "text/html",
            b"<html data-x='<meta charset=windows-1251>'><meta charset=utf-8><h1>caf\xc3\xa9</h1>".to_vec(),
        ),
        "clobbered" => {
            Html("<base href=/b/><form name=querySelectorAll></form><form name=querySelector></form><h1>c</h1>")
                .into_response()
        }
        "shadow" => Html("<div><template shadowrootmode=open><h1>in shadow</h1></template></div><h1>light</h1>").into_response(),
        "broken-markup" => Html("<table><h1>moved out<td><a href=x>y<p><a href=z>w</table><li>loose").into_response(),
        "moved" => (StatusCode::FOUND, [(header::LOCATION, "/static/base")]).into_response(),
        "missing" => (StatusCode::NOT_FOUND, Html("<h1>gone</h1>")).into_response(),
        "refresh" => Html("<meta http-equiv=Refresh content='0; url=/static/base'><h1>before</h1>").into_response(),
        "refresh-late" => Html("<meta http-equiv=refresh content='300'><h1>stays</h1>").into_response(),
        "policy" => (
            [(header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox; connect-src 'none'")],
            Html("<h1>locked</h1>"),
        )
            .into_response(),
        "script" => Html("<p>static</p><script>document.body.innerHTML = '<p>made</p><h1>late</h1>'</script>").into_response(),
        "with-worker" => set_by_script(),
        "worker.js" => typed(
            "text/javascript",
            b"oninstall = () => skipWaiting(); onactivate = (e) => e.waitUntil(clients.claim());\
              onfetch = (e) => e.respondWith(new Response('<h1>from the worker</h1>', {headers: {'content-type': 'text/html'}}))"
                .to_vec(),
        ),
        "download" => (
            [(header::CONTENT_TYPE, "text/html"), (header::CONTENT_DISPOSITION, "attachment")],
            "<h1>file</h1>",
        )
            .into_response(),
        "headers" => Html(listed(request.headers())).into_response(),
        "hidden" => Html("<h1>x</h1><p style='display: none'>y</p>").into_response(),
        "pieces" => in_pieces([&b"<meta charset=utf-8><h1>caf\xc3"[..], b"\xa9</h1><p>", b"end"].map(Vec::from)),
        "large-in-pieces" => in_pieces([(); 17].map(|()| vec![b'x'; 1 << 20])),
        "huge" => Html(format!("<h1>huge</h1>{}", "<p>".repeat(200_000))).into_response(),
        "large" => Html(format!("<h1>{}</h1>", "x".repeat(17 << 20))).into_response(),
        _ => StatusCode::NO_CONTENT.into_response(),
    }
}

/// A response that does not say how long it is, and comes a little at a time.
fn in_pieces<const N: usize>(pieces: [Vec<u8>; N]) -> Response {
    let pieces = stream::iter(pieces).then(|piece| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok::<_, Infallible>(piece)
    });
    ([(header::CONTENT_TYPE, "text/html")], Body::from_stream(pieces)).into_response()
}

fn listed(headers: &HeaderMap) -> String {
    let line = |(name, value): (&header::HeaderName, &header::HeaderValue)| {
        format!("<li>{name}: {}</li>", value.to_str().unwrap())
    };
    headers.iter().map(line).collect()
}

impl Bench {
    async fn read_static(&self, session: &Session, path: &str, steps: Vec<DomStep>) -> Static {
        self.driver.read_static(session, &self.url(path), &DomProgram::new(steps), false, soon()).await
    }

    /// The document, and the outputs of the steps.
    async fn statically(&self, path: &str, steps: Vec<DomStep>) -> (Document, Vec<Value>) {
        match self.read_static(&self.session, path, steps).await {
            Static::Read { document, results, .. } => {
                (*document, results.into_iter().map(|result| result.unwrap().output.unwrap()).collect())
            }
            other => panic!("{path}: {other:?}"),
        }
    }

    async fn in_a_tab(&self, path: &str, steps: Vec<DomStep>) -> (Document, Vec<Value>) {
        let mut tab = self.open().await;
        let document = tab.navigate(&self.url(path), WaitUntil::Load, None, soon()).await.unwrap();
        let results = run(&mut tab, steps, soon()).await.unwrap();
        tab.release().await;
        (document, results.into_iter().map(|result| result.output.unwrap()).collect())
    }

    async fn why_not(&self, path: &str) -> String {
        match self.read_static(&self.session, path, vec![read_all("h1")]).await {
            Static::NeedsFull(reason) => reason,
            other => panic!("{path}: {other:?}"),
        }
    }
}

fn steps() -> Vec<DomStep> {
    let html = |query| read(css(query), Read::Html, true, Vec::new());
    vec![
        wait_for("h1", ElementState::Visible, 5000),
        read_all("h1"),
        html("body"),
        html("head"),
        step(DomOp::Links(css("a"))),
        read_all("noscript.n"),
        read(css("a"), Read::Attribute("href".to_owned()), false, Vec::new()),
    ]
}

#[tokio::test]
async fn a_page_gives_the_same_without_a_tab() {
    let bench = Bench::start().await;
    for (page, first) in [
        ("declared-latin1", "caf\u{e9} \u{20ac}"),
        ("meta-latin1", "caf\u{e9}"),
        ("meta-http-equiv", "\u{41f}\u{440}\u{438}"),
        ("bom", "caf\u{e9}"),
        ("utf16", "caf\u{e9}"),
        ("shift-jis", "\u{65e5}\u{672c}"),
        ("undeclared-ascii", "cafe"),
        ("misleading-meta", "caf\u{e9}"),
        ("meta-in-script", "caf\u{e9}"),
        ("meta-in-title", "caf\u{e9}"),
        ("meta-in-attribute", "caf\u{e9}"),
        ("clobbered", "c"),
        ("unknown-charset", "caf\u{e9}"),
        ("xhtml", "strict"),
        ("base", "x"),
        ("noscript", "outside"),
        ("shadow", "light"),
        ("broken-markup", "moved out"),
        ("moved", "x"),
        ("refresh-late", "stays"),
        ("policy", "locked"),
        ("pieces", "caf\u{e9}"),
    ] {
        let path = format!("/static/{page}");
        let (document, outputs) = bench.statically(&path, steps()).await;
        let (in_tab, outputs_in_tab) = bench.in_a_tab(&path, steps()).await;
        assert_eq!(outputs, outputs_in_tab, "{page}");
        assert_eq!(outputs[1][0], first, "{page}");
        assert_eq!((document.final_url, document.status), (in_tab.final_url, in_tab.status), "{page}");
        assert_eq!(document.base_url, in_tab.base_url, "{page}");
    }
}

#[tokio::test]
async fn what_only_a_tab_can_tell_is_left_to_one_with_the_reason() {
    let bench = Bench::start().await;
    for (path, reason) in [
        ("/static/undeclared", "declares no character set"),
        ("/static/text", "content type is `text/plain`"),
        ("/static/xml", "content type is `application/xml`"),
        ("/static/refresh", "sends the browser on"),
        ("/static/download", "download"),
        ("/static/nothing", "content type"),
        ("/static/noscript-in-comment", "noscript"),
        ("/static/noscript-in-script", "noscript"),
        ("/static/noscript-in-attribute", "noscript"),
        ("/static/noscript-in-template", "noscript"),
        ("/static/noscript-without-end", "noscript"),
        ("/static/large", "more than"),
        ("/static/large-in-pieces", "more than"),
        ("/loop", "not fetched"),
    ] {
        let said = bench.why_not(path).await;
        assert!(said.contains(reason), "{path}: {said}");
    }
    let missing = vec![wait_for("h1", ElementState::Visible, 5000), read_all("p")];
    let begun = std::time::Instant::now();
    let Static::NeedsFull(reason) = bench.read_static(&bench.session, "/static/script", missing).await else {
        panic!("the script makes it");
    };
    assert_eq!(reason, "selector \"h1\" is not visible in the response");
    assert!(begun.elapsed().as_secs() < 4, "nothing will ever change there");
    let hidden = vec![wait_for("p", ElementState::Hidden, 5000)];
    assert!(matches!(
        bench.read_static(&bench.session, "/static/hidden", hidden).await,
        Static::NeedsFull(_)
    ));
    let elsewhere = bench.read_static(&bench.session, "/other-port?1", vec![read_all("h1")]).await;
    assert!(matches!(elsewhere, Static::NeedsFull(_)), "{elsewhere:?}");
}

#[tokio::test]
async fn an_http_error_is_told_and_nothing_is_run() {
    let bench = Bench::start().await;
    let read = bench.read_static(&bench.session, "/static/missing", vec![read_all("h1")]).await;
    let Static::Read { document, results, is_redirected } = read else { panic!("{read:?}") };
    assert_eq!((document.status, results.len(), is_redirected), (Some(404), 0, false));
    let moved = bench.read_static(&bench.session, "/static/moved", Vec::new()).await;
    assert!(matches!(moved, Static::Read { is_redirected: true, .. }), "{moved:?}");
}

#[tokio::test]
async fn scripts_do_not_run_and_cookies_are_those_of_the_execution() {
    let bench = Bench::start().await;
    let (_, outputs) = bench.statically("/static/script", vec![read_all("p")]).await;
    assert_eq!(outputs, [json!(["static"])]);
    bench.statically("/cookie", vec![read_all("h1")]).await;
    let lines = bench.texts(&bench.session, "/headers", "li").await;
    assert!(lines.contains(&"cookie: who=me".to_owned()), "{lines:?}");
    let (_, outputs) = bench.statically("/static/headers", vec![read_all("li")]).await;
    assert!(outputs[0].as_array().unwrap().contains(&json!("cookie: who=me")), "{outputs:?}");
    let stranger = bench.read_static(&session(&[]), "/static/headers", vec![read_all("li")]).await;
    let Static::Read { results, .. } = stranger else { panic!("{stranger:?}") };
    assert!(!results[0].as_ref().unwrap().output.clone().unwrap().to_string().contains("who=me"));
}

#[tokio::test]
async fn a_service_worker_has_no_say() {
    let bench = Bench::start().await;
    let ready = read_all("body");
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/static/with-worker").await.unwrap();
    let deadline = soon();
    while !super::bench::one(&mut tab, ready.clone()).await.unwrap().to_string().contains("ready") {
        assert!(tokio::time::Instant::now() < deadline, "the service worker never came");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // The worker may take a moment more to be in charge.
    let deadline = soon();
    loop {
        bench.load(&mut tab, "/static/base").await.unwrap();
        let in_tab = super::bench::one(&mut tab, read_all("h1")).await.unwrap();
        if in_tab == json!(["from the worker"]) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "it is in charge of tabs: {in_tab}");
    }
    let (_, outputs) = bench.statically("/static/base", vec![read_all("h1")]).await;
    assert_eq!(outputs, [json!(["x"])]);
}

#[tokio::test]
async fn the_name_of_a_crawl_goes_behind_the_user_agent_of_the_browser_in_tabs_and_static_lanes() {
    let bench = Bench::start().await;
    let plain = bench.texts(&session(&[]), "/static/headers", "li").await;
    let own = plain.iter().find(|line| line.starts_with("user-agent: Mozilla/5.0")).unwrap();
    let named = Session { agent: Some("ShopBot/1.0 (+https://shop.example/bot)".to_owned()), ..session(&[]) };
    let expected = format!("{own} ShopBot/1.0 (+https://shop.example/bot)");
    let in_tab = bench.texts(&named, "/static/headers", "li").await;
    assert_eq!(in_tab.iter().filter(|line| **line == expected).count(), 1, "{in_tab:?}");
    let Static::Read { results, .. } =
        bench.read_static(&named, "/static/headers", vec![read_all("li")]).await
    else {
        panic!("it was not read")
    };
    let read = results[0].as_ref().unwrap().output.clone().unwrap();
    let read: Vec<String> = serde_json::from_value(read).unwrap();
    assert_eq!(read.iter().filter(|line| **line == expected).count(), 1, "{read:?}");
}

#[tokio::test]
async fn the_headers_are_those_of_a_tab_but_for_what_tells_them_apart() {
    let bench = Bench::start().await;
    let session = session(&[
        ("User-Agent", "Crawlify/1"),
        ("X-Shop", "blue"),
        ("Accept-Language", "de-DE,de;q=0.9"),
        ("Cookie", "a=b"),
    ]);
    let in_tab = bench.texts(&session, "/static/headers", "li").await;
    let Static::Read { results, .. } =
        bench.read_static(&session, "/static/headers", vec![read_all("li")]).await
    else {
        panic!("it was not read")
    };
    let output = results[0].as_ref().unwrap().output.clone().unwrap();
    let read: Vec<String> = serde_json::from_value(output).unwrap();
    for line in ["user-agent: Crawlify/1", "x-shop: blue", "accept-language: de-DE,de;q=0.9", "cookie: a=b"] {
        assert_eq!(in_tab.iter().filter(|found| *found == line).count(), 1, "{line} in {in_tab:?}");
        assert_eq!(read.iter().filter(|found| *found == line).count(), 1, "{line} in {read:?}");
    }
    let differs = |line: &&String| {
        !line.starts_with("sec-fetch-")
            && !line.starts_with("accept: ")
            && !line.starts_with("upgrade-insecure")
    };
    let mut only_in_tab: Vec<_> = in_tab.iter().filter(|line| !read.contains(line)).filter(differs).collect();
    let mut only_read: Vec<_> = read.iter().filter(|line| !in_tab.contains(line)).filter(differs).collect();
    only_in_tab.sort();
    only_read.sort();
    assert_eq!((only_in_tab, only_read), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn many_pages_are_read_at_a_time() {
    let bench = Bench::start().await;
    let program = DomProgram::new(steps());
    let urls: Vec<_> = (0..64).map(|number| bench.url(&format!("/static/base?{number}"))).collect();
    let reads = urls.iter().map(|url| bench.driver.read_static(&bench.session, url, &program, true, soon()));
    for (read, url) in futures_util::future::join_all(reads).await.into_iter().zip(&urls) {
        let Static::Read { document, results, .. } = read else { panic!("{read:?}") };
        assert_eq!((document.final_url.as_str(), results.len()), (url.as_str(), program.steps().len()));
    }
}
