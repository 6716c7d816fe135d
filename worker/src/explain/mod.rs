//! How a workflow will be executed, for its author: what is compiled of it, in words and numbers. Executes nothing.

mod budgets;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use crawlify_shared::domain::workflow::{
    Act, Action, ElementState, Isolation, Node, Phase, Render, Selector, WaitUntil, Workflow,
};
use serde::Serialize;
use serde_json::Number;

pub use budgets::{ExplainedBudgets, ExplainedPathBudget};

use crate::execute::UNHURRIED;
use crate::program::{At, PageRun, Plan, Program, Run, first_act};

/// How a workflow will be executed.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The workflow's name.
    pub name: String,
    /// Where the crawl begins.
    pub start_urls: Vec<String>,
    /// How far and how fast it may go.
    pub limits: ExplainedLimits,
    /// What it may spend.
    pub budgets: ExplainedBudgets,
    /// What counts as a trap: each rule by its setting, and its number; `null` is off.
    pub traps: BTreeMap<&'static str, Option<Number>>,
    /// How pages are loaded.
    pub loading: ExplainedLoading,
    /// The phases, in the order of execution.
    pub phases: Vec<ExplainedPhase>,
    /// The kinds of page that are executed differently: one, or two where discovery does not run on the deepest pages.
    pub pages: Vec<ExplainedPage>,
}

/// How far and how fast a crawl may go; `null` is no limit.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedLimits {
    /// Links are followed at most this deep.
    pub max_depth: Option<u32>,
    /// At most this many pages are dispatched.
    pub max_pages: Option<u64>,
    /// The least time between the starts of two pages of one host.
    pub rate_limit_delay_ms: u64,
}

/// How pages are loaded.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedLoading {
    /// When a navigation counts as done: `load`, `domcontentloaded` or `networkidle`.
    pub wait_until: &'static str,
    /// Kinds of resources that are not loaded.
    pub blocked_kinds: Vec<&'static str>,
    /// Patterns of URLs that are not loaded.
    pub blocked_patterns: Vec<String>,
    /// What pages share: `execution` or `page`.
    pub isolation: &'static str,
    /// The names of the headers that are sent with every request; their values may be secrets.
    pub headers: Vec<String>,
}

/// One phase.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedPhase {
    /// Its id.
    pub id: String,
    /// `discovery` or `extraction`.
    pub kind: &'static str,
    /// What it asks for: `full`, `static` or `auto`.
    pub render: &'static str,
    /// In the order of execution.
    pub nodes: Vec<ExplainedNode>,
}

/// One node.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedNode {
    /// Its place in the order of execution, over all phases, from 0: `position` in `node_executions`.
    pub position: u16,
    /// Its id.
    pub id: String,
    /// What it does.
    #[serde(rename = "type")]
    pub node_type: &'static str,
    /// What it looks for.
    pub selector: Option<String>,
    /// What it waits for, where it waits.
    pub waits_for: Option<String>,
    /// The nodes that it needs.
    pub depends_on: Vec<String>,
    /// How often it is run again after a failure.
    pub max_retries: u16,
    /// The pause before each further run.
    pub retry_delay_ms: u64,
    /// Whether the nodes after it run although it failed.
    pub optional: bool,
    /// Under which key its output is saved in the page's item.
    pub output_key: Option<String>,
}

/// How pages of one kind are executed.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedPage {
    /// Which pages: `every`, `below_max_depth` or `at_max_depth`.
    pub kind: &'static str,
    /// The phases that run on them.
    pub phases: Vec<String>,
    /// How they are loaded: `full`, `static` or `auto`.
    pub render: &'static str,
    /// Why they are loaded so, where the phases differ or ask for something else.
    pub render_reason: Option<String>,
    /// What happens on a page that was loaded in a tab, one after the other.
    pub runs: Vec<ExplainedRun>,
    /// How many calls into the page that is, if no phase ends early.
    pub calls: usize,
    /// The one call for a page that is read without a tab; `null` where all are loaded in one.
    pub static_run: Option<ExplainedRun>,
}

/// A stretch of nodes that is executed in one way.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedRun {
    /// `call`: one call into the page executes `nodes`. `act`: one call and input do something to the page. `pause`: nothing
    /// happens for `pause_ms`. `outside`: no call is needed.
    pub how: &'static str,
    /// The positions of the nodes that are executed in the page, or of the pause.
    pub nodes: Vec<u16>,
    /// The positions of those that the worker judges outside the page, on what the calls gave.
    pub judged_outside: Vec<u16>,
    /// How long a pause takes.
    pub pause_ms: Option<u64>,
    /// Why the stretch ends or is what it is.
    pub why: &'static str,
}

const ENDS_AT_PAUSE: &str = "a pause follows, and the nodes after it must see the page as it is then";
const ENDS_AT_ACT: &str =
    "something is done to the page then, and the nodes after it must see what comes of it";
const ENDS_WITH_PAGE: &str = "nothing comes between them";
const ACT: &str = "one call finds where it is to be done, and the events of pointer or keys follow";
const SCROLL: &str = "one call scrolls the window";
const OUTSIDE: &str = "these nodes need nothing of the page";
const PAUSE: &str = "`wait` is a pause; the page goes on meanwhile";
const STATIC: &str = "nothing can change in a page that runs no scripts, so pauses are over at once";

/// Explains a workflow.
pub fn explain(workflow: Workflow) -> Explanation {
    let program = Program::compile(workflow);
    let workflow = &program.workflow;
    Explanation {
        name: workflow.name.clone(),
        start_urls: workflow.start_urls.iter().map(|url| url.as_str().to_owned()).collect(),
        limits: ExplainedLimits {
            max_depth: workflow.limits.max_depth,
            max_pages: workflow.limits.max_pages,
            rate_limit_delay_ms: milliseconds(workflow.limits.rate_limit_delay),
        },
        budgets: ExplainedBudgets::of(&workflow.budgets),
        traps: workflow.traps.rules().into_iter().collect(),
        loading: ExplainedLoading {
            wait_until: match workflow.wait_until {
                WaitUntil::DomContentLoaded => "domcontentloaded",
                WaitUntil::Load => "load",
                WaitUntil::NetworkIdle => "networkidle",
            },
            blocked_kinds: workflow.block.kinds.iter().map(|kind| kind.as_str()).collect(),
            blocked_patterns: workflow.block.patterns.clone(),
            isolation: match workflow.isolation {
                Isolation::Execution => "execution",
                Isolation::Page => "page",
            },
            headers: workflow.headers.iter().map(|(name, _)| name.clone()).collect(),
        },
        phases: (0..workflow.phases.len()).map(|phase| explain_phase(&program, phase)).collect(),
        pages: kinds(&program).into_iter().map(|(kind, plan)| explain_page(&program, kind, plan)).collect(),
    }
}

/// The plans that there are pages for.
fn kinds(program: &Program) -> Vec<(&'static str, &Plan)> {
    let (first, deepest) = (program.plan(0), program.plan(u32::MAX));
    match program.workflow.limits.max_depth {
        _ if first.phases == deepest.phases && first.phases.len() == program.phases.len() => {
            vec![("every", first)]
        }
        None => vec![("every", first)],
        Some(0) => vec![("at_max_depth", deepest)],
        Some(_) => vec![("below_max_depth", first), ("at_max_depth", deepest)],
    }
}

fn explain_phase(program: &Program, index: usize) -> ExplainedPhase {
    let Phase { id, kind, render, nodes } = &program.workflow.phases[index];
    let explained = nodes.iter().enumerate().map(|(node, definition)| ExplainedNode {
        position: position(program, At { phase: index, node }),
        id: definition.id.clone(),
        node_type: definition.action.node_type(),
        selector: selector(&definition.action),
        waits_for: waits_for(definition),
        depends_on: definition.dependencies.iter().map(|needed| nodes[*needed].id.clone()).collect(),
        max_retries: definition.retry.max_retries,
        retry_delay_ms: milliseconds(definition.retry.delay),
        optional: definition.optional,
        output_key: definition.output_key.clone(),
    });
    ExplainedPhase {
        id: id.clone(),
        kind: kind.as_str(),
        render: render.as_str(),
        nodes: explained.collect(),
    }
}

fn selector(action: &Action) -> Option<String> {
    let selector = match action {
        Action::WaitFor(wait) => &wait.selector,
        Action::ExtractLinks(selector) => selector,
        Action::Extract(extract) => &extract.selector,
        Action::Act(Act::Click(target) | Act::Hover(target) | Act::Type { into: target, .. }) => {
            &target.selector
        }
        Action::Act(Act::Scroll(_)) | Action::Wait(_) | Action::FilterUrls(_) => return None,
    };
    Some(match selector {
        Selector::Css(query) => query.clone(),
        Selector::Xpath(query) => format!("xpath={query}"),
    })
}

fn waits_for(node: &Node) -> Option<String> {
    match &node.action {
        Action::WaitFor(wait) => {
            let state = match wait.state {
                ElementState::Visible => "visible",
                ElementState::Hidden => "hidden",
                ElementState::Attached => "attached",
            };
            Some(format!("{state}, at most {} ms", milliseconds(wait.timeout)))
        }
        Action::Wait(pause) => Some(format!("{} ms", milliseconds(*pause))),
        Action::Act(Act::Click(target) | Act::Hover(target) | Act::Type { into: target, .. }) => {
            Some(format!("visible, enabled and at rest, at most {} ms", milliseconds(target.timeout)))
        }
        Action::Act(Act::Scroll(_))
        | Action::ExtractLinks(_)
        | Action::FilterUrls(_)
        | Action::Extract(_) => None,
    }
}

fn explain_page(program: &Program, kind: &'static str, plan: &Plan) -> ExplainedPage {
    let runs: Vec<_> =
        plan.runs.iter().enumerate().map(|(index, run)| explain_run(program, plan, index, run)).collect();
    ExplainedPage {
        kind,
        phases: plan.phases.iter().map(|phase| program.workflow.phases[*phase].id.clone()).collect(),
        render: plan.render.as_str(),
        render_reason: render_reason(program, plan),
        calls: runs.iter().filter(|run| matches!(run.how, "call" | "act")).count(),
        static_run: (plan.render != Render::Full).then(|| page_run(program, &plan.fused, STATIC)),
        runs,
    }
}

fn render_reason(program: &Program, plan: &Plan) -> Option<String> {
    let phases = || plan.phases.iter().map(|phase| &program.workflow.phases[*phase]);
    if plan.render == Render::Auto && program.workflow.limits.rate_limit_delay >= UNHURRIED {
        return Some(
            "its host is asked so rarely that it is not asked twice: pages are full, without trials"
                .to_owned(),
        );
    }
    if phases().all(|phase| phase.render == plan.render) && !plan.phases.is_empty() {
        return None;
    }
    if plan.phases.is_empty() {
        return Some("no node runs on it".to_owned());
    }
    if program.workflow.isolation == Isolation::Page {
        return Some("`isolation` is `page`".to_owned());
    }
    if let Some(act) = first_act(&program.workflow, &plan.phases) {
        return Some(format!("`{}` does something to the page, which takes one that lives", act.id));
    }
    let decisive = phases().find(|phase| phase.render == plan.render)?;
    Some(format!("a page is loaded once for all its phases, and `{}` asks for this", decisive.id))
}

fn explain_run(program: &Program, plan: &Plan, index: usize, run: &Run) -> ExplainedRun {
    match run {
        Run::Page(run) => {
            let why = match plan.runs.get(index + 1) {
                Some(Run::Act(_)) => ENDS_AT_ACT,
                Some(_) => ENDS_AT_PAUSE,
                None => ENDS_WITH_PAGE,
            };
            page_run(program, run, why)
        }
        Run::Act(run) => {
            let why = if matches!(run.act, Act::Scroll(_)) { SCROLL } else { ACT };
            ExplainedRun { how: "act", ..page_run(program, &run.find, why) }
        }
        Run::Wait { at, pause } => ExplainedRun {
            how: "pause",
            nodes: vec![position(program, *at)],
            judged_outside: Vec::new(),
            pause_ms: Some(milliseconds(*pause)),
            why: PAUSE,
        },
    }
}

fn page_run(program: &Program, run: &PageRun, why: &'static str) -> ExplainedRun {
    let positions = |in_page: bool| {
        let nodes = run.nodes.iter().zip(&run.steps).filter(|(_, step)| step.is_some() == in_page);
        nodes.map(|(at, _)| position(program, *at)).collect::<Vec<_>>()
    };
    let (nodes, judged_outside) = (positions(true), positions(false));
    let how = if nodes.is_empty() { "outside" } else { "call" };
    ExplainedRun {
        how,
        why: if nodes.is_empty() { OUTSIDE } else { why },
        nodes,
        judged_outside,
        pause_ms: None,
    }
}

fn position(program: &Program, at: At) -> u16 {
    program.phases[at.phase].first_position + u16::try_from(at.node).unwrap_or(u16::MAX)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
