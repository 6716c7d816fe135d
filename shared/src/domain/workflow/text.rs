//! From text to a JSON value of bounded shape: JSON first, YAML where the text is no JSON. Knows nothing of workflows.

use std::borrow::Cow;
use std::iter::Enumerate;
use std::slice;

use serde_json::{Value, map};

use super::problem::{MAX_PROBLEMS, Pointer, Report};
use crate::domain::bounded::{Excess, MAX_DEPTH, ReadError, from_json, from_yaml};

/// The longest key, in bytes. Where something is, is said by all keys above it, of each of very many values.
const MAX_KEY_BYTES: usize = 1_024;

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

/// Whether the value can be stored and walked: not nested too deeply, without keys that are too long, and without U+0000, which
/// Postgres refuses.
pub(super) fn is_bounded(value: &Value, at: &Pointer, report: &mut Report) -> bool {
    let (mut path, mut levels): (Vec<Step<'_>>, Vec<Children<'_>>) = (Vec::new(), Vec::new());
    let (mut next, mut nuls) = (Some(value), 0);
    // A stack of our own, because the depth is what is in doubt.
    while let Some(value) = next {
        if path.len() >= MAX_DEPTH {
            let message = format!("the document nests deeper than {MAX_DEPTH} levels");
            report.problem(&below(at, &path), "too_deep", message);
            return false;
        }
        if let Some(key) =
            value.as_object().and_then(|members| members.keys().find(|key| key.len() > MAX_KEY_BYTES))
        {
            let message = format!("a key has {} bytes; it may have {MAX_KEY_BYTES}", key.len());
            report.problem(&below(at, &path), "key_too_long", message);
            return false;
        }
        let nul = match value {
            Value::String(text) if text.contains('\0') => {
                Some("the character U+0000 cannot be stored; remove it")
            }
            Value::Object(members) if members.keys().any(|key| key.contains('\0')) => {
                Some("a key contains the character U+0000; remove it")
            }
            _ => None,
        };
        if let Some(message) = nul {
            report.problem(&below(at, &path), "nul_character", message);
            nuls += 1;
            if nuls == MAX_PROBLEMS {
                return false;
            }
        }
        levels.push(Children::of(value));
        next = loop {
            let Some(children) = levels.last_mut() else { break None };
            let child = children.next();
            path.truncate(levels.len() - 1);
            match child {
                Some((step, value)) => {
                    path.push(step);
                    break Some(value);
                }
                None => levels.pop(),
            };
        };
    }
    nuls == 0
}

/// One step down.
enum Step<'v> {
    Key(&'v str),
    Index(usize),
}

/// What is in a value, from where it was read up to.
enum Children<'v> {
    Elements(Enumerate<slice::Iter<'v, Value>>),
    Members(map::Iter<'v>),
    None,
}

impl<'v> Children<'v> {
    fn of(value: &'v Value) -> Self {
        match value {
            Value::Array(elements) => Self::Elements(elements.iter().enumerate()),
            Value::Object(members) => Self::Members(members.iter()),
            _ => Self::None,
        }
    }
}

impl<'v> Iterator for Children<'v> {
    type Item = (Step<'v>, &'v Value);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Elements(elements) => elements.next().map(|(index, value)| (Step::Index(index), value)),
            Self::Members(members) => members.next().map(|(key, value)| (Step::Key(key), value)),
            Self::None => None,
        }
    }
}

/// Points down a path.
fn below(at: &Pointer, path: &[Step<'_>]) -> Pointer {
    path.iter().fold(at.clone(), |at, step| match step {
        Step::Index(index) => at.index(*index),
        Step::Key(key) => at.key(key),
    })
}
