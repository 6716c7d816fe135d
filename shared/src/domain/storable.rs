//! Scraped text and JSON in a form that Postgres takes: `text` and `jsonb` refuse U+0000, and nothing may be larger than
//! its caller allows. Never fails: what cannot be kept is left out, and the result says so.

use std::borrow::Cow;
use std::io;

use serde_json::{Map, Value, json};

/// The largest preview of a value that was too large, in bytes.
const MAX_PREVIEW_BYTES: usize = 1024;

/// Removes U+0000 and cuts to at most `max_bytes`, between characters.
pub fn storable_text(text: &str, max_bytes: usize) -> Cow<'_, str> {
    if !text.contains('\0') {
        return Cow::Borrowed(&text[..text.floor_char_boundary(max_bytes)]);
    }
    // Cut while cleaning: the text may be far larger than what is kept of it.
    let mut kept = String::new();
    for part in text.split('\0') {
        let room = max_bytes - kept.len();
        kept.push_str(&part[..part.floor_char_boundary(room)]);
        if part.len() > room {
            break;
        }
    }
    Cow::Owned(kept)
}

/// Removes U+0000 from all strings and keys. What is still larger than `max_bytes` when written as JSON becomes
/// `{"truncated": true, "bytes": <its size>, "preview": "<its beginning>"}`.
///
/// Of two keys that become the same the later one wins. A `max_bytes` too small for even that object is exceeded
/// by it, with an empty preview.
pub fn storable_json(value: Value, max_bytes: usize) -> Value {
    let value = without_nul(value);
    let mut gauge = Gauge::default();
    // Writing to the gauge cannot fail, and every key is a string.
    if serde_json::to_writer(&mut gauge, &value).is_ok() && gauge.bytes <= max_bytes {
        return value;
    }
    let marker = |preview: &str| json!({"truncated": true, "bytes": gauge.bytes, "preview": preview});
    let room = max_bytes.saturating_sub(marker("").to_string().len());
    marker(gauge.preview(room))
}

/// Reads JSON in which an escape may name half a surrogate pair, as JavaScript writes it: such a half becomes U+FFFD.
///
/// # Errors
/// The text is not JSON for any other reason.
pub fn parse_lossy(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(&without_lone_surrogates(text))
}

fn without_nul(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(clean(text)),
        Value::Array(elements) => elements.into_iter().map(without_nul).collect(),
        Value::Object(members) => Value::Object(
            members.into_iter().map(|(key, value)| (clean(key), without_nul(value))).collect::<Map<_, _>>(),
        ),
        other => other,
    }
}

fn clean(mut text: String) -> String {
    text.retain(|c| c != '\0');
    text
}

/// Counts what is written and keeps the beginning of it.
#[derive(Default)]
struct Gauge {
    bytes: usize,
    head: Vec<u8>,
}

impl Gauge {
    /// As much of the beginning as needs no more than `room` bytes inside a JSON string.
    fn preview(&self, room: usize) -> &str {
        let head = match std::str::from_utf8(&self.head) {
            Ok(head) => head,
            // The last character was cut.
            Err(error) => std::str::from_utf8(&self.head[..error.valid_up_to()]).unwrap_or_default(),
        };
        let mut needed = 0;
        // Written JSON holds no control characters; quotes and backslashes take two bytes.
        let end = head.char_indices().find(|(_, c)| {
            needed += if matches!(c, '"' | '\\') { 2 } else { c.len_utf8() };
            needed > room
        });
        &head[..end.map_or(head.len(), |(end, _)| end)]
    }
}

impl io::Write for Gauge {
    fn write(&mut self, written: &[u8]) -> io::Result<usize> {
        self.bytes += written.len();
        let room = MAX_PREVIEW_BYTES - self.head.len();
        self.head.extend_from_slice(&written[..written.len().min(room)]);
        Ok(written.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Replaces the escapes of lone surrogates; a backslash occurs nowhere in JSON but inside strings.
fn without_lone_surrogates(text: &str) -> Cow<'_, str> {
    let mut clean = String::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = text[at..].find('\\') {
        at += found;
        match unit(text, at) {
            Some(0xd800..=0xdbff) if matches!(unit(text, at + 6), Some(0xdc00..=0xdfff)) => at += 12,
            Some(0xd800..=0xdfff) => {
                clean.push_str(&text[copied..at]);
                clean.push_str("\\ufffd");
                at += 6;
                copied = at;
            }
            // The escaped character may itself be a backslash; it may be longer than a byte in what is not JSON.
            _ => at += 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    clean.push_str(&text[copied..]);
    Cow::Owned(clean)
}

/// The UTF-16 unit that the escape `\uXXXX` at this byte names, if there is one.
fn unit(text: &str, at: usize) -> Option<u16> {
    let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_loses_nul_and_is_cut_between_characters() {
        assert_eq!(storable_text("plain", 100), "plain");
        assert!(matches!(storable_text("plain", 100), Cow::Borrowed(_)));
        assert_eq!(storable_text("a\0b\0", 100), "ab");
        assert_eq!(storable_text("aé", 2), "a");
        assert_eq!(storable_text("a\0é\0x", 2), "a");
        assert_eq!(storable_text("a\0é\0x", 3), "aé");
        assert_eq!(storable_text("\0\0", 0), "");
    }

    #[test]
    fn json_loses_nul_in_strings_and_keys_at_any_depth() {
        let value = json!({"a\0": ["x\0y", {"\0": 1}], "b": "é"});
        assert_eq!(storable_json(value, 1000), json!({"a": ["xy", {"": 1}], "b": "é"}));
    }

    #[test]
    fn json_that_is_too_large_becomes_a_marker_with_its_size() {
        let value = json!({"text": "\"é".repeat(1000)});
        let bytes = value.to_string().len();
        let stored = storable_json(value.clone(), 200);
        assert_eq!(stored["truncated"], true);
        assert_eq!(stored["bytes"], bytes);
        assert!(stored["preview"].as_str().unwrap().starts_with(r#"{"text":"\"é"#));
        assert!(stored.to_string().len() <= 200);
        assert_eq!(storable_json(value.clone(), bytes), value, "exactly as large as allowed");
        assert!(storable_json(value, bytes - 1).to_string().len() <= 2 * MAX_PREVIEW_BYTES + 60);
    }

    #[test]
    fn halves_of_surrogate_pairs_are_replaced_and_pairs_are_kept() {
        let parsed = |text: &str| parse_lossy(text).unwrap();
        assert_eq!(parsed(r#""a\ud800b""#), json!("a\u{fffd}b"));
        assert_eq!(parsed(r#""\udc00\ud83d\ude00\uD83D""#), json!("\u{fffd}😀\u{fffd}"));
        assert_eq!(parsed(r#""\ud83d\ud83d\ude00""#), json!("\u{fffd}😀"));
        assert_eq!(parsed(r#""\\ud800""#), json!("\\ud800"), "an escaped backslash is no escape");
        assert_eq!(parsed(r#"{"\ud800": 1}"#), json!({"\u{fffd}": 1}));
        assert_eq!(parsed(r#""\u0000""#), json!("\0"));
    }

    #[test]
    fn what_is_not_json_stays_an_error() {
        for text in ["", "{", r#""\u12""#, "\"\\é\"", "\\", r#""\ud800"#, "\\ud8é0"] {
            assert!(parse_lossy(text).is_err(), "{text}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a\\x00\"\\\\é\n]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[ab\\x00]{0,3}", inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn stored_json_has_no_nul_and_fits(value in any_json(), max_bytes in 80_usize..200) {
            let stored = storable_json(value, max_bytes).to_string();
            prop_assert!(!stored.contains("\\u0000") || stored.contains("\\\\u0000"), "{}", stored);
            prop_assert!(stored.len() <= max_bytes);
        }

        #[test]
        fn stored_text_has_no_nul_and_fits(text in "[a\\x00é😀]{0,30}", max_bytes in 0_usize..40) {
            let stored = storable_text(&text, max_bytes);
            prop_assert!(!stored.contains('\0') && stored.len() <= max_bytes);
            prop_assert!(text.replace('\0', "").starts_with(&*stored));
        }

        #[test]
        fn any_escapes_are_answered_without_a_panic(text in "\"(\\\\u[dD][89cC]00|\\\\|\\\\\\\\|é|u|d){0,12}\"") {
            if let Ok(value) = parse_lossy(&text) {
                prop_assert!(value.is_string());
            }
        }
    }
}
