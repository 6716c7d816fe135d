//! A site with a lure in each of its pages: whoever runs their scripts is made to ask a forbidden address, where a canary counts.
//! So a crawl of any site is held to reach no such address, while it finds what it finds without.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use reqwest::Client;
use reqwest::redirect::Policy;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::canary::Canary;
use crate::invariants;

/// Another machine, as far as the guard of a crawl knows that may reach 127.0.0.1.
const FORBIDDEN: &str = "127.0.0.2:0";
/// What a page asks for at last. The site behind never hears of it.
const TRIED: &str = "/lure-was-tried";
/// What is said between two of the three, and true of each message alone.
const OF_ONE_CONNECTION: [HeaderName; 4] =
    [header::CONNECTION, header::TRANSFER_ENCODING, header::HOST, header::CONTENT_LENGTH];

/// Passes requests on to the site behind it. Dropping it closes it.
#[derive(Debug)]
pub struct LuredSite {
    /// Who counts.
    pub canary: Canary,
    url: String,
    /// Written by pages, read by tests.
    tried: Arc<AtomicU64>,
    _server: JoinSet<()>,
}

#[derive(Clone)]
struct Shared {
    client: Client,
    /// Without the slash at its end.
    site: String,
    lure: String,
    tried: Arc<AtomicU64>,
}

impl LuredSite {
    /// Stands before the site of this home page, on a port of its own.
    ///
    /// # Panics
    /// There is no port.
    pub async fn before(site: &str) -> Self {
        let canary = Canary::at(FORBIDDEN).await;
        let client = Client::builder().no_proxy().redirect(Policy::none()).build().expect("it takes no more");
        let (site, lure, tried) = (site.trim_end_matches('/').to_owned(), lure(&canary), Arc::default());
        let shared = Shared { client, site, lure, tried: Arc::clone(&tried) };
        let router = Router::new().fallback(answer).with_state(shared);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("it listens"));
        let mut server = JoinSet::new();
        server.spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Self { canary, url, tried, _server: server }
    }

    /// The address of its home page, with a slash at the end.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Holds the crawl to I15: its pages tried to reach the canary, and none did.
    ///
    /// # Panics
    /// It is not so.
    #[track_caller]
    pub fn assert_in_vain(&self) {
        assert!(self.tried() > 0, "no page has tried to reach the canary");
        invariants::assert_none(&invariants::around::egress(&self.canary));
    }

    /// How many pages have followed their lure to its end, whatever came of it.
    pub fn tried(&self) -> u64 {
        self.tried.load(Ordering::Relaxed)
    }
}

/// A picture, a request and a socket: nothing of it is an element that a workflow could find.
fn lure(canary: &Canary) -> String {
    let address = canary.address;
    format!(
        "<script>new WebSocket('ws://{address}/'); new Image().src = 'http://{address}/picture'; \
         fetch('http://{address}/').catch(() => {{}}).then(() => fetch('{TRIED}'))</script>"
    )
}

async fn answer(State(shared): State<Shared>, request: Request) -> Response {
    pass_on(&shared, request).await.unwrap_or_else(|error| {
        (StatusCode::BAD_GATEWAY, format!("the site behind does not answer: {error}")).into_response()
    })
}

async fn pass_on(shared: &Shared, request: Request) -> Result<Response, reqwest::Error> {
    let (parts, _) = request.into_parts();
    if parts.uri.path() == TRIED {
        shared.tried.fetch_add(1, Ordering::Relaxed);
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let asked = shared.client.request(parts.method, format!("{}{path}", shared.site));
    let answered = asked.headers(passed_on(&parts.headers)).send().await?;
    let (status, headers) = (answered.status(), passed_on(answered.headers()));
    let is_page =
        headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    let mut body = answered.bytes().await?.to_vec();
    if is_page && !body.is_empty() {
        body.extend(shared.lure.as_bytes());
    }
    Ok((status, headers, Body::from(body)).into_response())
}

fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in OF_ONE_CONNECTION {
        headers.remove(name);
    }
    headers
}
