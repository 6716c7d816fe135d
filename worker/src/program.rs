//! What to run: a workflow compiled into runs of nodes that one call can execute, and the few nodes between them. A run
//! goes on over the end of a phase, and over filters: those are judged outside the page, on what came back.
//!
//! Knows nothing about stores, brokers or browsers beyond the vocabulary of [`DomStep`].

use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::domain::page::{NodeDefinition, NodeTable};
use crawlify_shared::domain::url_filter::UrlFilter;
use crawlify_shared::domain::workflow::{
    Act, Action, Extract, Isolation, Node, Phase, PhaseKind, Render, Workflow,
};

use crate::chrome::driver::{DomOp, DomProgram, DomStep};

/// A workflow, ready to run on pages.
#[derive(Debug)]
pub(crate) struct Program {
    /// What it was compiled from.
    pub(crate) workflow: Workflow,
    /// In the order of execution.
    pub(crate) phases: Vec<PhaseProgram>,
    /// What the records of its nodes have in common.
    pub(crate) table: Arc<NodeTable>,
    /// For most pages.
    plan: Plan,
    /// For pages at the depth limit, on which discovery does not run.
    plan_at_depth_limit: Plan,
}

/// How the nodes of some phases are executed on a page.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The phases, as indexes.
    pub(crate) phases: Vec<usize>,
    /// How pages are loaded.
    pub(crate) render: Render,
    /// For a page that was navigated to: all nodes, grouped by how they are executed.
    pub(crate) runs: Vec<Run>,
    /// For a page that is only fetched: all nodes in one run. Pauses are over at once there, as nothing can change.
    pub(crate) fused: PageRun,
}

/// One phase's nodes.
#[derive(Debug)]
pub(crate) struct PhaseProgram {
    /// The position of its first node, over all phases.
    pub(crate) first_position: u16,
    /// In the order of execution.
    pub(crate) nodes: Vec<NodeProgram>,
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
    /// What was done, which is recorded as it is.
    Acting,
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

/// A node's place in its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    /// Which phase.
    pub(crate) phase: usize,
    /// Which of its nodes.
    pub(crate) node: usize,
}

/// A stretch of nodes that is executed in one way.
#[derive(Debug)]
pub(crate) enum Run {
    /// One call into the page.
    Page(PageRun),
    /// Something that is done to the page.
    Act(ActRun),
    /// A pause.
    Wait {
        /// The node.
        at: At,
        /// How long.
        pause: Duration,
    },
}

/// A node that does something to the page.
#[derive(Debug)]
pub(crate) struct ActRun {
    /// The node.
    pub(crate) at: At,
    /// One call, which finds where it is to be done, or does it.
    pub(crate) find: PageRun,
    /// What is done.
    pub(crate) act: Act,
}

/// Nodes that one call into the page executes, and those that are judged on what it gave.
#[derive(Debug, Default)]
pub(crate) struct PageRun {
    /// In the order of execution.
    pub(crate) nodes: Vec<At>,
    /// For each node, its step in the call; `None` for one that runs outside the page.
    pub(crate) steps: Vec<Option<usize>>,
    /// The call; its groups are the phases.
    pub(crate) dom: DomProgram,
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
        let all: Vec<usize> = (0..phases.len()).collect();
        let without_discovery = all
            .iter()
            .copied()
            .filter(|phase| workflow.phases[*phase].kind != PhaseKind::Discovery)
            .collect();
        Self {
            plan: Plan::of(&workflow, all),
            plan_at_depth_limit: Plan::of(&workflow, without_discovery),
            workflow,
            phases,
            table: Arc::new(table),
        }
    }

    /// How a page of this depth is executed.
    pub(crate) fn plan(&self, depth: u32) -> &Plan {
        let at_depth_limit = self.workflow.limits.max_depth.is_some_and(|limit| depth >= limit);
        if at_depth_limit { &self.plan_at_depth_limit } else { &self.plan }
    }
}

impl Plan {
    fn of(workflow: &Workflow, phases: Vec<usize>) -> Self {
        let nodes = || {
            let of_phase = |phase: &usize| {
                let phase = *phase;
                let nodes = workflow.phases[phase].nodes.iter().enumerate();
                nodes.map(move |(node, definition)| (At { phase, node }, definition))
            };
            phases.iter().flat_map(of_phase)
        };
        let mut runs = Vec::new();
        let mut stretch = Vec::new();
        for (at, node) in nodes() {
            let alone = match &node.action {
                Action::Wait(pause) => Some(Run::Wait { at, pause: *pause }),
                Action::Act(act) => {
                    PageRun::of(vec![(at, node)]).map(|find| Run::Act(ActRun { at, find, act: act.clone() }))
                }
                _ => None,
            };
            match alone {
                Some(alone) => {
                    runs.extend(PageRun::of(std::mem::take(&mut stretch)).map(Run::Page));
                    runs.push(alone);
                }
                None => stretch.push((at, node)),
            }
        }
        runs.extend(PageRun::of(stretch).map(Run::Page));
        let fused = PageRun::of(nodes().collect()).unwrap_or_default();
        let render = render_of(workflow, &phases);
        Self { phases, render, runs, fused }
    }
}

impl Run {
    /// Its nodes, in order.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = At> {
        let (nodes, pause): (&[At], _) = match self {
            Self::Page(run) => (&run.nodes, None),
            Self::Act(ActRun { at, .. }) => (&[], Some(*at)),
            Self::Wait { at, .. } => (&[], Some(*at)),
        };
        nodes.iter().copied().chain(pause)
    }
}

impl PageRun {
    /// `None`: there are no nodes.
    fn of(nodes: Vec<(At, &Node)>) -> Option<Self> {
        let mut run = Self::default();
        let mut dom = Vec::new();
        for (at, node) in nodes {
            run.nodes.push(at);
            run.steps.push(dom_op(&node.action).map(|op| {
                dom.push(dom_step(node, op, at.phase));
                dom.len() - 1
            }));
        }
        run.dom = DomProgram::new(dom);
        (!run.nodes.is_empty()).then_some(run)
    }
}

/// The first node of these phases that does something to the page, which takes one that lives.
pub(crate) fn first_act<'w>(workflow: &'w Workflow, phases: &[usize]) -> Option<&'w Node> {
    let mut nodes = phases.iter().flat_map(|phase| &workflow.phases[*phase].nodes);
    nodes.find(|node| matches!(node.action, Action::Act(_)))
}

/// A page is loaded once for all its phases, so the most demanding one decides. One that shares nothing with others has no
/// use for a lane that lives from sharing.
fn render_of(workflow: &Workflow, phases: &[usize]) -> Render {
    let any = |render| phases.iter().any(|phase| workflow.phases[*phase].render == render);
    let needs_tab = workflow.isolation == Isolation::Page || first_act(workflow, phases).is_some();
    if needs_tab || any(Render::Full) || phases.is_empty() {
        Render::Full
    } else if any(Render::Auto) {
        Render::Auto
    } else {
        Render::Static
    }
}

fn compile_phase(phase: &Phase, first_position: u16) -> PhaseProgram {
    let program = |(index, node): (usize, &Node)| NodeProgram {
        id: node.id.clone(),
        optional: node.optional,
        output_key: node.output_key.clone(),
        result: match &node.action {
            Action::WaitFor(_) | Action::Wait(_) => ResultOf::Waiting,
            Action::Act(_) => ResultOf::Acting,
            Action::ExtractLinks(_) => ResultOf::Links,
            Action::Extract(extract) => ResultOf::Value(Box::new(extract.clone())),
            Action::FilterUrls(filter) => {
                ResultOf::Filter { filter: filter.clone(), sources: link_sources(&phase.nodes, index) }
            }
        },
    };
    PhaseProgram { first_position, nodes: phase.nodes.iter().enumerate().map(program).collect() }
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
        Action::Act(Act::Click(target) | Act::Hover(target)) => {
            Some(DomOp::Locate { target: target.clone(), focus: false })
        }
        Action::Act(Act::Type { into, .. }) => Some(DomOp::Locate { target: into.clone(), focus: true }),
        Action::Act(Act::Scroll(to)) => Some(DomOp::Scroll(*to)),
        Action::Wait(_) | Action::FilterUrls(_) => None,
    }
}

fn dom_step(node: &Node, op: DomOp, group: usize) -> DomStep {
    DomStep {
        op,
        group,
        ends_group: !node.optional,
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
