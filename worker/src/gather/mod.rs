//! Gathers what the nodes of one page give: records, the item, the links. Transforms and URL filters run here, in
//! linear time, outside the page.

mod links;
#[cfg(test)]
mod tests;

use std::time::Duration;

use chrono::{DateTime, Utc};
use crawlify_shared::domain::outcome::{
    ErrorClass, Failure, HostContact, NodeEnd, NodeRecord, PageEnd, PageOutcome, Rendered,
};
use crawlify_shared::domain::page::ClaimedPage;
use crawlify_shared::domain::storable::{storable_json, storable_object, storable_part};
use crawlify_shared::domain::transform::{Transform, apply_all};
use crawlify_shared::domain::workflow::{Extract, Field};
use serde_json::{Map, Value, json};
use url::Url;

use links::FoundLink;
pub(crate) use links::MAX_LINKS;

use crate::chrome::driver::{Document, StepResult, TabError};
use crate::program::{At, NodeProgram, PageRun, Program, ResultOf};

/// The largest output of a node that is recorded, in bytes of JSON; a larger one is cut and marked.
const MAX_OUTPUT_BYTES: usize = 1 << 20;
/// The largest item, in bytes of JSON.
const MAX_ITEM_BYTES: usize = 4 << 20;

/// What the nodes of one page have given so far.
#[derive(Debug)]
pub(crate) struct Gathered<'p> {
    page: &'p ClaimedPage,
    program: &'p Program,
    base_url: Url,
    final_url: Url,
    hosts: [String; 2],
    nodes: Vec<NodeRecord>,
    item: Map<String, Value>,
    links: Vec<FoundLink<'p>>,
    /// For each phase, why its further nodes do not run.
    ended: Vec<Option<String>>,
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
            final_url: document.final_url.clone(),
            hosts: [page.url.host().to_owned(), final_host],
            nodes: Vec::with_capacity(program.table.nodes.len()),
            item: Map::new(),
            links: Vec::new(),
            ended: vec![None; program.phases.len()],
        }
    }

    /// The phases that have ended before their last node.
    pub(crate) fn ended_phases(&self) -> Vec<usize> {
        (0..self.ended.len()).filter(|phase| self.ended[*phase].is_some()).collect()
    }

    /// Whether the phase has ended before its last node.
    pub(crate) fn has_ended(&self, at: At) -> bool {
        self.ended[at.phase].is_some()
    }

    /// From now on the page is another document, or has another address: its links resolve against that.
    pub(crate) fn moved_to(&mut self, document: &Document) {
        self.base_url = document.base_url.clone();
        self.final_url = document.final_url.clone();
    }

    /// Records that a node failed, and that no other runs after it, in whichever phase.
    pub(crate) fn fail(&mut self, at: At, started_at: DateTime<Utc>, failure: &Failure) {
        let end = NodeEnd::Failed(failure.clone());
        self.add(at, end, started_at, Utc::now().max(started_at), 0);
        let reason = format!("not run: `{}` failed before it ({})", self.node(at).id, failure.message);
        for ended in &mut self.ended {
            ended.get_or_insert_with(|| reason.clone());
        }
    }

    /// Takes in what a run gave: what ran, what was judged on it, and what did not run because its phase had ended.
    ///
    /// # Errors
    /// The page's time was over while the run was under way; what it gave until then is taken in.
    pub(crate) fn take(&mut self, run: &PageRun, results: Vec<Option<StepResult>>) -> Result<(), TabError> {
        let mut results = results;
        let mut out_of_time = None;
        for (place, (at, step)) in run.nodes.iter().zip(&run.steps).enumerate() {
            let result = step.and_then(|step| results.get_mut(step)?.take());
            if let Some(StepResult { output: Err(failure), .. }) = &result
                && failure.class == ErrorClass::NavTimeout
            {
                out_of_time = Some(failure.clone());
            }
            match (&self.ended[at.phase], result) {
                (Some(reason), _) => {
                    let reason = reason.clone();
                    self.cancel(*at, &reason);
                }
                (None, Some(result)) => self.add_result(*at, result),
                (None, None) if step.is_none() => {
                    let later = run.steps[place..].iter().flatten();
                    let mut later = later.filter_map(|step| results.get(*step)?.as_ref());
                    let next_starts_at = later.next().map(|next| next.started_at);
                    self.add_judged(*at, next_starts_at);
                }
                (None, None) => {
                    let failure = Failure::new(ErrorClass::Internal, "the page gave no result for the node");
                    let now = Utc::now();
                    self.add(*at, NodeEnd::Failed(failure), now, now, 0);
                }
            }
            if let Some(failure) = &out_of_time {
                for ended in &mut self.ended {
                    ended.get_or_insert_with(|| format!("not run: {}", failure.message));
                }
            }
        }
        out_of_time.map_or(Ok(()), |failure| Err(TabError { failure, tab_usable: true }))
    }

    fn add_result(&mut self, at: At, result: StepResult) {
        let end = match result.output {
            Ok(raw) => NodeEnd::Completed(storable(self.refine(at, raw), result.cut_from)),
            Err(failure) => {
                let node = self.node(at);
                if !node.optional {
                    let reason = format!("not run: `{}` failed before it ({})", node.id, failure.message);
                    self.ended[at.phase] = Some(reason);
                }
                NodeEnd::Failed(failure)
            }
        };
        self.add(at, end, result.started_at, result.completed_at.max(result.started_at), result.retries);
    }

    /// A filter, or a pause where nothing can change. It is judged when the whole run is over, and recorded where it stands
    /// among the nodes of the run: after the one before it, and not beyond the start of the next.
    fn add_judged(&mut self, at: At, next_starts_at: Option<DateTime<Utc>>) {
        let begun = Utc::now();
        let output = storable(self.apply_filter(at), None);
        let took = Utc::now() - begun;
        let last_ended_at = self.nodes.last().map(|node| node.completed_at);
        let started_at = last_ended_at.or(next_starts_at).unwrap_or(begun);
        let completed_at = next_starts_at.unwrap_or(DateTime::<Utc>::MAX_UTC).min(started_at + took);
        self.add(at, NodeEnd::Completed(output), started_at, completed_at.max(started_at), 0);
    }

    /// Adds the record of a pause.
    pub(crate) fn add_pause(&mut self, at: At, started_at: DateTime<Utc>) {
        self.add(at, NodeEnd::Completed(Value::Null), started_at, Utc::now(), 0);
    }

    /// Makes a node's output of what the page gave: transforms, defaults; links are resolved and kept.
    fn refine(&mut self, at: At, raw: Value) -> Value {
        let program = self.program;
        let definition = &program.phases[at.phase].nodes[at.node];
        match &definition.result {
            ResultOf::Waiting | ResultOf::Filter { .. } => Value::Null,
            ResultOf::Acting => raw,
            ResultOf::Value(extract) => refine_extract(extract, raw),
            ResultOf::Links => {
                self.find_links(at, &raw);
                raw
            }
        }
    }

    /// Adds a node's record, and its output to the item.
    fn add(
        &mut self,
        at: At,
        end: NodeEnd,
        started_at: DateTime<Utc>,
        completed_at: DateTime<Utc>,
        retries: u16,
    ) {
        if let NodeEnd::Completed(output) = &end {
            let definition = self.node(at);
            if let Some(key) = &definition.output_key
                && matches!(definition.result, ResultOf::Links | ResultOf::Value(_))
                && !output.is_null()
            {
                self.item.insert(key.clone(), output.clone());
            }
        }
        let position = self.position(at);
        self.nodes.push(NodeRecord { position, started_at, completed_at, end, retries });
    }

    /// Runs a filter node over the links that are its business.
    fn apply_filter(&mut self, at: At) -> Value {
        const SHOWN: usize = 20;
        let program = self.program;
        let NodeProgram { id, result, .. } = &program.phases[at.phase].nodes[at.node];
        let ResultOf::Filter { filter, sources } = result else { return Value::Null };
        let hosts: Vec<&str> = self.hosts.iter().map(String::as_str).collect();
        let (mut kept, mut dropped) = (0, Vec::new());
        for link in self.links.iter_mut().filter(|link| {
            link.found_by.phase == at.phase && sources.get(link.found_by.node).copied().unwrap_or(false)
        }) {
            if filter.keeps(&link.url, &hosts) {
                kept += 1;
            } else {
                link.dropped_by.get_or_insert(id);
                dropped.push(link.url.as_str());
            }
        }
        let shown: Vec<_> = dropped.iter().take(SHOWN).collect();
        json!({ "kept": kept, "dropped": dropped.len(), "dropped_urls": shown })
    }

    /// Records that the tab was lost, or the page's time over, before these nodes gave anything.
    pub(crate) fn lose(&mut self, nodes: impl IntoIterator<Item = At>, error: &TabError) {
        let lost = format!("nothing is known of it: {}", error.failure.message);
        for at in nodes {
            let reason = self.ended[at.phase].clone();
            self.cancel(at, reason.as_ref().unwrap_or(&lost));
        }
    }

    /// Records that a node did not run, because its phase had ended.
    pub(crate) fn skip(&mut self, at: At) {
        if let Some(reason) = self.ended[at.phase].clone() {
            self.cancel(at, &reason);
        }
    }

    /// Records that a node did not run. A filter still judges the links that were found: a crawl must not leave its
    /// bounds because a node before the filter failed.
    fn cancel(&mut self, at: At, reason: &str) {
        self.apply_filter(at);
        let now = Utc::now();
        self.nodes.push(NodeRecord {
            position: self.position(at),
            started_at: now,
            completed_at: now,
            end: NodeEnd::Cancelled(Failure::new(ErrorClass::Cancelled, reason)),
            retries: 0,
        });
    }

    fn node(&self, at: At) -> &'p NodeProgram {
        &self.program.phases[at.phase].nodes[at.node]
    }

    fn position(&self, at: At) -> u16 {
        self.program.phases[at.phase].first_position + u16::try_from(at.node).unwrap_or(0)
    }

    /// Ends the page.
    pub(crate) fn into_outcome(self, end: PageEnd, document: &Document, rendered: Rendered) -> PageOutcome {
        let answered_in = self.answered_in(document);
        let discovered = links::judged(self.links, self.page.depth, self.program.workflow.limits.max_depth);
        let item = (!self.item.is_empty()).then(|| storable_object(self.item, MAX_ITEM_BYTES));
        debug_assert!(self.nodes.len() <= self.program.table.nodes.len());
        PageOutcome {
            end,
            nodes: self.nodes,
            item,
            discovered,
            final_url: Some(self.final_url.to_string()),
            rendered,
            contact: HostContact { answered_in, ..HostContact::default() },
            bytes: document.bytes,
            received: None,
        }
    }

    /// How long the page's own host took to answer, where the workflow adapts to that. Not where the page was led to another
    /// one.
    fn answered_in(&self, document: &Document) -> Option<Duration> {
        let is_own = document.final_url.host_str() == Some(self.page.url.host());
        document.answered_in.filter(|_| is_own && self.program.workflow.limits.adaptive_delay)
    }
}

/// What is recorded of an output.
fn storable(output: Value, cut_from: Option<u64>) -> Value {
    match cut_from {
        Some(length) => storable_part(output, length, MAX_OUTPUT_BYTES),
        None => storable_json(output, MAX_OUTPUT_BYTES),
    }
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
