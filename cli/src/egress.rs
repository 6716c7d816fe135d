//! What a crawl of this command line may reach: where its user told it to begin, if that is private, and not one port
//! more.
//!
//! Only `run` and `demo` do this, whose start URLs are its user's own. Those of `up` and of workers come over the
//! network.

use std::sync::Arc;

use crawlify_shared::domain::page_url::PageUrl;
use crawlify_worker::egress::resolve::{Resolver, SystemResolver};
use crawlify_worker::egress::{Allowed, Destination, Egress, EgressArgs, EgressGuard, pinned};

use crate::exit::{Code, Failure};

/// Start URLs that are looked up; a crawl that begins at more private hosts names them with `--egress-allow`.
const LOOKED_UP: usize = 100;

/// The hosts and ports of start URLs and sitemaps that lead to private addresses, held to the addresses that they have now.
pub(crate) async fn private_start_urls(start_urls: impl Iterator<Item = &PageUrl>) -> Vec<Allowed> {
    let mut allowed = Vec::new();
    let mut seen = Vec::new();
    for url in start_urls {
        let Some(destination) = Destination::of(url.as_url()) else { continue };
        if seen.contains(&destination) || seen.len() >= LOOKED_UP {
            continue;
        }
        seen.push(destination.clone());
        let addresses = match destination.address() {
            Some(address) => vec![address],
            // A name that nobody knows is the crawl's to report.
            None => SystemResolver.resolve(&destination.host.to_string()).await.unwrap_or_default(),
        };
        allowed.extend(pinned(destination, addresses));
    }
    allowed
}

/// What the user is told of that.
pub(crate) fn notes_on(allowed: &[Allowed], args: &EgressArgs) -> Vec<String> {
    if args.egress_guard == EgressGuard::Off {
        return vec![
            "the egress guard is off: pages can reach every address that this machine reaches".to_owned(),
        ];
    }
    if allowed.is_empty() {
        return Vec::new();
    }
    let named: Vec<_> = allowed.iter().map(ToString::to_string).collect();
    vec![format!(
        "{} is private, and allowed because the crawl begins there; other private addresses are not",
        named.join(", ")
    )]
}

/// Sets the guard up.
pub(crate) fn open_egress(args: &EgressArgs, more: Vec<Allowed>) -> Result<Arc<Egress>, Failure> {
    args.start(more).map_err(|error| Failure::of(Code::Configuration, &error))
}
