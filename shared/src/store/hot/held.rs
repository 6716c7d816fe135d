//! What a worker holds, as another server may see it that has taken over: it lacks the last of what was written, and so takes pages
//! for this worker's that have long ended.

use chrono::{DateTime, Utc};

use super::{ClaimRequest, HotStore};
use crate::store::StoreError;

/// What was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returned {
    /// Pages that others may have now.
    pub pages: u64,
    /// Pages that somebody else held at that moment: they are to be given back later.
    pub left: u64,
}

/// Reads url_queue_open_idx. The claim counted nothing, and neither does this. A message that still speaks of such a page finds
/// another epoch.
const RETURN: &str = "
WITH unheld AS (
    SELECT q.id FROM url_queue q
    WHERE q.status = 'processing' AND q.locked_by = $1 AND q.locked_at < $4
      AND NOT EXISTS (SELECT FROM unnest($2::uuid[], $3::int4[]) AS held (id, epoch)
          WHERE held.id = q.id AND held.epoch = q.epoch)
), locked AS (
    SELECT q.id FROM url_queue q
    WHERE q.id IN (SELECT id FROM unheld) AND q.status = 'processing' AND q.locked_by = $1 AND q.locked_at < $4
    FOR UPDATE SKIP LOCKED
), returned AS (
    UPDATE url_queue q
    SET status = 'pending', attempt = q.attempt - 1, epoch = q.epoch + 1, locked_at = NULL, locked_by = NULL, locked_until = NULL
    FROM locked WHERE q.id = locked.id
    RETURNING q.execution_id, q.host
), woken AS (
    -- In the order of whoever records pages.
    UPDATE lanes SET due_at = now(), misses = 0
    WHERE (execution_id, host) IN (
        SELECT lane.execution_id, lane.host FROM lanes lane
        WHERE (lane.execution_id, lane.host) IN (SELECT execution_id, host FROM returned)
        ORDER BY lane.execution_id, lane.host FOR UPDATE)
), forgotten AS (
    UPDATE workers SET alone_with = NULL, alone_epoch = NULL
    WHERE id = $1 AND alone_with IS NOT NULL
      AND NOT EXISTS (SELECT FROM unnest($2::uuid[], $3::int4[]) AS held (id, epoch)
          WHERE held.id = alone_with AND held.epoch = alone_epoch)
)
SELECT (SELECT count(*) FROM returned), (SELECT count(*) FROM unheld)";

impl HotStore {
    /// Gives back, uncharged, the pages that this worker's rows say it has had since before `since`, by the server's clock, and
    /// that are not among these.
    ///
    /// # Errors
    /// As every statement of the store; the same may be asked again.
    pub async fn return_unheld(
        &self,
        held: &[ClaimRequest],
        since: DateTime<Utc>,
    ) -> Result<Returned, StoreError> {
        let ids: Vec<_> = held.iter().map(|page| page.page_id.0).collect();
        let epochs: Vec<_> = held.iter().map(|page| page.epoch).collect();
        let client = self.client().await?;
        let row = client.query_one(RETURN, &[&self.worker.0, &ids, &epochs, &since]).await?;
        let [returned, found] =
            [row.get::<_, i64>(0), row.get(1)].map(|pages| u64::try_from(pages).unwrap_or(0));
        Ok(Returned { pages: returned, left: found.saturating_sub(returned) })
    }
}
