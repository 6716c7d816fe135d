//! The table, and what must not grow.

use std::fmt;

use crate::readings::{NAMES, Reading};
use crate::system::LeftBehind;

/// How much each may grow from wave to wave, in the order of [`NAMES`]: what the noise of a busy machine comes to.
const BOUNDS: [f64; NAMES.len()] = [1.0, 1.0, 0.5, 0.5, 20.0, 15.0, 0.0, 0.0];
/// A browser is replaced now and then: for a moment there are two.
const MOST_PROFILES: f64 = 2.0;

/// What was seen, and whether it is as it should be.
#[derive(Debug)]
pub(crate) struct Verdict {
    readings: Vec<Reading>,
    slopes: [f64; NAMES.len()],
    problems: Vec<String>,
}

impl Verdict {
    /// Judges; the first reading is that before the first wave.
    pub(crate) fn of(readings: &[Reading], warm_up: usize, left: LeftBehind) -> Self {
        let measured = &readings[warm_up + 1..];
        let slopes = std::array::from_fn(|which| slope(measured.iter().map(|reading| reading.values[which])));
        let mut problems: Vec<String> = Vec::new();
        for ((name, slope), bound) in NAMES.iter().zip(slopes).zip(BOUNDS) {
            if slope > bound {
                problems.push(format!("{name}: {slope:.2} more with each wave, where {bound} is the most"));
            }
        }
        let last = measured.last().map_or([0.0; NAMES.len()], |reading| reading.values);
        for (name, value) in NAMES.iter().zip(last) {
            let most = match *name {
                "zombies" => 0.0,
                "profile folders" => MOST_PROFILES,
                _ => continue,
            };
            if value > most {
                problems.push(format!("{name}: {value} after the last wave"));
            }
        }
        problems.extend(left.processes.iter().map(|process| format!("{process:?} has outlived it")));
        problems.extend(left.files.iter().map(|file| format!("{file} was left behind")));
        Self { readings: readings.to_vec(), slopes, problems }
    }

    pub(crate) fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}

/// The slope of the line through these figures, one a wave, by least squares.
fn slope(figures: impl Iterator<Item = f64>) -> f64 {
    let figures: Vec<f64> = figures.collect();
    let middle = (figures.len() as f64 - 1.0) / 2.0;
    let mean = figures.iter().sum::<f64>() / figures.len() as f64;
    let (mut together, mut squares) = (0.0, 0.0);
    for (wave, figure) in figures.iter().enumerate() {
        together += (wave as f64 - middle) * (figure - mean);
        squares += (wave as f64 - middle).powi(2);
    }
    together / squares
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| after wave | start |")?;
        (1..self.readings.len()).try_for_each(|wave| write!(f, " {wave} |"))?;
        writeln!(f, " a wave | at most |")?;
        writeln!(f, "|---|{}", "---:|".repeat(self.readings.len() + 2))?;
        for (which, name) in NAMES.iter().enumerate() {
            write!(f, "| {name} |")?;
            let digits = usize::from(name.contains("RSS") || name.contains("PSS"));
            for reading in &self.readings {
                write!(f, " {:.digits$} |", reading.values[which])?;
            }
            writeln!(f, " {:+.2} | {} |", self.slopes[which], BOUNDS[which])?;
        }
        for problem in &self.problems {
            writeln!(f, "\n{problem}")?;
        }
        Ok(())
    }
}
