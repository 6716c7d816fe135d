//! One file as the rules see it: with its comments and quotations told apart from its code. Not a parser.

pub(super) struct Source {
    /// From the checkout's root.
    pub(super) path: String,
    pub(super) text: String,
    /// The text without comments and without what is in quotes.
    pub(super) code: String,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), code: code_of(text) }
    }

    /// Whether a word or path stands in the code, and not only as a part of a longer word.
    pub(super) fn has_word(&self, word: &str) -> bool {
        has_word(&self.code, word)
    }

    /// Whether the code names a module of `shared`, by a path or in an import with braces.
    pub(super) fn names_shared_module(&self, module: &str) -> bool {
        let imports = self.code.split("use ").skip(1).filter_map(|import| import.split(';').next());
        ["crawlify_shared", "crate", "super"].iter().any(|from| {
            self.has_word(&format!("{from}::{module}"))
                || imports.clone().any(|import| {
                    let inside = import.strip_prefix(from).and_then(|rest| rest.strip_prefix("::{"));
                    inside.is_some_and(|inside| has_word(inside, module))
                })
        })
    }
}

fn has_word(code: &str, word: &str) -> bool {
    let is_part =
        |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    code.match_indices(word).any(|(at, _)| {
        !is_part(code[..at].chars().next_back()) && !is_part(code[at + word.len()..].chars().next())
    })
}

/// Blanks out comments, strings and characters, and keeps the lines.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let quoted = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_string(rest).filter(|_| !ends_in_word(&code)) {
            length
        } else if letter == '"' {
            closing_quote(&rest[1..], '"').map_or(rest.len(), |end| end + 2)
        } else if letter == '\'' {
            character(rest).unwrap_or(0)
        } else {
            0
        };
        let taken = if quoted == 0 {
            code.push(letter);
            letter.len_utf8()
        } else {
            code.push(' ');
            code.extend(rest[..quoted].chars().filter(|letter| *letter == '\n'));
            quoted
        };
        rest = &rest[taken..];
    }
    code
}

fn ends_in_word(code: &str) -> bool {
    code.ends_with(|letter: char| letter.is_alphanumeric() || letter == '_')
}

/// The length of the raw string that `rest` begins with.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(rest.len() - body.len() + length)
}

fn closing_quote(body: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    body.char_indices().find_map(|(at, letter)| {
        let closes = letter == quote && !escaped;
        escaped = letter == '\\' && !escaped;
        closes.then_some(at)
    })
}

/// The length of the character that `rest` begins with; a lifetime is none.
fn character(rest: &str) -> Option<usize> {
    let mut letters = rest[1..].chars();
    let (first, second) = (letters.next()?, letters.next()?);
    (first == '\\' || second == '\'').then(|| closing_quote(&rest[1..], '\'').map(|end| end + 2))?
}
