//! What all rounds came to, as tables that can be read in a terminal and in a Markdown document alike, and as JSON.

use std::fmt::{self, Write};

use chrono::{DateTime, Utc};
use harness::bench::machine::Machine;
use harness::bench::median;
use serde::Serialize;
use serde_json::{Value, json};

use crate::parts::Part;
use crate::watch::Measured;

/// What is measured in each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Series {
    /// A whole crawl, its pages loaded in this mode.
    Crawl(&'static str),
    /// The same pages, only navigated to.
    Bare,
}

/// Every run, and where it was made.
#[derive(Debug)]
pub(crate) struct Report {
    date: DateTime<Utc>,
    machine: Machine,
    settings: Value,
    runs: Vec<Run>,
    /// Criterion's figures.
    pub(crate) parts: Vec<Part>,
}

#[derive(Debug)]
struct Run {
    round: u16,
    series: Series,
    measured: Measured,
}

/// One line of the table.
struct Figure {
    name: String,
    value: f64,
    decimals: usize,
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crawl(mode) => write!(f, "crawl, {mode}"),
            Self::Bare => f.write_str("bare Chrome"),
        }
    }
}

impl Report {
    pub(crate) fn new(machine: Machine, settings: Value) -> Self {
        Self { date: Utc::now(), machine, settings, runs: Vec::new(), parts: Vec::new() }
    }

    pub(crate) fn add(&mut self, round: u16, series: Series, mut measured: Measured) {
        measured.outcome.urls.clear();
        self.runs.push(Run { round, series, measured });
    }

    /// Tables, with what was measured, where and when.
    pub(crate) fn for_people(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, to: &mut String) -> fmt::Result {
        writeln!(to, "{}, on {}.\n", self.date.format("%Y-%m-%d"), self.machine)?;
        let setting = |name: &str| self.settings[name].to_string().replace('"', "");
        writeln!(
            to,
            "Crawls of {} with the workflow \"{}\" ({} nodes), {} slots, everything recorded in a private Postgres \
             with fsync; medians of {} round(s).{}",
            setting("site"),
            setting("workflow"),
            setting("nodes"),
            setting("slots"),
            setting("rounds"),
            match self.settings["block"].as_array() {
                Some(block) if !block.is_empty() => format!(" The crawls do not load: {}.", setting("block")),
                _ => String::new(),
            }
        )?;
        let programs = self.runs.iter().find_map(|run| run.measured.outcome.crawl.as_ref());
        if let Some(crawl) = programs {
            writeln!(to, "{}.", crawl.parts.join("; "))?;
        }
        writeln!(
            to,
            "Ours is one process: coordinator, broker and worker; of bare Chrome, the worker's driver alone. Seconds \
             are from the first claim to the last page's end, and CPU without the starts of programs.\n"
        )?;
        self.write_table(to)?;
        for (series, note) in self.notes() {
            writeln!(to, "\n{series}: {note}.")?;
        }
        if !self.parts.is_empty() {
            writeln!(to, "\nThe parts of a crawl, each by itself (`tests/benches/parts`), medians:\n")?;
            write_parts(&self.parts, to)?;
        }
        Ok(())
    }

    fn write_table(&self, to: &mut String) -> fmt::Result {
        let series = self.series();
        let columns: Vec<Vec<Figure>> = series.iter().map(|series| self.medians(*series)).collect();
        let mut names: Vec<&str> = Vec::new();
        for column in &columns {
            // A figure that earlier columns lack comes behind the one that it follows in its own.
            let mut place = 0;
            for figure in column {
                place = match names.iter().position(|name| *name == figure.name) {
                    Some(known) => known + 1,
                    None => {
                        names.insert(place, &figure.name);
                        place + 1
                    }
                };
            }
        }
        let mut rows = vec![vec![String::new()]];
        rows[0].extend(series.iter().map(|series| self.heading(*series)));
        for name in names {
            let mut row = vec![name.to_owned()];
            for column in &columns {
                let figure = column.iter().find(|figure| figure.name == name);
                row.push(figure.map_or(String::new(), |f| format!("{:.*}", f.decimals, f.value)));
            }
            rows.push(row);
        }
        write_rows(&rows, to)
    }

    /// Each series once, crawls first.
    fn series(&self) -> Vec<Series> {
        let mut series: Vec<Series> = Vec::new();
        for run in &self.runs {
            if !series.contains(&run.series) {
                series.push(run.series);
            }
        }
        series.sort_by_key(|series| *series == Series::Bare);
        series
    }

    /// A column's; it must not look like what it is not.
    fn heading(&self, series: Series) -> String {
        let mut crawls = self.runs_of(series).filter_map(|run| run.measured.outcome.crawl.as_ref());
        let differs = crawls.any(|crawl| !crawl.is_as_asked);
        format!("{series}{}", if differs { " (not as asked)" } else { "" })
    }

    fn runs_of(&self, series: Series) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.series == series)
    }

    /// Each figure's median over the rounds. The ratio is the median of the rounds' ratios.
    fn medians(&self, series: Series) -> Vec<Figure> {
        let slots = self.settings["slots"].as_f64().unwrap_or(1.0);
        let rounds: Vec<Vec<Figure>> = self
            .runs_of(series)
            .map(|run| {
                let mut figures = figures(&run.measured, slots);
                let bare = self.runs_of(Series::Bare).find(|bare| bare.round == run.round);
                if let Some(bare) = bare {
                    let rate = run.measured.outcome.pages_a_second();
                    let value = rate / bare.measured.outcome.pages_a_second();
                    figures.insert(2, figure("pages/s, against bare Chrome", value, 3));
                }
                figures
            })
            .collect();
        let mut medians: Vec<Figure> = Vec::new();
        for Figure { name, decimals, .. } in rounds.iter().flatten() {
            if medians.iter().all(|known| known.name != *name) {
                let same = rounds.iter().flatten().filter(|figure| figure.name == *name);
                medians.push(figure(name, median(same.map(|figure| figure.value)), *decimals));
            }
        }
        medians
    }

    /// What the runs want to be known, each once.
    fn notes(&self) -> Vec<(Series, &str)> {
        let mut notes = Vec::new();
        for run in &self.runs {
            for note in &run.measured.outcome.notes {
                if !notes.contains(&(run.series, note.as_str())) {
                    notes.push((run.series, note.as_str()));
                }
            }
        }
        notes
    }

    /// Every figure of every round.
    pub(crate) fn for_machines(&self) -> impl Serialize {
        let runs = self.runs.iter().map(
            |run| json!({"round": run.round, "series": run.series.to_string(), "measured": run.measured}),
        );
        let medians = self.series().into_iter().map(|series| {
            let figures = self.medians(series).into_iter().map(|figure| (figure.name, figure.value.into()));
            (series.to_string(), Value::Object(figures.collect()))
        });
        json!({
            "date": self.date, "machine": self.machine, "settings": self.settings,
            "medians": Value::Object(medians.collect()), "runs": runs.collect::<Vec<_>>(), "parts": self.parts,
        })
    }
}

/// The lines of the table for one run, in order.
fn figures(measured: &Measured, slots: f64) -> Vec<Figure> {
    let Measured { outcome, cpu_seconds: cpu, memory } = measured;
    let pages = outcome.pages as f64;
    let mut figures = vec![
        figure("pages", pages, 0),
        figure("pages/s", outcome.pages_a_second(), 2),
        figure("pages given up", outcome.failed as f64, 0),
        figure("seconds", outcome.seconds, 2),
        figure("ms of a slot for a page", outcome.seconds * slots * 1000.0 / pages, 2),
    ];
    if let Some(crawl) = &outcome.crawl {
        for (step, took) in &crawl.steps_ms {
            // `turn` is the label of the metric; people read what it is.
            let step = if step == "turn" { "wait for the host" } else { step };
            figures.push(figure(&format!("ms of a page: {step}"), *took, 2));
        }
        figures.push(figure("nodes of a page", crawl.nodes_a_page, 2));
        figures.push(figure("ms of a page's nodes, by their rows", crawl.node_times_ms, 2));
        let nodes_step = crawl.steps_ms.iter().find(|(step, _)| step == "nodes");
        if let Some((_, took)) = nodes_step {
            figures.push(figure("ms of a node (step `nodes` / nodes)", took / crawl.nodes_a_page, 3));
        }
        figures.push(figure("node rows/s", crawl.node_rows as f64 / outcome.seconds, 0));
        figures.push(figure("bytes of a node's record, with indexes", crawl.record_bytes as f64, 0));
        figures.push(figure("items", crawl.items as f64, 0));
        if let Some(pages) = crawl.read_statically {
            figures.push(figure("pages read statically", pages as f64, 0));
        }
    }
    let a_page = |seconds: f64| seconds * 1000.0 / pages;
    // Of a crawl: coordinator, broker and worker. Of the bare browser: the driver.
    figures.push(figure("CPU ms of a page: ours", a_page(cpu.ours), 2));
    figures.push(figure("CPU ms of a page: Chrome", a_page(cpu.chrome), 2));
    if outcome.crawl.is_some() {
        figures.push(figure("CPU ms of a page: Postgres", a_page(cpu.postgres), 2));
    }
    figures.push(figure("CPU ms of a page: the site", a_page(cpu.site), 2));
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    figures.push(figure("MiB, ours, peak (VmHWM)", mebibytes(memory.ours_peak), 0));
    figures.push(figure("MiB, Chrome, peak (sum of RSS)", mebibytes(memory.chrome_peak), 0));
    if let Some(early) = memory.chrome_early {
        figures.push(figure("MiB, Chrome after 500 pages (RSS)", mebibytes(early), 0));
    }
    figures.push(figure("MiB, Chrome at the end (RSS)", mebibytes(memory.chrome_end), 0));
    figures.push(figure("MiB, Chrome at the end (PSS)", mebibytes(memory.chrome_end_proportional), 0));
    figures
}

fn figure(name: &str, value: f64, decimals: usize) -> Figure {
    Figure { name: name.to_owned(), value, decimals }
}

fn write_parts(parts: &[Part], to: &mut String) -> fmt::Result {
    let mut rows = vec![["part", "time", "elements/s"].map(str::to_owned).to_vec()];
    for part in parts {
        let rate = part.rate().map_or(String::new(), |rate| format!("{rate:.0}"));
        rows.push(vec![part.name.clone(), part.time(), rate]);
    }
    write_rows(&rows, to)
}

/// A Markdown table, its columns as wide as they must be; the first row is the head.
fn write_rows(rows: &[Vec<String>], to: &mut String) -> fmt::Result {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(4);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for (number, row) in rows.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            match column {
                0 => write!(to, "| {cell:<width$} |")?,
                _ => write!(to, " {cell:>width$} |")?,
            }
        }
        writeln!(to)?;
        if number == 0 {
            write!(to, "|{}|", "-".repeat(widths[0] + 2))?;
            for width in &widths[1..] {
                write!(to, "{}:|", "-".repeat(width + 1))?;
            }
            writeln!(to)?;
        }
    }
    Ok(())
}
