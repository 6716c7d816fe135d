//! The header `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a request that comes again with the same key
//! has the effect, and the answer, of the first.

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;

use super::problem::ApiError;

/// The longest key, in bytes; clients send UUIDs.
const MAX_BYTES: usize = 255;

/// What a client calls a request; `None` where it gave no name.
pub(super) struct IdempotencyKey(pub(super) Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let mut given = parts.headers.get_all("idempotency-key").iter();
        match (given.next(), given.next()) {
            (None, _) => Ok(Self(None)),
            (Some(key), None) => {
                key.to_str().ok().and_then(parse).map(|key| Self(Some(key))).ok_or_else(not_a_key)
            }
            (Some(_), Some(_)) => Err(not_a_key()),
        }
    }
}

/// The draft has a quoted string, and clients of today send it bare.
fn parse(value: &str) -> Option<String> {
    let value = value.trim();
    let key = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    let is_key = (1..=MAX_BYTES).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
    is_key.then(|| key.to_owned())
}

fn not_a_key() -> ApiError {
    ApiError::new(
        StatusCode::BAD_REQUEST,
        "bad_idempotency_key",
        format!(
            "`Idempotency-Key` must be given once, and be 1 to {MAX_BYTES} visible ASCII characters, such as a UUID"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_with_and_without_quotes() {
        assert_eq!(parse("\"a-1\"").as_deref(), Some("a-1"));
        assert_eq!(parse(" a-1 ").as_deref(), Some("a-1"));
        for wrong in ["", "\"\"", "a b", "\"a", "a\"b", &"x".repeat(MAX_BYTES + 1)] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert!(parse(&"x".repeat(MAX_BYTES)).is_some());
    }
}
