//! Whether the broker is there now, for those who ask how we are. It is handed the question at the start and knows nothing of
//! the broker itself; nobody waits for the answer, and nothing but what is said depends on it.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

/// Asks, and is answered at once.
type Ask = dyn Fn() -> BoxFuture<'static, bool> + Send + Sync;

/// Our link to the broker, as far as its heartbeats know.
#[derive(Clone)]
pub struct BrokerLink(Arc<Ask>);

impl BrokerLink {
    /// One that is asked by this.
    pub fn asked_by<Answer>(ask: impl Fn() -> Answer + Send + Sync + 'static) -> Self
    where
        Answer: Future<Output = bool> + Send + 'static,
    {
        Self(Arc::new(move || ask().boxed()))
    }

    /// Whether the broker is there.
    pub(crate) async fn is_up(&self) -> bool {
        (self.0)().await
    }
}

impl fmt::Debug for BrokerLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BrokerLink")
    }
}
