//! Workflows and their versions: made, listed, changed, deleted.
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

/// How a deletion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteWorkflow {
    /// It is gone, with its executions and all that they recorded.
    Deleted,
    /// An execution of it is running, or a worker still holds a page of one: nothing was deleted.
    InUse,
    /// There was none.
    NotFound,
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
            WHERE $1::text IS NULL OR status = $1
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
            r#"SELECT COUNT(*) AS "count!" FROM workflows WHERE $1::text IS NULL OR status = $1"#,
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
            WHERE id = $1
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
                WHERE id = $1
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
            "UPDATE workflows SET status = $2, updated_at = now() WHERE id = $1",
            workflow.0,
            status.as_str(),
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Deletes a workflow, its versions, its executions and everything that they recorded; or nothing, while an
    /// execution of it runs or a worker still holds a page of one.
    ///
    /// # Errors
    /// The database's.
    pub async fn delete_workflow(&self, workflow: WorkflowId) -> Result<DeleteWorkflow, StoreError> {
        // Lock: the workflow's row; an execution that is being started holds it shared until it is committed. One
        // that was committed after this statement began is not seen here: the foreign key of executions refuses
        // then. Those that are there are locked by a statement before it, so that it sees a retry that has just set one
        // running, and none can while it deletes. Indexes: workflow_executions_workflow_idx, url_queue_open_idx, node_records_definition_idx.
        // Node records have no foreign key, since their partitions are dropped whole; the rest cascades.
        let mut transaction = self.pool.begin().await?;
        sqlx::query_scalar!(
            "SELECT id FROM workflow_executions WHERE workflow_id = $1 ORDER BY id FOR NO KEY UPDATE",
            workflow.0
        )
        .fetch_all(&mut *transaction)
        .await?;
        let answer = sqlx::query!(
            r#"
            WITH found AS (
                SELECT id FROM workflows WHERE id = $1 FOR UPDATE
            ), executions AS (
                SELECT execution.id, execution.status
                FROM found JOIN workflow_executions AS execution ON execution.workflow_id = found.id
            ), in_use AS (
                SELECT 1 FROM executions
                WHERE status IN ('pending', 'running', 'paused')
                    OR EXISTS (
                        SELECT FROM url_queue AS page
                        WHERE page.execution_id = executions.id AND page.status = 'processing'
                    )
                LIMIT 1
            ), doomed AS (
                SELECT id FROM executions WHERE NOT EXISTS (SELECT FROM in_use)
            ), deleted_nodes AS (
                DELETE FROM node_records AS node USING node_definitions AS definition, doomed
                WHERE node.definition_id = definition.id AND definition.execution_id = doomed.id
            ), deleted_executions AS (
                DELETE FROM workflow_executions AS execution USING doomed WHERE execution.id = doomed.id
            ), deleted AS (
                DELETE FROM workflows AS workflow USING found
                WHERE workflow.id = found.id AND NOT EXISTS (SELECT FROM in_use)
                RETURNING workflow.id
            )
            SELECT EXISTS (SELECT FROM found) AS "found!", EXISTS (SELECT FROM deleted) AS "deleted!"
            "#,
            workflow.0,
        )
        .fetch_one(&mut *transaction)
        .await;
        match answer {
            Ok(answer) if answer.deleted => {
                transaction.commit().await?;
                Ok(DeleteWorkflow::Deleted)
            }
            Ok(answer) if answer.found => Ok(DeleteWorkflow::InUse),
            Ok(_) => Ok(DeleteWorkflow::NotFound),
            Err(sqlx::Error::Database(error)) if error.is_foreign_key_violation() => {
                Ok(DeleteWorkflow::InUse)
            }
            Err(error) => Err(error.into()),
        }
    }
}
