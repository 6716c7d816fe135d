//! Workers that were given up and are heard again: their pages took nobody down, so what these were charged for it is taken back.
//!
//! The evidence (`lost_attempts`) stays, and says that it counts no longer. Attempts are not taken back: somebody else may have the
//! page by now, or have recorded it, and is known by its attempt.

use sqlx::Connection;
use uuid::Uuid;

use super::sweep::open_lanes;
use super::{Store, StoreError};
use crate::domain::fault::{LOSSES_TAKEN_BACK, POISON_AFTER};

/// Losses that are looked at in one go.
const AT_ONCE: i64 = 1_000;

/// What was taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakenBack {
    /// Losses of workers that no page is charged with any longer.
    pub losses: u64,
    /// Pages that were quarantined for one of these, and wait again.
    pub pages_put_back: u64,
}

impl Store {
    /// Takes back what pages were charged for the loss of workers that are heard again: a thousand losses at the most, and of a page
    /// [`LOSSES_TAKEN_BACK`] in all. That it was held longer than its lease stays charged.
    ///
    /// A page that was quarantined for such a loss waits again where its execution runs; where that has ended, the page stays
    /// failed, and a retry tries it afresh.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn take_losses_back(&self) -> Result<TakenBack, StoreError> {
        // Reads lost_attempts_provisional_idx, where the losses are of workers that mostly never come back. One that says goodbye
        // was alive as well.
        let pages: Vec<Uuid> = sqlx::query_scalar!(
            r#"SELECT loss.page_id AS "page_id!"
             FROM workers AS worker JOIN lost_attempts AS loss ON loss.worker_id = worker.id
             WHERE worker.status <> 'lost' AND loss.standing = 'provisional'
             LIMIT $1"#,
            AT_ONCE,
        )
        .fetch_all(&self.pool)
        .await?;
        if pages.is_empty() {
            return Ok(TakenBack::default());
        }
        let mut connection = self.connection_for_a_transaction().await?;
        let mut transaction = connection.begin().await?;
        // Locks, each by a statement of its own, so that the last one sees whatever was done before they were ours. First the
        // executions to which pages may go back, as who dispatches does; then the losses with their pages. By primary key. What
        // others hold is left to the next look: whoever ends several executions has no order for them.
        let executions: Vec<Uuid> = sqlx::query_scalar!(
            "SELECT id FROM workflow_executions
             WHERE id IN (SELECT execution_id FROM url_queue WHERE id = ANY ($1) AND status IS NOT DISTINCT FROM 'failed')
             FOR NO KEY UPDATE SKIP LOCKED",
            &pages,
        )
        .fetch_all(&mut *transaction)
        .await?;
        let losses = sqlx::query!(
            r#"SELECT loss.page_id AS "page_id!", loss.epoch AS "epoch!", loss.attempt AS "attempt!"
             FROM lost_attempts AS loss JOIN url_queue AS page ON page.id = loss.page_id
             WHERE loss.page_id = ANY ($1) AND loss.standing = 'provisional'
               AND EXISTS (SELECT FROM workers AS worker WHERE worker.id = loss.worker_id AND worker.status <> 'lost')
               AND (page.status <> 'failed' OR page.execution_id = ANY ($2))
             FOR NO KEY UPDATE OF loss, page SKIP LOCKED"#,
            &pages,
            &executions,
        )
        .fetch_all(&mut *transaction)
        .await?;
        let pages: Vec<Uuid> = losses.iter().map(|loss| loss.page_id).collect();
        let epochs: Vec<i32> = losses.iter().map(|loss| loss.epoch).collect();
        let attempts: Vec<i32> = losses.iter().map(|loss| loss.attempt).collect();
        // By primary key. Counted under the nil worker, where the losses were.
        let taken_back = sqlx::query!(
            r#"WITH loss AS (
                SELECT given.page_id, given.epoch, given.attempt,
                    -- A retry counts from zero: of a page's losses the last ones are charged, as many as its row says.
                    (SELECT count(*) FROM lost_attempts AS later
                     WHERE later.page_id = given.page_id AND later.fault = 'worker' AND later.standing <> 'taken_back'
                       AND later.epoch > given.epoch) < page.worker_faults AS is_charged,
                    (SELECT count(*) FROM lost_attempts AS earlier
                     WHERE earlier.page_id = given.page_id AND earlier.standing = 'taken_back') AS taken_back_before,
                    -- The retry that was counted with it has been taken back already, or there was none.
                    page.status IN ('failed', 'skipped', 'cancelled') AND page.attempt = given.attempt AS was_the_last
                FROM unnest($1::uuid[], $2::int4[], $3::int4[]) AS given (page_id, epoch, attempt)
                    JOIN url_queue AS page ON page.id = given.page_id
            ), judged AS (
                SELECT page_id, epoch, attempt, was_the_last,
                    is_charged AND taken_back_before
                        + row_number() OVER (PARTITION BY page_id, is_charged ORDER BY epoch) <= $4 AS is_taken_back
                FROM loss
            ), noted AS (
                UPDATE lost_attempts AS evidence
                SET standing = CASE WHEN judged.is_taken_back THEN 'taken_back' ELSE 'final' END,
                    error = CASE WHEN judged.is_taken_back THEN evidence.error || '; it was heard again, so that this does not count'
                        ELSE evidence.error END
                FROM judged
                WHERE evidence.page_id = judged.page_id AND evidence.epoch = judged.epoch AND evidence.attempt = judged.attempt
            ), page AS (
                SELECT page.id, page.execution_id, page.host, count(*)::int2 AS charges,
                    count(*) FILTER (WHERE NOT judged.was_the_last) AS retries,
                    page.status = 'failed' AND page.error_class = 'poison' AND page.worker_faults >= $5
                        AND execution.status IN ('running', 'paused') AS goes_back
                FROM judged JOIN url_queue AS page ON page.id = judged.page_id
                    JOIN workflow_executions AS execution ON execution.id = page.execution_id
                WHERE judged.is_taken_back
                GROUP BY page.id, execution.id
            ), uncharged AS (
                -- Its epoch is that of no message: it rose with the loss.
                UPDATE url_queue AS target
                SET worker_faults = target.worker_faults - page.charges,
                    status = CASE WHEN page.goes_back THEN 'pending' ELSE target.status END,
                    processed_at = CASE WHEN page.goes_back THEN NULL ELSE target.processed_at END,
                    error = CASE WHEN page.goes_back THEN NULL ELSE target.error END,
                    error_class = CASE WHEN page.goes_back THEN NULL ELSE target.error_class END
                FROM page WHERE target.id = page.id
            ), counted AS (
                INSERT INTO page_counters AS c (execution_id, worker_id, failed, retried)
                SELECT execution_id, '00000000-0000-0000-0000-000000000000', -count(*) FILTER (WHERE goes_back),
                    -sum(retries)::int8
                FROM page WHERE goes_back OR retries > 0 GROUP BY execution_id ORDER BY execution_id
                ON CONFLICT (execution_id, worker_id) DO UPDATE
                    SET failed = c.failed + excluded.failed, retried = c.retried + excluded.retried
            ), acted_upon AS (
                -- An end that was decided upon before, and does not see these pages, is not written.
                UPDATE workflow_executions AS execution SET control_version = execution.control_version + 1
                WHERE execution.id IN (SELECT execution_id FROM page WHERE goes_back)
            )
            SELECT count(*) FILTER (WHERE is_taken_back) AS "losses!",
                ARRAY(SELECT execution_id FROM page WHERE goes_back ORDER BY execution_id, host) AS "executions!",
                ARRAY(SELECT host FROM page WHERE goes_back ORDER BY execution_id, host) AS "hosts!"
            FROM judged"#,
            &pages,
            &epochs,
            &attempts,
            i64::from(LOSSES_TAKEN_BACK),
            POISON_AFTER,
        )
        .fetch_one(&mut *transaction)
        .await?;
        open_lanes(&mut transaction, &taken_back.executions, &taken_back.hosts).await?;
        transaction.commit().await?;
        Ok(TakenBack {
            losses: u64::try_from(taken_back.losses).unwrap_or(0),
            pages_put_back: taken_back.hosts.len() as u64,
        })
    }
}
