//! How a page and its nodes ended. A page's bad end is a value here, never an `Err`: errors are for our own failures.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use url::Url;

use super::fault::FaultDomain;
use super::page_url::PageUrl;
use super::skip::Skip;

/// Why a page or a node failed, coarse enough to count and to choose the next step by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The host name did not resolve.
    Dns,
    /// No connection to the host.
    Connect,
    /// The connection to the host broke before it had answered.
    ConnectionLost,
    /// The TLS handshake or the certificate.
    Tls,
    /// A status of 400 to 499 other than 429.
    Http4xx,
    /// Too many requests.
    Http429,
    /// A status of 500 or more.
    Http5xx,
    /// The navigation or the whole page ran over its deadline.
    NavTimeout,
    /// The response is no document: a download, or an empty 204.
    NotAPage,
    /// The document is larger than a page may be.
    TooLarge,
    /// The address is one that pages are kept from: private, or of another scheme.
    SsrfBlocked,
    /// The workflow's own proxy did not do its work.
    Proxy,
    /// Nothing answered the worker any more, whatever the host, or it had no connection left to make: its own network is away.
    NoNetwork,
    /// An element that a node needs is not there.
    SelectorMissing,
    /// A node's script failed in the page.
    Script,
    /// The tab crashed.
    TabCrash,
    /// The browser died or stopped answering.
    BrowserLost,
    /// The worker died with the page in hand.
    WorkerLost,
    /// Browsers or workers were lost with the page in hand again and again.
    Poison,
    /// The execution was cancelled, or an earlier node failed and this one did not run.
    Cancelled,
    /// The site's robots.txt disallows the page.
    Robots,
    /// The site's robots.txt can neither be had nor is said to be absent: until then nothing may be asked for.
    RobotsUnreachable,
    /// A fault of ours.
    Internal,
}

impl ErrorClass {
    /// Every class, for metrics that export each label beforehand.
    pub const ALL: [Self; 23] = [
        Self::Dns,
        Self::Connect,
        Self::ConnectionLost,
        Self::Tls,
        Self::Http4xx,
        Self::Http429,
        Self::Http5xx,
        Self::NavTimeout,
        Self::NotAPage,
        Self::TooLarge,
        Self::SsrfBlocked,
        Self::Proxy,
        Self::NoNetwork,
        Self::SelectorMissing,
        Self::Script,
        Self::TabCrash,
        Self::BrowserLost,
        Self::WorkerLost,
        Self::Poison,
        Self::Cancelled,
        Self::Robots,
        Self::RobotsUnreachable,
        Self::Internal,
    ];

    /// The name in rows and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::ConnectionLost => "connection_lost",
            Self::Tls => "tls",
            Self::Http4xx => "http_4xx",
            Self::Http429 => "http_429",
            Self::Http5xx => "http_5xx",
            Self::NavTimeout => "nav_timeout",
            Self::NotAPage => "not_a_page",
            Self::TooLarge => "too_large",
            Self::SsrfBlocked => "ssrf_blocked",
            Self::Proxy => "proxy",
            Self::NoNetwork => "no_network",
            Self::SelectorMissing => "selector_missing",
            Self::Script => "script",
            Self::TabCrash => "tab_crash",
            Self::BrowserLost => "browser_lost",
            Self::WorkerLost => "worker_lost",
            Self::Poison => "poison",
            Self::Cancelled => "cancelled",
            Self::Robots => "robots",
            Self::RobotsUnreachable => "robots_unreachable",
            Self::Internal => "internal",
        }
    }

    /// Whose fault it is.
    pub fn domain(self) -> FaultDomain {
        match self {
            Self::Dns
            | Self::Connect
            | Self::ConnectionLost
            | Self::Tls
            | Self::Http4xx
            | Self::Http5xx
            | Self::NavTimeout
            | Self::RobotsUnreachable => FaultDomain::Site,
            Self::Http429 => FaultDomain::RateLimit,
            Self::Proxy | Self::NoNetwork => FaultDomain::Proxy,
            Self::BrowserLost => FaultDomain::Browser,
            Self::WorkerLost => FaultDomain::Worker,
            _ => FaultDomain::Page,
        }
    }

    /// Whether a page that failed so found its host; `None` where that cannot be told.
    pub fn found_the_host(self) -> Option<bool> {
        match self {
            Self::Dns | Self::Connect => Some(false),
            Self::Http4xx | Self::Http429 | Self::TooLarge | Self::SelectorMissing | Self::Script => {
                Some(true)
            }
            // A 5xx may be a proxy's, and what broke may be ours.
            _ => None,
        }
    }

    /// Whether another attempt may end better.
    pub fn is_transient(self) -> bool {
        !matches!(
            self,
            Self::Tls
                | Self::Http4xx
                | Self::NotAPage
                | Self::TooLarge
                | Self::SsrfBlocked
                | Self::SelectorMissing
                | Self::Script
                | Self::Cancelled
                | Self::Robots
                | Self::Poison
        )
    }
}

/// A failure as the user reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The class, for counting and for the choice of retrying.
    pub class: ErrorClass,
    /// One sentence with the particulars; never a secret.
    pub message: String,
    /// Whether it was met at another host than the page's own, which had answered and sent the page there.
    pub is_elsewhere: bool,
    /// Whether the server answered that it cannot serve anybody for now (503).
    pub is_unavailable: bool,
}

impl Failure {
    /// Makes a failure.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), is_elsewhere: false, is_unavailable: false }
    }

    /// That a server answered with such a status, of 400 or more.
    pub fn of_status(status: u16) -> Self {
        let class = match status {
            429 => ErrorClass::Http429,
            500.. => ErrorClass::Http5xx,
            _ => ErrorClass::Http4xx,
        };
        let message = format!("the server answered with HTTP status {status}");
        Self { is_unavailable: status == 503, ..Self::new(class, message) }
    }

    /// Whose fault it is. That another host, to which the page was led, wants to be asked more slowly makes nobody ask it so.
    pub fn domain(&self) -> FaultDomain {
        match self.class.domain() {
            FaultDomain::RateLimit if self.is_elsewhere => FaultDomain::Site,
            FaultDomain::Site if self.is_unavailable && !self.is_elsewhere => FaultDomain::Unavailable,
            domain => domain,
        }
    }

    /// The same, met at one address by a page that had asked for another.
    #[must_use]
    pub fn met_at(self, met: &Url, asked: &Url) -> Self {
        Self { is_elsewhere: met.host_str() != asked.host_str(), ..self }
    }
}

/// How one node ended.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeEnd {
    /// It ran and gave an output (`Null` where the node type has none).
    Completed(Value),
    /// It ran, all its retries included, and failed.
    Failed(Failure),
    /// It did not run, because a node before it failed.
    Cancelled(Failure),
}

/// The record of one node of one attempt, before it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeRecord {
    /// The node's place in the order of execution, over all phases, from 0.
    pub position: u16,
    /// When it began, in our clock.
    pub started_at: DateTime<Utc>,
    /// When it ended, never before `started_at`.
    pub completed_at: DateTime<Utc>,
    /// How it ended.
    pub end: NodeEnd,
    /// How many times it was run again after a failure.
    pub retries: u16,
}

/// A link that a page gave to the frontier, or that is reported as skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveredUrl {
    /// The normalised URL.
    pub url: PageUrl,
    /// The id of the node that found it.
    pub discovered_by: String,
    /// Why it does not go into the frontier; `None` if it does.
    pub skipped: Option<Skip>,
    /// Whether it is a sitemap, to be read for its URLs alone.
    pub is_sitemap: bool,
}

/// How a page ended.
#[derive(Clone, Debug, PartialEq)]
pub enum PageEnd {
    /// It was loaded and its nodes ran; some of them may have failed.
    Completed,
    /// It could not be loaded, or was lost.
    Failed(Failure),
    /// It must not be loaded, as the failure says.
    Skipped(Failure),
    /// The worker gives it back unharmed, because it is stopping: no attempt is charged.
    Released,
    /// The same, because this worker cannot do what others may, as the failure says; not to be tried again before the
    /// delay is over.
    PutOff(Failure, Duration),
}

/// All that one attempt of a page produced.
#[derive(Clone, Debug, PartialEq)]
pub struct PageOutcome {
    /// How it ended.
    pub end: PageEnd,
    /// One record for each node that ran or had to be skipped.
    pub nodes: Vec<NodeRecord>,
    /// The page's item, if any node gave a value to save.
    pub item: Option<Value>,
    /// The links, each once: those that are followed, and those that are not, with the reason.
    pub discovered: Vec<DiscoveredUrl>,
    /// The address after redirects, where it was reached.
    pub final_url: Option<String>,
    /// How it was loaded in the end.
    pub rendered: Rendered,
    /// What there is to know of its host.
    pub contact: HostContact,
    /// How many bytes its document has, as far as that is known.
    pub bytes: u64,
    /// How many bytes the execution received until now since another page of it told: all that pages load, not only
    /// documents. Pages that run at the same time cannot be told apart; their sum is right. `None` where nobody counts.
    pub received: Option<u64>,
}

/// What an attempt of a page showed of its host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostContact {
    /// How long after the claim the host was asked.
    pub started_in: Option<Duration>,
    /// How long it took to answer, where the crawl wants to know.
    pub answered_in: Option<Duration>,
    /// It wants to be left alone for at least this long: it answered with 429 or 503.
    pub back_off: Option<Duration>,
    /// Whether it was asked through the execution's own proxy: that may have answered in its place, or be turned away
    /// alone.
    pub through_own_proxy: bool,
}

/// How a page was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Rendered {
    /// It was navigated to, or would have been.
    #[default]
    Full,
    /// It was fetched and parsed, and no more.
    Static,
}

impl Rendered {
    /// Both, for metrics that export each label beforehand.
    pub const ALL: [Self; 2] = [Self::Full, Self::Static];

    /// The name in rows and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Static => "static",
        }
    }
}

impl PageOutcome {
    /// Makes the outcome of a page that produced nothing.
    pub fn failed(failure: Failure) -> Self {
        Self::nothing(PageEnd::Failed(failure))
    }

    /// Makes the outcome of a page that ended like this and produced nothing.
    pub fn nothing(end: PageEnd) -> Self {
        Self {
            end,
            nodes: Vec::new(),
            item: None,
            discovered: Vec::new(),
            final_url: None,
            rendered: Rendered::Full,
            contact: HostContact::default(),
            bytes: 0,
            received: None,
        }
    }
}
