//! One connection of the browser: its requests, each on to its server, and the answers back, byte for byte.
//!
//! A connection that carries plain HTTP stays with one destination for its whole life, as the browser's own connections
//! do: what a server says too much can never be taken for another server's answer. So responses need not be understood; where they
//! and their heads end is told all the same (`framing`), for `seats`.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::dial::Dialled;
use super::framing::Answers;
use super::garbled;
use super::gate::Core;
use super::policy::Destination;
use super::reason::Reason;
use super::request_head::{Forward, RequestHead, Wants};
use super::seats::Seat;
use super::tunnel::tunnel;

pub(super) const BUFFER_BYTES: usize = 16 << 10;
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
/// How the answers of a proxy begin that does not know us.
const PROXY_DENIES: [&[u8]; 2] = [b"HTTP/1.1 407", b"HTTP/1.0 407"];

/// What is being answered. Written by the side that reads requests, read by the side that reads responses.
#[derive(Debug)]
struct Current<'a> {
    destination: &'a Destination,
    /// Among the connections of the browser.
    seat: Seat<'a>,
    /// What may still come; at zero it is too much.
    left: AtomicU64,
    /// How much has come.
    received: AtomicU64,
    /// Whether anything has come, for this request or one before it.
    has_answered: AtomicBool,
    /// Whether it has a head alone.
    is_head_alone: AtomicBool,
    /// Whether it was asked for by what may be sent twice.
    is_of_safe: AtomicBool,
    /// What was asked for, where it is a document.
    url: Mutex<Option<String>>,
}

/// Serves a connection until one of its sides ends it.
pub(super) async fn serve(mut client: TcpStream, core: &Core) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(4 << 10);
    while let Some(head) = next_head(&mut client, &mut buffer).await? {
        let head = match head {
            Ok(head) => head,
            Err(reason) => return garbled::refuse(client, &buffer, reason, core).await,
        };
        let is_tunnel = head.wants == Wants::Tunnel;
        let dialled = core.connect(&head.destination, is_tunnel).await;
        core.count(dialled.as_ref().map(|_| ()).map_err(|reason| *reason));
        match (dialled, head.wants) {
            (Ok(dialled), Wants::Tunnel) => {
                client.write_all(ESTABLISHED).await?;
                return tunnel(client, dialled.stream, &head.destination, &buffer, core).await;
            }
            (Ok(dialled), Wants::Forward(first)) => {
                return forward(client, dialled, &head.destination, first, buffer, core).await;
            }
            (Err(reason), wants) => {
                // A tunnel that is not made ends its connection; so does a request whose body would have to be read.
                let keep = matches!(wants, Wants::Forward(Forward { body_bytes: 0, .. }));
                core.refusals.hosts.note(&head.destination.to_string(), reason);
                if let Wants::Forward(request) = &wants
                    && request.is_document
                {
                    core.refusals.note_document(&request.url(&head.destination), reason);
                }
                client.write_all(&reason.answer(keep)).await?;
                if !keep {
                    return client.shutdown().await;
                }
            }
        }
    }
    Ok(())
}

/// Reads a head, and leaves in the buffer what came after it; `None` at the end.
async fn next_head(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> io::Result<Option<Result<RequestHead, Reason>>> {
    loop {
        if !buffer.is_empty() {
            match RequestHead::parse(buffer) {
                Ok(Some((head, length))) => {
                    buffer.drain(..length);
                    return Ok(Some(Ok(head)));
                }
                Ok(None) => {}
                Err(_) => return Ok(Some(Err(Reason::NotUnderstood))),
            }
        }
        if from.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// Hands on the first request and those after it, and hands back what is answered.
async fn forward(
    mut client: TcpStream,
    dialled: Dialled,
    destination: &Destination,
    first: Forward,
    begun: Vec<u8>,
    core: &Core,
) -> io::Result<()> {
    let Dialled { mut stream, proxy } = dialled;
    let (from_client, mut to_client) = client.split();
    let (from_server, to_server) = stream.split();
    let current = Current {
        destination,
        seat: core.seats.take(destination),
        left: AtomicU64::new(u64::MAX),
        received: AtomicU64::new(0),
        has_answered: AtomicBool::new(false),
        is_head_alone: AtomicBool::new(false),
        is_of_safe: AtomicBool::new(false),
        url: Mutex::default(),
    };
    // Before anything can end it: what is remembered then is remembered of this.
    current.begin(&first, core);
    let requests = Requests { from_client, to_server, destination, proxy: proxy.as_ref(), core };
    let ended = tokio::select! {
        ended = requests.hand_on(first, begun, &current) => match ended {
            Ok(()) => return Ok(()),
            Err(error) => Err(error),
        },
        ended = hand_back(from_server, &mut to_client, proxy.is_some(), &current, core) => ended,
        () = current.seat.must_give_way() => Ok(Some(Reason::GaveWay)),
    };
    let instead = match ended {
        // A proxy that has nothing to say for a server is at fault itself. A connection that it has used before it may end
        // at any time: the browser makes a new one.
        Ok(None) | Err(_) if proxy.is_some() && !current.has_answered.load(Ordering::Relaxed) => {
            Some(Reason::Proxy)
        }
        ended => ended?,
    };
    if let Some(reason) = instead {
        // Where nothing of the response has gone to the browser, ours is the response.
        let is_ours = current.received.load(Ordering::Relaxed) == 0;
        let document = current.url.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(url) = document.filter(|_| is_ours || reason == Reason::TooLarge) {
            core.refusals.note_document(&url, reason);
        }
        match reason {
            Reason::TooLarge => core.cuts.send_modify(|cuts| *cuts += 1),
            // Which says nothing about the next request to it.
            Reason::GaveWay => tracing::debug!(%destination, "a request gave way to others"),
            _ => core.refusals.hosts.note(&destination.to_string(), reason),
        }
        if is_ours {
            to_client.write_all(&reason.answer(false)).await?;
        } else if reason == Reason::GaveWay {
            // Reset, so that the browser does not take what has come for the whole.
            return client.set_zero_linger();
        }
    }
    to_client.shutdown().await
}

/// The side that reads requests.
struct Requests<'a, R, W> {
    from_client: R,
    to_server: W,
    destination: &'a Destination,
    /// As [`Dialled::proxy`].
    proxy: Option<&'a Option<String>>,
    core: &'a Core,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Requests<'_, R, W> {
    async fn hand_on(mut self, first: Forward, mut buffer: Vec<u8>, current: &Current<'_>) -> io::Result<()> {
        let mut request = first;
        loop {
            let head = match self.proxy {
                None => request.for_server(),
                Some(authorization) => request.for_proxy(self.destination, authorization.as_deref()),
            };
            self.core.count_sent(head.len());
            self.to_server.write_all(&head).await?;
            self.hand_on_body(request.body_bytes, &mut buffer).await?;
            request = match next_head(&mut self.from_client, &mut buffer).await? {
                Some(Ok(RequestHead { destination, wants: Wants::Forward(next) }))
                    if destination == *self.destination =>
                {
                    self.core.count(Ok(()));
                    current.begin(&next, self.core);
                    next
                }
                // The end, or a request for another: the browser makes a new connection for that.
                _ => return Ok(()),
            };
        }
    }

    async fn hand_on_body(&mut self, length: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            if buffer.is_empty() && self.from_client.read_buf(buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            self.core.count_sent(part);
            self.to_server.write_all(&buffer[..part]).await?;
            buffer.drain(..part);
            left -= part as u64;
        }
        Ok(())
    }
}

/// The side that reads responses. Answers what is to be said instead of the rest.
async fn hand_back(
    mut from_server: impl AsyncRead + Unpin,
    to_client: &mut (impl AsyncWrite + Unpin),
    is_proxy: bool,
    current: &Current<'_>,
    core: &Core,
) -> io::Result<Option<Reason>> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut answers = Answers::default();
    loop {
        let read = from_server.read(&mut buffer).await?;
        if read == 0 {
            return Ok(None);
        }
        core.count_received(read);
        let is_first = current.received.load(Ordering::Relaxed) == 0;
        if is_proxy && is_first && PROXY_DENIES.iter().any(|denial| buffer[..read].starts_with(denial)) {
            return Ok(Some(Reason::Proxy));
        }
        let left = current.left.load(Ordering::Relaxed);
        if left < read as u64 {
            return Ok(Some(Reason::TooLarge));
        }
        if left != u64::MAX {
            current.left.store(left - read as u64, Ordering::Relaxed);
        }
        current.received.fetch_add(read as u64, Ordering::Relaxed);
        current.has_answered.store(true, Ordering::Relaxed);
        if is_first {
            // Whatever it says, it is not what was refused before.
            core.refusals.hosts.forget(&current.destination.to_string());
            answers.await_next(current.is_head_alone.load(Ordering::Relaxed));
        }
        // Chrome sends a request once more, even one that orders something, if its connection is reset before a head has come, where
        // that has been used or lay ready before (`HttpNetworkTransaction::ShouldResendRequest`): the latter nobody sees here.
        if !current.is_of_safe.load(Ordering::Relaxed) && !answers.has_head() {
            current.seat.keep(true);
        }
        if answers.follow(&buffer[..read]) {
            current.seat.hear();
        }
        to_client.write_all(&buffer[..read]).await?;
        // Not before all of it was taken: neither a head nor the whole ends sooner for the browser.
        if answers.has_head() {
            current.seat.keep(false);
        }
        if answers.is_over() {
            current.seat.end();
        }
    }
}

impl Current<'_> {
    fn begin(&self, request: &Forward, core: &Core) {
        self.seat.ask(request.is_document);
        self.received.store(0, Ordering::Relaxed);
        self.is_head_alone.store(request.asks_for_head_alone(), Ordering::Relaxed);
        self.is_of_safe.store(request.is_safe(), Ordering::Relaxed);
        let limit = if request.is_document { core.document_bytes() } else { u64::MAX };
        self.left.store(limit, Ordering::Relaxed);
        let document = request.is_document.then(|| request.url(self.destination));
        if let Some(url) = &document {
            core.refusals.documents.forget(url);
        }
        *self.url.lock().unwrap_or_else(PoisonError::into_inner) = document;
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::egress::{Egress, EgressOptions};

    const PAGE: &str =
        "GET http://shop.test/ HTTP/1.1\r\nHost: shop.test\r\nUpgrade-Insecure-Requests: 1\r\n\r\n";
    const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ours, theirs) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (ours.unwrap(), theirs.unwrap().0)
    }

    /// What a browser gets that asks twice by way of a workflow's own proxy out in the internet, and what the guard
    /// remembers of the server and of the document, which was refused before.
    async fn asked_through(proxy: impl AsyncFnOnce(TcpStream)) -> (String, [Option<Reason>; 2]) {
        let egress = Egress::start(EgressOptions::default()).unwrap();
        let gate = egress.own_gate().unwrap();
        let refusals = &gate.core().refusals;
        refusals.documents.note("http://shop.test/", Reason::Refused);
        let ((mut browser, client), (stream, of_proxy)) = (connected().await, connected().await);
        let (head, _) = RequestHead::parse(PAGE.as_bytes()).unwrap().unwrap();
        let Wants::Forward(first) = head.wants else { panic!("{PAGE}") };
        let dialled = Dialled { stream, proxy: Some(None) };
        browser.write_all(PAGE.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let (_, read, ()) = tokio::join!(
            forward(client, dialled, &head.destination, first, Vec::new(), gate.core()),
            browser.read_to_string(&mut answer),
            proxy(of_proxy)
        );
        read.unwrap();
        (answer, [refusals.hosts.of("shop.test:80"), refusals.documents.of("http://shop.test/")])
    }

    #[tokio::test]
    async fn a_proxy_that_says_nothing_at_all_is_at_fault_itself() {
        let closes = asked_through(async |_| {}).await;
        let reads_and_closes = asked_through(async |mut proxy| {
            assert!(proxy.read(&mut [0; 1024]).await.unwrap() > 0);
        })
        .await;
        let refuses = asked_through(async |mut proxy| {
            proxy.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await.unwrap();
        })
        .await;
        for (answer, remembered) in [closes, reads_and_closes, refuses] {
            assert!(answer.contains("x-crawlify-egress: proxy"), "{answer}");
            assert_eq!(remembered, [Some(Reason::Proxy); 2], "which clients are told by");
        }
    }

    #[tokio::test]
    async fn a_proxy_that_closes_what_it_has_used_and_one_that_answers_for_its_server_are_not() {
        let used = asked_through(async |mut proxy| {
            let mut heads = Vec::new();
            while String::from_utf8_lossy(&heads).matches("GET ").count() < 2 {
                assert!(proxy.read_buf(&mut heads).await.unwrap() > 0, "the browser asks twice");
            }
            proxy.write_all(HELLO).await.unwrap();
        })
        .await;
        assert!(used.0.ends_with("\r\n\r\nhello") && used.1 == [None; 2], "{used:?}");
        let bad_gateway = asked_through(async |mut proxy| {
            proxy.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        })
        .await;
        assert!(bad_gateway.0.starts_with("HTTP/1.1 502") && bad_gateway.1 == [None; 2], "{bad_gateway:?}");
    }
}
