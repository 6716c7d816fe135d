//! How pages are loaded: when a navigation counts as done, whether pages are rendered, what is not loaded with them,
//! and what they share.

use serde_json::Value;

use super::model::{Block, Isolation, Phase, Render, ResourceKind, WaitUntil};
use super::problem::{Pointer, Report};
use super::reader::{Object, quote_url, shorten, wrong_type};
use super::suggest::did_you_mean;

const MAX_PATTERNS: usize = 200;
const MAX_PATTERN_BYTES: usize = 1000;

/// How each phase's pages are loaded, as `render` says: one mode for all, or one for each phase by its id.
#[derive(Debug)]
pub(super) struct Renders<'v> {
    all: Render,
    by_phase: Vec<(&'v str, Render)>,
}

impl Renders<'_> {
    /// The mode of a phase.
    pub(super) fn of(&self, phase: &str) -> Render {
        self.by_phase.iter().find(|(id, _)| *id == phase).map_or(self.all, |(_, render)| *render)
    }
}

/// Reads `wait_until`.
pub(super) fn read_wait_until(config: &mut Object<'_>, report: &mut Report) -> WaitUntil {
    const KNOWN: [(&str, WaitUntil); 3] = [
        ("load", WaitUntil::Load),
        ("domcontentloaded", WaitUntil::DomContentLoaded),
        ("networkidle", WaitUntil::NetworkIdle),
    ];
    let at = config.at("wait_until");
    if config.value("wait_until").is_none() {
        let message = "a page counts as loaded at its `load` event; the old system waited until the network was idle. \
             Set `wait_until` to \"networkidle\" for that, or to \"load\" to confirm";
        report.warn(&at, "wait_until_load", message);
        return WaitUntil::Load;
    }
    let text = config.text("wait_until", report);
    text.and_then(|text| one_of(text, &KNOWN, &at, report)).unwrap_or_default()
}

/// Reads `render`; `phases` are the ids that it may name.
pub(super) fn read_render<'v>(config: &mut Object<'v>, phases: &[&str], report: &mut Report) -> Renders<'v> {
    let at = config.at("render");
    let mut renders = Renders { all: Render::default(), by_phase: Vec::new() };
    match config.value("render") {
        None => {}
        Some(Value::String(mode)) => renders.all = render(mode, &at, report),
        Some(Value::Object(modes)) => {
            for (phase, mode) in modes {
                let at = at.key(phase);
                if !phases.contains(&phase.as_str()) {
                    let suggestion = did_you_mean(phase, phases.iter().copied());
                    let message = format!(
                        "there is no phase `{}`, only {}{suggestion}",
                        shorten(phase),
                        phases.join(", ")
                    );
                    report.problem(&at, "bad_value", message);
                } else if let Value::String(mode) = mode {
                    renders.by_phase.push((phase, render(mode, &at, report)));
                } else {
                    wrong_type::<()>(&at, "a string", mode, report);
                }
            }
        }
        Some(other) => {
            wrong_type::<()>(&at, "a string, or an object with a string for each phase", other, report);
        }
    }
    renders
}

fn render(mode: &str, at: &Pointer, report: &mut Report) -> Render {
    one_of(mode, &Render::ALL.map(|render| (render.as_str(), render)), at, report).unwrap_or_default()
}

/// Reads `block`: kinds of resources, and patterns of their URLs.
pub(super) fn read_block(config: &mut Object<'_>, report: &mut Report) -> Block {
    let mut block = Block::default();
    let texts = config.texts("block", report);
    if texts.len() > MAX_PATTERNS {
        let message = format!("there are more than {MAX_PATTERNS} kinds and patterns");
        report.problem(&config.at("block"), "out_of_range", message);
    }
    for (at, text) in texts {
        if let Some(kind) = ResourceKind::ALL.into_iter().find(|kind| kind.as_str() == text) {
            if !block.kinds.contains(&kind) {
                block.kinds.push(kind);
            }
        } else if !text.contains(['*', '/', '.']) {
            // What has none of these can match no URL: it was meant as a kind.
            let kinds = ResourceKind::ALL.map(ResourceKind::as_str);
            let suggestion = did_you_mean(text, kinds);
            let message = format!(
                "{} is neither a kind of resource ({}) nor a URL pattern such as `*.example.com/*`{suggestion}",
                quote_url(text),
                kinds.join(", ")
            );
            report.problem(&at, "bad_value", message);
        } else if text.len() > MAX_PATTERN_BYTES || text.chars().any(|c| c.is_control() || c == ' ') {
            let message = format!(
                "a URL pattern has no spaces or control characters, and at most {MAX_PATTERN_BYTES} bytes"
            );
            report.problem(&at, "bad_value", message);
        } else {
            block.patterns.push(text.to_owned());
        }
    }
    block
}

/// Reads `isolation`.
pub(super) fn read_isolation(config: &mut Object<'_>, report: &mut Report) -> Isolation {
    const KNOWN: [(&str, Isolation); 2] = [("execution", Isolation::Execution), ("page", Isolation::Page)];
    let at = config.at("isolation");
    let text = config.text("isolation", report);
    text.and_then(|text| one_of(text, &KNOWN, &at, report)).unwrap_or_default()
}

/// Says where `isolation` and `render` do not go together.
pub(super) fn warn_of_isolated_renders(
    config: &Object<'_>,
    isolation: Isolation,
    phases: &[Phase],
    report: &mut Report,
) {
    if isolation == Isolation::Page && phases.iter().any(|phase| phase.render != Render::Full) {
        let message = "with an `isolation` of \"page\" every page is rendered in full: reading pages without a tab \
             lives from what they share";
        report.warn(&config.at("render"), "setting_not_applied", message);
    }
}

fn one_of<T: Copy>(text: &str, known: &[(&'static str, T)], at: &Pointer, report: &mut Report) -> Option<T> {
    let found = known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    if found.is_none() {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let suggestion = did_you_mean(text, names.iter().copied());
        let message = format!("there is no `{}`, only {}{suggestion}", shorten(text), names.join(", "));
        report.problem(at, "bad_value", message);
    }
    found
}
