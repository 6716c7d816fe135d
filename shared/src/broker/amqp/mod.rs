//! The broker of a fleet: RabbitMQ, through quorum queues, publisher confirms and manual acknowledgements.
//!
//! There is one connection for publishing, and one for each consumer: a broker that is short of memory blocks a
//! connection that has published, acknowledgements included. Each is a *link*: a task of its own, which opens
//! connection after connection for ever (`supervisor`), and on each declares the queues (`topology`) and does its work
//! (`publisher`, `consumer`). One that panics does not come back: the broker is not connected any more then, and
//! says so (`Broker::broken`).

mod connection;
mod consumer;
mod publisher;
mod supervisor;
#[cfg(test)]
mod tests;
mod topology;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::connection::{Address, Within};
use self::consumer::Consuming;
use self::publisher::{Batch, Outgoing, Publisher};
use self::supervisor::{Link, LinkState};
use self::topology::Queues;
use super::consumer::{Consumer, Inbox};
use super::{Broker, BrokerError, PageMessage};
use crate::config::SecretUrl;
use crate::loops::{BrokenLoop, Loops};

/// Batches that wait for the one before them.
const WAITING_BATCHES: usize = 16;

/// What can be set about the broker. The defaults are meant to stay.
#[derive(Clone, Debug)]
pub struct AmqpOptions {
    /// The name of the pages' queue; the dead queue's is this and `.dead`.
    pub queue: String,
    /// What people see in the broker's list of connections.
    pub connection_name: String,
    /// How often both sides show that they are alive, in whole seconds; a dead peer is noticed after about twice that.
    pub heartbeat: Duration,
    /// How long to wait for the answer to anything but a publish: a connection, a declaration, an acknowledgement.
    pub answer_within: Duration,
    /// How long to wait for the confirms of one batch.
    pub confirm_within: Duration,
    /// How long [`AmqpBroker::connect`] tries.
    pub first_connection_within: Duration,
}

impl Default for AmqpOptions {
    fn default() -> Self {
        Self {
            queue: "crawlify.pages".to_owned(),
            connection_name: "crawlify".to_owned(),
            heartbeat: Duration::from_secs(10),
            answer_within: Duration::from_secs(10),
            confirm_within: Duration::from_secs(10),
            first_connection_within: Duration::from_secs(30),
        }
    }
}

/// RabbitMQ, 3.10 or newer. Dropping it ends its tasks without waiting for them; prefer [`Broker::close`].
#[derive(Debug)]
pub struct AmqpBroker {
    // The first to be dropped: the publisher's link ends without batches, and may by then.
    _close_on_drop: DropGuard,
    shared: Arc<AmqpShared>,
    batches: mpsc::Sender<Batch>,
    publisher: watch::Receiver<LinkState>,
    /// The links of running consumers. Added by `consume`, read and weeded by `is_connected`.
    consumers: Mutex<Vec<watch::Receiver<LinkState>>>,
    loops: Loops,
    tasks: TaskTracker,
}

/// What all links of a broker share.
#[derive(Debug)]
struct AmqpShared {
    address: Address,
    queues: Queues,
    connection_name: String,
    answer_within: Within,
    confirm_within: Duration,
    /// Written by consumers, read by `rejected_messages`.
    rejected: AtomicU64,
    /// Ends everything at once.
    closing: CancellationToken,
}

impl AmqpBroker {
    /// Connects, declares the queues, and starts to watch over the connection.
    ///
    /// # Errors
    /// [`BrokerError::Refused`] at once when waiting does not help: a wrong password, a missing virtual host, a queue
    /// with other arguments. [`BrokerError::Unreachable`] when no connection came about in time.
    pub async fn connect(url: &SecretUrl, options: AmqpOptions) -> Result<Self, BrokerError> {
        let within = options.first_connection_within;
        let broker = Self::open(url, options)?;
        let reached = match tokio::time::timeout(within, broker.reached()).await {
            Ok(reached) => reached,
            Err(_) => Err(BrokerError::Unreachable(broker.obstacle(within))),
        };
        match reached {
            Ok(()) => Ok(broker),
            Err(error) => {
                broker.close().await;
                Err(error)
            }
        }
    }

    /// Begins to connect, and waits for nothing: until there is a connection everything is as while the broker is away. It
    /// must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`BrokerError::Refused`] when the address is none of a broker.
    pub fn open(url: &SecretUrl, options: AmqpOptions) -> Result<Self, BrokerError> {
        let answer_within = Within(options.answer_within);
        let closing = CancellationToken::new();
        let shared = Arc::new(AmqpShared {
            address: Address::parse(url, options.heartbeat, answer_within)?,
            queues: Queues::named(&options.queue),
            connection_name: options.connection_name,
            answer_within,
            confirm_within: options.confirm_within,
            rejected: AtomicU64::new(0),
            closing: closing.clone(),
        });
        let (batches, waiting) = mpsc::channel(WAITING_BATCHES);
        let (link, publisher) = shared.link("publish", closing.child_token());
        let (tasks, loops) = (TaskTracker::new(), Loops::new(Vec::new()));
        let work = Publisher { shared: Arc::clone(&shared), batches: waiting };
        tasks.spawn(link.keep_watched("broker publisher", loops.clone(), work));
        Ok(Self {
            _close_on_drop: closing.drop_guard(),
            shared,
            batches,
            publisher,
            consumers: Mutex::default(),
            loops,
            tasks,
        })
    }

    /// Waits for the connection, however long.
    ///
    /// # Errors
    /// [`BrokerError::Refused`] when waiting does not help, as for [`AmqpBroker::connect`]; [`BrokerError::Disconnected`] when
    /// the broker is closed meanwhile, or its link broke.
    pub async fn reached(&self) -> Result<(), BrokerError> {
        let mut state = self.publisher.clone();
        loop {
            match &*state.borrow_and_update() {
                LinkState::Up => return Ok(()),
                LinkState::Down(BrokerError::Refused(reason)) => {
                    return Err(BrokerError::Refused(reason.clone()));
                }
                LinkState::Starting | LinkState::Down(_) => {}
            }
            state.changed().await.map_err(|_| BrokerError::Disconnected)?;
        }
    }

    /// What stands in the way of a connection that did not come about in time.
    fn obstacle(&self, within: Duration) -> String {
        match &*self.publisher.borrow() {
            LinkState::Down(BrokerError::Unreachable(reason)) => reason.clone(),
            LinkState::Down(other) => other.to_string(),
            LinkState::Starting | LinkState::Up => format!("no answer within {within:?}"),
        }
    }

    fn lock_consumers(&self) -> std::sync::MutexGuard<'_, Vec<watch::Receiver<LinkState>>> {
        // No code panics while it holds the lock.
        self.consumers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AmqpShared {
    fn link(&self, work: &str, stop: CancellationToken) -> (Link, watch::Receiver<LinkState>) {
        let (state, watched) = watch::channel(LinkState::Starting);
        (Link { name: format!("{} {work}", self.connection_name), state, stop }, watched)
    }
}

#[async_trait]
impl Broker for AmqpBroker {
    async fn publish(&self, messages: &[PageMessage]) -> Result<Vec<bool>, BrokerError> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let mut state = self.publisher.clone();
        if !state.borrow().is_up() {
            return Err(BrokerError::Disconnected);
        }
        let (answer, answered) = oneshot::channel();
        let batch = Batch { messages: messages.iter().map(Outgoing::new).collect(), answer };
        let wait = async {
            self.batches.send(batch).await.map_err(|_| BrokerError::Disconnected)?;
            tokio::select! {
                // A session answers its batch before its link is seen to go down.
                biased;
                answer = answered => answer.map_err(|_| BrokerError::Disconnected)?,
                _ = state.wait_for(|state| !state.is_up()) => Err(BrokerError::Disconnected),
            }
        };
        // The batches that were there before are served first.
        let patience = self.shared.confirm_within * 3;
        tokio::time::timeout(patience, wait).await.map_err(|_| BrokerError::Timeout(patience))?
    }

    fn consume(&self, prefetch: u16) -> Consumer {
        // To the broker none means without bound.
        let prefetch = prefetch.max(1);
        let inbox = Arc::new(Inbox::default());
        let stop = self.shared.closing.child_token();
        let (link, state) = self.shared.link("consume", stop.clone());
        self.lock_consumers().push(state);
        let work = Consuming {
            shared: Arc::clone(&self.shared),
            inbox: Arc::clone(&inbox),
            prefetch,
            permits: Arc::new(Semaphore::new(usize::from(prefetch))),
        };
        let kept = link.keep_watched("broker consumer", self.loops.clone(), work);
        let of_link = Arc::clone(&inbox);
        self.tasks.spawn(async move {
            kept.await;
            of_link.close();
        });
        Consumer::new(inbox, stop)
    }

    async fn is_connected(&self) -> bool {
        let mut consumers = self.lock_consumers();
        // A link that ended has no sender any more, and neither has one that broke.
        consumers.retain(|state| state.has_changed().is_ok());
        let are_up = self.publisher.borrow().is_up() && consumers.iter().all(|state| state.borrow().is_up());
        are_up && self.loops.check().is_ok()
    }

    fn rejected_messages(&self) -> u64 {
        self.shared.rejected.load(Ordering::Relaxed)
    }

    async fn broken(&self) -> BrokenLoop {
        self.loops.broken().await
    }

    async fn close(&self) {
        self.shared.closing.cancel();
        self.tasks.close();
        // Every wait of theirs has a deadline and most end on `closing`.
        self.tasks.wait().await;
    }
}
