//! Recording: a group of finished pages, with all that they produced, in one fenced statement.
//!
//! The guard is the first part: `UPDATE ... WHERE page, attempt, processing, ours`. What it does not return has lost
//! its lease, and writes nothing at all. The same statement may be sent again after an ambiguous error.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio_postgres::types::{Json, ToSql};

use super::HotStore;
use crate::domain::id::{ItemId, NodeExecutionId, PageId};
use crate::domain::outcome::NodeEnd;
use crate::domain::page::{FinishedPage, NextStatus, NodeTable};
use crate::domain::skip::MAX_DETAIL_BYTES;
use crate::domain::storable::storable_text;
use crate::store::StoreError;
use crate::store::counters::{DURATION_BUCKETS_US, bucket};

/// The longest error message that is stored, in bytes; pages put what they like into theirs.
const MAX_ERROR_BYTES: usize = 4096;

/// Guard first, then everything that depends on it. `$1` is the worker.
static RECORD: LazyLock<String> = LazyLock::new(|| {
    let histogram = (0..=DURATION_BUCKETS_US.len())
        .map(|bucket| format!("count(*) FILTER (WHERE n.bucket = {bucket})"))
        .collect::<Vec<_>>()
        .join(", ");
    format!(
        "
WITH page AS (
    SELECT * FROM unnest($2::uuid[], $3::int4[], $4::text[], $5::text[], $6::text[], $7::int8[], $8::int4[],
        $9::text[], $10::bool[], $11::text[], $38::int8[])
        AS p (id, attempt, status, error, error_class, retry_in_ms, failed_nodes, final_url, released, rendered, bytes)
), done AS (
    -- Only this worker can hold the row as `processing` with this attempt. By primary key: `IS NOT DISTINCT FROM`
    -- keeps the planner, whose statistics are old while a crawl grows, from comparing with all of url_queue_open_idx.
    UPDATE url_queue q
    SET status = p.status, error = p.error, error_class = p.error_class, failed_nodes = p.failed_nodes,
        final_url = p.final_url, rendered = p.rendered, bytes = q.bytes + p.bytes, locked_at = NULL, locked_by = NULL, locked_until = NULL,
        attempt = CASE WHEN p.released THEN q.attempt - 1 ELSE q.attempt END,
        -- A page that goes back must not be claimed by a message of its earlier dispatch.
        epoch = CASE WHEN p.status = 'pending' THEN q.epoch + 1 ELSE q.epoch END,
        not_before = CASE WHEN p.status = 'pending' THEN now() + p.retry_in_ms * interval '1 millisecond'
            ELSE q.not_before END,
        processed_at = CASE WHEN p.status = 'pending' THEN NULL ELSE now() END
    FROM page p
    WHERE q.id = p.id AND q.attempt = p.attempt AND q.status IS NOT DISTINCT FROM 'processing' AND q.locked_by = $1
    RETURNING q.id, q.execution_id, q.url, q.depth, q.priority, p.status, p.attempt, p.released,
        p.rendered, p.bytes, q.is_sitemap
), definition AS (
    SELECT * FROM unnest($12::text[], $13::text[], $14::text[], $15::jsonb[])
        WITH ORDINALITY AS f (node_id, node_type, phase, input, number)
), node AS (
    SELECT n.*, d.execution_id, d.attempt, f.node_id, f.node_type, f.phase, f.input
    FROM unnest($16::uuid[], $17::uuid[], $18::int8[], $19::int2[], $20::text[], $21::timestamptz[],
        $22::timestamptz[], $23::jsonb[], $24::text[], $25::text[], $26::int4[], $27::int4[], $28::int8[])
        AS n (id, page_id, definition, position, status, started_at, completed_at, output, error, error_class,
            retry_count, bucket, duration_us)
    JOIN done d ON d.id = n.page_id
    JOIN definition f ON f.number = n.definition
), nodes AS (
    INSERT INTO node_executions (id, execution_id, node_id, status, started_at, completed_at, input, output, error,
        retry_count, page_id, node_type, phase, attempt, worker_id, error_class, position)
    SELECT id, execution_id, node_id, status, started_at, completed_at, input, output, error, retry_count, page_id,
        node_type, phase, attempt, $1, error_class, position
    FROM node
), items AS (
    INSERT INTO extracted_items (id, execution_id, page_id, url, data)
    SELECT i.id, d.execution_id, d.id, d.url, i.data
    FROM unnest($29::uuid[], $30::uuid[], $31::jsonb[]) AS i (id, page_id, data)
    JOIN done d ON d.id = i.page_id
    ON CONFLICT (id) DO NOTHING
    RETURNING execution_id
), found AS (
    SELECT DISTINCT ON (d.execution_id, u.url_hash) u.id, d.execution_id, u.url, u.url_hash, u.host,
        -- What a sitemap names is where the crawl begins; its own depth counts the indexes above it.
        CASE WHEN d.is_sitemap = u.is_sitemap THEN d.depth + 1 ELSE 0 END AS depth,
        d.priority - 10 AS priority, d.id AS parent_id, u.discovered_by, u.is_sitemap
    FROM unnest($32::uuid[], $33::uuid[], $34::text[], $35::bytea[], $36::text[], $37::text[], $46::bool[])
        AS u (id, page_id, url, url_hash, host, discovered_by, is_sitemap)
    JOIN done d ON d.id = u.page_id
    ORDER BY d.execution_id, u.url_hash, depth
), nearer AS (
    -- A page that waits, and was reached by a longer way before: its links may be within the depth limit after all.
    -- By url_queue_url_key.
    UPDATE url_queue q SET depth = f.depth, priority = greatest(q.priority, f.priority)
    FROM found f
    WHERE q.execution_id = f.execution_id AND q.url_hash = f.url_hash AND q.depth > f.depth
      AND q.status IN ('pending', 'queued')
), links AS (
    -- In the order of the unique key, so that two groups with links in common cannot deadlock.
    INSERT INTO url_queue (id, execution_id, url, url_hash, host, depth, priority, parent_id, discovered_by, is_sitemap)
    SELECT id, execution_id, url, url_hash, host, depth, priority, parent_id, discovered_by, is_sitemap
    FROM found ORDER BY execution_id, url_hash
    ON CONFLICT (execution_id, url_hash) DO NOTHING
    RETURNING execution_id
), skipped AS (
    -- Sorted as the links are. A link that the frontier knows, or will know, is not skipped: the readers see to that.
    INSERT INTO skipped_links (id, execution_id, url, url_hash, reason, detail, parent_id, discovered_by)
    SELECT s.id, d.execution_id, s.url, s.url_hash, s.reason, s.detail, d.id, s.discovered_by
    FROM unnest($39::uuid[], $40::uuid[], $41::text[], $42::bytea[], $43::text[], $44::text[], $45::text[])
        AS s (id, page_id, url, url_hash, reason, detail, discovered_by)
    JOIN done d ON d.id = s.page_id
    ORDER BY d.execution_id, s.url_hash
    ON CONFLICT (execution_id, url_hash) DO NOTHING
), page_totals AS (
    INSERT INTO page_counters AS c (execution_id, worker_id, completed, failed, retried, items, urls_found,
        nodes_executed, nodes_failed, static_pages, bytes)
    SELECT d.execution_id, $1, count(*) FILTER (WHERE d.status = 'completed'),
        count(*) FILTER (WHERE d.status = 'failed'),
        count(*) FILTER (WHERE d.status = 'pending' AND NOT d.released),
        (SELECT count(*) FROM items i WHERE i.execution_id = d.execution_id),
        (SELECT count(*) FROM links l WHERE l.execution_id = d.execution_id),
        (SELECT count(*) FROM node n WHERE n.execution_id = d.execution_id AND n.status <> 'cancelled'),
        (SELECT count(*) FROM node n WHERE n.execution_id = d.execution_id AND n.status = 'failed'),
        count(*) FILTER (WHERE d.rendered = 'static'), sum(d.bytes)
    FROM done d GROUP BY d.execution_id ORDER BY d.execution_id
    ON CONFLICT (execution_id, worker_id) DO UPDATE SET
        completed = c.completed + excluded.completed, failed = c.failed + excluded.failed,
        retried = c.retried + excluded.retried, items = c.items + excluded.items,
        urls_found = c.urls_found + excluded.urls_found, nodes_executed = c.nodes_executed + excluded.nodes_executed,
        nodes_failed = c.nodes_failed + excluded.nodes_failed,
        static_pages = c.static_pages + excluded.static_pages, bytes = c.bytes + excluded.bytes, updated_at = now()
), node_totals AS (
    INSERT INTO node_counters AS c (execution_id, worker_id, phase, node_id, node_type, completed, failed, cancelled,
        retries, duration_us, durations)
    SELECT n.execution_id, $1, n.phase, n.node_id, min(n.node_type),
        count(*) FILTER (WHERE n.status = 'completed'), count(*) FILTER (WHERE n.status = 'failed'),
        count(*) FILTER (WHERE n.status = 'cancelled'), sum(n.retry_count),
        COALESCE(sum(n.duration_us) FILTER (WHERE n.status <> 'cancelled'), 0), ARRAY[{histogram}]
    FROM node n GROUP BY n.execution_id, n.phase, n.node_id ORDER BY n.execution_id, n.phase, n.node_id
    ON CONFLICT (execution_id, worker_id, phase, node_id) DO UPDATE SET
        completed = c.completed + excluded.completed, failed = c.failed + excluded.failed,
        cancelled = c.cancelled + excluded.cancelled, retries = c.retries + excluded.retries,
        duration_us = c.duration_us + excluded.duration_us,
        durations = ARRAY(SELECT was + more FROM unnest(c.durations, excluded.durations)
            WITH ORDINALITY AS s (was, more, number) ORDER BY number)
)
SELECT id FROM done"
    )
});

/// The statement's parameters: one array a column.
#[derive(Default)]
struct Columns<'a> {
    page_id: Vec<uuid::Uuid>,
    page_attempt: Vec<i32>,
    page_status: Vec<&'static str>,
    page_error: Vec<Option<Cow<'a, str>>>,
    page_error_class: Vec<Option<&'static str>>,
    page_retry_in_ms: Vec<i64>,
    page_failed_nodes: Vec<i32>,
    page_final_url: Vec<Option<&'a str>>,
    page_released: Vec<bool>,
    page_rendered: Vec<Option<&'static str>>,
    definition_node_id: Vec<&'a str>,
    definition_node_type: Vec<&'static str>,
    definition_phase: Vec<&'a str>,
    definition_input: Vec<Json<&'a Map<String, Value>>>,
    node_id: Vec<uuid::Uuid>,
    node_page: Vec<uuid::Uuid>,
    node_definition: Vec<i64>,
    node_position: Vec<i16>,
    node_status: Vec<&'static str>,
    node_started_at: Vec<chrono::DateTime<chrono::Utc>>,
    node_completed_at: Vec<chrono::DateTime<chrono::Utc>>,
    node_output: Vec<Option<Json<&'a Value>>>,
    node_error: Vec<Option<Cow<'a, str>>>,
    node_error_class: Vec<Option<&'static str>>,
    node_retries: Vec<i32>,
    node_bucket: Vec<i32>,
    node_duration_us: Vec<i64>,
    item_id: Vec<uuid::Uuid>,
    item_page: Vec<uuid::Uuid>,
    item_data: Vec<Json<&'a Value>>,
    link_id: Vec<uuid::Uuid>,
    link_page: Vec<uuid::Uuid>,
    link_url: Vec<&'a str>,
    link_hash: Vec<Vec<u8>>,
    link_host: Vec<&'a str>,
    link_discovered_by: Vec<&'a str>,
    page_bytes: Vec<i64>,
    skip_id: Vec<uuid::Uuid>,
    skip_page: Vec<uuid::Uuid>,
    skip_url: Vec<&'a str>,
    skip_hash: Vec<Vec<u8>>,
    skip_reason: Vec<&'static str>,
    skip_detail: Vec<Cow<'a, str>>,
    skip_discovered_by: Vec<&'a str>,
    link_is_sitemap: Vec<bool>,
}

impl HotStore {
    /// Records a group of finished pages. Of a page that comes twice, its last attempt counts, once.
    ///
    /// Answers the pages that were recorded, in no particular order. One that is missing had lost its lease: nothing
    /// of it was written, and its message can be forgotten.
    ///
    /// # Errors
    /// As every statement of the store. After a transient error the same group may be recorded again: if it was
    /// written the first time after all, the second time writes nothing and answers no page.
    pub async fn record(&self, pages: &[FinishedPage]) -> Result<Vec<PageId>, StoreError> {
        let columns = Columns::of(pages);
        let client = self.client().await?;
        let statement = client.prepare_cached(&RECORD).await?;
        let rows = client.query(&statement, &columns.parameters(&self.worker.0)).await?;
        Ok(rows.into_iter().map(|row| PageId(row.get(0))).collect())
    }
}

impl<'a> Columns<'a> {
    fn of(pages: &'a [FinishedPage]) -> Self {
        let mut columns = Self::default();
        // A page that was claimed twice after an ambiguous error was executed twice too. The guard lets one of them
        // pass, and all nodes of the group that name the page would pass with it.
        let mut last: HashMap<PageId, &FinishedPage> = HashMap::with_capacity(pages.len());
        for finished in pages {
            let chosen = last.entry(finished.page.page_id).or_insert(finished);
            if chosen.page.attempt < finished.page.attempt {
                *chosen = finished;
            }
        }
        // Each table's definitions are sent once; a node's record points into them, from 1.
        let mut tables: Vec<(&Arc<NodeTable>, i64)> = Vec::new();
        for finished in last.into_values() {
            let offset = match tables.iter().find(|(table, _)| Arc::ptr_eq(table, &finished.table)) {
                Some((_, offset)) => *offset,
                None => {
                    let offset = columns.add_definitions(&finished.table);
                    tables.push((&finished.table, offset));
                    offset
                }
            };
            columns.add_page(finished, offset);
        }
        columns
    }

    fn add_definitions(&mut self, table: &'a NodeTable) -> i64 {
        let offset = i64::try_from(self.definition_node_id.len()).unwrap_or(i64::MAX) + 1;
        for node in &table.nodes {
            self.definition_node_id.push(&node.node_id);
            self.definition_node_type.push(node.node_type);
            self.definition_phase.push(&node.phase);
            self.definition_input.push(Json(&node.params));
        }
        offset
    }

    fn add_page(&mut self, finished: &'a FinishedPage, definitions_from: i64) {
        let FinishedPage { page, outcome, next, .. } = finished;
        let (status, failure, retry_in) = match next {
            NextStatus::Completed => ("completed", None, Duration::ZERO),
            NextStatus::Failed(failure) => ("failed", Some(failure), Duration::ZERO),
            NextStatus::Skipped(failure) => ("skipped", Some(failure), Duration::ZERO),
            NextStatus::Retry(failure, delay) => ("pending", Some(failure), *delay),
            NextStatus::Released => ("pending", None, Duration::ZERO),
        };
        let failed_nodes = outcome.nodes.iter().filter(|node| matches!(node.end, NodeEnd::Failed(_))).count();
        self.page_id.push(page.page_id.0);
        self.page_attempt.push(page.attempt);
        self.page_status.push(status);
        self.page_error.push(failure.map(|failure| storable_text(&failure.message, MAX_ERROR_BYTES)));
        self.page_error_class.push(failure.map(|failure| failure.class.as_str()));
        self.page_retry_in_ms.push(i64::try_from(retry_in.as_millis()).unwrap_or(i64::MAX));
        self.page_failed_nodes.push(i32::try_from(failed_nodes).unwrap_or(i32::MAX));
        self.page_final_url.push(outcome.final_url.as_deref());
        self.page_released.push(*next == NextStatus::Released);
        self.page_bytes.push(i64::try_from(outcome.bytes).unwrap_or(i64::MAX));
        // Of a page that goes back nothing is known yet, and one that is skipped was not loaded.
        let has_ended = status != "pending" && status != "skipped";
        self.page_rendered.push(has_ended.then(|| outcome.rendered.as_str()));
        for node in &outcome.nodes {
            let (status, output, failure) = match &node.end {
                NodeEnd::Completed(Value::Null) => ("completed", None, None),
                NodeEnd::Completed(output) => ("completed", Some(Json(output)), None),
                NodeEnd::Failed(failure) => ("failed", None, Some(failure)),
                NodeEnd::Cancelled(failure) => ("cancelled", None, Some(failure)),
            };
            let duration_us =
                (node.completed_at - node.started_at).num_microseconds().unwrap_or(i64::MAX).max(0);
            // Nodes that did not run have no duration: they fall into no bucket.
            let ran = !matches!(node.end, NodeEnd::Cancelled(_));
            let bucket = if ran { i32::try_from(bucket(duration_us)).unwrap_or(-1) } else { -1 };
            let claimed_at_ms = page.claimed_at.timestamp_millis();
            self.node_id
                .push(NodeExecutionId::derive(page.page_id, page.attempt, node.position, claimed_at_ms).0);
            self.node_page.push(page.page_id.0);
            self.node_definition.push(definitions_from + i64::from(node.position));
            self.node_position.push(i16::try_from(node.position).unwrap_or(i16::MAX));
            self.node_status.push(status);
            self.node_started_at.push(node.started_at);
            self.node_completed_at.push(node.completed_at);
            self.node_output.push(output);
            self.node_error.push(failure.map(|failure| storable_text(&failure.message, MAX_ERROR_BYTES)));
            self.node_error_class.push(failure.map(|failure| failure.class.as_str()));
            self.node_retries.push(i32::from(node.retries));
            self.node_bucket.push(bucket);
            self.node_duration_us.push(duration_us);
        }
        // Items and links of an attempt that will be repeated belong to the attempt that ends well. What a sitemap named
        // before it broke off counts: it will not be read again.
        let is_broken_sitemap = page.is_sitemap && matches!(next, NextStatus::Failed(_));
        if *next != NextStatus::Completed && !is_broken_sitemap {
            return;
        }
        if let Some(item) = &outcome.item {
            self.item_id.push(ItemId::derive(page.page_id, 0, page.created_at.timestamp_millis()).0);
            self.item_page.push(page.page_id.0);
            self.item_data.push(Json(item));
        }
        for link in &outcome.discovered {
            if let Some(skip) = &link.skipped {
                self.skip_id.push(PageId::generate().0);
                self.skip_page.push(page.page_id.0);
                self.skip_url.push(link.url.as_str());
                self.skip_hash.push(link.url.hash().to_vec());
                self.skip_reason.push(skip.reason.as_str());
                self.skip_detail.push(storable_text(&skip.detail, MAX_DETAIL_BYTES));
                self.skip_discovered_by.push(&link.discovered_by);
                continue;
            }
            self.link_id.push(PageId::generate().0);
            self.link_page.push(page.page_id.0);
            self.link_url.push(link.url.as_str());
            self.link_hash.push(link.url.hash().to_vec());
            self.link_host.push(link.url.host());
            self.link_discovered_by.push(&link.discovered_by);
            self.link_is_sitemap.push(link.is_sitemap);
        }
    }

    /// In the order of the statement's numbers.
    fn parameters<'p>(&'p self, worker: &'p uuid::Uuid) -> [&'p (dyn ToSql + Sync); 46] {
        [
            worker,
            &self.page_id,
            &self.page_attempt,
            &self.page_status,
            &self.page_error,
            &self.page_error_class,
            &self.page_retry_in_ms,
            &self.page_failed_nodes,
            &self.page_final_url,
            &self.page_released,
            &self.page_rendered,
            &self.definition_node_id,
            &self.definition_node_type,
            &self.definition_phase,
            &self.definition_input,
            &self.node_id,
            &self.node_page,
            &self.node_definition,
            &self.node_position,
            &self.node_status,
            &self.node_started_at,
            &self.node_completed_at,
            &self.node_output,
            &self.node_error,
            &self.node_error_class,
            &self.node_retries,
            &self.node_bucket,
            &self.node_duration_us,
            &self.item_id,
            &self.item_page,
            &self.item_data,
            &self.link_id,
            &self.link_page,
            &self.link_url,
            &self.link_hash,
            &self.link_host,
            &self.link_discovered_by,
            &self.page_bytes,
            &self.skip_id,
            &self.skip_page,
            &self.skip_url,
            &self.skip_hash,
            &self.skip_reason,
            &self.skip_detail,
            &self.skip_discovered_by,
            &self.link_is_sitemap,
        ]
    }
}
