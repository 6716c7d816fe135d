//! The parameters of a record: one array a column, and what can be added up beforehand.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use tokio_postgres::types::{Json, ToSql};
use uuid::Uuid;

use super::contact_columns::ContactColumns;
use super::skipped_columns::SkippedColumns;
use crate::domain::fault::FaultDomain;
use crate::domain::id::{ExecutionId, ItemId, PageId};
use crate::domain::outcome::{DiscoveredUrl, NodeEnd, NodeRecord, Rendered};
use crate::domain::page::{FinishedPage, NextStatus};
use crate::domain::storable::storable_text;
use crate::store::counters::{DURATION_BUCKETS, bucket};

/// The longest error message that is stored, in bytes; pages put what they like into theirs.
const MAX_ERROR_BYTES: usize = 4096;

/// A link to write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link<'a> {
    pub(super) execution_id: ExecutionId,
    pub(super) hash: [u8; 16],
    pub(super) depth: i32,
    pub(super) priority: i32,
    parent: &'a FinishedPage,
    /// Which of its parent's links it is.
    place: usize,
}

/// One array a column.
#[derive(Default)]
pub(super) struct Columns<'a> {
    pages: Vec<&'a FinishedPage>,
    page_id: Vec<Uuid>,
    page_attempt: Vec<i32>,
    page_epoch: Vec<i32>,
    page_status: Vec<&'static str>,
    page_error: Vec<Option<Cow<'a, str>>>,
    page_error_class: Vec<Option<&'static str>>,
    page_retry_in_ms: Vec<i64>,
    page_failed_nodes: Vec<i32>,
    page_final_url: Vec<Option<&'a str>>,
    page_released: Vec<bool>,
    page_rendered: Vec<Option<&'static str>>,
    page_fault: Vec<&'static str>,
    page_bytes: Vec<i64>,
    page_is_probe: Vec<bool>,
    node_started_at: Vec<DateTime<Utc>>,
    node_page: Vec<Uuid>,
    node_definition: Vec<i32>,
    node_duration_us: Vec<i32>,
    node_attempt: Vec<i16>,
    node_retries: Vec<i16>,
    node_status: Vec<i8>,
    node_error_class: Vec<Option<&'static str>>,
    node_error: Vec<Option<Cow<'a, str>>>,
    node_output: Vec<Option<Json<&'a Value>>>,
    item_id: Vec<Uuid>,
    item_execution: Vec<Uuid>,
    item_page: Vec<Uuid>,
    item_url: Vec<&'a str>,
    item_data: Vec<Json<&'a Value>>,
    link_id: Vec<Uuid>,
    link_execution: Vec<Uuid>,
    link_url: Vec<&'a str>,
    link_hash: Vec<Vec<u8>>,
    link_host: Vec<&'a str>,
    link_depth: Vec<i32>,
    link_priority: Vec<i32>,
    link_parent: Vec<Uuid>,
    link_discovered_by: Vec<&'a str>,
    link_is_sitemap: Vec<bool>,
    contacts: ContactColumns<'a>,
    skipped: SkippedColumns<'a>,
    totals: BTreeMap<ExecutionId, PageTotals>,
    node_totals: BTreeMap<(ExecutionId, &'a str, &'a str), NodeTotals>,
    total: TotalColumns<'a>,
}

/// What the pages of an execution add to its counters.
#[derive(Default)]
struct PageTotals {
    completed: i64,
    failed: i64,
    retried: i64,
    items: i64,
    nodes_executed: i64,
    nodes_failed: i64,
    static_pages: i64,
    bytes: i64,
}

/// What the runs of a node add to its counters.
#[derive(Default)]
struct NodeTotals {
    node_type: &'static str,
    completed: i64,
    failed: i64,
    cancelled: i64,
    retries: i64,
    duration_us: i64,
    durations: [i64; DURATION_BUCKETS],
}

/// The totals as columns.
#[derive(Default)]
struct TotalColumns<'a> {
    page_keys: Vec<Uuid>,
    pages: [Vec<i64>; 7],
    bytes: Vec<i64>,
    node_executions: Vec<Uuid>,
    node_phases: Vec<&'a str>,
    node_ids: Vec<&'a str>,
    node_types: Vec<&'static str>,
    nodes: [Vec<i64>; 5],
    durations: Vec<i64>,
    buckets: i64,
}

/// Each URL once, as it was found by the shortest way.
pub(super) fn nearest(links: Vec<Link<'_>>) -> Vec<Link<'_>> {
    let mut nearest: HashMap<(ExecutionId, [u8; 16]), Link<'_>> = HashMap::new();
    for link in links {
        let chosen = nearest.entry((link.execution_id, link.hash)).or_insert(link);
        if (link.depth, -link.priority) < (chosen.depth, -chosen.priority) {
            *chosen = link;
        }
    }
    // In one order, so that two groups lock what they have in common one after the other.
    let mut links: Vec<_> = nearest.into_values().collect();
    links.sort_unstable_by_key(|link| (link.execution_id, link.hash));
    links
}

/// Whether a page gives a link, to the frontier or to the report of skipped URLs. Those of an attempt that will be repeated belong
/// to the one that ends. Of a page that was not loaded what concerns sitemaps counts: what one named before it broke off, and those
/// that the robots file of a start page names.
pub(super) fn gives(parent: &FinishedPage, found: &DiscoveredUrl) -> bool {
    match parent.next {
        NextStatus::Completed => true,
        NextStatus::Failed(_) | NextStatus::Skipped(_) => parent.page.is_sitemap || found.is_sitemap,
        NextStatus::Retry(..) | NextStatus::Released | NextStatus::PutOff(..) => false,
    }
}

impl<'a> Columns<'a> {
    /// Adds a page; `numbers` are those of its definitions, by position; the database's clock is so far ahead of its times.
    pub(super) fn add(&mut self, finished: &'a FinishedPage, numbers: &[i32], ahead: TimeDelta) {
        self.pages.push(finished);
        self.add_page(finished);
        self.page_is_probe.push(self.contacts.add(finished));
        self.skipped.add(finished);
        for node in &finished.outcome.nodes {
            // Without a number the execution is gone, and the guard lets nothing pass.
            if let Some(number) = numbers.get(usize::from(node.position)) {
                self.add_node(finished, node, *number, ahead);
            }
        }
        // The item of an attempt that will be repeated belongs to the attempt that ends well.
        if let Some(item) = finished.outcome.item.as_ref().filter(|_| finished.next == NextStatus::Completed)
        {
            let page = &finished.page;
            self.item_id.push(ItemId::derive(page.page_id, 0, page.created_at.timestamp_millis()).0);
            self.item_execution.push(page.execution_id.0);
            self.item_page.push(page.page_id.0);
            self.item_url.push(page.url.as_str());
            self.item_data.push(Json(item));
            self.totals.entry(page.execution_id).or_default().items += 1;
        }
    }

    fn add_page(&mut self, finished: &'a FinishedPage) {
        let FinishedPage { page, outcome, next, .. } = finished;
        let totals = self.totals.entry(page.execution_id).or_default();
        let (status, failure, retry_in) = match next {
            NextStatus::Completed => {
                totals.completed += 1;
                ("completed", None, Duration::ZERO)
            }
            NextStatus::Failed(failure) => {
                totals.failed += 1;
                ("failed", Some(failure), Duration::ZERO)
            }
            NextStatus::Skipped(failure) => ("skipped", Some(failure), Duration::ZERO),
            NextStatus::Retry(failure, delay) => {
                totals.retried += 1;
                ("pending", Some(failure), *delay)
            }
            NextStatus::Released => ("pending", None, Duration::ZERO),
            NextStatus::PutOff(failure, delay) => ("pending", Some(failure), *delay),
        };
        // Of a page that goes back nothing is known yet, and one that is skipped was not loaded.
        let rendered = (!matches!(status, "pending" | "skipped")).then_some(outcome.rendered);
        totals.static_pages += i64::from(rendered == Some(Rendered::Static));
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        // What its documents have is the least that was received.
        totals.bytes = totals.bytes.saturating_add(bytes(outcome.received.unwrap_or(outcome.bytes)));
        let failed_nodes = outcome.nodes.iter().filter(|node| matches!(node.end, NodeEnd::Failed(_))).count();
        self.page_id.push(page.page_id.0);
        self.page_attempt.push(page.attempt);
        self.page_epoch.push(page.epoch);
        self.page_status.push(status);
        self.page_error.push(failure.map(|failure| storable_text(&failure.message, MAX_ERROR_BYTES)));
        self.page_error_class.push(failure.map(|failure| failure.class.as_str()));
        self.page_retry_in_ms.push(i64::try_from(retry_in.as_millis()).unwrap_or(i64::MAX));
        self.page_failed_nodes.push(i32::try_from(failed_nodes).unwrap_or(i32::MAX));
        self.page_final_url.push(outcome.final_url.as_deref());
        self.page_released.push(matches!(next, NextStatus::Released | NextStatus::PutOff(..)));
        self.page_rendered.push(rendered.map(Rendered::as_str));
        self.page_fault.push(next.fault().map_or("", FaultDomain::as_str));
        self.page_bytes.push(bytes(outcome.bytes));
    }

    fn add_node(&mut self, finished: &'a FinishedPage, node: &'a NodeRecord, number: i32, ahead: TimeDelta) {
        let page = &finished.page;
        let definition = &finished.table.nodes[usize::from(node.position)];
        let duration_us = (node.completed_at - node.started_at).num_microseconds().unwrap_or(i64::MAX).max(0);
        let key = (page.execution_id, definition.phase.as_str(), definition.node_id.as_str());
        let totals = self.node_totals.entry(key).or_default();
        totals.node_type = definition.node_type;
        totals.retries += i64::from(node.retries);
        let (status, output, failure) = match &node.end {
            NodeEnd::Completed(output) => {
                totals.completed += 1;
                (b'c', (!output.is_null()).then_some(Json(output)), None)
            }
            NodeEnd::Failed(failure) => {
                totals.failed += 1;
                (b'f', None, Some(failure))
            }
            NodeEnd::Cancelled(failure) => {
                totals.cancelled += 1;
                (b'n', None, Some(failure))
            }
        };
        // Nodes that did not run have no duration: they fall into no bucket.
        if status != b'n' {
            totals.duration_us += duration_us;
            totals.durations[bucket(duration_us)] += 1;
            let pages = self.totals.entry(page.execution_id).or_default();
            pages.nodes_executed += 1;
            pages.nodes_failed += i64::from(status == b'f');
        }
        self.node_started_at.push(node.started_at + ahead);
        self.node_page.push(page.page_id.0);
        self.node_definition.push(number);
        self.node_duration_us.push(i32::try_from(duration_us).unwrap_or(i32::MAX));
        self.node_attempt.push(i16::try_from(page.attempt).unwrap_or(i16::MAX));
        self.node_retries.push(i16::try_from(node.retries).unwrap_or(i16::MAX));
        self.node_status.push(status.cast_signed());
        self.node_error_class.push(failure.map(|failure| failure.class.as_str()));
        self.node_error.push(failure.map(|failure| storable_text(&failure.message, MAX_ERROR_BYTES)));
        self.node_output.push(output);
    }

    /// The links that go into the frontier, as often as they were found.
    pub(super) fn found_links(&self) -> Vec<Link<'a>> {
        let mut links = Vec::new();
        for &parent in &self.pages {
            let page = &parent.page;
            let given =
                parent.outcome.discovered.iter().enumerate().filter(|(_, found)| gives(parent, found));
            for (place, found) in given.filter(|(_, found)| found.skipped.is_none()) {
                // What a sitemap names is where the crawl begins, and so are sitemaps; the depth of one counts the
                // indexes above it.
                let depth =
                    if page.is_sitemap == found.is_sitemap { page.depth.saturating_add(1) } else { 0 };
                links.push(Link {
                    execution_id: page.execution_id,
                    hash: found.url.hash(),
                    depth: i32::try_from(depth).unwrap_or(i32::MAX),
                    priority: page.priority.saturating_sub(10),
                    parent,
                    place,
                });
            }
        }
        links
    }

    /// Sets which links are written.
    pub(super) fn set_links(&mut self, links: &[Link<'a>]) {
        for link in links {
            let found = &link.parent.outcome.discovered[link.place];
            self.link_id.push(PageId::generate().0);
            self.link_execution.push(link.execution_id.0);
            self.link_url.push(found.url.as_str());
            self.link_hash.push(link.hash.to_vec());
            self.link_host.push(found.url.unit_of_politeness(link.parent.page.host_unit));
            self.link_depth.push(link.depth);
            self.link_priority.push(link.priority);
            self.link_parent.push(link.parent.page.page_id.0);
            self.link_discovered_by.push(&found.discovered_by);
            self.link_is_sitemap.push(found.is_sitemap);
        }
        self.total = self.total_columns();
    }

    fn total_columns(&self) -> TotalColumns<'a> {
        let mut total = TotalColumns { buckets: DURATION_BUCKETS as i64, ..TotalColumns::default() };
        for (execution, sums) in &self.totals {
            total.page_keys.push(execution.0);
            let bytes = sums.bytes;
            let sums = [
                sums.completed,
                sums.failed,
                sums.retried,
                sums.items,
                sums.nodes_executed,
                sums.nodes_failed,
                sums.static_pages,
            ];
            total.pages.iter_mut().zip(sums).for_each(|(column, sum)| column.push(sum));
            total.bytes.push(bytes);
        }
        for ((execution, phase, node_id), sums) in &self.node_totals {
            total.node_executions.push(execution.0);
            total.node_phases.push(phase);
            total.node_ids.push(node_id);
            total.node_types.push(sums.node_type);
            total.durations.extend(sums.durations);
            let sums = [sums.completed, sums.failed, sums.cancelled, sums.retries, sums.duration_us];
            total.nodes.iter_mut().zip(sums).for_each(|(column, sum)| column.push(sum));
        }
        total
    }

    /// In the order of the statement's numbers.
    pub(super) fn parameters<'p>(&'p self, worker: &'p Uuid) -> Vec<&'p (dyn ToSql + Sync)> {
        let total = &self.total;
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![
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
            &self.node_started_at,
            &self.node_page,
            &self.node_definition,
            &self.node_duration_us,
            &self.node_attempt,
            &self.node_retries,
            &self.node_status,
            &self.node_error_class,
            &self.node_error,
            &self.node_output,
            &self.item_id,
            &self.item_execution,
            &self.item_page,
            &self.item_url,
            &self.item_data,
            &self.link_id,
            &self.link_execution,
            &self.link_url,
            &self.link_hash,
            &self.link_host,
            &self.link_depth,
            &self.link_priority,
            &self.link_parent,
            &self.link_discovered_by,
        ];
        parameters.extend(self.contacts.parameters());
        parameters.push(&total.page_keys);
        parameters.extend(total.pages.iter().map(|column| column as &(dyn ToSql + Sync)));
        parameters.extend([
            &total.node_executions as &(dyn ToSql + Sync),
            &total.node_phases,
            &total.node_ids,
            &total.node_types,
        ]);
        parameters.extend(total.nodes.iter().map(|column| column as &(dyn ToSql + Sync)));
        parameters.extend([&total.durations as &(dyn ToSql + Sync), &total.buckets, &self.link_is_sitemap]);
        parameters.extend([&self.page_bytes as &(dyn ToSql + Sync), &total.bytes]);
        parameters.extend(self.skipped.parameters());
        parameters.extend([&self.page_fault as &(dyn ToSql + Sync), &self.page_epoch]);
        parameters.extend(self.contacts.more_parameters());
        parameters.push(&self.page_is_probe);
        parameters
    }
}
