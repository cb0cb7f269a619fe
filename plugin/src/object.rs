//! A JSON object whose values keep their bytes.
//!
//! `prevResult` goes out as it came in: numbers of any length, the order of keys and spaces included. A parsed
//! value cannot promise that, a raw one does, and it costs less.

use std::fmt;

use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of a JSON object in the order they came, each value as the bytes it was written with.
#[derive(Debug, Clone, Default)]
pub struct Object {
    members: Vec<(String, Box<RawValue>)>,
}

/// A member is there and is not what it has to be.
#[derive(Debug, thiserror::Error)]
#[error("read {key}: expected {expected}, found {found}")]
pub struct WrongType {
    /// The member's name.
    pub key: String,
    /// What should stand there.
    pub expected: &'static str,
    /// What stands there: the kind of JSON value.
    pub found: &'static str,
    /// What the JSON reader said.
    #[source]
    pub source: serde_json::Error,
}

impl Object {
    /// Reads one JSON object and nothing after it.
    ///
    /// # Errors
    /// Bytes that are not JSON, and JSON that is not an object ([`serde_json::Error::classify`] tells them apart).
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// The value of `key`; the last one where it stands twice, as in Go.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&RawValue> {
        self.members
            .iter()
            .rev()
            .find(|(name, _)| name == key)
            .map(|(_, value)| &**value)
    }

    /// The value of `key` as a `T`; `Ok(None)` where the key is absent. JSON's null is a value like any other.
    ///
    /// # Errors
    /// [`WrongType`] when the value is no `T`.
    pub fn read<T: DeserializeOwned>(
        &self,
        key: &str,
        expected: &'static str,
    ) -> Result<Option<T>, WrongType> {
        self.get(key)
            .map(|raw| {
                serde_json::from_str(raw.get()).map_err(|source| WrongType {
                    key: key.to_owned(),
                    expected,
                    found: kind(raw),
                    source,
                })
            })
            .transpose()
    }

    /// The names of all members, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|(name, _)| name.as_str())
    }

    /// The object as JSON, every value as it came, except that `key` is `value`: in its place where it stands, else
    /// first.
    #[must_use]
    pub fn render_with(&self, key: &str, value: &str) -> String {
        let replacement = serde_json::Value::from(value).to_string();
        let mut out = String::from("{");
        let mut member = |name: &str, value: &str| {
            if out.len() > 1 {
                out.push(',');
            }
            out.push_str(&serde_json::Value::from(name).to_string());
            out.push(':');
            out.push_str(value);
        };
        if self.get(key).is_none() {
            member(key, &replacement);
        }
        for (name, raw) in &self.members {
            member(name, if name == key { &replacement } else { raw.get() });
        }
        out.push('}');
        out
    }
}

/// What kind of JSON value `raw` is, in the words of an error message.
#[must_use]
pub fn kind(raw: &RawValue) -> &'static str {
    match raw.get().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

impl<'de> serde::Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    members.push(entry);
                }
                Ok(Object { members })
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_bytes() {
        let text = r#"{"b":{"z":1,"a":12345678901234567890123456789.10e+2},"cniVersion":"0.4.0","m":"7" ,"a\"\u00e9":[ 1, 2 ]}"#;
        let object = Object::parse(text.as_bytes()).unwrap();
        assert_eq!(
            object.render_with("cniVersion", "0.4.0"),
            r#"{"b":{"z":1,"a":12345678901234567890123456789.10e+2},"cniVersion":"0.4.0","m":"7","a\"é":[ 1, 2 ]}"#
        );
        assert_eq!(
            Object::parse(b"{}").unwrap().render_with("v", "1"),
            r#"{"v":"1"}"#
        );
        assert_eq!(
            Object::parse(br#"{"a":1}"#).unwrap().render_with("v", "1"),
            r#"{"v":"1","a":1}"#
        );
    }

    #[test]
    fn last_duplicate_wins_and_types_are_named() {
        let object = Object::parse(br#"{"a":1,"a":"x","n":null}"#).unwrap();
        assert_eq!(
            object.read::<String>("a", "a string").unwrap().as_deref(),
            Some("x")
        );
        assert_eq!(object.read::<String>("none", "a string").unwrap(), None);
        let error = object.read::<u8>("a", "a number").unwrap_err();
        assert_eq!(
            error.to_string(),
            "read a: expected a number, found a string"
        );
        assert_eq!(
            object.read::<String>("n", "a string").unwrap_err().found,
            "null"
        );
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_stack_overflow() {
        let mut text = b"{\"a\":".to_vec();
        text.extend(std::iter::repeat_n(b'[', 1 << 20));
        assert!(Object::parse(&text).is_err());
        text.extend(std::iter::repeat_n(b']', 1 << 20));
        text.push(b'}');
        if let Ok(object) = Object::parse(&text) {
            assert!(object.read::<serde_json::Value>("a", "a list").is_err());
        }
    }
}
