//! `crawlify explain`: shows how a workflow will be executed. What that is, the worker says; here it becomes text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use crawlify_shared::domain::workflow::parse_text;
use crawlify_worker::explain::{
    ExplainedBudgets, ExplainedLimits, ExplainedLoading, ExplainedNode, ExplainedPage, ExplainedPhase,
    ExplainedRun, Explanation, explain,
};
use serde_json::Number;

use crate::args::ExplainArgs;
use crate::exit::{Code, Failure};
use crate::printable::one_line;
use crate::run::read;
use crate::validate::report;

const TEXT_CHARACTERS: usize = 120;
const CELL_CHARACTERS: usize = 48;

/// Runs the command: the plan goes to stdout, what there is to warn of to stderr.
///
/// # Errors
/// The file cannot be read, or is no workflow; the message is that of `validate`.
pub(crate) fn run(args: &ExplainArgs) -> Result<Code, Failure> {
    let text = read(&args.file)?;
    let name = args.file.display().to_string();
    let definition = parse_text(&text)
        .map_err(|problems| Failure::new(Code::Usage, report(&name, &text, &problems, &[])))?;
    let mut explanation = explain(definition.workflow.clone());
    explanation.name = definition.name;
    let shown = if args.json {
        serde_json::to_string_pretty(&explanation)
            .map_err(|error| Failure::of(Code::Configuration, &error))?
    } else {
        show(&explanation)
    };
    let _ = writeln!(std::io::stdout(), "{}", shown.trim_end());
    let warnings = &definition.workflow.warnings;
    if !warnings.is_empty() {
        let _ = writeln!(std::io::stderr(), "{}", report(&name, &text, &[], warnings).trim_end());
    }
    Ok(Code::Ok)
}

fn show(explanation: &Explanation) -> String {
    let mut text = format!("{}\n\n", one_line(&explanation.name, TEXT_CHARACTERS));
    let mut head = table();
    head.add_row(["start".to_owned(), listed(&explanation.start_urls)]);
    head.add_row(["limits".to_owned(), limits(&explanation.limits)]);
    head.add_row(["budgets".to_owned(), budgets(&explanation.budgets)]);
    head.add_row(["traps".to_owned(), traps(&explanation.traps)]);
    head.add_row(["loading".to_owned(), loading(&explanation.loading)]);
    push(&mut text, &head);
    for phase in &explanation.phases {
        show_phase(&mut text, phase);
    }
    for page in &explanation.pages {
        show_page(&mut text, page, explanation);
    }
    text
}

fn limits(limits: &ExplainedLimits) -> String {
    let depth = match limits.max_depth {
        None => "links are followed at any depth".to_owned(),
        Some(0) => "no links are followed".to_owned(),
        Some(depth) => format!("links are followed to depth {depth}"),
    };
    let pages = limits
        .max_pages
        .map_or_else(|| "any number of pages".to_owned(), |most| format!("at most {most} pages"));
    let delay = match limits.rate_limit_delay_ms {
        0 => "no delay between pages of a host".to_owned(),
        delay => format!("{delay} ms between pages of a host"),
    };
    format!("{depth} · {pages} · {delay}")
}

fn budgets(budgets: &ExplainedBudgets) -> String {
    let time = budgets.time_seconds.map(|seconds| format!("{seconds} s"));
    let bytes = budgets.bytes.map(|bytes| format!("{bytes} bytes"));
    let prefixes = budgets.path_prefixes.iter().map(|budget| {
        format!("{} pages below {}", budget.max_pages, one_line(&budget.prefix, CELL_CHARACTERS))
    });
    let all: Vec<String> = time.into_iter().chain(bytes).chain(prefixes).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(" · ") }
}

fn traps(rules: &BTreeMap<&'static str, Option<Number>>) -> String {
    let on = rules.iter().filter_map(|(name, number)| Some(format!("{name} {}", number.as_ref()?)));
    let on: Vec<String> = on.collect();
    if on.is_empty() { "links are followed without looking for traps".to_owned() } else { on.join(" · ") }
}

fn loading(loading: &ExplainedLoading) -> String {
    let blocked: Vec<String> = loading
        .blocked_kinds
        .iter()
        .map(|kind| (*kind).to_owned())
        .chain(loading.blocked_patterns.iter().cloned())
        .collect();
    let blocked = if blocked.is_empty() {
        "nothing is blocked".to_owned()
    } else {
        format!("blocked: {}", listed(&blocked))
    };
    let isolation = match loading.isolation {
        "page" => "each page has cookies and a cache of its own",
        _ => "pages share cookies and cache",
    };
    let mut text = format!("done at `{}` · {blocked} · {isolation}", loading.wait_until);
    if !loading.headers.is_empty() {
        let _ = write!(text, " · headers: {}", listed(&loading.headers));
    }
    text
}

fn show_phase(text: &mut String, phase: &ExplainedPhase) {
    let _ = writeln!(
        text,
        "\n  {} ({}, render {})",
        one_line(&phase.id, CELL_CHARACTERS),
        phase.kind,
        phase.render
    );
    let mut table = table();
    table.set_header([
        "position",
        "node",
        "type",
        "selector",
        "waits for",
        "retries",
        "optional",
        "output key",
    ]);
    for node in &phase.nodes {
        table.add_row([
            node.position.to_string(),
            one_line(&node.id, CELL_CHARACTERS),
            node.node_type.to_owned(),
            one_line(node.selector.as_deref().unwrap_or_default(), CELL_CHARACTERS),
            one_line(node.waits_for.as_deref().unwrap_or_default(), CELL_CHARACTERS),
            retries(node),
            if node.optional { "yes" } else { "" }.to_owned(),
            one_line(node.output_key.as_deref().unwrap_or_default(), CELL_CHARACTERS),
        ]);
    }
    if let Some(column) = table.column_mut(0) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    push(text, &table);
}

fn retries(node: &ExplainedNode) -> String {
    match node.max_retries {
        0 => String::new(),
        retries => format!("{retries}, after {} ms", node.retry_delay_ms),
    }
}

fn show_page(text: &mut String, page: &ExplainedPage, explanation: &Explanation) {
    let depth = explanation.limits.max_depth.unwrap_or_default();
    let which = match page.kind {
        "below_max_depth" => format!("pages at depths less than {depth}"),
        "at_max_depth" => format!("pages at depth {depth}, whose links are not followed"),
        _ => "every page".to_owned(),
    };
    let phases = if page.phases.is_empty() { "no phase".to_owned() } else { listed(&page.phases) };
    let why = page.render_reason.as_ref().map_or_else(String::new, |reason| format!(", because {reason}"));
    let _ =
        writeln!(text, "\n  {which}: {phases}; render {}{}", page.render, one_line(&why, TEXT_CHARACTERS));
    if page.render != "static" {
        let _ = writeln!(text, "    in a tab: {} into the page", counted(page.calls, "call"));
        for (number, run) in page.runs.iter().enumerate() {
            let _ = writeln!(text, "      {}. {}", number + 1, show_run(run));
        }
    }
    if let Some(run) = &page.static_run {
        let _ = writeln!(
            text,
            "    without a tab: {} into the parsed page",
            counted(usize::from(run.how == "call"), "call")
        );
        let _ = writeln!(text, "      1. {}", show_run(run));
        if page.render == "static" {
            let _ = writeln!(
                text,
                "    in a tab, where that cannot be done: {} into the page",
                counted(page.calls, "call")
            );
        }
    }
}

fn show_run(run: &ExplainedRun) -> String {
    let mut text = match (run.how, run.pause_ms) {
        (_, Some(pause)) => format!("pause of {pause} ms, node {}", ranges(&run.nodes)),
        ("call", _) => format!("call with {}: {}", counted(run.nodes.len(), "node"), ranges(&run.nodes)),
        ("act", _) => format!("act of node {}", ranges(&run.nodes)),
        _ => "no call".to_owned(),
    };
    if !run.judged_outside.is_empty() {
        let _ = write!(text, "; judged outside, on what came back: {}", ranges(&run.judged_outside));
    }
    format!("{text} ({})", run.why)
}

/// `0-3, 5`
fn ranges(positions: &[u16]) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for &position in positions {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(position) => *last = position,
            _ => ranges.push((position, position)),
        }
    }
    let shown = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// The first of them, and how many more there are.
fn listed(texts: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut shown: Vec<String> =
        texts.iter().take(SHOWN).map(|text| one_line(text, TEXT_CHARACTERS)).collect();
    if texts.len() > SHOWN {
        shown.push(format!("and {} more", texts.len() - SHOWN));
    }
    shown.join(", ")
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table
}

/// Tables pad their last column; lines of ours do not end with spaces.
fn push(text: &mut String, table: &Table) {
    for line in table.lines() {
        let _ = writeln!(text, " {}", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_shown_as_ranges() {
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8, u16::MAX]), "0-2, 5, 7-8, 65535");
        assert_eq!(ranges(&[]), "");
    }

    #[test]
    fn long_lists_are_cut_off() {
        let texts: Vec<String> = (0..8).map(|number| number.to_string()).collect();
        assert_eq!(listed(&texts), "0, 1, 2, 3, 4, and 3 more");
    }
}
