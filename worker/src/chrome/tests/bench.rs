//! What the tests of this module stand on: a small site, a driver, and short names for steps.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::{
    Block, ElementState, Field, Isolation, Read, Selector, WaitFor, WaitUntil,
};
use futures_util::StreamExt;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::chrome::driver::{
    Document, DomOp, DomProgram, DomStep, Driver, Session, StepResult, Tab, TabError,
};
use crate::chrome::{ChromeDriver, ChromeOptions};
use crate::egress::resolve::Resolver;
use crate::egress::{Egress, EgressOptions};

/// Knows no name.
#[derive(Debug)]
struct Nobody;

#[async_trait]
impl Resolver for Nobody {
    async fn resolve(&self, _name: &str) -> io::Result<Vec<IpAddr>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// A site and a browser of one test's own.
pub(super) struct Bench {
    pub(super) site: SocketAddr,
    pub(super) driver: Arc<ChromeDriver>,
    pub(super) session: Session,
    _server: JoinSet<()>,
}

/// Behind the guard, as in earnest, with what is on this machine as the only exception.
pub(super) fn options() -> ChromeOptions {
    let egress =
        EgressOptions { resolver: Arc::new(Nobody), ..EgressOptions::allowing(&["127.0.0.1"]).unwrap() };
    ChromeOptions {
        egress: Some(Egress::start(egress).unwrap()),
        // Nothing but the test's own site can be reached.
        extra_flags: vec!["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1".to_owned()],
        ..ChromeOptions::from_environment()
    }
}

impl Bench {
    pub(super) async fn start() -> Self {
        Self::with(options()).await
    }

    pub(super) async fn with(options: ChromeOptions) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let site = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        let router = axum::Router::new().fallback(answer);
        server.spawn(async move { axum::serve(listener, router).await.unwrap() });
        let driver = ChromeDriver::start(options).await.unwrap();
        Self { site, driver, session: session(&[]), _server: server }
    }

    pub(super) fn url(&self, path: &str) -> PageUrl {
        PageUrl::parse(&format!("http://{}{path}", self.site)).unwrap()
    }

    pub(super) async fn open(&self) -> Box<dyn Tab> {
        self.driver.open(&self.session, soon()).await.unwrap()
    }

    pub(super) async fn load(&self, tab: &mut Box<dyn Tab>, path: &str) -> Result<Document, TabError> {
        tab.navigate(&self.url(path), WaitUntil::Load, None, soon()).await
    }

    /// Loads a page in a new tab and reads the texts of all matches.
    pub(super) async fn texts(&self, session: &Session, path: &str, query: &str) -> Vec<String> {
        let mut tab = self.driver.open(session, soon()).await.unwrap();
        tab.navigate(&self.url(path), WaitUntil::Load, None, soon()).await.unwrap();
        let value = one(&mut tab, read_all(query)).await.unwrap();
        tab.release().await;
        serde_json::from_value(value).unwrap()
    }
}

pub(super) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

pub(super) fn session(headers: &[(&str, &str)]) -> Session {
    Session {
        execution_id: ExecutionId::generate(),
        headers: headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        agent: None,
        block: Block::default(),
        isolation: Isolation::Execution,
        proxy: None,
    }
}

pub(super) fn css(query: &str) -> Selector {
    Selector::Css(query.to_owned())
}

pub(super) fn step(op: DomOp) -> DomStep {
    DomStep { op, group: 0, ends_group: false, max_retries: 0, retry_delay: Duration::ZERO }
}

pub(super) fn read(selector: Selector, read: Read, multiple: bool, fields: Vec<Field>) -> DomStep {
    step(DomOp::Read { selector, read, multiple, required: false, fields })
}

pub(super) fn read_all(query: &str) -> DomStep {
    read(css(query), Read::Text, true, Vec::new())
}

pub(super) fn wait_for(query: &str, state: ElementState, timeout_ms: u64) -> DomStep {
    let timeout = Duration::from_millis(timeout_ms);
    step(DomOp::WaitFor(WaitFor { selector: css(query), state, timeout }))
}

/// Runs steps; those that were not run are left out.
pub(super) async fn run(
    tab: &mut Box<dyn Tab>,
    steps: impl Into<Vec<DomStep>>,
    deadline: Instant,
) -> Result<Vec<StepResult>, TabError> {
    let results = tab.run(&DomProgram::new(steps.into()), &[], deadline).await?;
    Ok(results.into_iter().flatten().collect())
}

/// Runs one step and gives its output.
pub(super) async fn one(
    tab: &mut Box<dyn Tab>,
    step: DomStep,
) -> Result<Value, crawlify_shared::domain::outcome::Failure> {
    let mut results = run(tab, [step], soon()).await.unwrap();
    assert_eq!(results.len(), 1);
    results.remove(0).output
}

pub(super) fn is_running(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits until `condition` holds.
pub(super) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Tries whether it takes less than `most`, by what each try says of itself. The first one may be late, as a busy machine
/// takes its time now and then: the next two must both be in time then.
pub(super) async fn once_within(most: Duration, mut attempt: impl AsyncFnMut() -> Duration) {
    let first = attempt().await;
    if first < most {
        return;
    }
    let times = [first, attempt().await, attempt().await];
    assert!(times[1..].iter().all(|time| *time < most), "it took {times:?} instead of {most:?}");
}

async fn answer(request: Request) -> Response {
    let host = request.headers()[header::HOST].to_str().unwrap().to_owned();
    match request.uri().path() {
        "/" => Html(include_str!("shop.html")).into_response(),
        "/plain" | "/about/Node.js" => Html("<h1>plain</h1>").into_response(),
        "/headers" => Html(listed(request.headers())).into_response(),
        "/cookie" => ([(header::SET_COOKIE, "who=me; path=/")], Html("<h1>set</h1>")).into_response(),
        "/missing" => (StatusCode::NOT_FOUND, Html("<h1>gone</h1>")).into_response(),
        "/missing-empty" => StatusCode::NOT_FOUND.into_response(),
        "/broken-empty" => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        "/password" => {
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=x")], "no").into_response()
        }
        "/renames" => Html(
            "<h1>0</h1><script>history.replaceState(0, '', '/other/1'); history.pushState(0, '', '/other/2');\
             location.hash = 'there'</script>",
        )
        .into_response(),
        "/script-to-chain" => Html("<script>location = '/chain/2'</script>").into_response(),
        path if path.starts_with("/chain/") => {
            let left: u32 = path.trim_start_matches("/chain/").parse().unwrap();
            let to = if left == 1 { "/plain".to_owned() } else { format!("/chain/{}", left - 1) };
            (StatusCode::FOUND, [(header::LOCATION, to)]).into_response()
        }
        "/nothing" => StatusCode::NO_CONTENT.into_response(),
        "/download" => (
            [
                (header::CONTENT_TYPE, "application/octet-stream"),
                (header::CONTENT_DISPOSITION, "attachment; filename=x.bin"),
            ],
            "abc",
        )
            .into_response(),
        "/loop" => (StatusCode::FOUND, [(header::LOCATION, "/loop")]).into_response(),
        "/moved" => (StatusCode::FOUND, [(header::LOCATION, "/deep/based")]).into_response(),
        "/to-a-host-that-is-gone" => {
            (StatusCode::FOUND, [(header::LOCATION, "http://gone.test/")]).into_response()
        }
        "/deep/based" => Html("<base href='/other/'><h1>based</h1>").into_response(),
        "/endless" => {
            let first = futures_util::stream::once(async {
                Ok::<_, Infallible>(Bytes::from_static(b"<h1>begun</h1>"))
            });
            let body = Body::from_stream(first.chain(futures_util::stream::pending()));
            ([(header::CONTENT_TYPE, "text/html")], body).into_response()
        }
        "/long" => Html(format!("<h1>long</h1>{}", "x".repeat(3 << 20))).into_response(),
        "/flood" => {
            let piece = Bytes::from_static(&[b'x'; 1 << 16]);
            let body = futures_util::stream::repeat(piece).map(Ok::<_, Infallible>);
            ([(header::CONTENT_TYPE, "text/html")], Body::from_stream(body)).into_response()
        }
        // Each piece of a kilobyte is a megabyte when it is unpacked.
        "/bomb" => {
            let (first, piece) = bomb();
            let first = futures_util::stream::once(async move { Ok::<_, Infallible>(first) });
            let rest = futures_util::stream::repeat(piece).map(Ok);
            let head = [(header::CONTENT_TYPE, "text/html"), (header::CONTENT_ENCODING, "gzip")];
            (head, Body::from_stream(first.chain(rest))).into_response()
        }
        "/silent" => std::future::pending().await,
        // The head of an answer, and one byte of a thousand.
        "/begun" => {
            let first = futures_util::stream::once(async { Ok::<_, Infallible>(Bytes::from_static(b"x")) });
            let body = Body::from_stream(first.chain(futures_util::stream::pending()));
            ([(header::CONTENT_LENGTH, "1000")], body).into_response()
        }
        "/drips" => {
            let drops = futures_util::stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_millis(500)).await;
                Some((Ok::<_, Infallible>(Bytes::from_static(b"x")), ()))
            });
            ([(header::CONTENT_TYPE, "text/html")], Body::from_stream(drops)).into_response()
        }
        "/hangs" => six(|number| format!("<img src='/silent?{number}'>")),
        "/hangs/begun" => six(|number| format!("<img src='/begun?{number}'>")),
        "/hangs/frames" => six(|number| format!("<iframe src='/drips?{number}'></iframe>")),
        "/slow-picture" => Html("<h1>seen</h1><img src=/silent>").into_response(),
        "/late-fetch" => Html(
            "<h1>0</h1><script>onload = () => setTimeout(() => fetch('/plain').then(() => \
             document.querySelector('h1').textContent = '1'), 100)</script>",
        )
        .into_response(),
        "/busy" => Html("<h1>busy</h1><script>while (true) {}</script>").into_response(),
        "/busy-later" => {
            Html("<h1>busy</h1><script>onload = () => setTimeout(() => { while (true) {} }, 1000)</script>")
                .into_response()
        }
        "/script-redirect" => Html("<script>location = '/plain'</script>").into_response(),
        "/load-redirect" => Html("<script>onload = () => { location = '/plain' }</script>").into_response(),
        "/refresh" => Html("<meta http-equiv=refresh content='0;url=/plain'>").into_response(),
        "/script-download" => {
            Html("<h1>stays</h1><script>onload = () => { location = '/download' }</script>").into_response()
        }
        "/redirects-for-ever" => {
            Html("<script>location = '/redirects-for-ever?' + Math.random()</script>").into_response()
        }
        "/leaves" => Html(
            "<h1>here</h1><script>onload = () => setTimeout(() => { location = '/plain' }, 1000)</script>",
        )
        .into_response(),
        "/dialogs" => {
            Html("<script>alert(1); confirm(2); prompt(3); print()</script><h1>after</h1>").into_response()
        }
        "/dialog-loop" => Html("<script>while (true) alert(1)</script>").into_response(),
        "/unload" => {
            Html("<h1>stay</h1><script>onbeforeunload = (e) => { e.preventDefault(); return 'no' }</script>")
                .into_response()
        }
        "/popups" => Html(
            "<a id=a target=_blank rel=noopener href=/plain>x</a><h1>opener</h1><script>\
             for (let i = 0; i < 200; i++) { window.open('/plain?' + i); } a.click();</script>",
        )
        .into_response(),
        "/acts/list" => {
            let page: u32 = request.uri().query().unwrap_or_default().parse().unwrap();
            Html(format!("<h1>{page}</h1><a href='?{}'>next</a><button onclick='alert(1)'>x</button>", page + 1))
                .into_response()
        }
        "/acts" => Html(include_str!("acts.html")).into_response(),
        "/acts/next/" | "/acts/found" => Html("<h1>the next page</h1><a href=further>on</a>").into_response(),
        "/restless" => Html(
            "<h1>restless</h1><script>setInterval(() => fetch('/blocked'), 50)</script>",
        )
        .into_response(),
        "/hostile" => Html(include_str!("hostile.html")).into_response(),
        "/large" => Html(
            "<p></p><script>document.querySelector('p').textContent = 'x'.repeat(3 << 20);\
             for (let i = 0; i < 3000; i++) document.body.append(Object.assign(\
             document.createElement('b'), { textContent: 'y'.repeat(1000) }));</script>",
        )
        .into_response(),
        "/many-elements" => {
            Html("<script>document.write('<br>'.repeat(600000))</script>").into_response()
        }
        "/hungry" => Html(
            "<script>const kept = []; for (let i = 0; i < 24; i++) kept.push(new Uint8Array(16 << 20).fill(i + 1))\
             </script><h1>full</h1>",
        )
        .into_response(),
        "/window" => Html(include_str!("window.html")).into_response(),
        "/with-parts" => Html(include_str!("parts.html")).into_response(),
        "/named" | "/nameless" => Html(include_str!("named.html")).into_response(),
        "/part.js" => ([(header::CONTENT_TYPE, "text/javascript")], "say('script')").into_response(),
        "/part.css" => ([(header::CONTENT_TYPE, "text/css")], "h1 { color: rgb(1, 2, 3) }").into_response(),
        "/part.svg" | "/picture" | "/a.jpg" | "/B.PNG" => {
            ([(header::CONTENT_TYPE, "image/svg+xml")], "<svg xmlns='http://www.w3.org/2000/svg'/>").into_response()
        }
        "/blocked" => "x".into_response(),
        "/other-port" => {
            let port = request.uri().query().unwrap_or_default();
            (StatusCode::FOUND, [(header::LOCATION, format!("http://127.0.0.1:{port}/plain"))])
                .into_response()
        }
        path if path.starts_with("/loads/") => super::loads::answer(path),
        path if path.starts_with("/memory/") => super::memory::answer(path),
        path if path.starts_with("/noscript/") => super::slow_statics::answer(path),
        path if path.starts_with("/static/") => super::statics::answer(&request),
        _ => (StatusCode::NOT_FOUND, format!("{host} has no such page")).into_response(),
    }
}

/// A page with as many parts as there are connections to its server.
fn six(part: impl Fn(usize) -> String) -> Response {
    Html((0..6).map(part).collect::<String>()).into_response()
}

/// The beginning of a packed document, and a piece that may come as often as one likes.
fn bomb() -> (Bytes, Bytes) {
    let pack = |text: &[u8]| {
        let mut packed = Vec::with_capacity(1 << 20);
        let mut packer = flate2::Compress::new(flate2::Compression::best(), false);
        packer.compress_vec(text, &mut packed, flate2::FlushCompress::Full).unwrap();
        packed
    };
    let mut first = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    first.extend(pack(b"<h1>a small page</h1>"));
    (first.into(), pack(&[b' '; 1 << 20]).into())
}

fn listed(headers: &HeaderMap) -> String {
    let line = |(name, value): (&header::HeaderName, &header::HeaderValue)| {
        format!("<li>{name}: {}</li>", value.to_str().unwrap())
    };
    headers.iter().map(line).collect()
}
