//! Versions of what is changed by several people: told as an `ETag`, and held to with `If-Match` (RFC 9110, 13.1.1).
//!
//! A tag names the state that one decides upon, not the bytes of an answer, whose figures change all the time: so
//! there is no `If-None-Match`.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, StatusCode, header};

use super::problem::ApiError;

/// The header that tells a version.
pub(super) fn etag(version: i32) -> (HeaderName, String) {
    (header::ETAG, format!("\"{version}\""))
}

/// The versions that a request names with `If-Match`; `None` is any.
pub(super) struct IfMatch(Option<Vec<i32>>);

impl IfMatch {
    /// The versions, as the store takes them.
    pub(super) fn expected(&self) -> Option<&[i32]> {
        self.0.as_deref()
    }

    /// Whether the request may concern this version.
    pub(super) fn allows(&self, version: i32) -> bool {
        self.0.as_ref().is_none_or(|versions| versions.contains(&version))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let given = parts.headers.get_all(header::IF_MATCH).iter();
        let texts: Result<Vec<&str>, _> = given.map(|value| value.to_str()).collect();
        match texts {
            Ok(texts) => Ok(Self(parse(&texts))),
            // No tag of ours looks like that.
            Err(_) => Ok(Self(Some(Vec::new()))),
        }
    }
}

/// Reads the values of the header. A tag that is none of ours, or a weak one, matches nothing.
fn parse(values: &[&str]) -> Option<Vec<i32>> {
    if values.is_empty() || values.iter().any(|value| value.trim() == "*") {
        return None;
    }
    let tags = values.iter().flat_map(|value| value.split(',')).map(str::trim);
    let number = |tag: &str| tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok();
    Some(tags.filter_map(number).collect())
}

/// What was decided upon is not what is there any more.
pub(super) fn other_version(what: &str, version: i32, now: &str) -> ApiError {
    ApiError::new(
        StatusCode::PRECONDITION_FAILED,
        "version_mismatch",
        format!(
            "the {what} has changed meanwhile: it is at version {version}{now}; read it, and decide again"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strong_tags_of_ours_are_versions_and_others_match_nothing() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&["*"]), None);
        assert_eq!(parse(&["\"7\""]), Some(vec![7]));
        assert_eq!(parse(&["\"7\", \"8\"", "\"9\""]), Some(vec![7, 8, 9]));
        assert_eq!(parse(&["W/\"7\", 8, \"abc\""]), Some(vec![]));
    }
}
