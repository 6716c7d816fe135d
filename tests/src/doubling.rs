//! A broker that delivers every message twice.

use std::sync::Arc;

use async_trait::async_trait;
use crawlify_shared::broker::{Broker, BrokerError, Consumer, PageMessage};
use crawlify_shared::loops::BrokenLoop;

/// Publishes everything twice, and does everything else as the one within.
#[derive(Debug)]
pub struct Doubling(pub Arc<dyn Broker>);

#[async_trait]
impl Broker for Doubling {
    async fn publish(&self, messages: &[PageMessage]) -> Result<Vec<bool>, BrokerError> {
        let mut confirmed = self.0.publish(&[messages, messages].concat()).await?;
        confirmed.truncate(messages.len());
        Ok(confirmed)
    }

    fn consume(&self, prefetch: u16) -> Consumer {
        self.0.consume(prefetch)
    }

    async fn is_connected(&self) -> bool {
        self.0.is_connected().await
    }

    fn rejected_messages(&self) -> u64 {
        self.0.rejected_messages()
    }

    async fn broken(&self) -> BrokenLoop {
        self.0.broken().await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}
