//! The document that a user writes: name, description, status, and the configuration that is the workflow.

use serde_json::{Map, Value};

use super::model::Workflow;
use super::problem::{Pointer, Problem, Report};
use super::reader::{Object, shorten};
use super::settings::{self, CONFIG_KEYS};
use super::suggest::did_you_mean;
use super::text;

/// The longest name, in characters.
const MAX_NAME_CHARS: usize = 255;

/// Every status of a workflow; only an `active` one is executed.
pub const STATUSES: [&str; 4] = ["draft", "active", "paused", "archived"];

/// A user's document, parsed and checked.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The name that its author gave it.
    pub name: String,
    /// Free text, possibly empty.
    pub description: String,
    /// One of [`STATUSES`], where its author gave one.
    pub status: Option<String>,
    /// The configuration as its author wrote it; where it was text within the document, what the text says.
    pub config: Value,
    /// What the configuration means.
    pub workflow: Workflow,
}

/// Parses a document from JSON or YAML text.
///
/// # Errors
/// Every problem of the document; a syntax error alone, with line and column in its message.
pub fn parse_text(text: &str) -> Result<Definition, Vec<Problem>> {
    let mut report = Report::default();
    let document = text::read(text, &Pointer::default(), &mut report);
    let (document, _) = report.finish(document)?;
    parse_document(&document)
}

/// Parses a document. `config` may also be a string that holds JSON or YAML; pointers then go on into what it says.
///
/// # Errors
/// Every problem of the document.
pub fn parse_document(document: &Value) -> Result<Definition, Vec<Problem>> {
    let mut report = Report::default();
    let definition = read_document(document, &mut report);
    let (mut definition, warnings) = report.finish(definition)?;
    definition.workflow.warnings = warnings;
    Ok(definition)
}

fn read_document(document: &Value, report: &mut Report) -> Option<Definition> {
    let root = Pointer::default();
    let mut envelope = Object::read(document, &root, report)?;
    if !text::is_bounded(document, &root, report) {
        return None;
    }
    let name = read_name(&mut envelope, report);
    let description = envelope.text("description", report).unwrap_or_default().to_owned();
    let status = read_status(&mut envelope, report);
    // Members of our own answers, so that what was fetched can be sent back.
    envelope.ignore(&["id", "version", "created_at", "updated_at", "compat"]);
    if envelope.value("browser_profile_id").is_some() {
        let at = envelope.at("browser_profile_id");
        report.warn(
            &at,
            "setting_not_applied",
            "browser profiles are not applied; the crawl uses a fresh browser context",
        );
    }
    let (config, workflow) = match envelope.value("config") {
        Some(config) => {
            envelope.warn_of_unknown("a workflow", report);
            let at = root.key("config");
            let config = text::embedded(config, &at, report)?.into_owned();
            let bounded = text::is_bounded(&config, &at, report);
            let workflow = if bounded { settings::read(&config, &at, report) } else { None };
            (config, workflow)
        }
        None => match inline_config(document) {
            Some(config) => {
                envelope.ignore(&CONFIG_KEYS);
                envelope.warn_of_unknown("a workflow", report);
                let workflow = settings::read(&config, &root, report);
                (config, workflow)
            }
            None => {
                envelope.warn_of_unknown("a workflow", report);
                report.problem(
                    &root.key("config"),
                    "missing_config",
                    "there is no `config`: it holds `start_urls` and the nodes",
                );
                return None;
            }
        },
    };
    let (name, mut workflow) = (name?, workflow?);
    workflow.name.clone_from(&name);
    workflow.description.clone_from(&description);
    Some(Definition { name, description, status, config, workflow })
}

fn read_name(envelope: &mut Object<'_>, report: &mut Report) -> Option<String> {
    let name = envelope.needed_text("name", "missing_name", "the workflow has no name", report)?;
    if name.chars().count() > MAX_NAME_CHARS {
        let message = format!("the name is longer than {MAX_NAME_CHARS} characters");
        report.problem(&envelope.at("name"), "out_of_range", message);
        return None;
    }
    Some(name.to_owned())
}

fn read_status(envelope: &mut Object<'_>, report: &mut Report) -> Option<String> {
    let status = envelope.text("status", report)?;
    if !STATUSES.contains(&status) {
        let suggestion = did_you_mean(status, STATUSES);
        let message =
            format!("there is no status `{}`, only {}{suggestion}", shorten(status), STATUSES.join(", "));
        report.problem(&envelope.at("status"), "bad_status", message);
        return None;
    }
    Some(status.to_owned())
}

/// The settings of a document that has them beside its name instead of under `config`.
fn inline_config(document: &Value) -> Option<Value> {
    let members = document.as_object()?;
    let of_config = |key: &String| CONFIG_KEYS.contains(&key.as_str());
    let config: Map<String, Value> = members
        .iter()
        .filter(|(key, _)| of_config(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    (config.contains_key("start_urls") || config.contains_key("sitemaps")).then_some(Value::Object(config))
}
