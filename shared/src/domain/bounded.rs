//! JSON values out of a stranger's text, bounded while they are read: a small text may stand for a huge value (nested
//! brackets, many zeros, YAML's aliases), and must not become one. Knows nothing of what the value is for.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How deep a document may nest.
pub const MAX_DEPTH: usize = 64;
/// How many values a document may have, those within others included.
pub const MAX_VALUES: usize = 500_000;
/// How many bytes all strings and keys of a document may have together.
pub const MAX_TEXT_BYTES: usize = 16 << 20;
/// The longest YAML text, in bytes: its parser keeps many times as much.
pub const MAX_YAML_BYTES: usize = 1 << 20;

/// Why a text gives no value.
#[derive(Debug)]
pub enum ReadError<E> {
    /// It is too much.
    Excess(Excess),
    /// It is not in the format.
    Syntax(E),
}

/// What a document has too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    /// Levels.
    #[error("the document nests deeper than {MAX_DEPTH} levels")]
    Depth,
    /// Values.
    #[error("the document has more than {MAX_VALUES} values")]
    Values,
    /// Text.
    #[error("the strings of the document have more than {MAX_TEXT_BYTES} bytes together")]
    Text,
    /// YAML.
    #[error("the document is YAML of more than {MAX_YAML_BYTES} bytes; as JSON it may be larger")]
    Yaml,
}

impl Excess {
    /// A stable name.
    pub fn code(self) -> &'static str {
        match self {
            Self::Depth => "too_deep",
            Self::Values => "too_many_values",
            Self::Text | Self::Yaml => "too_large",
        }
    }
}

/// Reads JSON.
///
/// # Errors
/// It is none, or too much.
pub fn from_json(bytes: &[u8]) -> Result<Value, ReadError<serde_json::Error>> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let meter = Meter::default();
    let read = meter.value(&mut reader).and_then(|value| reader.end().map(|()| value));
    meter.judge(read)
}

/// Reads YAML.
///
/// # Errors
/// It is none, has what JSON has not, or is too much.
pub fn from_yaml(text: &str) -> Result<Value, ReadError<serde_yaml_ng::Error>> {
    if text.len() > MAX_YAML_BYTES {
        return Err(ReadError::Excess(Excess::Yaml));
    }
    let meter = Meter::default();
    let read = meter.value(serde_yaml_ng::Deserializer::from_str(text));
    meter.judge(read)
}

/// How many values a JSON text becomes at most, told by its punctuation without reading it: every value but the first
/// comes after a bracket, a brace or a comma. Of a text that is no JSON: how many are read before that is found.
pub fn most_values(json: &[u8]) -> usize {
    let (mut values, mut in_string, mut escaped) = (1, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' | b',' if !in_string => values += 1,
            _ => {}
        }
    }
    values
}

/// What was read so far.
#[derive(Default)]
struct Meter {
    values: Cell<usize>,
    text_bytes: Cell<usize>,
    excess: Cell<Option<Excess>>,
}

impl Meter {
    fn value<'de, D: Deserializer<'de>>(&self, reader: D) -> Result<Value, D::Error> {
        Bounded { meter: self, depth: 1 }.deserialize(reader)
    }

    /// An excess is told as itself, and not as the reader's error that it became.
    fn judge<E>(&self, read: Result<Value, E>) -> Result<Value, ReadError<E>> {
        match self.excess.get() {
            Some(excess) => Err(ReadError::Excess(excess)),
            None => read.map_err(ReadError::Syntax),
        }
    }

    fn give_up<E: Error>(&self, excess: Excess) -> E {
        self.excess.set(Some(excess));
        E::custom(excess)
    }

    fn count_value<E: Error>(&self) -> Result<(), E> {
        self.values.set(self.values.get() + 1);
        if self.values.get() > MAX_VALUES { Err(self.give_up(Excess::Values)) } else { Ok(()) }
    }

    fn count_text<E: Error>(&self, text: &str) -> Result<(), E> {
        self.text_bytes.set(self.text_bytes.get() + text.len());
        if self.text_bytes.get() > MAX_TEXT_BYTES { Err(self.give_up(Excess::Text)) } else { Ok(()) }
    }
}

/// A value at its depth.
#[derive(Clone, Copy)]
struct Bounded<'m> {
    meter: &'m Meter,
    depth: usize,
}

impl Bounded<'_> {
    /// What lies within.
    fn within<E: Error>(self) -> Result<Self, E> {
        // The brackets themselves are a level, even with nothing between them.
        if self.depth > MAX_DEPTH {
            return Err(self.meter.give_up(Excess::Depth));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        self.meter.count_value()?;
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    /// JSON has no infinite numbers; YAML has.
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.meter.count_text(text)?;
        Ok(text.into())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        self.meter.count_text(&text)?;
        Ok(text.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let within = self.within()?;
        let mut list = Vec::new();
        while let Some(element) = elements.next_element_seed(within)? {
            list.push(element);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let within = self.within()?;
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            self.meter.count_text(&key)?;
            object.insert(key, members.next_value_seed(within)?);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn excess<E: fmt::Debug>(read: Result<Value, ReadError<E>>) -> Option<Excess> {
        match read {
            Err(ReadError::Excess(excess)) => Some(excess),
            Ok(_) => None,
            Err(ReadError::Syntax(error)) => panic!("{error:?}"),
        }
    }

    fn nested(levels: usize) -> String {
        "[".repeat(levels) + &"]".repeat(levels)
    }

    #[test]
    fn nesting_is_read_to_the_limit_and_no_deeper() {
        assert_eq!(excess(from_json(nested(MAX_DEPTH).as_bytes())), None);
        assert_eq!(excess(from_json(nested(MAX_DEPTH + 1).as_bytes())), Some(Excess::Depth));
        assert_eq!(excess(from_json("[".repeat(1_000_000).as_bytes())), Some(Excess::Depth));
        assert_eq!(excess(from_json("{\"a\":".repeat(1_000_000).as_bytes())), Some(Excess::Depth));
        assert_eq!(excess(from_yaml(&nested(MAX_DEPTH + 1))), Some(Excess::Depth));
    }

    #[test]
    fn values_are_counted_wherever_they_are() {
        let zeros = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        // The list itself is one.
        assert_eq!(excess(from_json(zeros(MAX_VALUES - 1).as_bytes())), None);
        assert_eq!(excess(from_json(zeros(MAX_VALUES).as_bytes())), Some(Excess::Values));
        assert_eq!(
            excess(from_json(format!("[{}1]", "{},".repeat(MAX_VALUES)).as_bytes())),
            Some(Excess::Values)
        );
    }

    #[test]
    fn punctuation_tells_how_many_values_there_are_and_strings_have_none() {
        for (json, most) in [
            ("0", 1),
            ("[0,0,[0]]", 5),
            (r#"{"a":{"b":1},"c":[2]}"#, 5),
            // One more than there are, as nothing comes after the bracket.
            ("[]", 2),
            (r#"["[{,","\"[,",",\\",0]"#, 5),
        ] {
            assert_eq!(most_values(json.as_bytes()), most, "{json}");
        }
    }

    #[test]
    fn an_alias_counts_each_time_that_it_is_used() {
        let zeros = vec!["0"; 1000].join(",");
        let uses = vec!["*a"; 1000].join(",");
        assert_eq!(excess(from_yaml(&format!("a: &a [{zeros}]\nb: [{uses}]\n"))), Some(Excess::Values));
        let long = "x".repeat(MAX_YAML_BYTES / 2);
        let repeated = format!("a: &a {long}\nb: [{}]\n", vec!["*a"; 100].join(","));
        assert_eq!(excess(from_yaml(&repeated)), Some(Excess::Text));
        assert_eq!(excess(from_yaml(&"x".repeat(MAX_YAML_BYTES + 1))), Some(Excess::Yaml));
    }

    #[test]
    fn what_follows_the_value_is_an_error() {
        assert!(matches!(from_json(b"{} {}"), Err(ReadError::Syntax(_))));
        assert!(matches!(from_json(b""), Err(ReadError::Syntax(_))));
    }

    #[test]
    fn yaml_that_json_can_say_is_the_same() {
        let text = "a: [1, -2, 2.5, true, null, text]\n1: {b: ''}\n";
        assert_eq!(from_yaml(text).unwrap(), json!({"a": [1, -2, 2.5, true, null, "text"], "1": {"b": ""}}));
    }

    fn anything() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::hash_map("\\PC{0,4}", inner, 0..8)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// The value, and all within it.
    fn count(value: &Value) -> usize {
        1 + match value {
            Value::Array(elements) => elements.iter().map(count).sum(),
            Value::Object(members) => members.values().map(count).sum(),
            _ => 0,
        }
    }

    proptest! {
        #[test]
        fn no_text_has_more_values_than_its_punctuation_tells(value in anything()) {
            prop_assert!(count(&value) <= most_values(value.to_string().as_bytes()));
        }

        #[test]
        fn what_is_within_bounds_is_read_as_serde_json_reads_it(value in anything()) {
            let text = value.to_string();
            let plain: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(from_json(text.as_bytes()).unwrap(), plain);
        }
    }
}
