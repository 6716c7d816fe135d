//! The broker: how a page's message goes from the dispatcher to a free slot. The only AMQP.
//!
//! A message is a hint and the row is the truth: any message may be lost, doubled or late, and nothing breaks. One
//! trait, two implementations, one contract test suite that runs against both (`tests/tests/broker/contract.rs`). It knows
//! nothing about the store, and never decides how often a page is tried.

pub mod amqp;
mod consumer;
pub mod in_process;
mod message;

use std::time::Duration;

use async_trait::async_trait;

pub use amqp::{AmqpBroker, AmqpOptions};
pub use consumer::{Consumer, Delivery};
pub use in_process::InProcessBroker;
pub use message::{MAX_MESSAGE_BYTES, MESSAGE_VERSION, PageMessage};

use crate::loops::BrokenLoop;

/// How often one message may be delivered before it goes to the dead queue. This is the last fuse only: the attempts
/// that are counted in the page's row end a page that cannot be crawled, long before. What goes back unclaimed, as from a worker in
/// which a page is alone for long, counts here and not there; a page whose message ends so is published again like one that was lost.
pub const DELIVERY_LIMIT: u16 = 100;

/// Our side of the broker failed; what the caller does next is try again later, except where waiting does not help.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// There is no connection now; the supervisor is working on one.
    #[error("the broker is not connected")]
    Disconnected,
    /// No first connection came about in time; the text says what stood in the way.
    #[error("the broker cannot be reached: {0}")]
    Unreachable(String),
    /// The broker takes no messages now, because it is short of memory or disk. Acknowledgements still work.
    #[error("the broker takes no messages now: {0}")]
    Blocked(String),
    /// The broker did not answer in time.
    #[error("the broker did not answer within {0:?}")]
    Timeout(Duration),
    /// The connection's address or the queue's arguments are refused: waiting does not help.
    #[error("the broker refuses: {0}")]
    Refused(String),
    /// The delivery cannot be acknowledged any more: its channel is gone. It will be delivered again.
    #[error("the delivery's channel is gone")]
    ChannelGone,
}

/// Publishes and consumes pages.
#[async_trait]
pub trait Broker: Send + Sync + std::fmt::Debug {
    /// Publishes pages, persistent and mandatory, and waits for the confirms.
    ///
    /// Answers, in order, whether each message is confirmed; one that is not counts as not published, though it may
    /// have been. All may be `false`: the broker answered, and took none.
    ///
    /// # Errors
    /// The broker did not answer, and nothing at all was confirmed.
    async fn publish(&self, messages: &[PageMessage]) -> Result<Vec<bool>, BrokerError>;

    /// Starts to consume with at most `prefetch` unacknowledged deliveries (at least one), those that wait unread in
    /// the consumer included. The consumer survives reconnections. It must be called within a Tokio runtime.
    fn consume(&self, prefetch: u16) -> Consumer;

    /// Whether the broker is there now, for publishing and for every running consumer, as far as the connections'
    /// heartbeats know. It asks nobody and returns at once.
    async fn is_connected(&self) -> bool;

    /// How many messages this process has put aside since it started, because they were no page's message (or, in
    /// process, because they were given back too often). Whoever watches it should look into the dead queue.
    fn rejected_messages(&self) -> u64;

    /// Waits until one of its own loops breaks, without which it never publishes or delivers again. For ever where it
    /// has none.
    async fn broken(&self) -> BrokenLoop {
        std::future::pending().await
    }

    /// Ends every connection and task, and waits for them. Consumers end; what was not acknowledged will be delivered
    /// again, to others.
    async fn close(&self);
}
