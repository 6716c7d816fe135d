//! What answers about executions look like: the keys of both versions of the old system, and ours beside them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use crawlify_shared::store::control::CancelMode;
use crawlify_shared::store::executions::{ExecutionRow, ExecutionStatus, PageCounts};
use crawlify_shared::store::items::ItemRow;
use crawlify_shared::store::summary::{ErrorGroup, NodeSummary, Summary, Totals};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::render::RenderEntry;
use super::skipped::SkipCountEntry;
use crate::api::budgets::BudgetsBody;

/// An execution that was started.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct StartedBody {
    pub(super) message: &'static str,
    pub(super) execution_id: Uuid,
    pub(super) workflow_id: Uuid,
}

/// Some executions.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct ExecutionList {
    pub(super) executions: Vec<ExecutionEntry>,
    /// How many there are.
    pub(super) total: i64,
    pub(super) limit: i64,
    pub(super) offset: i64,
}

/// An execution without its figures.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct ExecutionEntry {
    id: Uuid,
    workflow_id: Uuid,
    /// The workflow's name today.
    workflow_name: String,
    /// Which version of the workflow it runs.
    version: i32,
    /// `pending`, `running`, `paused`, `completed`, `failed` or `cancelled`.
    status: &'static str,
    started_at: DateTime<Utc>,
    completed_at: Option<DateTime<Utc>>,
    /// Why it failed.
    error: Option<String>,
}

impl From<ExecutionRow> for ExecutionEntry {
    fn from(row: ExecutionRow) -> Self {
        Self {
            id: row.id,
            workflow_id: row.workflow_id,
            workflow_name: row.workflow_name,
            version: row.version,
            status: row.status.as_str(),
            started_at: row.started_at,
            completed_at: row.completed_at,
            error: row.error,
        }
    }
}

/// An execution.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct ExecutionBody {
    execution_id: Uuid,
    /// Whether its pages are being worked on.
    running: bool,
    stats: Figures,
    #[serde(flatten)]
    entry: ExecutionEntry,
    /// At most this many pages are dispatched.
    max_pages: Option<i64>,
    /// How many pages were dispatched so far.
    pages_admitted: i64,
    /// Least milliseconds between the starts of two pages of one host.
    rate_limit_delay: i32,
    /// At most this many pages of one host at once.
    concurrency: Option<i32>,
    /// Its share of the fleet beside other executions.
    weight: i32,
    /// Executions with a higher one go first.
    priority: i32,
    /// What it may spend.
    budgets: BudgetsBody,
    /// Of a cancelled one: `graceful`, or `now` where pages in hand are given up.
    cancel_mode: Option<&'static str>,
    /// How often it was acted upon; also the `ETag`.
    control_version: i32,
    /// Which schedule started it.
    schedule_id: Option<Uuid>,
}

impl ExecutionBody {
    pub(super) fn new(row: ExecutionRow, stats: Figures, budgets: BudgetsBody) -> Self {
        Self {
            execution_id: row.id,
            running: row.status == ExecutionStatus::Running,
            stats,
            max_pages: row.max_pages,
            pages_admitted: row.pages_admitted,
            rate_limit_delay: row.host_delay_ms,
            concurrency: row.host_concurrency,
            weight: row.weight,
            priority: row.priority,
            budgets,
            cancel_mode: row.cancel_mode.map(CancelMode::as_str),
            control_version: row.control_version,
            schedule_id: row.schedule_id,
            entry: row.into(),
        }
    }
}

/// An execution in figures.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct Figures {
    /// Pages that wait, those already sent to the broker included.
    pending: i64,
    /// Pages in a worker's hands.
    processing: i64,
    /// Pages that were loaded; some of their nodes may have failed.
    completed: i64,
    /// Pages that were given up.
    failed: i64,
    /// Pages that were not to be visited: beyond a limit or a budget, or disallowed by robots.txt.
    skipped: i64,
    /// Pages that were stopped with their execution.
    cancelled: i64,
    /// Links found and given to the frontier.
    urls_discovered: i64,
    /// The same as `completed`.
    urls_processed: i64,
    /// The same as `failed`.
    urls_failed: i64,
    items_extracted: i64,
    /// What its pages received, all that they load included where the egress guard counts it, else their documents; null
    /// where nothing was counted.
    bytes_downloaded: Option<i64>,
    /// How long it took, or has taken so far, in milliseconds.
    duration: i64,
    nodes_executed: i64,
    nodes_failed: i64,
    /// Of the completed and the failed pages, those that were read as they came; the others were loaded in a tab.
    static_pages: i64,
    /// When a worker last recorded something.
    last_update: Option<DateTime<Utc>>,
}

impl Figures {
    pub(super) fn new(
        pages: &PageCounts,
        totals: &Totals,
        started_at: DateTime<Utc>,
        completed_at: Option<DateTime<Utc>>,
    ) -> Self {
        let elapsed = completed_at.unwrap_or_else(Utc::now) - started_at;
        Self {
            pending: pages.pending,
            processing: pages.processing,
            completed: pages.completed,
            failed: pages.failed,
            skipped: pages.skipped,
            cancelled: pages.cancelled,
            urls_discovered: totals.urls_found,
            urls_processed: pages.completed,
            urls_failed: pages.failed,
            items_extracted: totals.items,
            bytes_downloaded: Some(totals.bytes).filter(|bytes| *bytes > 0),
            duration: elapsed.num_milliseconds().max(0),
            nodes_executed: totals.nodes_executed,
            nodes_failed: totals.nodes_failed,
            static_pages: totals.static_pages,
            last_update: totals.updated_at,
        }
    }
}

/// An execution summed up.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct StatsBody {
    execution_id: Uuid,
    stats: Figures,
    /// The same as `stats.pending`.
    pending_count: i64,
    status: &'static str,
    /// How many pages were tried how often.
    attempts: Vec<AttemptEntry>,
    /// In the order of execution.
    nodes: Vec<NodeEntry>,
    /// How pages are loaded, by phase and shape of their URLs, and why; those that concern the most pages first. Empty
    /// where every page is to be rendered. Some seconds old while the execution runs.
    render: Vec<RenderEntry>,
    /// How many URLs were not visited, and why, the most frequent reason first.
    skipped_by_reason: Vec<SkipCountEntry>,
    /// Why pages failed, the most frequent first.
    page_errors: Vec<ErrorEntry>,
    /// Why nodes failed, the most frequent first.
    node_errors: Vec<ErrorEntry>,
}

impl StatsBody {
    pub(super) fn new(execution_id: Uuid, summary: Summary) -> Self {
        Self {
            execution_id,
            stats: Figures::new(&summary.pages, &summary.totals, summary.started_at, summary.completed_at),
            pending_count: summary.pages.pending,
            status: summary.status.as_str(),
            attempts: summary
                .attempts
                .iter()
                .map(|count| AttemptEntry { attempt: count.attempt, pages: count.pages })
                .collect(),
            nodes: summary.nodes.into_iter().map(NodeEntry::from).collect(),
            render: summary.render.into_iter().map(RenderEntry::from).collect(),
            skipped_by_reason: summary.skips.into_iter().map(SkipCountEntry::from).collect(),
            page_errors: summary.page_errors.into_iter().map(ErrorEntry::from).collect(),
            node_errors: summary.node_errors.into_iter().map(ErrorEntry::from).collect(),
        }
    }
}

/// How many pages were tried so often.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct AttemptEntry {
    attempt: i32,
    pages: i64,
}

/// What the runs of one node came to. Durations are in milliseconds and null where none was measured.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct NodeEntry {
    phase: String,
    node_id: String,
    node_type: String,
    completed: i64,
    failed: i64,
    /// Runs that did not happen because of an earlier failure.
    cancelled: i64,
    /// Further runs after a failure.
    retries: i64,
    total_duration_ms: f64,
    avg_duration_ms: Option<f64>,
    /// Estimated from buckets.
    p50_duration_ms: Option<f64>,
    /// Estimated from buckets.
    p95_duration_ms: Option<f64>,
}

impl From<NodeSummary> for NodeEntry {
    fn from(node: NodeSummary) -> Self {
        Self {
            phase: node.phase,
            node_id: node.node_id,
            node_type: node.node_type,
            completed: node.completed,
            failed: node.failed,
            cancelled: node.cancelled,
            retries: node.retries,
            total_duration_ms: milliseconds(node.total),
            avg_duration_ms: node.mean.map(milliseconds),
            p50_duration_ms: node.p50.map(milliseconds),
            p95_duration_ms: node.p95.map(milliseconds),
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// Failures with the same message.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct ErrorEntry {
    error_class: Option<String>,
    message: String,
    count: i64,
    /// One page where it happened.
    sample_url: Option<String>,
}

impl From<ErrorGroup> for ErrorEntry {
    fn from(group: ErrorGroup) -> Self {
        Self {
            error_class: group.error_class,
            message: group.message,
            count: group.count,
            sample_url: group.sample_url,
        }
    }
}

/// What an execution extracted, or a part of it.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct DataBody {
    execution_id: Uuid,
    /// As the old system's early version names the entries.
    data: Vec<DataEntry>,
    /// The same entries as its newest version names them.
    items: Vec<DataEntry>,
    /// How many there are.
    total: i64,
    limit: i64,
    offset: i64,
}

/// What one page gave.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::api) struct DataEntry {
    id: Uuid,
    execution_id: Uuid,
    /// The page, a row of the frontier.
    url_id: Uuid,
    url: String,
    data: Value,
    /// The name of its shape.
    schema: Option<String>,
    /// The same as `schema`.
    schema_name: Option<String>,
    extracted_at: DateTime<Utc>,
}

impl DataBody {
    pub(super) fn new(
        execution_id: Uuid,
        rows: &[ItemRow],
        total: i64,
        limit: i64,
        offset: i64,
        legacy: bool,
    ) -> Self {
        let data: Vec<_> = rows.iter().map(|row| DataEntry::new(execution_id, row)).collect();
        let mut items = data.clone();
        if legacy {
            for item in &mut items {
                item.data = Value::String(item.data.to_string());
            }
        }
        Self { execution_id, data, items, total, limit, offset }
    }
}

impl DataEntry {
    fn new(execution_id: Uuid, row: &ItemRow) -> Self {
        Self {
            id: row.id,
            execution_id,
            url_id: row.page_id,
            url: row.url.clone(),
            data: row.data.clone(),
            schema: row.schema_name.clone(),
            schema_name: row.schema_name.clone(),
            extracted_at: row.extracted_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row() -> ItemRow {
        ItemRow {
            id: Uuid::nil(),
            page_id: Uuid::nil(),
            url: "http://shop.test/1".into(),
            schema_name: None,
            data: json!({"title": "A"}),
            extracted_at: Utc::now(),
        }
    }

    #[test]
    fn legacy_items_carry_their_data_as_a_string_of_json() {
        let body = DataBody::new(Uuid::nil(), &[row()], 1, 100, 0, true);
        assert_eq!(body.items[0].data, json!("{\"title\":\"A\"}"));
        assert_eq!(body.data[0].data, json!({"title": "A"}));
    }

    #[test]
    fn items_carry_their_data_as_json_otherwise() {
        let body = DataBody::new(Uuid::nil(), &[row()], 1, 100, 0, false);
        assert_eq!(body.items[0].data, json!({"title": "A"}));
    }
}
