//! How an execution's pages were loaded, as a block of the summary. Says nothing where all of them were rendered as the
//! workflow said.

use std::fmt::Write;

use comfy_table::CellAlignment;

use super::{MESSAGE_CHARACTERS, push, table};
use crate::printable::one_line;

const SHOWN: usize = 10;
const SHAPE_CHARACTERS: usize = 60;

/// How pages were loaded.
#[derive(Clone, Debug, Default)]
pub struct Renders {
    /// Pages that have ended and were read as they came.
    pub static_pages: u64,
    /// Pages that have ended and were loaded in a tab.
    pub full_pages: u64,
    /// What was decided, those that concern the most pages first.
    pub decisions: Vec<RenderRow>,
}

/// How pages of one shape were loaded for one phase.
#[derive(Clone, Debug)]
pub struct RenderRow {
    /// The phase's id.
    pub phase: String,
    /// The shape of the pages' URLs.
    pub shape: String,
    /// `static` or `full`.
    pub mode: String,
    /// Attempts that were read as they came.
    pub static_pages: u64,
    /// Attempts that were loaded in a tab.
    pub full_pages: u64,
    /// How often pages spoke against being read as they came.
    pub disagreed: u64,
    /// Why.
    pub reason: String,
}

/// Writes the block, unless there is nothing to say.
pub(super) fn renders(text: &mut String, renders: &Renders) {
    if renders.decisions.is_empty() {
        return;
    }
    let _ =
        writeln!(text, "\n  render: {} static · {} full", counted(renders.static_pages), renders.full_pages);
    let rows = by_shape(&renders.decisions);
    let mut table = table();
    table.set_header(["shape", "mode", "static", "full", "why"]);
    for row in rows.iter().take(SHOWN) {
        table.add_row([
            one_line(&row.shape, SHAPE_CHARACTERS),
            row.mode.clone(),
            row.static_pages.to_string(),
            row.full_pages.to_string(),
            one_line(&row.reason, MESSAGE_CHARACTERS),
        ]);
    }
    for column in table.column_iter_mut().skip(2).take(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    push(text, &table);
    if rows.len() > SHOWN {
        let _ = writeln!(text, "  and {} more", rows.len() - SHOWN);
    }
}

/// One row for each shape: a page is loaded once for all its phases, so one that wants it full decides, and is named
/// where others want it otherwise. The figures are those of the phase that ran on the most pages.
fn by_shape(decisions: &[RenderRow]) -> Vec<RenderRow> {
    let mut rows: Vec<RenderRow> = Vec::new();
    for decision in decisions {
        if rows.iter().any(|row| row.shape == decision.shape) {
            continue;
        }
        let phases = || decisions.iter().filter(|other| other.shape == decision.shape);
        // One that found a difference rather than one that is still on trial.
        let full = phases().filter(|phase| phase.mode == "full");
        let decisive = full.max_by_key(|phase| phase.disagreed).unwrap_or(decision);
        let reason = if phases().all(|phase| phase.mode == decisive.mode) {
            decisive.reason.clone()
        } else {
            format!("{}: {}", decisive.phase, decisive.reason)
        };
        rows.push(RenderRow { mode: decisive.mode.clone(), reason, ..decision.clone() });
    }
    rows
}

fn counted(pages: u64) -> String {
    if pages == 1 { "1 page".to_owned() } else { format!("{pages} pages") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(phase: &str, shape: &str, pages: u64, reason: &str) -> RenderRow {
        RenderRow {
            phase: phase.to_owned(),
            shape: shape.to_owned(),
            mode: if pages > 5 { "static" } else { "full" }.to_owned(),
            static_pages: pages.saturating_sub(5),
            full_pages: pages.min(5),
            disagreed: 0,
            reason: reason.to_owned(),
        }
    }

    fn shown(decisions: Vec<RenderRow>) -> String {
        let mut text = String::new();
        renders(&mut text, &Renders { static_pages: 700, full_pages: 15, decisions });
        text
    }

    #[test]
    fn the_phase_that_wants_a_shape_full_decides_and_is_named() {
        let mut lists = row("links", "shop.test/list", 640, "`next` gives another output in a tab");
        lists.mode = "full".to_owned();
        let decisions = vec![
            row("links", "shop.test/product/*", 640, "5 pages gave the same both ways"),
            row("data", "shop.test/product/*", 640, "5 pages gave the same both ways"),
            row("data", "shop.test/list", 640, "6 pages gave the same both ways"),
            lists,
            row("links", "shop.test/", 1, "on trial"),
            row("data", "shop.test/", 1, "on trial"),
        ];
        let expected = "
  render: 700 pages static · 15 full
  shape                mode    static  full  why
  shop.test/product/*  static     635     5  5 pages gave the same both ways
  shop.test/list       full       635     5  links: `next` gives another output in a tab
  shop.test/           full         0     1  on trial
";
        assert_eq!(shown(decisions), expected);
    }

    #[test]
    fn nothing_is_said_where_nothing_was_decided() {
        assert_eq!(shown(Vec::new()), "");
    }

    #[test]
    fn many_shapes_are_cut_off() {
        let decisions = (0..13).map(|number| row("data", &format!("shop.test/{number}"), 7, "x")).collect();
        let text = shown(decisions);
        assert!(text.contains("shop.test/9") && !text.contains("shop.test/10"), "{text}");
        assert!(text.ends_with("\n  and 3 more\n"), "{text}");
    }
}
