//! What a crawl does about the site's own rules for crawlers: whether robots.txt is obeyed, as whom, and which sitemaps it
//! begins with.

use std::collections::HashSet;

use serde_json::Value;

use super::headers::Headers;
use super::model::{Robots, Sitemaps};
use super::problem::{Pointer, Report};
use super::reader::{Object, refuse_url, shorten, wrong_type};
use super::suggest::did_you_mean;
use crate::domain::page_url::PageUrl;

/// More sitemaps than this belong into a sitemap index.
const MAX_SITEMAPS: usize = 1000;
const MAX_AGENT_BYTES: usize = 200;

/// Reads `politeness.robots`, or `robots` beside it. A configuration that has `politeness` is a new one, and obeys
/// unless it says otherwise; one of the old system does not know of robots.txt, and is warned.
pub(super) fn read_robots(config: &mut Object<'_>, report: &mut Report) -> Robots {
    let beside = config.value("robots").map(|value| (config.at("robots"), value));
    let politeness_at = config.at("politeness");
    let politeness = config.value("politeness");
    // Its other members are read with the limits, and so is reported there what is no object.
    let within = politeness
        .and_then(|members| members.get("robots"))
        .filter(|value| !value.is_null())
        .map(|value| (politeness_at.key("robots"), value));
    if let (Some((_, first)), Some((at, second))) = (&beside, &within)
        && first != second
    {
        let message = "`robots` says otherwise: give one of the two";
        report.problem(at, "bad_value", message);
    }
    match within.or(beside) {
        Some((at, value)) => robots(value, &at, report).unwrap_or(Robots::Obey),
        None if politeness.is_some() => Robots::Obey,
        None => {
            let message = "robots.txt is not obeyed, as in the old system: set `politeness` to {\"robots\": \"obey\"} to \
                 obey it, or to {\"robots\": \"ignore\"} to confirm";
            report.warn(&politeness_at.key("robots"), "robots_not_obeyed", message);
            Robots::Ignore
        }
    }
}

fn robots(value: &Value, at: &Pointer, report: &mut Report) -> Option<Robots> {
    let Value::String(text) = value else { return wrong_type(at, "a string", value, report) };
    let found = Robots::ALL.into_iter().find(|robots| robots.as_str() == text);
    if found.is_none() {
        let names = Robots::ALL.map(Robots::as_str);
        let suggestion = did_you_mean(text, names);
        let message = format!("there is no `{}`, only {}{suggestion}", shorten(text), names.join(", "));
        report.problem(at, "bad_value", message);
    }
    found
}

/// Reads `politeness.agent`: as whom the crawl asks. It begins with its product token (RFC 9309, section 2.2.1).
pub(super) fn read_agent(config: &mut Object<'_>, headers: &Headers, report: &mut Report) -> Option<String> {
    let at = config.at("politeness").key("agent");
    let members = config.value("politeness");
    let value = members.and_then(|members| members.get("agent")).filter(|value| !value.is_null())?;
    let Value::String(text) = value else { return wrong_type(&at, "a string", value, report) };
    let text = text.trim();
    let passes_for_a_browser = text.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("mozilla"));
    let is_printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let is_named = text.starts_with(|first: char| first.is_ascii_alphabetic());
    if !is_named || !is_printable || passes_for_a_browser || text.len() > MAX_AGENT_BYTES {
        let message = format!(
            "expected the crawler's name and what more it says, such as `ShopBot/1.0 (+https://shop.example/bot)`: \
             printable ASCII of at most {MAX_AGENT_BYTES} characters, which goes behind the browser's own `User-Agent`"
        );
        report.problem(&at, "bad_value", message);
        return None;
    }
    if headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("user-agent")) {
        report.problem(&at, "bad_value", "`User-Agent` under `headers` says it already: give one of the two");
        return None;
    }
    Some(text.to_owned())
}

/// Reads `sitemaps`: a list of URLs, or `"robots"` for those that the start URLs' robots files name.
pub(super) fn read_sitemaps(config: &mut Object<'_>, robots: Robots, report: &mut Report) -> Sitemaps {
    let at = config.at("sitemaps");
    match config.value("sitemaps") {
        None => Sitemaps::default(),
        Some(Value::String(text)) if text == "robots" => {
            if robots == Robots::Ignore {
                let message = "sitemaps are taken from robots.txt only where it is read: set `politeness` to \
                     {\"robots\": \"obey\"}, or list the sitemaps";
                report.problem(&at, "bad_value", message);
            }
            Sitemaps { urls: Vec::new(), from_robots: true }
        }
        Some(Value::Array(_)) => {
            let mut urls = Vec::new();
            let mut seen = HashSet::new();
            let texts = config.texts("sitemaps", report);
            if texts.len() > MAX_SITEMAPS {
                let message = format!("there are more than {MAX_SITEMAPS} sitemaps: name a sitemap index");
                report.problem(&at, "out_of_range", message);
            }
            for (at, text) in texts {
                match PageUrl::parse(text) {
                    Ok(url) if seen.insert(url.hash()) => urls.push(url),
                    Ok(_) => {}
                    Err(error) => {
                        report.problem(&at, "bad_sitemap", refuse_url(text, "cannot be a sitemap", &error));
                    }
                }
            }
            Sitemaps { urls, from_robots: false }
        }
        Some(other) => wrong_type(&at, "a list of URLs, or \"robots\"", other, report).unwrap_or_default(),
    }
}
