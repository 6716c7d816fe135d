//! Go (RE2) regular expressions in the syntax of the `regex` crate, so that a pattern from an old workflow means what
//! it always meant. The differences: Perl classes and `\b` are ASCII, `[`, `&&`, `--` and `~~` have no special meaning
//! inside a class, `{` is a literal where it counts nothing, `\Q...\E` quotes, and the flags `x`, `u`, `R` do not exist.
//!
//! Syntax: <https://github.com/google/re2/wiki/Syntax>. Never backtracks and never compiles beyond a fixed size, so
//! that a pattern may come from a stranger.

mod class;
mod translate;

use regex::{Regex, RegexBuilder};

use translate::Translator;

/// The longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 4096;
/// Sizes of compiled patterns, in bytes; the last one is the largest that is accepted.
const COMPILED_BYTES: [usize; 3] = [1 << 15, 1 << 18, 1 << 20];
/// What matching may cache for each pattern, in bytes.
const MAX_CACHE_BYTES: usize = 1 << 20;
/// How deep groups may nest.
const MAX_NESTING: u32 = 100;

/// Why a pattern cannot be used. Positions count characters from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialectError {
    /// It is longer than [`MAX_PATTERN_BYTES`].
    #[error("the pattern is longer than {MAX_PATTERN_BYTES} bytes")]
    TooLong,
    /// Its compiled form would be too large, most often because of counted repetitions.
    #[error("the pattern is too large: its counted repetitions multiply, or its groups nest too deeply")]
    TooBig,
    /// Other engines have it, this one does not, because it runs in linear time.
    #[error("{construct} at character {position} is not supported; {advice}")]
    Unsupported {
        /// What was met.
        construct: String,
        /// Where it begins.
        position: usize,
        /// What to do instead.
        advice: &'static str,
    },
    /// It is no regular expression.
    #[error("{reason} at character {position}")]
    Invalid {
        /// What is wrong.
        reason: String,
        /// Where.
        position: usize,
    },
    /// The engine refuses it.
    #[error("{0}")]
    Refused(String),
}

/// Compiles a pattern written for Go.
///
/// # Errors
/// Says what in the pattern is wrong or not supported.
pub fn compile(pattern: &str) -> Result<Regex, DialectError> {
    compile_measured(pattern).map(|(regex, _)| regex)
}

/// Compiles a pattern written for Go, and says how many bytes the compiled form takes at most, so that whoever holds
/// many patterns of a stranger can bound their sum.
///
/// # Errors
/// Says what in the pattern is wrong or not supported.
pub fn compile_measured(pattern: &str) -> Result<(Regex, usize), DialectError> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(DialectError::TooLong);
    }
    let translated = Translator::new(pattern).run()?;
    // The engine does not tell the size, only that it is beyond a limit.
    for limit in COMPILED_BYTES {
        let built = RegexBuilder::new(&translated)
            .size_limit(limit)
            .dfa_size_limit(MAX_CACHE_BYTES)
            .nest_limit(MAX_NESTING)
            .build();
        match built.map_err(refusal) {
            Err(DialectError::TooBig) => {}
            result => return result.map(|regex| (regex, limit)),
        }
    }
    Err(DialectError::TooBig)
}

fn refusal(error: regex::Error) -> DialectError {
    match error {
        regex::Error::CompiledTooBig(_) => DialectError::TooBig,
        error => {
            // The engine draws the pattern with carets; its last line is the reason.
            let drawn = error.to_string();
            let reason = drawn.lines().last().unwrap_or_default().trim_start_matches("error: ");
            if reason.contains("nested parentheses") {
                return DialectError::TooBig;
            }
            DialectError::Refused(reason.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}")).is_match(text)
    }

    fn error(pattern: &str) -> String {
        compile(pattern).map(|regex| panic!("{pattern} became {regex}")).unwrap_err().to_string()
    }

    #[test]
    fn perl_classes_are_ascii_also_inside_brackets_and_negated() {
        assert!(matches(r"^\d$", "7") && !matches(r"^\d$", "٣"));
        assert!(matches(r"^\w$", "z") && !matches(r"^\w$", "é"));
        assert!(matches(r"^\s$", " ") && !matches(r"^\s$", "\u{a0}") && !matches(r"^\s$", "\x0b"));
        assert!(matches(r"^[\d.]$", ".") && !matches(r"^[\d.]$", "٣"));
        assert!(matches(r"^[^\w]$", "é") && matches(r"^\W$", "é") && matches(r"^[\W]$", "é"));
        assert!(matches(r"^[^\W]$", "z") && !matches(r"^[^\W]$", "é"));
        assert!(matches(r"^[\S\d]$", "é") && !matches(r"^[\S\d]$", " "));
    }

    #[test]
    fn word_boundaries_are_ascii() {
        assert!(matches(r"\bcaf\b", "café"));
        assert!(!matches(r"\bcaf\b", "cafe"));
        assert!(matches(r"a\Bb", "ab") && !matches(r"a\B-", "a-"));
    }

    #[test]
    fn quoted_text_stands_for_itself() {
        assert!(matches(r"^\Qa.b*[\E$", "a.b*["));
        assert!(!matches(r"^\Qa.b\E$", "axb"));
        assert!(matches(r"^\Q(never closed", "(never closed"));
        assert!(matches(r"^\Qab\E+$", "abb"));
    }

    #[test]
    fn class_members_without_meaning_in_go_stand_for_themselves() {
        assert!(matches("^[[]$", "[") && matches("^[]a]+$", "a]") && matches("^[a&&b]+$", "a&b"));
        assert!(
            matches("^[+--]+$", "+,-")
                && matches("^[~~]$", "~")
                && matches("^[-a]+$", "-a")
                && matches("^[a-]+$", "-a")
        );
        assert!(matches("^[[:alpha:][:digit:]_]+$", "a1_") && matches("^[[:^digit:]]$", "a"));
        assert!(matches("^[^£$€]+$", "51.77"));
    }

    #[test]
    fn braces_that_count_nothing_stand_for_themselves() {
        for text in ["a{", "a{,5}", "a{b}", "a{1,b}", "a}", "a]", "a{01}"] {
            assert!(matches(&format!("^{text}$"), text), "{text}");
        }
        assert!(matches("^a{2,3}?$", "aaa") && matches("^a{2,}$", "aaaa") && !matches("^a{2}$", "a"));
    }

    #[test]
    fn escapes_of_go_are_known() {
        assert!(matches(r"^\x41\x{42}\101\.\/\-\_\t$", "ABA./-_\t"));
        assert!(matches(r"^\pL\p{Greek}\PN\p{^Greek}$", "aαbc"));
        assert!(matches(r"\A\a?x\z", "x"));
        assert!(matches(r"^(?P<a>x)(?<b>y)(?i:Z)(?s).$", "xyz\n"));
    }

    #[test]
    fn what_needs_backtracking_is_refused_with_advice() {
        for pattern in ["(?=a)", "(?!a)", "(?<=a)b", "(?<!a)b"] {
            assert!(error(pattern).contains("look") && error(pattern).contains("not supported"), "{pattern}");
        }
        for pattern in [r"(a)\1", r"(a)\9", r"(?P<a>x)(?P=a)", r"(?<a>x)\k<a>"] {
            assert!(error(pattern).contains("backreference"), "{pattern}");
        }
        for pattern in ["(?>a)", "(?x)a", "(?#c)", "(?|a)", "a++", "a**", r"\Z", r"[\b]", r"\C", r"\u0041"] {
            assert!(error(pattern).contains("not supported"), "{pattern}: {}", error(pattern));
        }
    }

    #[test]
    fn broken_patterns_are_refused_in_one_line() {
        for pattern in
            ["(", ")", "[a", "*a", "a{3,2}", "a{1001}", r"\x4", "[z-a]", "[[:foo:]]", r"\p{Nope}", "\\"]
        {
            let message = error(pattern);
            assert!(!message.is_empty() && !message.contains('\n'), "{pattern}: {message}");
        }
    }

    #[test]
    fn patterns_that_would_grow_are_refused() {
        assert!(compile("a{1000}{1000}").is_err());
        assert_eq!(compile("(?:a{1000}){1000}").unwrap_err(), DialectError::TooBig);
        assert_eq!(compile(&("(".repeat(500) + &")".repeat(500))).unwrap_err(), DialectError::TooBig);
        assert_eq!(compile(&"a".repeat(MAX_PATTERN_BYTES + 1)).unwrap_err(), DialectError::TooLong);
    }

    #[test]
    fn larger_patterns_measure_larger() {
        let size = |pattern| compile_measured(pattern).unwrap().1;
        assert_eq!(size("[£$€]"), COMPILED_BYTES[0]);
        assert!(size(r"\p{L}{20}") > size(r"\d+"));
    }

    #[test]
    fn nested_repetition_takes_linear_time() {
        let regex = compile("(a+)+$").unwrap();
        let text = "a".repeat(100_000) + "b";
        let begun = Instant::now();
        assert!(!regex.is_match(&text));
        // In release builds this is far below 100 ms; a backtracking engine would never end.
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    proptest! {
        #[test]
        fn any_text_is_answered_and_quoting_always_compiles(text in "\\PC{0,60}", ugly in "[\\[\\]\\\\(){}?*+a^|:<>P=-]{0,30}") {
            let _ = compile(&text);
            let _ = compile(&ugly);
            if !text.contains("\\E") {
                let quoted = compile(&format!("^\\Q{text}\\E$")).unwrap();
                prop_assert!(quoted.is_match(&text));
            }
        }
    }
}
