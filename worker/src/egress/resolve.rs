//! From a name to its addresses, once: what was judged is what is dialled, and for a while what is judged again.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moka::Expiry;
use moka::future::Cache;
use rustix::io::Errno;

use super::policy::Destination;
use super::this_machine::has_none_left;

/// How many names are kept.
const KEPT_NAMES: u64 = 1024;
/// A failure is believed so many times as long as an answer: pages ask for what they cannot have again and again, and a
/// resolver that does not answer takes seconds to say so. RFC 9520 allows 1 s to 5 min.
const FAILURES_KEPT: u32 = 3;
/// `EAI_NONAME` and `EAI_NODATA`, in glibc's words and in musl's.
const NO_SUCH_NAME: [&str; 4] = [
    "Name or service not known",
    "No address associated with hostname",
    "Name does not resolve",
    "Name has no usable address",
];
/// `EAI_MEMORY`, in glibc's words and in musl's.
const NO_MEMORY: [&str; 2] = ["Memory allocation failure", "Out of memory"];
/// How long a name may take to be resolved.
const PATIENCE: Duration = Duration::from_secs(15);

/// Knows the addresses of names.
#[async_trait]
pub trait Resolver: Send + Sync + std::fmt::Debug {
    /// All the addresses of a name; none is an error too.
    ///
    /// # Errors
    /// There is no such name; or nobody answers who would know it, which is [`ErrorKind::TimedOut`]; or nobody could be asked for
    /// want of descriptors or memory, which is the operating system's error.
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
            Err(error) => Err(understood(error)),
        }
    }
}

/// Which of a resolver's errors a failed look-up is. What `getaddrinfo` says has no kinds of its own in `std`, so it goes by the
/// words; of `EAI_SYSTEM` `std` keeps the error of the operating system. Whatever else it may be, nobody said that there is no
/// such name.
fn understood(error: io::Error) -> io::Error {
    let message = error.to_string();
    let says = |words: &[&str]| words.iter().any(|words| message.contains(*words));
    if has_none_left(&error) {
        error
    } else if says(&NO_SUCH_NAME) {
        // A resolver that has no descriptor for its own files says so too.
        match File::open("/dev/null") {
            Err(error) if has_none_left(&error) => error,
            _ => ErrorKind::NotFound.into(),
        }
    } else if says(&NO_MEMORY) {
        Errno::NOMEM.into()
    } else {
        ErrorKind::TimedOut.into()
    }
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
    /// Nobody could be asked, for want of descriptors or memory of our own.
    NotAsked,
}

/// How long answers are believed.
#[derive(Clone, Copy, Debug)]
struct Validity(Duration);

impl Expiry<String, Answer> for Validity {
    fn expire_after_create(&self, _: &String, answer: &Answer, _: std::time::Instant) -> Option<Duration> {
        Some(match answer {
            Ok(_) => self.0,
            // It says nothing of the name.
            Err(Unresolved::NotAsked) => Duration::ZERO,
            Err(_) => self.0 * FAILURES_KEPT,
        })
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
        let resolved = self.resolver.resolve(name).await;
        !resolved.is_err_and(|error| error.kind() == ErrorKind::TimedOut || has_none_left(&error))
    }

    async fn ask(&self, name: &str) -> Answer {
        let resolved = tokio::time::timeout(PATIENCE, self.resolver.resolve(name)).await;
        let resolved = resolved.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
        let mut addresses = match resolved {
            Ok(addresses) => addresses,
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                return Err(Unresolved::NoAnswer { was_known: self.known.contains_key(name) });
            }
            Err(error) if has_none_left(&error) => return Err(Unresolved::NotAsked),
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

    #[test]
    fn a_name_is_one_that_does_not_exist_only_where_somebody_said_so() {
        let in_words =
            |words: &str| io::Error::other(format!("failed to lookup address information: {words}"));
        for (error, is_no_name, is_want) in [
            (in_words("Name or service not known"), true, false),
            (in_words("No address associated with hostname"), true, false),
            (in_words("Name does not resolve"), true, false),
            (in_words("Temporary failure in name resolution"), false, false),
            (in_words("Non-recoverable failure in name resolution"), false, false),
            (in_words("Memory allocation failure"), false, true),
            (Errno::MFILE.into(), false, true),
            (Errno::NFILE.into(), false, true),
            (Errno::CONNREFUSED.into(), false, false),
        ] {
            let said = error.to_string();
            let understood = understood(error);
            assert_eq!(understood.kind() == ErrorKind::NotFound, is_no_name, "{said}");
            assert_eq!(has_none_left(&understood), is_want, "{said}");
            assert_eq!(understood.kind() == ErrorKind::TimedOut, !is_no_name && !is_want, "{said}");
        }
    }

    /// Has no descriptor at first.
    #[derive(Debug, Default)]
    struct Wanting(AtomicUsize);

    #[async_trait]
    impl Resolver for Wanting {
        async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            match self.0.fetch_add(1, Ordering::Relaxed) {
                0 => Err(Errno::MFILE.into()),
                _ => Ok(vec![IpAddr::from([93, 184, 216, 34])]),
            }
        }
    }

    #[tokio::test]
    async fn that_nobody_could_be_asked_is_not_kept_and_is_no_answer() {
        let names = || Names::new(Arc::new(Wanting::default()), Duration::from_secs(10));
        let destination = Destination::of(&"http://cdn.test/".parse().unwrap()).unwrap();
        let asked = names();
        assert_eq!(asked.addresses(&destination).await, Err(Unresolved::NotAsked));
        assert!(asked.addresses(&destination).await.is_ok());
        let asked = names();
        assert!(!asked.is_answered("cdn.test").await);
        assert!(asked.is_answered("cdn.test").await);
    }
}
