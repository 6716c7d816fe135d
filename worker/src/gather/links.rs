//! The links that nodes find on a page, and what becomes of each: followed, or skipped for a reason.

use std::collections::HashSet;

use crawlify_shared::domain::outcome::DiscoveredUrl;
use crawlify_shared::domain::page_url::{MAX_URL_BYTES, PageUrl, PageUrlError};
use crawlify_shared::domain::skip::{Skip, SkipReason};
use serde_json::Value;

use super::Gathered;
use crate::program::At;

/// Of the links of one page beyond this number only the first is told of, as skipped.
pub(crate) const MAX_LINKS: usize = 50_000;

/// A link that a node found; a filter may drop it.
#[derive(Debug)]
pub(super) struct FoundLink<'p> {
    pub(super) found_by: At,
    pub(super) node_id: String,
    pub(super) url: PageUrl,
    /// The filter that dropped it.
    pub(super) dropped_by: Option<&'p str>,
    /// Why it is not followed, whatever filters say.
    pub(super) unfit: Option<Skip>,
}

impl Gathered<'_> {
    /// Resolves the links that a node found, and keeps them. One that leads to no page (mailto:, javascript: ...) is
    /// recorded as output, and goes no further.
    pub(super) fn find_links(&mut self, at: At, found: &Value) {
        let found = found.as_array().map(Vec::as_slice).unwrap_or_default();
        for (place, link) in found.iter().enumerate() {
            let Some(link) = link.as_str() else { continue };
            let (url, mut unfit) = match PageUrl::resolve(&self.base_url, link) {
                Ok(url) => (url, None),
                Err(PageUrlError::TooLong) => {
                    let Some((beginning, length)) = PageUrl::beginning_of(&self.base_url, link) else {
                        continue;
                    };
                    let detail = format!(
                        "the URL has {length} bytes, and one of more than {MAX_URL_BYTES} is never followed"
                    );
                    (beginning, Some(Skip::new(SkipReason::Trap, detail)))
                }
                Err(_) => continue,
            };
            let is_one_too_many = self.links.len() >= MAX_LINKS;
            if is_one_too_many {
                tracing::warn!(page.id = %self.page.page_id, MAX_LINKS, "the page has too many links");
                let after = found.len() - place - 1;
                let detail = format!(
                    "the page has more than {MAX_LINKS} links: this one and the {after} after it are not followed"
                );
                unfit = Some(Skip::new(SkipReason::Trap, detail));
            }
            let node_id = self.node(at).id.clone();
            self.links.push(FoundLink { found_by: at, node_id, url, dropped_by: None, unfit });
            if is_one_too_many {
                break;
            }
        }
    }
}

/// Each link once: followed where any node found it whose filters let it pass. Beyond the depth limit none is followed;
/// those that a phase of extraction found are known nevertheless.
pub(super) fn judged(links: Vec<FoundLink<'_>>, depth: u32, max_depth: Option<u32>) -> Vec<DiscoveredUrl> {
    let is_kept = |link: &FoundLink<'_>| link.dropped_by.is_none() && link.unfit.is_none();
    let (kept, dropped): (Vec<_>, Vec<_>) = links.into_iter().partition(is_kept);
    let too_deep = max_depth.filter(|limit| depth >= *limit).map(|limit| {
        let detail = format!("it lies at depth {}, and links are followed to depth {limit}", depth + 1);
        Skip::new(SkipReason::Depth, detail)
    });
    let mut seen = HashSet::new();
    let links = kept.into_iter().chain(dropped).filter(|link| seen.insert(link.url.hash()));
    let judged = links.map(|link| DiscoveredUrl {
        url: link.url,
        discovered_by: link.node_id,
        is_sitemap: false,
        skipped: match link.dropped_by {
            Some(filter) => Some(Skip::new(SkipReason::Scope, format!("the filter `{filter}` dropped it"))),
            None => link.unfit.or_else(|| too_deep.clone()),
        },
    });
    judged.collect()
}
