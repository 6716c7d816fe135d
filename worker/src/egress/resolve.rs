//! From a name to its addresses, once: what was judged is what is dialled, and for a while what is judged again.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::policy::Destination;

/// How many names are kept.
const KEPT_NAMES: usize = 1024;
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

/// A resolver that is not asked twice within moments.
#[derive(Debug)]
pub(super) struct Names {
    resolver: Arc<dyn Resolver>,
    kept_for: Duration,
    /// Locked for moments only.
    kept: Mutex<HashMap<String, (Instant, Vec<IpAddr>)>>,
}

impl Names {
    pub(super) fn new(resolver: Arc<dyn Resolver>, kept_for: Duration) -> Self {
        Self { resolver, kept_for, kept: Mutex::default() }
    }

    /// The addresses of a destination: those of its name, or the one that it is.
    pub(super) async fn addresses(&self, destination: &Destination) -> io::Result<Vec<IpAddr>> {
        if let Some(address) = destination.address() {
            return Ok(vec![address]);
        }
        let name = destination.host.to_string();
        if let Some((until, addresses)) = self.lock().get(&name)
            && *until > Instant::now()
        {
            return Ok(addresses.clone());
        }
        let resolved = tokio::time::timeout(PATIENCE, self.resolver.resolve(&name)).await;
        let mut addresses = resolved.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let mut seen = std::collections::HashSet::new();
        addresses.retain(|address| seen.insert(*address));
        if addresses.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let now = Instant::now();
        let mut kept = self.lock();
        if kept.len() >= KEPT_NAMES {
            kept.retain(|_, (until, _)| *until > now);
        }
        if kept.len() < KEPT_NAMES {
            kept.insert(name, (now + self.kept_for, addresses.clone()));
        }
        Ok(addresses)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, Vec<IpAddr>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
