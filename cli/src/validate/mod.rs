//! Shows what is wrong with a workflow file: each problem with its place in the text. It finds no problems itself.

mod locate;

use std::fmt::Write;

use crawlify_shared::domain::workflow::Problem;

use crate::printable::one_line;
pub use locate::{Position, locate};

/// A line of the file that is longer is shown around the place.
const EXCERPT_CHARACTERS: usize = 100;
const MESSAGE_CHARACTERS: usize = 1000;

/// What `crawlify validate` says about one file. `text` is the file's content, `problems` make it invalid,
/// `warnings` do not.
pub fn report(file: &str, text: &str, problems: &[Problem], warnings: &[Problem]) -> String {
    let verdict = match (problems.len(), warnings.len()) {
        (0, 0) => "valid".to_owned(),
        (0, warnings) => format!("valid, {}", counted(warnings, "warning")),
        (problems, 0) => counted(problems, "problem"),
        (problems, warnings) => format!("{}, {}", counted(problems, "problem"), counted(warnings, "warning")),
    };
    let mut report = format!("{}: {verdict}\n", one_line(file, MESSAGE_CHARACTERS));
    for problem in problems {
        show(&mut report, text, problem, "");
    }
    for warning in warnings {
        show(&mut report, text, warning, "warning: ");
    }
    report
}

fn show(report: &mut String, text: &str, problem: &Problem, label: &str) {
    let position = match problem.code.as_str() {
        "syntax" if problem.pointer.is_empty() => place_of_syntax_error(text, &problem.message),
        _ => locate(text, &problem.pointer),
    };
    let place =
        position.map_or_else(String::new, |position| format!("{}:{} ", position.line, position.column));
    let pointer = if problem.pointer.is_empty() { "(whole document)" } else { &problem.pointer };
    let _ = write!(
        report,
        "\n  {place}{}\n    {label}{} [{}]\n",
        one_line(pointer, MESSAGE_CHARACTERS),
        one_line(&problem.message, MESSAGE_CHARACTERS),
        one_line(&problem.code, MESSAGE_CHARACTERS),
    );
    // The whole document needs no excerpt: it begins with a brace. A syntax error is somewhere within.
    if let Some(position) = position.filter(|_| !problem.pointer.is_empty() || problem.code == "syntax") {
        excerpt(report, text, position);
    }
}

/// Where the text ends to be a document: the parser's message ends with `at line 2 column 28`.
fn place_of_syntax_error(text: &str, message: &str) -> Option<Position> {
    let (_, place) = message.rsplit_once(" at line ")?;
    let (line, column) = place.split_once(" column ")?;
    let (line, column): (usize, usize) = (line.parse().ok()?, column.parse().ok()?);
    // The parser counts bytes.
    let before =
        text.lines().nth(line.checked_sub(1)?)?.char_indices().take_while(|(byte, _)| byte + 1 < column);
    Some(Position { line, column: before.count() + 1 })
}

/// The line of a place, with a caret under it.
fn excerpt(report: &mut String, text: &str, position: Position) {
    let Some(line) = text.lines().nth(position.line - 1) else { return };
    let letters: Vec<char> =
        line.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    let column = (position.column - 1).min(letters.len());
    let first = column.saturating_sub(EXCERPT_CHARACTERS / 2);
    let last = letters.len().min(first + EXCERPT_CHARACTERS);
    // Indentation carries nothing here.
    let first = first + letters[first..column].iter().take_while(|letter| **letter == ' ').count();
    let shown: String = letters[first..last].iter().collect();
    let number = position.line.to_string();
    let _ = write!(
        report,
        "    {number} | {}\n    {:width$} | {:caret$}^\n",
        shown.trim_end(),
        "",
        "",
        width = number.len(),
        caret = column - first,
    );
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(pointer: &str, code: &str, message: &str) -> Problem {
        Problem { pointer: pointer.to_owned(), code: code.to_owned(), message: message.to_owned() }
    }

    const TEXT: &str = "{\n  \"config\": {\n    \"url_discovery\": [\n      {\"id\": \"a\", \"type\": \"extrakt\"}\n    ]\n  }\n}\n";

    #[test]
    fn each_problem_is_shown_with_its_place() {
        let problems = [
            problem(
                "/config/url_discovery/0/type",
                "unknown_node_type",
                "There is no node type \"extrakt\".",
            ),
            problem("/config/start_urls", "required", "Give at least one start URL."),
        ];
        let expected = r#"shop.json: 2 problems

  4:27 /config/url_discovery/0/type
    There is no node type "extrakt". [unknown_node_type]
    4 | {"id": "a", "type": "extrakt"}
      |                     ^

  2:13 /config/start_urls
    Give at least one start URL. [required]
    2 | "config": {
      |           ^
"#;
        assert_eq!(report("shop.json", TEXT, &problems, &[]), expected);
    }

    #[test]
    fn a_valid_file_is_told_so_with_its_warnings() {
        assert_eq!(report("shop.json", TEXT, &[], &[]), "shop.json: valid\n");
        let warnings = [problem("/config", "ignored", "Nothing reads this.")];
        let report = report("shop.json", TEXT, &[], &warnings);
        assert!(
            report.starts_with("shop.json: valid, 1 warning\n\n  2:13 /config\n    warning: Nothing"),
            "{report}"
        );
    }

    #[test]
    fn a_problem_of_the_whole_document_has_no_excerpt() {
        let problems = [problem("", "not_json", "expected value at line 1 column 1")];
        let expected =
            "x: 1 problem\n\n  1:1 (whole document)\n    expected value at line 1 column 1 [not_json]\n";
        assert_eq!(report("x", "hello", &problems, &[]), expected);
    }

    #[test]
    fn a_syntax_error_is_shown_where_it_is() {
        let text = "{\"name\": \"x\",\n \"config\": {\"start_urls\": [}\n}\n";
        let error = serde_json::from_str::<serde_json::Value>(text).unwrap_err();
        let problems = [problem("", "syntax", &format!("this is not JSON: {error}"))];
        let expected = "x: 1 problem\n\n  2:28 (whole document)\n    this is not JSON: expected value at line 2 \
             column 28 [syntax]\n    2 | \"config\": {\"start_urls\": [}\n      |                           ^\n";
        assert_eq!(report("x", text, &problems, &[]), expected);
        let cut = "{\"a\": 1,\n";
        let error = serde_json::from_str::<serde_json::Value>(cut).unwrap_err();
        let report = report("x", cut, &[problem("", "syntax", &format!("this is not JSON: {error}"))], &[]);
        assert!(report.contains(" (whole document)"), "{report}");
    }

    #[test]
    fn long_lines_are_shown_around_the_place() {
        let text = format!("{{\"a\": \"{}\", \"b\": 1, \"c\": \"{}\"}}", "x".repeat(500), "y".repeat(500));
        let report = report("x", &text, &[problem("/b", "bad", "Bad.")], &[]);
        let lines: Vec<&str> = report.lines().collect();
        let caret = lines[5].find('^').unwrap();
        assert_eq!(&lines[4][caret..=caret], "1");
        assert!(lines[4].len() < 120);
    }

    #[test]
    fn control_characters_of_the_file_do_not_reach_the_terminal() {
        let text = "{\"a\": \"\u{1b}[31m\"}";
        let report = report("x\u{1b}", text, &[problem("/a", "bad", "not \u{1b}[31m")], &[]);
        assert!(!report.contains('\u{1b}'), "{report:?}");
    }
}
