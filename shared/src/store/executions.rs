//! Executions: started and watched.
//!
//! Only writes rows. Who controls executions, publishes pages, ends executions or rescues them is elsewhere.

use chrono::{DateTime, Utc};
use sqlx::{Acquire, PgConnection};
use uuid::Uuid;

use super::control::CancelMode;
use super::start::Beginning;
use super::{Store, StoreError};
use crate::domain::id::{ExecutionId, WorkflowId};

/// Where an execution stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum ExecutionStatus {
    /// Made, not begun.
    Pending,
    /// Its pages are being worked on.
    Running,
    /// Somebody has interrupted it: its pages wait.
    Paused,
    /// Every page has ended.
    Completed,
    /// It could not go on.
    Failed,
    /// Somebody stopped it.
    Cancelled,
}

impl ExecutionStatus {
    /// Every status.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Running, Self::Paused, Self::Completed, Self::Failed, Self::Cancelled];

    /// The name in rows and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// Whether nothing more happens to it.
    pub fn has_ended(self) -> bool {
        !matches!(self, Self::Pending | Self::Running | Self::Paused)
    }
}

/// An execution.
#[derive(Clone, Debug)]
pub struct ExecutionRow {
    /// Names it.
    pub id: Uuid,
    /// What it runs.
    pub workflow_id: Uuid,
    /// The workflow's name today.
    pub workflow_name: String,
    /// Which version it runs.
    pub version: i32,
    /// Where it stands.
    pub status: ExecutionStatus,
    /// When it was started.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub completed_at: Option<DateTime<Utc>>,
    /// Why it failed, for people.
    pub error: Option<String>,
    /// At most this many pages are dispatched.
    pub max_pages: Option<i64>,
    /// How many pages were dispatched so far, each counted once.
    pub pages_admitted: i64,
    /// Least milliseconds between the starts of two pages of one host.
    pub host_delay_ms: i32,
    /// At most so many pages of one host at once.
    pub host_concurrency: Option<i32>,
    /// Its share of the fleet beside other executions.
    pub weight: i32,
    /// Executions with a higher one go first.
    pub priority: i32,
    /// Of a cancelled one, how its pages in hand end.
    pub cancel_mode: Option<CancelMode>,
    /// Raised by every act of control.
    pub control_version: i32,
    /// Which schedule started it.
    pub schedule_id: Option<Uuid>,
}

/// How a start ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartExecution {
    /// It runs, and its start pages wait in the frontier.
    Started(ExecutionId),
    /// It was started before, with the same key.
    Repeated(ExecutionId),
    /// The workflow is not active but this.
    NotActive(WorkflowStatus),
    /// There is no such workflow.
    NotFound,
}

/// How many pages of an execution have which status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCounts {
    /// Waiting, those already sent to the broker included.
    pub pending: i64,
    /// In a worker's hands.
    pub processing: i64,
    /// Loaded; some of their nodes may have failed.
    pub completed: i64,
    /// Given up.
    pub failed: i64,
    /// Not to be visited, such as those beyond the page limit.
    pub skipped: i64,
    /// Stopped with their execution.
    pub cancelled: i64,
}

pub use super::workflows::WorkflowStatus;

impl Store {
    /// Starts an execution of a workflow, with its first pages. Where the workflow has one with the same key already, that one
    /// is the answer, whatever the workflow's status has become since.
    ///
    /// # Errors
    /// The database's; among them that there is no such version.
    pub async fn start_execution(
        &self,
        workflow: WorkflowId,
        beginning: &Beginning<'_>,
    ) -> Result<StartExecution, StoreError> {
        let mut connection = self.connection_for_a_transaction().await?;
        let mut transaction = connection.begin().await?;
        if let Some(before) = started_as(&mut transaction, workflow, beginning.key).await? {
            return Ok(StartExecution::Repeated(before));
        }
        // Lock: the workflow's row, shared, so that a change of its status comes wholly before or after.
        let status = sqlx::query_scalar!(
            r#"SELECT status AS "status: WorkflowStatus" FROM workflows WHERE id = $1 AND deleted_at IS NULL FOR SHARE"#,
            workflow.0,
        )
        .fetch_optional(&mut *transaction)
        .await?;
        match status {
            Some(WorkflowStatus::Active) => {}
            Some(status) => return Ok(StartExecution::NotActive(status)),
            None => return Ok(StartExecution::NotFound),
        }
        let execution = ExecutionId::generate();
        if !beginning.write(&mut transaction, execution, workflow, None).await? {
            // The same start at the same time: it has committed, as the insertion waited for that.
            let other = started_as(&mut transaction, workflow, beginning.key).await?;
            return Ok(other.map_or(StartExecution::NotFound, StartExecution::Repeated));
        }
        transaction.commit().await?;
        Ok(StartExecution::Started(execution))
    }

    /// Finds an execution.
    ///
    /// # Errors
    /// The database's.
    pub async fn execution(&self, execution: ExecutionId) -> Result<Option<ExecutionRow>, StoreError> {
        // Index: the primary keys.
        let row = sqlx::query_as!(
            ExecutionRow,
            r#"
            SELECT execution.id, workflow_id, workflow.name AS workflow_name, execution.version,
                execution.status AS "status: ExecutionStatus", started_at, completed_at, error, max_pages,
                pages_admitted, host_delay_ms, host_concurrency, weight, priority, cancel_mode AS "cancel_mode: CancelMode",
                control_version, schedule_id
            FROM workflow_executions AS execution JOIN workflows AS workflow ON workflow.id = workflow_id
            WHERE execution.id = $1 AND workflow.deleted_at IS NULL
            "#,
            execution.0,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row)
    }

    /// Lists executions, newest first, of one workflow and with one status where these are given.
    ///
    /// # Errors
    /// The database's.
    pub async fn executions(
        &self,
        workflow: Option<WorkflowId>,
        status: Option<ExecutionStatus>,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<ExecutionRow>, StoreError> {
        // Index: the primary key backwards, since ids are time-ordered; workflow_executions_workflow_idx.
        let rows = sqlx::query_as!(
            ExecutionRow,
            r#"
            SELECT execution.id, workflow_id, workflow.name AS workflow_name, execution.version,
                execution.status AS "status: ExecutionStatus", started_at, completed_at, error, max_pages,
                pages_admitted, host_delay_ms, host_concurrency, weight, priority, cancel_mode AS "cancel_mode: CancelMode",
                control_version, schedule_id
            FROM workflow_executions AS execution JOIN workflows AS workflow ON workflow.id = workflow_id
            WHERE ($1::uuid IS NULL OR workflow_id = $1) AND ($2::text IS NULL OR execution.status = $2)
                AND workflow.deleted_at IS NULL
            ORDER BY execution.id DESC
            LIMIT $3 OFFSET $4
            "#,
            workflow.map(|workflow| workflow.0),
            status.map(ExecutionStatus::as_str),
            limit,
            offset,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Counts what [`Store::executions`] lists.
    ///
    /// # Errors
    /// The database's.
    pub async fn execution_count(
        &self,
        workflow: Option<WorkflowId>,
        status: Option<ExecutionStatus>,
    ) -> Result<i64, StoreError> {
        // By workflows_deleted_idx, which is empty most of the time.
        let count = sqlx::query_scalar!(
            r#"
            SELECT COUNT(*) AS "count!" FROM workflow_executions
            WHERE ($1::uuid IS NULL OR workflow_id = $1) AND ($2::text IS NULL OR status = $2)
                AND workflow_id NOT IN (SELECT id FROM workflows WHERE deleted_at IS NOT NULL)
            "#,
            workflow.map(|workflow| workflow.0),
            status.map(ExecutionStatus::as_str),
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(count)
    }

    /// Counts an execution's pages by status, all at one moment: together they are those that it has.
    ///
    /// # Errors
    /// The database's.
    pub async fn page_counts(&self, execution: ExecutionId) -> Result<PageCounts, StoreError> {
        // Does not read all pages, since it is asked again and again of crawls of millions. How they ended is counted by whoever
        // ended them (page_counters_pkey); what is left is the rest. Counts rows by url_queue_start_idx and url_queue_open_idx,
        // which are small, and by url_queue_skipped_idx, of which a limit that leaves out millions makes a long one: it is
        // read alone, but for what is not vacuumed yet. Only a cancelled execution has cancelled pages, and there those that still
        // wait are few once they were swept; until then they are counted by url_queue_pending_idx in the same way. Each part is
        // an aggregate of its own, which the planner computes once.
        let counts = sqlx::query_as!(
            PageCounts,
            r#"
            WITH cancelled AS (
                SELECT id FROM workflow_executions WHERE id = $1 AND status = 'cancelled'
            ), counted AS (
                SELECT COALESCE(SUM(completed), 0)::bigint AS completed, COALESCE(SUM(failed), 0)::bigint AS failed,
                    COALESCE(SUM(urls_found), 0)::bigint AS found
                FROM page_counters WHERE execution_id = $1
            ), start AS (
                SELECT COUNT(*) AS pages FROM url_queue WHERE execution_id = $1 AND parent_id IS NULL
            ), under_way AS (
                SELECT COUNT(*) FILTER (WHERE status = 'queued') AS queued,
                    COUNT(*) FILTER (WHERE status = 'processing') AS processing
                FROM url_queue WHERE execution_id = $1 AND status IN ('queued', 'processing')
            ), skipped AS (
                SELECT COUNT(*) AS pages FROM url_queue WHERE execution_id = $1 AND status = 'skipped'
            ), unswept AS (
                SELECT COUNT(*) AS pages FROM url_queue
                WHERE execution_id = (SELECT id FROM cancelled) AND status = 'pending'
            )
            SELECT CASE WHEN EXISTS (SELECT FROM cancelled) THEN under_way.queued + unswept.pages
                    ELSE rest.pages END AS "pending!",
                under_way.processing AS "processing!", counted.completed AS "completed!", counted.failed AS "failed!",
                skipped.pages AS "skipped!",
                CASE WHEN EXISTS (SELECT FROM cancelled) THEN rest.pages - under_way.queued - unswept.pages
                    ELSE 0 END AS "cancelled!"
            FROM counted CROSS JOIN start CROSS JOIN under_way CROSS JOIN skipped CROSS JOIN unswept CROSS JOIN LATERAL (
                SELECT start.pages + counted.found - counted.completed - counted.failed - skipped.pages
                    - under_way.processing AS pages
            ) AS rest
            "#,
            execution.0,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(counts)
    }
}

/// The execution of a workflow that was started with this key.
async fn started_as(
    connection: &mut PgConnection,
    workflow: WorkflowId,
    key: Option<&str>,
) -> Result<Option<ExecutionId>, StoreError> {
    let Some(key) = key else { return Ok(None) };
    // Index: workflow_executions_start_key_idx.
    let found = sqlx::query_scalar!(
        "SELECT id FROM workflow_executions
         WHERE workflow_id = $1 AND start_key = $2 AND workflow_is_there(workflow_id)",
        workflow.0,
        key,
    )
    .fetch_optional(connection)
    .await?;
    Ok(found.map(ExecutionId))
}
