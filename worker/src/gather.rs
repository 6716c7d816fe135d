//! Gathers what the nodes of one page give: records, the item, the links. Transforms and URL filters run here, in
//! linear time, outside the page.

use std::collections::HashSet;

use chrono::Utc;
use crawlify_shared::domain::outcome::{
    DiscoveredUrl, ErrorClass, Failure, NodeEnd, NodeRecord, PageEnd, PageOutcome,
};
use crawlify_shared::domain::page::ClaimedPage;
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::storable::storable_json;
use crawlify_shared::domain::transform::{Transform, apply_all};
use crawlify_shared::domain::workflow::{Extract, Field};
use serde_json::{Map, Value};
use url::Url;

use crate::chrome::driver::{Document, TabError};
use crate::execute::{filter_output, saves_output};
use crate::program::{PhaseProgram, Program, ResultOf};

/// The largest output of a node that is recorded, in bytes of JSON; a larger one is cut and marked.
const MAX_OUTPUT_BYTES: usize = 1 << 20;
/// The largest item, in bytes of JSON.
const MAX_ITEM_BYTES: usize = 4 << 20;
/// Links of one page beyond this number are dropped.
const MAX_LINKS: usize = 50_000;

/// What the nodes of one page have given so far.
#[derive(Debug)]
pub(crate) struct Gathered<'p> {
    page: &'p ClaimedPage,
    program: &'p Program,
    base_url: Url,
    hosts: [String; 2],
    nodes: Vec<NodeRecord>,
    item: Map<String, Value>,
    links: Vec<FoundLink>,
}

/// A link that a node found; a filter may drop it.
#[derive(Debug)]
struct FoundLink {
    /// The node's position over all phases.
    found_by: u16,
    node_id: String,
    url: PageUrl,
    dropped: bool,
}

impl<'p> Gathered<'p> {
    pub(crate) fn new(page: &'p ClaimedPage, program: &'p Program, document: &Document) -> Self {
        // A start URL may lead to the site's real host. Any other redirect must not make a foreign site the own one.
        let asked = page.url.as_url();
        let home = if page.depth == 0 { &document.final_url } else { asked };
        let final_host = home.host_str().unwrap_or_default().to_owned();
        Self {
            page,
            program,
            base_url: document.base_url.clone(),
            hosts: [page.url.host().to_owned(), final_host],
            nodes: Vec::with_capacity(program.table.nodes.len()),
            item: Map::new(),
            links: Vec::new(),
        }
    }

    /// Makes a node's output of what the page gave: transforms, defaults; links are resolved and kept.
    pub(crate) fn refine(&mut self, phase: &PhaseProgram, node: usize, raw: Value) -> Value {
        let definition = &phase.nodes[node];
        match &definition.result {
            ResultOf::Waiting | ResultOf::Filter { .. } => Value::Null,
            ResultOf::Value(extract) => refine_extract(extract, raw),
            ResultOf::Links => {
                let position = position(phase, node);
                for link in raw.as_array().into_iter().flatten().filter_map(Value::as_str) {
                    if self.links.len() >= MAX_LINKS {
                        tracing::warn!(page.id = %self.page.page_id, MAX_LINKS, "the page has too many links");
                        break;
                    }
                    // A link that leads to no page (mailto:, javascript: ...) is recorded as output, and goes no further.
                    if let Ok(url) = PageUrl::resolve(&self.base_url, link) {
                        let node_id = definition.id.clone();
                        self.links.push(FoundLink { found_by: position, node_id, url, dropped: false });
                    }
                }
                raw
            }
        }
    }

    /// Adds a node's record, and its output to the item.
    pub(crate) fn add(&mut self, phase: &PhaseProgram, node: usize, mut record: NodeRecord) {
        let definition = &phase.nodes[node];
        record.position = position(phase, node);
        if let NodeEnd::Completed(output) = &mut record.end {
            *output = storable_json(std::mem::take(output), MAX_OUTPUT_BYTES);
            if let Some(key) = definition.output_key.as_ref().filter(|_| saves_output(&definition.result))
                && !output.is_null()
            {
                self.item.insert(key.clone(), output.clone());
            }
        }
        self.nodes.push(record);
    }

    /// Runs a filter node over the links that are its business.
    pub(crate) fn filter(&mut self, phase: &PhaseProgram, node: usize) {
        let started_at = Utc::now();
        let output = self.apply_filter(phase, node);
        self.add(
            phase,
            node,
            NodeRecord {
                position: 0,
                started_at,
                completed_at: Utc::now(),
                end: NodeEnd::Completed(output),
                retries: 0,
            },
        );
    }

    fn apply_filter(&mut self, phase: &PhaseProgram, node: usize) -> Value {
        let ResultOf::Filter { filter, sources } = &phase.nodes[node].result else { return Value::Null };
        let hosts: Vec<&str> = self.hosts.iter().map(String::as_str).collect();
        let (mut kept, mut dropped) = (0, Vec::new());
        for link in &mut self.links {
            let source = usize::from(link.found_by).checked_sub(usize::from(phase.first_position));
            if !source.and_then(|source| sources.get(source)).copied().unwrap_or(false) {
                continue;
            }
            if filter.keeps(&link.url, &hosts) {
                kept += 1;
            } else {
                link.dropped = true;
                dropped.push(link.url.as_str());
            }
        }
        filter_output(kept, &dropped)
    }

    /// Records that a node's failure kept the nodes after it from running. Filters among them still judge the links
    /// that were found: a crawl must not leave its bounds because a node before the filter failed.
    pub(crate) fn skip_after(&mut self, phase: &PhaseProgram, failed: usize, failure: &Failure) {
        let reason = format!("not run: `{}` failed before it ({})", phase.nodes[failed].id, failure.message);
        self.cancel(phase, failed + 1, &reason);
    }

    /// Records that the tab was lost, or the page's time over, before these nodes gave anything.
    pub(crate) fn cancel_from(&mut self, phase: &PhaseProgram, first: usize, error: &TabError) {
        self.cancel(phase, first, &format!("nothing is known of it: {}", error.failure.message));
    }

    fn cancel(&mut self, phase: &PhaseProgram, first: usize, reason: &str) {
        let now = Utc::now();
        for node in first..phase.nodes.len() {
            if matches!(phase.nodes[node].result, ResultOf::Filter { .. }) {
                self.apply_filter(phase, node);
            }
            self.nodes.push(NodeRecord {
                position: position(phase, node),
                started_at: now,
                completed_at: now,
                end: NodeEnd::Cancelled(Failure::new(ErrorClass::Cancelled, reason)),
                retries: 0,
            });
        }
    }

    /// Ends the page.
    pub(crate) fn into_outcome(self, end: PageEnd, document: &Document) -> PageOutcome {
        let mut seen = HashSet::new();
        let discovered = self
            .links
            .into_iter()
            .filter(|link| !link.dropped && seen.insert(link.url.hash()))
            .map(|link| DiscoveredUrl { url: link.url, discovered_by: link.node_id })
            .collect();
        let item = (!self.item.is_empty()).then(|| storable_json(Value::Object(self.item), MAX_ITEM_BYTES));
        debug_assert!(self.nodes.len() <= self.program.table.nodes.len());
        PageOutcome {
            end,
            nodes: self.nodes,
            item,
            discovered,
            final_url: Some(document.final_url.to_string()),
        }
    }
}

fn position(phase: &PhaseProgram, node: usize) -> u16 {
    phase.first_position + u16::try_from(node).unwrap_or(0)
}

fn refine_extract(extract: &Extract, raw: Value) -> Value {
    match raw {
        Value::Null => extract.default_value.clone().unwrap_or(Value::Null),
        Value::Array(values) if extract.multiple => {
            if values.is_empty()
                && let Some(default) = &extract.default_value
            {
                return default.clone();
            }
            Value::Array(values.into_iter().map(|value| refine_element(extract, value)).collect())
        }
        value => refine_string(&extract.transforms, value),
    }
}

fn refine_element(extract: &Extract, value: Value) -> Value {
    match value {
        Value::Object(fields) if !extract.fields.is_empty() => refine_fields(&extract.fields, fields),
        value => refine_string(&extract.transforms, value),
    }
}

fn refine_fields(fields: &[Field], mut found: Map<String, Value>) -> Value {
    let mut refined = Map::new();
    for field in fields {
        match (found.remove(&field.name), &field.default_value) {
            (None | Some(Value::Null), Some(default)) => {
                refined.insert(field.name.clone(), default.clone());
            }
            (None | Some(Value::Null), None) => {}
            (Some(value), _) => {
                refined.insert(field.name.clone(), refine_string(&field.transforms, value));
            }
        }
    }
    Value::Object(refined)
}

fn refine_string(transforms: &[Transform], value: Value) -> Value {
    if transforms.is_empty() { value } else { apply_all(transforms, value) }
}
