//! A retry: the failed pages of an execution are tried afresh, also of one that has ended.
//!
//! It only marks the execution, as every act of control does ([`super::control`]); the pages go back in portions.

use super::control::{Act, Controlled, Expected, judge};
use super::executions::ExecutionStatus;
use super::{Store, StoreError};
use crate::domain::id::ExecutionId;

/// How a retry ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retried {
    /// As with every act. Refused also where no page has failed, and where a budget would skip pages instead.
    pub act: Controlled,
    /// Failed pages: those that go back, where it was done.
    pub pages: i64,
    /// The budgets that are used up and would skip failed pages.
    pub spent: Vec<SpentBudget>,
}

/// A budget that is used up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpentBudget {
    /// The time since the execution's start.
    Time,
    /// What its pages have received.
    Bytes,
    /// The pages below this prefix.
    Path(String),
}

impl SpentBudget {
    fn of(kind: String, prefix: String) -> Self {
        match kind.as_str() {
            "time" => Self::Time,
            "bytes" => Self::Bytes,
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
    /// nothing tried.
    ///
    /// # Errors
    /// The database's.
    pub async fn retry_execution(
        &self,
        execution: ExecutionId,
        expected: Expected<'_>,
    ) -> Result<Retried, StoreError> {
        // Lock: the execution's row, as for every act. Counts in url_queue_failed_idx; reads execution_budgets_pkey and
        // page_counters_pkey. Pages below a path were counted when they were first dispatched: only those that never were
        // find its budget used up. A prefix has no `?`, so that it can be compared with path and query together.
        let row = sqlx::query!(
            r#"
            WITH execution AS (
                SELECT id, status, control_version, started_at
                FROM workflow_executions WHERE id = $1 FOR NO KEY UPDATE
            ), failed AS (
                SELECT count(*) AS pages FROM url_queue WHERE execution_id = $1 AND status = 'failed'
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
            ), changed AS (
                UPDATE workflow_executions AS target
                SET status = CASE WHEN execution.status = 'paused' THEN 'paused' ELSE 'running' END,
                    completed_at = NULL, error = NULL, stats = '{}', retry_failed_before = now(),
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
                failed.pages AS "pages!",
                ARRAY(SELECT kind FROM spent ORDER BY kind, prefix) AS "kinds!",
                ARRAY(SELECT prefix FROM spent ORDER BY kind, prefix) AS "prefixes!"
            FROM execution CROSS JOIN failed LEFT JOIN changed ON true
            "#,
            execution.0,
            expected,
        )
        .fetch_optional(&self.pool)
        .await?;
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
}
