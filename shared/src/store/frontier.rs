//! The end of executions, and the partitions that the records of the days to come go into. Several coordinators may do
//! either at once.

use super::{Store, StoreError};
use crate::domain::id::ExecutionId;

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
            r#"WITH ended AS (
            UPDATE workflow_executions e
            SET completed_at = clock_timestamp(),
                status = CASE WHEN t.completed = 0 AND t.failed > 0 THEN 'failed' ELSE 'completed' END,
                error = CASE WHEN t.completed = 0 AND t.failed > 0 THEN
                    (SELECT 'no page could be loaded: ' || q.error FROM url_queue q
                     WHERE q.execution_id = e.id AND q.status = 'failed' ORDER BY q.processed_at LIMIT 1) END,
                stats = jsonb_build_object('urls_discovered', t.urls_found, 'urls_processed', t.completed,
                    'urls_failed', t.failed, 'items_extracted', t.items, 'nodes_executed', t.nodes_executed,
                    'nodes_failed', t.nodes_failed)
            FROM (
                SELECT r.id, r.control_version, COALESCE(sum(c.completed), 0) AS completed, COALESCE(sum(c.failed), 0) AS failed,
                    COALESCE(sum(c.items), 0) AS items, COALESCE(sum(c.urls_found), 0) AS urls_found,
                    COALESCE(sum(c.nodes_executed), 0) AS nodes_executed,
                    COALESCE(sum(c.nodes_failed), 0) AS nodes_failed
                FROM workflow_executions r LEFT JOIN page_counters c ON c.execution_id = r.id
                WHERE r.status = 'running' GROUP BY r.id
            ) t
            -- Not if somebody has acted upon it since this statement began: pages may have been put back that it does not see.
            WHERE t.id = e.id AND e.status = 'running' AND e.control_version = t.control_version
              AND NOT EXISTS (SELECT FROM url_queue q WHERE q.execution_id = e.id AND q.status = 'pending')
              AND NOT EXISTS (SELECT FROM url_queue q
                  WHERE q.execution_id = e.id AND q.status IN ('queued', 'processing'))
              -- Nor one that a raised limit, a changed budget or a retry will put back. By url_queue_limit_idx, url_queue_failed_idx.
              AND NOT ((e.max_pages IS NULL OR e.pages_admitted < e.max_pages OR EXISTS (
                  -- A place that is to be given back. By url_queue_place_idx.
                  SELECT FROM url_queue q
                  WHERE q.execution_id = e.id AND q.status = 'skipped' AND q.admitted AND q.error_class = 'robots'
                      AND q.final_url IS NULL)) AND EXISTS (
                  SELECT FROM url_queue q
                  WHERE q.execution_id = e.id AND q.status = 'skipped' AND q.error_class = 'limit'))
              -- The same below paths that have budgets. By url_queue_place_idx, url_queue_skipped_idx.
              AND NOT (EXISTS (
                  SELECT FROM url_queue q
                  WHERE q.execution_id = e.id AND q.status = 'skipped' AND q.admitted AND q.error_class = 'robots'
                      AND q.final_url IS NULL AND q.budgeted) AND EXISTS (
                  SELECT FROM url_queue q
                  WHERE q.execution_id = e.id AND q.status = 'skipped' AND q.error_class = 'path_budget'))
              AND e.budget_pages_after IS NULL AND e.budget_places_after IS NULL
              AND NOT (e.retry_failed_before IS NOT NULL AND EXISTS (
                  SELECT FROM url_queue q
                  WHERE q.execution_id = e.id AND q.status = 'failed' AND q.processed_at < e.retry_failed_before))
            RETURNING e.id, e.status
            ), gone AS (
                -- By lanes_pkey. Nobody adds to them any more; a retry makes those that it needs anew.
                DELETE FROM lanes USING ended WHERE lanes.execution_id = ended.id
            )
            SELECT id, status FROM ended"#
        )
        .fetch_all(&self.steady)
        .await?;
        Ok(rows.into_iter().map(|row| (ExecutionId(row.id), row.status)).collect())
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
