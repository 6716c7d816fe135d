//! How much of the fleet the executions of a workflow get.

use super::problem::Report;
use super::reader::Object;

/// An execution's part of the fleet, beside that of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its share among executions of the same priority, from 1 to 1,000.
    pub weight: i32,
    /// Executions with a higher one go first; from -1,000 to 1,000.
    pub priority: i32,
}

impl Default for Share {
    fn default() -> Self {
        Self { weight: 1, priority: 0 }
    }
}

/// Reads `scheduling`.
pub(super) fn read_scheduling(config: &mut Object<'_>, report: &mut Report) -> Share {
    let at = config.at("scheduling");
    let Some(mut scheduling) = config.value("scheduling").and_then(|value| Object::read(value, &at, report))
    else {
        return Share::default();
    };
    let weight = scheduling.integer("weight", 1..=1_000, report);
    let priority = scheduling.integer("priority", -1_000..=1_000, report);
    scheduling.warn_of_unknown("`scheduling`", report);
    let number =
        |read: Option<i128>, otherwise| read.and_then(|read| i32::try_from(read).ok()).unwrap_or(otherwise);
    let Share { weight: one, priority: none } = Share::default();
    Share { weight: number(weight, one), priority: number(priority, none) }
}
