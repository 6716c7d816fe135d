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
    /// One of them.
    pub sample_url: String,
    /// Why that one was skipped, in a sentence.
    pub sample_detail: String,
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
        // As the view of that name, but each half in the order of its index, so that the limit ends the scan:
        // url_queue_skipped_idx, and skipped_links_reason_idx with url_queue_url_key for each link. The latter in words
        // that the planner cannot make a join of, which would begin with all links. Parents by primary key.
        let reason = reason.map(SkipReason::as_str);
        let rows = sqlx::query_as!(
            SkippedUrl,
            r#"
            WITH page AS (
                SELECT id, url, error_class AS reason, COALESCE(error, '') AS detail, parent_id, discovered_by,
                    processed_at AS skipped_at
                FROM url_queue
                WHERE execution_id = $1 AND status = 'skipped' AND (error_class, id) > ($3, $4)
                    AND ($2::text IS NULL OR error_class = $2)
                ORDER BY error_class, id LIMIT $5
            ), link AS (
                SELECT id, url, reason, detail, parent_id, discovered_by, skipped_at
                FROM skipped_links AS link
                WHERE execution_id = $1 AND (reason, id) > ($3, $4) AND ($2::text IS NULL OR reason = $2)
                    AND (SELECT known.id FROM url_queue AS known
                        WHERE known.execution_id = $1 AND known.url_hash = link.url_hash) IS NULL
                ORDER BY reason, id LIMIT $5
            ), skipped AS (
                SELECT * FROM page UNION ALL SELECT * FROM link ORDER BY reason, id LIMIT $5
            )
            SELECT skipped.id AS "id!", skipped.url AS "url!", skipped.reason AS "reason!",
                skipped.detail AS "detail!", parent.url AS "parent_url?", skipped.discovered_by, skipped.skipped_at
            FROM skipped LEFT JOIN url_queue AS parent ON parent.id = skipped.parent_id
            ORDER BY skipped.reason, skipped.id
            "#,
            execution.0,
            reason,
            after.map_or(reason.unwrap_or_default(), |cursor| cursor.reason.as_str()),
            after.map_or(Uuid::nil(), |cursor| cursor.id),
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Counts the skipped URLs of an execution by reason, the most frequent first, with the first one of each.
    ///
    /// # Errors
    /// The database's.
    pub async fn skip_counts(&self, execution: ExecutionId) -> Result<Vec<SkipCount>, StoreError> {
        // The view `skipped_urls`, by the same indexes as the list: counted by halves, and the first of each half.
        let counts = sqlx::query_as!(
            SkipCount,
            r#"
            WITH half AS (
                SELECT error_class AS reason, COUNT(*) AS count FROM url_queue
                WHERE execution_id = $1 AND status = 'skipped' AND error_class IS NOT NULL
                GROUP BY error_class
                UNION ALL
                SELECT reason, COUNT(*) FROM skipped_links AS link
                WHERE execution_id = $1
                    AND (SELECT known.id FROM url_queue AS known
                        WHERE known.execution_id = $1 AND known.url_hash = link.url_hash) IS NULL
                GROUP BY reason
            ), counted AS (
                SELECT reason, SUM(count)::bigint AS count FROM half GROUP BY reason
            )
            SELECT counted.reason AS "reason!", counted.count AS "count!", sample.url AS "sample_url!",
                sample.detail AS "sample_detail!"
            FROM counted CROSS JOIN LATERAL (
                (SELECT id, url, COALESCE(error, '') AS detail FROM url_queue
                WHERE execution_id = $1 AND status = 'skipped' AND error_class = counted.reason
                ORDER BY id LIMIT 1)
                UNION ALL
                (SELECT id, url, detail FROM skipped_links AS link
                WHERE execution_id = $1 AND reason = counted.reason
                    AND (SELECT known.id FROM url_queue AS known
                        WHERE known.execution_id = $1 AND known.url_hash = link.url_hash) IS NULL
                ORDER BY id LIMIT 1)
                ORDER BY id LIMIT 1
            ) AS sample
            ORDER BY counted.count DESC, counted.reason
            "#,
            execution.0,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(counts)
    }
}
