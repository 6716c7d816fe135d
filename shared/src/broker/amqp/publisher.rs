//! The publishing link: one task that owns a connection which only publishes, and serves one batch after the other.
//!
//! A message counts as published when the broker confirmed it and did not return it; everything else (nack, return,
//! time-out, lost connection) counts as not published. While the broker is short of memory or disk batches are refused
//! at once. This connection never acknowledges anything: the broker does not read from one that it blocks.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, Event};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::super::{BrokerError, PageMessage};
use super::AmqpShared;
use super::connection::{LinkError, Opened};
use super::supervisor::{Link, Work};
use crate::crash::{self, CrashPoint};

const PERSISTENT: u8 = 2;

/// A batch that waits for the publisher's task.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) messages: Vec<Outgoing>,
    pub(super) answer: oneshot::Sender<Result<Vec<bool>, BrokerError>>,
}

/// One encoded message.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Tells a returned message from the others of its batch.
    id: String,
    body: Vec<u8>,
}

impl Outgoing {
    pub(super) fn new(message: &PageMessage) -> Self {
        Self { id: format!("{}.{}", message.page_id, message.epoch), body: message.encode() }
    }
}

/// What the publishing link works with, over all its connections.
#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) shared: Arc<AmqpShared>,
    pub(super) batches: mpsc::Receiver<Batch>,
}

impl Work for Publisher {
    async fn session(&mut self, link: &Link) -> Result<(), LinkError> {
        let opening = self.shared.address.open(&link.name);
        let Some(opened) = link.unless_stopped(opening).await else { return Ok(()) };
        let opened = opened?;
        serve(link, &self.shared, &opened, &mut self.batches).await?;
        opened.close().await;
        Ok(())
    }
}

async fn serve(
    link: &Link,
    shared: &AmqpShared,
    opened: &Opened,
    batches: &mut mpsc::Receiver<Batch>,
) -> Result<(), LinkError> {
    let channel = &opened.channel;
    shared.queues.declare(channel, shared.answer_within).await?;
    shared.answer_within.answer(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    let mut events = opened.connection.events_listener();
    link.set_up();
    let mut blocked: Option<String> = None;
    loop {
        tokio::select! {
            biased;
            () = link.stop.cancelled() => return Ok(()),
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    warn!(link = %link.name, reason, "broker takes no messages");
                    blocked = Some(reason);
                }
                // Confirms of the time before may still come, and nobody would know whose they are: a fresh
                // connection has none.
                Some(Event::ConnectionUnblocked) => {
                    info!(link = %link.name, "broker takes messages again");
                    return Err(LinkError::Unblocked);
                }
                Some(Event::Error(error)) => return Err(error.into()),
                Some(_) => {}
                None => return Err(LinkError::Ended),
            },
            batch = batches.recv() => {
                let Some(batch) = batch else { return Ok(()) };
                // Its caller went away while there was no connection.
                if batch.answer.is_closed() {
                    continue;
                }
                if let Some(reason) = &blocked {
                    let _ = batch.answer.send(Err(BrokerError::Blocked(reason.clone())));
                    continue;
                }
                let outcome = publish(shared, channel, &mut events, &batch.messages).await;
                let queue_missing = outcome.returned;
                let failure = outcome.answer(batch.answer);
                match failure {
                    Some(Stopped::Blocked(reason)) => blocked = Some(reason),
                    Some(Stopped::Failed(error)) => return Err(error),
                    None => {}
                }
                if queue_missing {
                    warn!(link = %link.name, queue = %shared.queues.pages, "queue is gone, declaring it again");
                    shared.queues.declare(channel, shared.answer_within).await?;
                }
            }
        }
    }
}

/// What came of a batch.
#[derive(Debug)]
struct BatchOutcome {
    confirmed: Vec<bool>,
    /// Some message found no queue.
    returned: bool,
    /// Why not all messages were answered, if so.
    stopped: Option<Stopped>,
}

#[derive(Debug)]
enum Stopped {
    Blocked(String),
    Failed(LinkError),
}

impl BatchOutcome {
    /// Answers the batch's caller, and hands back what stopped the batch.
    fn answer(self, caller: oneshot::Sender<Result<Vec<bool>, BrokerError>>) -> Option<Stopped> {
        let answer = match &self.stopped {
            Some(stopped) if !self.confirmed.contains(&true) => Err(match stopped {
                Stopped::Blocked(reason) => BrokerError::Blocked(reason.clone()),
                Stopped::Failed(LinkError::NoAnswer(within)) => BrokerError::Timeout(*within),
                Stopped::Failed(_) => BrokerError::Disconnected,
            }),
            _ => Ok(self.confirmed),
        };
        // A caller who went away dispatches the same pages again.
        let _ = caller.send(answer);
        self.stopped
    }
}

/// Sends all messages of a batch, then waits for the confirms of all, with one deadline.
async fn publish(
    shared: &AmqpShared,
    channel: &Channel,
    events: &mut (impl futures_util::Stream<Item = Event> + Unpin),
    messages: &[Outgoing],
) -> BatchOutcome {
    let mut acknowledged = vec![false; messages.len()];
    let mut returned = HashSet::new();
    let mut unanswered: FuturesUnordered<_> = messages
        .iter()
        .enumerate()
        .map(|(position, message)| async move { (position, publish_one(shared, channel, message).await) })
        .collect();
    let deadline = tokio::time::sleep(shared.confirm_within);
    tokio::pin!(deadline);
    let stopped = loop {
        tokio::select! {
            biased;
            answer = unanswered.next() => match answer {
                None => break None,
                Some((position, Ok(confirmation))) => {
                    acknowledged[position] = confirmation.is_ack();
                    // lapin hands a returned message to whichever confirm comes next, so it is told by its id.
                    if let Some(message) = confirmation.take_message() {
                        returned.extend(message.delivery.properties.message_id().as_ref().map(ShortString::to_string));
                    }
                }
                Some((_, Err(error))) => break Some(Stopped::Failed(error.into())),
            },
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(reason)) => break Some(Stopped::Blocked(reason)),
                Some(Event::Error(error)) => break Some(Stopped::Failed(error.into())),
                Some(_) => {}
                None => break Some(Stopped::Failed(LinkError::Ended)),
            },
            () = &mut deadline => break Some(Stopped::Failed(LinkError::NoAnswer(shared.confirm_within))),
        }
    };
    drop(unanswered);
    let confirmed = acknowledged
        .into_iter()
        .zip(messages)
        .map(|(acknowledged, message)| acknowledged && !returned.contains(&message.id))
        .collect();
    BatchOutcome { confirmed, returned: !returned.is_empty(), stopped }
}

async fn publish_one(
    shared: &AmqpShared,
    channel: &Channel,
    message: &Outgoing,
) -> lapin::Result<Confirmation> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type("application/json".into())
        .with_message_id(message.id.as_str().into());
    let queue = shared.queues.pages.as_str().into();
    let confirm = channel.basic_publish("".into(), queue, options, &message.body, properties).await?;
    crash::reach(CrashPoint::AfterPublishBeforeConfirm);
    confirm.await
}
