//! What nodes do to a page, and their `params`.

use std::time::Duration;

use serde::Serialize;

use super::action::{needed_selector, read_timeout};
use super::model::{Selector, as_millis};
use super::problem::Report;
use super::reader::{Object, shorten};

/// The longest pause between two keys.
const MAX_KEY_DELAY_MS: u64 = 10_000;
/// The longest text that is typed.
const MAX_TYPED_CHARS: usize = 10_000;
/// The furthest that a window is scrolled.
const MAX_PIXELS: u64 = 10_000_000;

/// Something that is done to a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Clicks on an element.
    Click(Target),
    /// Moves the pointer over an element.
    Hover(Target),
    /// Types into an element.
    Type {
        /// Which gets the focus.
        into: Target,
        /// Key by key; a line break is the Enter key.
        text: String,
        /// The pause between two keys.
        delay: Duration,
    },
    /// Scrolls the window.
    Scroll(ScrollTo),
}

/// The element that something is done to: the first match, as soon as it is visible, enabled, at rest, and not covered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Which element.
    pub selector: Selector,
    /// How long it is waited for, in milliseconds.
    #[serde(rename = "timeout_ms", serialize_with = "as_millis")]
    pub timeout: Duration,
}

/// Where a window is scrolled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScrollTo {
    /// This many pixels from the left and from the top.
    Point(u32, u32),
    /// The end of the document, as it is then.
    Bottom,
}

/// Which element, and how long it is waited for.
pub(super) fn read_target(params: &mut Object<'_>, report: &mut Report) -> Option<Target> {
    let selector = needed_selector(params, "selector", report);
    let timeout = read_timeout(params, report);
    Some(Target { selector: selector?, timeout })
}

/// What is typed, and where.
pub(super) fn read_typing(params: &mut Object<'_>, report: &mut Report) -> Option<Act> {
    let into = read_target(params, report);
    let text = params.needed_text("text", "missing_setting", "there is no `text` to type", report);
    let delay = params.whole("delay", 0..=MAX_KEY_DELAY_MS, report).unwrap_or_default();
    if text.is_some_and(|text| text.chars().count() > MAX_TYPED_CHARS) {
        let message = format!("the text has more than {MAX_TYPED_CHARS} characters");
        report.problem(&params.at("text"), "bad_value", message);
        return None;
    }
    Some(Act::Type { into: into?, text: text?.to_owned(), delay: Duration::from_millis(delay) })
}

/// Where the window is scrolled to.
pub(super) fn read_scroll(params: &mut Object<'_>, report: &mut Report) -> ScrollTo {
    let mut pixels = |key| {
        u32::try_from(params.whole(key, 0..=MAX_PIXELS, report).unwrap_or_default()).unwrap_or(u32::MAX)
    };
    let (x, y) = (pixels("x"), pixels("y"));
    match params.text("to", report) {
        None => ScrollTo::Point(x, y),
        Some("bottom") => {
            if (x, y) != (0, 0) {
                let message = "`x` and `y` are ignored beside `to`".to_owned();
                report.warn(&params.at("to"), "ignored_setting", message);
            }
            ScrollTo::Bottom
        }
        Some(other) => {
            let message = format!(
                "there is no place `{}` to scroll to; there is `bottom`, or `x` and `y`",
                shorten(other)
            );
            report.problem(&params.at("to"), "bad_value", message);
            ScrollTo::Point(x, y)
        }
    }
}
