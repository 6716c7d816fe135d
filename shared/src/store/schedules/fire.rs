//! Runs of schedules: which are due, and their start together with the schedule's next time, in one transaction.
//!
//! Any number of coordinators may try the same run: the transaction holds the row only at the version that was read
//! with it, so one of them starts it. As every run raises the version, it also sees every execution that an earlier run
//! has started. Of the times that were missed while nobody looked, one run is left.
//!
//! A run that waits at a disabled schedule is one that somebody has asked for (`waiting_asked`), as disabling it forgets every
//! other: it starts all the same, and no time of the schedule's own comes of it. Runs that wait are one: where one of them was
//! asked for, it was.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::Acquire;

use crate::domain::id::{ExecutionId, ScheduleId, WorkflowId};
use crate::store::start::Beginning;
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
    /// When its next run is due: not after `now`, unless one waits; `None` where it is disabled, too.
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
    /// Its time has come, or an earlier run that it waited for has ended; the next time is given, for one that is
    /// enabled.
    Due(Option<DateTime<Utc>>),
    /// Somebody asks for it now. A run that can neither start nor wait leaves no trace.
    Asked,
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
            WHERE schedule.enabled AND schedule.next_run_at <= now()
                OR schedule.waiting_since IS NOT NULL AND NOT EXISTS (
                    SELECT FROM workflow_executions AS execution
                    WHERE execution.schedule_id = schedule.id
                      AND execution.status IN ('pending', 'running', 'paused'))
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

    /// Tries a run of a schedule that is still at `version`: starts the execution, with its first pages, or does what
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
        run: Option<&Beginning<'_>>,
    ) -> Result<Option<Fired>, StoreError> {
        let (is_due, next_run_at) = match occasion {
            Occasion::Due(next) => (true, next),
            Occasion::Asked => (false, None),
        };
        let mut connection = self.connection_for_a_transaction().await?;
        let mut transaction = connection.begin().await?;
        // Locks: the schedule's row, at the version that was read before; the workflow's row, shared, as every start
        // does. Reads workflow_executions_schedule_idx.
        let decision = sqlx::query!(
            r#"
            WITH schedule AS (
                SELECT id, workflow_id, overlap FROM schedules
                WHERE id = $1 AND version = $2 AND (enabled OR waiting_since IS NOT NULL OR NOT $3)
                FOR NO KEY UPDATE
            ), workflow AS (
                SELECT id, status FROM workflows WHERE id = (SELECT workflow_id FROM schedule) FOR SHARE
            )
            SELECT workflow.id AS workflow_id, CASE
                WHEN workflow.status <> 'active' THEN 'workflow_not_active'
                WHEN NOT $4 THEN 'workflow_invalid'
                WHEN schedule.overlap = 'allow' OR NOT EXISTS (
                    SELECT FROM workflow_executions
                    WHERE schedule_id = $1 AND status IN ('pending', 'running', 'paused')) THEN 'started'
                WHEN schedule.overlap = 'skip' THEN 'skipped'
                WHEN schedule.overlap = 'queue' THEN 'queued'
                ELSE 'replaced' END AS "outcome!"
            FROM schedule CROSS JOIN workflow
            "#,
            schedule.0,
            version,
            is_due,
            run.is_some(),
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(decision) = decision else { return Ok(None) };
        let execution = ExecutionId::generate();
        let fired = match decision.outcome.as_str() {
            "started" => Fired::Started(execution),
            "replaced" => Fired::Replaced(execution),
            "skipped" => Fired::Skipped,
            "queued" => Fired::Queued,
            "workflow_not_active" => Fired::WorkflowNotActive,
            _ => Fired::WorkflowInvalid,
        };
        if let Fired::Replaced(_) = fired {
            sqlx::query!(
                "UPDATE workflow_executions
                 SET status = 'cancelled', cancel_mode = 'graceful', completed_at = now(),
                     control_version = control_version + 1
                 WHERE schedule_id = $1 AND status IN ('pending', 'running', 'paused')",
                schedule.0,
            )
            .execute(&mut *transaction)
            .await?;
        }
        if let (Some(execution), Some(run)) = (fired.execution(), run) {
            let workflow = WorkflowId(decision.workflow_id);
            run.write(&mut transaction, execution, workflow, Some(schedule)).await?;
        }
        if is_due || fired.execution().is_some() || fired == Fired::Queued {
            sqlx::query!(
                "UPDATE schedules
                 SET version = version + 1, last_outcome = $2,
                     next_run_at = CASE WHEN $3 AND enabled THEN $4 ELSE next_run_at END,
                     waiting_since = CASE WHEN $2 = 'queued' THEN COALESCE(waiting_since, now()) END,
                     waiting_asked = $2 = 'queued' AND (waiting_asked OR NOT $3),
                     last_run_at = CASE WHEN $5::uuid IS NULL THEN last_run_at ELSE now() END,
                     last_execution_id = COALESCE($5, last_execution_id)
                 WHERE id = $1",
                schedule.0,
                fired.as_str(),
                is_due,
                next_run_at,
                fired.execution().map(|execution| execution.0),
            )
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(Some(fired))
    }

    /// Takes a schedule whose expression this version of the program cannot read out of the way, until somebody
    /// changes it.
    ///
    /// # Errors
    /// The database's.
    pub async fn suspend_schedule(&self, schedule: ScheduleId, version: i32) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE schedules
             SET next_run_at = NULL, waiting_since = NULL, waiting_asked = false, last_outcome = 'schedule_invalid',
                 version = version + 1
             WHERE id = $1 AND version = $2",
            schedule.0,
            version,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
