//! The broker in memory, and what brokers and the ways to them do: messages vanish, come again, and confirms do not arrive.

use std::sync::Mutex;

use async_trait::async_trait;
use crawlify_shared::broker::{Broker, BrokerError, Consumer, InProcessBroker, PageMessage};

#[derive(Debug, Default)]
pub(super) struct UnreliableBroker {
    within: InProcessBroker,
    /// Locked for moments only, by whoever publishes and by the test.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Every message that ever was, whatever became of it.
    published: Vec<PageMessage>,
    /// So many from now on vanish, although they are confirmed.
    losing: usize,
    /// So many from now on are delivered, and not confirmed.
    without_confirm: usize,
}

impl UnreliableBroker {
    pub(super) fn lose(&self, messages: usize) {
        self.state.lock().unwrap().losing = messages;
    }

    pub(super) fn lose_confirms(&self, messages: usize) {
        self.state.lock().unwrap().without_confirm = messages;
    }

    /// From now on it does what is expected of it.
    pub(super) fn behave(&self) {
        self.lose(0);
        self.lose_confirms(0);
    }

    /// Delivers a message once more, however old it is.
    pub(super) async fn repeat(&self, message: usize) {
        let published = self.state.lock().unwrap().published.clone();
        if !published.is_empty() {
            let message = published[message % published.len()].clone();
            self.within.publish(&[message]).await.unwrap();
        }
    }

    /// The messages that are delivered, and whether each of all is confirmed.
    fn accept(&self, messages: &[PageMessage]) -> (Vec<PageMessage>, Vec<bool>) {
        let state = &mut *self.state.lock().unwrap();
        state.published.extend_from_slice(messages);
        let (mut delivered, mut confirmed) = (Vec::new(), Vec::new());
        for message in messages {
            if counts_down(&mut state.losing) {
                confirmed.push(true);
            } else {
                delivered.push(message.clone());
                confirmed.push(!counts_down(&mut state.without_confirm));
            }
        }
        (delivered, confirmed)
    }
}

/// Whether one was left.
fn counts_down(left: &mut usize) -> bool {
    let was_left = *left > 0;
    *left = left.saturating_sub(1);
    was_left
}

#[async_trait]
impl Broker for UnreliableBroker {
    async fn publish(&self, messages: &[PageMessage]) -> Result<Vec<bool>, BrokerError> {
        let (delivered, confirmed) = self.accept(messages);
        self.within.publish(&delivered).await?;
        Ok(confirmed)
    }

    fn consume(&self, prefetch: u16) -> Consumer {
        self.within.consume(prefetch)
    }

    async fn is_connected(&self) -> bool {
        self.within.is_connected().await
    }

    fn rejected_messages(&self) -> u64 {
        self.within.rejected_messages()
    }

    async fn close(&self) {
        self.within.close().await;
    }
}
