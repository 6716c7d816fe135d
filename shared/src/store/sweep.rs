//! What concerns many pages of an execution at once, done in portions: pages that a limit leaves over are skipped,
//! those of a cancelled execution are cancelled, those of a host that is gone fail, and those that a raised limit, a changed budget or a retry wants are put back.
//!
//! Each statement takes a bounded number of rows through an index, in the index's order, and waits for no page: it
//! takes milliseconds, whatever the size of the frontier. The rows are then updated by their ids in an array, so that
//! the planner, whose statistics are old while a crawl grows, can only use the primary key. The finisher repeats them.

use sqlx::PgConnection;
use uuid::Uuid;

use super::budgets::change::FIRST_PAGE;
use super::budgets::refill::SPARE;
use super::{Store, StoreError};
use crate::domain::id::ExecutionId;

/// Rows of one statement at the most: some tens of milliseconds of writing.
pub const SWEPT_AT_ONCE: i64 = 5_000;

impl Store {
    /// Skips pages that an execution's limit leaves over, cancels those of cancelled executions, fails those of hosts that are
    /// gone, and gives back the places of those that robots.txt forbids; at most [`SWEPT_AT_ONCE`] of each. Answers how many.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn sweep_leftover_pages(&self) -> Result<u64, StoreError> {
        self.remove_lanes_of_cancelled().await?;
        self.note_what_is_swept().await?;
        Ok(self.skip_beyond_limits().await?
            + self.cancel_leftover_pages().await?
            + self.fail_unreachable_pages().await?
            + self.give_places_back().await?)
    }

    /// Fails the pages of hosts that could not be reached again and again, so that a crawl ends which has many of them. A
    /// page that is found later fails as well, until the host has been left alone long enough for another look.
    async fn fail_unreachable_pages(&self) -> Result<u64, StoreError> {
        // Reads hosts_unreachable_idx and hosts_refusing_idx, and for each lane url_queue_pending_idx in its order: the limit ends the scan before
        // the pages of another origin, which may be among them, are left out. Counted under the nil worker.
        let failed = sqlx::query!(
            r#"WITH gone AS (
                SELECT page.id, page.url, page.is_retried, lane.execution_id, host.host, host.unreachable, host.unreachable_origins,
                    host.refused >= 12 AND host.backoff_until > now() AS refuses, host.refused
                FROM hosts AS host JOIN lanes AS lane ON lane.host = host.host
                    JOIN workflow_executions AS execution ON execution.id = lane.execution_id
                    CROSS JOIN LATERAL (
                        SELECT id, url, charged + site_faults + rate_limit_faults + unavailable_faults + proxy_faults + browser_faults + worker_faults > 0
                            AS is_retried
                        FROM url_queue
                        WHERE execution_id = lane.execution_id AND host = lane.host AND status = 'pending'
                        ORDER BY priority DESC, not_before, id LIMIT $1
                        FOR UPDATE SKIP LOCKED
                    ) AS page
                WHERE execution.status = 'running'
                  -- Of a domain, one server may be gone while the others are well; one that serves is not refused in a row.
                  AND (host.unreachable >= 10 AND host.unreachable_until > now() AND NOT execution.per_domain
                      OR host.refused >= 12 AND host.backoff_until > now())
                LIMIT $1
            ), failing AS (
                SELECT id, execution_id, host, greatest(unreachable, refused) AS times, is_retried, refuses FROM gone
                WHERE refuses OR EXISTS (SELECT FROM unnest(unreachable_origins) AS origin WHERE starts_with(url, origin || '/'))
            ), unreached AS (
                UPDATE url_queue
                SET status = 'failed', error_class = 'connect', processed_at = now(),
                    error = 'its host could not be reached again and again: no other page of it is tried'
                WHERE id = ANY (ARRAY(SELECT id FROM failing WHERE NOT refuses))
            ), refused AS (
                UPDATE url_queue q
                SET status = 'failed', processed_at = now(),
                    error_class = (SELECT COALESCE(h.refused_with, 'http_5xx') FROM hosts h WHERE h.host = q.host),
                    error = 'its host answered again and again that it wants to be left alone: no other page of it is tried'
                WHERE id = ANY (ARRAY(SELECT id FROM failing WHERE refuses))
            ), counted AS (
                -- The retry that one waits for does not come.
                INSERT INTO page_counters AS c (execution_id, worker_id, failed, retried)
                SELECT execution_id, '00000000-0000-0000-0000-000000000000', count(*), -count(*) FILTER (WHERE is_retried)
                FROM failing GROUP BY execution_id ORDER BY execution_id
                ON CONFLICT (execution_id, worker_id) DO UPDATE
                    SET failed = c.failed + excluded.failed, retried = c.retried + excluded.retried
            )
            SELECT host AS "host!", max(times) AS "times!", bool_or(refuses) AS "refuses!", count(*) AS "pages!"
            FROM failing GROUP BY host"#,
            SWEPT_AT_ONCE,
        )
        .fetch_all(&self.steady)
        .await?;
        for row in &failed {
            tracing::warn!(
                host = row.host,
                times = row.times,
                refuses = row.refuses,
                pages = row.pages,
                "the host is not to be reached, or refuses every page: pages fail"
            );
        }
        Ok(failed.iter().map(|row| u64::try_from(row.pages).unwrap_or(0)).sum())
    }

    /// Gives the places back that pages had which were not loaded, because robots.txt forbids it, in `max_pages` and below paths
    /// that have budgets: others get them.
    async fn give_places_back(&self) -> Result<u64, StoreError> {
        // Reads url_queue_place_idx and execution_budgets_pkey. Lock: the execution's row before its pages and its budgets, as who
        // dispatches does.
        let given_back = sqlx::query_scalar!(
            r#"WITH execution AS (
                SELECT id FROM workflow_executions AS execution
                WHERE status IN ('running', 'paused') AND EXISTS (
                    SELECT FROM url_queue
                    WHERE execution_id = execution.id AND status = 'skipped' AND admitted AND error_class = 'robots'
                        AND final_url IS NULL)
                ORDER BY id FOR NO KEY UPDATE
            ), unused AS (
                SELECT page.* FROM execution CROSS JOIN LATERAL (
                    SELECT id, execution_id, url, budgeted FROM url_queue
                    WHERE execution_id = execution.id AND status = 'skipped' AND admitted AND error_class = 'robots'
                        AND final_url IS NULL
                    LIMIT $1 FOR UPDATE SKIP LOCKED
                ) AS page
                LIMIT $1
            ), without AS (
                UPDATE url_queue SET admitted = false, budgeted = false WHERE id = ANY (ARRAY(SELECT id FROM unused))
                RETURNING execution_id
            ), places AS (
                SELECT execution_id, count(*) AS pages FROM without GROUP BY execution_id
            ), below AS (
                -- One that was counted was so below each path that it is of. A prefix has no `?`, so that it can be compared with path
                -- and query together.
                SELECT page.execution_id, budget.prefix, count(*) AS pages
                FROM unused AS page JOIN execution_budgets AS budget ON budget.execution_id = page.execution_id
                WHERE page.budgeted AND budget.kind = 'path_prefix'
                  AND starts_with(regexp_replace(page.url, '^[a-z]+://[^/]*', ''), budget.prefix)
                GROUP BY page.execution_id, budget.prefix
            ), less_used AS (
                -- A budget that was removed meanwhile, and came again, has not counted them. Where it was not
                -- full, whoever was left out below it has been looked at since; one that was lowered may have no room yet.
                UPDATE execution_budgets AS budget
                SET used = greatest(budget.used - below.pages, 0),
                    to_fill = CASE WHEN greatest(budget.used - below.pages, 0) < budget.max
                        THEN CASE WHEN budget.used >= budget.max OR budget.to_fill IS NOT NULL
                            THEN least(CASE WHEN budget.used >= budget.max THEN $2::int8 ELSE budget.to_fill END + below.pages,
                                $2::int8 + budget.max - greatest(budget.used - below.pages, 0)) END END
                FROM below
                WHERE budget.execution_id = below.execution_id AND budget.kind = 'path_prefix' AND budget.prefix = below.prefix
                RETURNING budget.execution_id, budget.to_fill
            ), roomier AS (
                SELECT DISTINCT execution_id FROM less_used WHERE to_fill IS NOT NULL
            ), given_back AS (
                -- Joined, as this is evaluated anew where the row was waited for. Pages that had no place below those paths are
                -- looked at from the beginning.
                UPDATE workflow_executions AS execution
                SET pages_admitted = execution.pages_admitted - places.pages,
                    budget_places_after = CASE WHEN roomier.execution_id IS NULL THEN execution.budget_places_after
                        ELSE $3::uuid END
                FROM places LEFT JOIN roomier ON roomier.execution_id = places.execution_id
                WHERE execution.id = places.execution_id
            )
            SELECT count(*) AS "count!" FROM without"#,
            SWEPT_AT_ONCE,
            SPARE,
            FIRST_PAGE,
        )
        .fetch_one(&self.steady)
        .await?;
        Ok(u64::try_from(given_back).unwrap_or(0))
    }

    /// Removes what the dispatcher no longer looks at; a page that is recorded after the cancellation may add to it.
    async fn remove_lanes_of_cancelled(&self) -> Result<(), StoreError> {
        // Reads workflow_executions_unswept_idx, and for each execution lanes_pkey.
        sqlx::query!(
            "DELETE FROM lanes WHERE (execution_id, host) IN (
                SELECT lane.execution_id, lane.host
                FROM workflow_executions AS execution JOIN lanes AS lane ON lane.execution_id = execution.id
                WHERE execution.status = 'cancelled' AND execution.swept_at IS NULL
                LIMIT $1 FOR UPDATE OF lane SKIP LOCKED)",
            SWEPT_AT_ONCE,
        )
        .execute(&self.steady)
        .await?;
        Ok(())
    }

    /// Has nobody look any more into executions that were cancelled long ago and of which nothing is left.
    async fn note_what_is_swept(&self) -> Result<(), StoreError> {
        // Reads workflow_executions_unswept_idx, and for each execution url_queue_pending_idx, url_queue_open_idx, lanes_pkey. A page
        // in hand may still bring others, and where there is none nothing can.
        sqlx::query!(
            "UPDATE workflow_executions SET swept_at = now() WHERE id IN (
                SELECT id FROM workflow_executions AS execution
                WHERE status = 'cancelled' AND swept_at IS NULL AND completed_at < now() - interval '1 day'
                  AND NOT EXISTS (
                      SELECT FROM url_queue WHERE execution_id = execution.id AND status IN ('queued', 'processing'))
                  AND NOT EXISTS (SELECT FROM url_queue WHERE execution_id = execution.id AND status = 'pending')
                  AND NOT EXISTS (SELECT FROM lanes WHERE execution_id = execution.id)
                ORDER BY completed_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED)",
            SWEPT_AT_ONCE,
        )
        .execute(&self.steady)
        .await?;
        Ok(())
    }

    async fn skip_beyond_limits(&self) -> Result<u64, StoreError> {
        // Reads url_queue_pending_idx in its order, so that the limit ends the scan; rows that a worker or dispatcher
        // holds wait for the next step. A limit that is raised at this moment puts the pages back later.
        // Whatever was tried has its place, so that none of them waits for a retry.
        let skipped = sqlx::query!(
            "WITH over_limit AS (
                SELECT page.id
                FROM workflow_executions AS execution CROSS JOIN LATERAL (
                    SELECT id FROM url_queue
                    WHERE execution_id = execution.id AND status = 'pending' AND NOT admitted
                    ORDER BY host, priority DESC, not_before, id LIMIT $1
                    FOR UPDATE SKIP LOCKED
                ) AS page
                WHERE execution.status = 'running' AND execution.pages_admitted >= execution.max_pages
                LIMIT $1
            )
            UPDATE url_queue
            SET status = 'skipped', error = 'the page limit (max_pages) was reached', error_class = 'limit',
                processed_at = now()
            WHERE id = ANY (ARRAY(SELECT id FROM over_limit))",
            SWEPT_AT_ONCE,
        )
        .execute(&self.steady)
        .await?;
        Ok(skipped.rows_affected())
    }

    async fn cancel_leftover_pages(&self) -> Result<u64, StoreError> {
        // Reads workflow_executions_unswept_idx, and for each execution url_queue_pending_idx in its order and
        // url_queue_open_idx. Pages in hand are left to their workers, and swept once they are given back.
        // Counted under the nil worker.
        let cancelled = sqlx::query_scalar!(
            r#"WITH cancelled AS (
                SELECT id FROM workflow_executions
                WHERE status = 'cancelled' AND swept_at IS NULL
            ), waiting AS (
                SELECT page.id
                FROM cancelled CROSS JOIN LATERAL (
                    SELECT id FROM url_queue
                    WHERE execution_id = cancelled.id AND status = 'pending'
                    ORDER BY host, priority DESC, not_before, id LIMIT $1
                    FOR UPDATE SKIP LOCKED
                ) AS page
                LIMIT $1
            ), published AS (
                SELECT page.id
                FROM cancelled CROSS JOIN LATERAL (
                    SELECT id FROM url_queue
                    WHERE execution_id = cancelled.id AND status = 'queued'
                    LIMIT $1
                    FOR UPDATE SKIP LOCKED
                ) AS page
                LIMIT $1
            ), swept AS (
                UPDATE url_queue
                SET status = 'cancelled', error = 'the execution was cancelled', error_class = 'cancelled',
                    processed_at = now()
                WHERE id = ANY (ARRAY(SELECT id FROM waiting UNION ALL SELECT id FROM published))
                RETURNING execution_id,
                    charged + site_faults + rate_limit_faults + unavailable_faults + proxy_faults + browser_faults + worker_faults > 0
                        AS is_retried
            ), counted AS (
                -- The retry that one waits for does not come.
                INSERT INTO page_counters AS c (execution_id, worker_id, retried)
                SELECT execution_id, '00000000-0000-0000-0000-000000000000', -count(*)
                FROM swept WHERE is_retried GROUP BY execution_id ORDER BY execution_id
                ON CONFLICT (execution_id, worker_id) DO UPDATE SET retried = c.retried + excluded.retried
            )
            SELECT count(*) AS "count!" FROM swept"#,
            SWEPT_AT_ONCE,
        )
        .fetch_one(&self.steady)
        .await?;
        Ok(u64::try_from(cancelled).unwrap_or(0))
    }

    /// Puts pages back that a raised limit or a changed budget admits after all, those that a retry wants, and those for which places
    /// below their paths came free; some [`SWEPT_AT_ONCE`] of each, of all executions or `only` one. Answers how many.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn put_pages_back(&self, only: Option<ExecutionId>) -> Result<u64, StoreError> {
        // What a retry wants comes first where there are places in `max_pages` for some only.
        Ok(self.put_failed_back(only).await?
            + self.put_limited_back(only).await?
            + self.put_unspent_back(only).await?
            + self.put_into_free_places(only).await?)
    }

    async fn put_limited_back(&self, only: Option<ExecutionId>) -> Result<u64, StoreError> {
        // Reads url_queue_limit_idx in its order. No more than the limit has room for, and none while others wait
        // that it has not admitted yet: those that find no room would only be skipped again. The dispatcher looks at once into their
        // lanes, which went if the execution had ended, before a retry.
        let put_back = sqlx::query_scalar!(
            r#"WITH roomy AS (
                SELECT id, LEAST($2, max_pages - pages_admitted) AS room
                FROM workflow_executions AS execution
                WHERE status IN ('running', 'paused') AND ($1::uuid IS NULL OR id = $1)
                  AND (max_pages IS NULL OR pages_admitted < max_pages)
                  AND NOT EXISTS (
                      SELECT FROM url_queue AS page
                      WHERE page.execution_id = execution.id AND page.status = 'pending' AND NOT page.admitted)
            ), left_out AS (
                SELECT page.id
                FROM roomy CROSS JOIN LATERAL (
                    SELECT id FROM url_queue
                    WHERE execution_id = roomy.id AND status = 'skipped' AND error_class = 'limit'
                    ORDER BY priority DESC, created_at, id LIMIT roomy.room
                    FOR UPDATE SKIP LOCKED
                ) AS page
                LIMIT $2
            ), put_back AS (
                UPDATE url_queue
                SET status = 'pending', error = NULL, error_class = NULL, processed_at = NULL
                WHERE id = ANY (ARRAY(SELECT id FROM left_out))
                RETURNING execution_id, host
            ), lane AS (
                SELECT DISTINCT execution_id, host FROM put_back
            ), opened AS (
                SELECT open_lanes(array_agg(execution_id ORDER BY execution_id, host), array_agg(host ORDER BY execution_id, host))
                FROM lane HAVING count(*) > 0
            )
            -- What is asked for nowhere is not done.
            SELECT count(*) AS "count!" FROM put_back WHERE (SELECT count(*) FROM opened) >= 0"#,
            only.map(|id| id.0),
            SWEPT_AT_ONCE,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(u64::try_from(put_back).unwrap_or(0))
    }
}

/// Has the dispatcher look at once into the lanes of these executions' hosts, which pages were put back into, and makes those that are gone: they
/// went if the execution had ended, before a retry.
pub(super) async fn open_lanes(
    connection: &mut PgConnection,
    executions: &[Uuid],
    hosts: &[String],
) -> Result<(), StoreError> {
    if hosts.is_empty() {
        return Ok(());
    }
    // By lanes_pkey, in its order, as whoever records pages; in their transaction, so that none of them lies in a lane that is looked
    // at every 22 minutes, and as its last statement, as hosts and counters are locked before lanes. One that a dispatcher has in its hands
    // is waited for.
    sqlx::query_scalar!(r#"SELECT count(open_lanes($1, $2)) AS "count!""#, executions, hosts,)
        .fetch_one(connection)
        .await?;
    Ok(())
}
