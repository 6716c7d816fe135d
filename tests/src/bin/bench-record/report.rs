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

/// Prints medians over the rounds, and each round's own numbers: of records, of COPY of their node rows, and of COPY of the
/// same rows.
pub(crate) fn report(
    results: &[[Vec<Measured>; 3]],
    nodes: usize,
    bytes_a_row: f64,
    to: &mut impl Write,
) -> Result<()> {
    writeln!(
        to,
        "medians of {ROUNDS} rounds of {} s, one connection; all rates are of node rows",
        MEASURED.as_secs()
    )?;
    writeln!(to, "`nodes`: COPY of the node rows. `same`: COPY of the same rows (nodes, items, new pages).")?;
    writeln!(
        to,
        "{:>14} {:>13} {:>12} {:>8} {:>12} {:>8} {:>13} {:>12} {:>12}  rows/s of each round (record / nodes / same)",
        "rows/statement",
        "record rows/s",
        "nodes rows/s",
        "of nodes",
        "same rows/s",
        "of same",
        "record p50",
        "nodes p50",
        "same p50"
    )?;
    for (pages, sides) in GROUPS.iter().zip(results) {
        let [record, copy, same] =
            sides.each_ref().map(|rounds| median(rounds.iter().map(|round| round.rows_a_second)));
        let [record_p50, copy_p50, same_p50] = sides.each_ref().map(|rounds| {
            let statements = rounds.iter().flat_map(|round| &round.statements);
            median(statements.map(|took| took.as_secs_f64() * 1000.0))
        });
        let rounds: Vec<String> = (0..ROUNDS)
            .map(|round| {
                let rates = sides.each_ref().map(|side| format!("{:.0}", side[round].rows_a_second));
                rates.join("/")
            })
            .collect();
        writeln!(
            to,
            "{:>14} {record:>13.0} {copy:>12.0} {:>7.0}% {same:>12.0} {:>7.0}% {record_p50:>10.2} ms \
            {copy_p50:>9.2} ms {same_p50:>9.2} ms  {}",
            pages * nodes,
            record / copy * 100.0,
            record / same * 100.0,
            rounds.join(" ")
        )?;
    }
    writeln!(to, "{bytes_a_row:.0} bytes a row of node_records, indexes included")?;
    Ok(())
}
