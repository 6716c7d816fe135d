//! Why a request was not answered by its server but by us, and how the browser's side is told.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crawlify_shared::domain::outcome::{ErrorClass, Failure};

/// The header that says so, for whoever sees headers.
pub(crate) const HEADER: &str = "x-crawlify-egress";
/// The name of the `meta` element that says so, for whoever sees the document.
pub(crate) const META: &str = "crawlify-egress";
/// How many tunnels that did not come about are remembered.
const REMEMBERED: usize = 256;

/// Why a request was not answered by its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Its address is one that pages are kept from.
    NotAllowed,
    /// Its host has no address.
    NotResolved,
    /// Nobody listens there.
    Refused,
    /// Nothing answers there.
    TimedOut,
    /// There is no way there.
    Unreachable,
    /// Nothing answers anywhere any more.
    NoNetwork,
    /// This machine has no connection left to make.
    NoSocket,
    /// The execution's own proxy does not answer, or refuses.
    Proxy,
    /// What came was more than a document may have.
    TooLarge,
    /// It was not answered, and kept the browser from sending others.
    GaveWay,
    /// It was no request for a proxy.
    NotUnderstood,
}

impl Reason {
    const ALL: [Self; 11] = [
        Self::NotAllowed,
        Self::NotResolved,
        Self::Refused,
        Self::TimedOut,
        Self::Unreachable,
        Self::NoNetwork,
        Self::NoSocket,
        Self::Proxy,
        Self::TooLarge,
        Self::GaveWay,
        Self::NotUnderstood,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NotAllowed => "not_allowed",
            Self::NotResolved => "not_resolved",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::NoNetwork => "no_network",
            Self::NoSocket => "no_socket",
            Self::Proxy => "proxy",
            Self::TooLarge => "too_large",
            Self::GaveWay => "gave_way",
            Self::NotUnderstood => "not_understood",
        }
    }

    /// The sentence that people read. It never says what a name resolved to. Where the browser has a name for it, it is the
    /// one that it would have given itself.
    fn sentence(self) -> &'static str {
        match self {
            Self::NotAllowed => "the address is not allowed",
            Self::NotResolved => "the host name was not resolved (net::ERR_NAME_NOT_RESOLVED)",
            Self::Refused => "no connection to the host (net::ERR_CONNECTION_REFUSED)",
            Self::TimedOut => "no connection to the host (net::ERR_CONNECTION_TIMED_OUT)",
            Self::Unreachable => "no connection to the host (net::ERR_ADDRESS_UNREACHABLE)",
            Self::NoNetwork => {
                "nothing answers any more, as far as this worker can tell: its own network is away (net::ERR_INTERNET_DISCONNECTED)"
            }
            Self::NoSocket => {
                "this worker can make no more connections: raise the limit of open files, or have it do less at once (net::ERR_INSUFFICIENT_RESOURCES)"
            }
            Self::Proxy => "no connection through the workflow's proxy",
            Self::TooLarge => "the document is too large",
            Self::GaveWay => "there was no answer, and other requests to the host had to wait for that",
            Self::NotUnderstood => "the request was not understood",
        }
    }

    /// What it says to the user, with its class.
    pub(crate) fn failure(self) -> Failure {
        let class = match self {
            Self::NotAllowed => ErrorClass::SsrfBlocked,
            Self::NotResolved => ErrorClass::Dns,
            Self::Refused | Self::TimedOut | Self::Unreachable => ErrorClass::Connect,
            Self::NoNetwork | Self::NoSocket => ErrorClass::NoNetwork,
            Self::Proxy => ErrorClass::Proxy,
            Self::TooLarge => ErrorClass::TooLarge,
            Self::GaveWay => ErrorClass::NavTimeout,
            Self::NotUnderstood => ErrorClass::Internal,
        };
        Failure::new(class, self.sentence())
    }

    fn status(self) -> &'static str {
        match self {
            Self::NotAllowed => "403 Forbidden",
            Self::NotUnderstood => "400 Bad Request",
            Self::GaveWay => "504 Gateway Timeout",
            _ => "502 Bad Gateway",
        }
    }

    /// The answer to a request. `secret` is what a page cannot know, so that no server can say the same.
    pub(super) fn answer(self, secret: &str, keep: bool) -> Vec<u8> {
        let (name, sentence, status) = (self.as_str(), self.sentence(), self.status());
        let body = format!(
            "<!doctype html><meta name={META} content=\"{secret} {name}\"><title>{sentence}</title><p>{sentence}\n"
        );
        let connection = if keep { "keep-alive" } else { "close" };
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\ncache-control: no-store\r\n\
             {HEADER}: {name}\r\ncontent-length: {}\r\nconnection: {connection}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }

    /// Reads what the `meta` element of an answer of ours says; `None` where it is none of ours.
    pub(super) fn read(content: &str, secret: &str) -> Option<Self> {
        let name = content.strip_prefix(secret)?.trim_start();
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

/// What was refused lately, by what was asked for: of a tunnel that does not come about, a browser tells its page
/// nothing.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<VecDeque<(String, Reason)>>);

impl Refusals {
    pub(super) fn note(&self, asked_for: String, reason: Reason) {
        let mut refusals = self.lock();
        if refusals.len() >= REMEMBERED {
            refusals.pop_front();
        }
        refusals.push_back((asked_for, reason));
    }

    pub(super) fn last_of(&self, asked_for: &str) -> Option<Reason> {
        self.lock().iter().rev().find(|(asked, _)| asked == asked_for).map(|(_, reason)| *reason)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(String, Reason)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_of_ours_is_read_as_one() {
        for reason in Reason::ALL {
            let text = String::from_utf8(reason.answer("s3cret", true)).unwrap();
            let content = text.split("content=\"").nth(1).unwrap().split('"').next().unwrap();
            assert_eq!(Reason::read(content, "s3cret"), Some(reason));
            assert_eq!(Reason::read(content, "another"), None);
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        }
    }

    #[test]
    fn what_was_refused_last_counts_and_the_oldest_is_forgotten() {
        let refusals = Refusals::default();
        refusals.note("a:1".to_owned(), Reason::Refused);
        refusals.note("a:1".to_owned(), Reason::NotAllowed);
        assert_eq!(refusals.last_of("a:1"), Some(Reason::NotAllowed));
        for number in 0..REMEMBERED {
            refusals.note(format!("b:{number}"), Reason::NotResolved);
        }
        assert_eq!(refusals.last_of("a:1"), None);
    }
}
