//! The broker: how a page's message goes from the dispatcher to a free slot. The only AMQP.
//!
//! A message is a hint and the row is the truth: any message may be lost, doubled or late, and nothing breaks. One
//! trait, two implementations, one contract test suite that runs against both.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::domain::id::{ExecutionId, PageId};
use crate::domain::page_url::PageUrl;

/// The version of [`PageMessage`] that this program writes; others go to the dead queue.
pub const MESSAGE_VERSION: u32 = 1;

/// What is published for a page: no configuration, no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageMessage {
    /// [`MESSAGE_VERSION`].
    pub v: u32,
    /// The frontier row.
    pub page_id: PageId,
    /// The execution that it belongs to.
    pub execution_id: ExecutionId,
    /// The dispatch that this message speaks for; a claim with an older one finds nothing.
    pub epoch: i32,
    /// For people who look into the queue.
    pub url: PageUrl,
}

/// Our side of the broker failed; what the caller does next is try again later.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// There is no connection now; the supervisor is working on one.
    #[error("the broker is not connected")]
    Disconnected,
    /// The broker did not answer in time.
    #[error("the broker did not answer within {0:?}")]
    Timeout(std::time::Duration),
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
    /// have been.
    ///
    /// # Errors
    /// Nothing at all was confirmed.
    async fn publish(&self, messages: &[PageMessage]) -> Result<Vec<bool>, BrokerError>;

    /// Starts to consume with at most `prefetch` unacknowledged deliveries. The consumer survives reconnections.
    fn consume(&self, prefetch: u16) -> Consumer;

    /// Whether the broker answers now.
    async fn is_connected(&self) -> bool;

    /// Ends every connection and task, and waits for them.
    async fn close(&self);
}

/// A stream of deliveries.
#[derive(Debug)]
pub struct Consumer {
    deliveries: tokio::sync::mpsc::Receiver<Delivery>,
    stop: CancellationToken,
}

impl Consumer {
    /// Makes a consumer that reads what an implementation sends; `stop` tells the implementation to send no more.
    pub(in crate::broker) fn new(
        deliveries: tokio::sync::mpsc::Receiver<Delivery>,
        stop: CancellationToken,
    ) -> Self {
        Self { deliveries, stop }
    }

    /// Waits for the next delivery. `None`: the consumer or the broker was stopped, and nothing more will come.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.deliveries.recv().await
    }

    /// Asks for no more deliveries; those that wait unread are given back to the queue.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop.cancel();
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
    pub(in crate::broker) fn new(message: PageMessage, redelivered: bool, acker: Box<dyn Acker>) -> Self {
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

    /// Gives it back to the queue, for any consumer.
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
pub(in crate::broker) trait Acker: Send + Sync + std::fmt::Debug {
    async fn ack(self: Box<Self>) -> Result<(), BrokerError>;
    async fn requeue(self: Box<Self>);
    /// Gives the delivery back without waiting; called when a delivery is dropped.
    fn abandon(self: Box<Self>);
}
