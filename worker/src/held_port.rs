//! A port of a test's own.

use tokio::net::TcpSocket;

/// A port at which nobody listens as long as nobody is told to, and nobody else can.
pub(crate) fn held(at: &str) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    // Those of one test may hold the same.
    socket.set_reuseaddr(true).unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(at.parse().unwrap()).unwrap();
    socket
}
