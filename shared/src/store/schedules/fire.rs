//! Runs of schedules: which are due, and their start together with the schedule's next time, in one statement.
//!
//! Any number of coordinators may try the same run: the statement changes the row only at the version that was read
//! with it, so one of them starts it. As every run raises the version, the statement also sees every execution that an
//! earlier run has started. Of the times that were missed while nobody looked, one run is left.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::domain::id::{ExecutionId, PageId, ScheduleId};
use crate::domain::page_url::{HostUnit, PageUrl};
use crate::domain::workflow::Limits;
use crate::store::{Store, StoreError};

/// A schedule that has to be looked at now, and its workflow's newest version.
#[derive(Clone, Debug)]
pub struct DueSchedule {
    /// Names it.
    pub id: ScheduleId,
    /// When, as its author wrote it.
    pub cron: String,
    /// In whose time.
    pub time_zone: String,
    /// The version that a run must name.
    pub version: i32,
    /// When its next run is due: not after `now`, unless one waits.
    pub next_run_at: Option<DateTime<Utc>>,
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// The newest version of its workflow, and what it says.
    pub workflow_version: i32,
    /// As its author wrote it.
    pub config: Value,
}

/// Why a run is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Its time has come, or an earlier run that it waited for has ended; the next time is given.
    Due(Option<DateTime<Utc>>),
    /// Somebody asks for it now. A run that cannot start leaves no trace.
    Asked,
}

/// What a run would execute.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The version of the workflow.
    pub version: i32,
    /// What that version limits.
    pub limits: Limits,
    /// Where it starts.
    pub start_urls: &'a [PageUrl],
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fired {
    /// It runs.
    Started(ExecutionId),
    /// It runs, and an earlier one was cancelled for it.
    Replaced(ExecutionId),
    /// It was left out, since an earlier one has not ended.
    Skipped,
    /// It waits for the end of an earlier one.
    Queued,
    /// The workflow is not active.
    WorkflowNotActive,
    /// The workflow's definition is none that this version of the program can run.
    WorkflowInvalid,
}

impl Fired {
    /// The name in rows, documents and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started(_) => "started",
            Self::Replaced(_) => "replaced",
            Self::Skipped => "skipped",
            Self::Queued => "queued",
            Self::WorkflowNotActive => "workflow_not_active",
            Self::WorkflowInvalid => "workflow_invalid",
        }
    }

    /// The execution that was started.
    pub fn execution(self) -> Option<ExecutionId> {
        match self {
            Self::Started(execution) | Self::Replaced(execution) => Some(execution),
            _ => None,
        }
    }
}

impl Store {
    /// The schedules of which a run is due, or waits and may start now; the longest due first, at most `limit`.
    ///
    /// # Errors
    /// The database's.
    pub async fn due_schedules(&self, limit: i64) -> Result<Vec<DueSchedule>, StoreError> {
        // Reads schedules_due_idx, schedules_waiting_idx and workflow_executions_schedule_idx.
        let rows = sqlx::query!(
            r#"
            SELECT schedule.id, schedule.cron, schedule.time_zone, schedule.version, schedule.next_run_at,
                now() AS "now!", workflow.version AS workflow_version, workflow.config
            FROM schedules AS schedule JOIN workflows AS workflow ON workflow.id = schedule.workflow_id
            WHERE schedule.enabled AND (schedule.next_run_at <= now()
                OR schedule.waiting_since IS NOT NULL AND NOT EXISTS (
                    SELECT FROM workflow_executions AS execution
                    WHERE execution.schedule_id = schedule.id
                      AND execution.status IN ('pending', 'running', 'paused')))
            ORDER BY schedule.next_run_at NULLS FIRST
            LIMIT $1
            "#,
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        let due = rows.into_iter().map(|row| DueSchedule {
            id: ScheduleId(row.id),
            cron: row.cron,
            time_zone: row.time_zone,
            version: row.version,
            next_run_at: row.next_run_at,
            now: row.now,
            workflow_version: row.workflow_version,
            config: row.config,
        });
        Ok(due.collect())
    }

    /// Tries a run of a schedule that is still at `version`: starts the execution, with its start pages, or does what
    /// the schedule says of runs that overlap; and moves the schedule on. `run` is `None` where the workflow cannot
    /// be run. Answers `None` where the schedule is at another version, or gone: nothing was done then.
    ///
    /// # Errors
    /// The database's.
    pub async fn fire_schedule(
        &self,
        schedule: ScheduleId,
        version: i32,
        occasion: Occasion,
        run: Option<Run<'_>>,
    ) -> Result<Option<Fired>, StoreError> {
        let execution = ExecutionId::generate();
        let urls = run.map_or(&[][..], |run| run.start_urls);
        let limits = run.map_or(Limits::default(), |run| run.limits);
        let pages: Vec<Uuid> = urls.iter().map(|_| PageId::generate().0).collect();
        let texts: Vec<String> = urls.iter().map(|url| url.as_str().to_owned()).collect();
        let hashes: Vec<Vec<u8>> = urls.iter().map(|url| url.hash().to_vec()).collect();
        let hosts: Vec<String> =
            urls.iter().map(|url| url.unit_of_politeness(limits.host_unit).to_owned()).collect();
        let max_pages = run.and_then(|run| run.limits.max_pages);
        let delay = run.map_or(0, |run| run.limits.rate_limit_delay.as_millis());
        let (is_due, next_run_at) = match occasion {
            Occasion::Due(next) => (true, next),
            Occasion::Asked => (false, None),
        };
        // Locks: the schedule's row, at the version that was read before; the workflow's row, shared, as every start
        // does. Reads workflow_executions_schedule_idx. The start pages are those of `Store::start_execution`.
        let outcome = sqlx::query_scalar!(
            r#"
            WITH schedule AS (
                SELECT id, workflow_id, overlap FROM schedules
                WHERE id = $1 AND version = $2 AND (enabled OR NOT $3) FOR NO KEY UPDATE
            ), workflow AS (
                SELECT id, status FROM workflows WHERE id = (SELECT workflow_id FROM schedule) FOR SHARE
            ), previous AS (
                SELECT id FROM workflow_executions
                WHERE schedule_id = $1 AND status IN ('pending', 'running', 'paused')
            ), decision AS (
                SELECT schedule.id, CASE
                    WHEN workflow.status <> 'active' THEN 'workflow_not_active'
                    WHEN NOT $5 THEN 'workflow_invalid'
                    WHEN schedule.overlap = 'allow' OR NOT EXISTS (SELECT FROM previous) THEN 'started'
                    WHEN schedule.overlap = 'skip' THEN 'skipped'
                    WHEN schedule.overlap = 'queue' THEN 'queued'
                    ELSE 'replaced' END AS outcome
                FROM schedule CROSS JOIN workflow
            ), cancelled AS (
                UPDATE workflow_executions AS execution
                SET status = 'cancelled', cancel_mode = 'graceful', completed_at = now(),
                    control_version = control_version + 1
                FROM decision
                WHERE decision.outcome = 'replaced' AND execution.schedule_id = $1
                  AND execution.status IN ('pending', 'running', 'paused')
            ), execution AS (
                INSERT INTO workflow_executions
                    (id, workflow_id, version, status, max_pages, host_delay_ms, schedule_id, host_concurrency,
                    adaptive_delay, per_domain)
                SELECT $6, workflow.id, $7, 'running', $8, $9, decision.id, $14, $15, $16
                FROM decision CROSS JOIN workflow WHERE decision.outcome IN ('started', 'replaced')
                RETURNING id
            ), pages AS (
                INSERT INTO url_queue (id, execution_id, url, url_hash, host, depth, priority)
                SELECT page.id, execution.id, page.url, page.url_hash, page.host, 0, 100
                FROM execution,
                    UNNEST($10::uuid[], $11::text[], $12::bytea[], $13::text[]) AS page (id, url, url_hash, host)
                ON CONFLICT ON CONSTRAINT url_queue_url_key DO NOTHING
            ), new_hosts AS (
                INSERT INTO hosts (host) SELECT DISTINCT host FROM execution, UNNEST($13::text[]) AS host ORDER BY host
                ON CONFLICT (host) DO NOTHING
            ), new_lanes AS (
                INSERT INTO lanes (execution_id, host)
                SELECT DISTINCT execution.id, host FROM execution, UNNEST($13::text[]) AS host
            ), moved AS (
                UPDATE schedules AS target
                SET version = target.version + 1, last_outcome = decision.outcome,
                    next_run_at = CASE WHEN $3 THEN $4 ELSE target.next_run_at END,
                    waiting_since = CASE WHEN decision.outcome = 'queued'
                        THEN COALESCE(target.waiting_since, now()) END,
                    last_run_at = CASE WHEN decision.outcome IN ('started', 'replaced') THEN now()
                        ELSE target.last_run_at END,
                    last_execution_id = CASE WHEN decision.outcome IN ('started', 'replaced') THEN $6
                        ELSE target.last_execution_id END
                FROM decision
                WHERE target.id = decision.id
                  AND ($3 OR decision.outcome IN ('started', 'replaced', 'queued'))
            )
            SELECT outcome AS "outcome!" FROM decision
            "#,
            schedule.0,
            version,
            is_due,
            next_run_at,
            run.is_some(),
            execution.0,
            run.map_or(0, |run| run.version),
            max_pages.map(|pages| i64::try_from(pages).unwrap_or(i64::MAX)),
            i32::try_from(delay).unwrap_or(i32::MAX),
            &pages,
            &texts,
            &hashes,
            &hosts,
            limits.host_concurrency.map(|pages| i32::try_from(pages).unwrap_or(i32::MAX)),
            limits.adaptive_delay,
            limits.host_unit == HostUnit::Domain,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(outcome.map(|outcome| match outcome.as_str() {
            "started" => Fired::Started(execution),
            "replaced" => Fired::Replaced(execution),
            "skipped" => Fired::Skipped,
            "queued" => Fired::Queued,
            "workflow_not_active" => Fired::WorkflowNotActive,
            _ => Fired::WorkflowInvalid,
        }))
    }

    /// Takes a schedule whose expression this version of the program cannot read out of the way, until somebody
    /// changes it.
    ///
    /// # Errors
    /// The database's.
    pub async fn suspend_schedule(&self, schedule: ScheduleId, version: i32) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE schedules
             SET next_run_at = NULL, waiting_since = NULL, last_outcome = 'schedule_invalid', version = version + 1
             WHERE id = $1 AND version = $2",
            schedule.0,
            version,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
