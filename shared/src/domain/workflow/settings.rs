//! The configuration: where a crawl begins, its limits, its headers, its lists of nodes. Settings of the old format that
//! are accepted and have no effect are listed among the warnings, each by itself.

use std::collections::HashSet;

use serde_json::Value;

use super::budgets::read_budgets;
use super::headers::read_headers;
use super::limits::read_limits;
use super::loading::{read_block, read_isolation, read_render, read_wait_until, warn_of_isolated_renders};
use super::model::{Action, Phase, PhaseKind, Workflow};
use super::node::read_nodes;
use super::problem::{Pointer, Problem, Report};
use super::proxy::read_proxy;
use super::reader::{Object, refuse_url};
use super::robots::{read_agent, read_robots, read_sitemaps};
use super::scheduling::read_scheduling;
use super::text;
use super::traps::read_traps;
use crate::domain::page_url::{PageUrl, PageUrlError};

/// How many nodes a workflow may have, over all phases.
pub const MAX_NODES: usize = 500;

/// The lists of nodes, each of which is a phase, in the order of execution.
const LISTS: [(&str, PhaseKind); 2] =
    [("url_discovery", PhaseKind::Discovery), ("data_extraction", PhaseKind::Extraction)];

/// Every setting that a configuration may have.
pub(super) const CONFIG_KEYS: [&str; 24] = [
    "start_urls",
    "sitemaps",
    "max_depth",
    "max_pages",
    "rate_limit_delay",
    "politeness",
    "robots",
    "budgets",
    "scheduling",
    "traps",
    "headers",
    "wait_until",
    "render",
    "block",
    "isolation",
    "url_discovery",
    "data_extraction",
    "phases",
    "cookies",
    "authentication",
    "proxy_config",
    "storage",
    "browser_profile_id",
    "user_agent",
];

/// Parses a configuration; pointers begin at it. A string is read as JSON or YAML first. The workflow has no name.
///
/// # Errors
/// Every problem of the configuration.
pub fn parse_config(config: &Value) -> Result<Workflow, Vec<Problem>> {
    let mut report = Report::default();
    let root = Pointer::default();
    let workflow = text::embedded(config, &root, &mut report).and_then(|config| {
        if text::is_bounded(&config, &root, &mut report) { read(&config, &root, &mut report) } else { None }
    });
    let (mut workflow, warnings) = report.finish(workflow)?;
    workflow.warnings = warnings;
    Ok(workflow)
}

/// Reads a configuration at its place in a document; its depth was checked. The warnings stay in the report.
pub(super) fn read(config: &Value, at: &Pointer, report: &mut Report) -> Option<Workflow> {
    let mut config = Object::read(config, at, report)?;
    let robots = read_robots(&mut config, report);
    let sitemaps = read_sitemaps(&mut config, robots, report);
    let start_urls = read_start_urls(&mut config, !sitemaps.urls.is_empty(), report);
    let limits = read_limits(&mut config, report);
    let budgets = read_budgets(&mut config, report);
    let share = read_scheduling(&mut config, report);
    let traps = read_traps(&mut config, report);
    let headers = read_headers(&mut config, report);
    let agent = read_agent(&mut config, &headers, report);
    let wait_until = read_wait_until(&mut config, report);
    let block = read_block(&mut config, report);
    let isolation = read_isolation(&mut config, report);
    let proxy = read_proxy(&mut config, report);
    warn_of_what_is_not_applied(&mut config, report);
    let phases = read_phases(&mut config, report);
    warn_of_isolated_renders(&config, isolation, phases.as_deref().unwrap_or_default(), report);
    config.warn_of_unknown("the configuration", report);
    Some(Workflow {
        name: String::new(),
        description: String::new(),
        start_urls,
        sitemaps,
        robots,
        limits,
        budgets,
        share,
        traps,
        headers,
        agent,
        wait_until,
        block,
        isolation,
        proxy,
        phases: phases?,
        warnings: Vec::new(),
    })
}

/// Reads `start_urls`, which may be absent where there are sitemaps.
fn read_start_urls(config: &mut Object<'_>, has_sitemaps: bool, report: &mut Report) -> Vec<PageUrl> {
    let mut urls = Vec::new();
    let mut seen = HashSet::new();
    for (at, text) in config.texts("start_urls", report) {
        match PageUrl::parse(text) {
            Ok(url) if seen.insert(url.hash()) => urls.push(url),
            Ok(_) => {}
            Err(error) => {
                let advice = match &error {
                    PageUrlError::Malformed(_) if !text.contains("://") => {
                        "; did you mean to begin it with `https://`?"
                    }
                    PageUrlError::Credentials => "; send them with `headers` instead",
                    _ => "",
                };
                let message = refuse_url(text, "cannot be crawled", &error) + advice;
                report.problem(&at, "bad_start_url", message);
            }
        }
    }
    let nothing_given = match config.value("start_urls") {
        None => true,
        Some(given) => given.as_array().is_some_and(Vec::is_empty),
    };
    if nothing_given && !has_sitemaps {
        let message = "there is no start URL: give at least one, or list `sitemaps`";
        report.problem(&config.at("start_urls"), "no_start_url", message);
    }
    urls
}

fn warn_of_what_is_not_applied(config: &mut Object<'_>, report: &mut Report) {
    for (key, message) in [
        ("cookies", "`cookies` are not applied yet; a `Cookie` header under `headers` is sent"),
        (
            "authentication",
            "`authentication` is not applied yet; an `Authorization` header under `headers` is sent",
        ),
        ("browser_profile_id", "browser profiles are not applied; the crawl uses a fresh browser context"),
        ("user_agent", "`user_agent` is not applied; set `User-Agent` under `headers`"),
        (
            "storage",
            "`storage` is not applied: items are kept in the database, in `extracted_items` (view `extracted_data`)",
        ),
    ] {
        if config.value(key).is_some_and(|value| has_effect(key, value)) {
            report.warn(&config.at(key), "setting_not_applied", message);
        }
    }
}

/// Whether a setting asks for anything beyond what happens anyway.
fn has_effect(key: &str, value: &Value) -> bool {
    let Value::Object(members) = value else {
        return !value.as_array().is_some_and(Vec::is_empty);
    };
    let is_blank = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    match key {
        "storage" => members
            .iter()
            .any(|(key, value)| !is_blank(value) && (key != "type" || value.as_str() != Some("database"))),
        _ => !members.is_empty(),
    }
}

fn read_phases(config: &mut Object<'_>, report: &mut Report) -> Option<Vec<Phase>> {
    let has_later_format = config.value("phases").is_some();
    if has_later_format {
        let message = "`phases` belong to a later generation of the format, which is not supported yet; \
             write the nodes into `url_discovery` and `data_extraction`";
        report.problem(&config.at("phases"), "unsupported_format", message);
    }
    let counts = LISTS.map(|(id, _)| match config.value(id) {
        Some(Value::Array(nodes)) => Some(nodes.len()),
        None => Some(0),
        // The wrong type, which reading the list reports.
        Some(_) => None,
    });
    if counts == [Some(0), Some(0)] && !has_later_format {
        let message = "there are no nodes: `url_discovery` and `data_extraction` are both absent or empty";
        report.problem(config.here(), "no_nodes", message);
    }
    if counts.iter().flatten().sum::<usize>() > MAX_NODES {
        report.problem(config.here(), "too_many_nodes", format!("there are more than {MAX_NODES} nodes"));
        return None;
    }
    let renders = read_render(config, &LISTS.map(|(id, _)| id), report);
    let mut phases = Vec::new();
    let mut complete = true;
    for (id, kind) in LISTS {
        let other = LISTS.iter().find(|(other, _)| *other != id).map_or(id, |(other, _)| other);
        let ids_elsewhere = node_ids(config.value(other));
        let nodes = config.list(id, report);
        match read_nodes(nodes, &config.at(id), (other, &ids_elsewhere), report) {
            Some(nodes) if nodes.is_empty() => {}
            Some(nodes) => {
                let render = renders.of(id);
                phases.push(Phase { id: id.to_owned(), kind, render, nodes });
            }
            None => complete = false,
        }
    }
    warn_of_saved_discovery_keys(config, &phases, report);
    warn_of_idle_filters(config, &phases, report);
    complete.then_some(phases)
}

fn node_ids(list: Option<&Value>) -> Vec<&str> {
    let nodes = list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    nodes.iter().filter_map(|node| node.get("id")?.as_str()).collect()
}

fn warn_of_saved_discovery_keys(config: &Object<'_>, phases: &[Phase], report: &mut Report) {
    let keys: Vec<String> = phases
        .iter()
        .filter(|phase| phase.kind == PhaseKind::Discovery)
        .flat_map(|phase| &phase.nodes)
        .filter(|node| matches!(node.action, Action::ExtractLinks(_) | Action::FilterUrls(_)))
        .filter_map(|node| Some(format!("`{}`", node.output_key.as_ref()?)))
        .collect();
    if !keys.is_empty() {
        let message = format!(
            "items keep the links that discovery nodes store under an `output_key` ({}), as they always did; \
             remove the `output_key` of a node to keep its links out",
            keys.join(", ")
        );
        report.warn(&config.at("url_discovery"), "discovery_keys_saved", message);
    }
}

fn warn_of_idle_filters(config: &mut Object<'_>, phases: &[Phase], report: &mut Report) {
    for (id, _) in LISTS {
        let declared = node_ids(config.value(id));
        let nodes = phases
            .iter()
            .find(|phase| phase.id == id)
            .map(|phase| phase.nodes.as_slice())
            .unwrap_or_default();
        for node in nodes.iter().filter(|node| matches!(node.action, Action::FilterUrls(_))) {
            let finds_links = |needed: &usize| {
                matches!(nodes[*needed].action, Action::ExtractLinks(_) | Action::FilterUrls(_))
            };
            let place = declared.iter().position(|declared| *declared == node.id);
            if let (false, Some(place)) = (node.dependencies.iter().any(finds_links), place) {
                let message =
                    "the filter depends on no `extract_links` node: there are no links for it to filter";
                report.warn(&config.at(id).index(place).key("dependencies"), "filter_without_links", message);
            }
        }
    }
}
