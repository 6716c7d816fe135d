//! A retry: the failed pages of an execution are tried afresh, also of one that has ended.
//!
//! It only marks the execution, as every act of control does ([`super::control`]); the pages go back in portions. Each of them
//! goes back with its places, in `max_pages` and below paths that have budgets: those that it had, or such as are left
//! (`super::budgets::places`). These are taken by the retry itself, so that as many go back as it answers, whatever is
//! dispatched or limited meanwhile, and no page is skipped for want of a place, which would lose what is known of its failure.

use sqlx::Connection;

use super::budgets::lock;
use super::budgets::places::Plan;
use super::control::{Act, Controlled, Expected, judge};
use super::executions::ExecutionStatus;
use super::sweep::{SWEPT_AT_ONCE, open_lanes};
use super::{Store, StoreError};
use crate::domain::id::ExecutionId;

/// How many portions are put back in one go while they are small.
const PORTIONS: usize = 20;

/// How a retry ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retried {
    /// As with every act. Refused also where no page has failed, where time or bytes are used up, and where no failed page has
    /// its places, nor finds them.
    pub act: Controlled,
    /// Failed pages. Where it was done, those that go back: with those that an earlier retry has not put back yet.
    pub pages: i64,
    /// The budgets that are used up and keep failed pages from going back, in order.
    pub spent: Vec<SpentBudget>,
}

/// A budget that is used up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpentBudget {
    /// What its pages have received.
    Bytes,
    /// The pages: `max_pages`.
    Pages,
    /// The pages below this prefix.
    Path(String),
    /// The time since the execution's start.
    Time,
}

impl Store {
    /// Has the pages that have failed so far tried afresh. An execution that has ended runs again; a paused one stays
    /// paused; a cancelled one is refused. The pages themselves go back in portions ([`Store::put_pages_back`]), and
    /// the execution does not end before the last of them has.
    ///
    /// Where time or bytes are used up, nothing changes: pages would be skipped, what is known of their failures would be lost, and
    /// nothing tried. Of failed pages that were never dispatched, as those of a host that is gone, as many go back as there are
    /// places left in `max_pages` and below paths that have budgets, and the others stay as they are; where none goes back at all,
    /// nothing changes either.
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
        // Lock: the execution's row, in a statement of its own: what a dispatcher that held it has just counted would be missed
        // otherwise. Then its budgets.
        lock(&mut transaction, execution).await?;
        // By primary key. A workflow is deleted with a lock on the row, too. Places that an earlier retry has taken, and whose pages have not gone back yet, are given anew.
        let before = sqlx::query!(
            r#"SELECT status AS "status: ExecutionStatus", control_version,
                greatest(max_pages - pages_admitted + retry_places, CASE WHEN max_pages IS NOT NULL THEN 0 END) AS "room?"
            FROM workflow_executions WHERE id = $1 AND workflow_is_there(workflow_id)"#,
            execution.0,
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(before) = before else {
            return Ok(Retried { act: Controlled::NotFound, pages: 0, spent: Vec::new() });
        };
        let plan = Plan::make(&mut transaction, execution, before.room).await?;
        let may_run = !matches!(before.status, ExecutionStatus::Pending | ExecutionStatus::Cancelled);
        let is_expected = expected.is_none_or(|versions| versions.contains(&before.control_version));
        let mut act = Act {
            status: before.status,
            version: before.control_version,
            new_status: None,
            new_version: None,
        };
        let mut pages = plan.failed;
        if may_run && is_expected && !plan.is_over && plan.pages > 0 {
            plan.take_places(&mut transaction, execution).await?;
            // By the clock, so that whatever was counted above has failed before.
            let after = sqlx::query!(
                r#"UPDATE workflow_executions
                SET status = CASE WHEN status = 'paused' THEN 'paused' ELSE 'running' END,
                    completed_at = NULL, error = NULL, stats = '{}', retry_failed_before = clock_timestamp(),
                    retry_pages = $2, retry_places = $3, pages_admitted = pages_admitted - retry_places + $3,
                    control_version = control_version + 1
                WHERE id = $1
                RETURNING status AS "status: ExecutionStatus", control_version"#,
                execution.0,
                plan.pages,
                plan.places,
            )
            .fetch_one(&mut *transaction)
            .await?;
            (act.new_status, act.new_version) = (Some(after.status), Some(after.control_version));
            pages = plan.pages;
        }
        transaction.commit().await?;
        let act = judge(Some(act), expected, |_| false);
        Ok(Retried { act, pages, spent: plan.spent.into_iter().collect() })
    }

    /// Whether a page of an execution has failed: without one there is nothing to retry.
    ///
    /// # Errors
    /// The database's.
    pub async fn has_failed_pages(&self, execution: ExecutionId) -> Result<bool, StoreError> {
        // By url_queue_failed_idx.
        let has = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM url_queue WHERE execution_id = $1 AND status = 'failed') AS "has!""#,
            execution.0,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(has)
    }

    /// Puts the pages back that a retry wants, with their places; about [`SWEPT_AT_ONCE`] of them, of all
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
             WHERE (retry_failed_before > '-infinity' OR retry_places > 0) AND status IN ('running', 'paused')
               AND ($1::uuid IS NULL OR id = $1)
             ORDER BY id LIMIT 1",
            only.map(|id| id.0),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(found.map(ExecutionId))
    }

    /// Puts one portion of the failed pages of an execution back, those that failed first before the others, and ends the retry where
    /// all are back, or none is left that could go. Answers how many.
    async fn put_portion_back(&self, execution: ExecutionId) -> Result<u64, StoreError> {
        let mut connection = self.connection_for_a_transaction().await?;
        let mut transaction = connection.begin().await?;
        // Lock: the execution's row before its pages, as who dispatches does, so that each of its places is given away once. It is
        // waited for; a dispatcher goes on to other executions meanwhile.
        lock(&mut transaction, execution).await?;
        // Reads url_queue_failed_idx in its order, passing by those that have no place, in `max_pages` or below a path: of these all
        // that the retry gave places are `budgeted`, so that those below a path which has a budget only since then stay. No page is
        // waited for; one that somebody holds, to whom a late message speaks of it, goes back next time: the retry ends with a look
        // that finds none left, if not with the last page. A page that fails once more has failed after the retry, and stays. What
        // was counted of the pages is taken back under the nil worker; the rows are locked, so each once. Attempts go on: a second
        // one with the same number would pass the fence with what the first one recorded.
        let put_back = sqlx::query!(
            r#"WITH execution AS (
                -- A retry of an older version says no number, and its pages take their places as they go back. One that an older
                -- version has ended may have left places.
                SELECT id, retry_failed_before, retry_pages, least(retry_pages, $2::int8) AS portion, retry_pages IS NULL AS is_old,
                    CASE WHEN retry_pages IS NOT NULL THEN retry_places
                        WHEN max_pages IS NULL THEN $2::int8
                        ELSE greatest(max_pages - pages_admitted, 0) END AS places
                FROM workflow_executions
                WHERE id = $1 AND (retry_failed_before > '-infinity' OR retry_places > 0) AND status IN ('running', 'paused')
            ), with_place AS (
                SELECT id, host, rendered FROM url_queue
                WHERE execution_id = (SELECT id FROM execution) AND status = 'failed' AND admitted
                  AND processed_at < (SELECT retry_failed_before FROM execution)
                  AND (budgeted OR attempt > 0 OR (SELECT is_old FROM execution) OR NOT is_below_budgeted_path(execution_id, url))
                ORDER BY processed_at LIMIT (SELECT portion FROM execution)
                FOR NO KEY UPDATE SKIP LOCKED
            ), without_place AS (
                -- In the order in which the retry has counted them.
                SELECT id, host, rendered FROM url_queue
                WHERE execution_id = (SELECT id FROM execution) AND status = 'failed' AND NOT admitted
                  AND processed_at < (SELECT retry_failed_before FROM execution)
                  AND (budgeted OR attempt > 0 OR (SELECT is_old FROM execution) OR NOT is_below_budgeted_path(execution_id, url))
                ORDER BY processed_at, id
                LIMIT (SELECT least(places, portion - (SELECT count(*) FROM with_place)) FROM execution)
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
            ), another_chance AS (
                UPDATE hosts SET unreachable = 0, unreachable_until = '-infinity', unreachable_origins = '{}', refused = 0
                WHERE host IN (
                    SELECT host FROM hosts
                    WHERE (unreachable > 0 OR refused > 0) AND host IN (SELECT host FROM wanted)
                    ORDER BY host FOR NO KEY UPDATE)
            ), uncounted AS (
                INSERT INTO page_counters AS c (execution_id, worker_id, failed, static_pages)
                SELECT execution.id, '00000000-0000-0000-0000-000000000000', -count(*),
                    -count(*) FILTER (WHERE wanted.rendered = 'static')
                FROM execution CROSS JOIN wanted GROUP BY execution.id
                ON CONFLICT (execution_id, worker_id) DO UPDATE
                    SET failed = c.failed + excluded.failed, static_pages = c.static_pages + excluded.static_pages
            ), left_over AS (
                SELECT execution.id, execution.retry_pages - (SELECT count(*) FROM wanted) AS pages,
                    CASE WHEN is_old THEN 0 ELSE places - (SELECT count(*) FROM without_place) END AS places,
                    CASE WHEN is_old THEN (SELECT count(*) FROM without_place) ELSE 0 END AS newly_admitted,
                    -- As it was before this statement: what goes back with it counts, and another look follows.
                    EXISTS (
                        SELECT FROM url_queue AS page
                        WHERE page.execution_id = execution.id AND page.status = 'failed'
                          AND page.processed_at < execution.retry_failed_before
                          AND (page.admitted OR execution.places > 0)
                          AND (page.budgeted OR page.attempt > 0 OR execution.is_old
                              OR NOT is_below_budgeted_path(page.execution_id, page.url))) AS can_go
                FROM execution
            ), looked_at AS (
                UPDATE workflow_executions AS target
                SET retry_failed_before = CASE WHEN goes_on.it THEN target.retry_failed_before
                        -- That there was a retry is remembered.
                        ELSE '-infinity' END,
                    retry_pages = CASE WHEN goes_on.it THEN left_over.pages END,
                    retry_places = CASE WHEN goes_on.it THEN left_over.places ELSE 0 END,
                    -- Places for which no page was left are anybody's again.
                    pages_admitted = target.pages_admitted + left_over.newly_admitted
                        - CASE WHEN goes_on.it THEN 0 ELSE left_over.places END
                FROM left_over CROSS JOIN LATERAL (
                    SELECT left_over.pages IS DISTINCT FROM 0 AND left_over.can_go AS it
                ) AS goes_on
                WHERE target.id = left_over.id
            )
            SELECT host AS "host!", count(*) AS "pages!" FROM wanted GROUP BY host"#,
            execution.0,
            SWEPT_AT_ONCE,
        )
        .fetch_all(&mut *transaction)
        .await?;
        let pages: i64 = put_back.iter().map(|lane| lane.pages).sum();
        let hosts: Vec<String> = put_back.into_iter().map(|lane| lane.host).collect();
        open_lanes(&mut transaction, &vec![execution.0; hosts.len()], &hosts).await?;
        transaction.commit().await?;
        Ok(u64::try_from(pages).unwrap_or(0))
    }
}
