//! What goes through a gate beyond what its pages may load. Service workers and shared workers are no page's alone, and nobody is
//! charged for what they load; but a gate through which more goes than all its pages may load together has such a worker before
//! it. Only counts: what is done about it is the browser's business.

use std::sync::{Mutex, PoisonError};

use super::gate::PageBounds;
use super::traffic::Traffic;

/// A page is found out once it has loaded twice as much as it may, at the latest.
const MOST_OF_A_PAGE: u64 = 2;
/// Pages' worth that may be loaded by nobody; also for pages that are on their way when the count begins anew.
const SPARE_PAGES: u64 = 4;

/// The count of one gate. Written by whoever begins a page, and by whoever looks; locked for moments only.
#[derive(Debug, Default)]
pub(super) struct Surplus(Mutex<Since>);

/// Since it was too much for the last time.
#[derive(Debug, Default)]
struct Since {
    /// What had gone through by then.
    traffic: Traffic,
    /// Pages that began.
    pages: u64,
}

impl Surplus {
    /// A page begins, which may load its part.
    pub(super) fn page_begins(&self) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.pages += 1;
    }

    /// Whether so much has gone through `now` that its pages cannot have loaded it. If so, the count begins anew.
    pub(super) fn is_too_much(&self, now: Traffic, bounds: PageBounds) -> bool {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pages = since.pages.saturating_mul(MOST_OF_A_PAGE).saturating_add(SPARE_PAGES);
        let bytes = now.bytes_received.saturating_sub(since.traffic.bytes_received);
        let requests = (now.requests + now.records_sent)
            .saturating_sub(since.traffic.requests + since.traffic.records_sent);
        let is_too_much =
            bytes > bounds.bytes.saturating_mul(pages) || requests > bounds.requests.saturating_mul(pages);
        if is_too_much {
            *since = Since { traffic: now, pages: 0 };
        }
        is_too_much
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: PageBounds = PageBounds { bytes: 1_000, requests: 10 };

    fn received(bytes: u64) -> Traffic {
        Traffic { bytes_received: bytes, ..Traffic::default() }
    }

    #[test]
    fn what_pages_may_load_together_is_not_too_much_and_more_is_told_once() {
        let surplus = Surplus::default();
        for _ in 0..10 {
            surplus.page_begins();
        }
        assert!(!surplus.is_too_much(received(24_000), BOUNDS), "ten pages, and four that nobody began");
        assert!(surplus.is_too_much(received(24_001), BOUNDS));
        assert!(!surplus.is_too_much(received(28_001), BOUNDS), "it begins anew, without those pages");
        assert!(surplus.is_too_much(received(28_002), BOUNDS));
    }

    #[test]
    fn requests_count_as_well_in_plain_http_and_in_tunnels() {
        let surplus = Surplus::default();
        let traffic = |requests, records_sent| Traffic { requests, records_sent, ..Traffic::default() };
        assert!(!surplus.is_too_much(traffic(20, 20), BOUNDS));
        assert!(surplus.is_too_much(traffic(20, 21), BOUNDS));
    }
}
