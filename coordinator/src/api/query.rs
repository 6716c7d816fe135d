//! Query parameters: each endpoint names those it takes; any other is a mistake, reported with the likely meant one.

use std::ops::RangeInclusive;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use url::form_urlencoded;

use super::problem::{ApiError, Mistake};

/// The parameters that an endpoint takes.
pub(super) trait Parameters: Sized {
    /// Their names.
    const NAMES: &'static [&'static str];
    /// Reads them; what is wrong is noted in `given`.
    fn read(given: &mut Given) -> Self;
}

/// No parameter at all.
impl Parameters for () {
    const NAMES: &'static [&'static str] = &[];

    fn read(_: &mut Given) -> Self {}
}

/// The query of a request, checked.
pub(super) struct Query<T>(pub(super) T);

impl<T: Parameters, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parse(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

fn parse<T: Parameters>(query: &str) -> Result<T, ApiError> {
    let mut given = Given::new(query, T::NAMES);
    let parameters = T::read(&mut given);
    if given.mistakes.is_empty() {
        Ok(parameters)
    } else {
        Err(ApiError::of_mistakes(StatusCode::BAD_REQUEST, "invalid_parameters", "the query", given.mistakes))
    }
}

/// What a query holds, and what was found wrong with it so far.
pub(super) struct Given {
    pairs: Vec<(String, String)>,
    mistakes: Vec<Mistake>,
}

impl Given {
    fn new(query: &str, known: &[&str]) -> Self {
        let mut given = Self { pairs: Vec::new(), mistakes: Vec::new() };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if !known.contains(&name.as_ref()) {
                let message = format!("there is no parameter `{name}` here; {}", advice(&name, known));
                given.mistake(&name, "unknown_parameter", message);
            } else if given.value(&name).is_some() {
                given.mistake(&name, "repeated_parameter", format!("`{name}` is given more than once"));
            } else {
                given.pairs.push((name.into_owned(), value.into_owned()));
            }
        }
        given
    }

    /// Reads a whole number within a range.
    pub(super) fn integer(&mut self, name: &str, default: i64, range: RangeInclusive<i64>) -> i64 {
        let expected = match (*range.start(), *range.end()) {
            (start, i64::MAX) => format!("a whole number from {start} on"),
            (start, end) => format!("a whole number from {start} to {end}"),
        };
        self.parsed(name, &expected, |text| text.parse().ok().filter(|number| range.contains(number)))
            .unwrap_or(default)
    }

    /// Reads a value; `expected` says in words what it must be. An empty one counts as not given.
    pub(super) fn parsed<T>(
        &mut self,
        name: &str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.value(name).filter(|text| !text.is_empty())?;
        let value = parse(text);
        if value.is_none() {
            self.mistake(name, "invalid_parameter", format!("`{name}` must be {expected}"));
        }
        value
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    fn mistake(&mut self, name: &str, code: &str, message: String) {
        self.mistakes.push(Mistake {
            pointer: None,
            parameter: Some(name.to_owned()),
            code: code.to_owned(),
            message,
        });
    }
}

/// Names the parameter that was likely meant, or all that there are.
fn advice(name: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|known| (distance(name, known), known)).min();
    match nearest {
        None => "it takes none".to_owned(),
        Some((distance, known)) if distance <= 2 || known.starts_with(name) => {
            format!("did you mean `{known}`?")
        }
        Some(_) => format!("it takes `{}`", known.join("`, `")),
    }
}

/// How many letters must be put in, left out or changed (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    // A name longer than any of ours is far away in any case.
    for (i, l) in left.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(l != *r)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Page(i64, i64);

    impl Parameters for Page {
        const NAMES: &'static [&'static str] = &["limit", "offset"];

        fn read(given: &mut Given) -> Self {
            Self(given.integer("limit", 50, 1..=1000), given.integer("offset", 0, 0..=i64::MAX))
        }
    }

    #[test]
    fn parameters_have_defaults_and_bounds() {
        assert_eq!(parse::<Page>("").unwrap(), Page(50, 0));
        assert_eq!(parse::<Page>("limit=1000&offset=7").unwrap(), Page(1000, 7));
        assert_eq!(parse::<Page>("limit=").unwrap(), Page(50, 0));
        let told = format!("{:?}", parse::<Page>("limit=1001").unwrap_err());
        assert!(told.contains("`limit` must be a whole number from 1 to 1000"), "{told}");
    }

    #[test]
    fn every_mistake_of_a_query_is_reported_at_once() {
        let told = format!("{:?}", parse::<Page>("limt=5&offset=-1&offset=2&colour=red").unwrap_err());
        assert!(told.contains("did you mean `limit`?"), "{told}");
        assert!(told.contains("`offset` must be a whole number from 0 on"), "{told}");
        assert!(told.contains("`offset` is given more than once"), "{told}");
        assert!(told.contains("it takes `limit`, `offset`"), "{told}");
    }

    #[test]
    fn an_endpoint_without_parameters_takes_none() {
        assert!(parse::<()>("").is_ok());
        assert!(format!("{:?}", parse::<()>("x=1").unwrap_err()).contains("it takes none"));
    }

    #[test]
    fn distance_counts_letters() {
        assert_eq!(distance("limit", "limit"), 0);
        assert_eq!(distance("limt", "limit"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
