//! Workflows and their versions: made, listed, changed. They are deleted in [`super::deletion`], and none of this sees those that
//! were.
//!
//! Every change is one statement, so that a caller who goes away in the middle of it leaves nothing half done.
//! Versions are only ever added: an execution keeps the definition that it started with.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::{Store, StoreError};
use crate::domain::id::WorkflowId;

/// What may be done with a workflow. Only an active one is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum WorkflowStatus {
    /// Being written.
    Draft,
    /// May be executed.
    Active,
    /// Not to be executed for now.
    Paused,
    /// Kept for its past.
    Archived,
}

impl WorkflowStatus {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Draft, Self::Active, Self::Paused, Self::Archived];

    /// The name in rows and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Archived => "archived",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

/// A workflow with its newest definition.
#[derive(Clone, Debug)]
pub struct WorkflowRow {
    /// Names it.
    pub id: Uuid,
    /// For people.
    pub name: String,
    /// For people, possibly empty.
    pub description: String,
    /// As its author wrote it.
    pub config: Value,
    /// What may be done with it.
    pub status: WorkflowStatus,
    /// The number of the definition in `config`, from 1.
    pub version: i32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// What a workflow is made from, or replaced by.
#[derive(Clone, Copy, Debug)]
pub struct WorkflowText<'a> {
    /// For people.
    pub name: &'a str,
    /// For people, possibly empty.
    pub description: &'a str,
    /// As its author wrote it; already checked.
    pub config: &'a Value,
}

impl Store {
    /// Makes a workflow with its first version.
    ///
    /// # Errors
    /// The database's.
    pub async fn create_workflow(
        &self,
        text: WorkflowText<'_>,
        status: WorkflowStatus,
    ) -> Result<WorkflowRow, StoreError> {
        let row = sqlx::query_as!(
            WorkflowRow,
            r#"
            WITH created AS (
                INSERT INTO workflows (id, name, description, config, status)
                VALUES ($1, $2, $3, $4, $5)
                RETURNING *
            ), first_version AS (
                INSERT INTO workflow_versions (workflow_id, version, config, created_at)
                SELECT id, version, config, created_at FROM created
            )
            SELECT id, name, description, config, status AS "status: WorkflowStatus", version, created_at, updated_at
            FROM created
            "#,
            WorkflowId::generate().0,
            text.name,
            text.description,
            text.config,
            status.as_str(),
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(row)
    }

    /// Lists workflows, newest first, all of them or those with one status.
    ///
    /// # Errors
    /// The database's.
    pub async fn workflows(
        &self,
        status: Option<WorkflowStatus>,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<WorkflowRow>, StoreError> {
        // Index: workflows_created_at_idx, in its order.
        let rows = sqlx::query_as!(
            WorkflowRow,
            r#"
            SELECT id, name, description, config, status AS "status: WorkflowStatus", version, created_at, updated_at
            FROM workflows
            WHERE deleted_at IS NULL AND ($1::text IS NULL OR status = $1)
            ORDER BY created_at DESC, id DESC
            LIMIT $2 OFFSET $3
            "#,
            status.map(WorkflowStatus::as_str),
            limit,
            offset,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Counts what [`Store::workflows`] lists.
    ///
    /// # Errors
    /// The database's.
    pub async fn workflow_count(&self, status: Option<WorkflowStatus>) -> Result<i64, StoreError> {
        // No index: there are as many rows as people wrote workflows.
        let count = sqlx::query_scalar!(
            r#"
            SELECT COUNT(*) AS "count!" FROM workflows
            WHERE deleted_at IS NULL AND ($1::text IS NULL OR status = $1)
            "#,
            status.map(WorkflowStatus::as_str),
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(count)
    }

    /// Finds a workflow.
    ///
    /// # Errors
    /// The database's.
    pub async fn workflow(&self, workflow: WorkflowId) -> Result<Option<WorkflowRow>, StoreError> {
        // Index: the primary key.
        let row = sqlx::query_as!(
            WorkflowRow,
            r#"
            SELECT id, name, description, config, status AS "status: WorkflowStatus", version, created_at, updated_at
            FROM workflows
            WHERE id = $1 AND deleted_at IS NULL
            "#,
            workflow.0,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row)
    }

    /// Replaces a workflow's text, and its status where one is given. A config that differs becomes a new version;
    /// the same one again does not. Answers `None` where there is no such workflow.
    ///
    /// # Errors
    /// The database's.
    pub async fn update_workflow(
        &self,
        workflow: WorkflowId,
        text: WorkflowText<'_>,
        status: Option<WorkflowStatus>,
    ) -> Result<Option<WorkflowRow>, StoreError> {
        // Lock: the workflow's row, so that of two changes at once the later one counts on from the earlier.
        let row = sqlx::query_as!(
            WorkflowRow,
            r#"
            WITH updated AS (
                UPDATE workflows
                SET name = $2,
                    description = $3,
                    config = $4,
                    status = COALESCE($5, status),
                    version = CASE WHEN config = $4 THEN version ELSE version + 1 END,
                    updated_at = now()
                WHERE id = $1 AND deleted_at IS NULL
                RETURNING *
            ), next_version AS (
                INSERT INTO workflow_versions (workflow_id, version, config)
                SELECT id, version, config FROM updated
                ON CONFLICT ON CONSTRAINT workflow_versions_pkey DO NOTHING
            )
            SELECT id, name, description, config, status AS "status: WorkflowStatus", version, created_at, updated_at
            FROM updated
            "#,
            workflow.0,
            text.name,
            text.description,
            text.config,
            status.map(WorkflowStatus::as_str),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row)
    }

    /// Sets a workflow's status. Answers whether there is such a workflow.
    ///
    /// # Errors
    /// The database's.
    pub async fn set_workflow_status(
        &self,
        workflow: WorkflowId,
        status: WorkflowStatus,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE workflows SET status = $2, updated_at = now() WHERE id = $1 AND deleted_at IS NULL",
            workflow.0,
            status.as_str(),
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }
}
