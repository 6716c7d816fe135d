//! The broker: one contract for both implementations, and what RabbitMQ can do to us and to a fleet.

mod contract;
mod faults;
mod fleet;

use std::time::Duration;

use crawlify_shared::broker::{AmqpBroker, AmqpOptions, Consumer, Delivery, MESSAGE_VERSION, PageMessage};
use crawlify_shared::config::SecretUrl;
use crawlify_shared::domain::id::{ExecutionId, PageId};
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::telemetry::{self, LogFormat};
use harness::wait::wait_for;

/// How long anything may take on a busy machine.
const SOON: Duration = Duration::from_secs(30);

fn page(number: usize) -> PageMessage {
    PageMessage {
        v: MESSAGE_VERSION,
        page_id: PageId::generate(),
        execution_id: ExecutionId::generate(),
        epoch: 1,
        url: PageUrl::parse(&format!("https://shop.test/{number}")).unwrap(),
    }
}

fn pages(count: usize) -> Vec<PageMessage> {
    (0..count).map(page).collect()
}

async fn connect(url: &SecretUrl) -> AmqpBroker {
    connect_with(url, AmqpOptions::default()).await
}

async fn connect_with(url: &SecretUrl, options: AmqpOptions) -> AmqpBroker {
    // Shown when a test fails.
    telemetry::init_logging("info", LogFormat::Text);
    AmqpBroker::connect(url, options).await.unwrap()
}

/// The next delivery, which must come soon.
async fn take(consumer: &mut Consumer) -> Delivery {
    tokio::time::timeout(SOON, consumer.next()).await.expect("a delivery").expect("a running consumer")
}

async fn take_many(consumer: &mut Consumer, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for _ in 0..count {
        deliveries.push(take(consumer).await);
    }
    deliveries
}

/// The pages of deliveries, in the order of their ids, which is that of their creation.
fn ids<'a>(deliveries: impl IntoIterator<Item = &'a Delivery>) -> Vec<PageId> {
    let mut ids: Vec<_> = deliveries.into_iter().map(|delivery| delivery.message.page_id).collect();
    ids.sort();
    ids
}

fn ids_of(messages: &[PageMessage]) -> Vec<PageId> {
    let mut ids: Vec<_> = messages.iter().map(|message| message.page_id).collect();
    ids.sort();
    ids
}
