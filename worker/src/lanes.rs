//! Where pages are executed: a few slots, each with a tab, and many places for pages that are read without being rendered.
//!
//! A page comes in holding a slot. One that goes static gives the slot up for a place, so that the next page can come.
//! How many pages the worker takes follows from what it sees: only while there are static pages are there so many.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

/// Places for static pages for each slot: they wait for the network most of the time.
const PLACES_PER_SLOT: usize = 8;
/// Pages for so long are to wait in the broker's queue: longer than a dispatcher needs to find others, and no longer than
/// needed, as whatever is dispatched later waits for all of them.
const AHEAD: Duration = Duration::from_millis(250);
/// Of the time of the last page so much counts in the average: a quarter of the last eight or so is of the last one.
const WEIGHT: f64 = 0.125;
/// After so long without a static page, places are no longer counted on.
const STATIC_PATIENCE: Duration = Duration::from_secs(10);

/// The slots and places of a worker. Every page takes from them.
#[derive(Debug)]
pub(crate) struct Lanes {
    slots: usize,
    /// One for each page that came in and has not gone static. There are some more than tabs: the next page is claimed
    /// while others load, so that a tab has it at once.
    entries: Arc<Semaphore>,
    /// One for each page that uses a tab. Not the same as an entry: the consumer holds one while it waits for a page,
    /// and a static page that needs a tab after all must not wait for that.
    tabs: Arc<Semaphore>,
    places: Arc<Semaphore>,
    last_static: Mutex<Option<Instant>>,
    capacity: watch::Sender<usize>,
    /// Whether there is a slot without a page. Written by the consumer.
    is_hungry: AtomicBool,
    /// How long pages are executed, in microseconds: a moving average, 0 before the first one. Written by every page that ends.
    page_us: AtomicU64,
}

/// A page's right to be executed.
#[derive(Debug)]
pub(crate) struct Slot {
    lanes: Arc<Lanes>,
    /// The entry, later a place.
    held: Option<OwnedSemaphorePermit>,
}

impl Lanes {
    /// Makes the lanes of a worker with so many slots.
    pub(crate) fn new(slots: usize) -> Arc<Self> {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Arc::new(Self {
            slots,
            entries: semaphore(slots + slots.div_ceil(2)),
            tabs: semaphore(slots),
            places: semaphore(slots * PLACES_PER_SLOT),
            last_static: Mutex::new(None),
            capacity: watch::Sender::new(slots),
            is_hungry: AtomicBool::new(false),
            page_us: AtomicU64::new(0),
        })
    }

    /// Waits for a free slot.
    pub(crate) async fn enter(self: &Arc<Self>) -> Slot {
        Slot { lanes: Arc::clone(self), held: permit(&self.entries).await }
    }

    /// How many pages are executed at once, as things are, and when that changes.
    pub(crate) fn capacity(&self) -> watch::Receiver<usize> {
        self.capacity.subscribe()
    }

    /// Notes how long a page was executed, its wait for its host's turn left out.
    pub(crate) fn note_page(&self, took: Duration) {
        let took = took.as_micros() as f64;
        // Of two that end at the same moment one may be lost.
        let average = match self.page_us.load(Ordering::Relaxed) {
            0 => took,
            average => average as f64 * (1.0 - WEIGHT) + took * WEIGHT,
        };
        self.page_us.store((average as u64).max(1), Ordering::Relaxed);
    }

    /// How many pages should be under way for this worker: those that it executes at once, and those of the next
    /// quarter of a second, half as many as the first at least and three times as many, or 14, at most.
    pub(crate) fn wants(&self) -> usize {
        let capacity = *self.capacity.borrow();
        let most = (3 * capacity).max(14);
        let ahead = match self.page_us.load(Ordering::Relaxed) {
            0 => most,
            average => (capacity as f64 * AHEAD.as_micros() as f64 / average as f64) as usize,
        };
        capacity + ahead.clamp(capacity.div_ceil(2), most)
    }

    /// Notes whether there is a slot that waits for a page to come.
    pub(crate) fn set_hungry(&self, is_hungry: bool) {
        self.is_hungry.store(is_hungry, Ordering::Relaxed);
    }

    /// Whether there is a slot that waits for a page to come: then links should reach the frontier at once.
    pub(crate) fn is_hungry(&self) -> bool {
        self.is_hungry.load(Ordering::Relaxed)
    }

    /// Counts on places no longer, once there were no static pages for a while.
    pub(crate) fn look(&self) {
        let last = *self.last_static.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() > STATIC_PATIENCE) {
            self.set_capacity(self.slots);
        }
    }

    fn set_capacity(&self, pages: usize) {
        self.capacity.send_if_modified(|capacity| std::mem::replace(capacity, pages) != pages);
    }
}

impl Slot {
    /// Exchanges the slot for a place among the static pages.
    pub(crate) async fn go_static(&mut self) {
        *self.lanes.last_static.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.lanes.set_capacity(self.lanes.slots * (1 + PLACES_PER_SLOT));
        // The slot is given up only when there is a place: that holds back the pages that come.
        self.held = permit(&self.lanes.places).await;
    }

    /// Waits for a tab's turn; the page has it until the answer is dropped.
    pub(crate) async fn tab(&self) -> Option<OwnedSemaphorePermit> {
        permit(&self.lanes.tabs).await
    }
}

async fn permit(semaphore: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    // No semaphore here is ever closed.
    Arc::clone(semaphore).acquire_owned().await.ok()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn static_pages_leave_their_slots_to_others_and_can_still_get_a_tab() {
        let lanes = Lanes::new(1);
        let mut pages = Vec::new();
        for _ in 0..PLACES_PER_SLOT {
            let mut slot = lanes.enter().await;
            slot.go_static().await;
            pages.push(slot);
        }
        assert_eq!(*lanes.capacity().borrow(), 1 + PLACES_PER_SLOT);
        let mut waiting = lanes.enter().await;
        assert!(waiting.go_static().now_or_never().is_none(), "the places are taken");
        let tab = pages[0].tab().now_or_never();
        assert!(tab.flatten().is_some(), "the slot of the page that waits is not in the way");
        let _ahead = lanes.enter().await;
        assert!(lanes.enter().now_or_never().is_none(), "one that waits for a place keeps its slot");
        pages.clear();
        waiting.go_static().await;
        assert!(lanes.enter().now_or_never().is_some());
    }

    #[test]
    fn the_shorter_pages_are_the_more_are_wanted_ahead() {
        let wants = |slots, page_ms| {
            let lanes = Lanes::new(slots);
            lanes.note_page(Duration::from_millis(page_ms));
            lanes.wants()
        };
        assert_eq!([0, 10, 25, 100, 500, 10_000].map(|page_ms| wants(2, page_ms)), [16, 16, 16, 7, 3, 3]);
        assert_eq!([0, 10, 100, 500, 10_000].map(|page_ms| wants(64, page_ms)), [256, 256, 224, 96, 96]);
        assert_eq!(Lanes::new(64).wants(), 256, "as long as nobody knows");
    }

    #[test]
    fn what_pages_take_is_an_average_that_follows_them() {
        let lanes = Lanes::new(64);
        (0..40).for_each(|_| lanes.note_page(Duration::from_millis(10)));
        lanes.note_page(Duration::from_secs(1));
        assert!((180..=185).contains(&lanes.wants()), "{}", lanes.wants());
        (0..40).for_each(|_| lanes.note_page(Duration::from_secs(1)));
        assert_eq!(lanes.wants(), 96);
    }

    #[tokio::test]
    async fn the_capacity_is_that_of_the_slots_until_there_are_static_pages() {
        let lanes = Lanes::new(2);
        let mut capacity = lanes.capacity();
        lanes.enter().await.go_static().await;
        assert!(capacity.has_changed().unwrap());
        assert_eq!(*capacity.borrow_and_update(), 2 * (1 + PLACES_PER_SLOT));
        lanes.look();
        assert!(!capacity.has_changed().unwrap(), "the last static page was just now");
        *lanes.last_static.lock().unwrap() = Instant::now().checked_sub(2 * STATIC_PATIENCE);
        lanes.look();
        assert_eq!(*capacity.borrow(), 2);
    }
}
