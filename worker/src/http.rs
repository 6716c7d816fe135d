//! HTTP without a browser: for what is no page to look at, robots files and sitemaps. Everything that leaves this
//! process by itself leaves through the one client that is made here.

use std::error::Error;
use std::time::Duration;

use crawlify_shared::domain::outcome::{ErrorClass, Failure};
use reqwest::redirect::Policy;
use url::Url;

/// Redirects that are followed: as many as RFC 9309, section 2.3.1.2, asks for.
const MAX_REDIRECTS: usize = 5;
/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How long a body may pause.
const READ_WITHIN: Duration = Duration::from_secs(15);

/// Makes the client; with `proxy`, every request goes through it. The environment's proxies are not used: what a
/// worker may reach is its configuration's business. Each request must still be given a deadline.
///
/// # Errors
/// The proxy's URL is none, or TLS cannot be set up.
pub(crate) fn client(proxy: Option<&Url>) -> Result<reqwest::Client, reqwest::Error> {
    let builder = reqwest::Client::builder()
        .redirect(Policy::limited(MAX_REDIRECTS))
        .referer(false)
        .connect_timeout(CONNECT_WITHIN)
        .read_timeout(READ_WITHIN)
        // A host is asked rarely here: its connections need not be kept.
        .pool_max_idle_per_host(1)
        .pool_idle_timeout(Duration::from_secs(10))
        .no_proxy();
    match proxy {
        Some(proxy) => builder.proxy(reqwest::Proxy::all(proxy.clone())?).build(),
        None => builder.build(),
    }
}

/// What an error of the client says to the user.
pub(crate) fn failure(error: &reqwest::Error) -> Failure {
    let chain = chain(error);
    let lower = chain.to_ascii_lowercase();
    if error.is_timeout() {
        return Failure::new(ErrorClass::NavTimeout, "the server did not answer in time");
    }
    if error.is_redirect() {
        let message = format!("the server redirects more than {MAX_REDIRECTS} times");
        return Failure::new(ErrorClass::NotAPage, message);
    }
    let class = if lower.contains("dns error") {
        ErrorClass::Dns
    } else if ["certificate", "tls", "invalidcontenttype"].iter().any(|sign| lower.contains(sign)) {
        ErrorClass::Tls
    } else {
        ErrorClass::Connect
    };
    Failure::new(class, format!("the server could not be asked: {chain}"))
}

/// The innermost causes, which say most; the outer ones only repeat that there was an error, and the URL.
fn chain(error: &reqwest::Error) -> String {
    let mut causes = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    let start = causes.len().saturating_sub(2);
    if causes.is_empty() { "the request failed".to_owned() } else { causes[start..].join(": ") }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn with_a_proxy_no_request_goes_anywhere_else() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let client = client(Some(&proxy)).unwrap();
        let answered = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        };
        let asked = client.get("http://shop.test/robots.txt").send();
        let (request, response) = tokio::join!(answered, asked);
        assert!(request.starts_with("GET http://shop.test/robots.txt HTTP/1.1"), "{request}");
        assert_eq!(response.unwrap().status(), 204);
    }

    #[tokio::test]
    async fn what_went_wrong_is_said_and_classed() {
        let client = client(None).unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = client.get(format!("http://{closed}/")).send().await.unwrap_err();
        let failure_of_closed = failure(&error);
        assert_eq!(failure_of_closed.class, ErrorClass::Connect);
        assert!(failure_of_closed.message.contains("refused"), "{}", failure_of_closed.message);
        let error = client.get("http://no-such-host.invalid/").send().await.unwrap_err();
        assert_eq!(failure(&error).class, ErrorClass::Dns);
        // A server that does not speak TLS.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let plain = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        };
        let ((), answer) = tokio::join!(plain, client.get(url).send());
        assert_eq!(failure(&answer.unwrap_err()).class, ErrorClass::Tls);
    }
}
