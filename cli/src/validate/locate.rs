//! Where in a JSON text a pointer (RFC 6901) leads. It walks over the text once and checks no more of it than it
//! needs: of text that is not JSON it finds what it can.

/// A place in a text, counted from 1; columns are characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character within the line.
    pub column: usize,
}

/// Finds the value that a pointer names, or the innermost one on the way there that exists: the place of a missing
/// key is the object that lacks it. Answers `None` where the text has no value, or the pointer is none.
pub fn locate(text: &str, pointer: &str) -> Option<Position> {
    let mut steps = Vec::new();
    if !pointer.is_empty() {
        let rest = pointer.strip_prefix('/')?;
        steps.extend(rest.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")));
    }
    let mut walk = Walk { text: text.as_bytes(), at: 0 };
    walk.skip_space();
    if walk.at == text.len() {
        return None;
    }
    let mut place = walk.at;
    for step in &steps {
        if walk.enter(step).is_none() {
            break;
        }
        place = walk.at;
    }
    Some(position(text, place))
}

fn position(text: &str, place: usize) -> Position {
    let before = &text[..place];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Position { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
}

/// A place in the text. It only ever rests before an ASCII character or at the end, so never within another one.
struct Walk<'a> {
    text: &'a [u8],
    at: usize,
}

impl Walk<'_> {
    /// From the start of a container to the start of the value that a step names.
    fn enter(&mut self, step: &str) -> Option<()> {
        match self.peek()? {
            b'{' => self.enter_object(step),
            b'[' => self.enter_array(step.parse().ok()?),
            _ => None,
        }
    }

    fn enter_object(&mut self, key: &str) -> Option<()> {
        self.at += 1;
        loop {
            self.skip_space();
            let start = self.at;
            self.skip_string()?;
            // Where a key is given twice, parsers take the last; the first is good enough to point at.
            let is_key =
                serde_json::from_slice::<String>(&self.text[start..self.at]).is_ok_and(|name| name == key);
            self.skip_space();
            self.expect(b':')?;
            self.skip_space();
            if is_key {
                return Some(());
            }
            self.skip_value()?;
            self.skip_space();
            self.expect(b',')?;
        }
    }

    fn enter_array(&mut self, index: usize) -> Option<()> {
        self.at += 1;
        self.skip_space();
        for _ in 0..index {
            self.skip_value()?;
            self.skip_space();
            self.expect(b',')?;
            self.skip_space();
        }
        (self.peek()? != b']').then_some(())
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn expect(&mut self, wanted: u8) -> Option<()> {
        (self.peek()? == wanted).then(|| self.at += 1)
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn skip_string(&mut self) -> Option<()> {
        self.expect(b'"')?;
        loop {
            match self.peek()? {
                b'\\' => self.at += 2,
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                _ => self.at += 1,
            }
        }
    }

    /// Counts brackets instead of recursing: a text may be nested as deep as it likes.
    fn skip_value(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            match self.peek()? {
                b'"' => self.skip_string()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => self.at += 1,
                byte if byte.is_ascii_whitespace() => self.at += 1,
                _ => self.skip_word()?,
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// A number, `true`, `false` or `null`.
    fn skip_word(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, pointer: &str) -> Option<(usize, usize)> {
        locate(text, pointer).map(|position| (position.line, position.column))
    }

    const TEXT: &str =
        "{\n  \"é\": [1, {\"a/b\": true},\n    [[2]]],\n  \"x~\": \"quo\\\"te\", \"last\": -1.5e3\n}";

    #[test]
    fn values_are_found_by_their_pointers() {
        assert_eq!(at(TEXT, ""), Some((1, 1)));
        assert_eq!(at(TEXT, "/é"), Some((2, 8)));
        assert_eq!(at(TEXT, "/é/0"), Some((2, 9)));
        assert_eq!(at(TEXT, "/é/1/a~1b"), Some((2, 20)));
        assert_eq!(at(TEXT, "/é/2/0/0"), Some((3, 7)));
        assert_eq!(at(TEXT, "/x~0"), Some((4, 9)));
        assert_eq!(at(TEXT, "/last"), Some((4, 28)));
    }

    #[test]
    fn what_is_missing_lies_where_it_would_be() {
        assert_eq!(at(TEXT, "/nothing"), Some((1, 1)));
        assert_eq!(at(TEXT, "/é/9"), Some((2, 8)));
        assert_eq!(at(TEXT, "/é/1/type"), Some((2, 12)));
        assert_eq!(at(TEXT, "/last/deeper"), Some((4, 28)));
        assert_eq!(at("[]", "/0"), Some((1, 1)));
    }

    #[test]
    fn text_that_is_no_json_does_no_harm() {
        assert_eq!(at("", "/a"), None);
        assert_eq!(at("  \n", ""), None);
        assert_eq!(at("{\"a\"", "/a"), Some((1, 1)));
        assert_eq!(at("{\"a\": \"\\", "/b"), Some((1, 1)));
        assert_eq!(at("{a: 1}", "/a"), Some((1, 1)));
        assert_eq!(at("{\"a\": é}", "/b"), Some((1, 1)));
        assert_eq!(at("{\"é\": ]]}", "/b"), Some((1, 1)));
        assert_eq!(at("{}", "no-slash"), None);
        let deep = format!("{{\"a\": {}1{}, \"b\": 2}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(at(&deep, "/b"), Some((1, deep.len() - 1)));
    }

    #[test]
    fn every_value_of_a_real_workflow_is_found_where_it_is() {
        let text = crate::demo_site::WORKFLOW;
        let workflow: serde_json::Value = serde_json::from_str(text).unwrap();
        for (index, node) in workflow["config"]["data_extraction"].as_array().unwrap().iter().enumerate() {
            let found = locate(text, &format!("/config/data_extraction/{index}/id")).unwrap();
            let line = text.lines().nth(found.line - 1).unwrap();
            let rest: String = line.chars().skip(found.column - 1).collect();
            assert!(rest.starts_with(&node["id"].to_string()), "{rest}");
        }
    }
}
