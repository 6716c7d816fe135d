//! A site whose page receives without end through a WebSocket (RFC 6455), in messages of 50 MiB.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crawlify_shared::domain::page_url::PageUrl;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const MESSAGE_MIB: u64 = 50;
const PAGE: &str = "<h1>begun</h1><script>onload = () => { \
                    window.kept = new WebSocket(`ws://${location.host}/`); kept.binaryType = 'arraybuffer' }</script>";

/// The site, and what serves it.
pub(super) async fn socket_site() -> (PageUrl, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = PageUrl::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.spawn(async move {
                // The browser ends it, at any time.
                let _ = serve(stream).await;
            });
        }
    });
    (url, server)
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let request = String::from_utf8_lossy(&request);
    let key = request.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim())
    });
    let Some(key) = key else {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: ";
        return stream.write_all(format!("{head}{}\r\n\r\n{PAGE}", PAGE.len()).as_bytes()).await;
    };
    let head = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n";
    let head = format!("{head}sec-websocket-accept: {}\r\n\r\n", accept(key));
    stream.write_all(head.as_bytes()).await?;
    let piece = vec![0_u8; 1 << 20];
    loop {
        // A whole message, binary and not masked, whose length follows in 64 bits.
        stream.write_all(&[0x82, 127]).await?;
        stream.write_u64(MESSAGE_MIB << 20).await?;
        for _ in 0..MESSAGE_MIB {
            stream.write_all(&piece).await?;
        }
    }
}

/// What shows the browser that its handshake was understood.
fn accept(key: &str) -> String {
    STANDARD.encode(sha1(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes()))
}

/// As in RFC 3174.
fn sha1(text: &[u8]) -> Vec<u8> {
    let mut padded = text.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend_from_slice(&(text.len() as u64 * 8).to_be_bytes());
    let mut hash: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    for block in padded.chunks_exact(64) {
        let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        let mut words: Vec<u32> = block.chunks_exact(4).map(word).collect();
        for at in 16..80 {
            let mixed = words[at - 3] ^ words[at - 8] ^ words[at - 14] ^ words[at - 16];
            words.push(mixed.rotate_left(1));
        }
        let [mut a, mut b, mut c, mut d, mut e] = hash;
        for (at, word) in words.into_iter().enumerate() {
            let (mixed, constant): (u32, u32) = match at / 20 {
                0 => ((b & c) | (!b & d), 0x5a82_7999),
                1 => (b ^ c ^ d, 0x6ed9_eba1),
                2 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6),
            };
            let added = mixed.wrapping_add(e).wrapping_add(constant).wrapping_add(word);
            (a, b, c, d, e) = (a.rotate_left(5).wrapping_add(added), a, b.rotate_left(30), c, d);
        }
        for (sum, part) in hash.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(part);
        }
    }
    hash.iter().flat_map(|word| word.to_be_bytes()).collect()
}

#[test]
fn the_handshake_of_the_rfc_is_answered_as_there() {
    assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}
