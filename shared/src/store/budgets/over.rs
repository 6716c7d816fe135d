//! What waits when an execution's time is over, or its bytes were received: it is skipped, in portions. One that waits
//! for a retry is counted with it no longer, as that does not come; [`change`](super::change) counts it again where the
//! page waits again.

use crate::domain::skip::SkipReason;
use crate::store::sweep::SWEPT_AT_ONCE;
use crate::store::{Store, StoreError};

impl Store {
    /// Skips what waits in executions whose time is over or whose bytes were received; at most [`SWEPT_AT_ONCE`] pages.
    /// Answers how many.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn sweep_over_budget(&self) -> Result<u64, StoreError> {
        // Reads workflow_executions_running_idx, execution_budgets_pkey, page_counters_pkey, and of what is over
        // url_queue_pending_idx in its order, so that the limit ends the scan; rows that somebody holds wait for the
        // next sweep. Lock: the budgets that are used up, so that whoever raises one comes after these pages were
        // skipped. Counted under the nil worker.
        let skipped = sqlx::query_scalar!(
            r#"WITH exceeded AS (
                SELECT execution.id, budget.kind, budget.max
                FROM workflow_executions AS execution
                    JOIN execution_budgets AS budget ON budget.execution_id = execution.id
                WHERE execution.status = 'running'
                  AND CASE budget.kind
                    WHEN 'time' THEN execution.started_at + budget.max * interval '1 second' <= now()
                    WHEN 'bytes' THEN budget.max <= (
                        SELECT sum(bytes) FROM page_counters WHERE execution_id = execution.id)
                    ELSE false END
                FOR SHARE OF budget SKIP LOCKED
            ), spent AS (
                SELECT DISTINCT ON (id) id, kind, max FROM exceeded ORDER BY id, kind
            ), leftover AS (
                SELECT page.id
                FROM spent CROSS JOIN LATERAL (
                    SELECT id FROM url_queue
                    WHERE execution_id = spent.id AND status = 'pending'
                    ORDER BY host, priority DESC, not_before, id LIMIT $1
                    FOR UPDATE SKIP LOCKED
                ) AS page
                LIMIT $1
            ), skipped AS (
                UPDATE url_queue AS page
                SET status = 'skipped', processed_at = now(),
                    error_class = CASE spent.kind WHEN 'time' THEN $2 ELSE $3 END,
                    error = CASE spent.kind
                        WHEN 'time' THEN 'the execution''s time of ' || spent.max || ' s was over (`budgets.time`)'
                        ELSE 'the execution had received ' || spent.max || ' bytes (`budgets.bytes`)' END
                FROM spent
                WHERE page.id = ANY (ARRAY(SELECT id FROM leftover)) AND spent.id = page.execution_id
                RETURNING page.execution_id,
                    page.charged + page.site_faults + page.rate_limit_faults + page.unavailable_faults + page.proxy_faults
                        + page.browser_faults + page.worker_faults > 0 AS is_retried
            ), counted AS (
                INSERT INTO page_counters AS c (execution_id, worker_id, retried)
                SELECT execution_id, '00000000-0000-0000-0000-000000000000', -count(*)
                FROM skipped WHERE is_retried GROUP BY execution_id ORDER BY execution_id
                ON CONFLICT (execution_id, worker_id) DO UPDATE SET retried = c.retried + excluded.retried
            )
            SELECT count(*) AS "count!" FROM skipped"#,
            SWEPT_AT_ONCE,
            SkipReason::TimeBudget.as_str(),
            SkipReason::ByteBudget.as_str(),
        )
        .fetch_one(&self.steady)
        .await?;
        Ok(u64::try_from(skipped).unwrap_or(0))
    }
}
