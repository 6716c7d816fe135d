//! A broker whose links panic, without a server: nobody takes it for connected any more, and it says what broke.

use super::connection::LinkError;
use super::supervisor::Work;
use super::*;
use crate::broker::MESSAGE_VERSION;
use crate::domain::id::{ExecutionId, PageId};
use crate::domain::page_url::PageUrl;

const PATIENCE: Duration = Duration::from_secs(20);
const LINKS: [&str; 2] = ["broker publisher", "broker consumer"];

/// A link that is up until it is stopped, or panics.
struct Panicking(CancellationToken);

impl Work for Panicking {
    async fn session(&mut self, link: &Link) -> Result<(), LinkError> {
        link.set_up();
        match link.unless_stopped(self.0.cancelled()).await {
            None => Ok(()),
            Some(()) => panic!("the test's link panics"),
        }
    }
}

fn start(broker: &AmqpBroker, name: &'static str, panics: CancellationToken) -> watch::Receiver<LinkState> {
    let (link, state) = broker.shared.link(name, broker.shared.closing.child_token());
    broker.tasks.spawn(link.keep_watched(name, broker.loops.clone(), Panicking(panics)));
    state
}

async fn is(state: &watch::Receiver<LinkState>, up: bool) {
    let mut state = state.clone();
    let waited = tokio::time::timeout(PATIENCE, state.wait_for(|state| state.is_up() == up)).await;
    assert!(waited.is_ok_and(|there| there.is_ok()), "the link is up: {up}");
}

#[tokio::test]
async fn a_broker_of_which_a_link_panics_is_not_connected_any_more_and_says_which_it_was() {
    for broken in LINKS {
        let url = SecretUrl::new("amqp://nobody:none@127.0.0.1:9/");
        let mut broker = AmqpBroker::open(&url, AmqpOptions::default()).unwrap();
        let panics = LINKS.map(|_| CancellationToken::new());
        let [publisher, consumer] = [0, 1].map(|link| start(&broker, LINKS[link], panics[link].clone()));
        broker.publisher = publisher.clone();
        broker.lock_consumers().push(consumer.clone());
        is(&publisher, true).await;
        is(&consumer, true).await;
        assert!(broker.is_connected().await);

        let (state, panics) =
            if broken == LINKS[0] { (&publisher, &panics[0]) } else { (&consumer, &panics[1]) };
        panics.cancel();
        let told = tokio::time::timeout(PATIENCE, broker.broken()).await.expect("it says so");
        assert_eq!((told.name, told.how.as_str()), (broken, "panicked (the test's link panics)"));
        assert!(!broker.is_connected().await, "{broken}");
        is(state, false).await;
        // Also when the link is not known any more.
        assert!(!broker.is_connected().await, "{broken}");
        tokio::time::timeout(PATIENCE, broker.close()).await.expect("it closes");
    }
}

#[tokio::test]
async fn whoever_waits_for_a_broker_whose_publisher_panics_or_publishes_there_hears_of_it() {
    let url = SecretUrl::new("amqp://nobody:none@127.0.0.1:9/");
    let mut broker = AmqpBroker::open(&url, AmqpOptions::default()).unwrap();
    let panics = CancellationToken::new();
    panics.cancel();
    broker.publisher = start(&broker, LINKS[0], panics);
    tokio::time::timeout(PATIENCE, broker.broken()).await.expect("it says so");
    is(&broker.publisher, false).await;
    let reached = tokio::time::timeout(PATIENCE, broker.reached()).await.expect("it has an answer");
    assert!(matches!(reached, Err(BrokerError::Disconnected)), "{reached:?}");
    let message = PageMessage {
        v: MESSAGE_VERSION,
        page_id: PageId::generate(),
        execution_id: ExecutionId::generate(),
        epoch: 0,
        url: PageUrl::parse("http://shop.test/").unwrap(),
    };
    let published =
        tokio::time::timeout(PATIENCE, broker.publish(&[message])).await.expect("it has an answer");
    assert!(matches!(published, Err(BrokerError::Disconnected)), "{published:?}");
    broker.close().await;
}
