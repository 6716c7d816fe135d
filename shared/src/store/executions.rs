//! Executions: started, watched, cancelled.
//!
//! Only writes rows. Who publishes pages, ends executions or rescues them is elsewhere.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::budgets::BudgetRows;
use super::{Store, StoreError};
use crate::domain::id::{ExecutionId, PageId, WorkflowId};
use crate::domain::page_url::PageUrl;
use crate::domain::workflow::{Budgets, Limits};

/// Where an execution stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum ExecutionStatus {
    /// Made, not begun.
    Pending,
    /// Its pages are being worked on.
    Running,
    /// Every page has ended.
    Completed,
    /// It could not go on.
    Failed,
    /// Somebody stopped it.
    Cancelled,
}

impl ExecutionStatus {
    /// Every status.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Running, Self::Completed, Self::Failed, Self::Cancelled];

    /// The name in rows and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
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
        !matches!(self, Self::Pending | Self::Running)
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
}

/// How a start ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartExecution {
    /// It runs, and its start pages wait in the frontier.
    Started(ExecutionId),
    /// The workflow is not active but this.
    NotActive(WorkflowStatus),
    /// There is no such workflow.
    NotFound,
}

/// How a cancellation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelExecution {
    /// It was running and is cancelled now.
    Cancelled,
    /// It had ended before, with this status; nothing changed.
    Ended(ExecutionStatus),
    /// There is no such execution.
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
    /// Starts an execution of a workflow's version: its row, its budgets, and its start pages, each URL once, in one
    /// statement.
    ///
    /// # Errors
    /// The database's; among them that there is no such version.
    pub async fn start_execution(
        &self,
        workflow: WorkflowId,
        version: i32,
        limits: Limits,
        budgets: &Budgets,
        start_urls: &[PageUrl],
    ) -> Result<StartExecution, StoreError> {
        let execution = ExecutionId::generate();
        let pages: Vec<Uuid> = start_urls.iter().map(|_| PageId::generate().0).collect();
        let urls: Vec<String> = start_urls.iter().map(|url| url.as_str().to_owned()).collect();
        let hashes: Vec<Vec<u8>> = start_urls.iter().map(|url| url.hash().to_vec()).collect();
        let hosts: Vec<String> = start_urls.iter().map(|url| url.host().to_owned()).collect();
        let max_pages = limits.max_pages.map(|pages| i64::try_from(pages).unwrap_or(i64::MAX));
        let host_delay_ms = i32::try_from(limits.rate_limit_delay.as_millis()).unwrap_or(i32::MAX);
        let budgets = BudgetRows::of(budgets);
        // Lock: the workflow's row, shared, so that a change of its status comes wholly before or after.
        // Depth 0 and priority 100 are what users of the old system know.
        let answer = sqlx::query!(
            r#"
            WITH workflow AS (
                SELECT id, status FROM workflows WHERE id = $1 FOR SHARE
            ), execution AS (
                INSERT INTO workflow_executions (id, workflow_id, version, status, max_pages, host_delay_ms)
                SELECT $2, id, $3, 'running', $4, $5 FROM workflow WHERE status = 'active'
                RETURNING id
            ), pages AS (
                INSERT INTO url_queue (id, execution_id, url, url_hash, host, depth, priority)
                SELECT page.id, execution.id, page.url, page.url_hash, page.host, 0, 100
                FROM execution,
                    UNNEST($6::uuid[], $7::text[], $8::bytea[], $9::text[]) AS page (id, url, url_hash, host)
                ON CONFLICT ON CONSTRAINT url_queue_url_key DO NOTHING
            ), budgets AS (
                INSERT INTO execution_budgets (execution_id, kind, prefix, max)
                SELECT execution.id, budget.kind, budget.prefix, budget.max
                FROM execution, UNNEST($10::text[], $11::text[], $12::int8[]) AS budget (kind, prefix, max)
            )
            SELECT status AS "status: WorkflowStatus", EXISTS (SELECT FROM execution) AS "started!" FROM workflow
            "#,
            workflow.0,
            execution.0,
            version,
            max_pages,
            host_delay_ms,
            &pages,
            &urls,
            &hashes,
            &hosts,
            &budgets.kinds,
            &budgets.prefixes,
            &budgets.most,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(match answer {
            Some(answer) if answer.started => StartExecution::Started(execution),
            Some(answer) => StartExecution::NotActive(answer.status),
            None => StartExecution::NotFound,
        })
    }

    /// Cancels an execution that has not ended. From then on nobody dispatches or claims a page of it; those that
    /// wait are swept up later, in portions ([`Store::sweep_leftover_pages`]), since they may be millions.
    ///
    /// # Errors
    /// The database's.
    pub async fn cancel_execution(&self, execution: ExecutionId) -> Result<CancelExecution, StoreError> {
        // Lock: the execution's row, before its status is looked at.
        let answer = sqlx::query!(
            r#"
            WITH execution AS (
                SELECT id, status FROM workflow_executions WHERE id = $1 FOR UPDATE
            ), cancelled AS (
                UPDATE workflow_executions AS target
                SET status = 'cancelled', completed_at = now()
                FROM execution
                WHERE target.id = execution.id AND execution.status IN ('pending', 'running')
                RETURNING target.id
            )
            SELECT status AS "status: ExecutionStatus", EXISTS (SELECT FROM cancelled) AS "cancelled!" FROM execution
            "#,
            execution.0,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(match answer {
            Some(answer) if answer.cancelled => CancelExecution::Cancelled,
            Some(answer) => CancelExecution::Ended(answer.status),
            None => CancelExecution::NotFound,
        })
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
                pages_admitted, host_delay_ms
            FROM workflow_executions AS execution JOIN workflows AS workflow ON workflow.id = workflow_id
            WHERE execution.id = $1
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
                pages_admitted, host_delay_ms
            FROM workflow_executions AS execution JOIN workflows AS workflow ON workflow.id = workflow_id
            WHERE ($1::uuid IS NULL OR workflow_id = $1) AND ($2::text IS NULL OR execution.status = $2)
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
        let count = sqlx::query_scalar!(
            r#"
            SELECT COUNT(*) AS "count!" FROM workflow_executions
            WHERE ($1::uuid IS NULL OR workflow_id = $1) AND ($2::text IS NULL OR status = $2)
            "#,
            workflow.map(|workflow| workflow.0),
            status.map(ExecutionStatus::as_str),
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(count)
    }

    /// Counts an execution's pages by status.
    ///
    /// # Errors
    /// The database's.
    pub async fn page_counts(&self, execution: ExecutionId) -> Result<PageCounts, StoreError> {
        // Index: url_queue_url_key, by its first column.
        let counts = sqlx::query_as!(
            PageCounts,
            r#"
            SELECT COUNT(*) FILTER (WHERE status IN ('pending', 'queued')) AS "pending!",
                COUNT(*) FILTER (WHERE status = 'processing') AS "processing!",
                COUNT(*) FILTER (WHERE status = 'completed') AS "completed!",
                COUNT(*) FILTER (WHERE status = 'failed') AS "failed!",
                COUNT(*) FILTER (WHERE status = 'skipped') AS "skipped!",
                COUNT(*) FILTER (WHERE status = 'cancelled') AS "cancelled!"
            FROM url_queue
            WHERE execution_id = $1
            "#,
            execution.0,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(counts)
    }
}
