//! Figures beside their targets.

use std::fmt;

/// What was measured, line by line.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    what: String,
    measured: String,
    /// The target in words, and whether it was met; `None` for a figure without one.
    target: Option<(String, bool)>,
}

impl Verdicts {
    /// Notes a figure.
    pub(crate) fn figure(&mut self, what: &str, measured: impl fmt::Display) {
        self.lines.push(Line { what: what.to_owned(), measured: measured.to_string(), target: None });
    }

    /// Notes a figure that must be at least so much.
    pub(crate) fn at_least(&mut self, what: &str, measured: f64, target: f64) {
        self.judge(what, measured, format!("at least {target}"), measured >= target);
    }

    /// Notes a figure that must be at most so much.
    pub(crate) fn at_most(&mut self, what: &str, measured: f64, target: f64) {
        self.judge(what, measured, format!("at most {target}"), measured <= target);
    }

    fn judge(&mut self, what: &str, measured: f64, target: String, is_met: bool) {
        let measured =
            if measured.abs() < 10.0 { format!("{measured:.3}") } else { format!("{measured:.0}") };
        self.lines.push(Line { what: what.to_owned(), measured, target: Some((target, is_met)) });
    }

    /// Whether no target was missed.
    pub(crate) fn all_met(&self) -> bool {
        self.lines.iter().all(|line| line.target.as_ref().is_none_or(|(_, is_met)| *is_met))
    }
}

impl fmt::Display for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Line { what, measured, target } in &self.lines {
            write!(f, "{what:<66} {measured:>12}")?;
            match target {
                Some((target, true)) => writeln!(f, "   met: {target}")?,
                Some((target, false)) => writeln!(f, "   MISSED: {target}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}
