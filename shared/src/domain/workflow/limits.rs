//! How far and how fast a crawl may go: `max_depth`, `max_pages`, `rate_limit_delay`, and `politeness`.

use std::time::Duration;

use super::model::Limits;
use super::problem::Report;
use super::reader::{Object, shorten};
use crate::domain::page_url::HostUnit;

/// The documented depth of the old system.
const DEFAULT_MAX_DEPTH: u32 = 3;
const MAX_DELAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Reads what limits a crawl.
pub(super) fn read_limits(config: &mut Object<'_>, report: &mut Report) -> Limits {
    let depth_at = config.at("max_depth");
    let is_given = config.value("max_depth").is_some();
    // i32::MAX, because depths are stored as such.
    let max_depth =
        config.whole("max_depth", 0..=2_147_483_647, report).and_then(|depth| u32::try_from(depth).ok());
    if !is_given {
        let message = format!(
            "`max_depth` is absent and taken as {DEFAULT_MAX_DEPTH}, as documented; the old system then followed no links"
        );
        report.warn(&depth_at, "default_max_depth", message);
    }
    if max_depth == Some(0) {
        let message = "with a `max_depth` of 0 no links are followed: only the start URLs are crawled";
        report.warn(&depth_at, "no_discovery", message);
    }
    let max_pages = config.whole("max_pages", 0..=i64::MAX.unsigned_abs(), report);
    if max_pages == Some(0) {
        report.warn(&config.at("max_pages"), "no_page_limit", "a `max_pages` of 0 is no limit");
    }
    let delay = config.whole("rate_limit_delay", 0..=MAX_DELAY_MS, report).unwrap_or_default();
    let limits = Limits {
        max_depth: Some(max_depth.unwrap_or(DEFAULT_MAX_DEPTH)),
        max_pages: max_pages.filter(|pages| *pages > 0),
        rate_limit_delay: Duration::from_millis(delay),
        ..Limits::default()
    };
    read_politeness(limits, config, report)
}

/// Reads `politeness`: `concurrency`, `adaptive` and `per`. Its `robots` and `agent` are read elsewhere.
fn read_politeness(limits: Limits, config: &mut Object<'_>, report: &mut Report) -> Limits {
    let at = config.at("politeness");
    let Some(mut politeness) = config.value("politeness").and_then(|given| Object::read(given, &at, report))
    else {
        return limits;
    };
    let concurrency = politeness.whole("concurrency", 1..=10_000, report);
    let adaptive_delay = politeness.flag("adaptive", report);
    let host_unit = match politeness.text("per", report) {
        None => HostUnit::default(),
        Some(text) => HostUnit::ALL.into_iter().find(|unit| unit.as_str() == text).unwrap_or_else(|| {
            let message = format!("`{}` is neither \"host\" nor \"domain\"", shorten(text));
            report.problem(&politeness.at("per"), "bad_value", message);
            HostUnit::default()
        }),
    };
    politeness.ignore(&["robots", "agent"]);
    politeness.warn_of_unknown("`politeness`", report);
    Limits {
        host_concurrency: concurrency.and_then(|pages| u32::try_from(pages).ok()),
        adaptive_delay,
        host_unit,
        ..limits
    }
}
