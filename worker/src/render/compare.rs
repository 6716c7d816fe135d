//! Compares what a page gave in a tab with what it gave when it was read as it came.

use crawlify_shared::domain::outcome::{NodeEnd, NodeRecord, PageEnd, PageOutcome};

use crate::program::Program;

/// For each of the phases, whether it gave the same both ways, or a sentence on what differed first.
pub(crate) fn compare(
    program: &Program,
    phases: &[usize],
    loaded: &PageOutcome,
    read: Result<&PageOutcome, &String>,
) -> Vec<(usize, Result<(), String>)> {
    let elsewhere = match read {
        Err(reason) => Some(reason.clone()),
        Ok(read) => match &read.end {
            PageEnd::Failed(failure) => Some(failure.message.clone()),
            _ if loaded.final_url != read.final_url => Some("it ends at another address in a tab".to_owned()),
            _ => None,
        },
    };
    let verdict = |phase: usize| match (&elsewhere, read) {
        (Some(reason), _) => Err(reason.clone()),
        (None, Ok(read)) => compare_phase(program, phase, loaded, read),
        (None, Err(reason)) => Err(reason.clone()),
    };
    phases.iter().map(|phase| (*phase, verdict(*phase))).collect()
}

fn compare_phase(
    program: &Program,
    phase: usize,
    loaded: &PageOutcome,
    read: &PageOutcome,
) -> Result<(), String> {
    let definition = &program.phases[phase];
    for (index, node) in definition.nodes.iter().enumerate() {
        let position = definition.first_position + u16::try_from(index).unwrap_or(0);
        let end = |outcome: &PageOutcome| {
            let record = outcome.nodes.iter().find(|record| record.position == position);
            record.map(|NodeRecord { end, .. }| end.clone())
        };
        match (end(loaded), end(read)) {
            (Some(NodeEnd::Completed(in_tab)), Some(NodeEnd::Completed(as_it_came)))
                if in_tab == as_it_came => {}
            (Some(NodeEnd::Failed(in_tab)), Some(NodeEnd::Failed(as_it_came)))
                if in_tab.class == as_it_came.class => {}
            (Some(NodeEnd::Cancelled(_)), Some(NodeEnd::Cancelled(_))) | (None, None) => {}
            (Some(NodeEnd::Completed(_)), Some(NodeEnd::Failed(failure))) => {
                return Err(format!("`{}` fails without a tab: {}", node.id, failure.message));
            }
            (Some(NodeEnd::Failed(failure)), Some(NodeEnd::Completed(_))) => {
                return Err(format!("`{}` fails in a tab: {}", node.id, failure.message));
            }
            _ => return Err(format!("`{}` gives another output in a tab", node.id)),
        }
    }
    let found = |outcome: &PageOutcome| {
        let of_phase = |by: &String| definition.nodes.iter().any(|node| node.id == *by);
        outcome
            .discovered
            .iter()
            .filter(|link| link.skipped.is_none() && of_phase(&link.discovered_by))
            .map(|link| link.url.hash())
            .collect::<Vec<_>>()
    };
    if found(loaded) == found(read) { Ok(()) } else { Err("its links lead elsewhere in a tab".to_owned()) }
}
