//! Workflows that are deleted: marked at once, removed in portions.
//!
//! From the mark on nobody is shown anything of a workflow, nothing of it starts, and what its definitions said is gone, their
//! secrets too. What its executions recorded may be many millions of rows: these go portion by portion, and the workflow itself
//! with the last of them. A crash in between leaves rows that nobody is shown, and whoever comes next goes on with them.

use sqlx::Connection;

use super::{Store, StoreError};
use crate::domain::id::WorkflowId;

/// Rows of each table that one portion removes at the most; of node records as many as these pages have.
pub const REMOVED_AT_ONCE: i64 = 1_000;

/// How a deletion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteWorkflow {
    /// It is gone, with its executions and all that they recorded, as far as anybody is shown; the rows go by and by
    /// ([`Store::remove_deleted`]).
    Deleted,
    /// An execution of it is running, or a worker still holds a page of one: nothing was deleted.
    InUse,
    /// There was none.
    NotFound,
}

impl Store {
    /// Deletes a workflow, its versions, its schedules, its executions and everything that they recorded; or nothing, while an
    /// execution of it runs or a worker still holds a page of one.
    ///
    /// # Errors
    /// The database's.
    pub async fn delete_workflow(&self, workflow: WorkflowId) -> Result<DeleteWorkflow, StoreError> {
        // By workflow_executions_workflow_idx. Those that run are not locked: whoever ends several has no order for it.
        let is_running = sqlx::query_scalar!(
            r#"SELECT EXISTS (
                SELECT FROM workflow_executions AS execution JOIN workflows AS workflow ON workflow.id = execution.workflow_id
                WHERE workflow.id = $1 AND workflow.deleted_at IS NULL AND execution.status IN ('pending', 'running', 'paused')
            ) AS "is_running!""#,
            workflow.0,
        )
        .fetch_one(&self.pool)
        .await?;
        if is_running {
            return Ok(DeleteWorkflow::InUse);
        }
        let mut connection = self.connection_for_a_transaction().await?;
        let mut transaction = connection.begin().await?;
        // Locks, each by a statement of its own, so that the last one sees whatever was done before they were ours. First the
        // schedules, as who fires one does; then the workflow, which every start holds shared until it has committed; then the
        // executions, so that it sees a retry that has just set one running, and none can from then on. Indexes:
        // schedules_workflow_idx, the primary key, workflow_executions_workflow_idx.
        sqlx::query_scalar!(
            "SELECT id FROM schedules WHERE workflow_id = $1 ORDER BY id FOR UPDATE",
            workflow.0
        )
        .fetch_all(&mut *transaction)
        .await?;
        let found = sqlx::query_scalar!(
            "SELECT id FROM workflows WHERE id = $1 AND deleted_at IS NULL FOR UPDATE",
            workflow.0
        )
        .fetch_optional(&mut *transaction)
        .await?;
        if found.is_none() {
            return Ok(DeleteWorkflow::NotFound);
        }
        sqlx::query_scalar!(
            "SELECT id FROM workflow_executions WHERE workflow_id = $1 ORDER BY id FOR NO KEY UPDATE",
            workflow.0
        )
        .fetch_all(&mut *transaction)
        .await?;
        // Reads url_queue_open_idx and node_definitions_key for each execution. Without its schedules nothing fires it. Programs that
        // know of no deletion start nothing that is archived, which a constraint has it stay, and retry nothing that was cancelled.
        let is_deleted = sqlx::query_scalar!(
            r#"
            WITH in_use AS (
                SELECT 1 FROM workflow_executions AS execution
                WHERE workflow_id = $1 AND (
                    status IN ('pending', 'running', 'paused')
                    OR EXISTS (
                        SELECT FROM url_queue AS page
                        WHERE page.execution_id = execution.id AND page.status = 'processing'))
                LIMIT 1
            ), marked AS (
                UPDATE workflows
                SET deleted_at = now(), status = 'archived', name = '', description = '', config = '{}'
                WHERE id = $1 AND NOT EXISTS (SELECT FROM in_use)
                RETURNING id
            ), emptied AS (
                UPDATE workflow_versions AS version SET config = '{}' FROM marked WHERE version.workflow_id = marked.id
            ), ended AS (
                UPDATE workflow_executions AS execution SET status = 'cancelled', swept_at = now()
                FROM marked WHERE execution.workflow_id = marked.id
                RETURNING execution.id
            ), without_input AS (
                UPDATE node_definitions SET input = '{}' WHERE execution_id IN (SELECT id FROM ended)
            ), unscheduled AS (
                DELETE FROM schedules AS schedule USING marked WHERE schedule.workflow_id = marked.id
            )
            SELECT EXISTS (SELECT FROM marked) AS "is_deleted!"
            "#,
            workflow.0,
        )
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(if is_deleted { DeleteWorkflow::Deleted } else { DeleteWorkflow::InUse })
    }

    /// Removes a portion of what deleted workflows have left, at most `at_once` rows of each table, of all of them or `only` one.
    /// Answers how many rows it was, node records not among them; 0 where nothing is left, or others are at it.
    ///
    /// # Errors
    /// As every statement of the store; what was removed before stays so.
    pub async fn remove_deleted(&self, only: Option<WorkflowId>, at_once: i64) -> Result<u64, StoreError> {
        Ok(self.remove_what_executions_have(only, at_once).await?
            + self.remove_empty_executions(only, at_once).await?
            + self.remove_empty_workflows(only).await?)
    }

    /// Removes what may be very much of an execution: its pages with the records of their nodes, its items, its skipped links, its
    /// lanes.
    async fn remove_what_executions_have(
        &self,
        only: Option<WorkflowId>,
        at_once: i64,
    ) -> Result<u64, StoreError> {
        // Reads workflows_deleted_idx, workflow_executions_workflow_idx, and of some executions url_queue_url_key,
        // extracted_items_execution_idx, skipped_links_pkey and lanes_pkey; the limits end the scans. Lock: the executions, so that
        // several coordinators take different ones. Whoever holds a page or a lane is not waited for: it is there next time. Rows
        // go by primary key; those whose key has two columns by their place in the table, which the planner can only look up. Node
        // records go by node_records_page_idx: they have no foreign key, as their partitions are dropped whole, and go in the
        // statement that removes their page, as nothing leads to them afterwards.
        let removed = sqlx::query_scalar!(
            r#"
            WITH execution AS (
                SELECT execution.id
                FROM workflows AS workflow CROSS JOIN LATERAL (
                    SELECT id FROM workflow_executions WHERE workflow_id = workflow.id
                    LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
                ) AS execution
                WHERE workflow.deleted_at IS NOT NULL AND ($1::uuid IS NULL OR workflow.id = $1)
                LIMIT $2
            ), page AS (
                SELECT page.id
                FROM execution CROSS JOIN LATERAL (
                    SELECT id FROM url_queue WHERE execution_id = execution.id LIMIT $2 FOR UPDATE SKIP LOCKED
                ) AS page
                LIMIT $2
            ), item AS (
                SELECT item.id
                FROM execution CROSS JOIN LATERAL (
                    SELECT id FROM extracted_items WHERE execution_id = execution.id LIMIT $2
                ) AS item
                LIMIT $2
            ), link AS (
                SELECT link.place
                FROM execution CROSS JOIN LATERAL (
                    SELECT ctid AS place FROM skipped_links WHERE execution_id = execution.id LIMIT $2
                ) AS link
                LIMIT $2
            ), lane AS (
                SELECT lane.place
                FROM execution CROSS JOIN LATERAL (
                    SELECT ctid AS place FROM lanes WHERE execution_id = execution.id LIMIT $2 FOR UPDATE SKIP LOCKED
                ) AS lane
                LIMIT $2
            ), without_records AS (
                DELETE FROM node_records WHERE page_id = ANY (ARRAY(SELECT id FROM page))
            ), without_pages AS (
                DELETE FROM url_queue WHERE id = ANY (ARRAY(SELECT id FROM page))
            ), without_items AS (
                DELETE FROM extracted_items WHERE id = ANY (ARRAY(SELECT id FROM item))
            ), without_links AS (
                DELETE FROM skipped_links WHERE ctid = ANY (ARRAY(SELECT place FROM link))
            ), without_lanes AS (
                DELETE FROM lanes WHERE ctid = ANY (ARRAY(SELECT place FROM lane))
            )
            SELECT (SELECT count(*) FROM page) + (SELECT count(*) FROM item) + (SELECT count(*) FROM link)
                + (SELECT count(*) FROM lane) AS "removed!"
            "#,
            only.map(|id| id.0),
            at_once,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(u64::try_from(removed).unwrap_or(0))
    }

    /// Removes executions that have nothing of that any more; the little that they still have goes with them.
    async fn remove_empty_executions(
        &self,
        only: Option<WorkflowId>,
        at_once: i64,
    ) -> Result<u64, StoreError> {
        // Reads the same indexes, and looks at no more executions than are emptied at once. In words that the planner cannot make
        // joins of, which would begin with all pages. The rest cascades, by primary keys that begin with the execution and
        // node_definitions_key: counters, definitions of nodes, budgets, decisions.
        let removed = sqlx::query!(
            r#"
            WITH empty AS (
                SELECT execution.id
                FROM workflows AS workflow CROSS JOIN LATERAL (
                    SELECT id FROM workflow_executions WHERE workflow_id = workflow.id
                    LIMIT $2 FOR UPDATE SKIP LOCKED
                ) AS execution
                WHERE workflow.deleted_at IS NOT NULL AND ($1::uuid IS NULL OR workflow.id = $1)
                  AND (SELECT id FROM url_queue WHERE execution_id = execution.id LIMIT 1) IS NULL
                  AND (SELECT id FROM extracted_items WHERE execution_id = execution.id LIMIT 1) IS NULL
                  AND (SELECT id FROM skipped_links WHERE execution_id = execution.id LIMIT 1) IS NULL
                  AND (SELECT host FROM lanes WHERE execution_id = execution.id LIMIT 1) IS NULL
                LIMIT $2
            )
            DELETE FROM workflow_executions WHERE id = ANY (ARRAY(SELECT id FROM empty))
            "#,
            only.map(|id| id.0),
            at_once,
        )
        .execute(&self.pool)
        .await?;
        Ok(removed.rows_affected())
    }

    /// Removes deleted workflows that have no execution any more. Their versions go with them.
    async fn remove_empty_workflows(&self, only: Option<WorkflowId>) -> Result<u64, StoreError> {
        // Reads workflows_deleted_idx and workflow_executions_workflow_idx.
        let removed = sqlx::query!(
            "DELETE FROM workflows AS workflow
             WHERE id IN (
                SELECT id FROM workflows AS empty
                WHERE deleted_at IS NOT NULL AND ($1::uuid IS NULL OR id = $1)
                  AND NOT EXISTS (SELECT FROM workflow_executions WHERE workflow_id = empty.id)
                ORDER BY id FOR UPDATE SKIP LOCKED)",
            only.map(|id| id.0),
        )
        .execute(&self.pool)
        .await?;
        Ok(removed.rows_affected())
    }
}
