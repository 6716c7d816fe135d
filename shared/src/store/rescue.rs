//! What the rescuer returns to the frontier: pages of lost workers and of lost messages. Several coordinators may do so at
//! once.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Store, StoreError};
use crate::crash::{self, CrashPoint};
use crate::domain::fault::{POISON_AFTER, SUSPECT_AFTER};

/// How long the rescuer waits for workers to be heard.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Unheard of for so long, a worker is lost.
    pub worker_lost_after: Duration,
    /// So long after the database's start, nobody is.
    pub after_start: Duration,
    /// The server that may say so: where another one answers, or this one too late, nobody is lost. `None` is whichever
    /// answers, at any time.
    pub server: Option<MeantServer>,
}

/// A server that was looked at ([`Store::server_time`]).
#[derive(Clone, Copy, Debug)]
pub struct MeantServer {
    /// Its start.
    pub started_at: DateTime<Utc>,
    /// Until then by its clock: one that shows a later time has leapt since it was looked at.
    pub not_after: DateTime<Utc>,
}

/// What a step of the rescuer returned to the frontier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rescued {
    /// Workers that were given up.
    pub workers_lost: u64,
    /// Pages that may be tried again.
    pub pages_returned: u64,
    /// Pages that took down a worker once too often.
    pub pages_quarantined: u64,
    /// Pages whose message seems lost, to be published again.
    pub pages_requeued: u64,
}

impl Store {
    /// Returns the pages of lost workers and of lost messages to the frontier.
    ///
    /// A page whose workers were lost [`POISON_AFTER`] times is quarantined instead; one that has to be alone is charged only if
    /// it was ([`HotStore::begin_alone`](super::hot::HotStore::begin_alone)), and one that was executed and waited to be recorded
    /// ([`HotStore::name_unrecorded`](super::hot::HotStore::name_unrecorded)) never; while its worker lives, that one is not
    /// returned either. Both hold until a day after the end of its lease, so that nothing waits for ever. A page is `queued` for longer than
    /// `message_lost_after` when its message is lost, or when the fleet is slow; then it is published once more, each time
    /// after twice as long, and the message that comes second finds nothing to claim. Where `patience` is `None`, no worker
    /// is lost yet.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn rescue(
        &self,
        patience: Option<Patience>,
        message_lost_after: Duration,
    ) -> Result<Rescued, StoreError> {
        let (workers_lost, pages_returned, pages_quarantined) = match patience {
            Some(patience) => {
                let rescued = self.rescue_from_workers(patience).await?;
                crash::reach(CrashPoint::AfterReturnBeforeRequeue);
                rescued
            }
            None => (0, 0, 0),
        };
        Ok(Rescued {
            workers_lost,
            pages_returned,
            pages_quarantined,
            pages_requeued: self.rescue_from_queue(message_lost_after).await?,
        })
    }

    async fn rescue_from_workers(&self, patience: Patience) -> Result<(u64, u64, u64), StoreError> {
        let started_at = patience.server.map(|server| server.started_at);
        let not_after = patience.server.map(|server| server.not_after);
        // A database that was away has heard of nobody, and held up every record: for as long as it takes to be heard,
        // nobody is lost.
        let workers = sqlx::query!(
            "UPDATE workers SET status = 'lost'
             WHERE status IN ('ready', 'draining') AND heartbeat_at < now() - $1::float8 * interval '1 second'
               AND pg_postmaster_start_time() < now() - $2::float8 * interval '1 second'
               AND ($3::timestamptz IS NULL OR pg_postmaster_start_time() = $3)
               AND ($4::timestamptz IS NULL OR now() <= $4)",
            patience.worker_lost_after.as_secs_f64(),
            patience.after_start.as_secs_f64(),
            started_at,
            not_after,
        )
        .execute(&self.pool)
        .await?;
        crash::reach(CrashPoint::AfterLossBeforeReturn);
        // Reads url_queue_open_idx, then by primary key, as in the record. Lock: the pages, skipping those that others hold. The
        // counters of lost pages are kept under the nil worker.
        let pages = sqlx::query!(
            r#"WITH seen AS MATERIALIZED (
                SELECT q.id, q.epoch, q.locked_by, q.locked_until, w.id IS NULL AS is_unknown,
                    w.status AS worker_status, w.name, w.heartbeat_at, w.alone_with, w.alone_epoch, recording.waits
                FROM url_queue q LEFT JOIN workers w ON w.id = q.locked_by CROSS JOIN LATERAL (
                    -- For a day: no page keeps its execution from ending for ever.
                    SELECT COALESCE(concat_ws('/', q.id, q.epoch, q.attempt) = ANY (w.unrecorded)
                        AND q.locked_until >= now() - interval '1 day', false) AS waits
                ) recording
                WHERE q.status = 'processing' AND ($4::timestamptz IS NULL OR pg_postmaster_start_time() = $4)
                  AND ($5::timestamptz IS NULL OR now() <= $5)
                  AND (w.id IS NULL OR w.status IN ('lost', 'stopped')
                      OR (q.locked_until < now() AND NOT recording.waits AND pg_postmaster_start_time() < now() - $2::float8 * interval '1 second'))
            ), orphan AS (
                -- Not locked where its worker is looked up: who locks a row that was changed meanwhile compares it, as it is by
                -- then, with the same row of `workers` as before. A page that another rescuer returned, and that a healthy
                -- worker has by then, would be in the hands of nobody that is known. Here it is of another epoch.
                -- A worker that said goodbye is nobody's loss, a suspect that only waited to be alone took nobody down, and neither did a
                -- page that had been executed and could not be recorded.
                SELECT q.id, q.locked_by, q.locked_until < now() AS is_overdue, seen.name,
                    seen.is_unknown OR seen.worker_status = 'lost' AS is_unheard,
                    extract(epoch FROM greatest(seen.heartbeat_at - q.locked_at, interval '0'))::int8 AS held_for,
                    (seen.worker_status IS DISTINCT FROM 'stopped' AND NOT seen.waits
                        AND (greatest(q.worker_faults, q.browser_faults) < $3 OR seen.is_unknown
                            OR (seen.alone_with, seen.alone_epoch) IS NOT DISTINCT FROM (q.id, q.epoch)))::int AS fault
                FROM seen JOIN url_queue q ON q.id = seen.id AND q.epoch = seen.epoch
                WHERE q.status IS NOT DISTINCT FROM 'processing'
                  AND (q.locked_by, q.locked_until) IS NOT DISTINCT FROM (seen.locked_by, seen.locked_until)
                LIMIT 1000 FOR UPDATE OF q SKIP LOCKED
            ), returned AS (
                UPDATE url_queue q
                SET status = CASE WHEN q.worker_faults + o.fault >= $1 THEN 'failed' ELSE 'pending' END,
                    processed_at = CASE WHEN q.worker_faults + o.fault >= $1 THEN now() END,
                    worker_faults = q.worker_faults + o.fault, attempt = q.attempt - 1 + o.fault,
                    epoch = q.epoch + 1, locked_at = NULL, locked_by = NULL, locked_until = NULL,
                    error_class = CASE WHEN q.worker_faults + o.fault >= $1 THEN 'poison' ELSE 'worker_lost' END,
                    error = CASE WHEN q.worker_faults + o.fault >= $1
                        THEN 'quarantined: ' || (q.worker_faults + o.fault) || ' times its worker was lost, or held it longer than its lease'
                        ELSE 'the worker was lost on attempt ' || q.attempt END
                FROM orphan o WHERE q.id = o.id
                RETURNING q.id, q.execution_id, q.host, q.status, q.epoch, q.attempt, o.locked_by, o.is_overdue, o.is_unheard, o.fault, o.name,
                    o.held_for
            ), evidence AS (
                INSERT INTO lost_attempts (page_id, epoch, attempt, fault, worker_id, standing, error)
                SELECT id, epoch, attempt, 'worker', locked_by,
                    CASE WHEN is_unheard AND NOT is_overdue THEN 'provisional' ELSE 'final' END,
                    CASE WHEN is_overdue THEN 'the page was held longer than its lease'
                        ELSE format('the worker %s was not heard of any more, with %s other pages in its hands; it had this one for %s s',
                            COALESCE(name, 'that nobody knows'),
                            (SELECT count(*) - 1 FROM returned AS beside WHERE beside.locked_by = returned.locked_by),
                            COALESCE(held_for, 0)) END
                FROM returned WHERE fault > 0
                ON CONFLICT (page_id, epoch, attempt) DO NOTHING
            ), woken AS (
                -- In the order of whoever records pages.
                UPDATE lanes SET due_at = now(), misses = 0
                WHERE (execution_id, host) IN (
                    SELECT lane.execution_id, lane.host FROM lanes lane
                    WHERE (lane.execution_id, lane.host) IN (SELECT execution_id, host FROM returned WHERE status = 'pending')
                    ORDER BY lane.execution_id, lane.host FOR UPDATE)
            ), counted AS (
                INSERT INTO page_counters AS c (execution_id, worker_id, failed, retried)
                SELECT execution_id, '00000000-0000-0000-0000-000000000000', count(*) FILTER (WHERE status = 'failed'),
                    -- What a worker that stopped had in hand was not tried.
                    count(*) FILTER (WHERE status = 'pending' AND fault > 0)
                FROM returned GROUP BY execution_id ORDER BY execution_id
                ON CONFLICT (execution_id, worker_id) DO UPDATE
                    SET failed = c.failed + excluded.failed, retried = c.retried + excluded.retried
            )
            SELECT count(*) FILTER (WHERE status = 'pending') AS "returned!",
                count(*) FILTER (WHERE status = 'failed') AS "quarantined!"
            FROM returned"#,
            i32::from(POISON_AFTER),
            patience.after_start.as_secs_f64(),
            SUSPECT_AFTER,
            started_at,
            not_after,
        )
        .fetch_one(&self.pool)
        .await?;
        let count = |count| u64::try_from(count).unwrap_or(0);
        Ok((workers.rows_affected(), count(pages.returned), count(pages.quarantined)))
    }

    async fn rescue_from_queue(&self, message_lost_after: Duration) -> Result<u64, StoreError> {
        let requeued = sqlx::query_scalar!(
            "WITH returned AS (
                UPDATE url_queue q SET status = 'pending', queued_at = NULL, requeues = q.requeues + 1,
                    -- Where a host bears only so many pages, the first message must find nothing: others may be sent meanwhile.
                    epoch = q.epoch + host_is_limited(q.host)::int
                WHERE q.id IN (
                    SELECT id FROM url_queue
                    WHERE status = 'queued'
                      AND queued_at < now() - $1::float8 * power(2, least(requeues, 3)) * interval '1 second'
                    LIMIT 1000 FOR UPDATE SKIP LOCKED)
                RETURNING execution_id, host
            ), woken AS (
                UPDATE lanes SET due_at = now(), misses = 0
                WHERE (execution_id, host) IN (
                    SELECT lane.execution_id, lane.host FROM lanes lane
                    WHERE (lane.execution_id, lane.host) IN (SELECT execution_id, host FROM returned)
                    ORDER BY lane.execution_id, lane.host FOR UPDATE)
            )
            SELECT count(*) AS \"requeued!\" FROM returned",
            message_lost_after.as_secs_f64(),
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(u64::try_from(requeued).unwrap_or(0))
    }
}
