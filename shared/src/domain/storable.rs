//! Scraped text and JSON in a form that Postgres takes: `text` and `jsonb` refuse U+0000, and nothing may be larger than
//! its caller allows. Never fails: what cannot be kept is left out, and the result says so.

use std::borrow::Cow;
use std::io;

use serde_json::{Map, Value, json};

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

/// Removes U+0000 from all strings and keys. Of what is still larger than `max_bytes` when written as JSON the beginning is
/// kept: `{"truncated": true, "length": N, "value": BEGINNING}`, where `N` is the whole's number of elements, of members, or
/// of UTF-16 units, as JavaScript counts text.
///
/// Of two keys that become the same the later one wins. A `max_bytes` too small for even an empty marker is exceeded.
pub fn storable_json(value: Value, max_bytes: usize) -> Value {
    let value = without_nul(value);
    if json_bytes(&value) <= max_bytes { value } else { marked(value, None, max_bytes) }
}

/// The same of the beginning of something that was this long.
pub fn storable_part(value: Value, length: u64, max_bytes: usize) -> Value {
    marked(without_nul(value), Some(length), max_bytes)
}

/// The same of an object whose keys must stay where they are: what is too long within it is cut, and
/// `"_truncated": true` is added.
pub fn storable_object(members: Map<String, Value>, max_bytes: usize) -> Value {
    const MARK: &str = "_truncated";
    let value = without_nul(Value::Object(members));
    if json_bytes(&value) <= max_bytes {
        return value;
    }
    let mut kept = beginning(value, max_bytes.saturating_sub(MARK.len() + 10));
    if let Value::Object(members) = &mut kept {
        members.insert(MARK.to_owned(), true.into());
    }
    kept
}

fn marked(value: Value, length: Option<u64>, max_bytes: usize) -> Value {
    let length = length.unwrap_or_else(|| match &value {
        Value::String(text) => text.encode_utf16().count() as u64,
        Value::Array(elements) => elements.len() as u64,
        Value::Object(members) => members.len() as u64,
        _ => 1,
    });
    let mut marker = json!({"truncated": true, "length": length, "value": null});
    let room = max_bytes.saturating_sub(json_bytes(&marker));
    marker["value"] = beginning(value, room);
    marker
}

/// As much of the beginning of a value as needs no more than `room` bytes, which are 4 at the least.
fn beginning(value: Value, room: usize) -> Value {
    if json_bytes(&value) <= room {
        return value;
    }
    // The brackets, or the quotes.
    let mut room = room.saturating_sub(2);
    match value {
        Value::String(mut text) => {
            text.truncate(fitting(&text, room));
            Value::String(text)
        }
        Value::Array(elements) => {
            let mut kept = Vec::new();
            for element in elements {
                let bytes = json_bytes(&element) + 1;
                if bytes > room {
                    // Of a few that are large the first is better than nothing.
                    if kept.is_empty() && room >= 4 {
                        kept.push(beginning(element, room));
                    }
                    break;
                }
                room -= bytes;
                kept.push(element);
            }
            Value::Array(kept)
        }
        Value::Object(members) => {
            // Every key stays, if there is room for keys alone: each with its quotes, colon and comma, and an empty value.
            let mut kept: Vec<(usize, String, Value)> = Vec::new();
            for (key, member) in members {
                let name = escaped_bytes(&key) + 4;
                if name + 4 > room {
                    break;
                }
                room -= name + 4;
                kept.push((json_bytes(&member), key, member));
            }
            // The short ones are kept whole, and the others share what is left.
            kept.sort_unstable_by_key(|(bytes, ..)| *bytes);
            let mut left = kept.len();
            let cut = kept.into_iter().map(|(_, key, member)| {
                let share = room / left.max(1);
                left -= 1;
                let member = beginning(member, share + 4);
                room -= json_bytes(&member).saturating_sub(4).min(room);
                (key, member)
            });
            Value::Object(cut.collect())
        }
        _ => Value::Null,
    }
}

/// How many bytes of a text's beginning need no more than `room` bytes inside a JSON string.
fn fitting(text: &str, room: usize) -> usize {
    let mut needed = 0;
    let end = text.char_indices().find(|(_, c)| {
        needed += escaped(*c);
        needed > room
    });
    end.map_or(text.len(), |(end, _)| end)
}

fn escaped_bytes(text: &str) -> usize {
    text.chars().map(escaped).sum()
}

/// What a character needs inside a JSON string.
fn escaped(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        other => other.len_utf8(),
    }
}

fn json_bytes(value: &Value) -> usize {
    let mut gauge = Gauge(0);
    // Writing to the gauge cannot fail, and every key is a string.
    let _ = serde_json::to_writer(&mut gauge, value);
    gauge.0
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

/// Counts what is written.
struct Gauge(usize);

impl io::Write for Gauge {
    fn write(&mut self, written: &[u8]) -> io::Result<usize> {
        self.0 += written.len();
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
    fn of_json_that_is_too_large_the_beginning_is_kept_and_marked() {
        let text = json!("\"é".repeat(1000));
        let bytes = text.to_string().len();
        let stored = storable_json(text.clone(), 200);
        assert_eq!((&stored["truncated"], &stored["length"]), (&json!(true), &json!(2000)));
        assert!(stored["value"].as_str().unwrap().starts_with("\"é\"é\"é"), "{stored}");
        assert!((190..=200).contains(&stored.to_string().len()), "{stored}");
        assert_eq!(storable_json(text.clone(), bytes), text, "exactly as large as allowed");
        assert!(storable_json(text, bytes - 1).to_string().len() < bytes);

        let list: Vec<_> = (0..1000).map(|number| format!("/page/{number}")).collect();
        let stored = storable_json(json!(list), 200);
        assert_eq!(stored["length"], 1000);
        let kept = stored["value"].as_array().unwrap();
        assert!(kept.len() > 5 && kept.iter().zip(&list).all(|(kept, whole)| kept == whole), "{stored}");
        assert_eq!(
            storable_part(json!(["a"]), 7, 200),
            json!({"truncated": true, "length": 7, "value": ["a"]})
        );
    }

    #[test]
    fn an_object_keeps_its_keys_when_it_is_cut() {
        let Value::Object(members) = json!({"a": "x".repeat(500), "b": 1, "c": ["y".repeat(500)]}) else {
            unreachable!()
        };
        let stored = storable_object(members.clone(), 300);
        assert!(stored.to_string().len() <= 300, "{stored}");
        assert_eq!(stored["_truncated"], true);
        assert!(stored["a"].as_str().unwrap().starts_with("xxx"), "{stored}");
        assert_eq!(stored["b"], 1);
        assert!(stored["c"][0].as_str().unwrap().starts_with("yyy"), "{stored}");
        assert_eq!(storable_object(members.clone(), 5000), Value::Object(members));
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
