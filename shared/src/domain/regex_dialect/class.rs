//! Character classes of a Go pattern: `[...]`, `\d` and its like, `\p{...}`, `[:alpha:]`.

use super::DialectError;
use super::translate::Translator;

const DIGIT: &str = "0-9";
const SPACE: &str = r"\t\n\f\r ";
const WORD: &str = "0-9A-Za-z_";
const POSIX_CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
    "upper", "word", "xdigit",
];

impl Translator {
    /// Writes `\d`, `\s`, `\w` or a negation; false where `c` is none of them.
    pub(super) fn perl_class(&mut self, c: char, bracketed: bool) -> bool {
        let members = match c.to_ascii_lowercase() {
            'd' => DIGIT,
            's' => SPACE,
            'w' => WORD,
            _ => return false,
        };
        let negated = c.is_ascii_uppercase();
        if bracketed || negated {
            self.out.push_str(if negated { "[^" } else { "[" });
            self.out.push_str(members);
            self.out.push(']');
        } else {
            self.out.push_str(members);
        }
        true
    }

    /// Writes `\pL`, `\p{Greek}`, `\p{^Greek}` and their negations.
    pub(super) fn unicode_class(&mut self, c: char) -> Result<(), DialectError> {
        let mut negated = c == 'P';
        let mut name = String::new();
        match self.next() {
            Some('{') => loop {
                match self.next() {
                    Some('}') => break,
                    Some('^') if name.is_empty() => negated = !negated,
                    Some(c) if c.is_ascii_alphanumeric() || c == '_' => name.push(c),
                    _ => return self.invalid(format!("`\\{c}{{` has no proper name")),
                }
            },
            Some(c) if c.is_ascii_alphabetic() => name.push(c),
            _ => return self.invalid(format!("`\\{c}` has no name")),
        }
        self.out.push_str(&format!("\\{}{{{name}}}", if negated { 'P' } else { 'p' }));
        Ok(())
    }

    /// Writes a bracketed class, of which the `[` was read.
    pub(super) fn class(&mut self) -> Result<(), DialectError> {
        let opened_at = self.at;
        self.out.push('[');
        if self.peek() == Some('^') {
            self.at += 1;
            self.out.push('^');
        }
        let mut first = true;
        loop {
            match self.peek() {
                None => {
                    return Err(DialectError::Invalid {
                        reason: "a character class is never closed".into(),
                        position: opened_at,
                    });
                }
                Some(']') if !first => {
                    self.at += 1;
                    self.out.push(']');
                    return Ok(());
                }
                Some(_) => self.class_member()?,
            }
            first = false;
        }
    }

    fn class_member(&mut self) -> Result<(), DialectError> {
        if self.ahead("[:") && self.posix_class()? {
            return Ok(());
        }
        if self.peek() == Some('\\') {
            match self.chars.get(self.at + 1).copied() {
                Some(c @ ('p' | 'P')) => {
                    self.at += 2;
                    return self.unicode_class(c);
                }
                Some(c) if self.perl_class(c, false) => {
                    self.at += 2;
                    return Ok(());
                }
                _ => {}
            }
        }
        let low = self.class_character()?;
        self.literal(low);
        let is_range = self.peek() == Some('-') && self.chars.get(self.at + 1).is_some_and(|c| *c != ']');
        if is_range {
            self.at += 1;
            let high = self.class_character()?;
            if high < low {
                return self.invalid(format!("the range {low}-{high} ends before it begins"));
            }
            self.out.push('-');
            self.literal(high);
        }
        Ok(())
    }

    fn class_character(&mut self) -> Result<char, DialectError> {
        match self.next() {
            Some('\\') => match self.next() {
                Some('b' | 'B') => self.unsupported("a word boundary inside a class", "move it outside"),
                Some(c) => self.escaped(c),
                None => self.invalid("a backslash stands alone"),
            },
            Some(c) => Ok(c),
            None => self.invalid("a character class is never closed"),
        }
    }

    /// Writes `[:alpha:]`; false, with nothing consumed, where the `[` stands for itself.
    fn posix_class(&mut self) -> Result<bool, DialectError> {
        let rest: String = self.chars[self.at + 2..].iter().collect();
        let Some((name, _)) = rest.split_once(":]") else { return Ok(false) };
        if !POSIX_CLASSES.contains(&name.trim_start_matches('^')) {
            return self.invalid(format!("there is no class [:{name}:]"));
        }
        self.at += name.chars().count() + 4;
        self.out.push_str(&format!("[:{name}:]"));
        Ok(true)
    }
}
