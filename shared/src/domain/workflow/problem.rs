//! What is wrong with a user's document, or worth saying about it, and the report in which parsing collects both.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::secrets;

/// More problems than this help nobody; the rest is counted.
pub(super) const MAX_PROBLEMS: usize = 100;

/// What all compiled patterns of a document may take together, in bytes.
const MAX_PATTERN_BYTES: usize = 64 << 20;

/// One thing wrong with, or worth saying about, a user's document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Where: a JSON pointer (RFC 6901) into the document; empty is the whole of it. What is missing is pointed at
    /// where it should be.
    pub pointer: String,
    /// A stable `snake_case` name of the kind of problem.
    pub code: String,
    /// One sentence: what is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.pointer.is_empty() {
            write!(f, "{}: ", self.pointer)?;
        }
        write!(f, "{} ({})", self.message, self.code)
    }
}

/// A JSON pointer under construction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pointer(String);

impl Pointer {
    /// Points at the same place below another.
    pub(super) fn at(above: &str, within: &Self) -> Self {
        Self(format!("{above}{}", within.0))
    }

    /// Points at a member of the object here.
    pub(super) fn key(&self, key: &str) -> Self {
        Self(format!("{}/{}", self.0, key.replace('~', "~0").replace('/', "~1")))
    }

    /// Points at an element of the array here.
    pub(super) fn index(&self, index: usize) -> Self {
        Self(format!("{}/{index}", self.0))
    }

    /// Whether it is within a setting that secrets are written into.
    pub(super) fn may_hold_secrets(&self) -> bool {
        self.0.split('/').any(|segment| secrets::SETTINGS.contains(&segment))
    }
}

/// Everything that parsing has to say. Parsing goes on after a problem, to find the next.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    pattern_bytes: usize,
    is_strict: bool,
}

impl Report {
    /// A report on a document whose author is shown no warnings: a setting that nobody knows is a problem.
    pub(super) fn strict() -> Self {
        Self { is_strict: true, ..Self::default() }
    }

    /// Notes something that must be mended.
    pub(super) fn problem(&mut self, at: &Pointer, code: &str, message: impl Into<String>) {
        self.problems.push(note(at, code, message));
    }

    /// Notes something that is accepted, but will not do what its author may expect.
    pub(super) fn warn(&mut self, at: &Pointer, code: &str, message: impl Into<String>) {
        self.warnings.push(note(at, code, message));
    }

    /// Notes a setting of `owner` that nobody knows; `suggestion` ends the sentence.
    pub(super) fn unknown(&mut self, at: &Pointer, name: &str, owner: &str, suggestion: &str) {
        let told = format!("`{name}` is no setting of {owner}");
        if self.is_strict {
            self.problem(at, "unknown_member", told + suggestion);
        } else {
            self.warn(at, "unknown_setting", format!("{told} and is ignored{suggestion}"));
        }
    }

    /// Whether another pattern may be compiled.
    pub(super) fn affords_patterns(&self) -> bool {
        self.pattern_bytes <= MAX_PATTERN_BYTES
    }

    /// Adds a compiled pattern to those of the document; the one that is too much is a problem.
    pub(super) fn spend_on_pattern(&mut self, bytes: usize, at: &Pointer) {
        self.pattern_bytes += bytes;
        if !self.affords_patterns() {
            let message =
                "the patterns of this workflow are too large together; shorten their counted repetitions";
            self.problem(at, "too_many_patterns", message);
        }
    }

    /// Ends with what was read and the warnings, or with the problems.
    pub(super) fn finish<T>(self, read: Option<T>) -> Result<(T, Vec<Problem>), Vec<Problem>> {
        match read {
            Some(read) if self.problems.is_empty() => Ok((read, bounded(self.warnings))),
            _ => Err(bounded(self.problems)),
        }
    }
}

fn bounded(mut notes: Vec<Problem>) -> Vec<Problem> {
    let found = notes.len();
    notes.truncate(MAX_PROBLEMS);
    if found > MAX_PROBLEMS {
        let message = format!("there are {} more of these", found - MAX_PROBLEMS);
        notes.push(note(&Pointer::default(), "too_many_problems", message));
    }
    notes
}

fn note(at: &Pointer, code: &str, message: impl Into<String>) -> Problem {
    Problem { pointer: at.0.clone(), code: code.to_owned(), message: message.into() }
}
