//! The transforms of extracted strings. A step on a value of the wrong type leaves it as it is.

use regex::Regex;

/// One step of a chain.
#[derive(Clone, Debug)]
pub enum Transform {
    /// Removes white space at both ends.
    Trim,
    /// Lowers letters (Unicode).
    Lowercase,
    /// Raises letters (Unicode).
    Uppercase,
    /// Replaces every match; `$1` and `${name}` expand.
    Regex {
        /// What is replaced.
        pattern: Regex,
        /// What it becomes.
        replacement: String,
    },
    /// Replaces every literal occurrence.
    Replace {
        /// What is replaced.
        old: String,
        /// What it becomes.
        new: String,
    },
    /// Splits into an array of strings.
    Split(String),
    /// Joins an array of strings.
    Join(String),
    /// Reads a base-10 integer; leaves what is none.
    ParseInt,
    /// Reads a finite decimal number; leaves what is none.
    ParseFloat,
    /// Replaces tags by spaces, collapses white space, trims.
    CleanHtml,
    /// Reads the first price-like run of digits as a number; leaves what has none.
    ExtractPrice,
}
