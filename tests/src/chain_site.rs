//! A small site that notes when it was asked for what: a home page that links to `leaves` pages, a chain of pages
//! without end, a page that has parts, and one that is never answered.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A running site. Dropping it ends it.
#[derive(Debug)]
pub struct ChainSite {
    address: SocketAddr,
    shared: Arc<Shared>,
    _server: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    leaves: usize,
    /// Written by every request, read by tests.
    log: Mutex<Vec<(Instant, String)>>,
}

impl ChainSite {
    /// Starts one on a port of its own.
    ///
    /// # Panics
    /// There is no port.
    pub async fn start(leaves: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let shared = Arc::new(Shared { leaves, log: Mutex::default() });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let mut server = JoinSet::new();
        server.spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Self { address, shared, _server: server }
    }

    /// The address of one of its pages: `/`, `/leaf/1`, `/chain/1`, `/parts`, `/never`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What was asked for, in time.
    pub fn log(&self) -> Vec<(Instant, String)> {
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    let path = uri.path().to_owned();
    if path == "/favicon.ico" {
        return StatusCode::NOT_FOUND.into_response();
    }
    shared.log.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), path.clone()));
    let links: Vec<String> = if path == "/" {
        (1..=shared.leaves).map(|leaf| format!("/leaf/{leaf}")).collect()
    } else if let Some(place) = path.strip_prefix("/chain/") {
        vec![format!("/chain/{}", place.parse::<usize>().unwrap_or(0) + 1)]
    } else if path == "/never" {
        return std::future::pending().await;
    } else {
        Vec::new()
    };
    let links: String = links.iter().map(|link| format!("<li><a href=\"{link}\">{link}</a></li>")).collect();
    let parts = if path == "/parts" { "<link rel=stylesheet href=/part.css><img src=/part.png>" } else { "" };
    Html(format!("<!doctype html><title>{path}</title><h1>{path}</h1><ul>{links}</ul>{parts}"))
        .into_response()
}
