//! A site whose pages misbehave, each in a way of its own, and one that behaves.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use flate2::{Compress, Compression, FlushCompress};
use futures_util::{Stream, StreamExt, stream};
use harness::answering_site::{AnsweringSite, redirect, status, text};

/// How long it takes to answer what is never answered.
const NEVER: Duration = Duration::from_secs(3_600);
const PIECE: &[u8] = &[b'x'; 1 << 16];
/// 100 MiB.
const PIECES_OF_HUGE: u16 = 1_600;

/// The pages, and how each may end. Of those that keep a browser busy the time may be over first. They come last: what
/// they leave in their tab may cost the next page time.
pub(super) const PAGES: [(&str, &[&str]); 20] = [
    ("/alerts", &["completed"]),
    ("/unload", &["completed"]),
    ("/restless", &["completed"]),
    ("/download", &["not_a_page"]),
    ("/nothing", &["not_a_page"]),
    ("/password", &["http_4xx"]),
    ("/redirects", &["not_a_page"]),
    ("/popups", &["completed", "nav_timeout"]),
    ("/script-redirects", &["not_a_page", "nav_timeout"]),
    ("/alerts-for-ever", &["script", "nav_timeout"]),
    ("/busy", &["nav_timeout"]),
    ("/busy-later", &["nav_timeout"]),
    ("/endless", &["nav_timeout"]),
    ("/silent", &["nav_timeout"]),
    ("/hangs", &["nav_timeout"]),
    ("/flood", &["too_large", "nav_timeout"]),
    ("/huge", &["too_large", "nav_timeout"]),
    ("/many-elements", &["too_large", "nav_timeout"]),
    ("/bomb", &["nav_timeout", "tab_crash"]),
    ("/pictures", &["nav_timeout", "too_large"]),
];

/// Starts the site that misbehaves.
pub(super) async fn hostile_site() -> AnsweringSite {
    let takes = |path: &str, _: usize| if path.starts_with("/silent") { NEVER } else { Duration::ZERO };
    AnsweringSite::taking(takes, |_, path| answer(path.split('?').next().unwrap_or(path))).await
}

fn answer(path: &str) -> Response {
    let with_script = |script: &str| {
        Html(format!("<!doctype html><h1>hostile</h1><a href=/text>x</a><script>{script}</script>"))
            .into_response()
    };
    match path {
        "/alerts" => with_script("alert(1); confirm(2); prompt(3); print()"),
        "/unload" => with_script("onbeforeunload = (event) => { event.preventDefault(); return 'no' }"),
        "/popups" => with_script(
            "for (let i = 0; i < 200; i++) window.open('/text?' + i); \
             const a = document.querySelector('a'); a.target = '_blank'; a.rel = 'noopener'; a.click()",
        ),
        "/restless" => with_script("setInterval(() => fetch('/text'), 50)"),
        "/download" => {
            ([(header::CONTENT_DISPOSITION, "attachment; filename=x.bin")], text("abc")).into_response()
        }
        "/nothing" => status(204),
        "/password" => {
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=x")], "no").into_response()
        }
        "/redirects" => redirect("/redirects"),
        "/script-redirects" => with_script("location = '/script-redirects?' + Math.random()"),
        "/alerts-for-ever" => with_script("while (true) alert(1)"),
        "/busy" => with_script("while (true) {}"),
        // While its nodes run.
        "/busy-later" => with_script("onload = () => setTimeout(() => { while (true) {} }, 100)"),
        "/endless" => {
            html(stream::once(ready(Bytes::from_static(b"<h1>begun</h1>"))).chain(stream::pending()))
        }
        "/hangs" => {
            let pictures: String = (0..6).map(|number| format!("<img src='/silent?{number}'>")).collect();
            Html(format!("<h1>hangs</h1>{pictures}")).into_response()
        }
        "/flood" => html(stream::repeat(Bytes::from_static(PIECE))),
        "/huge" => {
            let pieces = stream::repeat(Bytes::from_static(PIECE)).take(usize::from(PIECES_OF_HUGE));
            let mut huge = html(pieces);
            let bytes = u64::from(PIECES_OF_HUGE) << 16;
            huge.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
            huge
        }
        "/many-elements" => with_script("document.write('<br>'.repeat(1000000))"),
        "/bomb" => bomb(),
        "/pictures" => with_script(
            "let next = 0; const load = () => { const picture = new Image(); picture.onload = load; \
             picture.onerror = load; picture.src = '/text?' + next++ }; load(); load()",
        ),
        // It is none of the hostile ones.
        _ => text("x"),
    }
}

fn html(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let body = Body::from_stream(pieces.map(Ok::<_, Infallible>));
    ([(header::CONTENT_TYPE, "text/html")], body).into_response()
}

/// Each piece of a kilobyte is a megabyte when it is unpacked.
fn bomb() -> Response {
    let pack = |text: &[u8]| {
        let mut packed = Vec::with_capacity(1 << 20);
        let mut packer = Compress::new(Compression::best(), false);
        packer.compress_vec(text, &mut packed, FlushCompress::Full).unwrap();
        packed
    };
    // The head of gzip (RFC 1952, section 2.3).
    let mut first = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    first.extend(pack(b"<h1>a small page</h1>"));
    let rest = Bytes::from(pack(&[b' '; 1 << 20]));
    let mut bomb = html(stream::once(ready(Bytes::from(first))).chain(stream::repeat(rest)));
    bomb.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    bomb
}

/// A site that behaves: pages that lead from one to the next until it is told to end.
pub(super) struct GoodSite {
    site: AnsweringSite,
    /// The number of its last page. Written by the test, read by requests.
    last: Arc<AtomicUsize>,
}

impl GoodSite {
    /// Starts one on another host than the other one's, as limits are of hosts.
    pub(super) async fn start() -> Self {
        let last = Arc::new(AtomicUsize::new(usize::MAX));
        let of_site = Arc::clone(&last);
        let site = AnsweringSite::at("127.0.0.3", move |_, path| {
            let number = path.strip_prefix("/page/").and_then(|number| number.parse::<usize>().ok());
            match number {
                Some(number) => good_page(number, number < of_site.load(Ordering::Relaxed)),
                None => status(404),
            }
        })
        .await;
        Self { site, last }
    }

    /// The address of its first page.
    pub(super) fn first(&self) -> String {
        self.site.url("/page/1")
    }

    /// Lets it end so many pages after those that it was asked for. Answers how many it has.
    pub(super) fn end_after(&self, more: usize) -> usize {
        let last = self.asked_for().len() + more;
        self.last.store(last, Ordering::Relaxed);
        last
    }

    /// The pages that it was asked for, in order.
    pub(super) fn asked_for(&self) -> Vec<String> {
        let paths = self.site.requests().into_iter().map(|(path, _)| path);
        // A browser may ask for an icon as well.
        paths.filter(|path| path.starts_with("/page/")).collect()
    }
}

/// What it is called only its script says.
fn good_page(number: usize, leads_on: bool) -> Response {
    let link = if leads_on { format!("<a href=/page/{}>on</a>", number + 1) } else { String::new() };
    let script = format!("document.querySelector('h1').textContent = 'page {number}'");
    Html(format!("<!doctype html><h1></h1>{link}<script>{script}</script>")).into_response()
}
