//! A list of nodes: what all nodes have in common, whatever they do.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Map, Value};

use super::action::read_action;
use super::model::{Action, Node, Retry};
use super::order::{Draft, ordered};
use super::problem::{Pointer, Report};
use super::reader::{Object, shorten, wrong_type};

/// The longest id and output key, in characters: `node_executions.node_id` is a varchar(255).
const MAX_ID_CHARS: usize = 255;
const MAX_RETRIES: u64 = 20;
const MAX_RETRY_DELAY_MS: u64 = 60_000;

/// Reads a list of nodes into the order of execution; `None` where any of them has a problem.
///
/// `elsewhere` are the name and the node ids of the other list, for a better message.
pub(super) fn read_nodes(
    list: &[Value],
    at: &Pointer,
    elsewhere: (&str, &[&str]),
    report: &mut Report,
) -> Option<Vec<Node>> {
    let mut first_with_id: HashMap<&str, usize> = HashMap::new();
    let drafts: Vec<Option<Draft<'_>>> = list
        .iter()
        .enumerate()
        .map(|(index, value)| {
            let draft = read_node(value, &at.index(index), report)?;
            if let Some(id) = draft.id {
                let first = *first_with_id.entry(id).or_insert(index);
                if first != index {
                    let message =
                        format!("the id `{}` is already that of node {first} of this list", shorten(id));
                    report.problem(&at.index(index).key("id"), "duplicate_id", message);
                }
            }
            Some(draft)
        })
        .collect();
    warn_of_shared_keys(&drafts, at, report);
    ordered(drafts, &first_with_id, at, elsewhere, report)
}

fn read_node<'v>(value: &'v Value, at: &Pointer, report: &mut Report) -> Option<Draft<'v>> {
    let mut object = Object::read(value, at, report)?;
    let id = object.needed_text("id", "missing_id", "the node has no id", report);
    let id = id.filter(|id| is_short(id, "id", &object, report));
    let name = object.text("name", report);
    let output_key = object.text("output_key", report).filter(|key| !key.is_empty());
    let output_key = output_key.filter(|key| is_short(key, "output_key", &object, report));
    let optional = object.flag("optional", report);
    let retry = read_retry(&mut object, report);
    let dependencies = object.texts("dependencies", report);
    let no_params = Map::new();
    let params = match object.value("params") {
        None => Some(&no_params),
        Some(Value::Object(params)) => Some(params),
        Some(other) => wrong_type(&object.at("params"), "an object", other, report),
    };
    let action = object
        .needed_text("type", "missing_type", "the node has no type", report)
        .zip(params)
        .and_then(|(node_type, params)| read_action(node_type, params, at, report));
    object.warn_of_unknown("a node", report);
    if let Some(action) = &action {
        warn_of_output(action, output_key, &object, report);
    }
    let node = id.zip(action).zip(params).map(|((id, action), params)| Node {
        id: id.to_owned(),
        name: name.unwrap_or(id).to_owned(),
        action,
        params: params.clone(),
        dependencies: Vec::new(),
        output_key: output_key.map(str::to_owned),
        optional,
        retry,
    });
    Some(Draft { id, dependencies, node })
}

fn is_short(text: &str, key: &str, object: &Object<'_>, report: &mut Report) -> bool {
    if text.chars().count() <= MAX_ID_CHARS && !text.chars().any(char::is_control) {
        return true;
    }
    let message = format!("`{key}` has more than {MAX_ID_CHARS} characters, or control characters");
    report.problem(&object.at(key), "bad_value", message);
    false
}

fn read_retry(node: &mut Object<'_>, report: &mut Report) -> Retry {
    let at = node.at("retry");
    let Some(mut retry) = node.value("retry").and_then(|value| Object::read(value, &at, report)) else {
        return Retry::default();
    };
    let max_retries = retry.whole("max_retries", 0..=MAX_RETRIES, report).unwrap_or_default();
    let delay = retry.whole("delay", 0..=MAX_RETRY_DELAY_MS, report).unwrap_or_default();
    retry.warn_of_unknown("`retry`", report);
    Retry { max_retries: u16::try_from(max_retries).unwrap_or(u16::MAX), delay: Duration::from_millis(delay) }
}

fn warn_of_output(action: &Action, output_key: Option<&str>, node: &Object<'_>, report: &mut Report) {
    match (action, output_key) {
        (Action::WaitFor(_) | Action::Wait(_) | Action::Act(_), Some(_)) => {
            let message = format!("`{}` has no output: nothing is saved under this key", action.node_type());
            report.warn(&node.at("output_key"), "output_key_unused", message);
        }
        (Action::Extract(_), None) => {
            let message =
                "the node has no `output_key`: what it reads is recorded, but not saved in the item";
            report.warn(&node.at("output_key"), "not_saved", message);
        }
        _ => {}
    }
}

fn warn_of_shared_keys(drafts: &[Option<Draft<'_>>], at: &Pointer, report: &mut Report) {
    let mut first_with_key: HashMap<&str, usize> = HashMap::new();
    for (index, draft) in drafts.iter().enumerate() {
        let node = draft.as_ref().and_then(|draft| draft.node.as_ref());
        let Some(key) = node.and_then(|node| node.output_key.as_deref()) else { continue };
        let first = *first_with_key.entry(key).or_insert(index);
        if first != index {
            let message = format!(
                "node {first} of this list has the same `output_key`: the later value replaces the other"
            );
            report.warn(&at.index(index).key("output_key"), "shared_output_key", message);
        }
    }
}
