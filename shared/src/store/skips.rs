//! The URLs that an execution knows of and did not visit, and why.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Store, StoreError};
use crate::domain::id::ExecutionId;
use crate::domain::skip::SkipReason;

/// A URL that was not visited.
#[derive(Clone, Debug)]
pub struct SkippedUrl {
    /// Names it.
    pub id: Uuid,
    /// The URL.
    pub url: String,
    /// Why, to count by: the name of a [`SkipReason`].
    pub reason: String,
    /// Why, in a sentence.
    pub detail: String,
    /// The page that it was found on first; `None` for a start URL.
    pub parent_url: Option<String>,
    /// The node that found it.
    pub discovered_by: Option<String>,
    /// When it was skipped.
    pub skipped_at: Option<DateTime<Utc>>,
}

/// A place in the order of skipped URLs: by reason, then by age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkipCursor {
    /// The reason of the last one before the place.
    pub reason: String,
    /// That one's id.
    pub id: Uuid,
}

/// How many URLs were skipped for a reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkipCount {
    /// The name of a [`SkipReason`].
    pub reason: String,
    /// How many.
    pub count: i64,
}

impl SkippedUrl {
    /// The place right after this one.
    pub fn cursor(&self) -> SkipCursor {
        SkipCursor { reason: self.reason.clone(), id: self.id }
    }
}

impl Store {
    /// Lists the skipped URLs of an execution after a place, of one reason or of all.
    ///
    /// # Errors
    /// The database's.
    pub async fn skipped_urls(
        &self,
        execution: ExecutionId,
        reason: Option<SkipReason>,
        after: Option<&SkipCursor>,
        limit: i64,
    ) -> Result<Vec<SkippedUrl>, StoreError> {
        // Index: url_queue_skipped_idx and skipped_links_reason_idx, merged in their order; parents by primary key.
        let rows = sqlx::query_as!(
            SkippedUrl,
            r#"
            SELECT skipped.id AS "id!", skipped.url AS "url!", skipped.reason AS "reason!",
                skipped.detail AS "detail!", parent.url AS "parent_url?", skipped.discovered_by, skipped.skipped_at
            FROM (
                SELECT * FROM skipped_urls
                WHERE execution_id = $1 AND reason IS NOT NULL AND ($2::text IS NULL OR reason = $2)
                    AND ($3::text IS NULL OR (reason, id) > ($3, $4))
                ORDER BY reason, id
                LIMIT $5
            ) AS skipped LEFT JOIN url_queue AS parent ON parent.id = skipped.parent_id
            ORDER BY skipped.reason, skipped.id
            "#,
            execution.0,
            reason.map(SkipReason::as_str),
            after.map(|cursor| cursor.reason.as_str()),
            after.map(|cursor| cursor.id),
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

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
