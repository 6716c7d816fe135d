//! robots.txt (RFC 9309): before a page of an obeying execution is loaded, the robots file of its origin is known.
//!
//! One worker fetches an origin's file, the crawls of the fleet that ask alike share it through the store for a day, and each
//! worker keeps what it has read of late. Executions that ignore robots files are let through untouched.

mod agent;
mod asker;
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
use crawlify_shared::telemetry::chain;
use futures_util::FutureExt;
use moka::future::Cache;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use url::Url;

pub(crate) use agent::Agent;
use asker::Asker;
use known::{Known, Standing, UntilStale};
use look_up::{LookUp, NotKnown};

use crate::http::Http;
use crate::page::host_turns::{HostTurns, TooFar};

/// A page waits no longer than this for a robots file, beside what others and itself may wait for turns of its host: longer than a
/// fetch takes, and so that its lease still covers all that comes after.
const PATIENCE: Duration = Duration::from_secs(45);
/// What the files that are kept may take, in bytes, as far as can be estimated.
const KEPT_BYTES: u64 = 64 << 20;
/// How long the links of one page may be looked through. The others are looked at when they are loaded.
const LINKS_WITHIN: Duration = Duration::from_millis(200);

/// The robots files that this worker knows.
#[derive(Debug)]
pub(crate) struct Robots {
    store: HotStore,
    http: Arc<Http>,
    /// Awaited at the end, before the store is closed.
    tasks: TaskTracker,
    /// By origin, and how it was asked. Pages that need the same file at once wait for one fetch.
    known: Cache<String, Arc<Known>>,
}

impl Robots {
    /// The longest that [`Robots::admit`] takes after the time that it was given.
    pub(crate) fn longest(host_delay: Duration) -> Duration {
        HostTurns::longest(host_delay) + patience(host_delay)
    }

    /// Makes a worker's robots files; none is known yet. What is still to be done after a page was dropped is one of the tasks.
    pub(crate) fn new(store: HotStore, http: Arc<Http>, tasks: TaskTracker) -> Self {
        let known = Cache::builder()
            .max_capacity(KEPT_BYTES)
            .weigher(|key: &String, known: &Arc<Known>| {
                known.bytes.saturating_add(u32::try_from(key.len()).unwrap_or(u32::MAX))
            })
            .expire_after(UntilStale)
            .build();
        Self { store, http, tasks, known }
    }

    /// Whether a page may be loaded: `None` if so, or else its end.
    ///
    /// The request for a robots file is a request to the host like any other: where the host has a pace, it takes the
    /// turn of the page for which it was made, and that page is given back and comes in its next turn. So is one that
    /// was dispatched before the pace was known that the file asks for.
    pub(crate) async fn admit(
        &self,
        page: &ClaimedPage,
        workflow: &Workflow,
        turns: &HostTurns,
        start_at: Instant,
    ) -> Option<PageEnd> {
        if workflow.robots == Choice::Ignore {
            return None;
        }
        let asker = Asker::of(workflow);
        let (known, asked_now) = match self.learn(page, workflow, &asker, turns, start_at).await {
            Ok(found) => found,
            Err(end) => return Some(end),
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
        if !is_named && let Err(pattern) = file.check(&asker.agent.token, page.url.as_url()) {
            let message = disallowed(&pattern, &asker.agent);
            return Some(PageEnd::Skipped(Failure::new(ErrorClass::Robots, message)));
        }
        let crawl_delay = file.crawl_delay(&asker.agent.token);
        if crawl_delay > page.host_delay {
            if let Err(error) = self.store.raise_crawl_delay(&page.host, crawl_delay).await {
                tracing::warn!(page.id = %page.page_id, error = %chain(&error), "cannot write a host's pace");
            }
            return Some(PageEnd::Released);
        }
        (asked_now && !page.host_delay.is_zero()).then_some(PageEnd::Released)
    }

    /// Gives up what came of a page that was led to an address which a robots file disallows, as far as that origin's file is
    /// known: where a page leads is known only after it was asked for.
    pub(crate) async fn judge_end(
        &self,
        page: &ClaimedPage,
        workflow: &Workflow,
        outcome: PageOutcome,
    ) -> PageOutcome {
        let reached = outcome.final_url.as_deref().and_then(|url| PageUrl::parse(url).ok());
        let Some(reached) = reached.filter(|reached| workflow.robots == Choice::Obey && *reached != page.url)
        else {
            return outcome;
        };
        let asker = Asker::of(workflow);
        let known = self.known.get(&asker.key(&reached)).await;
        let verdict = match known.as_ref().map(|known| &known.standing) {
            Some(Standing::Says(file)) => file.check(&asker.agent.token, reached.as_url()),
            _ => Ok(()),
        };
        let Err(pattern) = verdict else { return outcome };
        let message = format!("it leads to {reached}, and {}", disallowed(&pattern, &asker.agent));
        PageOutcome {
            final_url: outcome.final_url,
            rendered: outcome.rendered,
            contact: outcome.contact,
            bytes: outcome.bytes,
            received: outcome.received,
            ..PageOutcome::nothing(PageEnd::Skipped(Failure::new(ErrorClass::Robots, message)))
        }
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
        let asker = Asker::of(workflow);
        if workflow.sitemaps.from_robots && workflow.start_urls.contains(&page.url) {
            let known = self.known.get(&asker.key(&page.url)).await;
            outcome.discovered.extend(known.iter().flat_map(|known| known.named_sitemaps()));
        }
        let until = Instant::now() + LINKS_WITHIN;
        let mut last: Option<(String, Option<Arc<Known>>)> = None;
        for link in outcome.discovered.iter_mut().filter(|link| link.skipped.is_none() && !link.is_sitemap) {
            if Instant::now() > until {
                break;
            }
            let key = asker.key(&link.url);
            let known = match &last {
                Some((same, known)) if *same == key => known.clone(),
                _ => {
                    let known = self.known.get(&key).await;
                    last = Some((key, known.clone()));
                    known
                }
            };
            if let Some(Standing::Says(file)) = known.as_ref().map(|known| &known.standing)
                && let Err(pattern) = file.check(&asker.agent.token, link.url.as_url())
            {
                link.skipped = Some(Skip::new(SkipReason::Robots, disallowed(&pattern, &asker.agent)));
            }
        }
    }

    /// What is known of a page's origin, after asking for it if need be, which waits for the page's turn or a later one; and
    /// whether the site was asked just now, for this page.
    async fn learn(
        &self,
        page: &ClaimedPage,
        workflow: &Workflow,
        asker: &Asker,
        turns: &HostTurns,
        start_at: Instant,
    ) -> Result<(Arc<Known>, bool), PageEnd> {
        let key = asker.key(&page.url);
        if let Some(known) = self.known.get(&key).await {
            return Ok((known, false));
        }
        turns.come_near(page, start_at).await.map_err(|TooFar| PageEnd::Released)?;
        let outlet = self.http.outlet(page.execution_id, workflow.proxy.as_ref()).await;
        let outlet = outlet.map_err(PageEnd::Failed)?;
        let file = robots_file(&page.url);
        let until = Instant::now() + patience(page.host_delay);
        let entry = loop {
            let look_up = LookUp {
                store: self.store.clone(),
                page,
                turns,
                start_at,
                outlet: outlet.clone(),
                file: file.clone(),
                key: key.clone(),
                agent: asker.agent.clone(),
                tasks: self.tasks.clone(),
            };
            let entry = self.known.entry_by_ref(&key).or_try_insert_with(look_up.run().boxed());
            let error = match tokio::time::timeout_at(until, entry).await {
                Ok(Ok(entry)) => break entry,
                Ok(Err(error)) => error,
                // Longer than a fetch takes: it is the store that is away, and no fault of the page or its site.
                Err(_elapsed) => {
                    tracing::warn!(page.id = %page.page_id, url = %file, "nothing could be learnt of a robots file: the page goes back");
                    return Err(PageEnd::Released);
                }
            };
            match error.as_ref() {
                // What another crawl's page had no way to ask, this one's may have.
                NotKnown::NoWay(execution, _) if *execution != page.execution_id => {}
                NotKnown::NoWay(_, failure) => {
                    let message = format!("its robots.txt could not be asked for: {}", failure.message);
                    return Err(PageEnd::Failed(Failure::new(failure.class, message)));
                }
                // Also where another page was to ask: none of them would be sooner.
                NotKnown::TooFar => return Err(PageEnd::Released),
                NotKnown::Store(error) => {
                    tracing::error!(url = %file, error = %chain(error), "cannot look at a robots file");
                    let message = "its robots.txt could not be looked up";
                    return Err(PageEnd::Failed(Failure::new(ErrorClass::Internal, message)));
                }
            }
        };
        let is_ours = entry.is_fresh();
        let known = entry.into_value();
        let asked_now = is_ours && known.was_fetched;
        Ok((known, asked_now))
    }
}

/// How long a page waits for a robots file: another worker may wait for turns as well, and leave it to this one in the end.
fn patience(host_delay: Duration) -> Duration {
    PATIENCE + 2 * HostTurns::brief(host_delay)
}

/// Where the robots file of a page's origin is (RFC 9309, section 2.3).
fn robots_file(url: &PageUrl) -> Url {
    let mut file = url.as_url().clone();
    file.set_path("/robots.txt");
    file.set_query(None);
    file
}

fn is_same(written: &str, url: &PageUrl) -> bool {
    PageUrl::parse(written).is_ok_and(|written| written == *url)
}

fn disallowed(pattern: &str, agent: &Agent) -> String {
    const SHOWN: usize = 200;
    let shown: String = pattern.chars().take(SHOWN).collect();
    format!("robots.txt disallows it for `{}` (`Disallow: {shown}`)", agent.token)
}
