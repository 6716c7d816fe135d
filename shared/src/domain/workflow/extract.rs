//! The parameters of `extract`: what is read, from which elements, and how it is transformed.

use serde_json::{Map, Value};

use super::action::{needed_selector, read_regex, read_selector};
use super::model::{Extract, Field, Read};
use super::problem::{Pointer, Report};
use super::reader::{Object, shorten, wrong_type};
use super::suggest::did_you_mean;
use crate::domain::transform::{TRANSFORM_NAMES, Transform};

/// The most fields of one node.
const MAX_FIELDS: usize = 100;
/// The most steps of one chain.
const MAX_TRANSFORMS: usize = 50;

/// Reads the parameters of an `extract` node.
pub(super) fn read_extract(params: &mut Object<'_>, report: &mut Report) -> Option<Extract> {
    let multiple = params.flag("multiple", report);
    refuse_later_settings(params, report);
    let fields_at = params.at("fields");
    let fields = match params.value("fields") {
        Some(_) if params.value("selector").is_none() => {
            let message = "`fields` without a `selector` belong to a later generation of the format, which is not \
                 supported yet; give each field a node of its own";
            report.problem(&fields_at, "unsupported_setting", message);
            return None;
        }
        Some(_) if !multiple => {
            report.warn(
                &fields_at,
                "setting_not_applied",
                "`fields` are read only with `\"multiple\": true`; they are ignored",
            );
            Vec::new()
        }
        Some(value) => read_fields(value, &fields_at, report),
        None => Vec::new(),
    };
    let selector = needed_selector(params, "selector", report);
    let read = read_what(params, report);
    let transforms = read_transforms(params, report);
    let default_value = read_default(params, report);
    Some(Extract { selector: selector?, read: read?, multiple, fields, transforms, default_value })
}

fn read_fields(value: &Value, at: &Pointer, report: &mut Report) -> Vec<Field> {
    let Value::Object(members) = value else {
        return wrong_type(at, "an object", value, report).unwrap_or_default();
    };
    if members.len() > MAX_FIELDS {
        report.problem(at, "out_of_range", format!("there are more than {MAX_FIELDS} fields"));
        return Vec::new();
    }
    members.iter().filter_map(|(name, field)| read_field(name, field, &at.key(name), report)).collect()
}

fn read_field(name: &str, value: &Value, at: &Pointer, report: &mut Report) -> Option<Field> {
    let mut field = Object::read(value, at, report)?;
    if field.flag("multiple", report) {
        let message = "a list within a field is not supported yet; read it with a node of its own";
        report.problem(&at.key("multiple"), "unsupported_setting", message);
    }
    if field.value("fields").is_some() {
        let message = "fields within fields are not supported yet; read them with a node of their own";
        report.problem(&at.key("fields"), "unsupported_setting", message);
    }
    refuse_later_settings(&mut field, report);
    // Empty is the element itself.
    let is_self = matches!(field.value("selector"), None | Some(Value::String(_)))
        && field.value("selector").and_then(Value::as_str).is_none_or(|text| text.trim().is_empty());
    let selector = if is_self { None } else { Some(read_selector(&mut field, "selector", report)) };
    let read = read_what(&mut field, report);
    let transforms = read_transforms(&mut field, report);
    let default_value = read_default(&mut field, report);
    field.warn_of_unknown("a field", report);
    let selector = match selector {
        None => None,
        // `None` within is a selector with a problem.
        Some(checked) => Some(checked?),
    };
    Some(Field { name: name.to_owned(), selector, read: read?, transforms, default_value })
}

/// Settings whose absence would change what is read, not only how much of it.
fn refuse_later_settings(params: &mut Object<'_>, report: &mut Report) {
    if params.value("extractions").is_some() {
        let message = "`extractions` belong to a later generation of the format, which is not supported yet";
        report.problem(&params.at("extractions"), "unsupported_setting", message);
    }
}

fn read_what(params: &mut Object<'_>, report: &mut Report) -> Option<Read> {
    const KNOWN: [&str; 6] = ["text", "attr", "attribute", "html", "href", "src"];
    let attribute = params.text("attribute", report);
    let read = match params.text("type", report) {
        None | Some("text") => Read::Text,
        Some("html") => Read::Html,
        Some(named @ ("href" | "src")) => Read::Attribute(named.to_owned()),
        Some("attr" | "attribute") => {
            let is_name = |name: &&str| {
                !name.is_empty()
                    && !name.contains(|c: char| c.is_whitespace() || c.is_control() || "\"'<>/=".contains(c))
            };
            let Some(attribute) = attribute.filter(is_name) else {
                let message = "`attribute` must name the attribute to read, such as \"href\"";
                report.problem(&params.at("attribute"), "missing_setting", message);
                return None;
            };
            return Some(Read::Attribute(attribute.to_owned()));
        }
        Some(other) => {
            let suggestion = did_you_mean(other, KNOWN);
            let message = format!("there is no type `{}`; the text is read{suggestion}", shorten(other));
            report.warn(&params.at("type"), "unknown_read_type", message);
            Read::Text
        }
    };
    if attribute.is_some() {
        let message = "`attribute` is used only with `\"type\": \"attr\"`; it is ignored";
        report.warn(&params.at("attribute"), "setting_not_applied", message);
    }
    Some(read)
}

/// `default_value`, or `default`, its name in later files. An explicit `null` is a default too.
fn read_default(params: &mut Object<'_>, report: &mut Report) -> Option<Value> {
    let (value, alias) = (params.value_or_null("default_value"), params.value_or_null("default"));
    if value.is_some() && alias.is_some() {
        report.warn(
            &params.at("default"),
            "setting_not_applied",
            "`default` is ignored beside `default_value`",
        );
    }
    value.or(alias).cloned()
}

/// A list of steps, or one step; a step is an object or, where it needs no parameters, its name.
fn read_transforms(params: &mut Object<'_>, report: &mut Report) -> Vec<Transform> {
    let at = params.at("transform");
    match params.value("transform") {
        None => Vec::new(),
        Some(Value::Array(steps)) if steps.len() > MAX_TRANSFORMS => {
            report.problem(&at, "out_of_range", format!("there are more than {MAX_TRANSFORMS} steps"));
            Vec::new()
        }
        Some(Value::Array(steps)) => {
            steps.iter().enumerate().filter_map(|(n, step)| read_step(step, &at.index(n), report)).collect()
        }
        Some(step) => read_step(step, &at, report).into_iter().collect(),
    }
}

fn read_step(step: &Value, at: &Pointer, report: &mut Report) -> Option<Transform> {
    if let Value::String(name) = step {
        return read_transform(name, &Map::new(), at, &at.key("params"), report);
    }
    if !step.is_object() {
        return wrong_type(
            at,
            "the name of a transform, or an object with `type` and `params`",
            step,
            report,
        );
    }
    let mut step = Object::read(step, at, report)?;
    let name = step.needed_text("type", "missing_type", "the transform has no type", report);
    let none = Map::new();
    let params = match step.value("params") {
        None => Some(&none),
        Some(Value::Object(params)) => Some(params),
        Some(other) => wrong_type(&step.at("params"), "an object", other, report),
    };
    step.warn_of_unknown("a transform", report);
    read_transform(name?, params?, &at.key("type"), &at.key("params"), report)
}

fn read_transform(
    name: &str,
    params: &Map<String, Value>,
    name_at: &Pointer,
    params_at: &Pointer,
    report: &mut Report,
) -> Option<Transform> {
    let mut params = Object::of(params, params_at);
    let transform =
        match name {
            "trim" => Some(Transform::Trim),
            "lowercase" => Some(Transform::Lowercase),
            "uppercase" => Some(Transform::Uppercase),
            "parse_int" => Some(Transform::ParseInt),
            "parse_float" => Some(Transform::ParseFloat),
            "clean_html" => Some(Transform::CleanHtml),
            "extract_price" => Some(Transform::ExtractPrice),
            "regex" => {
                let pattern = needed(&mut params, "pattern", report)
                    .and_then(|pattern| read_regex(pattern, &params.at("pattern"), report));
                let replacement = params.text("replacement", report).unwrap_or_default().to_owned();
                pattern.map(|pattern| Transform::Regex { pattern, replacement })
            }
            "replace" => {
                let old = needed(&mut params, "old", report);
                let new = params.text("new", report).unwrap_or_default().to_owned();
                old.map(|old| Transform::Replace { old: old.to_owned(), new })
            }
            "split" => needed(&mut params, "delimiter", report)
                .map(|delimiter| Transform::Split(delimiter.to_owned())),
            "join" => needed(&mut params, "delimiter", report)
                .map(|delimiter| Transform::Join(delimiter.to_owned())),
            other => {
                let suggestion = did_you_mean(other, TRANSFORM_NAMES);
                let message = format!(
                    "there is no transform `{}`, only {}{suggestion}",
                    shorten(other),
                    TRANSFORM_NAMES.join(", ")
                );
                report.problem(name_at, "unknown_transform", message);
                return None;
            }
        };
    params.warn_of_unknown(&format!("the transform `{name}`"), report);
    transform
}

/// A string that must be there, but may be empty or blank.
fn needed<'v>(params: &mut Object<'v>, key: &'static str, report: &mut Report) -> Option<&'v str> {
    if params.value(key).is_none() {
        report.problem(&params.at(key), "missing_setting", format!("`{key}` is missing"));
        return None;
    }
    params.text(key, report)
}
