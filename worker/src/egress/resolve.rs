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
    /// There is no such name, or nobody who would know it.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's own resolver.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// A resolver that is asked for a name once within moments, by however many connections.
#[derive(Debug)]
pub(super) struct Names {
    resolver: Arc<dyn Resolver>,
    kept: Cache<String, Answer>,
}

/// What was found out about a name.
type Answer = Result<Arc<[IpAddr]>, ErrorKind>;

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
        Self { resolver, kept }
    }

    /// The addresses of a destination: those of its name, or the one that it is.
    pub(super) async fn addresses(&self, destination: &Destination) -> io::Result<Arc<[IpAddr]>> {
        if let Some(address) = destination.address() {
            return Ok(Arc::new([address]));
        }
        let name = destination.host.to_string();
        let answer = self.kept.get_with_by_ref(&name, self.ask(&name)).await;
        answer.map_err(io::Error::from)
    }

    async fn ask(&self, name: &str) -> Answer {
        let resolved = tokio::time::timeout(PATIENCE, self.resolver.resolve(name)).await;
        let mut addresses = resolved.map_err(|_| ErrorKind::TimedOut)?.map_err(|error| error.kind())?;
        let mut seen = HashSet::new();
        addresses.retain(|address| seen.insert(*address));
        if addresses.is_empty() { Err(ErrorKind::NotFound) } else { Ok(addresses.into()) }
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
        assert_eq!(one.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(other.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(names.addresses(&destination).await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(resolver.asked.load(Ordering::Relaxed), 1);
    }
}
