//! The line to one browser: commands out, answers and events in, as JSON messages that end with a NUL byte, over the
//! two pipes of `--remote-debugging-pipe`.
//!
//! Of an incoming message only the envelope is parsed; parameters are left as text for whoever wants them. Every call
//! has a deadline, and when the line breaks every call under way fails at once. Knows nothing about pages.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chromiumoxide_types::Command;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::pending::Pending;
use super::skipped::Skipped;

/// The longest message that is taken; a longer one is skipped, so that no page can fill our memory.
pub(super) const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// How many commands may wait for a browser that does not read.
const OUTGOING_COMMANDS: usize = 1024;

/// A shared handle of the line. It never closes by being dropped: [`Connection::close`] does that.
#[derive(Clone)]
pub(super) struct Connection(Arc<Shared>);

struct Shared {
    outgoing: mpsc::Sender<Vec<u8>>,
    next_id: AtomicU64,
    /// Written by callers and by the reader; `None` once the line is broken.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>,
    /// Written by the owners of sessions, read by the reader. The browser's own events are under "".
    listeners: Mutex<HashMap<String, Arc<dyn Listener>>>,
    lost: CancellationToken,
}

/// Takes the events of one session. Called by the reader, so it must not block.
pub(super) trait Listener: Send + Sync {
    /// Takes one event.
    fn event(&self, connection: &Connection, method: &str, params: &RawValue);

    /// Takes that there was an event in a message of so many bytes, which is too long for more to be known.
    fn skipped(&self, _connection: &Connection, _method: &str, _bytes: u64) {}
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The browser is gone.
    #[error("the browser is gone")]
    Lost,
    /// The deadline passed.
    #[error("no answer in time")]
    Timeout,
    /// The browser refused.
    #[error("{0}")]
    Refused(String),
    /// The worker's own machine has no port or no file descriptor left for the tab's way to the network.
    #[error("no port for the egress guard")]
    NoPort(#[source] std::io::Error),
    /// The command or the answer is not what the protocol types say.
    #[error("a message could not be translated")]
    Translation(#[from] serde_json::Error),
}

/// What the browser answered, or why it refused.
pub(super) type Answer = Result<Box<RawValue>, String>;

#[derive(Serialize)]
struct Outgoing<'a, P> {
    id: u64,
    method: Cow<'static, str>,
    #[serde(rename = "sessionId", skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    params: &'a P,
}

#[derive(Deserialize)]
struct Incoming<'a> {
    id: Option<u64>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "sessionId")]
    session: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

impl Connection {
    /// Starts to read and write; both tasks end with the line, and `tasks` is who awaits them.
    pub(super) fn start(
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
        tasks: &TaskTracker,
    ) -> Self {
        let (outgoing, commands) = mpsc::channel(OUTGOING_COMMANDS);
        let connection = Self(Arc::new(Shared {
            outgoing,
            next_id: AtomicU64::new(1),
            waiting: Mutex::new(Some(HashMap::new())),
            listeners: Mutex::new(HashMap::new()),
            lost: CancellationToken::new(),
        }));
        let lost = connection.0.lost.clone();
        tasks.spawn(lost.run_until_cancelled_owned(write(writer, commands)));
        let incoming = connection.clone();
        tasks.spawn(async move {
            let lost = incoming.0.lost.clone();
            if let Some(Err(error)) = lost.run_until_cancelled(incoming.read(reader)).await {
                tracing::warn!(%error, "reading from the browser failed");
            }
            incoming.close();
        });
        connection
    }

    /// Sends a command and waits for its answer, at the latest until the deadline.
    pub(super) async fn call<C: Command>(
        &self,
        session: Option<&str>,
        command: &C,
        deadline: Instant,
    ) -> Result<C::Response, CallError> {
        self.begin(session, command, deadline).await?.answer(deadline).await
    }

    /// Sends a command; its answer may be waited for later.
    pub(super) async fn begin<C: Command>(
        &self,
        session: Option<&str>,
        command: &C,
        deadline: Instant,
    ) -> Result<Pending<C::Response>, CallError> {
        let (answered, answer) = oneshot::channel();
        let (id, message) = self.encode(session, command)?;
        match lock(&self.0.waiting).as_mut() {
            Some(waiting) => waiting.insert(id, answered),
            None => return Err(CallError::Lost),
        };
        let pending = Pending::new(self, id, answer);
        tokio::select! {
            // Looked at first, so that nobody waits for a line that is broken.
            biased;
            () = self.0.lost.cancelled() => Err(CallError::Lost),
            sent = tokio::time::timeout_at(deadline, self.0.outgoing.send(message)) => match sent {
                Ok(Ok(())) => Ok(pending),
                Ok(Err(_)) => Err(CallError::Lost),
                Err(_) => Err(CallError::Timeout),
            },
        }
    }

    /// Sends a command whose answer nobody needs. It is dropped where too many wait already.
    pub(super) fn send<C: Command>(&self, session: Option<&str>, command: &C) {
        if let Ok((_, message)) = self.encode(session, command)
            && self.0.outgoing.try_send(message).is_err()
        {
            tracing::debug!(method = %command.identifier(), "command dropped");
        }
    }

    /// Gives the events of a session to `listener`, until [`Connection::ignore`].
    pub(super) fn listen(&self, session: &str, listener: Arc<dyn Listener>) {
        lock(&self.0.listeners).insert(session.to_owned(), listener);
    }

    /// Ends [`Connection::listen`].
    pub(super) fn ignore(&self, session: &str) {
        lock(&self.0.listeners).remove(session);
    }

    #[cfg(test)]
    pub(super) fn listeners(&self) -> usize {
        lock(&self.0.listeners).len()
    }

    /// Breaks the line: every call under way and every later one fails.
    pub(super) fn close(&self) {
        self.0.lost.cancel();
        lock(&self.0.waiting).take();
        lock(&self.0.listeners).clear();
    }

    /// Waits until the line is broken.
    pub(super) async fn lost(&self) {
        self.0.lost.cancelled().await;
    }

    /// Whether the line is broken.
    pub(super) fn is_lost(&self) -> bool {
        self.0.lost.is_cancelled()
    }

    /// Expects the answer to a command no longer.
    pub(super) fn forget(&self, id: u64) {
        if let Some(waiting) = lock(&self.0.waiting).as_mut() {
            waiting.remove(&id);
        }
    }

    fn encode<C: Command>(&self, session: Option<&str>, command: &C) -> serde_json::Result<(u64, Vec<u8>)> {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let outgoing = Outgoing { id, method: command.identifier(), session, params: command };
        let mut message = serde_json::to_vec(&outgoing)?;
        message.push(0);
        Ok((id, message))
    }

    async fn read(&self, reader: impl AsyncRead + Unpin) -> std::io::Result<()> {
        let mut reader = BufReader::with_capacity(64 << 10, reader);
        let mut message: Vec<u8> = Vec::new();
        let mut skipped: Option<Skipped> = None;
        loop {
            let available = reader.fill_buf().await?;
            if available.is_empty() {
                return Ok(());
            }
            let end = available.iter().position(|&byte| byte == 0);
            let part = &available[..end.unwrap_or(available.len())];
            if skipped.is_none() && message.len() + part.len() > MAX_MESSAGE_BYTES {
                skipped.insert(Skipped::default()).push(&message);
                message = Vec::new();
            }
            match &mut skipped {
                Some(skipped) => skipped.push(part),
                None => message.extend_from_slice(part),
            }
            let consumed = part.len() + usize::from(end.is_some());
            reader.consume(consumed);
            if end.is_some() {
                match skipped.take() {
                    Some(skipped) => self.skip(&skipped),
                    None => self.dispatch(&message),
                }
                message.clear();
                message.shrink_to(1 << 20);
            }
        }
    }

    fn dispatch(&self, message: &[u8]) {
        let Ok(incoming) = serde_json::from_slice::<Incoming<'_>>(message) else {
            tracing::warn!(bytes = message.len(), "the browser sent no envelope");
            return;
        };
        if let Some(id) = incoming.id {
            let waiting = lock(&self.0.waiting).as_mut().and_then(|waiting| waiting.remove(&id));
            if let Some(waiting) = waiting {
                let answer = match incoming.error {
                    Some(refusal) => Err(refusal.message),
                    None => Ok(incoming.result.map_or_else(empty, ToOwned::to_owned)),
                };
                let _ = waiting.send(answer);
            }
        } else if let (Some(method), Some(params)) = (incoming.method, incoming.params)
            && let Some(listener) = self.listener(&incoming.session.unwrap_or_default())
        {
            listener.event(self, &method, params);
        }
    }

    /// An answer that is too long is awaited in vain.
    fn skip(&self, skipped: &Skipped) {
        tracing::warn!(bytes = skipped.bytes(), "skipped a message of the browser that was too long");
        if let Some((method, session)) = skipped.event()
            && let Some(listener) = self.listener(session)
        {
            listener.skipped(self, method, skipped.bytes());
        }
    }

    fn listener(&self, session: &str) -> Option<Arc<dyn Listener>> {
        lock(&self.0.listeners).get(session).cloned()
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("lost", &self.is_lost()).finish_non_exhaustive()
    }
}

/// Writes whole messages one after the other; a call that is given up half-way can therefore not garble the line.
async fn write(mut writer: impl AsyncWrite + Unpin, mut commands: mpsc::Receiver<Vec<u8>>) {
    while let Some(message) = commands.recv().await {
        if let Err(error) = writer.write_all(&message).await {
            // The reader sees the end of its pipe too, and tells everybody.
            tracing::debug!(%error, "writing to the browser failed");
            return;
        }
    }
}

fn empty() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing that is done under these locks leaves them half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chromiumoxide_cdp::cdp::browser_protocol::browser::{CloseParams, GetVersionParams};
    use tokio::io::{AsyncReadExt, DuplexStream, split};

    use super::*;

    const VERSION: &str =
        r#"{"protocolVersion":"1","product":"P/1","revision":"r","userAgent":"u","jsVersion":"j"}"#;

    fn connected() -> (Connection, DuplexStream, TaskTracker) {
        let (ours, browser) = tokio::io::duplex(1 << 16);
        let (reader, writer) = split(ours);
        let tasks = TaskTracker::new();
        (Connection::start(reader, writer, &tasks), browser, tasks)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    async fn next_command(browser: &mut DuplexStream) -> serde_json::Value {
        let mut message = Vec::new();
        loop {
            match browser.read_u8().await.unwrap() {
                0 => return serde_json::from_slice(&message).unwrap(),
                byte => message.push(byte),
            }
        }
    }

    #[tokio::test]
    async fn answers_find_their_calls_in_any_order() {
        let (connection, mut browser, _tasks) = connected();
        let (first, second) = (GetVersionParams {}, GetVersionParams {});
        let answer = async {
            let first = next_command(&mut browser).await;
            let second = next_command(&mut browser).await;
            assert_eq!(first["method"], "Browser.getVersion");
            let refusal = format!(r#"{{"id":{},"error":{{"code":-1,"message":"no"}}}}"#, second["id"]);
            browser.write_all(refusal.as_bytes()).await.unwrap();
            browser.write_all(b"\0").await.unwrap();
            let result = format!("{{\"id\":{},\"result\":{VERSION}}}\0", first["id"]);
            browser.write_all(result.as_bytes()).await.unwrap();
        };
        let (first, second, ()) = tokio::join!(
            connection.call(None, &first, soon()),
            connection.call(Some("s"), &second, soon()),
            answer
        );
        assert_eq!(first.unwrap().product, "P/1");
        assert!(matches!(second, Err(CallError::Refused(message)) if message == "no"));
    }

    #[tokio::test]
    async fn a_broken_line_ends_calls_at_once_and_later_ones_too() {
        let (connection, browser, tasks) = connected();
        let params = GetVersionParams {};
        let (called, ()) = tokio::join!(connection.call(None, &params, soon()), async { drop(browser) });
        assert!(matches!(called, Err(CallError::Lost)));
        assert!(matches!(connection.call(None, &params, soon()).await, Err(CallError::Lost)));
        tasks.close();
        tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await.unwrap();
    }

    #[tokio::test]
    async fn a_call_without_an_answer_ends_at_its_deadline_and_is_forgotten() {
        let (connection, _browser, _tasks) = connected();
        let deadline = Instant::now() + Duration::from_millis(20);
        let called = connection.call(None, &CloseParams {}, deadline).await;
        assert!(matches!(called, Err(CallError::Timeout)));
        assert!(lock(&connection.0.waiting).as_ref().unwrap().is_empty());
    }
}
