//! The queues: one for pages, and one for what could not be read or was delivered too often.
//!
//! Every argument is explicit, because defaults differ between broker versions, and the same everywhere, because a
//! queue that exists with other arguments is refused (406). A queue is never deleted or changed here.

use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};

use super::super::DELIVERY_LIMIT;
use super::connection::{LinkError, Within};

/// The dead queue keeps this many messages; older ones fall out, so that nobody's disk fills up.
const DEAD_QUEUE_LENGTH: i32 = 10_000;

/// The names of the two queues.
#[derive(Clone, Debug)]
pub(super) struct Queues {
    pub(super) pages: String,
    pub(super) dead: String,
}

impl Queues {
    pub(super) fn named(pages: &str) -> Self {
        Self { pages: pages.to_owned(), dead: format!("{pages}.dead") }
    }

    /// Declares both; harmless where they exist.
    pub(super) async fn declare(&self, channel: &Channel, within: Within) -> Result<(), LinkError> {
        self.declare_one(channel, within, &self.dead, dead_arguments()).await?;
        self.declare_one(channel, within, &self.pages, self.page_arguments()).await
    }

    /// How many pages wait in the queue, in nobody's hands. A missing queue is an error that ends the channel.
    pub(super) async fn waiting_pages(&self, channel: &Channel, within: Within) -> Result<u32, LinkError> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let look = channel.queue_declare(self.pages.as_str().into(), passive, FieldTable::default());
        Ok(within.answer(look).await?.message_count())
    }

    async fn declare_one(
        &self,
        channel: &Channel,
        within: Within,
        name: &str,
        arguments: FieldTable,
    ) -> Result<(), LinkError> {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        within
            .answer(channel.queue_declare(name.into(), options, arguments))
            .await
            .map_err(|error| error.refused_because(&format!(
                "the queue `{name}` exists with other arguments; use another queue name, or remove that queue by hand"
            )))?;
        Ok(())
    }

    fn page_arguments(&self) -> FieldTable {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), text("quorum"));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(i32::from(DELIVERY_LIMIT)));
        // The default exchange leads to the queue that the routing key names.
        arguments.insert("x-dead-letter-exchange".into(), text(""));
        arguments.insert("x-dead-letter-routing-key".into(), text(&self.dead));
        arguments
    }
}

fn dead_arguments() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(DEAD_QUEUE_LENGTH));
    arguments
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}
