//! Reads what criterion has measured of the parts of a crawl, from the files that it leaves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// Older figures are of benchmarks that have another name by now.
const NEWEST: Duration = Duration::from_secs(60 * 60);

/// One benchmark's figures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Part {
    /// `group/function`.
    pub(crate) name: String,
    /// What an iteration takes, by the median of all samples, in nanoseconds.
    pub(crate) nanoseconds: f64,
    /// Elements (URLs, pages, rows) of an iteration.
    pub(crate) elements: Option<u64>,
}

#[derive(Deserialize)]
struct Benchmark {
    full_id: String,
    throughput: Option<Throughput>,
}

#[derive(Deserialize)]
enum Throughput {
    Elements(u64),
    Bytes(#[allow(dead_code, reason = "the kind must be known, its figure is not shown")] u64),
}

#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
}

/// Reads every benchmark that was measured within the last hour, by name.
///
/// # Errors
/// There is none, or a file is not as criterion writes it.
pub(crate) fn read(folder: &Path) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() && path.file_name().is_some_and(|name| name == "new") {
                parts.extend(part(&path)?);
            } else if path.is_dir() {
                folders.push(path);
            }
        }
    }
    ensure!(!parts.is_empty(), "{} has no figures of the last hour", folder.display());
    parts.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(parts)
}

fn part(folder: &Path) -> Result<Option<Part>> {
    let written = std::fs::metadata(folder.join("estimates.json"))?.modified()?;
    if written.elapsed().is_ok_and(|age| age > NEWEST) {
        return Ok(None);
    }
    let benchmark: Benchmark = json(&folder.join("benchmark.json"))?;
    let estimates: Estimates = json(&folder.join("estimates.json"))?;
    let elements = match benchmark.throughput {
        Some(Throughput::Elements(elements)) => Some(elements),
        Some(Throughput::Bytes(_)) | None => None,
    };
    Ok(Some(Part { name: benchmark.full_id, nanoseconds: estimates.median.point_estimate, elements }))
}

fn json<T: for<'de> Deserialize<'de>>(file: &PathBuf) -> Result<T> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not as criterion writes it", file.display()))
}

impl Part {
    /// For people: `1.23 µs`.
    pub(crate) fn time(&self) -> String {
        match self.nanoseconds {
            time if time < 1e3 => format!("{time:.1} ns"),
            time if time < 1e6 => format!("{:.2} µs", time / 1e3),
            time => format!("{:.2} ms", time / 1e6),
        }
    }

    /// Elements a second.
    pub(crate) fn rate(&self) -> Option<f64> {
        self.elements.map(|elements| elements as f64 * 1e9 / self.nanoseconds)
    }
}
