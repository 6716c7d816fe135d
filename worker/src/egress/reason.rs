//! Why a request was not answered by its server but by us, and how the browser's side is told.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crawlify_shared::domain::outcome::{ErrorClass, Failure};
use lru::LruCache;
use url::Url;

/// The header that says so, for whoever sees headers.
pub(crate) const HEADER: &str = "x-crawlify-egress";
/// How many refusals of one kind are remembered: so many that a page that is refused one thing after the other does not
/// have those of others forgotten before their tabs ask.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).expect("it is not zero");

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
    /// whose server may say the same at any time. Nothing in it proves whose it is: that is remembered ([`Refusals`]).
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

/// What was refused lately. What one page is refused for its parts does not have documents forgotten.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// Of everything, by host and port: because of a tunnel that does not come about a browser tells its page nothing.
    /// Forgotten once a server there answers in plain HTTP.
    pub(super) hosts: Latest,
    /// Of documents in plain HTTP, by their names. Forgotten once one is asked for again, and its server can be
    /// reached: of several that are asked for at one URL at once, the last decides for all that came with an error.
    /// Which is whose nobody can tell, and what is said was true of that URL.
    pub(super) documents: Latest,
    /// Of documents that were too large. Never forgotten for another: their tabs may not have heard of it yet.
    pub(super) too_large: Latest,
}

impl Refusals {
    /// Remembers why a document did not come, or not as a whole. To be called before the browser is answered: whoever
    /// has the answer may ask.
    pub(super) fn note_document(&self, name: &str, reason: Reason) {
        let kind = if reason == Reason::TooLarge { &self.too_large } else { &self.documents };
        kind.note(name, reason);
    }
}

/// What a document is remembered by: its URL, without what is never asked for as a part of it.
pub(super) fn document_name(url: &Url) -> String {
    let mut url = url.clone();
    url.set_fragment(None);
    // A URL that can have neither has neither.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

/// The latest refusals of one kind, one of each thing that was asked for.
#[derive(Debug)]
pub(super) struct Latest {
    /// Of what was asked for hashes are kept: pages choose how long their URLs are.
    hashes: RandomState,
    reasons: Mutex<LruCache<u64, Reason>>,
}

impl Default for Latest {
    fn default() -> Self {
        // Room for all of them is not taken before it is needed: most gates refuse hardly anything.
        let mut reasons = LruCache::unbounded();
        reasons.resize(REMEMBERED);
        Self { hashes: RandomState::new(), reasons: Mutex::new(reasons) }
    }
}

impl Latest {
    /// Remembers the last one, for which the oldest is forgotten if there are too many.
    pub(super) fn note(&self, asked_for: &str, reason: Reason) {
        self.lock().put(self.hashes.hash_one(asked_for), reason);
    }

    pub(super) fn forget(&self, asked_for: &str) {
        self.lock().pop(&self.hashes.hash_one(asked_for));
    }

    pub(super) fn of(&self, asked_for: &str) -> Option<Reason> {
        self.lock().peek(&self.hashes.hash_one(asked_for)).copied()
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<u64, Reason>> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
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
        let latest = Latest::default();
        latest.note("a:1", Reason::Refused);
        latest.note("a:1", Reason::NotAllowed);
        assert_eq!((latest.of("a:1"), latest.of("a:2")), (Some(Reason::NotAllowed), None));
        for number in 1..REMEMBERED.get() {
            latest.note("b:1", Reason::Refused);
            latest.note(&format!("b:{number}"), Reason::NotResolved);
        }
        assert_eq!(latest.of("a:1"), Some(Reason::NotAllowed), "what is refused again and again counts once");
        latest.note("c:1", Reason::Refused);
        assert_eq!((latest.of("a:1"), latest.of("b:1")), (None, Some(Reason::Refused)));
        latest.forget("c:1");
        assert_eq!(latest.of("c:1"), None);
    }

    #[test]
    fn that_a_document_was_too_large_nothing_that_is_said_of_its_url_later_hides() {
        let refusals = Refusals::default();
        let page = "http://a.test/";
        refusals.note_document(page, Reason::TooLarge);
        refusals.note_document(page, Reason::GaveWay);
        assert_eq!(refusals.too_large.of(page), Some(Reason::TooLarge));
        assert_eq!(refusals.documents.of(page), Some(Reason::GaveWay));
        refusals.documents.forget(page);
        assert_eq!(refusals.too_large.of(page), Some(Reason::TooLarge));
    }

    #[test]
    fn what_no_server_is_asked_for_is_no_part_of_a_documents_name() {
        for rest in ["a.test/b?c", "a.test/b?c#d", "me:secret@a.test:80/b?c", "me@a.test/b?c#"] {
            let text = format!("http://{rest}");
            assert_eq!(document_name(&Url::parse(&text).unwrap()), "http://a.test/b?c", "{text}");
        }
    }
}
