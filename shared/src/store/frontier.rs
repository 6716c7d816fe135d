//! The coordinator's side of the frontier: what the dispatcher picks and marks, what the finisher ends, what the
//! rescuer returns. Several coordinators may run each of these at once.

use std::time::Duration;

use super::{Store, StoreError};
use crate::domain::id::{ExecutionId, PageId};
use crate::domain::page_url::PageUrl;

/// An execution that may have pages to dispatch.
#[derive(Clone, Copy, Debug)]
pub struct RunningExecution {
    /// Its id.
    pub id: ExecutionId,
    /// Pages that are `queued` or `processing` now.
    pub in_flight: i64,
}

/// A page that one dispatcher publishes; no other one does for a few seconds.
#[derive(Clone, Debug)]
pub struct ReservedPage {
    /// The frontier row.
    pub page_id: PageId,
    /// Its execution.
    pub execution_id: ExecutionId,
    /// What the message must say for a claim to find the row.
    pub epoch: i32,
    /// The page's address.
    pub url: PageUrl,
}

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
    /// The executions that run, oldest first, at most 1,000; `only` narrows them down to one.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn running_executions(
        &self,
        only: Option<ExecutionId>,
    ) -> Result<Vec<RunningExecution>, StoreError> {
        // Reads workflow_executions_running_idx, and for each row a part of url_queue_open_idx.
        let rows = sqlx::query!(
            r#"SELECT e.id,
                (SELECT count(*) FROM url_queue q
                 WHERE q.execution_id = e.id AND q.status IN ('queued', 'processing')) AS "in_flight!"
             FROM workflow_executions e
             WHERE e.status = 'running' AND ($1::uuid IS NULL OR e.id = $1)
             ORDER BY e.started_at LIMIT 1000"#,
            only.map(|id| id.0),
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| RunningExecution { id: ExecutionId(row.id), in_flight: row.in_flight })
            .collect())
    }

    /// How many pages the living workers can execute at once.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn live_slots(&self, worker_lost_after: Duration) -> Result<i64, StoreError> {
        let slots = sqlx::query_scalar!(
            r#"SELECT COALESCE(sum(slots), 0) AS "slots!" FROM workers
             WHERE status = 'ready' AND heartbeat_at > now() - $1::float8 * interval '1 second'"#,
            worker_lost_after.as_secs_f64(),
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(slots)
    }

    /// Reserves up to `limit` due pages of an execution for publishing, in the frontier's order: priority, then age.
    ///
    /// A page that was never dispatched is admitted here, against the execution's page limit. Of a host with a delay
    /// at most one page is reserved, and none before its time.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn reserve_pages(
        &self,
        execution: ExecutionId,
        limit: i64,
    ) -> Result<Vec<ReservedPage>, StoreError> {
        // Locks the execution's row (so that the page limit is exact; another coordinator goes on to the next one
        // meanwhile) and the picked rows, found through url_queue_pending_idx. Not `FOR UPDATE`: whoever records
        // pages holds the row's key, and a busy fleet always does.
        let rows = sqlx::query!(
            r#"WITH execution AS (
                SELECT id, host_delay_ms, max_pages - pages_admitted AS remaining
                FROM workflow_executions WHERE id = $1 AND status = 'running'
                FOR NO KEY UPDATE SKIP LOCKED
            ), due AS (
                -- Not joined, so that the index gives the order and the limit ends the scan.
                SELECT q.id, q.host, q.admitted, q.priority, q.created_at
                FROM url_queue q
                WHERE q.execution_id = $1 AND EXISTS (SELECT FROM execution)
                  AND q.status = 'pending' AND q.not_before <= now()
                  AND (q.reserved_until IS NULL OR q.reserved_until < now())
                  AND (q.admitted OR (SELECT remaining IS NULL OR remaining > 0 FROM execution))
                  AND ((SELECT host_delay_ms = 0 FROM execution)
                      OR NOT EXISTS (SELECT FROM hosts h WHERE h.host = q.host AND h.next_dispatch_at > now()))
                ORDER BY q.priority DESC, q.created_at, q.id
                LIMIT $2
                FOR UPDATE OF q SKIP LOCKED
            ), numbered AS (
                SELECT d.*, row_number() OVER (PARTITION BY d.admitted ORDER BY d.priority DESC, d.created_at, d.id)
                        AS place_in_limit,
                    row_number() OVER (PARTITION BY d.host ORDER BY d.priority DESC, d.created_at, d.id)
                        AS place_in_host
                FROM due d
            ), polite AS (
                SELECT n.* FROM numbered n, execution e
                WHERE (n.admitted OR e.remaining IS NULL OR n.place_in_limit <= e.remaining)
                  AND (e.host_delay_ms = 0 OR n.place_in_host = 1)
            ), host_turn AS (
                INSERT INTO hosts AS h (host, next_dispatch_at)
                SELECT p.host, now() + e.host_delay_ms * interval '1 millisecond'
                FROM polite p, execution e WHERE e.host_delay_ms > 0 ORDER BY p.host
                ON CONFLICT (host) DO UPDATE SET next_dispatch_at = excluded.next_dispatch_at
                    WHERE h.next_dispatch_at <= now()
                RETURNING h.host
            ), chosen AS (
                SELECT p.id, p.admitted FROM polite p, execution e
                WHERE e.host_delay_ms = 0 OR p.host IN (SELECT host FROM host_turn)
            ), counted AS (
                UPDATE workflow_executions e
                SET pages_admitted = e.pages_admitted + (SELECT count(*) FROM chosen WHERE NOT admitted)
                WHERE e.id = $1 AND EXISTS (SELECT FROM chosen WHERE NOT admitted)
            )
            UPDATE url_queue q SET admitted = true, reserved_until = now() + interval '10 seconds'
            FROM chosen c WHERE q.id = c.id
            RETURNING q.id, q.execution_id, q.epoch, q.url"#,
            execution.0,
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        let (mut pages, mut unreadable) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            match PageUrl::parse(&row.url) {
                Ok(url) => pages.push(ReservedPage {
                    page_id: PageId(row.id),
                    execution_id: ExecutionId(row.execution_id),
                    epoch: row.epoch,
                    url,
                }),
                Err(error) => {
                    tracing::error!(page.id = %row.id, %error, "the page's URL cannot be read: the page fails");
                    unreadable.push(row.id);
                }
            }
        }
        if !unreadable.is_empty() {
            self.fail_unreadable_pages(&unreadable).await?;
        }
        Ok(pages)
    }

    /// Ends reserved pages whose URL another version has written, so that they hold nothing up.
    async fn fail_unreadable_pages(&self, pages: &[uuid::Uuid]) -> Result<(), StoreError> {
        // By primary key; the reservation keeps other dispatchers away. Counted under the nil worker.
        sqlx::query!(
            "WITH failed AS (
                UPDATE url_queue SET status = 'failed', processed_at = now(), reserved_until = NULL,
                    error = 'the URL cannot be read by this version', error_class = 'internal'
                WHERE id = ANY($1) AND status = 'pending'
                RETURNING execution_id
            )
            INSERT INTO page_counters AS c (execution_id, worker_id, failed)
            SELECT execution_id, '00000000-0000-0000-0000-000000000000', count(*) FROM failed
            GROUP BY execution_id ORDER BY execution_id
            ON CONFLICT (execution_id, worker_id) DO UPDATE SET failed = c.failed + excluded.failed",
            pages,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Marks published pages `queued`. One that a worker has claimed already, or is claiming now, stays as it is.
    ///
    /// # Errors
    /// As every statement of the store; the reservation then runs out, and the pages are published again, harmlessly.
    pub async fn mark_queued(&self, pages: &[ReservedPage]) -> Result<(), StoreError> {
        // Workers claim many of these rows in one statement at this very moment: it waits for none of them, so that
        // the two cannot deadlock. By primary key: `IS NOT DISTINCT FROM` keeps the planner, whose statistics are old
        // while a crawl grows, from reading the whole of url_queue_pending_idx instead.
        let (ids, epochs) = keys(pages);
        sqlx::query!(
            "UPDATE url_queue SET status = 'queued', queued_at = now(), reserved_until = NULL
             WHERE id IN (
                SELECT q.id FROM url_queue q JOIN unnest($1::uuid[], $2::int4[]) AS p (id, epoch)
                    ON q.id = p.id AND q.epoch = p.epoch
                WHERE q.status IS NOT DISTINCT FROM 'pending' FOR UPDATE OF q SKIP LOCKED)",
            &ids,
            &epochs,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Ends the reservation of pages whose publishing was not confirmed: any dispatcher may try again at once.
    ///
    /// # Errors
    /// As every statement of the store; the reservation then runs out by itself.
    pub async fn end_reservation(&self, pages: &[ReservedPage]) -> Result<(), StoreError> {
        // As for `mark_queued`: what was not confirmed may have been published, and may be claimed now.
        let (ids, epochs) = keys(pages);
        sqlx::query!(
            "UPDATE url_queue SET reserved_until = NULL
             WHERE id IN (
                SELECT q.id FROM url_queue q JOIN unnest($1::uuid[], $2::int4[]) AS p (id, epoch)
                    ON q.id = p.id AND q.epoch = p.epoch
                WHERE q.status IS NOT DISTINCT FROM 'pending' FOR UPDATE OF q SKIP LOCKED)",
            &ids,
            &epochs,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

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
                RETURNING q.execution_id, q.status
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
        let requeued = sqlx::query!(
            "UPDATE url_queue q SET status = 'pending', queued_at = NULL, requeues = q.requeues + 1
             WHERE q.id IN (
                SELECT id FROM url_queue
                WHERE status = 'queued'
                  AND queued_at < now() - $1::float8 * power(2, least(requeues, 10)) * interval '1 second'
                LIMIT 1000 FOR UPDATE SKIP LOCKED)",
            message_lost_after.as_secs_f64(),
        )
        .execute(&self.pool)
        .await?;
        Ok(Rescued {
            workers_lost: workers.rows_affected(),
            pages_returned: u64::try_from(pages.returned).unwrap_or(0),
            pages_failed: u64::try_from(pages.failed).unwrap_or(0),
            pages_requeued: requeued.rows_affected(),
        })
    }

    /// Makes the partitions of `node_executions` for today and the days to come.
    ///
    /// # Errors
    /// As every statement of the store; among them, that somebody has been reading the table for long. The default
    /// partition takes the rows meanwhile.
    pub async fn create_partitions(&self, days_ahead: i32) -> Result<(), StoreError> {
        // A new partition locks the whole table. Whoever records waits behind us while we wait for that, so it is
        // not for long.
        sqlx::query_scalar!(
            "SELECT count(create_node_executions_partition((now() AT TIME ZONE 'UTC')::date + day))
             FROM set_config('lock_timeout', '2s', true), generate_series(0, $1) AS day",
            days_ahead,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(())
    }
}

fn keys(pages: &[ReservedPage]) -> (Vec<uuid::Uuid>, Vec<i32>) {
    pages.iter().map(|page| (page.page_id.0, page.epoch)).unzip()
}
