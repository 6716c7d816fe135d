//! Serves the shop or a folder over HTTP/1.1 on the loopback address. Never listens to other machines.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::folder::Folder;
use super::resource::{Lookup, Resource};
use super::shop::Shop;

/// How long connections may take to end when the site stops.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// How many paths are counted one by one; a site has fewer.
const PATHS_COUNTED: usize = 100_000;

/// What a site shows.
#[derive(Clone, Debug)]
pub enum Content {
    /// The built-in shop.
    Shop,
    /// The files of a folder.
    Folder(PathBuf),
}

/// A site that is being served. Dropping it ends it at once.
pub struct DemoSite {
    address: SocketAddr,
    /// Written by every request, read by [`DemoSite::requests`].
    requests: Arc<AtomicU64>,
    /// The same for each path. Written by every request, read by [`DemoSite::requests_by_path`].
    by_path: Arc<Mutex<BTreeMap<String, u64>>>,
    stop: CancellationToken,
    tasks: JoinSet<io::Result<()>>,
}

enum Site {
    Shop(Box<Shop>),
    Folder(Folder),
}

struct Shared {
    site: Site,
    requests: Arc<AtomicU64>,
    by_path: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl DemoSite {
    /// Starts to serve on 127.0.0.1; port 0 takes any free one. When it returns, the site answers.
    ///
    /// # Errors
    /// The port is taken or not allowed, or the folder cannot be read; the message says which and what to do.
    pub async fn start(port: u16, content: Content) -> io::Result<Self> {
        let site = tokio::task::spawn_blocking(move || match content {
            Content::Shop => Ok(Site::Shop(Box::new(Shop::new()))),
            Content::Folder(path) => Folder::open(&path).map(Site::Folder),
        })
        .await
        .map_err(io::Error::other)??;

        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| explain(error, port))?;
        let address = listener.local_addr()?;
        let (requests, by_path) = (Arc::new(AtomicU64::new(0)), Arc::default());
        let shared = Shared { site, requests: Arc::clone(&requests), by_path: Arc::clone(&by_path) };
        let shared = Arc::new(shared);
        let router = Router::new().fallback(answer).with_state(shared);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let serve = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        tasks.spawn(serve.into_future());
        Ok(Self { address, requests, by_path, stop, tasks })
    }

    /// The address of its home page, with a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// How many requests came in so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// How many requests came in so far for each path.
    pub fn requests_by_path(&self) -> BTreeMap<String, u64> {
        self.by_path.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops listening, lets running requests end for two seconds, and closes what is left.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(STOP_DEADLINE, self.tasks.join_next()).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}

fn explain(error: io::Error, port: u16) -> io::Error {
    let reason = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("port {port} on 127.0.0.1 is already taken; choose another one, or 0 for any free one")
        }
        io::ErrorKind::PermissionDenied => {
            format!("port {port} needs special rights; choose one from 1024 on, or 0 for any free one")
        }
        _ => format!("cannot listen on 127.0.0.1:{port}: {error}"),
    };
    io::Error::new(error.kind(), reason)
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    shared.count(request.uri().path());
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let path = request.uri().path().to_owned();
    let looking = Arc::clone(&shared);
    let lookup = match &shared.site {
        Site::Shop(shop) => Ok(shop.look_up(&path)),
        Site::Folder(_) => tokio::task::spawn_blocking(move || looking.site.look_up(&path)).await,
    };
    match lookup {
        Ok(Lookup::Found(resource)) => found(resource, request.method(), request.headers()),
        Ok(Lookup::Moved(path)) => moved(&path),
        Ok(Lookup::Missing) => shared.site.missing(request.method()),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the file could not be read\n"),
    }
}

impl Shared {
    fn count(&self, path: &str) {
        let mut by_path = self.by_path.lock().unwrap_or_else(PoisonError::into_inner);
        if by_path.len() < PATHS_COUNTED || by_path.contains_key(path) {
            *by_path.entry(path.to_owned()).or_default() += 1;
        }
    }
}

impl Site {
    fn look_up(&self, path: &str) -> Lookup {
        match self {
            Self::Shop(shop) => shop.look_up(path),
            Self::Folder(folder) => folder.look_up(path),
        }
    }

    fn missing(&self, method: &Method) -> Response {
        match self {
            Self::Shop(shop) => {
                let mut response = found(shop.missing(), method, &HeaderMap::new());
                *response.status_mut() = StatusCode::NOT_FOUND;
                response
            }
            Self::Folder(_) => plain(StatusCode::NOT_FOUND, "not found\n"),
        }
    }
}

fn found(resource: Resource, method: &Method, headers: &HeaderMap) -> Response {
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|tags| tags.to_str().ok())
        .is_some_and(|tags| tags.trim() == "*" || tags.split(',').any(|tag| is_same(tag, &resource.etag)));
    let length = resource.body.len();
    let without_body = known || *method == Method::HEAD;
    let mut response = Response::new(if without_body { Body::empty() } else { Body::from(resource.body) });
    let headers = response.headers_mut();
    set(headers, header::ETAG, &resource.etag);
    let cache = if resource.cacheable { "public, max-age=3600" } else { "no-cache" };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    if let Some(date) = &resource.last_modified {
        set(headers, header::LAST_MODIFIED, date);
    }
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        set(headers, header::CONTENT_TYPE, &resource.content_type);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    response
}

/// Compares entity tags weakly (RFC 9110, 8.8.3.2).
fn is_same(tag: &str, etag: &str) -> bool {
    tag.trim().trim_start_matches("W/") == etag
}

fn moved(path: &str) -> Response {
    let mut response = plain(StatusCode::MOVED_PERMANENTLY, "moved\n");
    set(response.headers_mut(), header::LOCATION, path);
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// Leaves a header out whose value HTTP cannot carry.
fn set(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// One request over a connection of its own: the whole answer, as text as far as it is text.
    async fn ask(site: &DemoSite, request_line: &str, extra: &str) -> String {
        let mut stream = TcpStream::connect(site.address).await.unwrap();
        let request = format!("{request_line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{extra}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn the_shop_is_served_with_types_tags_and_lengths() {
        let site = DemoSite::start(0, Content::Shop).await.unwrap();
        let home = ask(&site, "GET /", "").await;
        assert!(home.starts_with("HTTP/1.1 200 OK\r\n"), "{home:.300}");
        assert!(home.contains("content-type: text/html; charset=utf-8\r\n"));
        assert!(home.contains("<h1>All books</h1>"));
        for (path, content_type) in [
            ("/static/style.css", "text/css"),
            ("/static/shop.js", "text/javascript"),
            ("/media/1.png", "image/png"),
        ] {
            let answer = ask(&site, &format!("GET {path}?v=1"), "").await;
            assert!(answer.contains(&format!("content-type: {content_type}")), "{path}: {answer:.300}");
        }
        assert!(ask(&site, "GET /index.html", "").await.contains("location: /\r\n"));
        assert_eq!(site.requests(), 5);
        let by_path = site.requests_by_path();
        assert_eq!((by_path["/index.html"], by_path.values().sum()), (1, 5));
        site.stop().await;
    }

    #[tokio::test]
    async fn head_gives_the_headers_of_get_without_the_body() {
        let site = DemoSite::start(0, Content::Shop).await.unwrap();
        let get = ask(&site, "GET /", "").await;
        let (get_head, body) = get.split_once("\r\n\r\n").unwrap();
        let head = ask(&site, "HEAD /", "").await;
        let line = format!("content-length: {}", body.len());
        assert!(get_head.contains(&line) && head.contains(&line), "{head}");
        assert!(head.ends_with("\r\n\r\n"));
        site.stop().await;
    }

    #[tokio::test]
    async fn a_known_tag_is_answered_with_304() {
        let site = DemoSite::start(0, Content::Shop).await.unwrap();
        let head = ask(&site, "HEAD /", "").await;
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
        let again = ask(&site, "GET /", &format!("If-None-Match: \"old\", W/{tag}\r\n")).await;
        assert!(again.starts_with("HTTP/1.1 304 "), "{again:.200}");
        assert!(ask(&site, "GET /", "If-None-Match: \"old\"\r\n").await.starts_with("HTTP/1.1 200 "));
        site.stop().await;
    }

    #[tokio::test]
    async fn what_is_not_there_or_not_allowed_is_refused() {
        let site = DemoSite::start(0, Content::Shop).await.unwrap();
        let missing = ask(&site, "GET /nothing", "").await;
        assert!(missing.starts_with("HTTP/1.1 404 ") && missing.contains("Page not found"), "{missing:.200}");
        assert!(ask(&site, "POST /", "Content-Length: 0\r\n").await.starts_with("HTTP/1.1 405 "));
        site.stop().await;
    }

    #[tokio::test]
    async fn a_folder_is_served_and_keeps_its_outside_to_itself() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("site");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(home.path().join("secret"), "secret").unwrap();
        std::fs::write(root.join("index.html"), "<p>hello").unwrap();
        let site = DemoSite::start(0, Content::Folder(root)).await.unwrap();
        assert!(ask(&site, "GET /", "").await.ends_with("<p>hello"));
        assert!(ask(&site, "GET /../secret", "").await.starts_with("HTTP/1.1 404 "));
        site.stop().await;
    }

    #[tokio::test]
    async fn a_taken_port_is_named_and_free_again_after_stop() {
        let site = DemoSite::start(0, Content::Shop).await.unwrap();
        let port = site.address.port();
        let error = DemoSite::start(port, Content::Shop).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&format!("port {port} on 127.0.0.1 is already taken")), "{error}");
        site.stop().await;
        DemoSite::start(port, Content::Shop).await.unwrap().stop().await;
    }

    #[tokio::test]
    async fn stopping_does_not_wait_for_idle_connections() {
        let site = DemoSite::start(0, Content::Shop).await.unwrap();
        let _idle = TcpStream::connect(site.address).await.unwrap();
        tokio::time::timeout(STOP_DEADLINE * 2, site.stop()).await.unwrap();
    }
}
