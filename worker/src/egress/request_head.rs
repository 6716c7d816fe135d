//! The head of a request to a proxy: where it leads, and how its server is to get it. RFC 9112, section 3.2.

use std::io::Write;

use url::Url;

use super::policy::Destination;

/// A longer head is none.
const MAX_HEAD_BYTES: usize = 256 << 10;
/// How much of it is read all the same, for its first line to end: browsers have no longer URLs (Chrome: 2 MiB).
const MAX_FIRST_LINE_BYTES: usize = 4 << 20;
const MAX_HEADERS: usize = 256;

/// A head that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RequestHead {
    pub(super) destination: Destination,
    pub(super) wants: Wants,
}

/// What a request asks of a proxy.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// `CONNECT`: bytes both ways.
    Tunnel,
    /// The request itself, in plain HTTP.
    Forward(Forward),
}

/// A request to hand on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Forward {
    method: String,
    path: String,
    /// As they came, without those that are a proxy's.
    headers: Vec<u8>,
    /// How many bytes follow the head.
    pub(super) body_bytes: u64,
    /// Whether it asks for a document, a frame's included.
    pub(super) is_document: bool,
}

/// A head that is not one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotUnderstood;

impl RequestHead {
    /// Reads a head from the beginning of `bytes`, and says how long it is; `None` where it has not come as a whole.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, NotUnderstood> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let length = match request.parse(bytes).map_err(|_| NotUnderstood)? {
            httparse::Status::Complete(length) if length <= MAX_HEAD_BYTES => length,
            httparse::Status::Partial if bytes.len() < MAX_HEAD_BYTES || is_in_first_line(bytes) => {
                return Ok(None);
            }
            _ => return Err(NotUnderstood),
        };
        let (method, target) = (request.method.ok_or(NotUnderstood)?, request.path.ok_or(NotUnderstood)?);
        if method == "CONNECT" {
            let destination = Destination::parse(target, None).ok_or(NotUnderstood)?;
            return Ok(Some((Self { destination, wants: Wants::Tunnel }, length)));
        }
        let rest = strip_scheme(target).ok_or(NotUnderstood)?;
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let destination = Destination::parse(authority, Some(80)).ok_or(NotUnderstood)?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let forward = Forward::of(method, path, request.headers)?;
        Ok(Some((Self { destination, wants: Wants::Forward(forward) }, length)))
    }
}

impl Forward {
    fn of(method: &str, path: String, headers: &[httparse::Header<'_>]) -> Result<Self, NotUnderstood> {
        let mut forward =
            Self { method: method.to_owned(), path, headers: Vec::new(), body_bytes: 0, is_document: false };
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("proxy-connection") {
                // What the browser would have sent without us.
                forward.headers.extend_from_slice(b"Connection: keep-alive\r\n");
                continue;
            }
            if is("proxy-authorization") {
                continue;
            }
            // Browsers tell the length of what they send in HTTP/1.1; anything else would have to be understood.
            if is("transfer-encoding") || is("upgrade") {
                return Err(NotUnderstood);
            }
            if is("content-length") {
                let text = std::str::from_utf8(header.value).map_err(|_| NotUnderstood)?;
                forward.body_bytes = text.trim().parse().map_err(|_| NotUnderstood)?;
            }
            forward.is_document |= is("upgrade-insecure-requests");
            forward.headers.extend_from_slice(header.name.as_bytes());
            forward.headers.extend_from_slice(b": ");
            forward.headers.extend_from_slice(header.value);
            forward.headers.extend_from_slice(b"\r\n");
        }
        Ok(forward)
    }

    /// The head for the server itself.
    pub(super) fn for_server(&self) -> Vec<u8> {
        self.written("", b"")
    }

    /// The head for another proxy before the server; `authorization` is a header's value.
    pub(super) fn for_proxy(&self, destination: &Destination, authorization: Option<&str>) -> Vec<u8> {
        let authorization = authorization.map(|value| format!("Proxy-Authorization: {value}\r\n"));
        self.written(&format!("http://{destination}"), authorization.unwrap_or_default().as_bytes())
    }

    /// Whether the answer has no body, whatever its head says.
    pub(super) fn asks_for_head_alone(&self) -> bool {
        self.method == "HEAD"
    }

    /// Whether it orders nothing, so that it does no harm if it is sent twice (RFC 9110, section 9.2.1).
    pub(super) fn is_safe(&self) -> bool {
        matches!(self.method.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE")
    }

    /// What is asked for, as a URL without a fragment, in the form that [`Url`] gives what documents say of themselves.
    pub(super) fn url(&self, destination: &Destination) -> String {
        let url = format!("http://{destination}{}", self.path);
        Url::parse(&url).map_or(url, String::from)
    }

    fn written(&self, before_path: &str, more: &[u8]) -> Vec<u8> {
        let mut head = Vec::with_capacity(self.headers.len() + self.path.len() + before_path.len() + 64);
        // Writing to memory does not fail.
        let _ = write!(head, "{} {before_path}{} HTTP/1.1\r\n", self.method, self.path);
        head.extend_from_slice(&self.headers);
        head.extend_from_slice(more);
        head.extend_from_slice(b"\r\n");
        head
    }
}

/// The URL that a head asks for in plain HTTP, of which no more than the first line need be understood.
pub(super) fn url_of(head: &[u8]) -> Option<Url> {
    let mut parts = head.split(|byte| *byte == b' ');
    // The space after it shows that it is there as a whole.
    let (_method, target, _version) = (parts.next()?, parts.next()?, parts.next()?);
    let url = Url::parse(std::str::from_utf8(target).ok()?).ok()?;
    (url.scheme() == "http").then_some(url)
}

fn is_in_first_line(bytes: &[u8]) -> bool {
    bytes.len() < MAX_FIRST_LINE_BYTES && !bytes.contains(&b'\n')
}

fn strip_scheme(target: &str) -> Option<&str> {
    const SCHEME: &str = "http://";
    let start = target.get(..SCHEME.len())?;
    start.eq_ignore_ascii_case(SCHEME).then(|| &target[SCHEME.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(text: &str) -> (String, Forward) {
        let (head, length) = RequestHead::parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(length, text.len());
        let Wants::Forward(forward) = head.wants else { panic!("{text}") };
        (head.destination.to_string(), forward)
    }

    #[test]
    fn a_request_is_handed_on_as_the_browser_would_have_sent_it() {
        let (to, forward) = forwarded(
            "GET http://Shop.test/a?b HTTP/1.1\r\nHost: shop.test\r\nProxy-Connection: keep-alive\r\n\
             Upgrade-Insecure-Requests: 1\r\nProxy-Authorization: x\r\nUser-Agent: y\r\n\r\n",
        );
        assert_eq!((to.as_str(), forward.is_document, forward.is_safe()), ("shop.test:80", true, true));
        assert_eq!(forward.url(&Destination::parse(&to, None).unwrap()), "http://shop.test/a?b");
        assert_eq!(
            String::from_utf8(forward.for_server()).unwrap(),
            "GET /a?b HTTP/1.1\r\nHost: shop.test\r\nConnection: keep-alive\r\nUpgrade-Insecure-Requests: 1\r\n\
             User-Agent: y\r\n\r\n"
        );
        let (to, forward) = forwarded("POST http://127.1:81?q HTTP/1.1\r\nContent-Length: 12\r\n\r\n");
        assert_eq!((to.as_str(), forward.body_bytes, forward.path.as_str()), ("127.0.0.1:81", 12, "/?q"));
        assert!(!forward.is_safe());
        let destination = Destination::parse("127.1:81", None).unwrap();
        assert_eq!(forward.url(&destination), "http://127.0.0.1:81/?q");
        let chained = String::from_utf8(forward.for_proxy(&destination, Some("Basic eDp5"))).unwrap();
        assert!(chained.starts_with("POST http://127.0.0.1:81/?q HTTP/1.1\r\n"), "{chained}");
        assert!(chained.ends_with("Proxy-Authorization: Basic eDp5\r\n\r\n"), "{chained}");
    }

    #[test]
    fn a_tunnel_names_a_host_and_a_port() {
        let text = b"CONNECT shop.test:443 HTTP/1.1\r\nHost: shop.test:443\r\n\r\nmore";
        let (head, length) = RequestHead::parse(text).unwrap().unwrap();
        assert_eq!((head.wants, head.destination.to_string().as_str()), (Wants::Tunnel, "shop.test:443"));
        assert_eq!(&text[length..], b"more");
        assert_eq!(RequestHead::parse(b"CONNECT shop.test:443 HTTP/1.1\r\nHo"), Ok(None));
    }

    #[test]
    fn what_is_no_request_for_a_proxy_is_refused() {
        for text in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET https://shop.test/ HTTP/1.1\r\n\r\n",
            "GET ftp://shop.test/ HTTP/1.1\r\n\r\n",
            "GET http://me@shop.test/ HTTP/1.1\r\n\r\n",
            "GET http:// HTTP/1.1\r\n\r\n",
            "CONNECT shop.test HTTP/1.1\r\n\r\n",
            "POST http://shop.test/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST http://shop.test/ HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "\u{16}\u{3}\u{1}",
        ] {
            assert_eq!(RequestHead::parse(text.as_bytes()), Err(NotUnderstood), "{text}");
        }
    }

    #[test]
    fn what_a_head_asks_for_is_told_by_its_first_line_whatever_follows() {
        let url = |text: &str| url_of(text.as_bytes()).map(String::from);
        let expected = Some("http://shop.test/a?b".to_owned());
        for rest in ["HTTP/1.1\r\n", "HTTP/1.1\r\nUpgrade: x\r\nCookie: a", "", "nonsense of any kind"] {
            assert_eq!(url(&format!("GET http://Shop.test:80/a?b {rest}")), expected, "{rest}");
        }
        for text in
            ["GET http://shop.test/a?b", "CONNECT shop.test:443 HTTP/1.1\r\n", "GET /a HTTP/1.1\r\n", ""]
        {
            assert_eq!(url(text), None, "{text}");
        }
    }

    #[test]
    fn a_head_is_too_long_only_once_its_first_line_has_come() {
        let line = format!("GET http://shop.test/{}", "a".repeat(MAX_HEAD_BYTES));
        assert_eq!(RequestHead::parse(line.as_bytes()), Ok(None));
        let whole = format!("{line} HTTP/1.1\r\n\r\n");
        assert_eq!(RequestHead::parse(whole.as_bytes()), Err(NotUnderstood));
        assert_eq!(RequestHead::parse(&whole.as_bytes()[..whole.len() - 2]), Err(NotUnderstood));
        let endless = "a".repeat(MAX_FIRST_LINE_BYTES);
        assert_eq!(RequestHead::parse(endless.as_bytes()), Err(NotUnderstood));
    }
}
