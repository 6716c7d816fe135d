//! A canary: a port, TCP and UDP, on which every connection and every datagram is counted. It answers HTTP so that
//! whatever asks it goes on to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// How many ports are tried for one that is free for both.
const PORTS_TRIED: usize = 20;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\ncontent-type: text/html\r\n\
    content-length: 2\r\nconnection: close\r\n\r\nhi";

/// A counting port. Dropping it closes it.
#[derive(Debug)]
pub struct Canary {
    /// Where it is.
    pub address: SocketAddr,
    hits: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Canary {
    /// Begins to listen on 127.0.0.1.
    pub async fn start() -> Self {
        Self::at("127.0.0.1:0").await
    }

    /// Begins to listen.
    ///
    /// # Panics
    /// It cannot.
    pub async fn at(address: &str) -> Self {
        for _ in 0..PORTS_TRIED {
            let tcp = TcpListener::bind(address).await.expect("the canary's port is free");
            let address = tcp.local_addr().expect("it listens");
            if let Ok(udp) = UdpSocket::bind(address).await {
                return Self::listen(address, tcp, udp);
            }
        }
        panic!("no port is free for both TCP and UDP");
    }

    /// Connections and datagrams so far.
    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    fn listen(address: SocketAddr, tcp: TcpListener, udp: UdpSocket) -> Self {
        let hits = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let of_tcp = Arc::clone(&hits);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = tcp.accept().await {
                of_tcp.fetch_add(1, Ordering::SeqCst);
                connections.spawn(async move {
                    let mut request = [0; 4096];
                    if stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                        let _ = stream.write_all(ANSWER).await;
                    }
                });
            }
        });
        let of_udp = Arc::clone(&hits);
        tasks.spawn(async move {
            let mut datagram = [0; 4096];
            while udp.recv_from(&mut datagram).await.is_ok() {
                of_udp.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { address, hits, _tasks: tasks }
    }
}
