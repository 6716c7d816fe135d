//! robots.txt (RFC 9309): before a page of an obeying execution is loaded, the robots file of its origin is known.
//!
//! One worker fetches an origin's file, the fleet shares it through the store for a day, and each worker keeps what it
//! has read of late. Executions that ignore robots files are let through untouched.

mod agent;
mod fetch;
mod file;
mod known;
mod look_up;
mod pattern;

use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::domain::outcome::{ErrorClass, Failure, PageEnd, PageOutcome};
use crawlify_shared::domain::page::ClaimedPage;
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::skip::{Skip, SkipReason};
use crawlify_shared::domain::workflow::{Robots as Choice, Workflow};
use crawlify_shared::store::hot::HotStore;
use futures_util::FutureExt;
use moka::future::Cache;
use tokio::time::Instant;

pub(crate) use agent::Agent;
use known::{Known, Standing, UntilStale};
use look_up::LookUp;

/// A page waits no longer than this for a robots file.
const PATIENCE: Duration = Duration::from_secs(40);
/// What the files that are kept may take, in bytes, as far as can be estimated.
const KEPT_BYTES: u64 = 64 << 20;
/// How long the links of one page may be looked through. The others are looked at when they are loaded.
const LINKS_WITHIN: Duration = Duration::from_millis(200);

/// The robots files that this worker knows.
#[derive(Debug)]
pub(crate) struct Robots {
    store: HotStore,
    client: reqwest::Client,
    /// By origin. Pages that need the same file at once wait for one fetch.
    known: Cache<String, Arc<Known>>,
}

impl Robots {
    /// Makes a worker's robots files; none is known yet.
    pub(crate) fn new(store: HotStore, client: reqwest::Client) -> Self {
        let known = Cache::builder()
            .max_capacity(KEPT_BYTES)
            .weigher(|origin: &String, known: &Arc<Known>| {
                known.bytes.saturating_add(u32::try_from(origin.len()).unwrap_or(u32::MAX))
            })
            .expire_after(UntilStale)
            .build();
        Self { store, client, known }
    }

    /// Whether a page may be loaded: `None` if so, or else its end.
    ///
    /// The request for a robots file is a request to the host like any other: where the host has a pace, it takes the
    /// turn of the page for which it was made, and that page is given back and comes in its next turn.
    pub(crate) async fn admit(
        &self,
        page: &ClaimedPage,
        workflow: &Workflow,
        start_at: Instant,
    ) -> Option<PageEnd> {
        if workflow.robots == Choice::Ignore {
            return None;
        }
        let agent = Agent::of(workflow);
        let (known, asked_now) = match self.learn(&page.url, &agent, start_at).await {
            Ok(found) => found,
            Err(failure) => return Some(PageEnd::Failed(failure)),
        };
        let file = match &known.standing {
            Standing::Says(file) => file,
            Standing::Unreachable(reason) => {
                let message =
                    format!("its robots.txt cannot be had ({reason}), and until then nothing is allowed");
                return Some(PageEnd::Failed(Failure::new(ErrorClass::RobotsUnreachable, message)));
            }
        };
        // A sitemap that the file names itself is there for crawlers, whatever the rules say.
        let is_named = page.is_sitemap && file.sitemaps().iter().any(|url| is_same(url, &page.url));
        if !is_named && let Err(pattern) = file.check(&agent.token, page.url.as_url()) {
            return Some(PageEnd::Skipped(Failure::new(ErrorClass::Robots, disallowed(&pattern, &agent))));
        }
        let is_paced =
            !workflow.limits.rate_limit_delay.is_zero() || !file.crawl_delay(&agent.token).is_zero();
        (asked_now && is_paced).then_some(PageEnd::Released)
    }

    /// Marks the links of a page that a robots file disallows, as far as their origins' files are known. Where the
    /// workflow wants it, a start page gives the sitemaps that its origin's file names as well.
    pub(crate) async fn judge_links(
        &self,
        page: &ClaimedPage,
        workflow: &Workflow,
        outcome: &mut PageOutcome,
    ) {
        if workflow.robots == Choice::Ignore {
            return;
        }
        let agent = Agent::of(workflow);
        if workflow.sitemaps.from_robots && workflow.start_urls.contains(&page.url) {
            let known = self.known.get(&origin(&page.url)).await;
            outcome.discovered.extend(known.iter().flat_map(|known| known.named_sitemaps()));
        }
        let until = Instant::now() + LINKS_WITHIN;
        let mut last: Option<(String, Option<Arc<Known>>)> = None;
        for link in outcome.discovered.iter_mut().filter(|link| link.skipped.is_none() && !link.is_sitemap) {
            if Instant::now() > until {
                break;
            }
            let origin = origin(&link.url);
            let known = match &last {
                Some((same, known)) if *same == origin => known.clone(),
                _ => {
                    let known = self.known.get(&origin).await;
                    last = Some((origin, known.clone()));
                    known
                }
            };
            if let Some(Standing::Says(file)) = known.as_ref().map(|known| &known.standing)
                && let Err(pattern) = file.check(&agent.token, link.url.as_url())
            {
                link.skipped = Some(Skip::new(SkipReason::Robots, disallowed(&pattern, &agent)));
            }
        }
    }

    /// What is known of a page's origin, after asking for it if need be, which waits for the page's turn; and whether
    /// the site was asked just now, for this page.
    async fn learn(
        &self,
        url: &PageUrl,
        agent: &Agent,
        start_at: Instant,
    ) -> Result<(Arc<Known>, bool), Failure> {
        let origin = origin(url);
        if let Some(known) = self.known.get(&origin).await {
            return Ok((known, false));
        }
        tokio::time::sleep_until(start_at).await;
        let look_up = LookUp {
            store: self.store.clone(),
            client: self.client.clone(),
            origin: origin.clone(),
            host: url.host().to_owned(),
            agent: agent.clone(),
        };
        let entry = self.known.entry_by_ref(&origin).or_try_insert_with(look_up.run().boxed());
        let entry = match tokio::time::timeout(PATIENCE, entry).await {
            Ok(entry) => entry.map_err(|error| Failure::new(ErrorClass::Internal, error.to_string()))?,
            Err(_elapsed) => {
                let message = format!("its robots.txt was not there within {} s", PATIENCE.as_secs());
                return Err(Failure::new(ErrorClass::RobotsUnreachable, message));
            }
        };
        let is_ours = entry.is_fresh();
        let known = entry.into_value();
        let asked_now = is_ours && known.was_fetched;
        Ok((known, asked_now))
    }
}

/// Scheme, host and port.
fn origin(url: &PageUrl) -> String {
    url.as_url().origin().ascii_serialization()
}

fn is_same(written: &str, url: &PageUrl) -> bool {
    PageUrl::parse(written).is_ok_and(|written| written == *url)
}

fn disallowed(pattern: &str, agent: &Agent) -> String {
    const SHOWN: usize = 200;
    let shown: String = pattern.chars().take(SHOWN).collect();
    format!("robots.txt disallows it for `{}` (`Disallow: {shown}`)", agent.token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_a_port_only_where_it_is_not_the_schemes_own() {
        for (url, expected) in [
            ("https://Shop.example:443/a", "https://shop.example"),
            ("http://shop.example:8080/a?b", "http://shop.example:8080"),
            ("http://[::1]/", "http://[::1]"),
        ] {
            assert_eq!(origin(&PageUrl::parse(url).unwrap()), expected);
        }
    }
}
