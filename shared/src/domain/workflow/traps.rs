//! What counts as a part of a site without end. Each rule has a number, and can be switched off.

use std::ops::RangeInclusive;

use serde_json::{Number, Value};

use super::problem::Report;
use super::reader::{Object, wrong_type};

/// How alike pages that count as the same must be at least. With less, half of a text could be something else.
const SIMILARITIES: RangeInclusive<f64> = 0.5..=1.0;
/// Of a hundred words in a row one may differ: a visitor counter, a time, the id of a session.
const SIMILARITY: f64 = 0.98;

/// The rules of trap detection; `None` switches a rule off. The defaults are such that a site has to be very strange
/// to be hit without being endless.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traps {
    /// The longest URL that is followed, in bytes.
    pub max_url_length: Option<u32>,
    /// How often a segment of the path, or a sequence of segments, may follow itself.
    pub repeated_segments: Option<u32>,
    /// How many days ahead of today a calendar is followed.
    pub days_ahead: Option<u32>,
    /// How many days back from today a calendar is followed.
    pub days_back: Option<u32>,
    /// How many combinations of the same query parameters one path may have.
    pub query_variants: Option<u32>,
    /// How many different query strings one path may have, whatever they look like.
    pub query_strings: Option<u32>,
    /// How many different values a session parameter may have.
    pub session_ids: Option<u32>,
    /// How many pages of one shape may give nearly the same in a row.
    pub identical_pages: Option<u32>,
    /// Which share of each long text is in common at least where pages give nearly the same, from 0.5 to 1.
    pub similarity: f64,
}

impl Default for Traps {
    fn default() -> Self {
        Self {
            max_url_length: Some(2_000),
            repeated_segments: Some(3),
            days_ahead: Some(730),
            days_back: Some(7_300),
            query_variants: Some(5_000),
            // A forum has as many as it has topics.
            query_strings: None,
            session_ids: Some(50),
            identical_pages: Some(100),
            similarity: SIMILARITY,
        }
    }
}

impl Traps {
    /// Nothing is a trap.
    pub const OFF: Self = Self {
        max_url_length: None,
        repeated_segments: None,
        days_ahead: None,
        days_back: None,
        query_variants: None,
        query_strings: None,
        session_ids: None,
        identical_pages: None,
        similarity: SIMILARITY,
    };

    /// The rules by the names of their settings, and what belongs to one that is on.
    pub fn rules(&self) -> [(&'static str, Option<Number>); 9] {
        let whole = |number: Option<u32>| number.map(Number::from);
        [
            ("max_url_length", whole(self.max_url_length)),
            ("repeated_segments", whole(self.repeated_segments)),
            ("days_ahead", whole(self.days_ahead)),
            ("days_back", whole(self.days_back)),
            ("query_variants", whole(self.query_variants)),
            ("query_strings", whole(self.query_strings)),
            ("session_ids", whole(self.session_ids)),
            ("identical_pages", whole(self.identical_pages)),
            ("similarity", self.identical_pages.and_then(|_| Number::from_f64(self.similarity))),
        ]
    }
}

/// Reads `traps`: `true` and absent are the defaults, `false` switches all off, an object changes single rules.
pub(super) fn read_traps(config: &mut Object<'_>, report: &mut Report) -> Traps {
    let at = config.at("traps");
    let default = Traps::default();
    let members = match config.value("traps") {
        None | Some(Value::Bool(true)) => return default,
        Some(Value::Bool(false)) => return Traps::OFF,
        Some(Value::Object(members)) => members,
        Some(other) => {
            return wrong_type(&at, "`true`, `false`, or an object with rules", other, report)
                .unwrap_or(default);
        }
    };
    let mut traps = Object::of(members, &at);
    let mut rule = |name, range, default| read_rule(&mut traps, name, range, default, report);
    let read = Traps {
        max_url_length: rule("max_url_length", 100..=4_096, default.max_url_length),
        repeated_segments: rule("repeated_segments", 2..=100, default.repeated_segments),
        days_ahead: rule("days_ahead", 0..=1_000_000, default.days_ahead),
        days_back: rule("days_back", 0..=1_000_000, default.days_back),
        query_variants: rule("query_variants", 10..=1_000_000_000, default.query_variants),
        query_strings: rule("query_strings", 10..=1_000_000_000, default.query_strings),
        session_ids: rule("session_ids", 1..=10_000, default.session_ids),
        identical_pages: rule("identical_pages", 2..=1_000_000, default.identical_pages),
        similarity: read_similarity(&mut traps, default.similarity, report),
    };
    traps.warn_of_unknown("`traps`", report);
    read
}

fn read_rule(
    traps: &mut Object<'_>,
    name: &'static str,
    range: RangeInclusive<u64>,
    default: Option<u32>,
    report: &mut Report,
) -> Option<u32> {
    match traps.value(name) {
        None | Some(Value::Bool(true)) => default,
        Some(Value::Bool(false)) => None,
        Some(Value::Number(_)) => {
            traps.whole(name, range, report).and_then(|number| u32::try_from(number).ok())
        }
        Some(other) => {
            wrong_type(&traps.at(name), "a whole number, or `false` to switch the rule off", other, report)
        }
    }
}

fn read_similarity(traps: &mut Object<'_>, default: f64, report: &mut Report) -> f64 {
    let at = traps.at("similarity");
    let Some(value) = traps.value("similarity") else { return default };
    let (least, most) = (*SIMILARITIES.start(), *SIMILARITIES.end());
    let Value::Number(number) = value else {
        let expected =
            format!("a number from {least} to {most} (`identical_pages`: false switches the rule off)");
        return wrong_type(&at, &expected, value, report).unwrap_or(default);
    };
    let share = number.as_f64().filter(|share| SIMILARITIES.contains(share));
    if share.is_none() {
        let message = format!(
            "{number} is not within {least} and {most}: it is the share of a text that must be the same, such as {default}"
        );
        report.problem(&at, "out_of_range", message);
    }
    share.unwrap_or(default)
}
