//! Reads the requests that come most often, and writes what answers them, without a detour.
//!
//! A message is tagged by its `type`, which may stand anywhere in it, so what is derived first collects a message whole and
//! then reads it again. Everybody writes the `type` first: then a heartbeat or a lookup is read straight from the bytes. All
//! else is read as derived, and what comes out is the same. A datagram with a heartbeat, which is most of what a tracker
//! hears, is recognised by its very bytes.

use super::datagram::{Cookie, Datagram};
use super::frame::FrameError;
use super::tracker::{Token, TrackerRequest, TrackerResponse};
use crate::content::{FileId, FileName, text};
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

/// Reads a datagram, as [`Datagram::decode`] does.
pub(crate) fn decode(bytes: &[u8]) -> Result<Datagram<TrackerRequest>, FrameError> {
    heartbeat(bytes).map_or_else(|| Datagram::decode(bytes), Ok)
}

/// The datagram, if it is a heartbeat with a cookie and is written exactly as [`Datagram::encode`] writes it. Everything
/// in it then has one place and one form.
fn heartbeat(bytes: &[u8]) -> Option<Datagram<TrackerRequest>> {
    let rest = bytes.strip_prefix(br#"{"v":1,"tx":"#)?;
    let length = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    let (digits, rest) = rest.split_at(length);
    let rest = rest.strip_prefix(br#","cookie":""#)?;
    let (cookie, rest) = rest.split_first_chunk::<16>()?;
    let rest = rest.strip_prefix(br#"","message":{"type":"heartbeat","token":""#)?;
    let (token, rest) = rest.split_first_chunk::<32>()?;
    if rest != br#""}}"# || digits.is_empty() || (digits.starts_with(b"0") && length > 1) {
        return None;
    }
    let decimal = |number: u64, digit: &u8| number.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    Some(Datagram {
        v: 1,
        tx: digits.iter().try_fold(0, decimal)?,
        cookie: Some(Cookie(text::number(cookie)? as u64)),
        message: TrackerRequest::Heartbeat { token: Token(text::number(token)?) },
    })
}

/// Puts an answer into `bytes`, as [`Datagram::write`] does.
pub(crate) fn write(answer: &Datagram<TrackerResponse>, bytes: &mut Vec<u8>) -> Result<(), FrameError> {
    let Datagram { v: 1, tx, cookie: None, message: TrackerResponse::Alive } = answer else {
        return answer.write(bytes);
    };
    bytes.clear();
    bytes.extend_from_slice(br#"{"v":1,"tx":"#);
    serde_json::to_writer(&mut *bytes, tx)?;
    bytes.extend_from_slice(br#","message":{"type":"alive"}}"#);
    Ok(())
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

    #[test]
    fn only_what_is_a_heartbeat_is_read_as_one() {
        let token = Token(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        let all =
            Datagram::new(907, Some(Cookie(0xfedc_ba98_7654_3210)), TrackerRequest::Heartbeat { token });
        let bytes = all.encode().unwrap();
        assert_eq!(heartbeat(&bytes), Some(all));
        // Everything that differs from it in one byte, is longer, or is shorter.
        let changed = (0..bytes.len()).flat_map(|at| (0..=u8::MAX).map(move |byte| (at, byte)));
        for (at, byte) in changed {
            let mut other = bytes.clone();
            other[at] = byte;
            same_as_derived(&other);
            other[at] = bytes[at];
            other.insert(at, byte);
            same_as_derived(&other);
        }
        (0..bytes.len()).for_each(|length| same_as_derived(&bytes[..length]));
        let most = |tx: &str| String::from_utf8_lossy(&bytes).replace("907", tx).into_bytes();
        for (tx, right) in [("18446744073709551615", true), ("18446744073709551616", false), ("0", true)] {
            same_as_derived(&most(tx));
            assert_eq!(heartbeat(&most(tx)).is_some(), right, "{tx}");
        }
        ["00", "01", "", "-1", "1.0", "1e2"].iter().for_each(|tx| {
            same_as_derived(&most(tx));
            assert_eq!(heartbeat(&most(tx)), None, "{tx}");
        });
    }

    /// What is recognised by its bytes must be what the general way makes of them.
    fn same_as_derived(bytes: &[u8]) {
        if let Some(read) = heartbeat(bytes) {
            let derived = Datagram::<TrackerRequest>::decode(bytes).ok();
            assert_eq!(Some(read), derived, "{}", String::from_utf8_lossy(bytes));
        }
    }

    proptest! {
        #[test]
        fn any_heartbeat_is_recognised(tx: u64, cookie: u64, token: u128) {
            let request = TrackerRequest::Heartbeat { token: Token(token) };
            let all = Datagram::new(tx, Some(Cookie(cookie)), request);
            let bytes = all.encode().unwrap();
            same_as_derived(&bytes);
            prop_assert_eq!(heartbeat(&bytes), Some(all));
        }

        #[test]
        fn any_answer_is_written_as_it_always_is(tx: u64, v in 0u32..3, cookie: Option<u64>) {
            for message in [TrackerResponse::Alive, TrackerResponse::Farewell] {
                let answer = Datagram { v, tx, cookie: cookie.map(Cookie), message };
                let (mut written, mut derived) = (b"old".to_vec(), Vec::new());
                write(&answer, &mut written).unwrap();
                answer.write(&mut derived).unwrap();
                prop_assert_eq!(written, derived);
            }
        }

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
