//! Sitemaps: pages of the frontier that are downloaded without a tab, and whose URLs become links at depth 0, as far as they
//! lead to hosts that the workflow names.
//!
//! What a sitemap holds in memory is what it names, at most 50,000 URLs, and only a few are read at a time. Knows
//! nothing about stores and brokers.

mod download;
mod parse;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::domain::outcome::{DiscoveredUrl, ErrorClass, Failure, PageEnd, PageOutcome, Rendered};
use crawlify_shared::domain::page::ClaimedPage;
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::skip::{Skip, SkipReason};
use crawlify_shared::domain::workflow::Workflow;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use download::{Absent, download};
use parse::{MAX_URLS, Named, parse};

use crate::http::{Http, bare};
use crate::page::host_turns::HostTurns;
use crate::page::redirects::Redirects;

/// Sitemaps that a worker has in memory at once: each may name 50,000 URLs.
const AT_ONCE: usize = 2;
/// How long a sitemap waits for another one to be done with.
const FREE_WITHIN: Duration = Duration::from_secs(15);
/// Indexes above a sitemap. The protocol knows one; some sites have more.
const MAX_INDEXES: u32 = 3;
/// Who found the links of a sitemap, as nodes are named.
const DISCOVERED_BY: &str = "sitemap";

/// Room in memory for one sitemap, until this is dropped.
#[derive(Debug)]
pub(crate) struct Turn(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

/// Reads sitemaps.
#[derive(Debug)]
pub(crate) struct Sitemaps {
    http: Arc<Http>,
    turns: Arc<Semaphore>,
}

impl Sitemaps {
    /// Makes a reader of sitemaps.
    pub(crate) fn new(http: Arc<Http>) -> Self {
        Self { http, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Waits until there is room in memory for another sitemap; `None` if that takes too long.
    pub(crate) async fn turn(&self) -> Option<Turn> {
        let permit = Arc::clone(&self.turns).acquire_owned();
        // The semaphore is never closed.
        tokio::time::timeout(FREE_WITHIN, permit).await.ok()?.ok().map(Turn)
    }

    /// Reads a sitemap. What it named before it broke off is in the outcome of a failure as well. The deadline is put off by as
    /// long as its redirects wait for their turns, and a slow store keeps them.
    pub(crate) async fn read(
        &self,
        page: &ClaimedPage,
        workflow: &Workflow,
        turns: &HostTurns,
        deadline: Instant,
    ) -> PageOutcome {
        let patience = HostTurns::brief(page.host_delay);
        let redirects = Redirects::of(turns, page, patience);
        let reading = async {
            let outlet = self.http.outlet(page.execution_id, workflow.proxy.as_ref()).await?;
            let download = download(&outlet, page.url.as_url(), workflow, redirects, deadline).await?;
            Ok::<_, Absent>((download.final_url, parse(download.document).await))
        };
        let ends_by = deadline + Redirects::longest(patience);
        let mut outcome = match tokio::time::timeout_at(ends_by, reading).await {
            Ok(Ok((final_url, named))) => {
                let mut outcome = outcome(page, named, &hosts(workflow));
                outcome.final_url = Some(final_url.to_string());
                outcome
            }
            Ok(Err(Absent { failure, back_off })) => {
                let mut outcome = PageOutcome::failed(failure);
                outcome.contact.back_off = back_off;
                outcome
            }
            Err(_elapsed) => {
                PageOutcome::failed(Failure::new(ErrorClass::NavTimeout, "the sitemap was not read in time"))
            }
        };
        outcome.rendered = Rendered::Static;
        outcome
    }
}

/// The hosts that a sitemap may speak for: those that the workflow names. A robots file, which is that of a start URL, may name a
/// sitemap on another host, which then speaks for its own (<https://www.sitemaps.org/protocol.html>, on cross submits), and a
/// redirect may lead to one. That other host is not crawled for it: whoever runs a site could send crawls anywhere.
fn hosts(workflow: &Workflow) -> HashSet<String> {
    let named = workflow.start_urls.iter().chain(&workflow.sitemaps.urls);
    named.map(|url| bare(url.host()).to_owned()).collect()
}

fn outcome(page: &ClaimedPage, named: Named, hosts: &HashSet<String>) -> PageOutcome {
    let (found, unusable, bytes) = (named.pages.len() + named.sitemaps.len(), named.unusable, named.bytes);
    let is_too_deep = page.depth >= MAX_INDEXES && !named.sitemaps.is_empty();
    let mut seen = HashSet::new();
    let (mut foreign, mut discovered) = (0, Vec::with_capacity(found.min(MAX_URLS)));
    let sitemaps = named.sitemaps.into_iter().map(|url| (url, true));
    let pages = named.pages.into_iter().map(|url| (url, false));
    for (url, is_sitemap) in pages.chain(sitemaps).filter(|(url, _)| seen.insert(url.hash())) {
        // An index and its sitemaps are one map, wherever that lies.
        let is_part = is_sitemap && bare(url.host()) == bare(page.url.host());
        let is_foreign = !is_part && !hosts.contains(bare(url.host()));
        foreign += usize::from(is_foreign);
        let skipped = if is_foreign {
            Some(Skip::new(
                SkipReason::Scope,
                "a sitemap speaks for the hosts of the workflow's start URLs and sitemaps",
            ))
        } else if is_sitemap && is_too_deep {
            Some(Skip::new(
                SkipReason::Depth,
                format!("sitemaps below more than {MAX_INDEXES} indexes are not read"),
            ))
        } else {
            None
        };
        discovered.push(link(url, is_sitemap, skipped));
    }
    if let Some(url) = named.one_too_many.filter(|url| seen.insert(url.hash())) {
        let detail = format!(
            "the sitemap names more than {MAX_URLS} URLs, which is all that one may: this one and those after it are not read"
        );
        discovered.push(link(url, false, Some(Skip::new(SkipReason::Trap, detail))));
    }
    tracing::debug!(page.id = %page.page_id, found, foreign, unusable, "a sitemap was read");
    let not_a_page = |message: String| Some(Failure::new(ErrorClass::NotAPage, message));
    let failure = if let Some(broken) = named.broken {
        let message =
            format!("the sitemap was read only in part, and named {found} URLs: {}", broken.message);
        Some(Failure { message, ..broken })
    } else if is_too_deep {
        not_a_page(format!("its sitemaps lie below more than {MAX_INDEXES} indexes and are not read"))
    } else if found == 0 && unusable > 0 {
        not_a_page(format!("none of the {unusable} entries of the sitemap is the URL of a page"))
    } else if found > 0 && foreign == seen.len() {
        not_a_page(format!(
            "all of the sitemap's URLs lead to other hosts: name a start URL of the host that is meant ({foreign} URLs)"
        ))
    } else {
        None
    };
    let end = failure.map_or(PageEnd::Completed, PageEnd::Failed);
    PageOutcome { discovered, bytes, ..PageOutcome::nothing(end) }
}

fn link(url: PageUrl, is_sitemap: bool, skipped: Option<Skip>) -> DiscoveredUrl {
    DiscoveredUrl { url, discovered_by: DISCOVERED_BY.to_owned(), skipped, is_sitemap }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::Uri;
    use axum::response::{IntoResponse, Redirect};
    use crawlify_shared::domain::workflow::parse_config;
    use serde_json::json;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;
    use crate::egress::{Egress, EgressOptions};
    use crate::page::sample::{claimed_page, silent_host_turns};

    fn page(depth: u32) -> ClaimedPage {
        ClaimedPage { depth, is_sitemap: true, ..claimed_page("http://a.test/sitemap.xml") }
    }

    fn url(url: &str) -> PageUrl {
        PageUrl::parse(url).unwrap()
    }

    fn read(depth: u32, pages: &[&str], sitemaps: &[&str]) -> PageOutcome {
        let urls = |urls: &[&str]| urls.iter().map(|text| url(text)).collect();
        let named = Named { pages: urls(pages), sitemaps: urls(sitemaps), ..Named::default() };
        outcome(&page(depth), named, &HashSet::from(["a.test".to_owned()]))
    }

    #[test]
    fn a_sitemap_speaks_for_its_own_site() {
        let read =
            read(0, &["http://a.test/1", "https://www.a.test/2", "http://b.test/", "http://a.test/1"], &[]);
        assert_eq!(read.end, PageEnd::Completed);
        let skipped: Vec<_> = read.discovered.iter().map(|link| link.skipped.is_some()).collect();
        assert_eq!(skipped, [false, false, true], "each URL once, the foreign one with its reason");
    }

    #[test]
    fn one_on_another_host_speaks_for_those_that_the_workflow_names_and_not_for_its_own() {
        let elsewhere = ClaimedPage { is_sitemap: true, ..claimed_page("https://www.maps.test/s.xml") };
        let named = Named {
            pages: ["https://a.test/1", "https://maps.test/", "https://b.test/"].map(url).to_vec(),
            sitemaps: ["https://maps.test/1.xml", "https://b.test/1.xml"].map(url).to_vec(),
            ..Named::default()
        };
        let config = json!({
            "start_urls": ["https://www.a.test/"],
            "data_extraction": [{"id": "t", "type": "extract", "params": {"selector": "h1"}}],
        });
        let read = outcome(&elsewhere, named, &hosts(&parse_config(&config).unwrap()));
        assert_eq!(read.end, PageEnd::Completed);
        let kept = read.discovered.iter().filter(|link| link.skipped.is_none());
        let kept: Vec<_> = kept.map(|link| (link.url.as_str(), link.is_sitemap)).collect();
        assert_eq!(kept, [("https://a.test/1", false), ("https://maps.test/1.xml", true)]);
        let mut reasons = read.discovered.iter().filter_map(|link| link.skipped.as_ref());
        assert!(reasons.all(|skip| skip.reason == SkipReason::Scope));
        assert_eq!(read.discovered.len(), 5, "none is lost without a word");
    }

    #[test]
    fn one_that_speaks_only_for_others_says_what_to_do() {
        let PageEnd::Failed(failure) = read(0, &["http://b.test/", "http://c.test/"], &[]).end else {
            panic!()
        };
        assert!(failure.message.contains("name a start URL"), "{}", failure.message);
    }

    #[tokio::test]
    async fn the_slowness_of_our_store_is_no_fault_of_the_site() {
        let answer = async |uri: Uri| match uri.path().trim_start_matches('/').parse() {
            Ok(0_u32) => "<urlset><url><loc>http://127.0.0.1/1</loc></url></urlset>".into_response(),
            Ok(further) => Redirect::to(&format!("/{}", further - 1)).into_response(),
            Err(_) => unreachable!("{uri}"),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/4", listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });
        let config = json!({
            "start_urls": [url],
            "data_extraction": [{"id": "t", "type": "extract", "params": {"selector": "h1"}}],
        });
        // Its redirects lead to another host, so that each is to be counted, for which the store would take five seconds.
        let page = ClaimedPage { host: "a.test".to_owned(), is_sitemap: true, ..claimed_page(&url) };
        let (turns, _store) = silent_host_turns();
        let http = Http::new(Egress::start(EgressOptions::off()).unwrap()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(15);
        let workflow = parse_config(&config).unwrap();
        let read = Sitemaps::new(Arc::new(http)).read(&page, &workflow, &turns, deadline).await;
        assert_eq!(read.end, PageEnd::Completed);
        assert_eq!(read.discovered.len(), 1);
    }

    #[test]
    fn the_first_url_beyond_what_a_sitemap_may_name_stands_for_those_after_it() {
        let named = Named {
            pages: vec![url("http://a.test/1")],
            one_too_many: Some(url("http://a.test/2")),
            broken: Some(Failure::new(ErrorClass::NotAPage, "it names more than it may")),
            ..Named::default()
        };
        let read = outcome(&page(0), named, &HashSet::from(["a.test".to_owned()]));
        let last = read.discovered.last().unwrap();
        assert_eq!(last.url.as_str(), "http://a.test/2");
        assert!(last.skipped.as_ref().unwrap().detail.contains("those after it"));
    }

    #[test]
    fn indexes_lead_no_deeper_than_they_may() {
        assert_eq!(read(MAX_INDEXES - 1, &[], &["http://a.test/1.xml"]).end, PageEnd::Completed);
        let deep = read(MAX_INDEXES, &["http://a.test/1"], &["http://a.test/2.xml"]);
        assert!(
            matches!(&deep.end, PageEnd::Failed(failure) if failure.message.contains("below more than 3"))
        );
        let skipped: Vec<_> =
            deep.discovered.iter().map(|link| link.skipped.as_ref().map(|skip| skip.reason)).collect();
        assert_eq!(skipped, [None, Some(SkipReason::Depth)], "its pages count, its sitemap is accounted for");
    }
}
