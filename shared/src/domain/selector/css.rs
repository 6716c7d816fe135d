//! The grammar of CSS selectors: Selectors Level 4 (<https://www.w3.org/TR/selectors-4>) on the tokens of CSS Syntax
//! Level 3. Names of pseudo-classes that it does not know pass, because a newer browser may know them.

use super::foreign;
use super::token::{Checked, Reader, is_space, never_closed};

/// How deep selectors may nest within `:is()` and the like.
const MAX_NESTING: usize = 32;

/// Says what is wrong with a selector list. Positions count characters from 1.
pub(super) fn check(query: &str) -> Checked {
    let mut reader = Reader { chars: query.chars().collect(), at: 0, nesting: 0 };
    reader.list(false)?;
    match reader.peek() {
        None => Ok(()),
        Some(c) => Err(format!("the `{c}` at character {} closes nothing", reader.at + 1)),
    }
}

impl Reader {
    /// Complex selectors between commas, up to the end or a closing parenthesis.
    fn list(&mut self, relative: bool) -> Checked {
        loop {
            self.space()?;
            if self.peek() == Some(',') {
                return Err(format!("there is no selector before the comma at character {}", self.at + 1));
            }
            self.complex(relative)?;
            if !self.take(',') {
                return Ok(());
            }
            self.space()?;
            if matches!(self.peek(), None | Some(')')) {
                return Err(format!("nothing follows the comma before {}", self.here()));
            }
        }
    }

    fn complex(&mut self, relative: bool) -> Checked {
        if let Some(c @ ('>' | '+' | '~')) = self.peek() {
            if !relative {
                return Err(format!(
                    "the selector begins with the combinator `{c}`; nothing stands before it"
                ));
            }
            self.at += 1;
            self.space()?;
        }
        loop {
            self.compound()?;
            let spaced = self.space()?;
            match self.peek() {
                None | Some(',' | ')') => return Ok(()),
                Some(c @ ('>' | '+' | '~')) => self.combinator(c)?,
                Some('|') if self.peek_at(1) == Some('|') => {
                    return Err("the combinator `||` is not known to browsers".into());
                }
                Some(_) if spaced => {}
                Some(_) => return Err(format!("{} cannot stand there", self.here())),
            }
        }
    }

    fn combinator(&mut self, c: char) -> Checked {
        self.at += 1;
        if c == '>' && self.peek() == Some('>') {
            return Err(
                "`>>` chains selectors in another tool; write a space (anywhere inside) or `>` (child)"
                    .into(),
            );
        }
        self.space()?;
        match self.peek() {
            None | Some(',' | ')') => Err(format!("nothing follows the combinator `{c}`")),
            Some(second @ ('>' | '+' | '~')) => {
                Err(format!("the combinators `{c}` and `{second}` follow each other"))
            }
            _ => Ok(()),
        }
    }

    fn compound(&mut self) -> Checked {
        let begun = self.at;
        loop {
            self.comments()?;
            let first = self.at == begun;
            match self.peek() {
                Some('#') => self.prefixed_name('#', "id")?,
                Some('.') => self.prefixed_name('.', "class")?,
                Some('[') => self.attribute()?,
                Some(':') => self.pseudo()?,
                Some('&') => self.at += 1,
                Some('*') if first => self.element()?,
                Some('|') if first && !matches!(self.peek_at(1), Some('|' | '=')) => self.element()?,
                Some(_) if self.at_ident() => {
                    if !first && self.chars[self.at - 1] != '&' {
                        return Err(format!(
                            "the element name before which a `{}` stands, at character {}, must come first",
                            self.chars[self.at - 1],
                            self.at + 1
                        ));
                    }
                    self.element()?;
                }
                Some('*') => return Err(format!("the `*` at character {} must come first", self.at + 1)),
                _ if !first => return Ok(()),
                Some(c) if c.is_ascii_digit() => {
                    return Err(format!(
                        "a name cannot begin with the digit {c} at character {}; write `\\3{c} ` for it",
                        self.at + 1
                    ));
                }
                None => return Err("a selector is missing at the end".into()),
                Some(_) => return Err(format!("{} cannot begin a selector", self.here())),
            }
        }
    }

    /// `a`, `*`, `svg|a`, `*|a`, `|a`.
    fn element(&mut self) -> Checked {
        if !self.take('*') && self.peek() != Some('|') {
            self.ident("an element's name")?;
        }
        if self.peek() == Some('|') && !matches!(self.peek_at(1), Some('|' | '=')) {
            self.at += 1;
            if !self.take('*') {
                self.ident("an element's name")?;
            }
        }
        Ok(())
    }

    fn prefixed_name(&mut self, prefix: char, what: &str) -> Checked {
        self.at += 1;
        if self.at_ident() {
            return self.ident(what);
        }
        let at = self.at + 1;
        Err(match self.peek() {
            None => format!("nothing follows the `{prefix}` at the end"),
            Some(c) if c == prefix => format!("`{prefix}{prefix}` at character {} is doubled", at - 1),
            Some(c) if c.is_ascii_digit() => format!(
                "the {what} name at character {at} begins with a digit; write `{prefix}\\3{c} ...` or `[{what}~=\"...\"]`"
            ),
            Some(c) => {
                format!("`{prefix}` at character {} is followed by `{c}`, which is no {what} name", at - 1)
            }
        })
    }

    fn attribute(&mut self) -> Checked {
        let opened = self.at + 1;
        self.at += 1;
        self.space()?;
        if self.peek() == Some('@') {
            return Err(format!("`[@` at character {opened} is XPath; in CSS write `[name]`"));
        }
        self.element_or_attribute_name(opened)?;
        self.space()?;
        if self.take(']') {
            return Ok(());
        }
        if matches!(self.peek(), Some('~' | '|' | '^' | '$' | '*')) && self.peek_at(1) == Some('=') {
            self.at += 1;
        }
        if !self.take('=') {
            return Err(match self.peek() {
                None => never_closed('[', opened),
                Some(_) => {
                    format!("{} is no operator of an attribute; there are =, ~=, |=, ^=, $=, *=", self.here())
                }
            });
        }
        self.space()?;
        match self.peek() {
            Some(quote @ ('"' | '\'')) => self.string(quote)?,
            _ if self.at_ident() => self.ident("a value")?,
            None => return Err(never_closed('[', opened)),
            Some(']') => {
                return Err(format!("the value is missing before the `]` at character {}", self.at + 1));
            }
            Some(_) => return Err(format!("the value at character {} needs quotes around it", self.at + 1)),
        }
        self.space()?;
        if matches!(self.peek(), Some('i' | 'I' | 's' | 'S'))
            && self.peek_at(1).is_none_or(|c| c == ']' || c == '/' || is_space(c))
        {
            self.at += 1;
            self.space()?;
        }
        match self.peek() {
            Some(']') => {
                self.at += 1;
                Ok(())
            }
            None => Err(never_closed('[', opened)),
            Some(_) => {
                Err(format!("{} is not expected in `[...]`; put the whole value in quotes", self.here()))
            }
        }
    }

    fn element_or_attribute_name(&mut self, opened: usize) -> Checked {
        let named = self.peek() == Some('|') && self.peek_at(1) != Some('=')
            || self.peek() == Some('*') && self.peek_at(1) == Some('|')
            || self.at_ident();
        if named {
            return self.element();
        }
        Err(match self.peek() {
            None => never_closed('[', opened),
            Some(_) => {
                format!("the `[` at character {opened} needs an attribute's name before {}", self.here())
            }
        })
    }

    fn pseudo(&mut self) -> Checked {
        self.at += 1;
        let is_element = self.take(':');
        let begun = self.at;
        self.ident("the name of a pseudo-class")?;
        let name: String = self.chars[begun..self.at].iter().collect::<String>().to_ascii_lowercase();
        if let Some(advice) = foreign::pseudo(&name, is_element) {
            return Err(advice);
        }
        let opened = self.at + 1;
        if !self.take('(') {
            let needs = matches!(name.as_str(), "is" | "where" | "not" | "has" | "lang" | "dir" | "state")
                || name.starts_with("nth-");
            return if needs && !is_element {
                Err(format!("`:{name}` needs its argument in parentheses"))
            } else {
                Ok(())
            };
        }
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(format!("the selector nests deeper than {MAX_NESTING} levels"));
        }
        self.space()?;
        self.arguments(&name, opened)?;
        self.space()?;
        self.nesting -= 1;
        match self.peek() {
            Some(')') => {
                self.at += 1;
                Ok(())
            }
            None => Err(never_closed('(', opened)),
            Some(_) => Err(format!("{} cannot stand in `:{name}(...)`", self.here())),
        }
    }

    fn arguments(&mut self, name: &str, opened: usize) -> Checked {
        match (name, self.peek()) {
            (_, None) => Err(never_closed('(', opened)),
            // The only two whose lists forgive: empty ones match nothing.
            ("is" | "where" | "-webkit-any", Some(')')) => Ok(()),
            (_, Some(')')) => Err(format!("the parentheses of `:{name}()` are empty")),
            ("has", _) => self.list(true),
            (
                "is" | "where" | "not" | "matches" | "any" | "-webkit-any" | "host" | "host-context"
                | "slotted" | "cue" | "current",
                _,
            ) => self.list(false),
            ("nth-child" | "nth-last-child", _) => {
                self.an_plus_b(name)?;
                if self.space()? && self.keyword("of") {
                    self.space()?;
                    self.list(false)?;
                }
                Ok(())
            }
            ("nth-of-type" | "nth-last-of-type" | "nth-col" | "nth-last-col", _) => self.an_plus_b(name),
            _ => self.anything(opened),
        }
    }

    /// `odd`, `even`, `5`, `-n+3`, `2n + 1`.
    fn an_plus_b(&mut self, name: &str) -> Checked {
        if self.keyword("odd") || self.keyword("even") {
            return Ok(());
        }
        let wrong = |reader: &Self| {
            format!(
                "`:{name}()` takes a number, `odd`, `even`, or a formula such as `2n+1`; {} is none",
                reader.here()
            )
        };
        let _ = self.take('+') || self.take('-');
        let counted = self.digits();
        if !self.take('n') && !self.take('N') {
            return if counted { Ok(()) } else { Err(wrong(self)) };
        }
        let step_ends = self.at;
        self.space()?;
        if self.take('+') || self.take('-') {
            self.space()?;
            return if self.digits() { Ok(()) } else { Err(wrong(self)) };
        }
        self.at = step_ends;
        Ok(())
    }

    /// Tokens of any kind up to the closing parenthesis, with brackets and quotes in pairs.
    fn anything(&mut self, opened: usize) -> Checked {
        let mut open = vec![('(', opened)];
        loop {
            match self.peek() {
                None => {
                    let (bracket, at) = open.pop().unwrap_or(('(', opened));
                    return Err(never_closed(bracket, at));
                }
                Some(quote @ ('"' | '\'')) => self.string(quote)?,
                Some('\\') => self.at = (self.at + 2).min(self.chars.len()),
                Some(c @ ('(' | '[')) => {
                    self.at += 1;
                    open.push((c, self.at));
                }
                Some(')') if open.len() == 1 => return Ok(()),
                Some(c @ (')' | ']')) => {
                    self.at += 1;
                    if !matches!((open.pop(), c), (Some(('(', _)), ')') | (Some(('[', _)), ']'))
                        || open.is_empty()
                    {
                        return Err(format!("the `{c}` at character {} closes nothing", self.at));
                    }
                }
                Some(_) => self.at += 1,
            }
        }
    }
}
