//! Why a request was not answered by its server but by us, and how the browser's side is told.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crawlify_shared::domain::outcome::{ErrorClass, Failure};

/// The header that says so, for whoever sees headers.
pub(crate) const HEADER: &str = "x-crawlify-egress";
/// How many refusals are remembered: so many that a page that is refused one thing after the other does not have
/// those of others forgotten before their tabs ask.
const REMEMBERED: usize = 4096;

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

    /// The answer to a request. For the browser it is one of the origin that was asked, whose scripts may read it, and
    /// whose server may say the same at any time. Nothing in it shows whose it is: that is remembered ([`Refusals`]).
    pub(super) fn answer(self, keep: bool) -> Vec<u8> {
        let (name, sentence, status) = (self.as_str(), self.sentence(), self.status());
        let body = format!("<!doctype html><title>{sentence}</title><p>{sentence}\n");
        let connection = if keep { "keep-alive" } else { "close" };
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\ncache-control: no-store\r\n\
             {HEADER}: {name}\r\ncontent-length: {}\r\nconnection: {connection}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }
}

/// What was refused lately, by what was asked for: everything by its host and port, because of a tunnel that does not
/// come about a browser tells its page nothing; and documents in plain HTTP by their URLs besides.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// Of what was asked for hashes are kept: pages choose how long their URLs are.
    hashes: RandomState,
    /// The oldest first.
    latest: Mutex<VecDeque<(u64, Reason)>>,
}

impl Refusals {
    /// Remembers one. To be called before the browser is answered: whoever has the answer may ask.
    pub(super) fn note(&self, asked_for: &str, reason: Reason) {
        let mut latest = self.lock();
        if latest.len() >= REMEMBERED {
            latest.pop_front();
        }
        latest.push_back((self.hashes.hash_one(asked_for), reason));
    }

    /// Forgets why a document did not come, because it is asked for once more, and its server can be reached. Of
    /// several that are asked for at one URL at once, the last decides for all that came with an error: which is whose
    /// nobody can tell, and what is said was true of that URL. That one was too large stays known: its tab may not have
    /// heard of it yet.
    pub(super) fn forget(&self, asked_for: &str) {
        let asked_for = self.hashes.hash_one(asked_for);
        self.lock().retain(|(asked, reason)| *asked != asked_for || *reason == Reason::TooLarge);
    }

    pub(super) fn last_of(&self, asked_for: &str) -> Option<Reason> {
        let asked_for = self.hashes.hash_one(asked_for);
        self.lock().iter().rev().find(|(asked, _)| *asked == asked_for).map(|(_, reason)| *reason)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, Reason)>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_how_long_it_is_and_nothing_but_its_sentence() {
        for reason in [Reason::NotAllowed, Reason::NoNetwork, Reason::GaveWay] {
            let text = String::from_utf8(reason.answer(true)).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
            let sentence = reason.sentence();
            assert_eq!(body, format!("<!doctype html><title>{sentence}</title><p>{sentence}\n"));
        }
    }

    #[test]
    fn what_was_refused_last_counts_and_the_oldest_is_forgotten() {
        let refusals = Refusals::default();
        refusals.note("a:1", Reason::Refused);
        refusals.note("a:1", Reason::NotAllowed);
        assert_eq!(refusals.last_of("a:1"), Some(Reason::NotAllowed));
        for number in 0..REMEMBERED {
            refusals.note(&format!("b:{number}"), Reason::NotResolved);
        }
        assert_eq!(refusals.last_of("a:1"), None);
    }

    #[test]
    fn what_is_asked_for_once_more_is_forgotten_unless_it_was_too_large() {
        let refusals = Refusals::default();
        let (page, other) = ("http://a.test/", "http://a.test/other");
        for reason in [Reason::NoNetwork, Reason::Refused] {
            refusals.note(page, reason);
            refusals.note(other, reason);
        }
        refusals.forget(page);
        assert_eq!((refusals.last_of(page), refusals.last_of(other)), (None, Some(Reason::Refused)));
        refusals.note(page, Reason::TooLarge);
        refusals.forget(page);
        assert_eq!(refusals.last_of(page), Some(Reason::TooLarge));
    }
}
