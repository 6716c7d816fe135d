//! What is known of the pages of one shape, for one phase. Knows nothing about pages.

use crawlify_shared::domain::outcome::Rendered;
use crawlify_shared::domain::page::RenderDecision;
use crawlify_shared::domain::workflow::Render;

use super::Course;

/// Pages that must give the same both ways, in a row, before others are read as they come.
const TRIAL_PAGES: u32 = 5;
/// The longest trial, after differences.
const LONGEST_TRIAL: u32 = 160;
/// One static page in so many is checked.
const CHECK_EVERY: u32 = 50;
/// One page in so many is tried again after a difference; doubled with each further one.
const RETRY_EVERY: u32 = 20;
/// The rarest trial.
const RAREST_RETRY: u32 = 1000;
/// So many pages in a row that could not be read as they came are enough.
const UNREADABLE_PAGES: u32 = 3;

/// How pages of one shape are loaded for one phase, and why.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    mode: Mode,
    /// Pages that gave the same both ways since the last difference.
    agreed: u32,
    /// Pages that could not be read as they came, in a row.
    unreadable: u32,
    /// Whether the pages are loaded because they could not be read, so that one that can changes that.
    is_unreadable: bool,
    /// Whether a page is being tried again. One that was under way before says nothing.
    is_retrying: bool,
    /// Pages since the last trial, in the modes that do not try each page.
    since_trial: u32,
    seen: RenderDecision,
    has_changed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Trial,
    Static,
    Full,
}

impl Verdict {
    /// How the next page is loaded, as far as this phase is concerned.
    pub(super) fn next(&mut self, render: Render) -> Course {
        if render == Render::Static && self.mode == Mode::Trial {
            // As the workflow says, without a trial.
            self.decide(Mode::Static, "the workflow says so".to_owned());
        }
        let every = match self.mode {
            Mode::Trial => return Course::Both,
            Mode::Static => CHECK_EVERY,
            Mode::Full => (RETRY_EVERY << self.differences().min(8)).min(RAREST_RETRY),
        };
        self.since_trial += 1;
        let is_due = self.since_trial >= every;
        if is_due {
            self.since_trial = 0;
            self.is_retrying = self.mode == Mode::Full;
        }
        match (self.mode, render, is_due) {
            (Mode::Full, Render::Static, true) | (Mode::Static, _, false) | (_, Render::Static, true) => {
                Course::Static
            }
            (Mode::Full, _, false) => Course::Full,
            (_, _, true) | (Mode::Trial, _, _) => Course::Both,
        }
    }

    /// Counts a page, as it was decided for all phases together.
    pub(super) fn count(&mut self, course: Course) {
        if course != Course::Static {
            self.seen.full_pages += 1;
            self.has_changed = true;
        }
    }

    /// Notes that a page was read as it came, or why not.
    pub(super) fn was_read(&mut self, read: Result<(), &String>) {
        self.has_changed = true;
        match read {
            Ok(()) => {
                self.seen.static_pages += 1;
                self.unreadable = 0;
                if self.mode == Mode::Full && self.is_unreadable && self.is_retrying {
                    self.decide(Mode::Static, "a page could be read as it came again".to_owned());
                }
            }
            Err(reason) => {
                self.seen.full_pages += 1;
                self.unreadable += 1;
                if self.unreadable >= UNREADABLE_PAGES && self.mode == Mode::Static {
                    self.seen.disagreed += 1;
                    let pages = self.unreadable;
                    self.decide(Mode::Full, format!("{pages} pages in a row: {reason}"));
                    self.is_unreadable = true;
                } else if self.mode == Mode::Static {
                    self.seen.reason = format!("{}; but one page: {reason}", self.basis());
                }
            }
        }
    }

    /// Notes whether a page gave the same both ways, or what differed.
    pub(super) fn was_compared(&mut self, same: Result<(), String>) {
        self.has_changed = true;
        self.seen.compared += 1;
        match same {
            Ok(()) if self.mode == Mode::Full && !self.is_retrying => {}
            Ok(()) => {
                self.agreed += 1;
                let needed = (TRIAL_PAGES << self.differences().min(8)).min(LONGEST_TRIAL);
                if self.mode == Mode::Full {
                    self.mode = Mode::Trial;
                }
                if self.agreed >= needed {
                    self.decide(Mode::Static, self.basis());
                } else {
                    self.seen.reason =
                        format!("on trial: {} of {needed} pages gave the same both ways", self.agreed);
                }
            }
            Err(difference) => {
                self.agreed = 0;
                self.seen.disagreed += 1;
                self.decide(Mode::Full, difference);
            }
        }
    }

    /// What is known, if it has changed since this was last asked. Phase and shape are left blank.
    pub(super) fn take_change(&mut self) -> Option<RenderDecision> {
        let has_changed = std::mem::take(&mut self.has_changed);
        if self.seen.reason.is_empty() {
            self.seen.reason = "on trial: no page was compared yet".to_owned();
        }
        has_changed.then(|| self.seen.clone())
    }

    fn basis(&self) -> String {
        match self.agreed {
            0 => "the workflow says so".to_owned(),
            agreed => format!("{agreed} pages gave the same both ways"),
        }
    }

    fn decide(&mut self, mode: Mode, reason: String) {
        if self.mode != mode {
            self.since_trial = 0;
        }
        (self.is_unreadable, self.is_retrying, self.unreadable) = (false, false, 0);
        self.mode = mode;
        self.seen.mode = if mode == Mode::Static { Rendered::Static } else { Rendered::Full };
        self.seen.reason = reason;
        self.has_changed = true;
    }

    fn differences(&self) -> u32 {
        u32::try_from(self.seen.disagreed).unwrap_or(u32::MAX)
    }
}
