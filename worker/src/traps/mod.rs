//! Traps: parts of a site that have no end. Judges the links that pages give, by what this worker has seen of their
//! execution; a link that leads into a trap is skipped, with a sentence that says why.
//!
//! Knows nothing about stores and brokers. What it remembers is bounded, and each worker remembers for itself, so a
//! trap is found once by each. The numbers are the workflow's ([`Rules`]).

mod calendar;
mod content;
mod dates;
mod distinct;
mod given;
mod path;
mod query;
#[cfg(test)]
mod sample;

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use chrono::{NaiveDate, Utc};
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::outcome::{NodeEnd, PageEnd, PageOutcome};
use crawlify_shared::domain::page::ClaimedPage;
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::skip::{Skip, SkipReason};
use crawlify_shared::domain::url_shape::shape;
use crawlify_shared::domain::workflow::Traps as Rules;
use lru::LruCache;
use serde_json::Value;

use crate::program::Program;
use calendar::Calendars;
use content::Contents;
use given::Given;
use query::Queries;

/// Executions that are remembered; an older one starts anew.
const EXECUTIONS: NonZeroUsize = NonZeroUsize::new(64).expect("it is not zero");
/// So many links of a page are judged before another page may judge its own.
const LINKS_AT_ONCE: usize = 256;

/// What this worker has seen of its executions.
#[derive(Debug)]
pub(crate) struct Traps {
    /// Locked for moments only, by the page that has ended.
    executions: Mutex<LruCache<ExecutionId, Seen>>,
}

/// What was seen of one execution.
#[derive(Debug)]
struct Seen {
    calendars: Calendars,
    queries: Queries,
    contents: Contents,
}

impl Traps {
    pub(crate) fn new() -> Self {
        Self { executions: Mutex::new(LruCache::new(EXECUTIONS)) }
    }

    /// Takes a page in, and marks those of its links as skipped that lead into a trap. What a sitemap names has an end, and
    /// the site has listed it to be crawled.
    pub(crate) fn judge(&self, page: &ClaimedPage, program: &Program, outcome: &mut PageOutcome) {
        let rules = &program.workflow.traps;
        if outcome.end != PageEnd::Completed || page.is_sitemap || *rules == Rules::OFF {
            return;
        }
        // What does not need the lock comes before it: a page may have thousands of links.
        let given = rules.identical_pages.and_then(|_| Given::of(values(program, outcome)));
        let page_shape = shape(&page.url);
        let today = Utc::now().date_naive();
        let skip = |why| Skip::new(SkipReason::Trap, why);
        let mut links: Vec<_> = outcome.discovered.iter_mut().filter(|link| link.skipped.is_none()).collect();
        for link in &mut links {
            link.skipped = by_itself(&link.url, rules).map(skip);
        }
        if rules.identical_pages.is_some() {
            self.with_seen(page.execution_id, |seen| seen.contents.see(&page_shape, given, rules.similarity));
        }
        // Other pages may have the lock between.
        for links in links.chunks_mut(LINKS_AT_ONCE) {
            self.with_seen(page.execution_id, |seen| {
                for link in links.iter_mut().filter(|link| link.skipped.is_none()) {
                    link.skipped = seen.judge(&link.url, rules, today).map(skip);
                }
            });
        }
    }

    fn with_seen(&self, execution: ExecutionId, work: impl FnOnce(&mut Seen)) {
        let mut executions = self.executions.lock().unwrap_or_else(PoisonError::into_inner);
        work(executions.get_or_insert_mut(execution, Seen::new));
    }
}

/// Why a link leads into a trap, if its URL alone shows it.
fn by_itself(url: &PageUrl, rules: &Rules) -> Option<String> {
    let overlong = rules.max_url_length.and_then(|most| path::overlong(url, most));
    overlong.or_else(|| rules.repeated_segments.and_then(|most| path::repeated(url, most)))
}

impl Seen {
    fn new() -> Self {
        Self { calendars: Calendars::new(), queries: Queries::new(), contents: Contents::new() }
    }

    /// Takes a link in, and says why it leads into a trap, if what was seen before shows it.
    fn judge(&mut self, url: &PageUrl, rules: &Rules, today: NaiveDate) -> Option<String> {
        self.calendars.judge(url, rules, today).or_else(|| self.queries.judge(url, rules)).or_else(|| {
            rules.identical_pages.and_then(|most| self.contents.judge(&shape(url), most, rules.similarity))
        })
    }
}

/// What the page's `extract` nodes gave, with their positions. Links are left out: menus are the same everywhere.
fn values<'o>(program: &'o Program, outcome: &'o PageOutcome) -> impl Iterator<Item = (u16, &'o Value)> {
    outcome.nodes.iter().filter_map(|record| {
        let definition = program.table.nodes.get(usize::from(record.position))?;
        match &record.end {
            NodeEnd::Completed(output) if definition.node_type == "extract" => {
                Some((record.position, output))
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use crawlify_shared::domain::outcome::{DiscoveredUrl, NodeRecord};
    use crawlify_shared::domain::workflow::parse_config;
    use serde_json::json;

    use super::*;
    use crate::page::sample::claimed_page;

    #[test]
    fn links_of_pages_are_judged_and_what_a_sitemap_names_is_not() {
        let url = |text: &str| PageUrl::parse(text).unwrap();
        let workflow = parse_config(&json!({
            "start_urls": ["https://site.test/"],
            "url_discovery": [{"id": "links", "type": "extract_links", "params": {"selector": "a"}}],
        }));
        let program = Program::compile(workflow.unwrap());
        for is_sitemap in [false, true] {
            let page = ClaimedPage { is_sitemap, ..claimed_page("https://site.test/") };
            let links = ["https://site.test/a", "https://site.test/a/a/a"].map(|link| DiscoveredUrl {
                url: url(link),
                discovered_by: "links".to_owned(),
                skipped: None,
                is_sitemap: false,
            });
            let mut outcome =
                PageOutcome { discovered: links.to_vec(), ..PageOutcome::nothing(PageEnd::Completed) };
            Traps::new().judge(&page, &program, &mut outcome);
            let skipped: Vec<_> = outcome.discovered.iter().map(|link| link.skipped.is_some()).collect();
            assert_eq!(skipped, [false, !is_sitemap]);
        }
    }

    #[test]
    fn what_extract_nodes_give_is_compared_by_the_rules_of_the_workflow() {
        let text: String = (0..40).map(|number| format!("word{number} ")).collect();
        for (similarity, is_trap) in [(0.9, true), (0.98, false)] {
            let workflow = parse_config(&json!({
                "start_urls": ["https://site.test/"],
                "traps": {"identical_pages": 3, "similarity": similarity},
                "data_extraction": [
                    {"id": "text", "type": "extract", "params": {"selector": "main"}, "output_key": "text"}
                ],
            }));
            let (program, traps) = (Program::compile(workflow.unwrap()), Traps::new());
            let first = claimed_page("https://site.test/day/1");
            let skipped = [1_000_001, 1_000_002, 1_000_003].map(|visitor| {
                let end = NodeEnd::Completed(json!(format!("{text} visitor {visitor}")));
                let (started_at, completed_at) = (first.claimed_at, first.claimed_at);
                let link = DiscoveredUrl {
                    url: PageUrl::parse("https://site.test/day/2").unwrap(),
                    discovered_by: "links".to_owned(),
                    skipped: None,
                    is_sitemap: false,
                };
                let mut outcome = PageOutcome {
                    nodes: vec![NodeRecord { position: 0, started_at, completed_at, end, retries: 0 }],
                    discovered: vec![link],
                    ..PageOutcome::nothing(PageEnd::Completed)
                };
                traps.judge(&first, &program, &mut outcome);
                outcome.discovered[0].skipped.is_some()
            });
            assert_eq!(skipped, [false, false, is_trap], "{similarity}");
        }
    }

    /// Why which of the URLs are traps by the default rules.
    fn traps(urls: impl IntoIterator<Item = String>) -> Vec<String> {
        let (mut seen, rules) = (Seen::new(), Rules::default());
        let today = NaiveDate::from_ymd_opt(2026, 6, 15).unwrap();
        let judged = urls.into_iter().filter_map(|url| {
            let parsed = PageUrl::parse(&url).unwrap();
            let why = by_itself(&parsed, &rules).or_else(|| seen.judge(&parsed, &rules, today));
            why.map(|why| format!("{url}: {why}"))
        });
        judged.collect()
    }

    #[test]
    fn the_urls_of_ordinary_sites_are_no_traps() {
        let books = (1..=1_000)
            .map(|n| format!("https://books.toscrape.com/catalogue/a-book-of-{n}-pages_{n}/index.html"))
            .chain((1..=50).map(|n| format!("https://books.toscrape.com/catalogue/page-{n}.html")))
            .chain((2..=51).map(|n| {
                format!("https://books.toscrape.com/catalogue/category/books/genre-{n}_{n}/page-2.html")
            }));
        assert_eq!(traps(books), [""; 0], "a book shop");
        let shop = (0..10_000)
            .map(|n| format!("https://shop.test/de/damen/schuhe/p{n}?farbe={}&groesse={}", n % 7, n % 12));
        let lists =
            (0..10_000).map(|n| format!("https://shop.test/de/damen/schuhe/?page={n}&utm_source=menu"));
        assert_eq!(traps(shop.chain(lists)), [""; 0], "a shop");
        let news = (0..10_000).map(|n| {
            let (year, month, day) = (2010 + n / 700, n % 12 + 1, n % 28 + 1);
            format!("https://news.test/politics/{year}/{month:02}/{day:02}/a-headline-of-the-day-{n}.html")
        });
        assert_eq!(traps(news), [""; 0], "a newspaper");
        let forum = (0..10_000).flat_map(|n| {
            [
                format!(
                    "https://forum.test/viewtopic.php?f={}&t={n}&sid=0123456789abcdef0123456789abcdef",
                    n % 40
                ),
                format!("https://forum.test/threads/a-question-about-{n}.{n}/page-{}", n % 30 + 2),
                format!("https://forum.test/topic/{n}/{}", n % 13 + 1),
                format!("https://forum.test/memberlist.php?mode=viewprofile&u={n}"),
            ]
        });
        assert_eq!(traps(forum), [""; 0], "a forum");
        let wiki = (0..10_000).map(|n| format!("https://wiki.test/wiki/Category:Towns/Towns_of_{n}/Towns"));
        assert_eq!(traps(wiki), [""; 0], "a wiki");
    }

    #[test]
    fn endless_urls_are_traps() {
        assert_eq!(traps(["https://site.test/a/news/news/news".to_owned()]).len(), 1);
        assert_eq!(traps([format!("https://site.test/{}", "x".repeat(3_000))]).len(), 1);
        let calendar = (2026..2126).map(|year| format!("https://site.test/calendar/{year}/05"));
        assert_eq!(traps(calendar).len(), 97, "two years ahead are no trap");
        let sessions = (0..150).map(|n| format!("https://site.test/?sid=0123456789abcdef{n:016x}"));
        assert_eq!(traps(sessions).len(), 100);
    }
}
