//! What a node does: its type and `params`. `extract` is long enough for a file of its own.

use std::time::Duration;

use regex::Regex;
use serde_json::{Map, Value};

use super::act::{Act, read_scroll, read_target, read_typing};
use super::extract::read_extract;
use super::model::{Action, ElementState, NODE_TYPES, Selector, WaitFor};
use super::problem::{Pointer, Report};
use super::reader::{Object, shorten};
use super::suggest::did_you_mean;
use crate::domain::url_filter::UrlFilter;
use crate::domain::{regex_dialect, selector};

/// How long an element is waited for where the node does not say.
const DEFAULT_TIMEOUT_MS: u64 = 30_000;
/// The longest wait of one node.
const MAX_WAIT_MS: u64 = 600_000;
/// The most patterns of one list.
const MAX_PATTERNS: usize = 100;

/// Node types of the old formats that cannot be executed yet.
const LATER_NODE_TYPES: [&str; 16] = [
    "navigate",
    "screenshot",
    "extract_json",
    "paginate",
    "sequence",
    "conditional",
    "plugin",
    "fetch",
    "extract_text",
    "extract_attr",
    "transform",
    "filter",
    "map",
    "validate",
    "loop",
    "parallel",
];

/// Reads the action of the node at `node_at`.
pub(super) fn read_action(
    node_type: &str,
    params: &Map<String, Value>,
    node_at: &Pointer,
    report: &mut Report,
) -> Option<Action> {
    let at = node_at.key("params");
    let mut params = Object::of(params, &at);
    let action = match node_type {
        "wait_for" => read_wait_for(&mut params, report).map(Action::WaitFor),
        "wait" => read_wait(&mut params, report).map(Action::Wait),
        "extract_links" => read_link_selector(&mut params, report).map(Action::ExtractLinks),
        "filter_urls" => Some(Action::FilterUrls(read_filter(&mut params, report))),
        "extract" => read_extract(&mut params, report).map(Action::Extract),
        "click" => read_target(&mut params, report).map(Act::Click).map(Action::Act),
        "hover" => read_target(&mut params, report).map(Act::Hover).map(Action::Act),
        "type" | "input" => read_typing(&mut params, report).map(Action::Act),
        "scroll" => Some(Action::Act(Act::Scroll(read_scroll(&mut params, report)))),
        other => {
            report_type(other, &node_at.key("type"), report);
            return None;
        }
    };
    params.warn_of_unknown(&format!("`{node_type}` nodes"), report);
    action
}

fn report_type(node_type: &str, at: &Pointer, report: &mut Report) {
    if LATER_NODE_TYPES.contains(&node_type) {
        let message = format!(
            "nodes of the type `{node_type}` are not supported yet; there are {}",
            NODE_TYPES.join(", ")
        );
        report.problem(at, "unsupported_node_type", message);
    } else {
        let suggestion = did_you_mean(node_type, NODE_TYPES.into_iter().chain(LATER_NODE_TYPES));
        let message = format!("unknown node type `{}`{suggestion}", shorten(node_type));
        report.problem(at, "unknown_node_type", message);
    }
}

/// How long an element is waited for.
pub(super) fn read_timeout(params: &mut Object<'_>, report: &mut Report) -> Duration {
    let timeout = params.whole("timeout", 0..=MAX_WAIT_MS, report);
    if timeout == Some(0) {
        let message = format!(
            "a timeout of 0 meant to wait for ever; it is taken as {DEFAULT_TIMEOUT_MS} ms, as if absent"
        );
        report.warn(&params.at("timeout"), "default_timeout", message);
    }
    Duration::from_millis(timeout.filter(|timeout| *timeout > 0).unwrap_or(DEFAULT_TIMEOUT_MS))
}

fn read_wait_for(params: &mut Object<'_>, report: &mut Report) -> Option<WaitFor> {
    let selector = needed_selector(params, "selector", report);
    let timeout = read_timeout(params, report);
    let state = match params.text("state", report) {
        None | Some("visible") => ElementState::Visible,
        Some("hidden") => ElementState::Hidden,
        Some("attached") => ElementState::Attached,
        Some(other) => {
            let suggestion = did_you_mean(other, ["visible", "hidden", "attached"]);
            let message =
                format!("there is no state `{}`; it is taken as `visible`{suggestion}", shorten(other));
            report.warn(&params.at("state"), "unknown_state", message);
            ElementState::Visible
        }
    };
    Some(WaitFor { selector: selector?, state, timeout })
}

fn read_wait(params: &mut Object<'_>, report: &mut Report) -> Option<Duration> {
    if params.value("selector").is_some() {
        let message = "`wait` with a selector is not supported; use a node of the type `wait_for`";
        report.problem(&params.at("selector"), "unsupported_setting", message);
        return None;
    }
    if params.value("duration").is_none() {
        let message = "there is no `duration` (in milliseconds): the node does not wait";
        report.warn(&params.at("duration"), "no_duration", message);
    }
    Some(Duration::from_millis(params.whole("duration", 0..=MAX_WAIT_MS, report).unwrap_or_default()))
}

fn read_link_selector(params: &mut Object<'_>, report: &mut Report) -> Option<Selector> {
    if params.value("selector").is_none() {
        return Some(Selector::Css("a".into()));
    }
    needed_selector(params, "selector", report)
}

fn read_filter(params: &mut Object<'_>, report: &mut Report) -> UrlFilter {
    let filter = UrlFilter {
        same_domain: params.flag("same_domain", report),
        include: read_patterns(params, "include_patterns", report),
        exclude: read_patterns(params, "exclude_patterns", report),
    };
    if !filter.same_domain && filter.include.is_empty() && filter.exclude.is_empty() {
        report.warn(params.here(), "filter_keeps_all", "the filter has no condition and keeps every link");
    }
    filter
}

fn read_patterns(params: &mut Object<'_>, key: &'static str, report: &mut Report) -> Vec<Regex> {
    let patterns = params.texts(key, report);
    if patterns.len() > MAX_PATTERNS {
        let message = format!("there are more than {MAX_PATTERNS} patterns; join some with `|`");
        report.problem(&params.at(key), "out_of_range", message);
        return Vec::new();
    }
    patterns.into_iter().filter_map(|(at, pattern)| read_regex(pattern, &at, report)).collect()
}

/// Compiles a pattern of the document.
pub(super) fn read_regex(pattern: &str, at: &Pointer, report: &mut Report) -> Option<Regex> {
    if !report.affords_patterns() {
        return None;
    }
    match regex_dialect::compile_measured(pattern) {
        Ok((regex, bytes)) => {
            report.spend_on_pattern(bytes, at);
            Some(regex)
        }
        Err(error) => {
            let message = format!("the pattern `{}` cannot be used: {error}", shorten(pattern));
            report.problem(at, "bad_regex", message);
            None
        }
    }
}

/// Reads a selector that must be there.
pub(super) fn needed_selector(
    params: &mut Object<'_>,
    key: &'static str,
    report: &mut Report,
) -> Option<Selector> {
    if params.value(key).is_none() {
        report.problem(&params.at(key), "missing_setting", format!("`{key}` is missing"));
        return None;
    }
    read_selector(params, key, report)
}

/// Reads a selector that may be absent.
pub(super) fn read_selector(
    params: &mut Object<'_>,
    key: &'static str,
    report: &mut Report,
) -> Option<Selector> {
    let text = params.text(key, report)?;
    match selector::check(text) {
        Ok(selector) => Some(selector),
        Err(reason) => {
            let message = format!("the selector `{}` cannot be used: {reason}", shorten(text));
            report.problem(&params.at(key), "bad_selector", message);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_compiled_until_they_are_too_large_together() {
        let mut report = Report::default();
        let at = Pointer::default();
        report.spend_on_pattern(64 << 20, &at);
        assert!(read_regex("a", &at, &mut report).is_some(), "the one that is too much is told of");
        assert!(read_regex("b", &at, &mut report).is_none(), "further ones cost nothing");
        let problems = report.finish(Some(())).unwrap_err();
        assert_eq!(
            problems.iter().map(|problem| problem.code.as_str()).collect::<Vec<_>>(),
            ["too_many_patterns"]
        );
    }
}
