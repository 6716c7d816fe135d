//! The paces of hosts, for people: what holds for each now, and what was really kept; and hosts that nobody visits any more.

use chrono::{DateTime, Utc};

use super::{Store, StoreError};

/// A unit of politeness: a host, or a registrable domain where a workflow says so.
#[derive(Clone, Debug)]
pub struct HostPace {
    /// Its name, without a port.
    pub host: String,
    /// How many running executions visit it.
    pub executions: i64,
    /// Its pages that are `queued` or `processing` now, over all executions.
    pub in_flight: i64,
    /// Least milliseconds between two starts now: the most that a running execution, its robots.txt or, where an
    /// execution is adaptive, its latency asks for; more where it said lately that it is asked too fast.
    pub delay_ms: i32,
    /// What its robots.txt asks for, which counts while an execution that obeys it runs.
    pub crawl_delay_ms: i32,
    /// At most so many of its pages at once; `None` is no limit.
    pub concurrency: Option<i32>,
    /// How long it took to answer lately, in milliseconds: a moving average.
    pub latency_ms: i32,
    /// Until when nothing is asked of it, because it answered 429 or 503 or could not be reached; `None` where that is
    /// past.
    pub backoff_until: Option<DateTime<Utc>>,
    /// How often in a row it could not be reached, until now.
    pub unreachable: i16,
    /// How often in a row it answered 429 or 503, until now.
    pub refused: i16,
    /// Of all intervals between two starts, looked for among the last 128, the one that was the most too short for its delay, or the
    /// least longer, in milliseconds; `None` before there were two that had to keep a pace.
    pub min_interval_ms: Option<i32>,
    /// The delay that this interval had to keep, in milliseconds.
    pub min_interval_delay_ms: Option<i32>,
    /// When it ended, with the later start.
    pub min_interval_at: Option<DateTime<Utc>>,
    /// The same of the last 128 starts alone.
    pub recent_interval_ms: Option<i32>,
    /// The delay that this one had to keep, in milliseconds.
    pub recent_interval_delay_ms: Option<i32>,
    /// When it ended.
    pub recent_interval_at: Option<DateTime<Utc>>,
}

impl Store {
    /// The paces of hosts that had to be known, by name; `only` narrows them down to one.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn host_paces(
        &self,
        only: Option<&str>,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<HostPace>, StoreError> {
        // Reads hosts_pkey in its order, and for each host lanes_host_idx and a part of url_queue_open_idx.
        let rows = sqlx::query_as!(
            HostPace,
            r#"WITH wanted AS (
                SELECT * FROM hosts WHERE $1::text IS NULL OR host = $1 ORDER BY host LIMIT $2 OFFSET $3
            )
            SELECT h.host, h.crawl_delay_ms, h.latency_ms, h.unreachable, h.refused,
                h.min_interval_ms, h.min_interval_delay_ms, h.min_interval_at, recent.interval_ms AS recent_interval_ms,
                recent.delay_ms AS recent_interval_delay_ms, recent.began_at AS recent_interval_at,
                CASE WHEN greatest(h.backoff_until, h.unreachable_until) > now()
                    THEN greatest(h.backoff_until, h.unreachable_until) END AS backoff_until,
                visits.executions AS "executions!", pages_in_flight(h.host) AS "in_flight!", visits.concurrency,
                CASE WHEN visits.executions = 0 OR host_said_long_ago(h.backoff_until, h.asked_at, h.delay_ms)
                    THEN asked_for.delay_ms ELSE host_pace_ms(asked_for.delay_ms, h.pace_level) END AS "delay_ms!"
            FROM wanted h LEFT JOIN LATERAL tightest_interval(h.recent_starts, h.recent_delays_ms) AS recent ON true
            CROSS JOIN LATERAL (
                SELECT count(*) AS executions, min(e.host_concurrency) AS concurrency,
                    COALESCE(max(e.host_delay_ms), 0) AS delay_ms,
                    bool_or(e.adaptive_delay) AS adaptive, bool_or(e.obeys_robots) AS obeys_robots
                FROM lanes l JOIN workflow_executions e ON e.id = l.execution_id AND e.status = 'running'
                WHERE l.host = h.host
            ) visits CROSS JOIN LATERAL (
                SELECT greatest(visits.delay_ms, CASE WHEN visits.obeys_robots THEN h.crawl_delay_ms ELSE 0 END,
                    CASE WHEN visits.adaptive THEN h.latency_ms ELSE 0 END) AS delay_ms
            ) asked_for
            ORDER BY h.host"#,
            only,
            limit,
            offset,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// How many hosts are left alone now, because they answered 429 or 503 or could not be reached.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn held_back_hosts(&self) -> Result<i64, StoreError> {
        // Reads hosts_held_back_idx, and there no more than these; the planner knows by the second condition that all are in it.
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM hosts
            WHERE greatest(backoff_until, unreachable_until) > now()
              AND greatest(backoff_until, unreachable_until) > '-infinity'"#,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(count)
    }

    /// Forgets hosts that no execution visits, and that were neither asked nor left alone for two months, as robots files are
    /// forgotten. Looks at those whose time it is, at most `at_once`, and answers how many these were; 0 where there is none, or others
    /// are at it.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn forget_hosts(&self, at_once: i64) -> Result<u64, StoreError> {
        // Reads hosts_forget_idx in its order, and lanes_host_idx for each that nobody has used. Lock: the hosts; those that somebody
        // holds are there next time, and nobody is waited for. Whoever opens a lane holds its host or waits for us
        // (`keep_hosts_of_lanes`), and each is looked up once it is ours: a lane that was opened under it before is seen.
        let looked_at = sqlx::query_scalar!(
            r#"WITH due AS (
                SELECT h.host, host_was_used_at(h) > now() - interval '60 days' AS was_used
                FROM hosts h WHERE h.forget_at <= now()
                ORDER BY h.forget_at LIMIT $1
                FOR UPDATE OF h SKIP LOCKED
            ), known AS (
                SELECT host, was_used OR host_is_visited(host) AS stays FROM due
            ), kept AS (
                -- One that is visited is looked at again tomorrow.
                UPDATE hosts h SET forget_at = greatest(host_was_used_at(h) + interval '60 days', now() + interval '1 day')
                WHERE h.host = ANY (ARRAY(SELECT host FROM known WHERE stays))
            ), forgotten AS (
                DELETE FROM hosts WHERE host = ANY (ARRAY(SELECT host FROM known WHERE NOT stays))
            )
            SELECT count(*) AS "looked_at!" FROM known"#,
            at_once,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(u64::try_from(looked_at).unwrap_or(0))
    }

    /// How many hosts [`Store::host_paces`] has.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn host_count(&self, only: Option<&str>) -> Result<i64, StoreError> {
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM hosts WHERE $1::text IS NULL OR host = $1"#,
            only,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(count)
    }
}
