//! Reads members of a JSON object by name and type. A member of the wrong type is a problem, `null` is as good as
//! absent, and what nobody asked for is warned of in the end.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::problem::{Pointer, Report};
use super::suggest::did_you_mean;
use crate::domain::page_url::{PageUrlError, may_hold_credentials};

/// Of how many unknown members an object is told.
const MAX_UNKNOWN: usize = 50;

/// One object of the document, and the names that were asked of it.
pub(super) struct Object<'v> {
    members: &'v Map<String, Value>,
    at: Pointer,
    known: Vec<&'static str>,
}

impl<'v> Object<'v> {
    /// Takes the value for an object; anything else is a problem.
    pub(super) fn read(value: &'v Value, at: &Pointer, report: &mut Report) -> Option<Self> {
        match value {
            Value::Object(members) => Some(Self::of(members, at)),
            other => wrong_type(at, "an object", other, report),
        }
    }

    /// Reads an object that was seen to be one.
    pub(super) fn of(members: &'v Map<String, Value>, at: &Pointer) -> Self {
        Self { members, at: at.clone(), known: Vec::new() }
    }

    /// Where the object is.
    pub(super) fn here(&self) -> &Pointer {
        &self.at
    }

    /// Whether it has no members.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Where the member is, or would be.
    pub(super) fn at(&self, key: &str) -> Pointer {
        self.at.key(key)
    }

    /// The member as it is; `None` where it is absent or `null`.
    pub(super) fn value(&mut self, key: &'static str) -> Option<&'v Value> {
        self.known.push(key);
        self.members.get(key).filter(|value| !value.is_null())
    }

    /// The member as it is, `null` included.
    pub(super) fn value_or_null(&mut self, key: &'static str) -> Option<&'v Value> {
        self.known.push(key);
        self.members.get(key)
    }

    /// Notes names as known that are not read here.
    pub(super) fn ignore(&mut self, keys: &[&'static str]) {
        self.known.extend(keys);
    }

    /// A string.
    pub(super) fn text(&mut self, key: &'static str, report: &mut Report) -> Option<&'v str> {
        match self.value(key)? {
            Value::String(text) => Some(text),
            other => wrong_type(&self.at(key), "a string", other, report),
        }
    }

    /// A string that must be there and not blank; `code` names the problem where it is not.
    pub(super) fn needed_text(
        &mut self,
        key: &'static str,
        code: &str,
        message: &str,
        report: &mut Report,
    ) -> Option<&'v str> {
        match self.value(key) {
            Some(Value::String(text)) if !text.trim().is_empty() => Some(text),
            None | Some(Value::String(_)) => {
                report.problem(&self.at(key), code, message);
                None
            }
            Some(other) => wrong_type(&self.at(key), "a string", other, report),
        }
    }

    /// `true` or `false`; absent is `false`.
    pub(super) fn flag(&mut self, key: &'static str, report: &mut Report) -> bool {
        match self.value(key) {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => wrong_type(&self.at(key), "true or false", other, report).unwrap_or(false),
        }
    }

    /// A whole number within the range; `1.0` is one.
    pub(super) fn whole(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        report: &mut Report,
    ) -> Option<u64> {
        let range = i128::from(*range.start())..=i128::from(*range.end());
        self.integer(key, range, report).and_then(|whole| u64::try_from(whole).ok())
    }

    /// A whole number within the range, which may begin below zero; `1.0` is one.
    pub(super) fn integer(
        &mut self,
        key: &'static str,
        range: RangeInclusive<i128>,
        report: &mut Report,
    ) -> Option<i128> {
        let value = self.value(key)?;
        let at = self.at(key);
        let Value::Number(number) = value else { return wrong_type(&at, "a whole number", value, report) };
        let whole =
            number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from)).or_else(|| {
                // Beyond 2^53 a float names no particular whole number, and every range ends far below.
                number.as_f64().filter(|float| float.fract() == 0.0).map(|float| float as i128)
            });
        let (least, most) = (*range.start(), *range.end());
        match whole {
            None => {
                report.problem(&at, "wrong_type", format!("{number} is not a whole number"));
                None
            }
            Some(whole) if range.contains(&whole) => Some(whole),
            Some(_) => {
                report.problem(&at, "out_of_range", format!("{number} is not within {least} and {most}"));
                None
            }
        }
    }

    /// An array; absent is empty.
    pub(super) fn list(&mut self, key: &'static str, report: &mut Report) -> &'v [Value] {
        match self.value(key) {
            None => &[],
            Some(Value::Array(elements)) => elements,
            Some(other) => wrong_type(&self.at(key), "a list", other, report).unwrap_or(&[]),
        }
    }

    /// An array of strings, each with its place; absent is empty.
    pub(super) fn texts(&mut self, key: &'static str, report: &mut Report) -> Vec<(Pointer, &'v str)> {
        let list_at = self.at(key);
        let mut texts = Vec::new();
        for (index, element) in self.list(key, report).iter().enumerate() {
            let at = list_at.index(index);
            match element {
                Value::String(text) => texts.push((at, text.as_str())),
                other => {
                    wrong_type::<()>(&at, "a string", other, report);
                }
            }
        }
        texts
    }

    /// Warns of every member that nobody asked for, or finds fault with it where the report is strict. `owner` says whose
    /// settings these are.
    pub(super) fn warn_of_unknown(&self, owner: &str, report: &mut Report) {
        let unknown = self.members.keys().filter(|key| !self.known.contains(&key.as_str()));
        // A stranger's object may have very many; the first ones tell enough.
        for key in unknown.take(MAX_UNKNOWN) {
            let suggestion = did_you_mean(key, self.known.iter().copied());
            report.unknown(&self.at(key), &shorten(key), owner, &suggestion);
        }
    }
}

/// Notes that a value has the wrong type.
pub(super) fn wrong_type<T>(at: &Pointer, expected: &str, found: &Value, report: &mut Report) -> Option<T> {
    let found = match found {
        // Whoever put a secret into the wrong place does not want to read it in a message.
        Value::String(_) | Value::Number(_) if at.may_hold_secrets() => "something else".to_owned(),
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) if may_hold_credentials(text) => {
            "a string that is not shown, as it may carry a password".to_owned()
        }
        Value::String(text) => format!("the string \"{}\"", shorten(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    report.problem(at, "wrong_type", format!("expected {expected}, found {found}"));
    None
}

/// Quotes a stranger's text in a message without making the message as long as the text.
pub(super) fn shorten(text: &str) -> String {
    let short: String = text.chars().filter(|c| !c.is_control()).take(60).collect();
    if short.len() < text.len() { short + "…" } else { short }
}

/// Quotes what is, or was meant as, a URL: not one that may carry a password, which belongs into no message.
pub(super) fn quote_url(text: &str) -> String {
    if may_hold_credentials(text) {
        "a URL that is not shown, as it may carry a password,".to_owned()
    } else {
        format!("`{}`", shorten(text))
    }
}

/// Says that a URL `cannot` be what it was given for, and why.
pub(super) fn refuse_url(text: &str, cannot: &str, error: &PageUrlError) -> String {
    let why = match error {
        // What stands before the first colon may be a user name.
        PageUrlError::Scheme(_) if may_hold_credentials(text) => "the scheme is not http or https".to_owned(),
        error => error.to_string(),
    };
    format!("{} {cannot}: {why}", quote_url(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::page_url::PageUrl;

    #[test]
    fn a_refused_url_is_quoted_only_where_it_can_hold_no_password() {
        for url in [
            "https://me:hunter2@shop.test/",
            // A parser finds these faults first, and no password then.
            "https://me:hunter2@shop.test:99999/",
            "ftp://me:hunter2@shop.test/",
            "hunter2:x@shop.test",
            "//me:hunter2@shop.test/",
            "https://me:hunter2%40shop.test/",
            "https://me:hun/ter2@shop.test/",
        ] {
            let error = PageUrl::parse(url).unwrap_err();
            let message = refuse_url(url, "cannot be crawled", &error);
            assert!(!message.contains("hun"), "{message}");
            assert!(message.starts_with("a URL that is not shown"), "{message}");
        }
        let error = PageUrl::parse("ftp://shop.test/").unwrap_err();
        assert_eq!(
            refuse_url("ftp://shop.test/", "cannot be crawled", &error),
            "`ftp://shop.test/` cannot be crawled: the scheme `ftp` is not http or https"
        );
    }

    #[test]
    fn a_url_of_the_wrong_type_is_not_repeated_with_its_password() {
        let mut report = Report::default();
        let url = Value::from("https://me:hunter2@shop.test/");
        assert_eq!(wrong_type::<()>(&Pointer::default(), "a list", &url, &mut report), None);
        let problems = report.finish(Some(())).unwrap_err();
        assert!(!problems[0].message.contains("hunter2"), "{problems:?}");
    }
}
