//! What to run: a workflow compiled into runs of nodes that one call can execute, and the few nodes between them.
//!
//! Knows nothing about stores, brokers or browsers beyond the vocabulary of [`DomStep`].

use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::domain::page::{NodeDefinition, NodeTable};
use crawlify_shared::domain::url_filter::UrlFilter;
use crawlify_shared::domain::workflow::{Action, Extract, Node, Phase, PhaseKind, Workflow};

use crate::chrome::driver::{DomOp, DomStep};

/// A workflow, ready to run on pages.
#[derive(Debug)]
pub(crate) struct Program {
    /// What it was compiled from.
    pub(crate) workflow: Workflow,
    /// In the order of execution.
    pub(crate) phases: Vec<PhaseProgram>,
    /// What the records of its nodes have in common.
    pub(crate) table: Arc<NodeTable>,
}

/// One phase's nodes.
#[derive(Debug)]
pub(crate) struct PhaseProgram {
    /// Which pages it runs on.
    pub(crate) kind: PhaseKind,
    /// The position of its first node, over all phases.
    pub(crate) first_position: u16,
    /// In the order of execution.
    pub(crate) nodes: Vec<NodeProgram>,
    /// The same nodes, grouped by how they are executed.
    pub(crate) runs: Vec<Run>,
}

/// What the executor needs to know of a node.
#[derive(Debug)]
pub(crate) struct NodeProgram {
    /// Its id, for the links that it discovers.
    pub(crate) id: String,
    /// Whether the nodes after it run although it failed.
    pub(crate) optional: bool,
    /// Where its output goes in the item.
    pub(crate) output_key: Option<String>,
    /// What is made of its raw output.
    pub(crate) result: ResultOf,
}

/// What is made of a node's raw output.
#[derive(Debug)]
pub(crate) enum ResultOf {
    /// Nothing.
    Waiting,
    /// Links for the frontier.
    Links,
    /// A value for the item.
    Value(Box<Extract>),
    /// The links of these nodes of the phase, filtered.
    Filter {
        /// Which links stay.
        filter: UrlFilter,
        /// For each node of the phase, whether its links are this filter's business.
        sources: Vec<bool>,
    },
}

/// A stretch of a phase that is executed in one way. The ranges index the phase's nodes.
#[derive(Debug)]
pub(crate) enum Run {
    /// One call into the page.
    Dom {
        /// Its first node.
        first: usize,
        /// One step for each node from there.
        steps: Vec<DomStep>,
    },
    /// A pause.
    Wait {
        /// The node.
        node: usize,
        /// How long.
        pause: Duration,
    },
    /// A filter over links.
    Filter {
        /// The node.
        node: usize,
    },
}

impl Program {
    /// Compiles a workflow.
    pub(crate) fn compile(workflow: Workflow) -> Self {
        let mut table = NodeTable { nodes: Vec::new() };
        let mut phases = Vec::new();
        for phase in &workflow.phases {
            let first_position = u16::try_from(table.nodes.len()).unwrap_or(u16::MAX);
            table.nodes.extend(phase.nodes.iter().map(|node| NodeDefinition {
                node_id: node.id.clone(),
                node_type: node.action.node_type(),
                phase: phase.id.clone(),
                params: node.params.clone(),
            }));
            phases.push(compile_phase(phase, first_position));
        }
        Self { workflow, phases, table: Arc::new(table) }
    }
}

fn compile_phase(phase: &Phase, first_position: u16) -> PhaseProgram {
    let mut nodes = Vec::with_capacity(phase.nodes.len());
    let mut runs: Vec<Run> = Vec::new();
    for (index, node) in phase.nodes.iter().enumerate() {
        let result = match &node.action {
            Action::WaitFor(_) | Action::Wait(_) => ResultOf::Waiting,
            Action::ExtractLinks(_) => ResultOf::Links,
            Action::Extract(extract) => ResultOf::Value(Box::new(extract.clone())),
            Action::FilterUrls(filter) => {
                ResultOf::Filter { filter: filter.clone(), sources: link_sources(&phase.nodes, index) }
            }
        };
        nodes.push(NodeProgram {
            id: node.id.clone(),
            optional: node.optional,
            output_key: node.output_key.clone(),
            result,
        });
        match (dom_op(&node.action), runs.last_mut()) {
            (Some(op), Some(Run::Dom { steps, .. })) => steps.push(dom_step(node, op)),
            (Some(op), _) => runs.push(Run::Dom { first: index, steps: vec![dom_step(node, op)] }),
            (None, _) => runs.push(match &node.action {
                Action::Wait(pause) => Run::Wait { node: index, pause: *pause },
                _ => Run::Filter { node: index },
            }),
        }
    }
    PhaseProgram { kind: phase.kind, first_position, nodes, runs }
}

/// What a node does in the page; `None` for one that runs outside it.
fn dom_op(action: &Action) -> Option<DomOp> {
    match action {
        Action::WaitFor(wait) => Some(DomOp::WaitFor(wait.clone())),
        Action::ExtractLinks(selector) => Some(DomOp::Links(selector.clone())),
        Action::Extract(extract) => Some(DomOp::Read {
            selector: extract.selector.clone(),
            read: extract.read.clone(),
            multiple: extract.multiple,
            required: !extract.multiple && extract.default_value.is_none(),
            fields: extract.fields.clone(),
        }),
        Action::Wait(_) | Action::FilterUrls(_) => None,
    }
}

fn dom_step(node: &Node, op: DomOp) -> DomStep {
    DomStep {
        op,
        ends_run: !node.optional,
        max_retries: node.retry.max_retries,
        retry_delay: node.retry.delay,
    }
}

/// A filter judges the links of all that it depends on, directly or not; without dependencies, of all before it.
fn link_sources(nodes: &[Node], filter: usize) -> Vec<bool> {
    let mut sources = vec![false; nodes.len()];
    if nodes[filter].dependencies.is_empty() {
        sources[..filter].fill(true);
        return sources;
    }
    let mut open = vec![filter];
    while let Some(index) = open.pop() {
        for dependency in &nodes[index].dependencies {
            if !std::mem::replace(&mut sources[*dependency], true) {
                open.push(*dependency);
            }
        }
    }
    sources
}
