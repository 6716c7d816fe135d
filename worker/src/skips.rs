//! Which skipped links are reported: each URL of an execution about once. Each time one is found it is counted in the metrics.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::outcome::DiscoveredUrl;
use crawlify_shared::domain::skip::SkipReason;
use lru::LruCache;

use crate::gather::MAX_LINKS;

/// Executions that are remembered.
const EXECUTIONS: NonZeroUsize = NonZeroUsize::new(16).expect("it is not zero");
/// Reported URLs of one execution that are remembered, as many as one page may have. A site has the same menu on every page; what is
/// forgotten is sent once more, and the store knows it.
const URLS: NonZeroUsize = NonZeroUsize::new(MAX_LINKS + 1).expect("it is not zero");

/// What stands for a URL.
pub(crate) type Hash = [u8; 16];

/// What this worker has reported of its executions.
#[derive(Debug)]
pub(crate) struct Skips {
    /// Locked for moments only, by pages that have ended.
    reported: Mutex<Reported>,
    /// Raised by the store whenever another server may be there, which may lack the last of what was written.
    generation: Arc<AtomicU64>,
}

/// What was written, as far as that is known of the server of a generation.
#[derive(Debug)]
struct Reported {
    generation: u64,
    executions: LruCache<ExecutionId, LruCache<Hash, ()>>,
}

impl Skips {
    pub(crate) fn new(generation: Arc<AtomicU64>) -> Self {
        let executions = LruCache::new(EXECUTIONS);
        Self { reported: Mutex::new(Reported { generation: 0, executions }), generation }
    }

    /// What is selected from now on is for this generation of the store, or a later one.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Leaves those of a page's skipped links that are to be reported, and answers their hashes. Tells `count` of every
    /// skipped one.
    pub(crate) fn select(
        &self,
        execution: ExecutionId,
        links: &mut Vec<DiscoveredUrl>,
        mut count: impl FnMut(SkipReason),
    ) -> Vec<Hash> {
        let mut selected = Vec::new();
        if links.iter().all(|link| link.skipped.is_none()) {
            return selected;
        }
        let mut reported = self.lock();
        let reported = of(&mut reported.executions, execution);
        links.retain(|link| {
            let Some(skip) = &link.skipped else { return true };
            count(skip.reason);
            let hash = link.url.hash();
            let is_new = reported.get(&hash).is_none();
            if is_new {
                selected.push(hash);
            }
            is_new
        });
        selected
    }

    /// Notes that links were written that were selected in this generation of the store, or later. Before that they
    /// count as not reported, as the page may be executed once more; and so they do where another server may be there
    /// since.
    pub(crate) fn were_written(&self, execution: ExecutionId, generation: u64, hashes: Vec<Hash>) {
        if hashes.is_empty() {
            return;
        }
        let mut reported = self.lock();
        if reported.generation != generation {
            return;
        }
        let reported = of(&mut reported.executions, execution);
        for hash in hashes {
            reported.put(hash, ());
        }
    }

    /// What is known of the server that is there.
    fn lock(&self) -> MutexGuard<'_, Reported> {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = self.generation();
        if reported.generation != generation {
            reported.generation = generation;
            reported.executions.clear();
        }
        reported
    }
}

fn of(
    executions: &mut LruCache<ExecutionId, LruCache<Hash, ()>>,
    execution: ExecutionId,
) -> &mut LruCache<Hash, ()> {
    // Not `LruCache::new`, which takes the memory for all of it at once.
    executions.get_or_insert_mut(execution, || {
        let mut urls = LruCache::unbounded();
        urls.resize(URLS);
        urls
    })
}

#[cfg(test)]
mod tests {
    use crawlify_shared::domain::page_url::PageUrl;
    use crawlify_shared::domain::skip::Skip;

    use super::*;

    fn links(count: usize) -> Vec<DiscoveredUrl> {
        let link = |number| DiscoveredUrl {
            url: PageUrl::parse(&format!("https://other.test/{number}")).unwrap(),
            discovered_by: "links".to_owned(),
            is_sitemap: false,
            skipped: (number > 0).then(|| Skip::new(SkipReason::Scope, "a filter dropped it")),
        };
        (0..count).map(link).collect()
    }

    #[test]
    fn a_page_reports_all_of_its_skipped_links_and_all_are_counted() {
        let (skips, execution) = (Skips::new(Arc::default()), ExecutionId::generate());
        let (mut found, mut counted) = (links(1_501), 0);
        let selected = skips.select(execution, &mut found, |_| counted += 1);
        assert_eq!((selected.len(), found.len(), counted), (1_500, 1_501, 1_500));
    }

    #[test]
    fn a_menu_of_as_many_links_as_a_page_may_have_is_reported_once() {
        let (skips, execution) = (Skips::new(Arc::default()), ExecutionId::generate());
        let selected = skips.select(execution, &mut links(MAX_LINKS + 1), |_| ());
        assert_eq!(selected.len(), MAX_LINKS);
        skips.were_written(execution, 0, selected);
        assert_eq!(skips.select(execution, &mut links(MAX_LINKS + 1), |_| ()).len(), 0);
    }

    #[test]
    fn what_was_written_is_not_reported_again_and_what_was_not_is() {
        let (skips, execution) = (Skips::new(Arc::default()), ExecutionId::generate());
        let select = || skips.select(execution, &mut links(5), |_| ());
        assert_eq!(select().len(), 4);
        let selected = select();
        assert_eq!(selected.len(), 4, "nothing was written");
        skips.were_written(execution, 0, selected);
        assert!(select().is_empty());
        let another = skips.select(ExecutionId::generate(), &mut links(5), |_| ());
        assert_eq!(another.len(), 4, "another execution");
    }

    #[test]
    fn where_another_server_may_be_there_everything_is_reported_again() {
        let (generation, execution) = (Arc::<AtomicU64>::default(), ExecutionId::generate());
        let skips = Skips::new(Arc::clone(&generation));
        let select = || skips.select(execution, &mut links(5), |_| ());
        let before = skips.generation();
        skips.were_written(execution, before, select());
        assert!(select().is_empty());
        generation.fetch_add(1, Ordering::Relaxed);
        let selected = select();
        assert_eq!(selected.len(), 4, "that server may not have them");
        skips.were_written(execution, before, selected);
        let selected = select();
        assert_eq!(selected.len(), 4, "nobody knows which of both has what was selected before");
        skips.were_written(execution, skips.generation(), selected);
        assert!(select().is_empty());
    }
}
