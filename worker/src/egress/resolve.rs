//! From a name to its addresses, once: what was judged is what is dialled, and for a while what is judged again.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moka::Expiry;
use moka::future::Cache;

use super::policy::Destination;

/// How many names are kept.
const KEPT_NAMES: u64 = 1024;
/// A failure is believed so many times as long as an answer: pages ask for what they cannot have again and again, and a
/// resolver that does not answer takes seconds to say so. RFC 9520 allows 1 s to 5 min.
const FAILURES_KEPT: u32 = 3;
/// How long a name may take to be resolved.
const PATIENCE: Duration = Duration::from_secs(15);

/// Knows the addresses of names.
#[async_trait]
pub trait Resolver: Send + Sync + std::fmt::Debug {
    /// All the addresses of a name; none is an error too.
    ///
    /// # Errors
    /// There is no such name; or nobody answers who would know it, which is [`ErrorKind::TimedOut`].
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's own resolver.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        match tokio::net::lookup_host((name, 0)).await {
            Ok(addresses) => Ok(addresses.map(|address| address.ip()).collect()),
            Err(error) if is_no_answer(&error) => Err(ErrorKind::TimedOut.into()),
            Err(error) => Err(error),
        }
    }
}

/// Whether a look-up failed because nobody answered (`EAI_AGAIN`), which has no kind of its own in `std`: glibc's words, and
/// musl's.
fn is_no_answer(error: &io::Error) -> bool {
    let message = error.to_string();
    message.contains("Temporary failure in name resolution") || message.contains("Try again")
}

/// A resolver that is asked for a name once within moments, by however many connections.
#[derive(Debug)]
pub(super) struct Names {
    resolver: Arc<dyn Resolver>,
    kept: Cache<String, Answer>,
    /// The names that had addresses once.
    known: Cache<String, ()>,
}

/// What was found out about a name.
type Answer = Result<Arc<[IpAddr]>, Unresolved>;

/// Why a name has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unresolved {
    /// There is no such name.
    NoSuchName,
    /// Nobody answered.
    NoAnswer {
        /// Whether it had addresses before, so that it is not its own servers that are wrong.
        was_known: bool,
    },
}

/// How long answers are believed.
#[derive(Clone, Copy, Debug)]
struct Validity(Duration);

impl Expiry<String, Answer> for Validity {
    fn expire_after_create(&self, _: &String, answer: &Answer, _: std::time::Instant) -> Option<Duration> {
        Some(if answer.is_ok() { self.0 } else { self.0 * FAILURES_KEPT })
    }
}

impl Names {
    pub(super) fn new(resolver: Arc<dyn Resolver>, kept_for: Duration) -> Self {
        let kept = Cache::builder().max_capacity(KEPT_NAMES).expire_after(Validity(kept_for)).build();
        Self { resolver, kept, known: Cache::new(KEPT_NAMES) }
    }

    /// The addresses of a destination: those of its name, or the one that it is.
    pub(super) async fn addresses(&self, destination: &Destination) -> Answer {
        if let Some(address) = destination.address() {
            return Ok(Arc::new([address]));
        }
        let name = destination.host.to_string();
        self.kept.get_with_by_ref(&name, self.ask(&name)).await
    }

    /// Whether anybody answers for a name now, whatever is kept of it.
    pub(super) async fn is_answered(&self, name: &str) -> bool {
        self.resolver.resolve(name).await.map_err(|error| error.kind()) != Err(ErrorKind::TimedOut)
    }

    async fn ask(&self, name: &str) -> Answer {
        let resolved = tokio::time::timeout(PATIENCE, self.resolver.resolve(name)).await;
        let resolved = resolved.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
        let mut addresses = match resolved {
            Ok(addresses) => addresses,
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                return Err(Unresolved::NoAnswer { was_known: self.known.contains_key(name) });
            }
            Err(_) => return Err(Unresolved::NoSuchName),
        };
        let mut seen = HashSet::new();
        addresses.retain(|address| seen.insert(*address));
        if addresses.is_empty() {
            return Err(Unresolved::NoSuchName);
        }
        self.known.insert(name.to_owned(), ()).await;
        Ok(addresses.into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// Knows no name, and says so when it is let.
    #[derive(Debug)]
    struct Ignorant {
        asked: AtomicUsize,
        may_answer: Semaphore,
    }

    #[async_trait]
    impl Resolver for Ignorant {
        async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.may_answer.acquire().await.map_err(io::Error::other)?.forget();
            Err(ErrorKind::NotFound.into())
        }
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_is_asked_for_once_by_all_and_not_again_at_once() {
        let resolver = Arc::new(Ignorant { asked: AtomicUsize::new(0), may_answer: Semaphore::new(0) });
        let names = Names::new(Arc::clone(&resolver) as Arc<dyn Resolver>, Duration::from_secs(10));
        let destination = Destination::of(&"http://cdn.test/".parse().unwrap()).unwrap();
        let let_it = async { resolver.may_answer.add_permits(1) };
        let (one, other, ()) =
            tokio::join!(names.addresses(&destination), names.addresses(&destination), let_it);
        assert_eq!(one, Err(Unresolved::NoSuchName));
        assert_eq!(other, Err(Unresolved::NoSuchName));
        assert_eq!(names.addresses(&destination).await, Err(Unresolved::NoSuchName));
        assert_eq!(resolver.asked.load(Ordering::Relaxed), 1);
    }
}
