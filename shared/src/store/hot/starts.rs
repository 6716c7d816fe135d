//! Starts on a host that no claim gives: of a page whose turn has passed, or that asks its host once more; and what puts the next
//! ones off.

use std::time::{Duration, Instant};

use super::HotStore;
use crate::domain::page::ClaimedPage;
use crate::store::StoreError;

/// Locks the page's row and then the host's, as claims and records do: a claim that a late message of the page is among holds it, and
/// may wait for the host. The lease is as long after the new start as it was after the first one. By primary keys; `IS NOT DISTINCT
/// FROM` as in the record.
const NEXT_START: &str = "
WITH page AS (
    SELECT id FROM url_queue
    WHERE id = $3 AND attempt = $4 AND status IS NOT DISTINCT FROM 'processing' AND locked_by = $5
    FOR NO KEY UPDATE
), paced AS (
    INSERT INTO hosts AS h (host, next_start_at)
    SELECT $1::text, now() + interval '20 ms' + $2::float8 * 1.03 * interval '1 millisecond'
    -- Asked for before the host is locked, and not whether it is there: one that is not ours any more has its turn all the same.
    FROM (SELECT count(*) AS pages FROM page) AS ours WHERE ours.pages >= 0
    ON CONFLICT (host) DO UPDATE
        -- The pace that holds now, where it is more than when the page was claimed: dispatchers count on it.
        SET next_start_at = greatest(h.next_start_at, h.backoff_until, clock_timestamp() + interval '20 ms')
            + greatest($2::float8, h.delay_ms) * 1.03 * interval '1 millisecond'
    RETURNING h.next_start_at - greatest($2::float8, h.delay_ms) * 1.03 * interval '1 millisecond' AS start_at
), held AS (
    UPDATE url_queue q SET locked_until = greatest(q.locked_until, p.start_at + $6::float8 * interval '1 millisecond')
    FROM paced p, page WHERE q.id = page.id
)
SELECT start_at FROM paced";

/// By primary key. The host's next start is so many delays later.
const ASKED_BESIDE: &str = "
UPDATE hosts SET next_start_at = greatest(next_start_at, now()) + $2::float8 * delay_ms * 1.03 * interval '1 millisecond'
WHERE host = $1 AND delay_ms > 0";

/// By primary key; the host of every page has a row. Not in `backoff_until`: the record tells by it whether a refusal is news, and
/// the page that was refused was claimed before this.
const HOLD_BACK: &str = "
UPDATE hosts SET next_start_at = greatest(next_start_at, now() + $2::float8 * interval '1 millisecond'),
    -- Only where there is a pace is the next start looked at, and pages that were dispatched without one go back at their claim.
    -- 16 ms is what counts as the pace of a host without any where a refusal makes it slower: so this changes nothing of that.
    delay_ms = greatest(delay_ms, 16),
    -- Until then dispatchers keep to that pace, though nobody asks for it; after that it is as it was.
    delay_seen_at = greatest(delay_seen_at, now() + $2::float8 * interval '1 millisecond')
WHERE host = $1 AND backoff_until <= now()";

impl HotStore {
    /// Notes that a host was asked so many times beside its pace, if it has one: its next page starts as many delays later.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn was_asked_beside(&self, host: &str, times: u32) -> Result<(), StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached(ASKED_BESIDE).await?;
        client.execute(&statement, &[&host, &f64::from(times)]).await?;
        Ok(())
    }

    /// Lets no page of a host start for so long that has not got its start yet: it has refused one, which will be recorded, and
    /// counted, later. That alone says what the refusal costs.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn hold_back(&self, host: &str, rest: Duration) -> Result<(), StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached(HOLD_BACK).await?;
        client.execute(&statement, &[&host, &(rest.as_millis() as f64)]).await?;
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
