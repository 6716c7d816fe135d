//! What handlers take from a request, parsed: ids out of paths and JSON documents out of bodies, within their limits.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use crawlify_shared::domain::bounded::{MAX_VALUES, ReadError, from_json, most_values};
use crawlify_shared::domain::id::{ExecutionId, ScheduleId, WorkflowId};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::ApiState;
use super::bodies::{Bodies, Held};
use super::problem::{ApiError, Mistake};

/// The largest body of a request, in bytes.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// The largest workflow, in bytes: it may bring very many start URLs.
pub const MAX_WORKFLOW_BYTES: usize = 10 << 20;
/// How long a body may be on its way.
const BODY_WITHIN: Duration = Duration::from_secs(20);

/// The id in a path.
pub(super) struct PathId<T>(pub(super) T);

/// An id that paths carry.
pub(super) trait IdInPath {
    /// What it names, for messages.
    const NAMES: &'static str;
    /// Wraps it.
    fn of(uuid: Uuid) -> Self;
}

impl IdInPath for WorkflowId {
    const NAMES: &'static str = "workflow";

    fn of(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl IdInPath for ExecutionId {
    const NAMES: &'static str = "execution";

    fn of(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl IdInPath for ScheduleId {
    const NAMES: &'static str = "schedule";

    fn of(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl<T: IdInPath, S: Send + Sync> FromRequestParts<S> for PathId<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let given = Path::<String>::from_request_parts(parts, state).await.ok();
        match given.and_then(|Path(text)| Uuid::try_parse(&text).ok()) {
            Some(uuid) => Ok(Self(T::of(uuid))),
            None => Err(ApiError::new(
                StatusCode::BAD_REQUEST,
                "invalid_id",
                format!(
                    "the {} id in the path is not a UUID like 01890a5d-ac96-774b-bcce-b302099a8057",
                    T::NAMES
                ),
            )),
        }
    }
}

/// A body that is a JSON document of any shape, of at most so many bytes, and what it has of the room for all bodies,
/// which handlers keep until the request is answered.
pub(super) struct Document<const MAX_BYTES: usize = MAX_BODY_BYTES>(pub(super) Value, pub(super) Held);

impl<const MAX_BYTES: usize> FromRequest<ApiState> for Document<MAX_BYTES> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(not_json());
        }
        let (body, mut held) = body(request, MAX_BYTES, &state.bodies).await?;
        let document = parse(&body, &mut held).await?;
        Ok(Self(document, held))
    }
}

/// The same where a request may have no body.
pub(super) struct OptionalDocument(pub(super) Option<Value>, pub(super) Held);

impl FromRequest<ApiState> for OptionalDocument {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, ApiError> {
        let is_json = is_json(request.headers());
        let (body, mut held) = body(request, MAX_BODY_BYTES, &state.bodies).await?;
        if body.is_empty() {
            Ok(Self(None, held))
        } else if is_json {
            let document = parse(&body, &mut held).await?;
            Ok(Self(Some(document), held))
        } else {
            Err(not_json())
        }
    }
}

/// Reads a body, but no further than its limits.
async fn body(request: Request, max_bytes: usize, bodies: &Bodies) -> Result<(Vec<u8>, Held), ApiError> {
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > max_bytes) {
        return Err(too_large(max_bytes));
    }
    let read = tokio::time::timeout(BODY_WITHIN, read(request.into_body(), max_bytes, bodies.begin())).await;
    read.unwrap_or_else(|_elapsed| {
        Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_too_slow",
            format!("the body did not arrive within {} seconds", BODY_WITHIN.as_secs()),
        ))
    })
}

async fn read(mut body: Body, max_bytes: usize, mut held: Held) -> Result<(Vec<u8>, Held), ApiError> {
    let mut bytes: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            let message = "the body ended before it was complete";
            ApiError::new(StatusCode::BAD_REQUEST, "body_unreadable", message)
        })?;
        // What is no data is a trailer, and says nothing here.
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > max_bytes {
            return Err(too_large(max_bytes));
        }
        held.add(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, held))
}

fn too_large(max_bytes: usize) -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        format!("the body is larger than {max_bytes} bytes"),
    )
}

/// Reads a document when there is room for its values.
async fn parse(body: &[u8], held: &mut Held) -> Result<Value, ApiError> {
    held.hold_values(values_of(body)).await?;
    from_json(body).map_err(|error| match error {
        ReadError::Syntax(error) => syntax_problem(&error),
        ReadError::Excess(excess) => {
            ApiError::new(StatusCode::BAD_REQUEST, excess.code(), excess.to_string())
        }
    })
}

/// The member of a workflow that may be text, which is read as a document of its own.
#[derive(Deserialize)]
struct MayHoldText<'a> {
    #[serde(borrow)]
    config: Option<&'a RawValue>,
}

/// An object takes the room of so many numbers more, however small it is.
const OBJECT_WEIGHT: usize = 8;

/// How many values a body becomes at most, by the room that they take, told before any is made: its own, and those of the
/// text within it.
fn values_of(body: &[u8]) -> usize {
    let objects = body.iter().filter(|byte| **byte == b'{').count();
    let within = match serde_json::from_slice::<MayHoldText<'_>>(body) {
        // Nothing is read within what is no object.
        _ if body.trim_ascii_start().first() != Some(&b'{') => 0,
        Ok(document) => document.config.map_or(0, |config| values_of_text(config.get())),
        // It has two of them: nobody sends that who means well, and it may be as much as any.
        Err(error) if error.is_data() => MAX_VALUES,
        // Nothing of it gets as far as to be read as text.
        Err(_) => 0,
    };
    most_values(body).saturating_add(objects * OBJECT_WEIGHT).saturating_add(within)
}

/// How many values the text within a JSON string becomes at most. No value of YAML is written with less than a byte; but
/// an alias stands for any number.
fn values_of_text(config: &str) -> usize {
    if !config.starts_with('"') {
        0
    } else if begins_with(config, '&', "\\u0026") && begins_with(config, '*', "\\u002a") {
        MAX_VALUES
    } else {
        config.len()
    }
}

/// Whether a value of YAML within a JSON string may begin with a sign: one that stands within an address or a selector is
/// part of a text.
fn begins_with(config: &str, sign: char, escaped: &str) -> bool {
    let may_follow = |before: &str| {
        before.ends_with([' ', '[', '{', ',', ':', '-', '?', '"'])
            // Line breaks and tabs, and whatever else is escaped, or no ASCII.
            || ["\\n", "\\t", "\\r"].iter().any(|escape| before.ends_with(escape))
            || before.len() >= 6 && before.as_bytes()[before.len() - 6..].starts_with(b"\\u")
            || before.chars().next_back().is_some_and(|last| !last.is_ascii())
    };
    config.to_ascii_lowercase().contains(escaped)
        || config.match_indices(sign).any(|(place, _)| may_follow(&config[..place]))
}

fn not_json() -> ApiError {
    ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        "the body must be JSON and say so: Content-Type: application/json",
    )
}

/// A body whose type is not said is taken for JSON.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return true };
    let Ok(given) = given.to_str() else { return false };
    let media_type = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type == "application/json"
        || (media_type.starts_with("application/") && media_type.ends_with("+json"))
}

fn syntax_problem(error: &serde_json::Error) -> ApiError {
    let full = error.to_string();
    let what = full.rsplit_once(" at line ").map_or(full.as_str(), |(what, _)| what);
    let message = format!(
        "the body is not JSON: line {}, column {}: {}",
        error.line(),
        error.column(),
        if error.line() == 0 || full.is_empty() { "it is empty" } else { what }
    );
    let mistake =
        Mistake { pointer: Some(String::new()), parameter: None, code: "malformed_json".into(), message };
    ApiError::of_mistakes(StatusCode::BAD_REQUEST, "malformed_json", "the body", vec![mistake])
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn with_type(content_type: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))])
    }

    #[test]
    fn json_is_recognised_with_parameters_and_suffixes() {
        assert!(is_json(&HeaderMap::new()));
        assert!(is_json(&with_type("application/json; charset=utf-8")));
        assert!(is_json(&with_type("Application/JSON")));
        assert!(is_json(&with_type("application/merge-patch+json")));
        assert!(!is_json(&with_type("application/x-www-form-urlencoded")));
        assert!(!is_json(&with_type("text/plain")));
    }

    #[test]
    fn the_values_of_a_body_are_those_of_its_text_too() {
        assert_eq!(values_of(br#"{"config": {"max_pages": 1}}"#), 3 + 2 * OBJECT_WEIGHT);
        assert_eq!(values_of(br#"{"config": null, "name": "a: &a [0]\nb: *a"}"#), 3 + OBJECT_WEIGHT);
        assert_eq!(values_of(br#"{"config": "a: [0]"}"#), 2 + OBJECT_WEIGHT + "\"a: [0]\"".len());
        assert_eq!(values_of(b"\"active\""), 1, "what is no object has no settings");
        assert_eq!(values_of(b"[0,0"), 3, "what ends too early is read up to there");
    }

    #[test]
    fn signs_of_aliases_within_addresses_and_selectors_are_none() {
        let config = r#""start_urls: [\"https://a/?x=1&y=2\"]\nselector: a[href*=b] > p.c*d\u00fc""#;
        assert_eq!(values_of_text(config), config.len());
        for aliased in
            [r#""a: &a [0]\nb: *a""#, r#""a:\u0020&a [0]\nb: [0,*a]""#, r#""\u0026a [0]\n- \u002Aa""#]
        {
            assert_eq!(values_of_text(aliased), MAX_VALUES, "{aliased}");
        }
    }

    #[test]
    fn a_text_that_may_have_aliases_or_be_read_twice_counts_for_the_largest() {
        for body in [
            r#"{"config": "a: &a [0]\nb: [*a,*a]"}"#,
            r#"{"config": "a: \u0026a [0]\nb: [\u002aa,\u002Aa]"}"#,
            r#"{"config": {}, "config": "a: [0]"}"#,
            r#"{"config": {}, "conf\u0069g": "a: [0]"}"#,
        ] {
            assert!(values_of(body.as_bytes()) >= MAX_VALUES, "{body}");
        }
    }

    #[test]
    fn a_syntax_error_names_line_and_column_once() {
        let error = serde_json::from_str::<Value>("{\n  \"name\": ,\n}").unwrap_err();
        let told = format!("{:?}", syntax_problem(&error));
        assert!(told.contains("line 2, column 11: expected value"), "{told}");
        assert!(!told.contains("at line"), "{told}");
    }
}
