//! The consumer: a free slot first, then a delivery. It takes nothing while there is no browser or no lease, so that
//! a broken worker does not drain the queue into failures, and nothing while a page has long been alone here, so that others
//! have what would have to wait for that.

pub(crate) mod leases;
mod takeover;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use crate::Shared;
use crate::page;

/// How often it looks whether it may still consume, while no delivery comes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Deliveries of pages that wait to be recorded together, beside as many as there are slots.
const RECORDED_TOGETHER: usize = 4;

/// Consumes until the drain begins; the pages in hand are on `pages`.
pub(crate) async fn run(worker: Arc<Shared>, pages: TaskTracker) {
    while !worker.draining.is_cancelled() {
        tokio::select! {
            () = worker.draining.cancelled() => return,
            () = async {
                worker.driver.ready().await;
                worker.leases.held().await;
                worker.company.free().await;
            } => {}
        }
        consume(&worker, &pages).await;
        if worker.company.is_taken() {
            tracing::info!("a page has long been alone here: others may have the rest");
        }
    }
}

/// Consumes until the worker drains, lacks what pages need, is taken by one of them, or takes more or fewer at once than before.
/// Unread deliveries then go back to the queue.
async fn consume(worker: &Arc<Shared>, pages: &TaskTracker) {
    let mut capacity = worker.lanes.capacity();
    let taken_at_once = *capacity.borrow_and_update();
    // A page being recorded has left its slot but holds its delivery, so there are more of them.
    let mut consumer =
        worker.broker.consume(u16::try_from(taken_at_once * 2 + RECORDED_TOGETHER).unwrap_or(u16::MAX));
    loop {
        let slot = tokio::select! {
            slot = worker.lanes.enter() => slot,
            () = worker.draining.cancelled() => return,
            () = worker.company.taken() => return,
        };
        let delivery = loop {
            worker.lanes.look();
            if *capacity.borrow() != taken_at_once || worker.company.is_taken() {
                return;
            }
            if !worker.driver.is_ready() || !worker.leases.is_held() {
                tracing::warn!("no browser or no lease: consuming nothing for now");
                return;
            }
            worker.lanes.set_hungry(true);
            let delivery = tokio::select! {
                delivery = consumer.next() => Some(delivery),
                () = worker.draining.cancelled() => return,
                _ = capacity.changed() => None,
                () = worker.company.taken() => None,
                () = tokio::time::sleep(LOOK_EVERY) => None,
            };
            worker.lanes.set_hungry(false);
            if let Some(delivery) = delivery {
                break delivery;
            }
        };
        let Some(delivery) = delivery else {
            // The broker was closed under us; whoever did that also stops us.
            tokio::time::sleep(LOOK_EVERY).await;
            return;
        };
        // The browser may have gone while we waited; the next look says so, and waits for another.
        if !worker.driver.is_ready() || !worker.leases.is_held() {
            // Dropping it gives it back, and does not wait for a broker that may not answer.
            drop(delivery);
            continue;
        }
        let page = page::run(delivery, slot, Arc::clone(worker));
        pages.spawn(worker.cut.clone().run_until_cancelled_owned(page));
    }
}
