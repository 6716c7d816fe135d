//! One pass over a Go pattern, which writes the same thing for the `regex` crate. Finds what is foreign to Go; whether
//! the rest is well formed (parentheses, repetitions of nothing) is left to the engine.

use super::DialectError;

/// Go's own limit of a counted repetition.
const MAX_REPEAT: u32 = 1000;

/// Walks over a Go pattern once and writes the same thing for the `regex` crate.
pub(super) struct Translator {
    pub(super) chars: Vec<char>,
    pub(super) at: usize,
    pub(super) out: String,
    /// Whether the last thing written was a repetition: Go refuses another one right behind it.
    repeated: bool,
}

impl Translator {
    pub(super) fn new(pattern: &str) -> Self {
        Self {
            chars: pattern.chars().collect(),
            at: 0,
            out: String::with_capacity(2 * pattern.len()),
            repeated: false,
        }
    }

    pub(super) fn run(mut self) -> Result<String, DialectError> {
        while let Some(next) = self.next() {
            let after_repetition = std::mem::take(&mut self.repeated);
            match next {
                '\\' => self.escape()?,
                '[' => self.class()?,
                '(' => self.group()?,
                '*' | '+' | '?' => self.repetition(&next.to_string(), after_repetition)?,
                '{' => match self.count()? {
                    Some(count) => self.repetition(&count, after_repetition)?,
                    None => self.literal('{'),
                },
                '^' | '$' | '.' | ')' | '|' => self.out.push(next),
                other => self.literal(other),
            }
        }
        Ok(self.out)
    }

    pub(super) fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += 1;
        Some(next)
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    pub(super) fn ahead(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(offset, c)| self.chars.get(self.at + offset) == Some(&c))
    }

    pub(super) fn invalid<T>(&self, reason: impl Into<String>) -> Result<T, DialectError> {
        Err(DialectError::Invalid { reason: reason.into(), position: self.at.max(1) })
    }

    pub(super) fn unsupported<T>(
        &self,
        construct: impl Into<String>,
        advice: &'static str,
    ) -> Result<T, DialectError> {
        Err(DialectError::Unsupported { construct: construct.into(), position: self.at.max(1), advice })
    }

    /// Writes a character that stands for itself, inside a class or outside.
    pub(super) fn literal(&mut self, c: char) {
        if c.is_ascii() && !c.is_ascii_alphanumeric() {
            self.out.push_str(&format!("\\x{{{:x}}}", u32::from(c)));
        } else {
            self.out.push(c);
        }
    }

    fn repetition(&mut self, operator: &str, after_repetition: bool) -> Result<(), DialectError> {
        if after_repetition {
            return self.unsupported(
                format!("a repetition of a repetition (`{operator}`)"),
                "put the first one into a group, `(?:...)`",
            );
        }
        self.out.push_str(operator);
        if self.peek() == Some('?') {
            self.at += 1;
            self.out.push('?');
        }
        self.repeated = true;
        Ok(())
    }

    /// Reads `n}`, `n,}` or `n,m}` behind a `{`; anything else is no count, and nothing is consumed.
    fn count(&mut self) -> Result<Option<String>, DialectError> {
        let Some(length) = self.chars[self.at..].iter().position(|c| *c == '}') else { return Ok(None) };
        let inner: String = self.chars[self.at..self.at + length].iter().collect();
        let (least, most) = match inner.split_once(',') {
            None => (inner.as_str(), inner.as_str()),
            Some((least, "")) => (least, least),
            Some(bounds) => bounds,
        };
        let is_count = |digits: &str| {
            !digits.is_empty()
                && digits.bytes().all(|b| b.is_ascii_digit())
                && (digits.len() == 1 || !digits.starts_with('0'))
        };
        if !is_count(least) || !is_count(most) {
            return Ok(None);
        }
        let number = |digits: &str| digits.parse::<u32>().unwrap_or(u32::MAX);
        if number(least) > MAX_REPEAT || number(most) > MAX_REPEAT {
            return self.invalid(format!("the repetition {{{inner}}} counts beyond {MAX_REPEAT}"));
        }
        if number(least) > number(most) {
            return self.invalid(format!("the repetition {{{inner}}} ends before it begins"));
        }
        self.at += length + 1;
        Ok(Some(format!("{{{inner}}}")))
    }

    fn group(&mut self) -> Result<(), DialectError> {
        if self.peek() != Some('?') {
            self.out.push('(');
            return Ok(());
        }
        self.at += 1;
        for (sign, what) in
            [("=", "lookahead"), ("!", "lookahead"), ("<=", "lookbehind"), ("<!", "lookbehind")]
        {
            if self.ahead(sign) {
                return self.unsupported(
                    format!("a {what} (`(?{sign}`)"),
                    "match more and keep what you need with a group and `$1`",
                );
            }
        }
        if self.ahead("P=") {
            return self.unsupported("a backreference (`(?P=`)", "write the repeated part out");
        }
        if self.ahead("P<") || self.ahead("<") {
            return self.named_group();
        }
        self.flags()
    }

    fn named_group(&mut self) -> Result<(), DialectError> {
        self.at += if self.ahead("P<") { 2 } else { 1 };
        let mut name = String::new();
        loop {
            match self.next() {
                Some('>') => break,
                Some(c) if c.is_ascii_alphanumeric() || c == '_' => name.push(c),
                _ => return self.invalid("a group's name is not made of letters, digits and `_`"),
            }
        }
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return self.invalid("a group's name does not begin with a letter or `_`");
        }
        self.out.push_str(&format!("(?P<{name}>"));
        Ok(())
    }

    fn flags(&mut self) -> Result<(), DialectError> {
        let mut flags = String::new();
        loop {
            match self.next() {
                Some(flag @ ('i' | 'm' | 's' | 'U' | '-')) => flags.push(flag),
                Some(end @ (':' | ')')) => {
                    self.out.push_str(&format!("(?{flags}{end}"));
                    return Ok(());
                }
                Some(other) => {
                    return self.unsupported(
                        format!("the group `(?{flags}{other}`"),
                        "known are `(?:`, `(?P<name>`, and the flags i, m, s, U",
                    );
                }
                None => return self.invalid("a group is not closed"),
            }
        }
    }

    /// Writes what stands behind a backslash outside a class.
    fn escape(&mut self) -> Result<(), DialectError> {
        match self.next() {
            Some(c) if self.perl_class(c, true) => Ok(()),
            Some(c @ ('b' | 'B')) => {
                self.out.push_str(&format!("(?-u:\\{c})"));
                Ok(())
            }
            Some(c @ ('A' | 'z')) => {
                self.out.push('\\');
                self.out.push(c);
                Ok(())
            }
            Some(c @ ('p' | 'P')) => self.unicode_class(c),
            Some('Q') => {
                while self.peek().is_some() && !self.ahead("\\E") {
                    let quoted = self.chars[self.at];
                    self.literal(quoted);
                    self.at += 1;
                }
                self.at = (self.at + 2).min(self.chars.len());
                Ok(())
            }
            Some(c) => {
                let c = self.escaped(c)?;
                self.literal(c);
                Ok(())
            }
            None => self.invalid("a backslash stands alone"),
        }
    }

    /// The character that `\` and `c` stand for, inside a class or outside.
    pub(super) fn escaped(&mut self, c: char) -> Result<char, DialectError> {
        let octal = |c: Option<char>| c.and_then(|c| c.to_digit(8));
        match c {
            'a' => Ok('\x07'),
            'f' => Ok('\x0c'),
            'n' => Ok('\n'),
            'r' => Ok('\r'),
            't' => Ok('\t'),
            'v' => Ok('\x0b'),
            'x' => self.hexadecimal(),
            '1'..='9' if c > '7' || octal(self.peek()).is_none() => {
                self.unsupported(format!("the backreference `\\{c}`"), "write the repeated part out")
            }
            '0'..='7' => {
                let mut code = octal(Some(c)).unwrap_or_default();
                for _ in 0..2 {
                    let Some(digit) = octal(self.peek()) else { break };
                    code = code * 8 + digit;
                    self.at += 1;
                }
                char::from_u32(code).map_or_else(|| self.invalid("no such character"), Ok)
            }
            'k' => self.unsupported("a backreference (`\\k`)", "write the repeated part out"),
            'Z' => self.unsupported("`\\Z`", "write `\\z` for the end of the text"),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Ok(c),
            c => self.unsupported(format!("the escape `\\{c}`"), "write the character itself"),
        }
    }

    /// Reads `41` or `{41}` behind `\x`.
    fn hexadecimal(&mut self) -> Result<char, DialectError> {
        let mut digits = String::new();
        if self.peek() == Some('{') {
            self.at += 1;
            loop {
                match self.next() {
                    Some('}') => break,
                    Some(c) if c.is_ascii_hexdigit() && digits.len() < 8 => digits.push(c),
                    _ => return self.invalid("`\\x{` needs up to eight hexadecimal digits and `}`"),
                }
            }
        } else {
            for _ in 0..2 {
                match self.next() {
                    Some(c) if c.is_ascii_hexdigit() => digits.push(c),
                    _ => return self.invalid("`\\x` needs two hexadecimal digits"),
                }
            }
        }
        let character = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
        character.map_or_else(|| self.invalid(format!("there is no character with the code {digits}")), Ok)
    }
}
