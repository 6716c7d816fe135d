//! Paths in one form, and the patterns of robots.txt that match them (RFC 9309, sections 2.2.2 and 2.2.3).
//!
//! Written here and not taken from a crate: those that there are compare paths as they are written, or match in time
//! that grows with a power of a hostile pattern's length. This takes time in proportion to pattern and path.

use url::Url;

/// A pattern: literal texts with any text between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    /// What lies between the `*`; the first one must begin the path.
    literals: Vec<String>,
    /// Whether the path must end with the pattern: it ended with `$`.
    is_anchored: bool,
}

/// The path and query of a URL, in the form that patterns are compared with.
pub(super) fn comparable_path(url: &Url) -> String {
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    comparable(format!("{}{query}", url.path()).as_bytes(), false)
}

impl Pattern {
    /// Reads a pattern. One that begins with neither `/` nor `*` is taken as if it began with `/`, which is what its
    /// author meant; an empty one is none.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let (text, is_anchored) = match text {
            [] => return None,
            [text @ .., b'$'] => (text, true),
            text => (text, false),
        };
        let mut form = comparable(text, true);
        if !form.starts_with(['/', '*']) {
            form.insert(0, '/');
        }
        let mut literals: Vec<String> = Vec::new();
        for literal in form.split('*') {
            // Of several stars in a row one is enough.
            let repeats = literals.len() > 1 && literals.last().is_some_and(String::is_empty);
            if !(repeats && literal.is_empty()) {
                literals.push(literal.to_owned());
            }
        }
        Some(Self { literals, is_anchored })
    }

    /// How specific it is: of several patterns that match, the one with the most octets counts.
    pub(super) fn octets(&self) -> usize {
        let stars = self.literals.len() - 1;
        self.literals.iter().map(String::len).sum::<usize>() + stars + usize::from(self.is_anchored)
    }

    /// Whether it matches a path in comparable form.
    pub(super) fn matches(&self, path: &str) -> bool {
        let Some((first, others)) = self.literals.split_first() else { return false };
        let Some(mut left) = path.strip_prefix(first.as_str()) else { return false };
        let Some((last, middle)) = others.split_last() else { return !self.is_anchored || left.is_empty() };
        for literal in middle {
            // The leftmost place leaves most room for what follows.
            let Some(at) = left.find(literal.as_str()) else { return false };
            left = &left[at + literal.len()..];
        }
        if self.is_anchored { left.ends_with(last.as_str()) } else { left.contains(last.as_str()) }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.literals.join("*"), if self.is_anchored { "$" } else { "" })
    }
}

/// One form for all ways to write a path: what is unreserved (RFC 3986, section 2.3) stands for itself, everything
/// that may not stand in a URL is percent-encoded, and reserved characters stay as they are written, because encoded
/// they mean something else. In a query `:` and `/` mean nothing else, and stand for themselves.
fn comparable(text: &[u8], is_pattern: bool) -> String {
    let mut form = String::with_capacity(text.len());
    let mut is_in_query = false;
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'%' => match encoded(rest) {
                Some(octet) => {
                    rest = &rest[2..];
                    if is_unreserved(octet) || is_in_query && matches!(octet, b':' | b'/') {
                        form.push(char::from(octet));
                    } else {
                        push_encoded(&mut form, octet);
                    }
                }
                None => push_encoded(&mut form, b'%'),
            },
            b'*' if is_pattern => form.push('*'),
            b'?' => {
                is_in_query = true;
                form.push('?');
            }
            // `'` is reserved as well, but the URL standard encodes it in queries; `*` and `$` are special in patterns.
            byte if is_unreserved(*byte) || b":/#[]@!&()+,;=".contains(byte) => form.push(char::from(*byte)),
            byte => push_encoded(&mut form, *byte),
        }
    }
    form
}

/// The octet that the two hexadecimal digits after a `%` stand for.
fn encoded(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| {
        let digit = char::from(*digits.get(at)?).to_digit(16)?;
        u8::try_from(digit).ok()
    };
    Some(digit(0)? * 16 + digit(1)?)
}

fn is_unreserved(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"-._~".contains(&octet)
}

fn push_encoded(form: &mut String, octet: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    form.extend(['%', digit(octet >> 4), digit(octet & 15)]);
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        let url = Url::parse("http://a.test").unwrap().join(path).unwrap();
        Pattern::parse(pattern.as_bytes()).unwrap().matches(&comparable_path(&url))
    }

    #[test]
    fn patterns_match_as_the_documents_about_them_say() {
        for (pattern, matched, others) in [
            ("/", &["/", "/fish"][..], &[][..]),
            (
                "/fish",
                &["/fish", "/fish.html", "/fish/salmon", "/fish.php?id=1"],
                &["/Fish", "/catfish", "/?id=fish"],
            ),
            ("/fish*", &["/fish", "/fish.html", "/fishheads"], &["/Fish", "/catfish"]),
            ("/fish/", &["/fish/", "/fish/?id=1", "/fish/salmon.htm"], &["/fish", "/fish.html"]),
            ("/*.php", &["/index.php", "/a/b.php?x", "/a.php.b/", "/a.php5"], &["/", "/windows.PHP"]),
            ("/*.php$", &["/a.php", "/a/b.php", "/a.php.php"], &["/a.php?x", "/a.php/", "/a.php5"]),
            ("/fish*.php", &["/fish.php", "/fishheads/catfish.php?x"], &["/Fish.php"]),
            ("/a$", &["/a"], &["/ab", "/a/", "/a?b"]),
            ("*", &["/", "/a"], &[]),
            ("*/b", &["/b", "/a/b", "/b/c"], &["/a"]),
            ("/a***b**", &["/ab", "/axb", "/axbc"], &["/a"]),
            ("/a*b*$", &["/ab", "/axbc"], &["/ac"]),
            ("$", &["/"], &["/a"]),
            ("private", &["/private/"], &["/a/private"]),
            ("/x*a*ab$", &["/xaab", "/xa-ab"], &["/xab"]),
        ] {
            for path in matched {
                assert!(matches(pattern, path), "{pattern} {path}");
            }
            for path in others {
                assert!(!matches(pattern, path), "{pattern} {path}");
            }
        }
    }

    #[test]
    fn one_path_written_in_two_ways_is_one_path() {
        // The table of RFC 9309, section 2.2.2, and what surrounds it.
        for (pattern, path) in [
            ("/foo/bar?baz=quz", "/foo/bar?baz=quz"),
            ("/foo/bar?baz=https://foo.bar", "/foo/bar?baz=https%3A%2F%2Ffoo.bar"),
            ("/foo/bar?baz=https%3a%2f%2Ffoo.bar", "/foo/bar?baz=https://foo.bar"),
            ("/foo/bar/\u{30c4}", "/foo/bar/%E3%83%84"),
            ("/foo/bar/%e3%83%84", "/foo/bar/\u{30c4}"),
            ("/foo/bar/%62%61%7A", "/foo/bar/baz"),
            ("/foo/bar/baz", "/foo/bar/%62%61%7A"),
            ("/~joe", "/%7Ejoe"),
            ("/a b|c", "/a%20b%7Cc"),
            ("/?q='x'", "/?q=%27x%27"),
            // Section 2.2.3: a special character that stands for itself is encoded.
            ("/path/file-with-a-%2A.html", "/path/file-with-a-*.html"),
            ("/path/foo-%24", "/path/foo-$"),
            ("/a$b", "/a$b"),
            ("/100%", "/100%25"),
        ] {
            assert!(matches(&format!("{pattern}$"), path), "{pattern} {path}");
        }
        assert!(!matches("/a/b", "/a%2Fb"), "an encoded separator is none");
        assert!(!matches("/a%2Fb", "/a/b"));
    }

    #[test]
    fn a_pattern_made_to_take_long_does_not() {
        let pattern = Pattern::parse(format!("/{}b$", "a*".repeat(200_000)).as_bytes()).unwrap();
        let path = format!("/{}", "a".repeat(4000));
        let begun = Instant::now();
        for _ in 0..100 {
            assert!(!pattern.matches(&path));
        }
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}
