//! Who may ask what. Every request passes here before anything of it is read but its head.
//!
//! With keys configured, all but the probes needs one, wherever it comes from. Without any, the API is open, which it
//! may be on a loopback address only; then what a browser could be made to send by a stranger's page is refused.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::ApiError;
use crate::keys::{ApiKeys, Holder, Scope};

/// What anybody may ask: orchestrators do, and they have no key. Answers say nothing but how we are.
const PROBES: [&str; 3] = ["/health", "/livez", "/readyz"];
/// What is sent with another method than GET and changes nothing.
const READING_POSTS: [&str; 1] = ["/api/v1/workflows/validate"];

/// Which key a request came with; left on its answer for the log.
#[derive(Clone, Debug)]
pub(super) struct KeyId(pub(super) String);

/// Lets a request through, or answers why not.
pub(super) async fn admit(State(keys): State<ApiKeys>, request: Request, next: Next) -> Response {
    match judge(&keys, request.method(), request.uri().path(), request.headers()) {
        Ok(holder) => {
            let mut response = next.run(request).await;
            if let Some(holder) = holder {
                response.extensions_mut().insert(KeyId(holder.key_id));
            }
            response
        }
        Err(refusal) => refusal.into_response(),
    }
}

/// What a request needs; `None` is nothing.
pub(super) fn needed(method: &Method, path: &str) -> Option<Scope> {
    match (method, path) {
        (&Method::GET | &Method::HEAD, path) if PROBES.contains(&path) => None,
        (&Method::GET | &Method::HEAD, _) => Some(Scope::Read),
        (&Method::POST, path) if READING_POSTS.contains(&path) => Some(Scope::Read),
        _ => Some(Scope::Admin),
    }
}

fn judge(
    keys: &ApiKeys,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<Option<Holder>, Refusal> {
    if is_foreign_write(method, headers) {
        return Err(Refusal::Foreign);
    }
    let Some(needed) = needed(method, path) else { return Ok(None) };
    if keys.is_empty() {
        return if is_local_name(headers) { Ok(None) } else { Err(Refusal::UnknownHost) };
    }
    let given = headers.get(header::AUTHORIZATION).ok_or(Refusal::NoKey)?;
    let holder = bearer(given).and_then(|key| keys.holder(key)).ok_or(Refusal::UnknownKey)?;
    if holder.scope < needed { Err(Refusal::TooSmall(needed)) } else { Ok(Some(holder)) }
}

/// The credentials of `Authorization: Bearer` (RFC 6750, section 2.1).
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer ";
    let (scheme, key) = value.as_bytes().split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| key.trim_ascii())
}

/// Whether a browser sends this on behalf of another site's page. Without keys any page that somebody visits could
/// start crawls otherwise. Programs send no `Origin`.
fn is_foreign_write(method: &Method, headers: &HeaderMap) -> bool {
    if method.is_safe() {
        return false;
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let own = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let of_origin =
        origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    of_origin.is_none() || of_origin != own
}

/// Whether the host that was asked for is this machine by itself. Any other name could be a stranger's, pointed at our
/// address so that the stranger's page counts as ours (DNS rebinding). Programs that send no `Host` are no browsers.
fn is_local_name(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    // The port comes last; colons within brackets are those of an address.
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || name.parse::<IpAddr>().is_ok()
}

/// Why a request is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Foreign,
    UnknownHost,
    NoKey,
    UnknownKey,
    TooSmall(Scope),
}

impl Refusal {
    fn problem(self) -> ApiError {
        match self {
            Self::Foreign => ApiError::new(
                StatusCode::FORBIDDEN,
                "cross_origin",
                "a web page of another origin may not change anything here",
            ),
            Self::UnknownHost => ApiError::new(
                StatusCode::FORBIDDEN,
                "unknown_host",
                "without API keys this API answers to `localhost` and to addresses only; ask for it by one of those, \
                 or configure keys",
            ),
            Self::NoKey => ApiError::new(
                StatusCode::UNAUTHORIZED,
                "key_missing",
                "this needs an API key, as `Authorization: Bearer KEY`",
            ),
            Self::UnknownKey => ApiError::new(
                StatusCode::UNAUTHORIZED,
                "key_unknown",
                "this is no API key that is known here; it is sent as `Authorization: Bearer KEY`",
            ),
            Self::TooSmall(needed) => ApiError::new(
                StatusCode::FORBIDDEN,
                "scope_too_small",
                format!("this needs an API key with the scope `{}`", needed.as_str()),
            ),
        }
    }

    /// How to do better (RFC 6750, section 3).
    fn challenge(self) -> Option<&'static str> {
        match self {
            Self::Foreign | Self::UnknownHost => None,
            Self::NoKey => Some(r#"Bearer realm="crawlify""#),
            Self::UnknownKey => Some(r#"Bearer realm="crawlify", error="invalid_token""#),
            Self::TooSmall(_) => {
                Some(r#"Bearer realm="crawlify", error="insufficient_scope", scope="admin""#)
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.problem().into_response();
        if let Some(challenge) = self.challenge() {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::NewKey;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (header::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            })
            .collect()
    }

    #[test]
    fn pages_of_other_origins_may_read_but_not_write() {
        let foreign = headers(&[("host", "127.0.0.1:8080"), ("origin", "https://example.com")]);
        let own = headers(&[("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:8080")]);
        let program = headers(&[("host", "127.0.0.1:8080")]);
        let sandboxed = headers(&[("host", "127.0.0.1:8080"), ("origin", "null")]);
        assert!(is_foreign_write(&Method::POST, &foreign));
        assert!(is_foreign_write(&Method::DELETE, &sandboxed));
        assert!(!is_foreign_write(&Method::GET, &foreign));
        assert!(!is_foreign_write(&Method::POST, &own));
        assert!(!is_foreign_write(&Method::POST, &program));
    }

    #[test]
    fn without_keys_only_names_that_nobody_can_point_at_us_are_answered_to() {
        let open = ApiKeys::default();
        let asked = |host: &str| judge(&open, &Method::GET, "/api/v1/workflows", &headers(&[("host", host)]));
        for host in
            ["localhost", "LOCALHOST:8080", "a.localhost.", "127.0.0.1", "127.0.0.1:1", "[::1]:8080", "[::1]"]
        {
            assert_eq!(asked(host), Ok(None), "{host}");
        }
        for host in ["evil.test:8080", "evil.test", "localhost.evil.test", "", ":8080", "127.0.0.1.evil.test"]
        {
            assert_eq!(asked(host), Err(Refusal::UnknownHost), "{host}");
        }
        let probed = headers(&[("host", "evil.test")]);
        assert_eq!(judge(&open, &Method::GET, "/livez", &probed), Ok(None));
        let key = NewKey::generate(Scope::Read).unwrap();
        let (keys, bearer) = ([key.hash].into_iter().collect(), format!("Bearer {}", key.text));
        let named = headers(&[("host", "crawl.example"), ("authorization", &bearer)]);
        assert!(judge(&keys, &Method::GET, "/metrics", &named).is_ok());
    }

    #[test]
    fn a_key_is_taken_from_the_header_alone_and_in_any_spelling_of_the_scheme() {
        let key = NewKey::generate(Scope::Admin).unwrap();
        let keys: ApiKeys = [key.hash.clone()].into_iter().collect();
        let asked = |value: String| {
            judge(&keys, &Method::POST, "/api/v1/workflows", &headers(&[("authorization", &value)]))
        };
        for scheme in ["Bearer", "bearer", "BEARER", "Bearer "] {
            let holder = asked(format!("{scheme} {}", key.text)).unwrap().unwrap();
            assert_eq!(holder, Holder { scope: Scope::Admin, key_id: key.hash.id() });
        }
        for value in [key.text.clone(), format!("Basic {}", key.text), "Bearer".into(), "Bearer ".into()] {
            assert_eq!(asked(value.clone()), Err(Refusal::UnknownKey), "{value}");
        }
        let nothing = judge(&keys, &Method::GET, "/api/v1/workflows", &HeaderMap::new());
        assert_eq!(nothing, Err(Refusal::NoKey));
    }

    #[test]
    fn a_reader_reads_and_changes_nothing() {
        let key = NewKey::generate(Scope::Read).unwrap();
        let keys: ApiKeys = [key.hash].into_iter().collect();
        let named = headers(&[("authorization", &format!("Bearer {}", key.text))]);
        for (method, path, allowed) in [
            (Method::GET, "/api/v1/workflows", true),
            (Method::HEAD, "/api/v1/workflows", true),
            (Method::POST, "/api/v1/workflows/validate", true),
            (Method::POST, "/api/v1/workflows", false),
            (Method::DELETE, "/api/v1/workflows/validate", false),
            (Method::POST, "/livez", false),
            (Method::OPTIONS, "/api/v1/workflows", false),
        ] {
            let judged = judge(&keys, &method, path, &named);
            assert_eq!(judged.is_ok(), allowed, "{method} {path}: {judged:?}");
        }
    }
}
