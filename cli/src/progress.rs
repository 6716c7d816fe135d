//! What `crawlify run` shows while it runs, on stderr: two lines that change in place on a terminal, one line every ten
//! seconds elsewhere. It is told figures and asks for none.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::printable::one_line;

/// How often a line is written where stderr is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Rates and remaining times are guesses before this.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
const ERROR_CHARACTERS: usize = 160;

/// How far an execution has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgressSnapshot {
    /// Pages that have ended, well or badly.
    pub pages_done: u64,
    /// Pages in the frontier, the ended ones included.
    pub pages_known: u64,
    /// Pages in workers' hands.
    pub pages_processing: u64,
    /// Items extracted.
    pub items: u64,
    /// Pages given up.
    pub failed: u64,
    /// Since the start.
    pub elapsed: Duration,
    /// Whether more pages may still be found, so that `pages_known` is only a lower bound.
    pub frontier_growing: bool,
    /// The last failure, for people.
    pub last_error: Option<String>,
}

/// The line of figures: `pages 184/≥240 · items 1902 · failed 3 · 212 p/min · ETA ≥ 0:16`.
pub fn progress_line(snapshot: &ProgressSnapshot) -> String {
    let known = snapshot.pages_known.max(snapshot.pages_done);
    let bound = if snapshot.frontier_growing { "≥" } else { "" };
    let mut line = format!(
        "pages {}/{bound}{known} · items {} · failed {}",
        snapshot.pages_done, snapshot.items, snapshot.failed
    );
    if snapshot.elapsed < SETTLED_AFTER || snapshot.pages_done == 0 {
        return line;
    }
    let pages_per_second = snapshot.pages_done as f64 / snapshot.elapsed.as_secs_f64();
    line.push_str(&format!(" · {:.0} p/min", pages_per_second * 60.0));
    let remaining = known - snapshot.pages_done;
    if remaining > 0 {
        let seconds = (remaining as f64 / pages_per_second).ceil() as u64;
        let bound = if snapshot.frontier_growing { "≥ " } else { "" };
        line.push_str(&format!(" · ETA {bound}{}", clock(Duration::from_secs(seconds))));
    }
    line
}

/// A duration as `0:16`, `12:05` or `1:02:03`.
pub fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// Shows snapshots until it is finished or dropped.
pub struct ProgressDisplay {
    target: Target,
}

enum Target {
    Silent,
    Terminal(Bars),
    Lines(Lines<io::Stderr>),
}

impl ProgressDisplay {
    /// Shows on stderr, in the way that stderr allows.
    pub fn on_stderr() -> Self {
        // A dumb terminal cannot go back to the start of a line.
        let dumb = crawlify_shared::config::variable("TERM").is_some_and(|term| term == "dumb");
        if io::stderr().is_terminal() && !dumb {
            let colour = crawlify_shared::config::variable("NO_COLOR").is_none();
            Self { target: Target::Terminal(Bars::new(colour)) }
        } else {
            Self { target: Target::Lines(Lines::new(io::stderr())) }
        }
    }

    /// Shows nothing, for `--quiet`.
    pub fn silent() -> Self {
        Self { target: Target::Silent }
    }

    /// Shows how far it is now. Call it as often as there is news; it limits the output itself.
    pub fn update(&mut self, snapshot: &ProgressSnapshot) {
        match &mut self.target {
            Target::Silent => {}
            Target::Terminal(bars) => bars.update(snapshot),
            Target::Lines(lines) => lines.update(snapshot, Instant::now()),
        }
    }

    /// Writes a line that stays, above the changing ones.
    pub fn note(&mut self, text: &str) {
        match &mut self.target {
            Target::Silent => {}
            // A terminal that went away is no reason to stop crawling.
            Target::Terminal(bars) => drop(bars.all.println(text)),
            Target::Lines(lines) => lines.write(text),
        }
    }

    /// Removes the changing lines, so that a summary can follow.
    pub fn finish(self) {
        if let Target::Terminal(bars) = &self.target {
            drop(bars.all.clear());
        }
    }
}

/// The two changing lines of a terminal.
struct Bars {
    all: MultiProgress,
    pages: ProgressBar,
    error: ProgressBar,
}

impl Bars {
    fn new(colour: bool) -> Self {
        let all = MultiProgress::new();
        let pages = all.add(ProgressBar::new(0));
        let (bar, red) =
            if colour { ("{bar:10.cyan/dim}", "{wide_msg:.red}") } else { ("{bar:10}", "{wide_msg}") };
        pages.set_style(style(&format!("{{spinner}} {bar} {{wide_msg}}")));
        // It moves although no page ends, so that one sees that the program lives.
        pages.enable_steady_tick(Duration::from_millis(200));
        let error = all.add(ProgressBar::new_spinner());
        error.set_style(style(red));
        Self { all, pages, error }
    }

    fn update(&mut self, snapshot: &ProgressSnapshot) {
        self.pages.set_length(snapshot.pages_known.max(snapshot.pages_done));
        self.pages.set_position(snapshot.pages_done);
        self.pages.set_message(progress_line(snapshot));
        if let Some(error) = &snapshot.last_error {
            self.error.set_message(error_line(error));
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}

fn error_line(error: &str) -> String {
    format!("last error: {}", one_line(error, ERROR_CHARACTERS))
}

/// Lines for files and pipes.
struct Lines<W> {
    out: W,
    last_at: Option<Instant>,
    last_error: Option<String>,
}

impl<W: Write> Lines<W> {
    fn new(out: W) -> Self {
        Self { out, last_at: None, last_error: None }
    }

    fn update(&mut self, snapshot: &ProgressSnapshot, now: Instant) {
        if self.last_at.is_some_and(|last| now.duration_since(last) < LINE_EVERY) {
            return;
        }
        self.last_at = Some(now);
        self.write(&progress_line(snapshot));
        // An error is written once, however long it stays the last one.
        if let Some(error) =
            snapshot.last_error.as_deref().filter(|new| self.last_error.as_deref() != Some(*new))
        {
            self.last_error = Some(error.to_owned());
            self.write(&error_line(error));
        }
    }

    /// A reader of stderr that went away is no reason to stop crawling.
    fn write(&mut self, line: &str) {
        drop(writeln!(self.out, "{line}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> ProgressSnapshot {
        ProgressSnapshot {
            pages_done: 184,
            pages_known: 240,
            pages_processing: 4,
            items: 1902,
            failed: 3,
            elapsed: Duration::from_secs(52),
            frontier_growing: true,
            last_error: None,
        }
    }

    #[test]
    fn a_growing_frontier_gives_lower_bounds() {
        assert_eq!(
            progress_line(&snapshot()),
            "pages 184/≥240 · items 1902 · failed 3 · 212 p/min · ETA ≥ 0:16"
        );
    }

    #[test]
    fn a_known_end_is_told_as_such() {
        let snapshot = ProgressSnapshot { frontier_growing: false, ..snapshot() };
        assert_eq!(progress_line(&snapshot), "pages 184/240 · items 1902 · failed 3 · 212 p/min · ETA 0:16");
    }

    #[test]
    fn no_rate_is_guessed_at_the_start_and_no_rest_at_the_end() {
        let start = ProgressSnapshot { elapsed: Duration::from_millis(900), ..snapshot() };
        assert_eq!(progress_line(&start), "pages 184/≥240 · items 1902 · failed 3");
        let none_done = ProgressSnapshot { pages_done: 0, ..snapshot() };
        assert_eq!(progress_line(&none_done), "pages 0/≥240 · items 1902 · failed 3");
        let end = ProgressSnapshot { pages_done: 240, frontier_growing: false, ..snapshot() };
        assert_eq!(progress_line(&end), "pages 240/240 · items 1902 · failed 3 · 277 p/min");
    }

    #[test]
    fn more_pages_ended_than_known_is_shown_without_nonsense() {
        let snapshot = ProgressSnapshot { pages_known: 180, ..snapshot() };
        assert!(progress_line(&snapshot).starts_with("pages 184/≥184 "));
    }

    #[test]
    fn clocks_grow_with_the_duration() {
        assert_eq!(clock(Duration::from_secs(5)), "0:05");
        assert_eq!(clock(Duration::from_secs(725)), "12:05");
        assert_eq!(clock(Duration::from_secs(3723)), "1:02:03");
    }

    #[test]
    fn without_a_terminal_there_is_one_line_in_ten_seconds_and_each_error_once() {
        let mut lines = Lines::new(Vec::new());
        let start = Instant::now();
        let failing =
            ProgressSnapshot { last_error: Some("dns:\nno such host\u{1b}[2J".to_owned()), ..snapshot() };
        for second in 0..25 {
            lines.update(&failing, start + Duration::from_secs(second));
        }
        let text = String::from_utf8(lines.out).unwrap();
        let written: Vec<&str> = text.lines().collect();
        assert_eq!(written.len(), 4, "{text}");
        assert_eq!(written[1], "last error: dns: no such host\u{FFFD}[2J");
        assert!(written[2].starts_with("pages ") && written[3].starts_with("pages "));
    }

    #[test]
    fn the_templates_of_the_terminal_are_valid() {
        for colour in [true, false] {
            let mut bars = Bars::new(colour);
            bars.update(&ProgressSnapshot { last_error: Some("x".to_owned()), ..snapshot() });
            assert_eq!(bars.pages.length(), Some(240));
            assert_eq!(bars.pages.position(), 184);
            assert_eq!(bars.error.message(), "last error: x");
        }
        for template in ["{spinner} {bar:10.cyan/dim} {wide_msg}", "{wide_msg:.red}"] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
