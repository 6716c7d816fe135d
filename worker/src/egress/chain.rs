//! What is said to an execution's own proxy, so that it connects onwards. Judges no address.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crawlify_shared::domain::workflow::ProxyCredentials;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_socks::tcp::Socks5Stream;

use super::policy::Destination;

/// A longer answer to `CONNECT` is none.
const MAX_ANSWER_BYTES: usize = 16 << 10;

/// The value of a `Proxy-Authorization` header (RFC 7617).
pub(super) fn basic(credentials: &ProxyCredentials) -> String {
    format!("Basic {}", STANDARD.encode(format!("{}:{}", credentials.username, credentials.password)))
}

/// Asks an HTTP proxy for a tunnel (RFC 9110, section 9.3.6); `None` where it does not make one.
pub(super) async fn connect(
    stream: &mut TcpStream,
    target: &Destination,
    credentials: Option<&ProxyCredentials>,
) -> Option<()> {
    let authorization = credentials
        .map(|credentials| format!("Proxy-Authorization: {}\r\n", basic(credentials)))
        .unwrap_or_default();
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    // One byte after the other: what follows the head belongs to the tunnel.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() > MAX_ANSWER_BYTES {
            return None;
        }
        answer.push(stream.read_u8().await.ok()?);
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(&answer).ok()?;
    matches!(response.code, Some(200..=299)).then_some(())
}

/// Asks a SOCKS proxy for a tunnel; `None` where it does not make one.
pub(super) async fn socks5(
    stream: TcpStream,
    target: &Destination,
    credentials: Option<&ProxyCredentials>,
) -> Option<TcpStream> {
    let name = match &target.host {
        url::Host::Domain(name) => name.clone(),
        url::Host::Ipv4(address) => address.to_string(),
        url::Host::Ipv6(address) => address.to_string(),
    };
    let target = (name.as_str(), target.port);
    let connected = match credentials {
        Some(known) => {
            let (username, password) = (&known.username, &known.password);
            Socks5Stream::connect_with_password_and_socket(stream, target, username, password).await
        }
        None => Socks5Stream::connect_with_socket(stream, target).await,
    };
    Some(connected.ok()?.into_inner())
}
