//! What a worker holds, as another server may see it that has taken over: it lacks the last of what was written, and so takes pages
//! for this worker's that have long ended.

use super::{ClaimRequest, HotStore};
use crate::domain::id::PageId;
use crate::store::StoreError;

/// Reads url_queue_open_idx.
const TAKEN_FOR_OURS: &str = "SELECT id, epoch FROM url_queue WHERE status = 'processing' AND locked_by = $1";

/// By primary key. The claim counted nothing, and neither does this. Whatever speaks of such a page still, a
/// message or the note that it is alone, speaks of another epoch.
const RETURN: &str = "
WITH unheld AS (
    SELECT q.id FROM url_queue q JOIN unnest($2::uuid[], $3::int4[]) AS u (id, epoch) ON q.id = u.id AND q.epoch = u.epoch
    WHERE q.status IS NOT DISTINCT FROM 'processing' AND q.locked_by = $1
    FOR UPDATE OF q SKIP LOCKED
), returned AS (
    UPDATE url_queue q
    SET status = 'pending', attempt = q.attempt - 1, epoch = q.epoch + 1, locked_at = NULL, locked_by = NULL, locked_until = NULL
    FROM unheld WHERE q.id = unheld.id
    RETURNING q.execution_id, q.host
), woken AS (
    -- In the order of whoever records pages.
    UPDATE lanes SET due_at = now(), misses = 0
    WHERE (execution_id, host) IN (
        SELECT lane.execution_id, lane.host FROM lanes lane
        WHERE (lane.execution_id, lane.host) IN (SELECT execution_id, host FROM returned)
        ORDER BY lane.execution_id, lane.host FOR UPDATE)
)
SELECT count(*) FROM returned";

impl HotStore {
    /// The pages that the database takes for this worker's.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn taken_for_ours(&self) -> Result<Vec<ClaimRequest>, StoreError> {
        let rows = self.client().await?.query(TAKEN_FOR_OURS, &[&self.worker.0]).await?;
        Ok(rows.iter().map(|row| ClaimRequest { page_id: PageId(row.get(0)), epoch: row.get(1) }).collect())
    }

    /// Gives these pages back uncharged, which the database takes for this worker's, and which it does not hold. Those that somebody
    /// keeps locked stay as they are. Answers how many went back.
    ///
    /// # Errors
    /// As every statement of the store; the same may be asked again.
    pub async fn return_unheld(&self, pages: &[ClaimRequest]) -> Result<u64, StoreError> {
        let ids: Vec<_> = pages.iter().map(|page| page.page_id.0).collect();
        let epochs: Vec<_> = pages.iter().map(|page| page.epoch).collect();
        let client = self.client().await?;
        let returned: i64 = client.query_one(RETURN, &[&self.worker.0, &ids, &epochs]).await?.get(0);
        Ok(u64::try_from(returned).unwrap_or(0))
    }
}
