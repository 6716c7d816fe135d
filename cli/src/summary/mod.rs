//! The last words of `crawlify run`: what the execution did, as text. It reads nothing and measures nothing.

mod renders;
mod skips;

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};

use crate::printable::one_line;
use crate::progress::clock;
pub use renders::{RenderRow, Renders};
pub use skips::SkipRow;

const SLOWEST_NODES: usize = 5;
const ERROR_GROUPS: usize = 3;
const MESSAGE_CHARACTERS: usize = 120;
const NAME_CHARACTERS: usize = 48;

/// What there is to say about an execution that has ended.
#[derive(Clone, Debug, Default)]
pub struct RunSummary {
    /// How it ended, in the words of its status: `completed`, `cancelled` ...
    pub status: String,
    /// Why it ended, for people: `every page has ended`, `interrupted` ...
    pub finish_reason: String,
    /// From start to end.
    pub duration: Duration,
    /// Pages by result, such as `completed`; those with a count of 0 are not shown.
    pub pages: Vec<(String, u64)>,
    /// URLs that are known and were not visited, by reason.
    pub skips: Vec<SkipRow>,
    /// Items extracted.
    pub items: u64,
    /// How many pages took so many attempts: (attempts, pages).
    pub attempts: Vec<(u32, u64)>,
    /// Every node that ran; the slowest are shown.
    pub nodes: Vec<NodeTiming>,
    /// How pages were loaded.
    pub renders: Renders,
    /// Failures of pages and of nodes, grouped; the most frequent are shown.
    pub errors: Vec<ErrorGroup>,
    /// The file that was written.
    pub output: Option<OutputFile>,
    /// How to look further, a line each.
    pub look_further: Vec<String>,
}

/// How long the runs of a node took.
#[derive(Clone, Debug)]
pub struct NodeTiming {
    /// The node's id.
    pub node_id: String,
    /// Its type.
    pub node_type: String,
    /// How often it ran.
    pub runs: u64,
    /// How many of the runs failed.
    pub failed: u64,
    /// On average; `None` where nothing was timed.
    pub mean: Option<Duration>,
    /// Of 20 runs, 19 took at most about this long.
    pub p95: Option<Duration>,
}

/// Failures with the same message.
#[derive(Clone, Debug)]
pub struct ErrorGroup {
    /// The class of the failure, as in rows.
    pub class: Option<String>,
    /// What the user reads.
    pub message: String,
    /// How many.
    pub count: u64,
    /// One page where it happened.
    pub sample_url: Option<String>,
}

/// The file that was written.
#[derive(Clone, Debug)]
pub struct OutputFile {
    /// Where it is.
    pub path: PathBuf,
    /// How large it is.
    pub bytes: u64,
}

/// The summary as text of several lines, the last one with its line feed.
pub fn render(summary: &RunSummary) -> String {
    let mut text = format!(
        "{} in {}: {}\n\n",
        one_line(&summary.status, NAME_CHARACTERS),
        clock(summary.duration),
        one_line(&summary.finish_reason, MESSAGE_CHARACTERS)
    );
    figures(&mut text, summary);
    slowest_nodes(&mut text, &summary.nodes);
    renders::renders(&mut text, &summary.renders);
    skips::skips(&mut text, &summary.skips);
    frequent_errors(&mut text, &summary.errors);
    if !summary.look_further.is_empty() {
        text.push_str("\n  look further\n");
        for line in &summary.look_further {
            // Ours, and often long commands: shown as they are, fit to be copied.
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

fn figures(text: &mut String, summary: &RunSummary) {
    let mut table = table();
    table.add_row(["pages".to_owned(), pages(summary)]);
    table.add_row(["items".to_owned(), summary.items.to_string()]);
    if !summary.attempts.is_empty() {
        table.add_row(["attempts".to_owned(), attempts(&summary.attempts)]);
    }
    if let Some(output) = &summary.output {
        let path = one_line(&output.path.display().to_string(), 400);
        table.add_row(["output".to_owned(), format!("{path} ({})", size(output.bytes))]);
    }
    push(text, &table);
}

fn pages(summary: &RunSummary) -> String {
    let shown: Vec<String> = summary
        .pages
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(result, count)| format!("{count} {}", one_line(result, NAME_CHARACTERS)))
        .collect();
    if shown.is_empty() {
        return "none".to_owned();
    }
    // Skipped and cancelled pages cost no time.
    let loaded = summary.pages.iter().filter(|(result, _)| matches!(result.as_str(), "completed" | "failed"));
    let total: u64 = loaded.map(|(_, count)| count).sum();
    let seconds = summary.duration.as_secs_f64();
    let rate = if seconds >= 1.0 {
        format!(" · {:.0} p/min", total as f64 / seconds * 60.0)
    } else {
        String::new()
    };
    format!("{}{rate}", shown.join(" · "))
}

/// `997 pages took 1 · 2 took 2 · 1 took 4`
fn attempts(histogram: &[(u32, u64)]) -> String {
    let shown = histogram.iter().enumerate().map(|(index, (attempts, pages))| match (index, pages) {
        (0, 1) => format!("1 page took {attempts}"),
        (0, _) => format!("{pages} pages took {attempts}"),
        _ => format!("{pages} took {attempts}"),
    });
    shown.collect::<Vec<_>>().join(" · ")
}

fn slowest_nodes(text: &mut String, nodes: &[NodeTiming]) {
    let mut timed: Vec<&NodeTiming> = nodes.iter().filter(|node| node.mean.is_some()).collect();
    if timed.is_empty() {
        return;
    }
    // The sort is stable: of equally slow nodes the one that runs first comes first.
    timed.sort_by_key(|node| std::cmp::Reverse(node.mean));
    let mut table = table();
    table.set_header(["slowest nodes", "type", "runs", "failed", "mean", "p95"]);
    for node in timed.into_iter().take(SLOWEST_NODES) {
        table.add_row([
            one_line(&node.node_id, NAME_CHARACTERS),
            one_line(&node.node_type, NAME_CHARACTERS),
            node.runs.to_string(),
            node.failed.to_string(),
            node.mean.map_or_else(String::new, short),
            node.p95.map_or_else(String::new, short),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    text.push('\n');
    push(text, &table);
}

fn frequent_errors(text: &mut String, errors: &[ErrorGroup]) {
    if errors.is_empty() {
        return;
    }
    let mut errors: Vec<&ErrorGroup> = errors.iter().collect();
    errors.sort_by_key(|group| std::cmp::Reverse(group.count));
    text.push_str("\n  errors\n");
    for group in errors.iter().take(ERROR_GROUPS) {
        let class = group.class.as_deref().map_or_else(String::new, |class| format!("{class}: "));
        let message = one_line(&format!("{class}{}", group.message), MESSAGE_CHARACTERS);
        let _ = writeln!(text, "  {:>5} × {message}", group.count);
        if let Some(url) = &group.sample_url {
            let _ = writeln!(text, "          {}", one_line(url, 400));
        }
    }
    if errors.len() > ERROR_GROUPS {
        let rest: u64 = errors[ERROR_GROUPS..].iter().map(|group| group.count).sum();
        let _ = writeln!(text, "  {rest:>5} × others");
    }
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table
}

/// Tables pad their last column; lines of ours do not end with spaces.
fn push(text: &mut String, table: &Table) {
    for line in table.lines() {
        let _ = writeln!(text, " {}", line.trim_end());
    }
}

/// A duration in the unit that suits it.
fn short(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..100_000 => format!("{:.1} ms", micros as f64 / 1e3),
        100_000..1_000_000 => format!("{} ms", micros / 1_000),
        1_000_000..100_000_000 => format!("{:.1} s", micros as f64 / 1e6),
        _ => clock(duration),
    }
}

/// A size in the unit that suits it (1 kB is 1000 bytes).
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node_id: &str, mean_us: u64, failed: u64) -> NodeTiming {
        NodeTiming {
            node_id: node_id.to_owned(),
            node_type: "extract".to_owned(),
            runs: 715,
            failed,
            mean: Some(Duration::from_micros(mean_us)),
            p95: Some(Duration::from_micros(mean_us * 2)),
        }
    }

    fn error(message: &str, count: u64) -> ErrorGroup {
        ErrorGroup {
            class: Some("http_5xx".to_owned()),
            message: message.to_owned(),
            count,
            sample_url: Some(format!("http://shop.test/{count}")),
        }
    }

    #[test]
    fn the_summary_of_a_good_run_is_complete() {
        let summary = RunSummary {
            status: "completed".to_owned(),
            finish_reason: "every page has ended".to_owned(),
            duration: Duration::from_secs(65),
            pages: vec![("completed".to_owned(), 712), ("failed".to_owned(), 3), ("skipped".to_owned(), 0)],
            skips: vec![],
            items: 712,
            attempts: vec![(1, 710), (2, 2), (4, 3)],
            nodes: vec![
                node("wait_for_page_load", 7_400, 0),
                node("a", 100, 0),
                node("b", 300, 2),
                node("c", 200, 0),
                node("d", 50, 0),
                node("e", 1_500_000, 0),
            ],
            renders: Renders::default(),
            errors: vec![],
            output: Some(OutputFile { path: "books.jsonl".into(), bytes: 1_234_567 }),
            look_further: vec!["psql postgres:///crawlify?host=/tmp/x".to_owned()],
        };
        let expected = "\
completed in 1:05: every page has ended

  pages     712 completed · 3 failed · 660 p/min
  items     712
  attempts  710 pages took 1 · 2 took 2 · 3 took 4
  output    books.jsonl (1.2 MB)

  slowest nodes       type     runs  failed    mean      p95
  e                   extract   715       0   1.5 s    3.0 s
  wait_for_page_load  extract   715       0  7.4 ms  14.8 ms
  b                   extract   715       2  300 µs   600 µs
  c                   extract   715       0  200 µs   400 µs
  a                   extract   715       0  100 µs   200 µs

  look further
  psql postgres:///crawlify?host=/tmp/x
";
        assert_eq!(render(&summary), expected);
    }

    #[test]
    fn the_most_frequent_errors_come_first_with_a_sample() {
        let summary = RunSummary {
            status: "completed".to_owned(),
            errors: vec![error("one", 1), error("seven\nlines", 7), error("three", 3), error("two", 2)],
            ..RunSummary::default()
        };
        let text = render(&summary);
        let expected = "
  errors
      7 × http_5xx: seven lines
          http://shop.test/7
      3 × http_5xx: three
          http://shop.test/3
      2 × http_5xx: two
          http://shop.test/2
      1 × others
";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn a_run_without_anything_is_told_briefly() {
        let summary = RunSummary {
            status: "cancelled".to_owned(),
            finish_reason: "interrupted".to_owned(),
            ..RunSummary::default()
        };
        assert_eq!(render(&summary), "cancelled in 0:00: interrupted\n\n  pages  none\n  items  0\n");
    }

    #[test]
    fn text_from_pages_cannot_command_the_terminal() {
        let summary = RunSummary { errors: vec![error("\u{1b}[2J\u{7}gone", 1)], ..RunSummary::default() };
        assert!(!render(&summary).contains(['\u{1b}', '\u{7}']));
    }

    #[test]
    fn durations_and_sizes_have_fitting_units() {
        assert_eq!(short(Duration::from_micros(999)), "999 µs");
        assert_eq!(short(Duration::from_millis(150)), "150 ms");
        assert_eq!(short(Duration::from_secs(100)), "1:40");
        assert_eq!(size(999), "999 B");
        assert_eq!(size(12_345), "12.3 kB");
    }
}
