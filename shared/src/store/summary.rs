//! What an execution did, in figures: for the end of a command, and for watching.
//!
//! Several reads, not one snapshot: of a running execution the figures may differ by what happened in between.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::counters::quantile;
use super::executions::{ExecutionStatus, PageCounts};
use super::skips::SkipCount;
use super::{Store, StoreError};
use crate::domain::id::ExecutionId;
use crate::domain::page::RenderDecision;
use crate::domain::workflow::parse_config;

/// How many groups of errors a summary names at the most, for pages and for nodes.
pub const ERROR_GROUPS: i64 = 10;

/// What an execution did.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Where it stands.
    pub status: ExecutionStatus,
    /// When it was started.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub completed_at: Option<DateTime<Utc>>,
    /// Its pages by status.
    pub pages: PageCounts,
    /// What its workers counted.
    pub totals: Totals,
    /// How many pages were claimed how often, fewest attempts first; pages never claimed are not in it.
    pub attempts: Vec<AttemptCount>,
    /// One entry for each node, in the order of execution.
    pub nodes: Vec<NodeSummary>,
    /// How pages of each shape are loaded, and why; empty where every page is to be rendered.
    pub render: Vec<RenderDecision>,
    /// Why URLs were not visited, the most frequent reason first.
    pub skips: Vec<SkipCount>,
    /// Why pages were given up or wait for another attempt, the most frequent first.
    pub page_errors: Vec<ErrorGroup>,
    /// Why nodes failed, the most frequent first.
    pub node_errors: Vec<ErrorGroup>,
}

/// What an execution's workers counted, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Attempts that ended with another attempt to come.
    pub retried: i64,
    /// Extracted items.
    pub items: i64,
    /// Links found and given to the frontier.
    pub urls_found: i64,
    /// Nodes that ran.
    pub nodes_executed: i64,
    /// Nodes that ran and failed.
    pub nodes_failed: i64,
    /// Of the completed and the failed pages, those that were read as they came; the others were loaded in a tab.
    pub static_pages: i64,
    /// Received by its pages, as far as workers know.
    pub bytes: i64,
    /// When a worker last counted something.
    pub updated_at: Option<DateTime<Utc>>,
}

/// How many pages were claimed so often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptCount {
    /// 1 is a page that was tried once.
    pub attempt: i32,
    /// How many.
    pub pages: i64,
}

/// What the runs of one node came to.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSummary {
    /// Its phase.
    pub phase: String,
    /// Its id within the phase.
    pub node_id: String,
    /// What it does.
    pub node_type: String,
    /// Runs that gave an output.
    pub completed: i64,
    /// Runs that failed, their retries included.
    pub failed: i64,
    /// Runs that did not happen because of an earlier failure.
    pub cancelled: i64,
    /// Further runs after a failure.
    pub retries: i64,
    /// The time that all its runs took.
    pub total: Duration,
    /// The time that a run took on average; `None` where none did.
    pub mean: Option<Duration>,
    /// Half of the runs took at most about this long.
    pub p50: Option<Duration>,
    /// Of 20 runs, 19 took at most about this long.
    pub p95: Option<Duration>,
}

/// Failures with the same message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorGroup {
    /// The class, as in rows.
    pub error_class: Option<String>,
    /// What the user reads.
    pub message: String,
    /// How many.
    pub count: i64,
    /// One page where it happened.
    pub sample_url: Option<String>,
}

impl Store {
    /// Sums an execution up. Answers `None` where there is no such execution.
    ///
    /// # Errors
    /// The database's.
    pub async fn summary(&self, execution: ExecutionId) -> Result<Option<Summary>, StoreError> {
        // Index: the primary keys.
        let row = sqlx::query!(
            r#"
            SELECT status AS "status: ExecutionStatus", started_at, completed_at, version.config
            FROM workflow_executions AS execution
                JOIN workflow_versions AS version USING (workflow_id, version)
            WHERE execution.id = $1 AND workflow_is_there(workflow_id)
            "#,
            execution.0,
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let mut nodes = self.node_summaries(execution).await?;
        sort_as_executed(&mut nodes, &row.config);
        Ok(Some(Summary {
            status: row.status,
            started_at: row.started_at,
            completed_at: row.completed_at,
            pages: self.page_counts(execution).await?,
            totals: self.totals(execution).await?,
            attempts: self.attempt_counts(execution).await?,
            nodes,
            render: self.render_decisions(execution).await?,
            skips: self.skip_counts(execution).await?,
            page_errors: self.page_errors(execution).await?,
            node_errors: self.node_errors(execution).await?,
        }))
    }

    /// Adds up what an execution's workers counted.
    ///
    /// # Errors
    /// The database's.
    pub async fn totals(&self, execution: ExecutionId) -> Result<Totals, StoreError> {
        // Index: page_counters_pkey.
        let totals = sqlx::query_as!(
            Totals,
            r#"
            SELECT COALESCE(SUM(retried), 0)::bigint AS "retried!",
                COALESCE(SUM(items), 0)::bigint AS "items!",
                COALESCE(SUM(urls_found), 0)::bigint AS "urls_found!",
                COALESCE(SUM(nodes_executed), 0)::bigint AS "nodes_executed!",
                COALESCE(SUM(nodes_failed), 0)::bigint AS "nodes_failed!",
                COALESCE(SUM(static_pages), 0)::bigint AS "static_pages!",
                COALESCE(SUM(bytes), 0)::bigint AS "bytes!",
                MAX(updated_at) AS updated_at
            FROM page_counters
            WHERE execution_id = $1
            "#,
            execution.0,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(totals)
    }

    async fn attempt_counts(&self, execution: ExecutionId) -> Result<Vec<AttemptCount>, StoreError> {
        // Index: url_queue_url_key, by its first column.
        let counts = sqlx::query_as!(
            AttemptCount,
            r#"
            SELECT attempt, COUNT(*) AS "pages!"
            FROM url_queue
            WHERE execution_id = $1 AND attempt > 0
            GROUP BY attempt
            ORDER BY attempt
            "#,
            execution.0,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(counts)
    }

    async fn node_summaries(&self, execution: ExecutionId) -> Result<Vec<NodeSummary>, StoreError> {
        // Index: node_counters_pkey. There are as many rows as nodes times workers, each with few buckets.
        let rows = sqlx::query!(
            r#"
            WITH counter AS (
                SELECT * FROM node_counters WHERE execution_id = $1
            ), bucket AS (
                SELECT phase, node_id, place, SUM(runs)::bigint AS runs
                FROM counter CROSS JOIN UNNEST(durations) WITH ORDINALITY AS count (runs, place)
                GROUP BY phase, node_id, place
            ), histogram AS (
                SELECT phase, node_id, ARRAY_AGG(runs ORDER BY place) AS durations
                FROM bucket
                GROUP BY phase, node_id
            )
            SELECT phase AS "phase!", node_id AS "node_id!", MIN(node_type) AS "node_type!",
                SUM(completed)::bigint AS "completed!", SUM(failed)::bigint AS "failed!",
                SUM(cancelled)::bigint AS "cancelled!", SUM(retries)::bigint AS "retries!",
                SUM(duration_us)::bigint AS "duration_us!", histogram.durations AS "durations?"
            FROM counter LEFT JOIN histogram USING (phase, node_id)
            GROUP BY phase, node_id, histogram.durations
            ORDER BY phase, node_id
            "#,
            execution.0,
        )
        .fetch_all(&self.pool)
        .await?;
        let summaries = rows.into_iter().map(|row| {
            let durations = row.durations.unwrap_or_default();
            let total = Duration::from_micros(u64::try_from(row.duration_us).unwrap_or(0));
            let timed: i64 = durations.iter().sum();
            NodeSummary {
                phase: row.phase,
                node_id: row.node_id,
                node_type: row.node_type,
                completed: row.completed,
                failed: row.failed,
                cancelled: row.cancelled,
                retries: row.retries,
                total,
                mean: u32::try_from(timed).ok().filter(|&timed| timed > 0).map(|timed| total / timed),
                p50: quantile(&durations, 0.50),
                p95: quantile(&durations, 0.95),
            }
        });
        Ok(summaries.collect())
    }

    async fn page_errors(&self, execution: ExecutionId) -> Result<Vec<ErrorGroup>, StoreError> {
        // Index: url_queue_url_key, by its first column.
        let groups = sqlx::query_as!(
            ErrorGroup,
            r#"
            SELECT error_class, COALESCE(error, '') AS "message!", COUNT(*) AS "count!", MIN(url) AS sample_url
            FROM url_queue
            WHERE execution_id = $1 AND status NOT IN ('completed', 'skipped', 'cancelled')
                AND (error IS NOT NULL OR error_class IS NOT NULL)
            GROUP BY error_class, error
            ORDER BY COUNT(*) DESC, error_class, error
            LIMIT $2
            "#,
            execution.0,
            ERROR_GROUPS,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(groups)
    }

    async fn node_errors(&self, execution: ExecutionId) -> Result<Vec<ErrorGroup>, StoreError> {
        // Index: node_records_failed_idx. The sample's page is looked up afterwards, once for each group.
        let groups = sqlx::query_as!(
            ErrorGroup,
            r#"
            WITH failure AS (
                SELECT error_class, COALESCE(error, '') AS message, COUNT(*) AS count,
                    (ARRAY_AGG(page_id))[1] AS page_id
                FROM node_records AS record JOIN node_definitions AS definition ON definition.id = definition_id
                WHERE execution_id = $1 AND status = 'f'
                GROUP BY error_class, COALESCE(error, '')
                ORDER BY COUNT(*) DESC
                LIMIT $2
            )
            SELECT failure.error_class AS "error_class?", message AS "message!", count AS "count!",
                page.url AS "sample_url?"
            FROM failure LEFT JOIN url_queue AS page ON page.id = failure.page_id
            ORDER BY count DESC, failure.error_class, message
            "#,
            execution.0,
            ERROR_GROUPS,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(groups)
    }
}

/// Counters do not know the order of nodes; the version does.
fn sort_as_executed(nodes: &mut [NodeSummary], config: &Value) {
    let Ok(workflow) = parse_config(config) else { return };
    let order: Vec<(&str, &str)> = workflow
        .phases
        .iter()
        .flat_map(|phase| phase.nodes.iter().map(|node| (phase.id.as_str(), node.id.as_str())))
        .collect();
    nodes.sort_by_key(|node| {
        let place = order.iter().position(|&(phase, id)| phase == node.phase && id == node.node_id);
        place.unwrap_or(usize::MAX)
    });
}
