//! What was not visited, and why: each reason with one URL of it.

use std::fmt::Write;

use super::{MESSAGE_CHARACTERS, NAME_CHARACTERS, one_line};

/// URLs that are known and were not visited for one reason.
#[derive(Clone, Debug)]
pub struct SkipRow {
    /// As in rows: `scope`, `trap` ...
    pub reason: String,
    /// How many.
    pub urls: u64,
    /// One of them.
    pub sample_url: String,
    /// Why that one was skipped, in a sentence.
    pub sample_detail: String,
}

pub(super) fn skips(text: &mut String, skips: &[SkipRow]) {
    if skips.is_empty() {
        return;
    }
    text.push_str("\n  not visited\n");
    for row in skips {
        let _ = writeln!(text, "  {:>5} {}", row.urls, words(&row.reason));
        let _ = writeln!(text, "          {}", one_line(&row.sample_url, 400));
        let _ = writeln!(text, "          {}", one_line(&row.sample_detail, MESSAGE_CHARACTERS));
    }
}

/// A reason in words that follow a number.
fn words(reason: &str) -> String {
    match reason {
        "depth" => "too deep".to_owned(),
        "scope" => "dropped by filters".to_owned(),
        "robots" => "forbidden by robots.txt".to_owned(),
        "trap" => "in traps".to_owned(),
        "time_budget" => "when the time was over".to_owned(),
        "byte_budget" => "when the bytes were used up".to_owned(),
        "path_budget" => "over the budget of a path".to_owned(),
        "limit" => "over the page limit".to_owned(),
        other => one_line(other, NAME_CHARACTERS),
    }
}

#[cfg(test)]
mod tests {
    use crawlify_shared::domain::skip::SkipReason;

    use super::*;

    #[test]
    fn each_reason_is_told_with_an_example_and_in_words() {
        let row = |reason: &str, urls| SkipRow {
            reason: reason.to_owned(),
            urls,
            sample_url: format!("http://shop.test/{reason}"),
            sample_detail: "the filter `no_login`\ndropped it".to_owned(),
        };
        let mut text = String::new();
        skips(&mut text, &[row("scope", 41), row("path_budget", 5)]);
        let expected = "
  not visited
     41 dropped by filters
          http://shop.test/scope
          the filter `no_login` dropped it
      5 over the budget of a path
          http://shop.test/path_budget
          the filter `no_login` dropped it
";
        assert_eq!(text, expected);
        for reason in SkipReason::ALL {
            assert_ne!(words(reason.as_str()), reason.as_str());
        }
    }

    #[test]
    fn nothing_is_said_where_everything_was_visited() {
        let mut text = String::new();
        skips(&mut text, &[]);
        assert_eq!(text, "");
    }
}
