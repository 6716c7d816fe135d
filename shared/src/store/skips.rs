//! How many URLs an execution knows of and did not visit, and why.

use super::{Store, StoreError};
use crate::domain::id::ExecutionId;

/// How many URLs were skipped for a reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkipCount {
    /// The name of a [`SkipReason`](crate::domain::skip::SkipReason).
    pub reason: String,
    /// How many.
    pub count: i64,
}

impl Store {
    /// Counts the skipped URLs of an execution by reason, the most frequent first.
    ///
    /// # Errors
    /// The database's.
    pub async fn skip_counts(&self, execution: ExecutionId) -> Result<Vec<SkipCount>, StoreError> {
        // Index: url_queue_skipped_idx, skipped_links_reason_idx, and url_queue_url_key for each skipped link.
        let counts = sqlx::query_as!(
            SkipCount,
            r#"
            SELECT reason AS "reason!", COUNT(*) AS "count!" FROM skipped_urls
            WHERE execution_id = $1 AND reason IS NOT NULL
            GROUP BY reason
            ORDER BY COUNT(*) DESC, reason
            "#,
            execution.0,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(counts)
    }
}
