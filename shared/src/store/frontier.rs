//! The coordinator's side of the frontier beside dispatching: what the finisher ends, what the rescuer returns. Several
//! coordinators may run each of these at once.

use std::time::Duration;

use super::{Store, StoreError};
use crate::crash::{self, CrashPoint};
use crate::domain::id::ExecutionId;

/// What a step of the rescuer returned to the frontier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rescued {
    /// Workers that were given up.
    pub workers_lost: u64,
    /// Pages that may be tried again.
    pub pages_returned: u64,
    /// Pages whose workers died on every attempt.
    pub pages_failed: u64,
    /// Pages whose message seems lost, to be published again.
    pub pages_requeued: u64,
}

impl Store {
    /// Ends every execution that has no open page left, and answers which.
    ///
    /// The links of a page are written by the statement that ends it, so one statement that sees no open page has
    /// seen the end. An execution none of whose pages could be loaded has failed.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn finish_executions(&self) -> Result<Vec<(ExecutionId, String)>, StoreError> {
        let rows = sqlx::query!(
            r#"UPDATE workflow_executions e
            SET completed_at = now(),
                status = CASE WHEN t.completed = 0 AND t.failed > 0 THEN 'failed' ELSE 'completed' END,
                error = CASE WHEN t.completed = 0 AND t.failed > 0 THEN
                    (SELECT 'no page could be loaded: ' || q.error FROM url_queue q
                     WHERE q.execution_id = e.id AND q.status = 'failed' ORDER BY q.processed_at LIMIT 1) END,
                stats = jsonb_build_object('urls_discovered', t.urls_found, 'urls_processed', t.completed,
                    'urls_failed', t.failed, 'items_extracted', t.items, 'nodes_executed', t.nodes_executed,
                    'nodes_failed', t.nodes_failed)
            FROM (
                SELECT r.id, COALESCE(sum(c.completed), 0) AS completed, COALESCE(sum(c.failed), 0) AS failed,
                    COALESCE(sum(c.items), 0) AS items, COALESCE(sum(c.urls_found), 0) AS urls_found,
                    COALESCE(sum(c.nodes_executed), 0) AS nodes_executed,
                    COALESCE(sum(c.nodes_failed), 0) AS nodes_failed
                FROM workflow_executions r LEFT JOIN page_counters c ON c.execution_id = r.id
                WHERE r.status = 'running' GROUP BY r.id
            ) t
            WHERE t.id = e.id AND e.status = 'running'
              AND NOT EXISTS (SELECT FROM url_queue q WHERE q.execution_id = e.id AND q.status = 'pending')
              AND NOT EXISTS (SELECT FROM url_queue q
                  WHERE q.execution_id = e.id AND q.status IN ('queued', 'processing'))
              -- Nor one that a raised limit or a retry will put back. By url_queue_limit_idx, url_queue_failed_idx.
              AND NOT ((e.max_pages IS NULL OR e.pages_admitted < e.max_pages) AND EXISTS (
                  SELECT FROM url_queue q
                  WHERE q.execution_id = e.id AND q.status = 'skipped' AND q.error_class = 'limit'))
              AND NOT (e.retry_failed_before IS NOT NULL AND EXISTS (
                  SELECT FROM url_queue q
                  WHERE q.execution_id = e.id AND q.status = 'failed' AND q.processed_at < e.retry_failed_before))
            RETURNING e.id, e.status"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| (ExecutionId(row.id), row.status)).collect())
    }

    /// Returns the pages of lost workers and of lost messages to the frontier.
    ///
    /// A page that has used up `max_attempts` fails instead. A page is `queued` for longer than `message_lost_after`
    /// when its message is lost, or when the fleet is slow; then it is published once more, each time after twice as
    /// long, and the message that comes second finds nothing to claim.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn rescue(
        &self,
        worker_lost_after: Duration,
        message_lost_after: Duration,
        max_attempts: i32,
    ) -> Result<Rescued, StoreError> {
        let workers = sqlx::query!(
            "UPDATE workers SET status = 'lost'
             WHERE status IN ('ready', 'draining') AND heartbeat_at < now() - $1::float8 * interval '1 second'",
            worker_lost_after.as_secs_f64(),
        )
        .execute(&self.pool)
        .await?;
        crash::reach(CrashPoint::AfterLossBeforeReturn);
        // Reads url_queue_open_idx. The counters of lost pages are kept under the nil worker.
        let pages = sqlx::query!(
            r#"WITH orphan AS (
                SELECT q.id FROM url_queue q LEFT JOIN workers w ON w.id = q.locked_by
                WHERE q.status = 'processing'
                  AND (w.id IS NULL OR w.status IN ('lost', 'stopped') OR q.locked_until < now())
                LIMIT 1000 FOR UPDATE OF q SKIP LOCKED
            ), returned AS (
                UPDATE url_queue q
                SET status = CASE WHEN q.attempt >= $1 THEN 'failed' ELSE 'pending' END,
                    processed_at = CASE WHEN q.attempt >= $1 THEN now() END,
                    epoch = q.epoch + 1, not_before = now(), locked_at = NULL, locked_by = NULL, locked_until = NULL,
                    error = 'the worker was lost on attempt ' || q.attempt, error_class = 'worker_lost'
                FROM orphan o WHERE q.id = o.id
                RETURNING q.execution_id, q.host, q.status
            ), woken AS (
                UPDATE lanes SET due_at = now(), misses = 0
                WHERE (execution_id, host) IN (SELECT execution_id, host FROM returned WHERE status = 'pending')
            ), counted AS (
                INSERT INTO page_counters AS c (execution_id, worker_id, failed, retried)
                SELECT execution_id, '00000000-0000-0000-0000-000000000000', count(*) FILTER (WHERE status = 'failed'),
                    count(*) FILTER (WHERE status = 'pending')
                FROM returned GROUP BY execution_id ORDER BY execution_id
                ON CONFLICT (execution_id, worker_id) DO UPDATE
                    SET failed = c.failed + excluded.failed, retried = c.retried + excluded.retried
            )
            SELECT count(*) FILTER (WHERE status = 'pending') AS "returned!",
                count(*) FILTER (WHERE status = 'failed') AS "failed!"
            FROM returned"#,
            max_attempts,
        )
        .fetch_one(&self.pool)
        .await?;
        crash::reach(CrashPoint::AfterReturnBeforeRequeue);
        let requeued = sqlx::query_scalar!(
            "WITH returned AS (
                UPDATE url_queue q SET status = 'pending', queued_at = NULL, requeues = q.requeues + 1
                WHERE q.id IN (
                    SELECT id FROM url_queue
                    WHERE status = 'queued'
                      AND queued_at < now() - $1::float8 * power(2, least(requeues, 10)) * interval '1 second'
                    LIMIT 1000 FOR UPDATE SKIP LOCKED)
                RETURNING execution_id, host
            ), woken AS (
                UPDATE lanes SET due_at = now(), misses = 0
                WHERE (execution_id, host) IN (SELECT execution_id, host FROM returned)
            )
            SELECT count(*) AS \"requeued!\" FROM returned",
            message_lost_after.as_secs_f64(),
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Rescued {
            workers_lost: workers.rows_affected(),
            pages_returned: u64::try_from(pages.returned).unwrap_or(0),
            pages_failed: u64::try_from(pages.failed).unwrap_or(0),
            pages_requeued: u64::try_from(requeued).unwrap_or(0),
        })
    }

    /// Makes the partitions of `node_records` for today and the days to come.
    ///
    /// # Errors
    /// As every statement of the store; among them, that somebody has been reading the table for long. The default
    /// partition takes the rows meanwhile.
    pub async fn create_partitions(&self, days_ahead: i32) -> Result<(), StoreError> {
        // A new partition locks the whole table. Whoever records waits behind us while we wait for that, so it is
        // not for long.
        sqlx::query_scalar!(
            "SELECT count(create_node_records_partition((now() AT TIME ZONE 'UTC')::date + day))
             FROM set_config('lock_timeout', '2s', true), generate_series(0, $1) AS day",
            days_ahead,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(())
    }
}
