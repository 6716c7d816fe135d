//! From text to a JSON value of bounded shape: JSON first, YAML where the text is no JSON. Knows nothing of workflows.

use std::borrow::Cow;

use serde_json::Value;

use super::problem::{Pointer, Report};
use crate::domain::bounded::{Excess, MAX_DEPTH, ReadError, from_json, from_yaml};

/// Reads JSON or YAML; a syntax error is a problem at `at`.
///
/// Text that begins as JSON does is judged as JSON alone: its author wants that error, not YAML's.
pub(super) fn read(text: &str, at: &Pointer, report: &mut Report) -> Option<Value> {
    let text = text.trim_start_matches('\u{feff}');
    let json_error = match from_json(text.as_bytes()) {
        Ok(value) => return Some(value),
        Err(ReadError::Excess(excess)) => return too_much(excess, at, report),
        Err(ReadError::Syntax(error)) => error,
    };
    if text.trim().is_empty() {
        report.problem(at, "syntax", "there is nothing: expected a JSON object at line 1 column 1");
        return None;
    }
    if text.trim_start().starts_with(['{', '[']) {
        report.problem(at, "syntax", format!("this is not JSON: {json_error}"));
        return None;
    }
    match from_yaml(text) {
        Ok(value @ Value::Object(_)) => Some(value),
        Err(ReadError::Excess(excess)) => too_much(excess, at, report),
        Ok(_) => {
            report.problem(at, "syntax", format!("this is neither JSON nor a YAML mapping: {json_error}"));
            None
        }
        Err(ReadError::Syntax(error)) => {
            let mut message = format!("this is not JSON: {json_error}; nor is it YAML: {error}");
            if let (Some(place), false) = (error.location(), message.contains(" line ")) {
                message += &format!(" at line {} column {}", place.line(), place.column());
            }
            report.problem(at, "syntax", message);
            None
        }
    }
}

fn too_much(excess: Excess, at: &Pointer, report: &mut Report) -> Option<Value> {
    report.problem(at, excess.code(), excess.to_string());
    None
}

/// The value itself, or what it says where it is a string that holds JSON or YAML.
pub(super) fn embedded<'v>(value: &'v Value, at: &Pointer, report: &mut Report) -> Option<Cow<'v, Value>> {
    match value {
        Value::String(text) => read(text, at, report).map(Cow::Owned),
        value => Some(Cow::Borrowed(value)),
    }
}

/// Whether the value can be stored and walked: not nested too deeply, and without U+0000, which Postgres refuses.
pub(super) fn is_bounded(value: &Value, at: &Pointer, report: &mut Report) -> bool {
    let mut bounded = true;
    // A stack of our own, because the depth is what is in doubt.
    let mut open = vec![(value, at.clone(), 1)];
    while let Some((value, at, depth)) = open.pop() {
        if depth > MAX_DEPTH {
            report.problem(&at, "too_deep", format!("the document nests deeper than {MAX_DEPTH} levels"));
            return false;
        }
        match value {
            Value::String(text) if text.contains('\0') => {
                report.problem(&at, "nul_character", "the character U+0000 cannot be stored; remove it");
                bounded = false;
            }
            Value::Array(elements) => {
                open.extend(
                    elements.iter().enumerate().map(|(n, element)| (element, at.index(n), depth + 1)),
                );
            }
            Value::Object(members) => {
                for (key, value) in members {
                    if key.contains('\0') {
                        report.problem(
                            &at,
                            "nul_character",
                            "a key contains the character U+0000; remove it",
                        );
                        bounded = false;
                    }
                    open.push((value, at.key(key), depth + 1));
                }
            }
            _ => {}
        }
    }
    bounded
}
