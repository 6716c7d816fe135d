//! A retry: the failed pages of an execution are tried afresh, also of one that has ended.
//!
//! It only marks the execution, as every act of control does ([`super::control`]); the pages go back in portions. Each of them
//! goes back with a place in `max_pages`: the one that it had, or one that is left. So none is skipped for want of one, which would
//! lose what is known of its failure.

use sqlx::Connection;

use super::budgets::lock;
use super::control::{Act, Controlled, Expected, judge};
use super::executions::ExecutionStatus;
use super::sweep::SWEPT_AT_ONCE;
use super::{Store, StoreError};
use crate::domain::id::ExecutionId;

/// How many portions are put back in one go while they are small.
const PORTIONS: usize = 20;

/// How a retry ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retried {
    /// As with every act. Refused also where no page has failed, where a budget would skip pages instead, and where none of
    /// them has a place in `max_pages`, nor finds one.
    pub act: Controlled,
    /// Failed pages: those that go back, where it was done; fewer where a dispatcher takes places before them.
    pub pages: i64,
    /// The budgets that are used up and would skip failed pages, or have none tried.
    pub spent: Vec<SpentBudget>,
}

/// A budget that is used up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpentBudget {
    /// The time since the execution's start.
    Time,
    /// What its pages have received.
    Bytes,
    /// The pages: `max_pages`.
    Pages,
    /// The pages below this prefix.
    Path(String),
}

impl SpentBudget {
    fn of(kind: String, prefix: String) -> Self {
        match kind.as_str() {
            "time" => Self::Time,
            "bytes" => Self::Bytes,
            "max_pages" => Self::Pages,
            _ => Self::Path(prefix),
        }
    }
}

impl Store {
    /// Has the pages that have failed so far tried afresh. An execution that has ended runs again; a paused one stays
    /// paused; a cancelled one is refused. The pages themselves go back in portions ([`Store::put_pages_back`]), and
    /// the execution does not end before the last of them has.
    ///
    /// Where a budget is used up that would skip failed pages, nothing changes: what is known of the failures would be lost, and
    /// nothing tried. Of failed pages that were never dispatched, as those of a host that is gone, as many go back as there are places
    /// left in `max_pages`, and the others stay as they are; where none goes back at all, nothing changes either.
    ///
    /// # Errors
    /// The database's.
    pub async fn retry_execution(
        &self,
        execution: ExecutionId,
        expected: Expected<'_>,
    ) -> Result<Retried, StoreError> {
        let mut connection = self.connection_for_a_transaction().await?;
        let mut transaction = connection.begin().await?;
        // Lock: the execution's row, in a statement of its own: what a dispatcher that held it has just counted of a budget
        // would be missed otherwise.
        lock(&mut transaction, execution).await?;
        // Counts by url_queue_failed_idx; reads execution_budgets_pkey and page_counters_pkey. Pages below a path were counted
        // when they were first dispatched: only those that never were find its budget used up. A prefix has no `?`, so that it
        // can be compared with path and query together. By the clock, so that whatever is counted here has failed before.
        let row = sqlx::query!(
            r#"
            WITH execution AS (
                SELECT id, status, control_version, started_at,
                    CASE WHEN max_pages IS NOT NULL THEN greatest(max_pages - pages_admitted, 0) END AS room
                FROM workflow_executions WHERE id = $1
            ), found AS (
                SELECT count(*) AS pages, count(*) FILTER (WHERE NOT admitted) AS without_place
                FROM url_queue WHERE execution_id = $1 AND status = 'failed'
            ), failed AS (
                -- Without a limit there is no `room`, which `least` passes by.
                SELECT found.pages, found.pages - found.without_place + least(found.without_place, execution.room) AS go_back
                FROM execution CROSS JOIN found
            ), spent AS (
                SELECT budget.kind, budget.prefix
                FROM execution JOIN execution_budgets AS budget ON budget.execution_id = execution.id
                WHERE CASE budget.kind
                    WHEN 'time' THEN execution.started_at + budget.max * interval '1 second' <= now()
                    WHEN 'bytes' THEN budget.max <= (
                        SELECT sum(bytes) FROM page_counters WHERE execution_id = execution.id)
                    ELSE budget.used >= budget.max AND EXISTS (
                        SELECT FROM url_queue AS page
                        WHERE page.execution_id = execution.id AND page.status = 'failed'
                          AND NOT page.budgeted AND page.attempt = 0
                          AND starts_with(regexp_replace(page.url, '^[a-z]+://[^/]*', ''), budget.prefix)) END
                UNION ALL
                SELECT 'max_pages', '' FROM failed WHERE pages > 0 AND go_back = 0
            ), changed AS (
                UPDATE workflow_executions AS target
                SET status = CASE WHEN execution.status = 'paused' THEN 'paused' ELSE 'running' END,
                    completed_at = NULL, error = NULL, stats = '{}', retry_failed_before = clock_timestamp(),
                    control_version = execution.control_version + 1
                FROM execution, failed
                WHERE target.id = execution.id AND failed.pages > 0
                  AND execution.status IN ('running', 'paused', 'completed', 'failed')
                  AND NOT EXISTS (SELECT FROM spent)
                  AND ($2::int4[] IS NULL OR execution.control_version = ANY ($2))
                RETURNING target.status, target.control_version
            )
            SELECT execution.status AS "status!: ExecutionStatus", execution.control_version AS "version!",
                changed.status AS "new_status?: ExecutionStatus", changed.control_version AS "new_version?",
                CASE WHEN changed.status IS NULL THEN failed.pages ELSE failed.go_back END AS "pages!",
                ARRAY(SELECT kind FROM spent ORDER BY kind, prefix) AS "kinds!",
                ARRAY(SELECT prefix FROM spent ORDER BY kind, prefix) AS "prefixes!"
            FROM execution CROSS JOIN failed LEFT JOIN changed ON true
            "#,
            execution.0,
            expected,
        )
        .fetch_optional(&mut *transaction)
        .await?;
        transaction.commit().await?;
        let Some(row) = row else {
            return Ok(Retried { act: Controlled::NotFound, pages: 0, spent: Vec::new() });
        };
        let spent = row.kinds.into_iter().zip(row.prefixes);
        let act = Act {
            status: row.status,
            version: row.version,
            new_status: row.new_status,
            new_version: row.new_version,
        };
        Ok(Retried {
            act: judge(Some(act), expected, |_| false),
            pages: row.pages,
            spent: spent.map(|(kind, prefix)| SpentBudget::of(kind, prefix)).collect(),
        })
    }

    /// Puts the pages back that a retry wants, with a place in `max_pages` each; about [`SWEPT_AT_ONCE`] of them, of all
    /// executions or `only` one. Answers how many.
    pub(super) async fn put_failed_back(&self, only: Option<ExecutionId>) -> Result<u64, StoreError> {
        let mut put_back = 0;
        for _ in 0..PORTIONS {
            let Some(execution) = self.with_pages_to_try_afresh(only).await? else { break };
            put_back += self.put_portion_back(execution).await?;
            if put_back >= SWEPT_AT_ONCE.unsigned_abs() {
                break;
            }
        }
        Ok(put_back)
    }

    /// An execution whose retry has not ended.
    async fn with_pages_to_try_afresh(
        &self,
        only: Option<ExecutionId>,
    ) -> Result<Option<ExecutionId>, StoreError> {
        // By workflow_executions_pkey, in its order; mostly there is none.
        let found = sqlx::query_scalar!(
            "SELECT id FROM workflow_executions
             WHERE retry_failed_before > '-infinity' AND status IN ('running', 'paused') AND ($1::uuid IS NULL OR id = $1)
             ORDER BY id LIMIT 1",
            only.map(|id| id.0),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(found.map(ExecutionId))
    }

    /// Puts one portion of the failed pages of an execution back, those that failed first before the others, and ends the retry where
    /// none is left that could go. Answers how many.
    async fn put_portion_back(&self, execution: ExecutionId) -> Result<u64, StoreError> {
        let mut connection = self.connection_for_a_transaction().await?;
        let mut transaction = connection.begin().await?;
        // Lock: the execution's row before its pages, as who dispatches does, so that the places that are left are given away
        // once. It is waited for; a dispatcher goes on to other executions meanwhile.
        lock(&mut transaction, execution).await?;
        // Reads url_queue_failed_idx in its order, passing by those that find no place. No page is waited for; one that somebody
        // holds, to whom a late message speaks of it, goes back next time: the retry ends with a look that finds none left. A page
        // that fails once more has failed after the retry, and stays. What was counted of the pages is taken back under the nil
        // worker; the rows are locked, so each once. Attempts go on: a second one with the same number would pass the fence with
        // what the first one recorded.
        let put_back = sqlx::query_scalar!(
            r#"WITH execution AS (
                SELECT id, retry_failed_before,
                    CASE WHEN max_pages IS NULL THEN $2::int8 ELSE greatest(max_pages - pages_admitted, 0) END AS room
                FROM workflow_executions
                WHERE id = $1 AND retry_failed_before > '-infinity' AND status IN ('running', 'paused')
            ), with_place AS (
                SELECT id, host, rendered FROM url_queue
                WHERE execution_id = (SELECT id FROM execution) AND status = 'failed' AND admitted
                  AND processed_at < (SELECT retry_failed_before FROM execution)
                ORDER BY processed_at LIMIT $2::int8
                FOR NO KEY UPDATE SKIP LOCKED
            ), without_place AS (
                SELECT id, host, rendered FROM url_queue
                WHERE execution_id = (SELECT id FROM execution) AND status = 'failed' AND NOT admitted
                  AND processed_at < (SELECT retry_failed_before FROM execution)
                ORDER BY processed_at
                LIMIT (SELECT least(room, $2::int8 - (SELECT count(*) FROM with_place)) FROM execution)
                FOR NO KEY UPDATE SKIP LOCKED
            ), wanted AS (
                SELECT * FROM with_place UNION ALL SELECT * FROM without_place
            ), put_back AS (
                UPDATE url_queue
                SET status = 'pending', admitted = true, epoch = epoch + 1, requeues = 0, not_before = now(),
                    queued_at = NULL, error = NULL, error_class = NULL, failed_nodes = 0,
                    charged = 0, site_faults = 0, rate_limit_faults = 0, unavailable_faults = 0, proxy_faults = 0, browser_faults = 0,
                    worker_faults = 0,
                    final_url = NULL, rendered = NULL, processed_at = NULL
                WHERE id = ANY (ARRAY(SELECT id FROM wanted))
            ), new_lanes AS (
                -- They went when the execution ended.
                INSERT INTO lanes (execution_id, host)
                SELECT DISTINCT execution.id, wanted.host FROM execution CROSS JOIN wanted ORDER BY execution.id, wanted.host
                ON CONFLICT (execution_id, host) DO NOTHING
            ), another_chance AS (
                UPDATE hosts SET unreachable = 0, unreachable_until = '-infinity', unreachable_origins = '{}', refused = 0
                WHERE host IN (
                    SELECT host FROM hosts
                    WHERE (unreachable > 0 OR refused > 0) AND host IN (SELECT host FROM wanted)
                    ORDER BY host FOR UPDATE)
            ), uncounted AS (
                INSERT INTO page_counters AS c (execution_id, worker_id, failed, static_pages)
                SELECT execution.id, '00000000-0000-0000-0000-000000000000', -count(*),
                    -count(*) FILTER (WHERE wanted.rendered = 'static')
                FROM execution CROSS JOIN wanted GROUP BY execution.id
                ON CONFLICT (execution_id, worker_id) DO UPDATE
                    SET failed = c.failed + excluded.failed, static_pages = c.static_pages + excluded.static_pages
            ), looked_at AS (
                UPDATE workflow_executions AS target
                SET pages_admitted = target.pages_admitted + (SELECT count(*) FROM without_place),
                    -- As it was before this statement: what goes back with it counts, and another look follows.
                    retry_failed_before = CASE WHEN EXISTS (
                        SELECT FROM url_queue AS page
                        WHERE page.execution_id = execution.id AND page.status = 'failed'
                          AND page.processed_at < execution.retry_failed_before AND (page.admitted OR execution.room > 0))
                        THEN execution.retry_failed_before
                        -- That there was a retry is remembered.
                        ELSE '-infinity' END
                FROM execution WHERE target.id = execution.id
            )
            SELECT count(*) AS "count!" FROM wanted"#,
            execution.0,
            SWEPT_AT_ONCE,
        )
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(u64::try_from(put_back).unwrap_or(0))
    }
}
