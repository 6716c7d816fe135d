//! A port that nobody else gets: whoever connects to it is refused, until a server that was told its number listens.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A port of 127.0.0.1 that is ours as long as this lives.
#[derive(Debug)]
pub struct HeldPort {
    number: u16,
    /// Bound, and never listening.
    _socket: TcpSocket,
}

impl HeldPort {
    /// Takes one.
    ///
    /// # Errors
    /// None is free.
    pub fn take() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        // Who has this set as well may listen there if he asks for this very port, as servers do. Who asks for any port
        // never gets it.
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        Ok(Self { number: socket.local_addr()?.port(), _socket: socket })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn who_connects_is_refused_until_somebody_listens_there_on_purpose() {
        let held = HeldPort::take().unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, held.number()));
        for _ in 0..2 {
            let refused = TcpStream::connect(address).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            let _listener = TcpListener::bind(address).await.unwrap();
            TcpStream::connect(address).await.unwrap();
        }
    }
}
