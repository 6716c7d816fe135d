//! The broker of a single process: the same contract in memory, for the laptop and for tests.
//!
//! It keeps nothing on disk and needs nothing there: after a restart the frontier's rows are dispatched again. It never
//! holds more messages than its capacity; what does not fit is not confirmed, and its row stays where it is.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::consumer::{Acker, Consumer, Delivery, Inbox};
use super::{Broker, BrokerError, DELIVERY_LIMIT, PageMessage};

const DEFAULT_CAPACITY: usize = 10_000;

/// A queue in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct InProcessBroker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    capacity: usize,
    /// Written by whoever publishes, settles, consumes or closes; never held while a delivery is dropped.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Queued>,
    in_hands: HashMap<u64, InHand>,
    consumers: Vec<Registered>,
    /// Where the next look for a consumer with a free place begins.
    turn: usize,
    next_number: u64,
    rejected: u64,
    closed: bool,
}

#[derive(Debug)]
struct Queued {
    message: PageMessage,
    deliveries: u16,
}

#[derive(Debug)]
struct InHand {
    queued: Queued,
    consumer: u64,
}

#[derive(Debug)]
struct Registered {
    number: u64,
    prefetch: usize,
    in_hand: usize,
    inbox: Arc<Inbox>,
    stop: CancellationToken,
}

impl InProcessBroker {
    /// Makes an empty queue for up to 10,000 messages.
    pub fn new() -> Self {
        Self::with_capacity(DEFAULT_CAPACITY)
    }

    /// Makes an empty queue that holds at most `capacity` messages, those in the hands of consumers included.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { shared: Arc::new(Shared { capacity, state: Mutex::default() }) }
    }
}

impl Default for InProcessBroker {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Broker for InProcessBroker {
    async fn publish(&self, messages: &[PageMessage]) -> Result<Vec<bool>, BrokerError> {
        let confirmed = {
            let mut state = self.shared.lock();
            if state.closed {
                return Err(BrokerError::Disconnected);
            }
            let held = state.ready.len() + state.in_hands.len();
            let room = self.shared.capacity.saturating_sub(held).min(messages.len());
            let accepted = messages[..room].iter().cloned();
            state.ready.extend(accepted.map(|message| Queued { message, deliveries: 0 }));
            (0..messages.len()).map(|position| position < room).collect()
        };
        self.shared.hand_out();
        Ok(confirmed)
    }

    fn consume(&self, prefetch: u16) -> Consumer {
        let inbox = Arc::new(Inbox::default());
        let stop = CancellationToken::new();
        {
            let mut state = self.shared.lock();
            if state.closed {
                inbox.close();
            } else {
                let number = state.number();
                state.consumers.push(Registered {
                    number,
                    prefetch: usize::from(prefetch.max(1)),
                    in_hand: 0,
                    inbox: Arc::clone(&inbox),
                    stop: stop.clone(),
                });
            }
        }
        self.shared.hand_out();
        Consumer::new(inbox, stop)
    }

    async fn is_connected(&self) -> bool {
        !self.shared.lock().closed
    }

    fn rejected_messages(&self) -> u64 {
        self.shared.lock().rejected
    }

    async fn close(&self) {
        let consumers = {
            let mut state = self.shared.lock();
            state.closed = true;
            state.ready.clear();
            state.in_hands.clear();
            std::mem::take(&mut state.consumers)
        };
        for consumer in consumers {
            consumer.inbox.close();
        }
    }
}

impl Shared {
    /// Gives waiting messages to consumers with a free place, one each in turn.
    fn hand_out(self: &Arc<Self>) {
        let mut handed = Vec::new();
        {
            let mut state = self.lock();
            state.consumers.retain(|consumer| !consumer.stop.is_cancelled());
            while let Some(at) = state.next_free_consumer()
                && let Some(mut queued) = state.ready.pop_front()
            {
                let (inbox, consumer) = state.take_place(at);
                queued.deliveries = queued.deliveries.saturating_add(1);
                let number = state.number();
                let acker = InProcessAcker { shared: Arc::clone(self), number };
                let delivery = Delivery::new(queued.message.clone(), queued.deliveries > 1, Box::new(acker));
                state.in_hands.insert(number, InHand { queued, consumer });
                handed.push((inbox, delivery));
            }
        }
        // A consumer that was stopped meanwhile drops the delivery, which needs the lock to give it back.
        for (inbox, delivery) in handed {
            inbox.push(delivery);
        }
    }

    /// Ends a delivery; `back` puts its message to the front of the queue.
    fn settle(self: &Arc<Self>, number: u64, back: bool) -> Result<(), BrokerError> {
        {
            let mut state = self.lock();
            let Some(InHand { queued, consumer }) = state.in_hands.remove(&number) else {
                return Err(BrokerError::ChannelGone);
            };
            state.free_place(consumer);
            if back && queued.deliveries > DELIVERY_LIMIT {
                state.rejected += 1;
                warn!(page.id = %queued.message.page_id, "message given back too often, dropped");
            } else if back {
                state.ready.push_front(queued);
            }
        }
        self.hand_out();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// The next consumer in turn that has a free place.
    fn next_free_consumer(&self) -> Option<usize> {
        let count = self.consumers.len();
        (0..count)
            .map(|step| (self.turn + step) % count)
            .find(|&at| self.consumers[at].in_hand < self.consumers[at].prefetch)
    }

    fn take_place(&mut self, at: usize) -> (Arc<Inbox>, u64) {
        self.turn = at + 1;
        let consumer = &mut self.consumers[at];
        consumer.in_hand += 1;
        (Arc::clone(&consumer.inbox), consumer.number)
    }

    fn free_place(&mut self, number: u64) {
        if let Some(consumer) = self.consumers.iter_mut().find(|consumer| consumer.number == number) {
            consumer.in_hand -= 1;
        }
    }
}

#[derive(Debug)]
struct InProcessAcker {
    shared: Arc<Shared>,
    number: u64,
}

#[async_trait]
impl Acker for InProcessAcker {
    async fn ack(self: Box<Self>) -> Result<(), BrokerError> {
        self.shared.settle(self.number, false)
    }

    async fn requeue(self: Box<Self>) {
        self.abandon();
    }

    fn abandon(self: Box<Self>) {
        // After `close` there is no queue to give it back to.
        let _ = self.shared.settle(self.number, true);
    }
}
