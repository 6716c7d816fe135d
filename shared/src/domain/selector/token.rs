//! The tokens of CSS Syntax Level 3 as far as selectors need them: names with escapes, strings, white space, comments.

/// Fine, or one sentence on what is wrong.
pub(super) type Checked = Result<(), String>;

/// A selector, and how far it was read.
pub(super) struct Reader {
    pub(super) chars: Vec<char>,
    pub(super) at: usize,
    /// How many parentheses of pseudo-classes are open.
    pub(super) nesting: usize,
}

impl Reader {
    pub(super) fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    pub(super) fn peek_at(&self, offset: usize) -> Option<char> {
        self.chars.get(self.at + offset).copied()
    }

    pub(super) fn take(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        self.at += usize::from(found);
        found
    }

    pub(super) fn here(&self) -> String {
        match self.peek() {
            Some(c) => format!("`{c}` at character {}", self.at + 1),
            None => "the end".into(),
        }
    }

    /// Skips white space and comments; tells whether there was white space.
    pub(super) fn space(&mut self) -> Result<bool, String> {
        let mut any = false;
        loop {
            self.comments()?;
            if !self.peek().is_some_and(is_space) {
                return Ok(any);
            }
            any = true;
            self.at += 1;
        }
    }

    pub(super) fn comments(&mut self) -> Checked {
        while self.peek() == Some('/') && self.peek_at(1) == Some('*') {
            let rest = &self.chars[self.at + 2..];
            let Some(end) = rest.windows(2).position(|pair| pair == ['*', '/']) else {
                return Err("a comment is never closed".into());
            };
            self.at += end + 4;
        }
        Ok(())
    }

    /// Whether a name begins here.
    pub(super) fn at_ident(&self) -> bool {
        let begins = |offset: usize| match self.peek_at(offset) {
            Some('\\') => self.peek_at(offset + 1).is_some_and(|c| !is_newline(c)),
            Some(c) => c.is_ascii_alphabetic() || c == '_' || !c.is_ascii(),
            None => false,
        };
        match self.peek() {
            Some('-') => self.peek_at(1) == Some('-') || begins(1),
            _ => begins(0),
        }
    }

    pub(super) fn ident(&mut self, what: &str) -> Checked {
        if !self.at_ident() {
            return Err(format!("{what} is missing before {}", self.here()));
        }
        loop {
            match self.peek() {
                Some('\\') if self.peek_at(1).is_some_and(|c| !is_newline(c)) => self.escape(),
                Some(c) if c.is_ascii_alphanumeric() || c == '_' || c == '-' || !c.is_ascii() => self.at += 1,
                Some('\\') => {
                    return Err(format!("the backslash at character {} escapes nothing", self.at + 1));
                }
                _ => return Ok(()),
            }
        }
    }

    /// A backslash and one character, or up to six hexadecimal digits and a space.
    fn escape(&mut self) {
        self.at += 1;
        let digits = (0..6).take_while(|n| self.peek_at(*n).is_some_and(|c| c.is_ascii_hexdigit())).count();
        self.at += digits.max(1);
        if digits > 0 && self.peek().is_some_and(is_space) {
            self.at += 1;
        }
    }

    pub(super) fn string(&mut self, quote: char) -> Checked {
        let opened = self.at + 1;
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err(format!("the quote {quote} at character {opened} is never closed")),
                Some(c) if c == quote => {
                    self.at += 1;
                    return Ok(());
                }
                Some(c) if is_newline(c) => {
                    return Err(format!("the quote {quote} at character {opened} is not closed in its line"));
                }
                Some('\\') => self.at += 2,
                Some(_) => self.at += 1,
            }
        }
    }

    /// Reads the word if it stands here as a whole word, in either case.
    pub(super) fn keyword(&mut self, word: &str) -> bool {
        let length = word.len();
        let found = word
            .chars()
            .enumerate()
            .all(|(n, c)| self.peek_at(n).is_some_and(|d| d.eq_ignore_ascii_case(&c)))
            && self.peek_at(length).is_none_or(|c| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
        self.at += if found { length } else { 0 };
        found
    }

    pub(super) fn digits(&mut self) -> bool {
        let begun = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        self.at > begun
    }
}

pub(super) fn never_closed(bracket: char, at: usize) -> String {
    format!("the `{bracket}` at character {at} is never closed")
}

pub(super) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0c')
}

fn is_newline(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\x0c')
}
