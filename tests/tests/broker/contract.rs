//! What every broker does, run against each implementation. That something does *not* come is shown by a later message
//! that comes first, never by waiting.

use crawlify_shared::broker::{Broker, BrokerError, InProcessBroker};
use harness::rabbitmq::TestVhost;

use super::{connect, ids, ids_of, page, pages, take, take_many};

macro_rules! contract {
    ($($clause:ident,)*) => {
        mod in_process {
            $(#[tokio::test]
            async fn $clause() {
                super::$clause(&super::InProcessBroker::new()).await;
            })*
        }

        mod amqp {
            use super::Broker as _;

            $(#[tokio::test]
            async fn $clause() {
                let vhost = super::TestVhost::create().await;
                let broker = super::connect(&vhost.url()).await;
                super::$clause(&broker).await;
                broker.close().await;
            })*
        }
    };
}

contract! {
    a_confirmed_page_is_delivered_and_once_acknowledged_never_again,
    a_requeued_delivery_comes_again_and_says_so,
    a_dropped_delivery_comes_again_and_says_so,
    a_thousand_pages_are_confirmed_at_once_and_all_delivered,
    a_consumer_holds_no_more_than_its_prefetch,
    a_settled_delivery_makes_room_for_one_more,
    consumers_share_the_queue,
    a_lost_consumer_loses_nothing,
    a_stopped_consumer_gives_back_what_it_has_not_read,
    what_is_in_hand_can_be_acknowledged_after_the_stop,
    closing_ends_everything,
    an_empty_batch_is_no_work,
}

async fn a_confirmed_page_is_delivered_and_once_acknowledged_never_again(broker: &dyn Broker) {
    let first = page(1);
    assert_eq!(broker.publish(std::slice::from_ref(&first)).await.unwrap(), [true]);
    let mut consumer = broker.consume(1);
    let delivery = take(&mut consumer).await;
    assert_eq!(delivery.message, first);
    assert!(!delivery.redelivered);
    delivery.ack().await.unwrap();
    drop(consumer);

    let second = page(2);
    broker.publish(std::slice::from_ref(&second)).await.unwrap();
    let delivery = take(&mut broker.consume(1)).await;
    assert_eq!(delivery.message, second);
    delivery.ack().await.unwrap();
}

async fn a_requeued_delivery_comes_again_and_says_so(broker: &dyn Broker) {
    broker.publish(&pages(1)).await.unwrap();
    let mut consumer = broker.consume(1);
    let delivery = take(&mut consumer).await;
    let message = delivery.message.clone();
    delivery.requeue().await;
    let again = take(&mut consumer).await;
    assert_eq!(again.message, message);
    assert!(again.redelivered);
    again.ack().await.unwrap();
}

async fn a_dropped_delivery_comes_again_and_says_so(broker: &dyn Broker) {
    broker.publish(&pages(1)).await.unwrap();
    let mut consumer = broker.consume(1);
    let delivery = take(&mut consumer).await;
    let message = delivery.message.clone();
    drop(delivery);
    let again = take(&mut consumer).await;
    assert_eq!(again.message, message);
    assert!(again.redelivered);
    again.ack().await.unwrap();
}

async fn a_thousand_pages_are_confirmed_at_once_and_all_delivered(broker: &dyn Broker) {
    let pages = pages(1_000);
    assert_eq!(broker.publish(&pages).await.unwrap(), vec![true; 1_000]);
    let mut consumer = broker.consume(50);
    let mut delivered = Vec::new();
    for _ in 0..pages.len() {
        let delivery = take(&mut consumer).await;
        delivered.push(delivery.message.clone());
        delivery.ack().await.unwrap();
    }
    assert_eq!(ids_of(&delivered), ids_of(&pages));
}

async fn a_consumer_holds_no_more_than_its_prefetch(broker: &dyn Broker) {
    let pages = pages(10);
    broker.publish(&pages).await.unwrap();
    let mut first = broker.consume(3);
    // It reads only one; two more wait in it.
    let in_hand = take(&mut first).await;
    let mut second = broker.consume(10);
    // Were there a fourth in the first, the second would not get seven.
    let others = take_many(&mut second, 7).await;
    let rest = take_many(&mut first, 2).await;
    assert_eq!(ids(others.iter().chain(&rest).chain([&in_hand])), ids_of(&pages));
    assert!(others.iter().all(|delivery| !delivery.redelivered));
}

async fn a_settled_delivery_makes_room_for_one_more(broker: &dyn Broker) {
    broker.publish(&pages(3)).await.unwrap();
    let mut consumer = broker.consume(1);
    for _ in 0..3 {
        take(&mut consumer).await.ack().await.unwrap();
    }
}

async fn consumers_share_the_queue(broker: &dyn Broker) {
    let (mut first, mut second) = (broker.consume(1), broker.consume(1));
    let pages = pages(2);
    broker.publish(&pages).await.unwrap();
    let deliveries = [take(&mut first).await, take(&mut second).await];
    assert_eq!(ids(&deliveries), ids_of(&pages));
}

async fn a_lost_consumer_loses_nothing(broker: &dyn Broker) {
    let pages = pages(5);
    broker.publish(&pages).await.unwrap();
    let mut lost = broker.consume(4);
    let in_hand = take_many(&mut lost, 2).await;
    drop(lost);
    drop(in_hand);
    let mut other = broker.consume(5);
    let deliveries = take_many(&mut other, 5).await;
    assert_eq!(ids(&deliveries), ids_of(&pages));
    assert!(deliveries.iter().filter(|delivery| delivery.redelivered).count() >= 2);
}

async fn a_stopped_consumer_gives_back_what_it_has_not_read(broker: &dyn Broker) {
    let pages = pages(5);
    broker.publish(&pages).await.unwrap();
    let mut stopped = broker.consume(5);
    let in_hand = take(&mut stopped).await;
    stopped.stop();
    assert!(stopped.next().await.is_none());
    let mut other = broker.consume(5);
    let deliveries = take_many(&mut other, 4).await;
    assert_eq!(ids(deliveries.iter().chain([&in_hand])), ids_of(&pages));
}

async fn what_is_in_hand_can_be_acknowledged_after_the_stop(broker: &dyn Broker) {
    broker.publish(&pages(2)).await.unwrap();
    let mut stopped = broker.consume(2);
    let in_hand = take_many(&mut stopped, 2).await;
    drop(stopped);
    for delivery in in_hand {
        delivery.ack().await.unwrap();
    }
    let later = page(3);
    broker.publish(std::slice::from_ref(&later)).await.unwrap();
    let delivery = take(&mut broker.consume(1)).await;
    assert_eq!(delivery.message, later);
}

async fn closing_ends_everything(broker: &dyn Broker) {
    broker.publish(&pages(2)).await.unwrap();
    let mut consumer = broker.consume(1);
    let in_hand = take(&mut consumer).await;
    assert!(broker.is_connected().await);
    broker.close().await;
    assert!(!broker.is_connected().await);
    assert!(consumer.next().await.is_none());
    assert!(broker.consume(1).next().await.is_none());
    assert!(matches!(in_hand.ack().await, Err(BrokerError::ChannelGone)));
    assert!(matches!(broker.publish(&pages(1)).await, Err(BrokerError::Disconnected)));
    broker.close().await;
}

async fn an_empty_batch_is_no_work(broker: &dyn Broker) {
    assert_eq!(broker.publish(&[]).await.unwrap(), Vec::<bool>::new());
}
