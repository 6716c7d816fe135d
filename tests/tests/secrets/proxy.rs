//! A proxy that asks who is there (RFC 9110, section 11.7), and makes tunnels for whoever knows the password. The first of them
//! breaks off, as connections do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub(super) struct AskingProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _server: JoinSet<()>,
}

/// The counters are written by connections, and read by the test.
struct Shared {
    authorization: String,
    admitted: AtomicUsize,
    refused: AtomicUsize,
}

impl AskingProxy {
    pub(super) async fn start(user: &str, password: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let credentials = STANDARD.encode(format!("{user}:{password}"));
        let authorization = format!("Proxy-Authorization: Basic {credentials}\r\n");
        let shared =
            Arc::new(Shared { authorization, admitted: AtomicUsize::new(0), refused: AtomicUsize::new(0) });
        let (of_server, mut server) = (Arc::clone(&shared), JoinSet::new());
        server.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, Arc::clone(&of_server)));
            }
        });
        Self { address, shared, _server: server }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn admitted(&self) -> usize {
        self.shared.admitted.load(Ordering::Relaxed)
    }

    pub(super) fn refused(&self) -> usize {
        self.shared.refused.load(Ordering::Relaxed)
    }
}

async fn serve(mut client: TcpStream, shared: Arc<Shared>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match client.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    if !head.contains(&shared.authorization) {
        shared.refused.fetch_add(1, Ordering::Relaxed);
        let denial = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\
                      Content-Length: 0\r\nConnection: close\r\n\r\n";
        let _ = client.write_all(denial.as_bytes()).await;
        return;
    }
    let is_first = shared.admitted.fetch_add(1, Ordering::Relaxed) == 0;
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap();
    let mut server = TcpStream::connect(target).await.unwrap();
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    if is_first {
        // Closed with a request unread, a connection is reset.
        let _ = client.peek(&mut [0]).await;
        return;
    }
    let _ = copy_bidirectional(&mut client, &mut server).await;
}
