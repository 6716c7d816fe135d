//! How pages are loaded: rendered in a tab, or read as they came. For `auto` that is learnt, per phase and shape of URL,
//! from pages that were loaded both ways.
//!
//! What a page gives in a tab is right by definition. So long as static pages give the same, they are trusted, and a
//! sample of them is still checked; one difference sends the shape back to tabs, and makes the next trial longer.

mod compare;
mod verdict;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::page::RenderDecision;
use crawlify_shared::domain::workflow::{Phase, Render};

pub(crate) use compare::compare;
use verdict::Verdict;

/// Executions that are remembered; an older one starts anew.
const EXECUTIONS: usize = 64;
/// Shapes of one execution; the pages of further ones share a verdict.
const SHAPES: usize = 200;
/// The shape of pages beyond [`SHAPES`].
const OTHER: &str = "(other)";

/// What one page's phases may expect of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// It is loaded in a tab.
    Full,
    /// It is read as it came; where that cannot be done, it is loaded in a tab.
    Static,
    /// It is loaded in a tab, and read as it came to compare.
    Both,
}

/// What this worker knows of the shapes of its executions.
#[derive(Debug, Default)]
pub(crate) struct Renders {
    /// Used last, last. Written for every page that may be static; locked for moments only.
    executions: Mutex<Vec<(ExecutionId, Shapes)>>,
}

/// By phase, then by shape.
#[derive(Debug, Default)]
struct Shapes {
    verdicts: HashMap<(usize, String), Verdict>,
    phases: Vec<String>,
}

impl Renders {
    /// Decides on a page. `phases` are those that run on it.
    pub(crate) fn course(
        &self,
        execution: ExecutionId,
        workflow: &[Phase],
        phases: &[usize],
        render: Render,
        shape: &str,
    ) -> Course {
        if render == Render::Full {
            return Course::Full;
        }
        let mut executions = self.lock();
        let shapes = Shapes::of(&mut executions, execution);
        if shapes.phases.is_empty() {
            shapes.phases = workflow.iter().map(|phase| phase.id.clone()).collect();
        }
        let mut course = Course::Static;
        for phase in phases {
            let verdict = shapes.verdict(*phase, shape);
            // Every phase is asked: each counts its own pages.
            course = match (course, verdict.next(workflow[*phase].render)) {
                (Course::Full, _) | (_, Course::Full) => Course::Full,
                (Course::Both, _) | (_, Course::Both) => Course::Both,
                (Course::Static, Course::Static) => Course::Static,
            };
        }
        for phase in phases {
            shapes.verdict(*phase, shape).count(course);
        }
        course
    }

    /// Notes that a page was read as it came, or why it could not be.
    pub(crate) fn was_read(
        &self,
        execution: ExecutionId,
        phases: &[usize],
        shape: &str,
        read: Result<(), &String>,
    ) {
        let mut executions = self.lock();
        let shapes = Shapes::of(&mut executions, execution);
        for phase in phases {
            shapes.verdict(*phase, shape).was_read(read);
        }
    }

    /// Notes for each phase of a page whether it gave the same both ways, or what differed.
    pub(crate) fn were_compared(
        &self,
        execution: ExecutionId,
        shape: &str,
        verdicts: Vec<(usize, Result<(), String>)>,
    ) {
        let mut executions = self.lock();
        let shapes = Shapes::of(&mut executions, execution);
        for (phase, same) in verdicts {
            shapes.verdict(phase, shape).was_compared(same);
        }
    }

    /// What has changed since it was last asked for, for the store.
    pub(crate) fn take_changes(&self) -> Vec<(ExecutionId, Vec<RenderDecision>)> {
        let mut executions = self.lock();
        let changes = executions.iter_mut().map(|(execution, shapes)| (*execution, shapes.take_changes()));
        changes.filter(|(_, decisions)| !decisions.is_empty()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(ExecutionId, Shapes)>> {
        self.executions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shapes {
    fn of(executions: &mut Vec<(ExecutionId, Self)>, execution: ExecutionId) -> &mut Self {
        let place = executions.iter().position(|(id, _)| *id == execution);
        let place = place.unwrap_or_else(|| {
            if executions.len() >= EXECUTIONS {
                executions.remove(0);
            }
            executions.push((execution, Self::default()));
            executions.len() - 1
        });
        // The one that was used last stays longest.
        executions[place..].rotate_left(1);
        let last = executions.len() - 1;
        &mut executions[last].1
    }

    fn verdict(&mut self, phase: usize, shape: &str) -> &mut Verdict {
        let known = self.verdicts.contains_key(&(phase, shape.to_owned()));
        let shape = if known || self.verdicts.len() < SHAPES { shape } else { OTHER };
        self.verdicts.entry((phase, shape.to_owned())).or_default()
    }

    fn take_changes(&mut self) -> Vec<RenderDecision> {
        let Self { verdicts, phases } = self;
        let mut changes = Vec::new();
        for ((phase, shape), verdict) in verdicts {
            if let Some(decision) = verdict.take_change() {
                let phase = phases.get(*phase).cloned().unwrap_or_default();
                changes.push(RenderDecision { phase, shape: shape.clone(), ..decision });
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests;
