//! Reads the requests that come most often without a detour.
//!
//! A message is tagged by its `type`, which may stand anywhere in it, so what is derived first collects a message whole and
//! then reads it again. Everybody writes the `type` first: then a heartbeat or a lookup is read straight from the bytes. All
//! else is read as derived, and what comes out is the same.

use super::tracker::{Token, TrackerRequest};
use crate::content::{FileId, FileName};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Error, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

impl Serialize for TrackerRequest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        // The derived one, which goes before the trait's.
        TrackerRequest::serialize(self, to)
    }
}

impl<'de> Deserialize<'de> for TrackerRequest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Requests)
    }
}

/// What [`TrackerRequest::Heartbeat`] has.
#[derive(Deserialize)]
struct Heartbeat {
    token: Token,
    #[serde(default, rename = "type")]
    _again: Once,
}

/// What [`TrackerRequest::Lookup`] has.
#[derive(Deserialize)]
struct Lookup {
    #[serde(default)]
    name: Option<FileName>,
    #[serde(default)]
    id: Option<FileId>,
    limit: u32,
    #[serde(default)]
    token: Option<Token>,
    #[serde(default, rename = "type")]
    _again: Once,
}

/// A field that has been there already.
#[derive(Default)]
struct Once;

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::duplicate_field("type"))
    }
}

struct Requests;

impl<'de> Visitor<'de> for Requests {
    type Value = TrackerRequest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a request")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TrackerRequest, A::Error> {
        let first: Option<Word<'de>> = map.next_key()?;
        let tag: Option<Word<'de>> = match &first {
            Some(key) if key.as_str() == "type" => Some(map.next_value()?),
            _ => None,
        };
        match tag.as_ref().map(Word::as_str) {
            Some("heartbeat") => {
                let Heartbeat { token, .. } = Heartbeat::deserialize(MapAccessDeserializer::new(map))?;
                Ok(TrackerRequest::Heartbeat { token })
            }
            Some("lookup") => {
                let asked = Lookup::deserialize(MapAccessDeserializer::new(map))?;
                let Lookup { name, id, limit, token, .. } = asked;
                Ok(TrackerRequest::Lookup { name, id, limit, token })
            }
            // The derived one.
            _ => TrackerRequest::deserialize(MapAccessDeserializer::new(Again { first, tag, map })),
        }
    }
}

/// A key or a tag, where it stands if it can be read there.
enum Word<'de> {
    Here(&'de str),
    Copied(String),
}

impl Word<'_> {
    fn as_str(&self) -> &str {
        match self {
            Self::Here(text) => text,
            Self::Copied(text) => text,
        }
    }
}

impl<'de> Deserialize<'de> for Word<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = Word<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Word<'de>, E> {
                Ok(Word::Here(text))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Word<'de>, E> {
                Ok(Word::Copied(text.to_owned()))
            }
        }
        from.deserialize_str(Words)
    }
}

/// A map of which the first key, and its value if that is the tag, have been read: once more from the beginning.
struct Again<'de, A> {
    first: Option<Word<'de>>,
    tag: Option<Word<'de>>,
    map: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Again<'de, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        match self.first.take() {
            Some(first) => seed.deserialize(first.as_str().into_deserializer()).map(Some),
            None => self.map.next_key_seed(seed),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        match self.tag.take() {
            Some(tag) => seed.deserialize(tag.as_str().into_deserializer()),
            None => self.map.next_value_seed(seed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is derived, for comparison.
    #[derive(Deserialize)]
    struct Derived(#[serde(with = "TrackerRequest")] TrackerRequest);

    fn read(json: &str) -> Result<TrackerRequest, String> {
        let derived = serde_json::from_str::<Derived>(json).map(|derived| derived.0);
        let read = serde_json::from_str::<TrackerRequest>(json);
        assert_eq!(read.as_ref().ok(), derived.as_ref().ok(), "{json}");
        read.map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_read_is_what_is_derived() {
        const TOKEN: &str = "0000000000000000000000000000002a";
        let heartbeat = TrackerRequest::Heartbeat { token: Token(42) };
        for (json, right) in [
            (format!(r#"{{"type":"heartbeat","token":"{TOKEN}"}}"#), true),
            (format!(r#"{{"token":"{TOKEN}","type":"heartbeat"}}"#), true),
            (format!(r#"{{"type":"heart\u0062eat","token":"{TOKEN}"}}"#), true),
            (format!(r#"{{"type":"heartbeat","later":[{{}}],"token":"{TOKEN}"}}"#), true),
            (format!(r#"{{"type":"heartbeat","token":"{TOKEN}","type":"heartbeat"}}"#), false),
            (format!(r#"{{"type":"heartbeat","token":"{TOKEN}","token":"{TOKEN}"}}"#), false),
            (format!(r#"{{"type":"heartbeat","token":"{TOKEN}0"}}"#), false),
            (r#"{"type":"heartbeat"}"#.to_owned(), false),
            (r#"{"type":7}"#.to_owned(), false),
            (r#"{}"#.to_owned(), false),
            (r#"7"#.to_owned(), false),
        ] {
            assert_eq!(read(&json).ok(), right.then(|| heartbeat.clone()), "{json}");
        }
        assert_eq!(read(r#"{"type":"of a later version","x":1}"#), Ok(TrackerRequest::Unknown));
        assert_eq!(read(r#"{"type":"list"}"#), Ok(TrackerRequest::List));
        assert_eq!(read(r#"{"version":1,"type":"hello"}"#), Ok(TrackerRequest::Hello { version: 1 }));
        assert!(read(r#"{"type":"lookup","limit":3,"name":"f"}"#).is_ok());
        assert!(read(r#"{"type":"lookup","limit":3,"name":"../f"}"#).is_err());
        assert!(read(r#"{"type":"lookup","name":null,"id":null,"limit":3,"token":null}"#).is_ok());
    }

    proptest! {
        #[test]
        fn any_lookup_is_read_as_it_was_written(
            name in prop::option::of("[a-zäöü\"'0-9]{1,9}"), id: Option<[u8; 32]>, limit: u32, token: Option<u128>,
        ) {
            let name = name.and_then(|name| FileName::new(name).ok());
            let lookup = TrackerRequest::Lookup { name, id: id.map(FileId), limit, token: token.map(Token) };
            prop_assert_eq!(read(&serde_json::to_string(&lookup).unwrap()), Ok(lookup));
        }
    }
}
