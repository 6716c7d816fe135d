//! HTTP without a browser: for what is no page to look at, robots files and sitemaps, and for what a browser does not tell. Everything that the worker fetches
//! by itself leaves through a client that is made here, and through the egress guard, as pages do.

mod headers;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::outcome::{ErrorClass, Failure};
use crawlify_shared::domain::workflow::Proxy;
use moka::future::Cache;
use reqwest::header::{LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response};
use tokio::time::Instant;
use url::Url;

use crate::egress::{Egress, Gate, HEADER};
use crate::page::redirects::{MAX_REDIRECTS, Redirects};
pub(crate) use headers::{Sent, bare};

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How long a body may pause.
const READ_WITHIN: Duration = Duration::from_secs(15);
/// Executions with a proxy of their own whose clients are kept, and for how long.
const PROXIED: u64 = 64;
const KEPT_FOR: Duration = Duration::from_secs(60);
/// The longest time that a server may ask to be left alone.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The worker's ways out.
#[derive(Debug)]
pub(crate) struct Http {
    egress: Arc<Egress>,
    own: Outlet,
    /// By execution, where it has a proxy of its own.
    proxied: Cache<ExecutionId, Outlet>,
}

/// A way out: a client, and the gate of the egress guard that it leaves through; none where the guard is off.
#[derive(Clone, Debug)]
pub(crate) struct Outlet {
    client: Client,
    gate: Option<Arc<Gate>>,
}

/// No server answered.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// Each only named the next one.
    TooManyRedirects,
    /// Why.
    Failed(Failure),
}

impl Http {
    /// Makes the ways out.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub(crate) fn new(egress: Arc<Egress>) -> Result<Self, reqwest::Error> {
        let own = Outlet::new(egress.own_gate())?;
        let proxied = Cache::builder().max_capacity(PROXIED).time_to_idle(KEPT_FOR).build();
        Ok(Self { egress, own, proxied })
    }

    /// The way out of an execution: that of its pages, if it has a proxy of its own.
    pub(crate) async fn outlet(
        &self,
        execution: ExecutionId,
        proxy: Option<&Proxy>,
    ) -> Result<Outlet, Failure> {
        let Some(proxy) = proxy else { return Ok(self.own.clone()) };
        if let Some(outlet) = self.proxied.get(&execution).await {
            return Ok(outlet);
        }
        let no_way = |error: &dyn Error| {
            Failure::new(ErrorClass::Internal, format!("no way to the workflow's proxy: {error}"))
        };
        let gate = self.egress.gate(execution, Some(proxy)).map_err(|error| no_way(&error))?;
        let outlet = Outlet::new(gate).map_err(|error| no_way(&error))?;
        self.proxied.insert(execution, outlet.clone()).await;
        Ok(outlet)
    }
}

impl Outlet {
    /// The environment's proxies are not used: what a worker may reach is its configuration's business.
    fn new(gate: Option<Arc<Gate>>) -> Result<Self, reqwest::Error> {
        let mut builder = Client::builder()
            // Each is a request of its own here, so that what goes with it is judged by where it goes.
            .redirect(Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_WITHIN)
            .read_timeout(READ_WITHIN)
            // A host is asked rarely here: its connections need not be kept.
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(Duration::from_secs(10))
            .no_proxy();
        if let Some(gate) = &gate {
            builder = builder.proxy(reqwest::Proxy::all(gate.proxy_url())?);
        }
        Ok(Self { client: builder.build()?, gate })
    }

    /// Asks for an address, and for what it redirects to. The deadline holds for all of that, and for the body of the answer; it is
    /// put off by as long as redirects wait for their turns, which is no fault of the server's: by [`Redirects::longest`] at the most.
    pub(crate) async fn get(
        &self,
        url: &Url,
        sent: Sent<'_>,
        mut redirects: Redirects<'_>,
        mut deadline: Instant,
    ) -> Result<Response, Unanswered> {
        let mut url = url.clone();
        let mut followed = 0;
        loop {
            let within = deadline.saturating_duration_since(Instant::now());
            let headers = sent.headers(&url);
            let response = self.send(self.client.get(url).headers(headers).timeout(within)).await?;
            let Some(next) = redirect(&response) else { return Ok(response) };
            if followed == MAX_REDIRECTS {
                return Err(Unanswered::TooManyRedirects);
            }
            followed += 1;
            // Its connection is not kept from others meanwhile.
            drop(response);
            deadline += redirects.wait(&next).await;
            url = next;
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Unanswered> {
        match request.send().await {
            // An answer of the guard's. A server that says the same has not been refused anything.
            Ok(response) if response.headers().contains_key(HEADER) => {
                self.refusal(response.url()).map_or(Ok(response), |failure| Err(Unanswered::Failed(failure)))
            }
            Ok(response) => Ok(response),
            Err(error) => {
                // Of a tunnel that the guard did not make, the client knows only that there is none.
                let refusal = error.url().filter(|_| chain(&error).contains("tunnel"));
                let refusal = refusal.and_then(|url| self.refusal(url));
                Err(Unanswered::Failed(refusal.unwrap_or_else(|| failure(&error))))
            }
        }
    }

    /// Why the guard did not let the last request to a URL's host through; `None` once a server there has answered in
    /// plain HTTP.
    fn refusal(&self, url: &Url) -> Option<Failure> {
        Some(self.gate.as_ref()?.why_not(url)?.failure())
    }
}

impl From<Unanswered> for Failure {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::TooManyRedirects => Self::new(
                ErrorClass::NotAPage,
                format!("the server redirects more than {MAX_REDIRECTS} times"),
            ),
            Unanswered::Failed(failure) => failure,
        }
    }
}

/// Where an answer leads (RFC 9110, section 15.4); one that does not say so is taken as it is.
fn redirect(response: &Response) -> Option<Url> {
    let leads_on = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(LOCATION).filter(|_| leads_on)?;
    let mut url = response.url().join(std::str::from_utf8(location.as_bytes()).ok()?).ok()?;
    url.set_fragment(None);
    Some(url)
}

/// What an error of a request or of its body says to the user.
pub(crate) fn failure(error: &reqwest::Error) -> Failure {
    let chain = chain(error);
    let lower = chain.to_ascii_lowercase();
    if error.is_timeout() {
        return Failure::new(ErrorClass::NavTimeout, "the server did not answer in time");
    }
    let class = if lower.contains("dns error") {
        ErrorClass::Dns
    } else if ["certificate", "tls", "invalidcontenttype"].iter().any(|sign| lower.contains(sign)) {
        ErrorClass::Tls
    } else if error.is_connect() {
        ErrorClass::Connect
    } else {
        ErrorClass::ConnectionLost
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

/// How long a server asks to be left alone, which answers with a status that says so (RFC 6585, section 4, and RFC 9110,
/// section 15.6.4); zero where it does not say how long.
pub(crate) fn back_off(response: &Response) -> Option<Duration> {
    let is_asked = matches!(response.status().as_u16(), 429 | 503);
    let said = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    is_asked.then(|| said.and_then(|text| retry_after(text, Utc::now())).unwrap_or_default())
}

/// Reads `Retry-After`: seconds, or a date.
pub(crate) fn retry_after(text: &str, now: DateTime<Utc>) -> Option<Duration> {
    let wait = match text.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            (DateTime::<Utc>::from(httpdate::parse_http_date(text.trim()).ok()?) - now).to_std().ok()?
        }
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::{StatusCode, Uri, header};
    use axum::response::{IntoResponse, Redirect};
    use crawlify_shared::domain::workflow::ProxyKind;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;
    use crate::egress::EgressOptions;
    use crate::held_port::held;
    use crate::page::sample::{claimed_page, host_turns};
    use crate::robots::Agent;

    /// A server that redirects `/to/X` to `http://X/`, and greets at every other path.
    async fn server(tasks: &mut JoinSet<()>) -> String {
        let answer = async |uri: Uri| match uri.path().strip_prefix("/to/") {
            Some(elsewhere) => Redirect::to(&format!("http://{elsewhere}/")).into_response(),
            None => "hello".into_response(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tasks.spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });
        address.to_string()
    }

    fn http(options: EgressOptions) -> Http {
        Http::new(Egress::start(options).unwrap()).unwrap()
    }

    async fn ask(outlet: &Outlet, url: &str) -> Result<String, Failure> {
        let agent = Agent { user_agent: "test".to_owned(), token: "test".to_owned() };
        let deadline = Instant::now() + Duration::from_secs(60);
        let (turns, page) = (host_turns(), claimed_page(url));
        let redirects = Redirects::of(&turns, &page, Duration::ZERO);
        let response = outlet.get(&url.parse().unwrap(), Sent::Agent(&agent), redirects, deadline).await?;
        response.text().await.map_err(|error| failure(&error))
    }

    async fn ask_own(http: &Http, url: &str) -> Result<String, Failure> {
        ask(&http.outlet(ExecutionId::generate(), None).await.unwrap(), url).await
    }

    #[tokio::test]
    async fn what_pages_may_not_reach_the_worker_does_not_ask_either() {
        let mut tasks = JoinSet::new();
        let (allowed, inside) = (server(&mut tasks).await, server(&mut tasks).await);
        let http = http(EgressOptions::allowing(&[&allowed]).unwrap());
        assert_eq!(ask_own(&http, &format!("http://{allowed}/")).await.unwrap(), "hello");
        for url in [
            format!("http://{inside}/robots.txt"),
            format!("https://{inside}/robots.txt"),
            format!("http://{allowed}/to/{inside}"),
            "http://169.254.169.254/latest/meta-data/".to_owned(),
        ] {
            let failure = ask_own(&http, &url).await.unwrap_err();
            assert_eq!(failure.class, ErrorClass::SsrfBlocked, "{url}: {}", failure.message);
        }
    }

    #[tokio::test]
    async fn without_the_guard_it_asks_straight() {
        let mut tasks = JoinSet::new();
        let server = server(&mut tasks).await;
        let http = http(EgressOptions::off());
        assert_eq!(ask_own(&http, &format!("http://{server}/")).await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn an_execution_with_a_proxy_of_its_own_goes_through_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let http = http(EgressOptions::allowing(&[&address.to_string()]).unwrap());
        let proxy = Proxy {
            kind: ProxyKind::Http,
            host: url::Host::parse("127.0.0.1").unwrap(),
            port: address.port(),
            credentials: None,
        };
        let outlet = http.outlet(ExecutionId::generate(), Some(&proxy)).await.unwrap();
        let asked = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 1024];
            let read = stream.read(&mut head).await.unwrap();
            stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            String::from_utf8_lossy(&head[..read]).into_owned()
        };
        let (head, answer) = tokio::join!(asked, ask(&outlet, "http://93.184.216.34/robots.txt"));
        assert!(head.starts_with("CONNECT 93.184.216.34:80 HTTP/1.1\r\n"), "{head}");
        assert_eq!(answer.unwrap_err().class, ErrorClass::Proxy);
    }

    #[tokio::test]
    async fn what_went_wrong_is_said_and_classed() {
        let guarded = http(EgressOptions::allowing(&["127.0.0.1"]).unwrap());
        let free = http(EgressOptions::off());
        let socket = held("127.0.0.1:0");
        let closed = socket.local_addr().unwrap();
        // A server that does not speak TLS.
        let plain = {
            let mut tasks = JoinSet::new();
            let address = server(&mut tasks).await;
            (address, tasks)
        };
        for http in [&guarded, &free] {
            for (url, class) in [
                (format!("http://{closed}/"), ErrorClass::Connect),
                (format!("https://{closed}/"), ErrorClass::Connect),
                ("http://no-such-host.invalid/".to_owned(), ErrorClass::Dns),
                ("https://no-such-host.invalid/".to_owned(), ErrorClass::Dns),
                (format!("https://{}/", plain.0), ErrorClass::Tls),
            ] {
                let failure = ask_own(http, &url).await.unwrap_err();
                assert_eq!(failure.class, class, "{url}: {}", failure.message);
            }
        }
    }

    #[tokio::test]
    async fn a_server_that_says_what_the_guard_has_said_before_is_not_taken_for_it() {
        let http = http(EgressOptions::allowing(&["127.0.0.1"]).unwrap());
        let socket = held("127.0.0.1:0");
        let url = format!("http://{}/", socket.local_addr().unwrap());
        assert_eq!(ask_own(&http, &url).await.unwrap_err().class, ErrorClass::Connect);
        let listener = socket.listen(16).unwrap();
        let pretends = || async { (StatusCode::BAD_GATEWAY, [(HEADER, "refused")], "its own") };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, Router::new().fallback(pretends)).await.unwrap() });
        assert_eq!(ask_own(&http, &url).await.unwrap(), "its own");
    }

    #[tokio::test]
    async fn a_server_that_wants_to_be_left_alone_says_for_how_long() {
        for (status, header, expected) in [
            (StatusCode::TOO_MANY_REQUESTS, Some("7"), Some(Duration::from_secs(7))),
            (StatusCode::SERVICE_UNAVAILABLE, Some("soon"), Some(Duration::ZERO)),
            (StatusCode::SERVICE_UNAVAILABLE, None, Some(Duration::ZERO)),
            (StatusCode::NOT_FOUND, Some("7"), None),
        ] {
            let mut answer = status.into_response();
            answer.headers_mut().extend(header.map(|value| (header::RETRY_AFTER, value.parse().unwrap())));
            let answer = answer.map(|_| Vec::new());
            assert_eq!(back_off(&Response::from(answer)), expected, "{status}");
        }
        let now = DateTime::from_timestamp(784_111_777, 0).unwrap();
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:50:37 GMT", now), Some(Duration::from_secs(60)));
        assert_eq!(retry_after("1e9", now), None);
        assert_eq!(retry_after("999999999", now), Some(LONGEST_RETRY_AFTER));
    }
}
