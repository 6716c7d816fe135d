//! The last resort against work that is deaf to its deadline. Every call on the driver has one, and ends by then; one that
//! did not would keep its page's slot and tab for as long as it likes. It is dropped some time after its deadline, with
//! all that it held, and counted: it is a fault in the worker.

use std::time::Duration;

use crawlify_shared::domain::id::PageId;
use crawlify_shared::domain::outcome::{ErrorClass, Failure};
use tokio::time::Instant;

use crate::chrome::driver::TabError;
use crate::metrics::Metrics;

/// How long after its deadline work is dropped.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// Waits for work of a page that should end by the deadline.
///
/// # Errors
/// It did not end long after. The tab that it worked with cannot be used again.
pub(crate) async fn unless_overdue<T>(
    page: PageId,
    deadline: Instant,
    metrics: &Metrics,
    work: impl Future<Output = T>,
) -> Result<T, TabError> {
    tokio::time::timeout_at(deadline + GRACE, work).await.map_err(|_elapsed| {
        note(page, metrics);
        let message =
            format!("it went on {} s after its deadline, and was stopped by force", GRACE.as_secs());
        TabError { failure: Failure::new(ErrorClass::NavTimeout, message), tab_usable: false }
    })
}

/// Counts a page that was stopped by force, and has somebody look why.
pub(crate) fn note(page: PageId, metrics: &Metrics) {
    metrics.observe_overdue();
    tracing::error!(page.id = %page, "a page went on long after its deadline, and was stopped by force");
}
