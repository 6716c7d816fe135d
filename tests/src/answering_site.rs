//! A small site that answers each path as a test says, and notes what it was asked for.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A running site. Dropping it ends it.
#[derive(Debug)]
pub struct AnsweringSite {
    address: SocketAddr,
    log: Log,
    _server: JoinSet<()>,
}

/// When each request came, its path, and its headers. Written by every request, read by tests.
type Log = Arc<Mutex<Vec<(Instant, String, HeaderMap)>>>;
/// Given the site's own origin and a path, the answer.
type Answer = dyn Fn(&str, &str) -> Response + Send + Sync;
/// Given a path and how often it was asked for before, how long the answer takes.
type Takes = dyn Fn(&str, usize) -> Duration + Send + Sync;

#[derive(Clone)]
struct Shared {
    address: SocketAddr,
    takes: Arc<Takes>,
    answer: Arc<Answer>,
    log: Log,
}

impl AnsweringSite {
    /// Starts one on a port of its own. `answer` is given the site's own origin and the path.
    ///
    /// # Panics
    /// There is no port.
    pub async fn start(answer: impl Fn(&str, &str) -> Response + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1", answer).await
    }

    /// Starts one at another address of the loopback interface.
    ///
    /// # Panics
    /// There is no port.
    pub async fn at(address: &str, answer: impl Fn(&str, &str) -> Response + Send + Sync + 'static) -> Self {
        Self::at_taking(address, |_, _| Duration::ZERO, answer).await
    }

    /// Starts one that takes so long to answer.
    ///
    /// # Panics
    /// There is no port.
    pub async fn slow(
        takes: Duration,
        answer: impl Fn(&str, &str) -> Response + Send + Sync + 'static,
    ) -> Self {
        Self::taking(move |_, _| takes, answer).await
    }

    /// Starts one that takes as long to answer as the path, and how often it was asked for before, say.
    ///
    /// # Panics
    /// There is no port.
    pub async fn taking(
        takes: impl Fn(&str, usize) -> Duration + Send + Sync + 'static,
        answer: impl Fn(&str, &str) -> Response + Send + Sync + 'static,
    ) -> Self {
        Self::at_taking("127.0.0.1", takes, answer).await
    }

    async fn at_taking(
        address: &str,
        takes: impl Fn(&str, usize) -> Duration + Send + Sync + 'static,
        answer: impl Fn(&str, &str) -> Response + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((address, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let shared =
            Shared { address, takes: Arc::new(takes), answer: Arc::new(answer), log: Arc::default() };
        let log = Arc::clone(&shared.log);
        let router = Router::new().fallback(respond).with_state(shared);
        let mut server = JoinSet::new();
        server.spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Self { address, log, _server: server }
    }

    /// The address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How often a path was asked for.
    pub fn asked_for(&self, path: &str) -> usize {
        self.requests().iter().filter(|(asked, _)| asked == path).count()
    }

    /// Every request so far, in order: its path, and its headers.
    pub fn requests(&self) -> Vec<(String, HeaderMap)> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().map(|(_, path, headers)| (path.clone(), headers.clone())).collect()
    }

    /// When each of them came.
    pub fn times(&self) -> Vec<Instant> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().map(|(at, _, _)| *at).collect()
    }
}

async fn respond(State(shared): State<Shared>, request: Request) -> Response {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let entry = (Instant::now(), path.clone(), request.headers().clone());
    let asked_before = {
        let mut log = shared.log.lock().unwrap_or_else(PoisonError::into_inner);
        let asked_before = log.iter().filter(|(_, asked, _)| *asked == path).count();
        log.push(entry);
        asked_before
    };
    tokio::time::sleep((shared.takes)(&path, asked_before)).await;
    (shared.answer)(&format!("http://{}", shared.address), &path)
}

/// A document of this text.
pub fn text(body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain")], body.into()).into_response()
}

/// A status without a document.
pub fn status(status: u16) -> Response {
    StatusCode::from_u16(status).expect("the test's status is one").into_response()
}

/// A redirect to another address.
pub fn redirect(to: &str) -> Response {
    (StatusCode::FOUND, [(header::LOCATION, to.to_owned())]).into_response()
}

/// An HTML document that comes at once but for its end, which comes so much later.
pub fn ends_late(html: &str, later: Duration) -> Response {
    let start = stream::iter([Ok::<_, std::io::Error>(html.to_owned())]);
    let end = stream::once(async move {
        tokio::time::sleep(later).await;
        Ok("\n".to_owned())
    });
    let body = Body::from_stream(futures_util::StreamExt::chain(start, end));
    ([(header::CONTENT_TYPE, "text/html")], body).into_response()
}

/// A document that begins with `start` and goes on with `part` for ever.
pub fn endless(start: &str, part: String) -> Response {
    let first = stream::iter([Ok::<_, std::io::Error>(start.to_owned())]);
    let rest = stream::repeat_with(move || Ok(part.clone()));
    Body::from_stream(futures_util::StreamExt::chain(first, rest)).into_response()
}
