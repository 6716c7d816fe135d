//! What an execution may spend: time, bytes, and pages below some paths; and what is to be different of that while it runs.

use std::time::Duration;

use serde_json::Value;
use url::Url;

use super::problem::{Pointer, Problem, Report};
use super::reader::{Object, quote_url, shorten};

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

/// What is to be different of the budgets of an execution; what is `None` stays.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BudgetChanges {
    /// From the start of the execution, not from the change; `Some(None)` is no limit.
    pub time: Option<Option<Duration>>,
    /// Received by its pages from its start on; `Some(None)` is no limit.
    pub bytes: Option<Option<u64>>,
    /// Replaces all of them. A path that had a budget keeps what was used of it; another one begins with nothing.
    pub path_prefixes: Option<Vec<PathBudget>>,
}

impl BudgetChanges {
    /// Removes every budget.
    pub fn removal() -> Self {
        Self { time: Some(None), bytes: Some(None), path_prefixes: Some(Vec::new()) }
    }
}

/// Reads changes of budgets, written as `budgets` of a workflow are: what is left out stays, what is `null` is removed, and
/// `null` in the place of all removes all. `above` is the JSON pointer of the value within its document.
///
/// # Errors
/// Everything that is wrong with them, unknown settings included, each with its place; or that they change nothing.
pub fn parse_budget_changes(value: &Value, above: &str) -> Result<BudgetChanges, Vec<Problem>> {
    if value.is_null() {
        return Ok(BudgetChanges::removal());
    }
    let mut report = Report::strict();
    let at = Pointer::at(above, &Pointer::default());
    let changes = Object::read(value, &at, &mut report).map(|budgets| read_changes(budgets, &mut report));
    report.finish(changes).map(|(changes, _)| changes)
}

fn read_changes(mut budgets: Object<'_>, report: &mut Report) -> BudgetChanges {
    if budgets.is_empty() {
        let message =
            "there is nothing to change; give `time`, `bytes` or `path_prefixes`, or null for no budgets";
        report.problem(budgets.here(), "nothing_to_change", message);
    }
    let [time, bytes, path_prefixes] =
        ["time", "bytes", "path_prefixes"].map(|name| budgets.value_or_null(name).is_some());
    let read = read_all(budgets, report);
    BudgetChanges {
        time: time.then_some(read.time),
        bytes: bytes.then_some(read.bytes),
        path_prefixes: path_prefixes.then_some(read.path_prefixes),
    }
}

/// Reads `budgets`.
pub(super) fn read_budgets(config: &mut Object<'_>, report: &mut Report) -> Budgets {
    let at = config.at("budgets");
    let budgets = config.value("budgets").and_then(|value| Object::read(value, &at, report));
    budgets.map(|budgets| read_all(budgets, report)).unwrap_or_default()
}

fn read_all(mut budgets: Object<'_>, report: &mut Report) -> Budgets {
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
                "{} is no beginning of a path: it must begin with `/`, without `?` and `#`, and have at most \
                 {MAX_PREFIX_BYTES} bytes",
                quote_url(text)
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
