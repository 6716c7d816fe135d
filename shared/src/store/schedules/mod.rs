//! Schedules: made, listed, changed, deleted. What a due one does is in [`fire`].
//!
//! Each change and each run raises the row's `version`, and says which one it decided upon: of two at once, one does
//! nothing and looks again.

pub mod fire;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Store, StoreError};
use crate::domain::id::{ScheduleId, WorkflowId};
use crate::domain::schedule::OverlapPolicy;

/// A schedule.
#[derive(Clone, Debug)]
pub struct ScheduleRow {
    /// Names it.
    pub id: Uuid,
    /// What it starts.
    pub workflow_id: Uuid,
    /// When, as its author wrote it.
    pub cron: String,
    /// In whose time.
    pub time_zone: String,
    /// Whether it starts anything unless asked.
    pub enabled: bool,
    /// The name of an [`OverlapPolicy`].
    pub overlap: String,
    /// When it starts something next.
    pub next_run_at: Option<DateTime<Utc>>,
    /// Since when a run waits for the end of an earlier one.
    pub waiting_since: Option<DateTime<Utc>>,
    /// When an execution was last started.
    pub last_run_at: Option<DateTime<Utc>>,
    /// Which one.
    pub last_execution_id: Option<Uuid>,
    /// What became of the run that was last due.
    pub last_outcome: Option<String>,
    /// Raised by every change and every run.
    pub version: i32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When somebody last changed it; runs do not count.
    pub updated_at: DateTime<Utc>,
}

/// What a schedule is made from, or replaced by; already checked.
#[derive(Clone, Copy, Debug)]
pub struct ScheduleText<'a> {
    /// When, as its author wrote it.
    pub cron: &'a str,
    /// In whose time.
    pub time_zone: &'a str,
    /// Whether it starts anything unless asked.
    pub enabled: bool,
    /// What happens to a run that would overlap.
    pub overlap: OverlapPolicy,
    /// When it starts something next; `None` is never.
    pub next_run_at: Option<DateTime<Utc>>,
}

impl Store {
    /// The database's clock, by which schedules are due.
    ///
    /// # Errors
    /// The database's.
    pub async fn clock(&self) -> Result<DateTime<Utc>, StoreError> {
        Ok(sqlx::query_scalar!(r#"SELECT now() AS "now!""#).fetch_one(&self.pool).await?)
    }

    /// Makes a schedule. Answers `None` where there is no such workflow.
    ///
    /// # Errors
    /// The database's.
    pub async fn create_schedule(
        &self,
        workflow: WorkflowId,
        text: ScheduleText<'_>,
    ) -> Result<Option<ScheduleRow>, StoreError> {
        // Lock: the workflow's key, against its deletion at this moment.
        let row = sqlx::query_as!(
            ScheduleRow,
            "
            INSERT INTO schedules (id, workflow_id, cron, time_zone, enabled, overlap, next_run_at)
            SELECT $1, workflow.id, $3, $4, $5, $6, $7
            FROM (SELECT id FROM workflows WHERE id = $2 AND deleted_at IS NULL FOR KEY SHARE) AS workflow
            RETURNING id, workflow_id, cron, time_zone, enabled, overlap, next_run_at, waiting_since, last_run_at,
                last_execution_id, last_outcome, version, created_at, updated_at
            ",
            ScheduleId::generate().0,
            workflow.0,
            text.cron,
            text.time_zone,
            text.enabled,
            text.overlap.as_str(),
            text.next_run_at,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row)
    }

    /// Finds a schedule.
    ///
    /// # Errors
    /// The database's.
    pub async fn schedule(&self, schedule: ScheduleId) -> Result<Option<ScheduleRow>, StoreError> {
        // Index: the primary key.
        let row = sqlx::query_as!(
            ScheduleRow,
            "
            SELECT id, workflow_id, cron, time_zone, enabled, overlap, next_run_at, waiting_since, last_run_at,
                last_execution_id, last_outcome, version, created_at, updated_at
            FROM schedules WHERE id = $1
            ",
            schedule.0,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row)
    }

    /// Lists schedules, newest first, of one workflow and enabled or not where that is said.
    ///
    /// # Errors
    /// The database's.
    pub async fn schedules(
        &self,
        workflow: Option<WorkflowId>,
        enabled: Option<bool>,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<ScheduleRow>, StoreError> {
        // Index: the primary key backwards, since ids are time-ordered; schedules_workflow_idx.
        let rows = sqlx::query_as!(
            ScheduleRow,
            "
            SELECT id, workflow_id, cron, time_zone, enabled, overlap, next_run_at, waiting_since, last_run_at,
                last_execution_id, last_outcome, version, created_at, updated_at
            FROM schedules
            WHERE ($1::uuid IS NULL OR workflow_id = $1) AND ($2::boolean IS NULL OR enabled = $2)
            ORDER BY id DESC
            LIMIT $3 OFFSET $4
            ",
            workflow.map(|workflow| workflow.0),
            enabled,
            limit,
            offset,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Counts what [`Store::schedules`] lists.
    ///
    /// # Errors
    /// The database's.
    pub async fn schedule_count(
        &self,
        workflow: Option<WorkflowId>,
        enabled: Option<bool>,
    ) -> Result<i64, StoreError> {
        // No index: there are as many rows as people made schedules.
        let count = sqlx::query_scalar!(
            r#"
            SELECT COUNT(*) AS "count!" FROM schedules
            WHERE ($1::uuid IS NULL OR workflow_id = $1) AND ($2::boolean IS NULL OR enabled = $2)
            "#,
            workflow.map(|workflow| workflow.0),
            enabled,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(count)
    }

    /// Replaces a schedule's text, if it is still at this version. A run that waited is forgotten where nothing is to
    /// wait any more, or where the schedule is disabled; but one that somebody has asked for waits on there. Answers `None`
    /// where it is at another one, or gone.
    ///
    /// # Errors
    /// The database's.
    pub async fn update_schedule(
        &self,
        schedule: ScheduleId,
        version: i32,
        text: ScheduleText<'_>,
    ) -> Result<Option<ScheduleRow>, StoreError> {
        let row = sqlx::query_as!(
            ScheduleRow,
            "
            UPDATE schedules
            SET cron = $3, time_zone = $4, enabled = $5, overlap = $6, next_run_at = $7, version = version + 1,
                waiting_since = CASE WHEN ($5 OR waiting_asked) AND $6 = 'queue' THEN waiting_since END,
                waiting_asked = waiting_asked AND $6 = 'queue', updated_at = now()
            WHERE id = $1 AND version = $2
            RETURNING id, workflow_id, cron, time_zone, enabled, overlap, next_run_at, waiting_since, last_run_at,
                last_execution_id, last_outcome, version, created_at, updated_at
            ",
            schedule.0,
            version,
            text.cron,
            text.time_zone,
            text.enabled,
            text.overlap.as_str(),
            text.next_run_at,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row)
    }

    /// Deletes a schedule, if it is at one of these versions; what it has started goes on. Answers whether it did.
    ///
    /// # Errors
    /// The database's.
    pub async fn delete_schedule(
        &self,
        schedule: ScheduleId,
        expected: Option<&[i32]>,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "DELETE FROM schedules WHERE id = $1 AND ($2::int4[] IS NULL OR version = ANY ($2))",
            schedule.0,
            expected,
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }
}
