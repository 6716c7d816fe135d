//! What the dispatcher picks. Several coordinators may do so at once.
//!
//! Pages wait in *lanes*, one for each host of an execution. A step looks only at lanes that are due, and in each only at
//! its first pages: it costs the same however many pages and hosts wait.

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
    /// Its share of the fleet, beside that of the others with the same priority.
    pub weight: i32,
    /// Executions with a higher one go first.
    pub priority: i32,
    /// Whether what it may spend is limited ([`Store::within_budgets`]).
    pub has_budgets: bool,
    /// Whether [`Store::reserve_pages`] has anything to look at.
    pub is_due: bool,
}

/// A page that a dispatcher has made `queued`, and publishes.
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

impl Store {
    /// The executions that run, oldest first; `only` narrows them down to one.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn running_executions(
        &self,
        only: Option<ExecutionId>,
    ) -> Result<Vec<RunningExecution>, StoreError> {
        // Reads workflow_executions_running_idx, and for each row a part of url_queue_open_idx, of execution_budgets_pkey
        // and of lanes_due_idx. All of them: one that was left out would starve. Those of which nothing is due cost no more
        // than this.
        let rows = sqlx::query!(
            r#"SELECT e.id, e.weight, e.priority,
                (SELECT count(*) FROM url_queue q
                 WHERE q.execution_id = e.id AND q.status IN ('queued', 'processing')) AS "in_flight!",
                EXISTS (SELECT FROM execution_budgets b WHERE b.execution_id = e.id) AS "has_budgets!",
                EXISTS (SELECT FROM lanes l WHERE l.execution_id = e.id AND l.due_at <= now()) AS "is_due!"
             FROM workflow_executions e
             WHERE e.status = 'running' AND ($1::uuid IS NULL OR e.id = $1)
             ORDER BY e.started_at"#,
            only.map(|id| id.0),
        )
        .fetch_all(&self.steady)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| RunningExecution {
                id: ExecutionId(row.id),
                in_flight: row.in_flight,
                weight: row.weight,
                priority: row.priority,
                has_budgets: row.has_budgets,
                is_due: row.is_due,
            })
            .collect())
    }

    /// How many pages the living workers want under way: as many as they execute at once, and some more.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn wanted_pages(&self, worker_lost_after: Duration) -> Result<i64, StoreError> {
        // One that has just come, or is of an older version, has not said it.
        let pages = sqlx::query_scalar!(
            r#"SELECT COALESCE(sum(COALESCE(wants, 4 * slots)), 0) AS "pages!" FROM workers
             WHERE status = 'ready' AND heartbeat_at > now() - $1::float8 * interval '1 second'"#,
            worker_lost_after.as_secs_f64(),
        )
        .fetch_one(&self.steady)
        .await?;
        Ok(pages)
    }

    /// Makes up to `limit` due pages of an execution `queued`, for publishing: of each lane that is due the first by
    /// priority, then by when they might be tried, lanes taking turns.
    ///
    /// A page that was never dispatched is admitted here, against the execution's page limit. Of a host with a delay
    /// at most one page is taken, and none before its time: the longest delay that any running execution asks for holds
    /// for all, and so does the host's robots file's while one of them obeys it. A host is asked for no more pages at
    /// once than the strictest execution allows, however many dispatchers meet.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn reserve_pages(
        &self,
        execution: ExecutionId,
        limit: i64,
    ) -> Result<Vec<ReservedPage>, StoreError> {
        // Locks the execution's row (so that the page limit is exact; another coordinator goes on to the next one
        // meanwhile), the lanes that are due (by lanes_due_idx), their hosts, and the picked rows (by
        // url_queue_pending_idx or url_queue_admitted_idx), all of them skipping what is locked: it waits for nobody. Not `FOR UPDATE` of the
        // execution: whoever records pages holds the row's key, and a busy fleet always does.
        // A host's page is taken up to a second, or a delay, before its start: the claim gives the exact time.
        let rows = sqlx::query!(
            r#"WITH execution AS (
                SELECT id, max_pages - pages_admitted AS remaining, per_domain
                FROM workflow_executions WHERE id = $1 AND status = 'running'
                FOR NO KEY UPDATE SKIP LOCKED
            ), in_front AS (
                SELECT l.host, l.misses, l.due_at FROM lanes l
                WHERE l.execution_id = $1 AND EXISTS (SELECT FROM execution) AND l.due_at <= now()
                ORDER BY l.due_at LIMIT greatest($2::int8, 16)
                FOR UPDATE SKIP LOCKED
            ), due AS (
                -- Where few pages are wanted, more lanes are looked at, so that it gets past those that have none; but no more of
                -- those that had one the last time.
                SELECT f.host, f.misses, f.due_at
                FROM (
                    SELECT f.*, count(*) FILTER (WHERE f.misses = 0) OVER (ORDER BY f.due_at, f.host) AS with_pages
                    FROM in_front f
                ) f
                WHERE f.with_pages <= $2
            ), pace AS (
                SELECT d.host, d.misses, d.due_at, h.next_dispatch_at, h.next_start_at, h.delay_ms AS known_delay_ms, h.delay_seen_at,
                    greatest(h.backoff_until, CASE WHEN NOT per_domain THEN h.unreachable_until END) AS backoff_until,
                    -- One page at a time sees whether a host that was not to be reached, or refused the last one, has changed.
                    -- And few at a time see whether one that answers 503 bears more.
                    least(strictest.concurrency, CASE WHEN doubt.holds THEN 1
                        WHEN h.is_doubted AND h.credit < 0 AND h.backoff_until > now() - interval '1 minute' THEN 4 END) AS concurrency, doubt.holds AS is_doubted,
                    CASE WHEN host_said_long_ago(h.backoff_until, h.asked_at, h.delay_ms) THEN asked_for.delay_ms
                        ELSE host_pace_ms(asked_for.delay_ms, h.pace_level) END AS delay_ms,
                    -- A part of a site that does not work must not hide that the rest does: then the last one sees that nobody
                    -- has tried.
                    refuses.it AND h.refused >= 3 AND h.refused % 2 = 1 AND EXISTS (
                        SELECT FROM url_queue q WHERE q.execution_id = $1 AND q.host = d.host AND q.status = 'pending'
                            AND q.not_before <= now() AND q.attempt = 0) AS is_last_first
                FROM execution, due d JOIN hosts h ON h.host = d.host CROSS JOIN LATERAL (
                    SELECT h.refused > 0 AND h.backoff_until > now() - interval '1 minute' AS it
                ) refuses CROSS JOIN LATERAL (
                    SELECT h.unreachable >= 3 AND h.unreachable_until > now() - interval '1 minute' AND NOT per_domain
                        OR refuses.it AS holds
                ) doubt CROSS JOIN LATERAL (
                    SELECT max(e.host_delay_ms) AS delay_ms, min(e.host_concurrency) AS concurrency,
                        bool_or(e.adaptive_delay) AS adaptive, bool_or(e.obeys_robots) AS obeys_robots
                    FROM lanes o JOIN workflow_executions e ON e.id = o.execution_id AND e.status = 'running'
                    WHERE o.host = d.host
                ) strictest CROSS JOIN LATERAL (
                    SELECT greatest(strictest.delay_ms,
                        CASE WHEN strictest.obeys_robots THEN h.crawl_delay_ms ELSE 0 END,
                        CASE WHEN strictest.adaptive THEN h.latency_ms ELSE 0 END) AS delay_ms
                ) asked_for
                FOR UPDATE OF h SKIP LOCKED
            ), kept AS (
                -- The next turn is one delay after the last one: the delay that holds now, and not the one that held then. What a
                -- dispatcher that began after us has seen, and we may not have, counts.
                SELECT p.host, p.misses, p.due_at, p.backoff_until, p.concurrency, p.is_doubted, p.is_last_first, p.known_delay_ms, d.delay_ms,
                    p.next_dispatch_at + (d.delay_ms - p.known_delay_ms) * 1.03 * interval '1 millisecond' AS next_dispatch_at,
                    p.next_start_at + (d.delay_ms - p.known_delay_ms) * 1.03 * interval '1 millisecond' AS next_start_at
                FROM pace p CROSS JOIN LATERAL (
                    SELECT greatest(p.delay_ms, CASE WHEN p.delay_seen_at > now() THEN p.known_delay_ms END) AS delay_ms
                ) d
            ), ready AS (
                -- Starts that are planned for later than a moment from now hold the next one back, so that no page waits for
                -- its start in a worker's slot.
                SELECT p.*, greatest(
                    p.next_dispatch_at - least(p.delay_ms, 1000) * interval '1 millisecond',
                    p.next_start_at - greatest(2 * least(p.delay_ms, 1000), 1000) * interval '1 millisecond') AS ready_at
                FROM kept p
            ), turn AS (
                SELECT p.*,
                    CASE WHEN p.backoff_until > now() THEN 0
                        WHEN p.delay_ms > 0 THEN (p.ready_at <= now())::int
                        ELSE ceil($2::float8 / (SELECT count(*) FROM due))::int END AS turns,
                    -- Counted with the lock of the host: what another dispatcher has queued since we began counts too.
                    CASE WHEN p.concurrency IS NULL THEN NULL
                        ELSE greatest(p.concurrency - pages_in_flight(p.host), 0) END AS places
                FROM ready p
            ), picked AS (
                -- Each lane by itself, so that the index gives the order and the limit ends the scan. Pages that wait to be tried
                -- again come last of their priority: they are not passed by at each look. Once the page limit is reached, another index has what is left: of a million others that wait to be skipped none is looked at.
                SELECT q.*, t.due_at FROM turn t CROSS JOIN LATERAL (
                    SELECT q.id, q.host, q.admitted, q.priority, q.not_before FROM url_queue q
                    WHERE q.execution_id = $1 AND q.host = t.host AND q.status = 'pending' AND q.not_before <= now()
                      AND (SELECT remaining IS NULL OR remaining > 0 FROM execution)
                    ORDER BY q.priority DESC, q.not_before, q.id
                    LIMIT CASE WHEN t.is_last_first THEN 0 ELSE least(t.turns, t.places) END
                    FOR UPDATE SKIP LOCKED
                ) q
                UNION ALL
                SELECT q.*, t.due_at FROM turn t CROSS JOIN LATERAL (
                    SELECT q.id, q.host, q.admitted, q.priority, q.not_before FROM url_queue q
                    WHERE q.execution_id = $1 AND q.host = t.host AND q.status = 'pending' AND q.not_before <= now()
                      AND q.attempt = 0 AND (SELECT remaining IS NULL OR remaining > 0 FROM execution)
                    ORDER BY q.priority, q.not_before DESC, q.id DESC
                    LIMIT CASE WHEN t.is_last_first THEN least(t.turns, t.places) ELSE 0 END
                    FOR UPDATE SKIP LOCKED
                ) q
                UNION ALL
                SELECT q.*, t.due_at FROM turn t CROSS JOIN LATERAL (
                    SELECT q.id, q.host, q.admitted, q.priority, q.not_before FROM url_queue q
                    WHERE q.execution_id = $1 AND q.host = t.host AND q.status = 'pending' AND q.admitted
                      AND q.not_before <= now() AND (SELECT remaining <= 0 FROM execution)
                    ORDER BY q.priority DESC, q.not_before, q.id
                    LIMIT least(t.turns, t.places)
                    FOR UPDATE SKIP LOCKED
                ) q
            ), in_turn AS (
                -- The first of each lane, then the second of each, as many as are wanted. Where not even all first ones are, by how long
                -- their lanes have been due: no lane is passed over for ever because of its pages' priority.
                SELECT p.* FROM (
                    SELECT p.*, row_number() OVER (PARTITION BY p.host ORDER BY p.priority DESC, p.not_before, p.id) AS round
                    FROM picked p
                ) p
                ORDER BY p.round, CASE WHEN p.round = 1 THEN p.due_at END, p.priority DESC, p.not_before, p.id LIMIT $2
            ), numbered AS (
                SELECT p.*, row_number() OVER (PARTITION BY p.admitted ORDER BY p.priority DESC, p.not_before, p.id)
                    AS place_in_limit
                FROM in_turn p
            ), chosen AS (
                SELECT n.id, n.host, n.admitted FROM numbered n, execution e
                WHERE n.admitted OR e.remaining IS NULL OR n.place_in_limit <= e.remaining
            ), counted AS (
                UPDATE workflow_executions e
                SET pages_admitted = e.pages_admitted + (SELECT count(*) FROM chosen WHERE NOT admitted)
                WHERE e.id = $1 AND EXISTS (SELECT FROM chosen WHERE NOT admitted)
            ), host_turn AS (
                UPDATE hosts h
                SET delay_ms = t.delay_ms, delay_seen_at = greatest(h.delay_seen_at, now()), next_start_at = t.next_start_at,
                    next_dispatch_at = CASE WHEN t.delay_ms > 0 AND t.host IN (SELECT host FROM chosen)
                        THEN greatest(t.next_dispatch_at, now()) + t.delay_ms * 1.03 * interval '1 millisecond'
                        ELSE t.next_dispatch_at END
                FROM turn t
                WHERE h.host = t.host
                  AND (t.delay_ms <> t.known_delay_ms OR t.delay_ms > 0 AND t.host IN (SELECT host FROM chosen))
            ), lane_turn AS (
                -- A lane that alone has pages stays where it is: it is due. So does one whose pages were passed over.
                UPDATE lanes l
                SET misses = CASE WHEN t.places = 0 THEN t.misses
                        WHEN t.turns > 0 AND NOT t.has_pages THEN least(t.missed + 1, t.most_misses) ELSE 0 END,
                    due_at = CASE
                        WHEN t.has_pages AND NOT t.served THEN l.due_at
                        WHEN t.served AND t.delay_ms = 0 THEN now()
                        -- A pace or a pause that is long may become shorter, or be nobody's any more.
                        WHEN t.served OR t.turns = 0 THEN least(now() + interval '30 seconds', CASE
                            WHEN t.served THEN greatest(t.next_dispatch_at, now())
                                + (t.delay_ms * 1.03 - least(t.delay_ms, 1000)) * interval '1 millisecond'
                            WHEN t.backoff_until > now() THEN t.backoff_until
                            ELSE t.ready_at END)
                        WHEN t.places = 0 AND t.is_doubted THEN now() + interval '250 milliseconds'
                        WHEN t.places = 0 THEN now() + interval '20 milliseconds'
                        ELSE now() + 20 * interval '1 millisecond'
                            * (1 << CASE WHEN t.missed > 8 THEN least(t.missed, t.most_misses) ELSE t.missed END) END
                FROM (
                    SELECT t.*, t.host IN (SELECT host FROM chosen) AS served, t.host IN (SELECT host FROM picked) AS has_pages,
                        -- One without any page is looked at less and less, every 22 minutes in the end: whoever adds a page to it wakes
                        -- it. A broad crawl has a hundred thousand of them at its end.
                        CASE WHEN EXISTS (SELECT FROM url_queue o WHERE o.execution_id = $1 AND o.host = t.host
                                    AND o.status IN ('queued', 'processing'))
                                OR EXISTS (SELECT FROM url_queue o WHERE o.execution_id = $1 AND o.host = t.host
                                    AND o.status = 'pending') THEN 8 ELSE 16 END AS most_misses,
                        -- Whoever saw the lane before its first miss, and has not committed a page yet, wakes nobody: no wait is longer
                        -- than the lane has been empty, for which a late look counts too. After 12 misses it has been so for 82 s, and
                        -- no such record runs any more: a statement may take 30 s.
                        CASE WHEN empty.misses >= 12 THEN 16 ELSE empty.misses END AS missed
                    FROM turn t CROSS JOIN LATERAL (
                        SELECT greatest(t.misses, CASE WHEN t.misses > 0 AND t.due_at < now() - interval '10 seconds'
                            THEN floor(ln(50 * EXTRACT(EPOCH FROM now() - t.due_at)::float8) / ln(2::float8)) END)::int AS misses
                    ) empty
                ) t
                WHERE l.execution_id = $1 AND l.host = t.host
                  AND NOT (t.has_pages AND NOT t.served AND l.misses = 0)
                  AND NOT (t.served AND t.delay_ms = 0 AND l.misses = 0
                      AND $2 > 1 AND (SELECT count(*) FROM due) = 1)
            )
            UPDATE url_queue q
            SET status = 'queued', queued_at = now(), admitted = true, host_delay_ms = t.delay_ms
            FROM chosen c JOIN turn t ON t.host = c.host WHERE q.id = c.id
            RETURNING q.id, q.execution_id, q.epoch, q.url"#,
            execution.0,
            limit,
        )
        .fetch_all(&self.steady)
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

    /// Ends picked pages whose URL another version has written, so that they hold nothing up.
    async fn fail_unreadable_pages(&self, pages: &[uuid::Uuid]) -> Result<(), StoreError> {
        // By primary key; no message speaks of them. Counted under the nil worker; the retry that one waits for does not come.
        sqlx::query!(
            "WITH failed AS (
                UPDATE url_queue SET status = 'failed', processed_at = now(),
                    error = 'the URL cannot be read by this version', error_class = 'internal'
                WHERE id = ANY($1) AND status = 'queued'
                RETURNING execution_id,
                    charged + site_faults + rate_limit_faults + unavailable_faults + proxy_faults + browser_faults + worker_faults > 0
                        AS is_retried
            )
            INSERT INTO page_counters AS c (execution_id, worker_id, failed, retried)
            SELECT execution_id, '00000000-0000-0000-0000-000000000000', count(*), -count(*) FILTER (WHERE is_retried)
            FROM failed GROUP BY execution_id ORDER BY execution_id
            ON CONFLICT (execution_id, worker_id) DO UPDATE
                SET failed = c.failed + excluded.failed, retried = c.retried + excluded.retried",
            pages,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Makes pages `pending` again whose publishing was not confirmed: any dispatcher may try again at once. One that a
    /// worker has claimed already, because it was published after all, stays as it is. Where a host bears only so many pages, one
    /// that was published after all is claimed by nobody.
    ///
    /// # Errors
    /// As every statement of the store; the rescuer then returns them.
    pub async fn return_unpublished(&self, pages: &[ReservedPage]) -> Result<(), StoreError> {
        // What was not confirmed may be claimed at this very moment: no page is waited for, so that the two cannot
        // deadlock, and lanes in the order of whoever records pages. By primary key: `IS NOT DISTINCT FROM` keeps the planner, whose statistics are old while a crawl
        // grows, from reading the whole of url_queue_open_idx instead.
        let (ids, epochs): (Vec<_>, Vec<_>) = pages.iter().map(|page| (page.page_id.0, page.epoch)).unzip();
        sqlx::query!(
            "WITH returned AS (
                UPDATE url_queue SET status = 'pending', queued_at = NULL, epoch = epoch + host_is_limited(host)::int
                WHERE id IN (
                    SELECT q.id FROM url_queue q JOIN unnest($1::uuid[], $2::int4[]) AS p (id, epoch)
                        ON q.id = p.id AND q.epoch = p.epoch
                    WHERE q.status IS NOT DISTINCT FROM 'queued' FOR UPDATE OF q SKIP LOCKED)
                RETURNING execution_id, host
            )
            UPDATE lanes SET due_at = now(), misses = 0
            WHERE (execution_id, host) IN (
                SELECT lane.execution_id, lane.host FROM lanes lane
                WHERE (lane.execution_id, lane.host) IN (SELECT execution_id, host FROM returned)
                ORDER BY lane.execution_id, lane.host FOR UPDATE)",
            &ids,
            &epochs,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
