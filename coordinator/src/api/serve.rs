//! Serves connections, within limits that axum's own loop does not set: who sends a request one byte at a time, or
//! opens connections and says nothing, holds none of them for long.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the head of a request may be on its way, and how long a connection may be idle.
pub const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// The longest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// How long requests in hand may go on after the stop.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Serves until `stop`, and lets the requests in hand end.
pub async fn serve(
    mut listener: TcpListener,
    router: Router,
    head_within: Duration,
    stop: CancellationToken,
) {
    let (connections, free) = (TaskTracker::new(), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    loop {
        let accepted = async {
            let place = Arc::clone(&free).acquire_owned().await.ok()?;
            // Waits and goes on where the system has no file handle left.
            let (stream, _) = Listener::accept(&mut listener).await;
            Some((place, stream))
        };
        let Some(Some((place, stream))) = stop.run_until_cancelled(accepted).await else { break };
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            serve_one(stream, router, head_within, stop).await;
            drop(place);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn serve_one(stream: TcpStream, router: Router, head_within: Duration, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_within)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(END_WITHIN, connection).await.ok()
        }
    };
    if let Some(Err(error)) = ended {
        // A client's fault, or its good right.
        tracing::trace!(%error, "a connection to the REST API broke");
    }
}
