//! The receiving end, the same for every implementation: a consumer hands out deliveries one at a time, and a delivery
//! that nobody settles gives itself back.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{BrokerError, PageMessage};

/// A stream of deliveries. Dropping it stops it.
#[derive(Debug)]
pub struct Consumer {
    inbox: Arc<Inbox>,
    stop: CancellationToken,
}

impl Consumer {
    /// Makes a consumer that reads what an implementation puts into `inbox`; `stop` tells the implementation to send
    /// no more.
    pub(super) fn new(inbox: Arc<Inbox>, stop: CancellationToken) -> Self {
        Self { inbox, stop }
    }

    /// Waits for the next delivery. `None`: the consumer or the broker was stopped, and nothing more will come.
    /// Nothing is lost when the wait is dropped.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.inbox.next().await
    }

    /// Asks for no more deliveries; those that wait unread are given back to the queue. Those in hand can still be
    /// acknowledged.
    pub fn stop(&self) {
        self.stop.cancel();
        self.inbox.close();
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One message in our hands, until it is acknowledged or given back. Dropping it gives it back.
#[derive(Debug)]
pub struct Delivery {
    /// The page that it speaks of. What is no [`PageMessage`] never comes this far: it goes to the dead queue.
    pub message: PageMessage,
    /// Whether the broker says that it was delivered before.
    pub redelivered: bool,
    acker: Option<Box<dyn Acker>>,
}

impl Delivery {
    /// Makes a delivery with the means to settle it.
    pub(super) fn new(message: PageMessage, redelivered: bool, acker: Box<dyn Acker>) -> Self {
        Self { message, redelivered, acker: Some(acker) }
    }

    /// Acknowledges it: the broker may forget it.
    ///
    /// # Errors
    /// The broker did not take the acknowledgement; the message will come again.
    pub async fn ack(mut self) -> Result<(), BrokerError> {
        match self.acker.take() {
            Some(acker) => acker.ack().await,
            None => Ok(()),
        }
    }

    /// Gives it back to the queue, for any consumer, at once. For a delay, write one into the page's row instead.
    pub async fn requeue(mut self) {
        if let Some(acker) = self.acker.take() {
            acker.requeue().await;
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(acker) = self.acker.take() {
            acker.abandon();
        }
    }
}

/// How an implementation settles one delivery.
#[async_trait]
pub(super) trait Acker: Send + Sync + std::fmt::Debug {
    async fn ack(self: Box<Self>) -> Result<(), BrokerError>;
    async fn requeue(self: Box<Self>);
    /// Gives the delivery back without waiting; called when a delivery is dropped, with none of the inbox's locks held.
    fn abandon(self: Box<Self>);
}

/// What lies between an implementation, which writes, and one [`Consumer`], which reads. Both can empty it; its length
/// is bounded by the consumer's prefetch.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<InboxState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct InboxState {
    waiting: VecDeque<Delivery>,
    closed: bool,
}

impl Inbox {
    /// Puts a delivery in; a closed inbox gives it back to the queue.
    pub(super) fn push(&self, delivery: Delivery) {
        {
            let mut state = self.lock();
            if !state.closed {
                state.waiting.push_back(delivery);
                drop(state);
                self.changed.notify_one();
                return;
            }
        }
        drop(delivery);
    }

    /// Gives back what waits unread.
    pub(super) fn clear(&self) {
        let waiting = std::mem::take(&mut self.lock().waiting);
        drop(waiting);
    }

    /// Gives back what waits unread, now and from now on, and ends the consumer.
    pub(super) fn close(&self) {
        let waiting = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        self.changed.notify_one();
        drop(waiting);
    }

    async fn next(&self) -> Option<Delivery> {
        loop {
            {
                let mut state = self.lock();
                if let Some(delivery) = state.waiting.pop_front() {
                    return Some(delivery);
                }
                if state.closed {
                    return None;
                }
            }
            // A change between the look and the wait is not missed: the notification is kept for us.
            self.changed.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, InboxState> {
        // No code of ours panics while it holds the lock, and the state has no invariant to break.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
