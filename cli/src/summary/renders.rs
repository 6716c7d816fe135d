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
    let rows = together(&renders.decisions);
    let mut table = table();
    table.set_header(["shape", "mode", "static", "full", "why"]);
    for (row, phase) in rows.iter().take(SHOWN) {
        let phase = phase.map_or_else(String::new, |phase| format!(" ({phase})"));
        table.add_row([
            one_line(&format!("{}{phase}", row.shape), SHAPE_CHARACTERS),
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

/// Phases mostly come to the same about a shape: that is one row. The others name their phase.
fn together(decisions: &[RenderRow]) -> Vec<(&RenderRow, Option<&str>)> {
    let say_the_same = |left: &RenderRow, right: &RenderRow| {
        left.mode == right.mode
            && left.static_pages == right.static_pages
            && left.full_pages == right.full_pages
            && left.reason == right.reason
    };
    let mut rows: Vec<(&RenderRow, Option<&str>)> = Vec::new();
    for decision in decisions {
        let mut others = decisions.iter().filter(|other| other.shape == decision.shape);
        if !others.all(|other| say_the_same(other, decision)) {
            rows.push((decision, Some(&decision.phase)));
        } else if rows.iter().all(|(row, _)| row.shape != decision.shape) {
            rows.push((decision, None));
        }
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
            reason: reason.to_owned(),
        }
    }

    fn shown(decisions: Vec<RenderRow>) -> String {
        let mut text = String::new();
        renders(&mut text, &Renders { static_pages: 700, full_pages: 15, decisions });
        text
    }

    #[test]
    fn phases_that_agree_are_one_row_and_others_are_named() {
        let decisions = vec![
            row("links", "shop.test/product/*", 640, "5 pages gave the same both ways"),
            row("data", "shop.test/product/*", 640, "5 pages gave the same both ways"),
            row("links", "shop.test/", 1, "on trial"),
            row("data", "shop.test/", 1, "`price` gives another output in a tab"),
        ];
        let expected = "
  render: 700 pages static · 15 full
  shape                mode    static  full  why
  shop.test/product/*  static     635     5  5 pages gave the same both ways
  shop.test/ (links)   full         0     1  on trial
  shop.test/ (data)    full         0     1  `price` gives another output in a tab
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
