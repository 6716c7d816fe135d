//! The site that serves the hostile pages, and what they need of it. It hears from a page when that has done its work.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::vectors::{VECTORS, Vector, Way};

/// When a page says that it is done: its requests were begun long before.
const DONE_AFTER_MS: u32 = 600;

/// The hostile site. Dropping it closes it.
#[derive(Debug)]
pub struct HostileSite {
    /// Where it is; it answers to `localhost` too.
    pub address: SocketAddr,
    /// Written by requests, read by tests.
    done: Arc<Mutex<HashSet<String>>>,
    _tasks: JoinSet<()>,
}

impl HostileSite {
    /// Begins to serve.
    ///
    /// # Panics
    /// There is no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it listens");
        let done = Arc::new(Mutex::new(HashSet::new()));
        let of_site = Arc::clone(&done);
        let router = axum::Router::new()
            .fallback(move |request: Request| std::future::ready(answer(&request, address, &of_site)));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            axum::serve(listener, router).await.expect("the site serves");
        });
        Self { address, done, _tasks: tasks }
    }

    /// Where to go to try a vector on a canary.
    pub fn url_of(&self, vector: &Vector, canary: SocketAddr) -> String {
        match vector.way {
            Way::Address(address) => fill(address, vector, self.address, canary),
            _ => format!("http://{}/vector/{}?{canary}", self.address, vector.name),
        }
    }

    /// Whether the page of a vector has done its work.
    pub fn is_done(&self, vector: &Vector) -> bool {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).contains(vector.name)
    }
}

fn fill(template: &str, vector: &Vector, site: SocketAddr, canary: SocketAddr) -> String {
    template
        .replace("{canary}", &canary.to_string())
        .replace("{port}", &canary.port().to_string())
        .replace("{site}", &site.to_string())
        .replace("{other}", &format!("localhost:{}", site.port()))
        .replace("{name}", vector.name)
}

fn answer(request: &Request, site: SocketAddr, done: &Mutex<HashSet<String>>) -> Response {
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    if let Some(name) = path.strip_prefix("/done/") {
        done.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        return StatusCode::NO_CONTENT.into_response();
    }
    match path {
        "/redirect" => (StatusCode::FOUND, [(header::LOCATION, query)]).into_response(),
        "/refresh" => ([("refresh", format!("0; url={query}"))], Html("on it goes")).into_response(),
        "/frame" => Html(format!("<script>{}</script>", attempt(query))).into_response(),
        "/worker.js" => ([(header::CONTENT_TYPE, "text/javascript")], attempt(query)).into_response(),
        _ => {
            let vector =
                path.strip_prefix("/vector/").and_then(|name| VECTORS.iter().find(|one| one.name == name));
            match (vector, query.parse()) {
                (Some(vector), Ok(canary)) => Html(page(vector, site, canary)).into_response(),
                _ => StatusCode::NOT_FOUND.into_response(),
            }
        }
    }
}

/// `KIND&HOST:PORT`
fn attempt(query: &str) -> String {
    let (kind, canary) = query.split_once('&').unwrap_or_default();
    match kind {
        "fetch" => format!("fetch('http://{canary}/', {{ mode: 'no-cors' }})"),
        "ws" => format!("new WebSocket('ws://{canary}/')"),
        "import" => format!("importScripts('http://{canary}/')"),
        _ => format!("new Image().src = 'http://{canary}/'"),
    }
}

fn page(vector: &Vector, site: SocketAddr, canary: SocketAddr) -> String {
    let (Way::Address(body) | Way::Leaving(body) | Way::Staying(body)) = vector.way;
    let (body, name) = (fill(body, vector, site, canary), vector.name);
    let done = match vector.way {
        Way::Staying(_) => {
            format!("<script>setTimeout(() => fetch('/done/{name}'), {DONE_AFTER_MS})</script>")
        }
        Way::Address(_) | Way::Leaving(_) => String::new(),
    };
    format!(
        "<!doctype html><meta charset=utf-8><link rel=icon href='data:,'><title>{name}</title>{done}{body}"
    )
}
