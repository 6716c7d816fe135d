//! The table that the benchmark prints.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use harness::bench::median;

use crate::{GROUPS, MEASURED, ROUNDS};

/// What one series of statements took.
pub(crate) struct Measured {
    pub(crate) rows_a_second: f64,
    pub(crate) statements: Vec<Duration>,
}

/// Prints medians over the rounds, and each round's own numbers.
pub(crate) fn report(
    results: &[[Vec<Measured>; 2]],
    nodes: usize,
    bytes_a_row: f64,
    to: &mut impl Write,
) -> Result<()> {
    writeln!(to, "medians of {ROUNDS} rounds of {} s, one connection", MEASURED.as_secs())?;
    writeln!(
        to,
        "{:>14} {:>12} {:>12} {:>9} {:>14} {:>12}  rows/s of each round (record / COPY)",
        "rows/statement", "record rows/s", "COPY rows/s", "of COPY", "record p50", "COPY p50"
    )?;
    for (pages, [recorded, copied]) in GROUPS.iter().zip(results) {
        let [record, copy] = [recorded, copied].map(|rounds| median(rounds.iter().map(|r| r.rows_a_second)));
        let [record_p50, copy_p50] = [recorded, copied].map(|rounds| {
            let statements = rounds.iter().flat_map(|round| &round.statements);
            median(statements.map(|took| took.as_secs_f64() * 1000.0))
        });
        let rounds: Vec<String> = recorded
            .iter()
            .zip(copied)
            .map(|(record, copy)| format!("{:.0}/{:.0}", record.rows_a_second, copy.rows_a_second))
            .collect();
        writeln!(
            to,
            "{:>14} {record:>13.0} {copy:>12.0} {:>8.0}% {record_p50:>11.2} ms {copy_p50:>9.2} ms  {}",
            pages * nodes,
            record / copy * 100.0,
            rounds.join(" ")
        )?;
    }
    writeln!(to, "{bytes_a_row:.0} bytes a row of node_records, indexes included")?;
    Ok(())
}
