//! Publishing, seen from the frontier: one execution's confirms keep no other execution waiting.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use crawlify_shared::broker::{Broker, BrokerError, Consumer, InProcessBroker, PageMessage};
use crawlify_shared::config::LeaseTimes;
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::store::Store;
use crawlify_shared::telemetry;
use harness::crawl::{Crawl, NO_LIMITS};
use harness::wait::wait_for;
use tokio_util::sync::CancellationToken;

/// A broker that confirms nothing before it was given pages of two executions.
#[derive(Debug)]
struct SlowBroker {
    broker: InProcessBroker,
    executions: Mutex<HashSet<ExecutionId>>,
    has_two: CancellationToken,
}

#[async_trait]
impl Broker for SlowBroker {
    async fn publish(&self, messages: &[PageMessage]) -> Result<Vec<bool>, BrokerError> {
        let count = {
            let mut executions = self.executions.lock().unwrap();
            executions.extend(messages.iter().map(|message| message.execution_id));
            executions.len()
        };
        if count > 1 {
            self.has_two.cancel();
        }
        self.has_two.cancelled().await;
        self.broker.publish(messages).await
    }

    fn consume(&self, prefetch: u16) -> Consumer {
        self.broker.consume(prefetch)
    }

    async fn is_connected(&self) -> bool {
        self.broker.is_connected().await
    }

    fn rejected_messages(&self) -> u64 {
        self.broker.rejected_messages()
    }

    async fn close(&self) {
        self.broker.close().await;
    }
}

#[tokio::test]
async fn pages_of_one_execution_are_reserved_and_published_while_those_of_another_are_not_confirmed() {
    let crawl = Crawl::start(NO_LIMITS, &["http://a.test/1", "http://a.test/2"]).await;
    crawl.another(NO_LIMITS, &["http://b.test/1"]).await;
    let (stop, has_two) = (CancellationToken::new(), CancellationToken::new());
    let broker =
        SlowBroker { broker: InProcessBroker::new(), executions: Mutex::default(), has_two: has_two.clone() };
    let config = crawlify_coordinator::Config {
        listen: None,
        lease: LeaseTimes::default(),
        only: None,
        broker_forgets: false,
    };
    let store = Store::connect(&crawl.database.url(), 4).unwrap();
    let coordinator =
        crawlify_coordinator::start(config, store, Arc::new(broker), telemetry::registry(), stop.clone());
    let coordinator = coordinator.await.unwrap();
    let queued = "SELECT count(*) FROM url_queue WHERE status = 'queued'";
    wait_for("pages of both are published", Duration::from_secs(20), async || {
        has_two.is_cancelled() && crawl.number(queued).await == 3
    })
    .await;
    stop.cancel();
    coordinator.stopped().await;
}
