//! Another start on a host with a pace: of a page whose turn has passed, or that asks its host once more.

use std::time::{Duration, Instant};

use super::HotStore;
use crate::domain::page::ClaimedPage;
use crate::store::StoreError;

/// Locks the host's row, as the claim does. The lease is as long after the new start as it was after the first one.
const NEXT_START: &str = "
WITH paced AS (
    INSERT INTO hosts AS h (host, next_start_at)
    VALUES ($1, now() + interval '20 ms' + $2::float8 * 1.03 * interval '1 millisecond')
    ON CONFLICT (host) DO UPDATE
        -- The pace that holds now, where it is more than when the page was claimed: dispatchers count on it.
        SET next_start_at = greatest(h.next_start_at, h.backoff_until, clock_timestamp() + interval '20 ms')
            + greatest($2::float8, h.delay_ms) * 1.03 * interval '1 millisecond'
    RETURNING h.next_start_at - greatest($2::float8, h.delay_ms) * 1.03 * interval '1 millisecond' AS start_at
), held AS (
    UPDATE url_queue q SET locked_until = greatest(q.locked_until, p.start_at + $6::float8 * interval '1 millisecond')
    FROM paced p WHERE q.id = $3 AND q.attempt = $4 AND q.status IS NOT DISTINCT FROM 'processing' AND q.locked_by = $5
)
SELECT start_at FROM paced";

/// By primary key. The host's next start is one delay later.
const ASKED_BESIDE: &str = "
UPDATE hosts SET next_start_at = greatest(next_start_at, now()) + delay_ms * 1.03 * interval '1 millisecond'
WHERE host = $1 AND delay_ms > 0";

impl HotStore {
    /// Notes that a host was asked once beside its pace, if it has one: its next page starts one delay later.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn was_asked_beside(&self, host: &str) -> Result<(), StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached(ASKED_BESIDE).await?;
        client.execute(&statement, &[&host]).await?;
        Ok(())
    }

    /// Reserves the next start on the page's host, and says when it is. The page's lease goes on for
    /// `lease` after that.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn next_start(&self, page: &ClaimedPage, lease: Duration) -> Result<Instant, StoreError> {
        let milliseconds = |time: Duration| time.as_millis() as f64;
        let client = self.client().await?;
        let statement = client.prepare_cached(NEXT_START).await?;
        let row = client
            .query_one(
                &statement,
                &[
                    &page.host,
                    &milliseconds(page.host_delay),
                    &page.page_id.0,
                    &page.attempt,
                    &self.worker.0,
                    &milliseconds(lease),
                ],
            )
            .await?;
        Ok(self.clock.read(&client).await?.here(row.get(0)))
    }
}
