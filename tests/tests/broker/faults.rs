//! What RabbitMQ and its operators can do to us: crash, freeze, run out of memory, lose or change a queue, refuse us,
//! hand us rubbish. Tests that hurt the server have one of their own.

use std::collections::HashSet;
use std::time::Duration;

use crawlify_shared::broker::{AmqpBroker, AmqpOptions, Broker, BrokerError, MAX_MESSAGE_BYTES};
use crawlify_shared::config::SecretUrl;
use harness::held_port::HeldPort;
use harness::rabbitmq::{PrivateRabbitMq, TestVhost};
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use super::{SOON, connect, connect_with, ids_of, page, pages, take, take_many, wait_for};

pub(super) const QUEUE: &str = "crawlify.pages";
const DEAD_QUEUE: &str = "crawlify.pages.dead";
/// Longer than the last delay between two connections, with the server's own start.
const AFTER_A_CRASH: Duration = Duration::from_secs(120);

/// An operator's connection.
pub(super) async fn operator(url: &SecretUrl) -> (Connection, Channel) {
    let connection = Connection::connect(url.expose(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

pub(super) async fn depth(channel: &Channel, queue: &str) -> u32 {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap().message_count()
}

async fn delete_queue(channel: &Channel) {
    channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default()).await.unwrap();
}

async fn publishes(broker: &AmqpBroker) -> bool {
    matches!(broker.publish(&pages(1)).await.as_deref(), Ok([true]))
}

#[tokio::test]
async fn a_broker_that_freezes_or_crashes_loses_no_confirmed_page() {
    let mut rabbit = PrivateRabbitMq::start().await.unwrap();
    // RabbitMQ 3.10 forgets a quorum queue that was made seconds before a crash: its name is known and nobody leads it.
    // A gentle stop writes down what it has.
    connect(&rabbit.url()).await.close().await;
    rabbit.restart().await.unwrap();
    let options = AmqpOptions { heartbeat: Duration::from_secs(1), ..AmqpOptions::default() };
    let broker = connect_with(&rabbit.url(), options).await;
    let mut consumer = broker.consume(10);
    wait_for("all links are up", SOON, async || broker.is_connected().await).await;

    // Nothing tells us that it froze, but the missing heartbeats.
    rabbit.freeze();
    wait_for("the frozen broker is noticed", SOON, async || !broker.is_connected().await).await;
    wait_for("publishing fails at once", SOON, async || {
        matches!(broker.publish(&pages(1)).await, Err(BrokerError::Disconnected))
    })
    .await;
    rabbit.thaw();
    wait_for("all links are up again", AFTER_A_CRASH, async || broker.is_connected().await).await;

    let confirmed = pages(30);
    assert_eq!(broker.publish(&confirmed).await.unwrap(), [true; 30]);
    let in_hand = take_many(&mut consumer, 10).await;
    rabbit.kill().await;
    wait_for("the crashed broker is noticed", SOON, async || !broker.is_connected().await).await;
    rabbit.restart().await.unwrap();
    wait_for("all links are up again", AFTER_A_CRASH, async || broker.is_connected().await).await;
    for delivery in in_hand {
        assert!(matches!(delivery.ack().await, Err(BrokerError::ChannelGone)));
    }
    // Pages of the time of the freeze, which nobody confirmed, may come too; those in hand come a second time.
    let mut missing: HashSet<_> = ids_of(&confirmed).into_iter().collect();
    while !missing.is_empty() {
        let delivery = take(&mut consumer).await;
        missing.remove(&delivery.message.page_id);
        delivery.ack().await.unwrap();
    }
    assert!(publishes(&broker).await);
    take(&mut consumer).await.ack().await.unwrap();
    broker.close().await;
}

#[tokio::test]
async fn a_broker_short_of_memory_takes_no_pages_but_acknowledgements() {
    let rabbit = PrivateRabbitMq::start().await.unwrap();
    let broker = connect(&rabbit.url()).await;
    assert_eq!(broker.publish(&pages(2)).await.unwrap(), [true, true]);
    let mut consumer = broker.consume(1);
    let in_hand = take(&mut consumer).await;

    rabbit.control(&["set_vm_memory_high_watermark", "absolute", "1"]).await.unwrap();
    wait_for("the alarm blocks publishing", SOON, async || {
        matches!(broker.publish(&pages(1)).await, Err(BrokerError::Blocked(_)))
    })
    .await;
    in_hand.ack().await.unwrap();
    // The prefetch is one: another delivery proves that the broker saw the acknowledgement.
    take(&mut consumer).await.ack().await.unwrap();

    rabbit.control(&["set_vm_memory_high_watermark", "0.4"]).await.unwrap();
    wait_for("publishing works again", SOON, async || publishes(&broker).await).await;
    broker.close().await;
}

#[tokio::test]
async fn rubbish_goes_to_the_dead_queue_once_and_the_page_behind_it_arrives() {
    let vhost = TestVhost::create().await;
    let broker = connect(&vhost.url()).await;
    let (_connection, channel) = operator(&vhost.url()).await;
    // Each is there before the next thing is sent, over whatever connection.
    channel.confirm_select(Default::default()).await.unwrap();
    let other_version = br#"{"v":99,"page":"?"}"#.to_vec();
    let junk = vec![b'x'; 1 << 20];
    assert!(junk.len() > MAX_MESSAGE_BYTES);
    for body in [b"not JSON".to_vec(), other_version, Vec::new(), junk] {
        let properties = BasicProperties::default();
        let published = channel.basic_publish("".into(), QUEUE.into(), Default::default(), &body, properties);
        published.await.unwrap().await.unwrap();
    }
    let good = page(1);
    broker.publish(std::slice::from_ref(&good)).await.unwrap();
    let mut consumer = broker.consume(1);
    let delivery = take(&mut consumer).await;
    assert_eq!(delivery.message, good);
    delivery.ack().await.unwrap();
    assert_eq!(broker.rejected_messages(), 4);
    wait_for("the dead queue holds all four", SOON, async || depth(&channel, DEAD_QUEUE).await == 4).await;
    wait_for("their own queue is empty", SOON, async || depth(&channel, QUEUE).await == 0).await;
    broker.close().await;
}

#[tokio::test]
async fn a_consumer_whose_queue_was_deleted_declares_it_again_and_goes_on() {
    let vhost = TestVhost::create().await;
    let broker = connect(&vhost.url()).await;
    let mut consumer = broker.consume(1);
    broker.publish(&pages(1)).await.unwrap();
    take(&mut consumer).await.ack().await.unwrap();

    let (_connection, channel) = operator(&vhost.url()).await;
    delete_queue(&channel).await;
    // A page that is published while the queue goes may go with it, confirmed or not.
    wait_for("pages flow again", SOON, async || {
        publishes(&broker).await;
        let next = tokio::time::timeout(Duration::from_secs(1), consumer.next()).await;
        if let Ok(Some(delivery)) = next { delivery.ack().await.is_ok() } else { false }
    })
    .await;
    broker.close().await;
}

#[tokio::test]
async fn a_page_for_a_queue_that_is_gone_is_not_confirmed_and_the_next_one_is() {
    let vhost = TestVhost::create().await;
    let broker = connect(&vhost.url()).await;
    let (_connection, channel) = operator(&vhost.url()).await;
    delete_queue(&channel).await;
    assert_eq!(broker.publish(&pages(3)).await.unwrap(), [false, false, false]);
    assert_eq!(broker.publish(&pages(3)).await.unwrap(), [true, true, true]);
    broker.close().await;
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_refused_and_left_alone() {
    let vhost = TestVhost::create().await;
    let (_connection, channel) = operator(&vhost.url()).await;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(QUEUE.into(), durable, FieldTable::default()).await.unwrap();
    let properties = BasicProperties::default();
    let publish = channel.basic_publish("".into(), QUEUE.into(), Default::default(), b"theirs", properties);
    publish.await.unwrap();

    let error = AmqpBroker::connect(&vhost.url(), AmqpOptions::default()).await.unwrap_err();
    let BrokerError::Refused(reason) = error else { panic!("{error:?}") };
    assert!(reason.contains("the queue `crawlify.pages` exists with other arguments"), "{reason}");
    wait_for("their message is still there", SOON, async || depth(&channel, QUEUE).await == 1).await;
}

#[tokio::test]
async fn wrong_credentials_and_hosts_are_refused_at_once_without_showing_the_password() {
    let vhost = TestVhost::create().await;
    let url = vhost.url();
    let other_password = url.expose().replace(":harness@", ":hunter2@");
    let other_vhost = format!("{}-not-there", url.expose());
    for url in [other_password, other_vhost].map(SecretUrl::new) {
        let connecting = AmqpBroker::connect(&url, AmqpOptions::default());
        let error = tokio::time::timeout(Duration::from_secs(20), connecting).await.unwrap().unwrap_err();
        assert!(matches!(error, BrokerError::Refused(_)), "{error:?}");
        let text = format!("{error} {error:?}");
        assert!(!text.contains("hunter2") && !text.contains("harness"), "{text}");
    }
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_named_within_the_deadline() {
    let closed = HeldPort::take().unwrap();
    let options = AmqpOptions { first_connection_within: Duration::from_secs(1), ..AmqpOptions::default() };
    let url = SecretUrl::new(format!("amqp://u:hunter2@127.0.0.1:{}/", closed.number()));
    let error = AmqpBroker::connect(&url, options).await.unwrap_err();
    assert!(matches!(&error, BrokerError::Unreachable(_)), "{error:?}");
    assert!(error.to_string().to_lowercase().contains("refused"), "{error}");
}
