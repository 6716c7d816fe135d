//! The pages that took down what executed them, and the evidence.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Store, StoreError};
use crate::domain::id::{ExecutionId, PageId};

/// A page that is not tried any more.
#[derive(Clone, Debug)]
pub struct QuarantinedPage {
    /// The frontier row.
    pub page_id: PageId,
    /// Its address.
    pub url: String,
    /// The verdict in words.
    pub error: Option<String>,
    /// When it was given up.
    pub quarantined_at: Option<DateTime<Utc>>,
    /// The attempts that ended with a loss, oldest first; of retried pages those before the retry too.
    pub losses: Vec<LostAttempt>,
}

/// An attempt whose browser or worker was lost.
#[derive(Clone, Debug)]
pub struct LostAttempt {
    /// Its number.
    pub attempt: i32,
    /// `browser` or `worker`.
    pub fault: String,
    /// Who had the page.
    pub worker_id: Option<Uuid>,
    /// When it was noticed.
    pub lost_at: DateTime<Utc>,
    /// What was seen of it.
    pub error: String,
}

impl Store {
    /// The quarantined pages of an execution, in the order of their discovery.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn quarantined_pages(
        &self,
        execution: ExecutionId,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<QuarantinedPage>, StoreError> {
        // Reads url_queue_poison_idx, and for each page lost_attempts_pkey: ids are in the order of discovery.
        let rows = sqlx::query!(
            r#"SELECT q.id, q.url, q.error, q.processed_at, l.attempt AS "attempt?", l.fault AS "fault?", l.worker_id,
                l.lost_at AS "lost_at?", l.error AS "loss?"
             FROM (
                SELECT id, url, error, processed_at FROM url_queue
                WHERE execution_id = $1 AND status = 'failed' AND error_class = 'poison'
                ORDER BY id LIMIT $2 OFFSET $3
             ) q LEFT JOIN lost_attempts l ON l.page_id = q.id
             ORDER BY q.id, l.epoch, l.attempt"#,
            execution.0,
            limit,
            offset,
        )
        .fetch_all(&self.pool)
        .await?;
        let mut pages: Vec<QuarantinedPage> = Vec::new();
        for row in rows {
            if pages.last().is_none_or(|page| page.page_id.0 != row.id) {
                pages.push(QuarantinedPage {
                    page_id: PageId(row.id),
                    url: row.url,
                    error: row.error,
                    quarantined_at: row.processed_at,
                    losses: Vec::new(),
                });
            }
            if let (Some(page), Some(attempt), Some(fault), Some(lost_at), Some(error)) =
                (pages.last_mut(), row.attempt, row.fault, row.lost_at, row.loss)
            {
                page.losses.push(LostAttempt { attempt, fault, worker_id: row.worker_id, lost_at, error });
            }
        }
        Ok(pages)
    }

    /// How many pages of an execution are quarantined.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn quarantined_count(&self, execution: ExecutionId) -> Result<i64, StoreError> {
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM url_queue
             WHERE execution_id = $1 AND status = 'failed' AND error_class = 'poison'"#,
            execution.0,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(count)
    }
}
