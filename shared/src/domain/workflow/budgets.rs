//! What an execution may spend: time, bytes, and pages below some paths.

use std::time::Duration;

use serde_json::Value;
use url::Url;

use super::problem::{Pointer, Report};
use super::reader::{Object, shorten};

/// How many path prefixes may have a budget.
const MAX_PREFIXES: usize = 100;
const MAX_PREFIX_BYTES: usize = 1000;
/// A year.
const MAX_SECONDS: u64 = 366 * 24 * 60 * 60;

/// What an execution may spend; `None` is no limit.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Budgets {
    /// From the start of the execution; no page is dispatched after it.
    pub time: Option<Duration>,
    /// Received by its pages; no page is dispatched after these.
    pub bytes: Option<u64>,
    /// Pages below some paths. A page below several of them counts for each.
    pub path_prefixes: Vec<PathBudget>,
}

/// How many pages below a path an execution may visit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathBudget {
    /// How the path of their URLs begins, as URLs write it; of any host.
    pub prefix: String,
    /// At most this many are ever dispatched.
    pub max_pages: u64,
}

impl Budgets {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.time.is_none() && self.bytes.is_none() && self.path_prefixes.is_empty()
    }
}

/// Reads `budgets`.
pub(super) fn read_budgets(config: &mut Object<'_>, report: &mut Report) -> Budgets {
    let at = config.at("budgets");
    let Some(mut budgets) = config.value("budgets").and_then(|value| Object::read(value, &at, report)) else {
        return Budgets::default();
    };
    let read = Budgets {
        time: budgets.whole("time", 1..=MAX_SECONDS, report).map(Duration::from_secs),
        bytes: budgets.whole("bytes", 1..=i64::MAX.unsigned_abs(), report),
        path_prefixes: read_prefixes(&mut budgets, report),
    };
    budgets.warn_of_unknown("`budgets`", report);
    read
}

fn read_prefixes(budgets: &mut Object<'_>, report: &mut Report) -> Vec<PathBudget> {
    let at = budgets.at("path_prefixes");
    let list = budgets.list("path_prefixes", report);
    if list.len() > MAX_PREFIXES {
        report.problem(&at, "out_of_range", format!("there are more than {MAX_PREFIXES} path prefixes"));
        return Vec::new();
    }
    let mut read: Vec<PathBudget> = Vec::new();
    for (index, entry) in list.iter().enumerate() {
        let at = at.index(index);
        let Some(budget) = read_prefix(entry, &at, report) else { continue };
        if read.iter().any(|other| other.prefix == budget.prefix) {
            let message = format!("the prefix `{}` has a budget already", shorten(&budget.prefix));
            report.problem(&at.key("prefix"), "bad_value", message);
        } else {
            read.push(budget);
        }
    }
    read
}

fn read_prefix(entry: &Value, at: &Pointer, report: &mut Report) -> Option<PathBudget> {
    let mut entry = Object::read(entry, at, report)?;
    let message = "a budget of pages needs the `prefix` of their paths, such as \"/catalogue/\"";
    let prefix = entry.needed_text("prefix", "missing_setting", message, report);
    let prefix_at = entry.at("prefix");
    let prefix = prefix.and_then(|text| {
        let path = as_urls_write_it(text);
        if path.is_none() {
            let message = format!(
                "`{}` is no beginning of a path: it must begin with `/`, without `?` and `#`, and have at most \
                 {MAX_PREFIX_BYTES} bytes",
                shorten(text)
            );
            report.problem(&prefix_at, "bad_value", message);
        }
        path
    });
    let given = entry.value("max_pages").is_some();
    let max_pages = entry.whole("max_pages", 1..=i64::MAX.unsigned_abs(), report);
    if !given {
        let message = "a budget of pages needs `max_pages`, a whole number from 1 on";
        report.problem(&entry.at("max_pages"), "missing_setting", message);
    }
    entry.warn_of_unknown("a budget of pages", report);
    Some(PathBudget { prefix: prefix?, max_pages: max_pages? })
}

/// The path with its special characters escaped as in the URLs that it is compared with.
fn as_urls_write_it(text: &str) -> Option<String> {
    if !text.starts_with('/') || text.contains(['?', '#']) {
        return None;
    }
    // Not resolved against a base: `//a/` would be a host.
    let url = Url::parse(&format!("http://host{text}")).ok()?;
    Some(url.path().to_owned()).filter(|path| path.len() <= MAX_PREFIX_BYTES)
}
