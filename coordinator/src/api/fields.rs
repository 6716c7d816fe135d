//! The members of a small JSON body, read one by one: every mistake is told at once, each with its pointer, and a
//! member that nobody reads is one.

use std::ops::RangeInclusive;

use axum::http::StatusCode;
use crawlify_shared::domain::workflow::Problem;
use crawlify_shared::domain::workflow::suggest::did_you_mean;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::problem::{ApiError, Mistake};

/// A body's members, and what was found wrong with them so far.
pub(super) struct Fields {
    members: Map<String, Value>,
    known: Vec<&'static str>,
    mistakes: Vec<Mistake>,
}

impl Fields {
    /// Takes a body, which must be an object.
    pub(super) fn of(document: Value) -> Self {
        let mut fields = Self { members: Map::new(), known: Vec::new(), mistakes: Vec::new() };
        match document {
            Value::Object(members) => fields.members = members,
            _ => fields.mistake("", "wrong_type", "the body must be a JSON object".to_owned()),
        }
        fields
    }

    /// Whether there is no member at all.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Reads a member; `expected` says in words what it must be. `None` where it is absent or wrong.
    pub(super) fn read<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        self.known.push(name);
        let value = self.members.get(name)?;
        let parsed = parse(value);
        if parsed.is_none() {
            self.mistake(&format!("/{name}"), "bad_value", format!("`{name}` must be {expected}"));
        }
        parsed
    }

    /// Reads a whole number within bounds.
    pub(super) fn whole(&mut self, name: &'static str, bounds: RangeInclusive<i64>) -> Option<i64> {
        let expected = format!("a whole number from {} to {}", bounds.start(), bounds.end());
        self.read(name, &expected, |value| value.as_i64().filter(|number| bounds.contains(number)))
    }

    /// Reads a member with a parser of the domain, which tells all that is wrong with it.
    pub(super) fn parsed<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&Value) -> Result<T, Vec<Problem>>,
    ) -> Option<T> {
        self.known.push(name);
        let parsed = parse(self.members.get(name)?);
        parsed.map_err(|problems| self.problems(problems)).ok()
    }

    /// Reads a text.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        self.read(name, "a string", |value| value.as_str().map(str::to_owned))
    }

    /// Reads `true` or `false`.
    pub(super) fn boolean(&mut self, name: &'static str) -> Option<bool> {
        self.read(name, "`true` or `false`", Value::as_bool)
    }

    /// Reads an id.
    pub(super) fn id(&mut self, name: &'static str) -> Option<Uuid> {
        self.read(name, "a UUID", |value| value.as_str().and_then(|text| Uuid::try_parse(text).ok()))
    }

    /// Notes that a member which must be there is not, unless it was found wrong already.
    pub(super) fn require(&mut self, name: &'static str) {
        if !self.members.contains_key(name) {
            self.mistake(&format!("/{name}"), "missing", format!("`{name}` is missing"));
        }
    }

    /// Notes what a parser of the domain has found.
    pub(super) fn problems(&mut self, problems: Vec<Problem>) {
        self.mistakes.extend(problems.into_iter().map(Mistake::from));
    }

    /// Notes a mistake.
    pub(super) fn mistake(&mut self, pointer: &str, code: &str, message: String) {
        self.mistakes.push(Mistake {
            pointer: Some(pointer.to_owned()),
            parameter: None,
            code: code.to_owned(),
            message,
        });
    }

    /// Tells all mistakes, those included that nobody reads.
    pub(super) fn finish(mut self, code: &'static str, what: &str) -> Result<(), ApiError> {
        let unknown: Vec<String> =
            self.members.keys().filter(|name| !self.known.contains(&name.as_str())).cloned().collect();
        for name in unknown {
            let near = did_you_mean(&name, self.known.iter().copied());
            let short: String = name.chars().take(64).collect();
            let message = format!("there is no member `{short}` here{near}");
            // RFC 6901, section 3.
            let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
            self.mistake(&pointer, "unknown_member", message);
        }
        if self.mistakes.is_empty() {
            Ok(())
        } else {
            Err(ApiError::of_mistakes(StatusCode::UNPROCESSABLE_ENTITY, code, what, self.mistakes))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_mistake_is_told_with_its_place() {
        let mut fields = Fields::of(json!({"weight": 0, "enabld": true, "name": "x", "a/b": 1}));
        assert_eq!(fields.whole("weight", 1..=1000), None);
        assert_eq!(fields.boolean("enabled"), None);
        assert_eq!(fields.text("name"), Some("x".to_owned()));
        fields.id("id");
        fields.require("id");
        let told = format!("{:?}", fields.finish("invalid", "the body").unwrap_err());
        assert!(told.contains("`weight` must be a whole number from 1 to 1000"), "{told}");
        assert!(told.contains("did you mean `enabled`?"), "{told}");
        assert!(told.contains("`id` is missing") && told.contains("/a~1b"), "{told}");
    }

    #[test]
    fn a_body_that_is_no_object_is_one_mistake() {
        let told = format!("{:?}", Fields::of(json!([])).finish("invalid", "the body").unwrap_err());
        assert!(told.contains("must be a JSON object"), "{told}");
    }
}
