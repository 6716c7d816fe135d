//! The transforms of extracted strings. A step on a value of the wrong type leaves it as it is; no step ever fails.
//!
//! Numbers, letters and replacement templates are read as the old system did, which was written in Go.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::{Number, Value};

static TAG: LazyLock<Regex> = LazyLock::new(|| fixed("<[^>]*>"));
static WHITE_SPACE: LazyLock<Regex> = LazyLock::new(|| fixed(r"[\t\n\f\r ]+"));
static PRICE: LazyLock<Regex> = LazyLock::new(|| fixed(r"[0-9][0-9,]*(?:\.[0-9]+)?"));

/// One step of a chain.
#[derive(Clone, Debug)]
pub enum Transform {
    /// Removes white space (Unicode) at both ends.
    Trim,
    /// Lowers letters one by one (Unicode's simple mapping).
    Lowercase,
    /// Raises letters one by one; one without a single capital, such as `ß`, stays.
    Uppercase,
    /// Replaces every match; `$1` and `${name}` expand, `$$` is a dollar sign.
    Regex {
        /// What is replaced.
        pattern: Regex,
        /// What it becomes.
        replacement: String,
    },
    /// Replaces every literal occurrence.
    Replace {
        /// What is replaced.
        old: String,
        /// What it becomes.
        new: String,
    },
    /// Splits into an array of strings; an empty delimiter splits into characters.
    Split(String),
    /// Joins an array of strings.
    Join(String),
    /// Reads a base-10 integer of 64 bits; leaves what is none.
    ParseInt,
    /// Reads a finite decimal number; leaves what is none.
    ParseFloat,
    /// Replaces tags by spaces, collapses white space, trims.
    CleanHtml,
    /// Reads the first price-like run of digits as a number; leaves what has none.
    ExtractPrice,
}

/// Every name that a step can have in a workflow file.
pub const TRANSFORM_NAMES: [&str; 11] = [
    "trim",
    "lowercase",
    "uppercase",
    "regex",
    "replace",
    "split",
    "join",
    "parse_int",
    "parse_float",
    "clean_html",
    "extract_price",
];

/// Applies a chain, step by step. Elements of an array are no business of string steps: whoever has `multiple` values
/// applies the chain to each.
pub fn apply_all(steps: &[Transform], value: Value) -> Value {
    steps.iter().fold(value, |value, step| step.apply(value))
}

impl Transform {
    /// Applies this step.
    pub fn apply(&self, value: Value) -> Value {
        match value {
            Value::String(text) => self.apply_to_text(text),
            Value::Array(elements) => self.apply_to_array(elements),
            other => other,
        }
    }

    fn apply_to_text(&self, text: String) -> Value {
        match self {
            Self::Trim => text.trim().into(),
            Self::Lowercase => text.chars().map(lower).collect::<String>().into(),
            Self::Uppercase => text.chars().map(upper).collect::<String>().into(),
            Self::Regex { pattern, replacement } => pattern
                .replace_all(&text, |found: &Captures<'_>| expand(replacement, found))
                .into_owned()
                .into(),
            Self::Replace { old, new } => text.replace(old, new).into(),
            Self::Split(delimiter) if delimiter.is_empty() => {
                text.chars().map(|c| Value::from(c.to_string())).collect()
            }
            Self::Split(delimiter) => text.split(delimiter).map(Value::from).collect(),
            Self::Join(_) => text.into(),
            Self::ParseInt => text.trim().parse::<i64>().map_or_else(|_| text.into(), Value::from),
            Self::ParseFloat => finite(text.trim()).map_or_else(|| text.into(), Value::from),
            Self::CleanHtml => {
                let bare = TAG.replace_all(&text, " ");
                WHITE_SPACE.replace_all(&bare, " ").trim().into()
            }
            Self::ExtractPrice => PRICE
                .find(&text)
                .and_then(|found| finite(&found.as_str().replace(',', "")))
                .map_or_else(|| text.clone().into(), Value::from),
        }
    }

    fn apply_to_array(&self, elements: Vec<Value>) -> Value {
        let Self::Join(delimiter) = self else { return elements.into() };
        let texts: Option<Vec<&str>> = elements.iter().map(Value::as_str).collect();
        match texts {
            Some(texts) => texts.join(delimiter).into(),
            None => elements.into(),
        }
    }
}

/// Rust reads `inf` and `nan` as numbers, which JSON cannot write.
fn finite(text: &str) -> Option<Number> {
    text.parse().ok().and_then(Number::from_f64)
}

fn lower(letter: char) -> char {
    // The only letter whose mapping is longer is U+0130, and `i` comes first there.
    letter.to_lowercase().next().unwrap_or(letter)
}

fn upper(letter: char) -> char {
    let mut mapped = letter.to_uppercase();
    match (mapped.next(), mapped.next()) {
        (Some(single), None) => single,
        _ => letter,
    }
}

/// Expands a template as Go's `Regexp.Expand`: a name is the longest run of letters, digits and underscores, and one
/// that names no group becomes nothing.
fn expand(template: &str, found: &Captures<'_>) -> String {
    let mut expanded = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            rest = after;
            continue;
        }
        match reference(after) {
            Some((name, after)) => {
                let group = match name.parse::<usize>() {
                    Ok(number) if name.bytes().all(|b| b.is_ascii_digit()) => found.get(number),
                    _ => found.name(name),
                };
                expanded.push_str(group.map_or("", |group| group.as_str()));
                rest = after;
            }
            None => {
                expanded.push('$');
                rest = after;
            }
        }
    }
    expanded + rest
}

/// The name behind a dollar sign, and what follows it.
fn reference(text: &str) -> Option<(&str, &str)> {
    let braced = text.strip_prefix('{');
    let name_on = braced.unwrap_or(text);
    let end = name_on.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name_on.len());
    let (name, after) = name_on.split_at(end);
    let after = if braced.is_some() { after.strip_prefix('}')? } else { after };
    (!name.is_empty()).then_some((name, after))
}

fn fixed(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern written here compiles")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::domain::regex_dialect::compile;

    fn regex(pattern: &str, replacement: &str) -> Transform {
        Transform::Regex { pattern: compile(pattern).unwrap(), replacement: replacement.into() }
    }

    fn every_step() -> Vec<Transform> {
        vec![
            Transform::Trim,
            Transform::Lowercase,
            Transform::Uppercase,
            regex("a", "b"),
            Transform::Replace { old: "a".into(), new: "b".into() },
            Transform::Split(",".into()),
            Transform::Join(",".into()),
            Transform::ParseInt,
            Transform::ParseFloat,
            Transform::CleanHtml,
            Transform::ExtractPrice,
        ]
    }

    #[test]
    fn steps_leave_values_of_the_wrong_type() {
        for step in every_step() {
            for value in [json!(null), json!(true), json!(7), json!({"a": " a "}), json!(["a", 1])] {
                assert_eq!(step.apply(value.clone()), value, "{step:?}");
            }
            if !matches!(step, Transform::Join(_)) {
                assert_eq!(step.apply(json!([" A ", "b"])), json!([" A ", "b"]), "{step:?}");
            }
        }
        assert_eq!(Transform::Join("-".into()).apply(json!("a")), json!("a"));
    }

    #[test]
    fn trim_takes_unicode_white_space() {
        assert_eq!(Transform::Trim.apply(json!("\u{a0}\u{3000}\n a b\t")), json!("a b"));
    }

    #[test]
    fn letters_change_case_one_by_one() {
        assert_eq!(Transform::Lowercase.apply(json!("ÀΟΔΟΣ İ")), json!("àοδοσ i"));
        assert_eq!(Transform::Uppercase.apply(json!("straße ǆ é")), json!("STRAßE Ǆ É"));
    }

    #[test]
    fn a_regex_replaces_all_matches_and_expands_groups() {
        assert_eq!(regex("[£$€]", "").apply(json!("£51€.77$")), json!("51.77"));
        assert_eq!(regex("([£$€]).*", "$1").apply(json!("£51.77")), json!("£"));
        assert_eq!(regex(r"star-rating (\w+)", "$1").apply(json!("star-rating Three")), json!("Three"));
        assert_eq!(regex("(?P<w>[a-z]+)", "<${w}>").apply(json!("ab 1 cd")), json!("<ab> 1 <cd>"));
        assert_eq!(regex("a*", "x").apply(json!("baac")), json!("xbxcx"));
    }

    #[test]
    fn templates_are_read_as_in_go() {
        let expanded = |template| regex("(a)(b)?", template).apply(json!("a"));
        assert_eq!(expanded("$1x"), json!(""), "the group named 1x");
        assert_eq!(expanded("${1}x"), json!("ax"));
        assert_eq!(expanded("$1é"), json!(""), "é is a letter and so belongs to the name");
        assert_eq!(expanded("$1€"), json!("a€"));
        assert_eq!(expanded("$$1 $ ${ ${1"), json!("$1 $ ${ ${1"));
        assert_eq!(expanded("[$2][$9][$0]"), json!("[][][a]"));
    }

    #[test]
    fn replace_is_literal() {
        let replace = |old: &str, new: &str| Transform::Replace { old: old.into(), new: new.into() };
        assert_eq!(replace(".", "$1").apply(json!("a.b.c")), json!("a$1b$1c"));
        assert_eq!(replace("", "-").apply(json!("ab")), json!("-a-b-"));
    }

    #[test]
    fn split_then_join_works_within_one_chain() {
        let chain = [Transform::Split(", ".into()), Transform::Trim, Transform::Join("|".into())];
        assert_eq!(apply_all(&chain, json!("a, b , c")), json!("a|b |c"));
        assert_eq!(Transform::Split(",".into()).apply(json!("")), json!([""]));
        assert_eq!(Transform::Split(String::new()).apply(json!("aé")), json!(["a", "é"]));
        assert_eq!(Transform::Split(String::new()).apply(json!("")), json!([]));
        assert_eq!(Transform::Join(",".into()).apply(json!([])), json!(""));
    }

    #[test]
    fn integers_are_trimmed_and_read_in_base_ten() {
        let parsed = |text: &str| Transform::ParseInt.apply(json!(text));
        assert_eq!(parsed(" 42\n"), json!(42));
        assert_eq!(parsed("+7"), json!(7));
        assert_eq!(parsed("-9223372036854775808"), json!(i64::MIN));
        for text in ["9223372036854775808", "4.0", "0x1f", "1_000", "", " ", "12a", "1,000"] {
            assert_eq!(parsed(text), json!(text));
        }
    }

    #[test]
    fn floats_are_finite_decimal_numbers_only() {
        let parsed = |text: &str| Transform::ParseFloat.apply(json!(text));
        assert_eq!(parsed(" 51.77 "), json!(51.77));
        assert_eq!(parsed(".5"), json!(0.5));
        assert_eq!(parsed("-1e3"), json!(-1000.0));
        for text in ["NaN", "Inf", "-infinity", "+inf", "0x1p-2", "1e999", "1_0", "1,5", "", ".", "5 €"] {
            assert_eq!(parsed(text), json!(text));
        }
    }

    #[test]
    fn html_is_cleaned_of_tags_and_runs_of_white_space() {
        let cleaned = |text: &str| Transform::CleanHtml.apply(json!(text));
        assert_eq!(cleaned("<p>One<br/>two</p>\n\t <b\nclass='x'>three</b>"), json!("One two three"));
        assert_eq!(cleaned("1 < 2"), json!("1 < 2"));
        assert_eq!(cleaned("&amp;"), json!("&amp;"));
    }

    #[test]
    fn a_price_is_the_first_number_with_its_thousands() {
        let price = |text: &str| Transform::ExtractPrice.apply(json!(text));
        assert_eq!(price("from £1,234.50 to £2,000"), json!(1234.5));
        assert_eq!(price("Hello, only 7."), json!(7.0));
        assert_eq!(price("$ 19"), json!(19.0));
        assert_eq!(price("sold out"), json!("sold out"));
    }

    proptest! {
        #[test]
        fn no_step_fails_and_every_result_is_json(text in "\\PC{0,40}") {
            for step in every_step() {
                let value = step.apply(json!(text));
                prop_assert_eq!(serde_json::from_str::<Value>(&value.to_string()).unwrap(), value);
            }
        }

        #[test]
        fn joining_with_the_delimiter_undoes_splitting(text in "[a-c,é]{0,20}", delimiter in "[,a]{1,2}") {
            let chain = [Transform::Split(delimiter.clone()), Transform::Join(delimiter)];
            prop_assert_eq!(apply_all(&chain, json!(text)), json!(text));
        }

        #[test]
        fn a_template_without_dollar_signs_is_literal(template in "[^$]{0,20}") {
            prop_assert_eq!(regex("^x$", &template).apply(json!("x")), json!(template));
        }
    }
}
