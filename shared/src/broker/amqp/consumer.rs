//! A consuming link: one task for each consumer, which owns a connection that never publishes, so that
//! acknowledgements pass even while the broker takes no messages.
//!
//! RabbitMQ does not always tell a consumer that its queue was deleted: not when somebody declares it again at once. So
//! an idle consumer looks now and then whether messages wait that it does not get.
//!
//! What cannot be read is rejected into the dead queue, once, and counted. Permits bound the deliveries in the
//! consumer's hands, those of a connection that is gone included; the channel's prefetch bounds what the broker sends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::Channel;
use lapin::message::Delivery as Received;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    BasicRejectOptions,
};
use lapin::types::FieldTable;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::super::consumer::{Acker, Delivery, Inbox};
use super::super::{BrokerError, PageMessage};
use super::AmqpShared;
use super::connection::{LinkError, Opened, Within};
use super::supervisor::{Link, Work};
use crate::crash::{self, CrashPoint};

/// How long a consumer that could work is idle before it looks at the queue. The second look in a row that finds
/// messages tells that they do not come to it.
const IDLE_LOOK_AFTER: Duration = Duration::from_secs(3);

/// What a consumer's task works with, over all its connections.
#[derive(Debug)]
pub(super) struct Consuming {
    pub(super) shared: Arc<AmqpShared>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) prefetch: u16,
    /// One for each delivery that may be in the consumer's hands.
    pub(super) permits: Arc<Semaphore>,
}

impl Work for Consuming {
    async fn session(&mut self, link: &Link) -> Result<(), LinkError> {
        let opening = self.shared.address.open(&link.name);
        let Some(opened) = link.unless_stopped(opening).await else { return Ok(()) };
        let opened = opened?;
        let result = Session::run(link, self, &opened).await;
        // What waits unread came over a channel that is gone, and will come again.
        self.inbox.clear();
        result?;
        opened.close().await;
        Ok(())
    }
}

/// One connection's life.
struct Session<'a> {
    consuming: &'a Consuming,
    channel: &'a Channel,
    stream: lapin::Consumer,
    /// Deliveries that were dropped, on their way back to the queue.
    given_back: mpsc::UnboundedReceiver<GivenBack>,
    give_back: mpsc::UnboundedSender<GivenBack>,
    /// Cancelled when an acknowledgement over this connection failed.
    broken: CancellationToken,
}

#[derive(Debug)]
struct GivenBack {
    acker: lapin::Acker,
    _permit: OwnedSemaphorePermit,
}

impl<'a> Session<'a> {
    async fn run(link: &Link, consuming: &'a Consuming, opened: &'a Opened) -> Result<(), LinkError> {
        let shared = &consuming.shared;
        let channel = &opened.channel;
        shared.queues.declare(channel, shared.answer_within).await?;
        let qos = channel.basic_qos(consuming.prefetch, BasicQosOptions::default());
        shared.answer_within.answer(qos).await?;
        let queue = shared.queues.pages.as_str().into();
        let consume =
            channel.basic_consume(queue, "".into(), BasicConsumeOptions::default(), FieldTable::default());
        let stream = shared.answer_within.answer(consume).await?;
        let (give_back, given_back) = mpsc::unbounded_channel();
        link.set_up();
        let mut session =
            Self { consuming, channel, stream, given_back, give_back, broken: CancellationToken::new() };
        session.receive(link).await?;
        session.drain().await
    }

    /// Passes deliveries on until the consumer is stopped.
    async fn receive(&mut self, link: &Link) -> Result<(), LinkError> {
        let mut held: Option<PageDelivery> = None;
        let mut idle_looks = tokio::time::interval(IDLE_LOOK_AFTER);
        let mut passed_over = false;
        loop {
            tokio::select! {
                biased;
                () = link.stop.cancelled() => {
                    return match held {
                        Some(held) => requeue(&held.received.acker, self.within()).await,
                        None => Ok(()),
                    };
                }
                () = self.broken.cancelled() => return Err(LinkError::AcknowledgementLost),
                Some(back) = self.given_back.recv() => requeue(&back.acker, self.within()).await?,
                permit = Arc::clone(&self.consuming.permits).acquire_owned(), if held.is_some() => {
                    if let (Ok(permit), Some(page)) = (permit, held.take()) {
                        self.consuming.inbox.push(self.delivery(page, permit));
                    }
                }
                received = self.stream.next(), if held.is_none() => {
                    let received = received.ok_or(LinkError::ConsumerCancelled)??;
                    held = self.read(received).await?;
                    crash::reach(CrashPoint::AfterReceiptBeforeDelivery);
                    idle_looks.reset();
                    passed_over = false;
                }
                _ = idle_looks.tick() => {
                    let waits = self.consuming.permits.available_permits() > 0 && self.messages_wait().await?;
                    if waits && passed_over {
                        return Err(LinkError::PassedOver);
                    }
                    passed_over = waits;
                }
            }
        }
    }

    /// Whether the queue holds messages that nobody has. A queue that is gone is an error, which ends the session.
    async fn messages_wait(&self) -> Result<bool, LinkError> {
        let shared = &self.consuming.shared;
        Ok(shared.queues.waiting_pages(self.channel, shared.answer_within).await? > 0)
    }

    /// Reads a message; one that is no page's message goes to the dead queue.
    async fn read(&self, received: Received) -> Result<Option<PageDelivery>, LinkError> {
        match PageMessage::decode(&received.data) {
            Ok(message) => Ok(Some(PageDelivery { message, received })),
            Err(error) => {
                let shared = &self.consuming.shared;
                shared.rejected.fetch_add(1, Ordering::Relaxed);
                warn!(%error, bytes = received.data.len(), dead_queue = %shared.queues.dead, "message rejected");
                let options = BasicRejectOptions { requeue: false };
                settled(self.within().answer(received.acker.reject(options)).await)?;
                Ok(None)
            }
        }
    }

    /// After the stop: gives back what was still on its way, and keeps the channel for the acknowledgements of what
    /// is in the consumer's hands, until the last of them or until the broker is closed.
    async fn drain(&mut self) -> Result<(), LinkError> {
        let closing = &self.consuming.shared.closing;
        if closing.is_cancelled() {
            return Ok(());
        }
        let cancel = self.channel.basic_cancel(self.stream.tag(), BasicCancelOptions::default());
        self.within().answer(cancel).await?;
        while let Ok(Some(received)) = tokio::time::timeout(self.within().0, self.stream.next()).await {
            requeue(&received?.acker, self.within()).await?;
        }
        let all = u32::from(self.consuming.prefetch);
        loop {
            tokio::select! {
                biased;
                () = closing.cancelled() => return Ok(()),
                () = self.broken.cancelled() => return Err(LinkError::AcknowledgementLost),
                Some(back) = self.given_back.recv() => requeue(&back.acker, self.within()).await?,
                _ = self.consuming.permits.acquire_many(all) => return Ok(()),
            }
        }
    }

    fn delivery(&self, page: PageDelivery, permit: OwnedSemaphorePermit) -> Delivery {
        let redelivered = page.received.redelivered;
        let acker = AmqpAcker {
            acker: page.received.acker,
            permit,
            give_back: self.give_back.clone(),
            broken: self.broken.clone(),
            within: self.within(),
        };
        Delivery::new(page.message, redelivered, Box::new(acker))
    }

    fn within(&self) -> Within {
        self.consuming.shared.answer_within
    }
}

/// A delivery that was read, and waits for a permit.
struct PageDelivery {
    message: PageMessage,
    received: Received,
}

async fn requeue(acker: &lapin::Acker, within: Within) -> Result<(), LinkError> {
    let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
    settled(within.answer(acker.nack(options)).await)
}

/// lapin says `false` when the delivery's channel is gone.
fn settled(answer: Result<bool, LinkError>) -> Result<(), LinkError> {
    if answer? { Ok(()) } else { Err(LinkError::AcknowledgementLost) }
}

#[derive(Debug)]
struct AmqpAcker {
    acker: lapin::Acker,
    permit: OwnedSemaphorePermit,
    give_back: mpsc::UnboundedSender<GivenBack>,
    broken: CancellationToken,
    within: Within,
}

#[async_trait]
impl Acker for AmqpAcker {
    async fn ack(self: Box<Self>) -> Result<(), BrokerError> {
        let answer = self.within.answer(self.acker.ack(BasicAckOptions::default())).await;
        settled(answer).map_err(|error| {
            self.broken.cancel();
            match error {
                LinkError::NoAnswer(within) => BrokerError::Timeout(within),
                _ => BrokerError::ChannelGone,
            }
        })
    }

    async fn requeue(self: Box<Self>) {
        if requeue(&self.acker, self.within).await.is_err() {
            self.broken.cancel();
        }
    }

    fn abandon(self: Box<Self>) {
        // Without a session there is nothing to give back: the broker requeued it when the connection ended.
        let _ = self.give_back.send(GivenBack { acker: self.acker, _permit: self.permit });
    }
}
