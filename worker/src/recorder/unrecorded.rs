//! What the recorder has in its hands, and since when: pages that were executed, and that the database has not taken yet. The
//! heartbeat names those that have waited for long, so that nobody takes them away or charges them for that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crawlify_shared::store::hot::UnrecordedPage;
use tokio::time::Instant;

/// Pages that wait to be recorded. Written by who has one recorded, read by the heartbeat; locked for moments only.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unrecorded(Arc<Mutex<Pages>>);

/// By number, so in the order in which they came.
#[derive(Debug, Default)]
struct Pages {
    next_number: u64,
    waiting: BTreeMap<u64, (UnrecordedPage, Instant)>,
}

/// That a page waits, until this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting {
    number: u64,
    among: Unrecorded,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.among.lock().waiting.remove(&self.number);
    }
}

impl Unrecorded {
    /// Notes that a page waits from now on.
    pub(crate) fn add(&self, page: UnrecordedPage) -> Waiting {
        let mut pages = self.lock();
        let number = pages.next_number;
        pages.next_number += 1;
        pages.waiting.insert(number, (page, Instant::now()));
        Waiting { number, among: self.clone() }
    }

    /// Those that have waited for longer than this, the longest first.
    pub(crate) fn for_longer_than(&self, wait: Duration) -> Vec<UnrecordedPage> {
        let pages = self.lock();
        let long = pages.waiting.values().take_while(|(_, since)| since.elapsed() > wait);
        long.map(|(page, _)| *page).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use crate::page::sample::claimed_page;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pages_are_named_in_their_order_once_they_have_waited_for_long_and_until_they_are_recorded() {
        const LONG: Duration = Duration::from_secs(5);
        let unrecorded = Unrecorded::default();
        let [first, second] =
            ["http://shop.test/1", "http://shop.test/2"].map(|url| UnrecordedPage::from(&claimed_page(url)));
        let one = unrecorded.add(first);
        tokio::time::advance(LONG / 2).await;
        let other = unrecorded.add(second);
        assert_eq!(unrecorded.for_longer_than(LONG), []);
        tokio::time::advance(LONG / 2 + Duration::from_millis(1)).await;
        assert_eq!(unrecorded.for_longer_than(LONG), [first]);
        tokio::time::advance(LONG).await;
        assert_eq!(unrecorded.for_longer_than(LONG), [first, second]);
        // The same attempt twice is there until both are through.
        let again = unrecorded.add(second);
        drop((one, other));
        tokio::time::advance(2 * LONG).await;
        assert_eq!(unrecorded.for_longer_than(LONG), [second]);
        drop(again);
        assert_eq!(unrecorded.for_longer_than(LONG), []);
    }
}
