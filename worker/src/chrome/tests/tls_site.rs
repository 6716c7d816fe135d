//! A site over TLS.

use std::sync::Arc;

use crawlify_shared::domain::page_url::PageUrl;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

/// How much comes of each part of `/hangs`: half of it.
pub(super) const BEGUN_BYTES: usize = 100_000;

/// A site over TLS with a certificate that nobody vouches for. Its page `/endless` never ends; the parts of its page `/hangs` begin
/// to come, and stop.
pub(super) async fn self_signed_site() -> (PageUrl, JoinSet<()>) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let mut config = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], signing_key.serialize_der().try_into().unwrap())
        .unwrap();
    // No tickets: what the guard takes for an answer would depend on when they come.
    config.send_tls13_tickets = 0;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = PageUrl::parse(&format!("https://{}/", listener.local_addr().unwrap())).unwrap();
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                // Answered when it is asked, not before: the browser takes a connection that is already closed for a
                // failure of its own.
                let mut request = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut request).await {
                    if request[..read].starts_with(b"GET /endless") {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n").await;
                        // As comments, which are no work for who reads them.
                        let piece = format!("<!--{}-->", "x".repeat(1 << 14));
                        while stream.write_all(piece.as_bytes()).await.is_ok() {}
                        return;
                    }
                    if request[..read].starts_with(b"GET /begun") {
                        let head = "HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n";
                        let begun = format!("{head}{}", "x".repeat(BEGUN_BYTES));
                        let _ = stream.write_all(begun.as_bytes()).await;
                        let _ = stream.flush().await;
                        continue;
                    }
                    let page = match request[..read].starts_with(b"GET /hangs") {
                        true => hangs(),
                        false => "<h1>deep</h1>".to_owned(),
                    };
                    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: ";
                    let answer = format!("{head}{}\r\n\r\n{page}", page.len());
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    (url, server)
}

/// A page with as many parts as there are connections to its server.
fn hangs() -> String {
    (0..6).map(|part| format!("<script async src='/begun?{part}'></script>")).collect()
}
