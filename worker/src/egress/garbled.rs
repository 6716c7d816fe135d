//! What is no request that the guard understands: it is refused, and remembered by as much as can be told of it, so
//! that its page is not taken for one that its server has refused.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::gate::Core;
use super::policy::Destination;
use super::reason::{Reason, document_name};
use super::request_head::url_of;

/// How much of the request is still read after the answer, and for how long.
const REST_BYTES: u64 = 16 << 20;
const REST_WITHIN: Duration = Duration::from_secs(5);

/// Answers a request of which only the beginning may have been read, and ends its connection.
pub(super) async fn refuse(
    mut client: TcpStream,
    head: &[u8],
    reason: Reason,
    core: &Core,
) -> io::Result<()> {
    core.count(Err(reason));
    if let Some(url) = url_of(head) {
        if let Some(destination) = Destination::of(&url) {
            core.refusals.hosts.note(&destination.to_string(), reason);
        }
        // Whether it is one may not have come: nobody asks for other things.
        core.refusals.note_document(&document_name(&url), reason);
    }
    client.write_all(&reason.answer(false)).await?;
    client.shutdown().await?;
    // What nobody reads would have the connection reset, and the answer with it.
    let (mut rest, mut nowhere) = (client.take(REST_BYTES), tokio::io::sink());
    let discarded = tokio::time::timeout(REST_WITHIN, tokio::io::copy(&mut rest, &mut nowhere));
    discarded.await.unwrap_or(Ok(0)).map(drop)
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;
    use crate::egress::tests::{ask, client, gate, guard};

    #[tokio::test]
    async fn a_document_whose_request_is_too_long_or_garbled_is_remembered_as_not_understood() {
        let egress = guard(&["127.0.0.1"], &[]);
        let (_, gate) = gate(&egress, None);
        let long = "x".repeat(300 << 10);
        let long_url = format!("http://shop.test/{long}");
        let headers = "Host: shop.test\r\nUpgrade-Insecure-Requests: 1";
        for (url, headers) in [
            ("http://shop.test/cookies", format!("{headers}\r\nCookie: a={long}")),
            ("http://shop.test/many", format!("{headers}{}", "\r\na: b".repeat(300))),
            ("http://shop.test/chunked", format!("{headers}\r\nTransfer-Encoding: chunked")),
            (long_url.as_str(), headers.to_owned()),
        ] {
            let request = format!("GET {url} HTTP/1.1\r\n{headers}\r\n\r\n");
            let answer = ask(&mut client(&gate.proxy_url()).await, &request).await;
            assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
            assert!(answer.contains("x-crawlify-egress: not_understood"), "{answer}");
            let url = Url::parse(url).unwrap();
            assert_eq!(gate.why_no_document(&url), Some(Reason::NotUnderstood), "{:.40}", url.as_str());
            assert_eq!(gate.why_not(&url), Some(Reason::NotUnderstood));
        }
        let other = Url::parse("http://other.test/").unwrap();
        assert_eq!((gate.why_no_document(&other), gate.why_not(&other)), (None, None));
    }
}
