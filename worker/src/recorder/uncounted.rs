//! What was received for pages of which nothing was recorded: the execution has received it all the same, so its next
//! page here tells it with its own. Lost where there is none.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::page::FinishedPage;
use lru::LruCache;

/// Executions that are remembered.
const EXECUTIONS: NonZeroUsize = NonZeroUsize::new(256).expect("it is not zero");

/// Bytes that no record has counted, by execution. Written and read by who has pages recorded; locked for moments only.
#[derive(Clone, Debug)]
pub(super) struct Uncounted(Arc<Mutex<LruCache<ExecutionId, u64>>>);

impl Uncounted {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(LruCache::new(EXECUTIONS))))
    }

    /// Has a page tell what nobody has told of its execution. Answers what its record counts.
    pub(super) fn tell_with(&self, page: &mut FinishedPage) -> u64 {
        let outcome = &mut page.outcome;
        let own = outcome.received.unwrap_or(outcome.bytes);
        let uncounted = self.lock().pop(&page.page.execution_id);
        let Some(uncounted) = uncounted else { return own };
        let all = own.saturating_add(uncounted);
        outcome.received = Some(all);
        all
    }

    /// Notes that a record was not written that would have counted so many bytes.
    pub(super) fn add(&self, execution: ExecutionId, bytes: u64) {
        if bytes > 0 {
            let mut executions = self.lock();
            let uncounted = executions.get_or_insert_mut(execution, || 0);
            *uncounted = uncounted.saturating_add(bytes);
        }
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<ExecutionId, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
