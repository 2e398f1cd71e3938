//! Fast path for the most frequent requests of a tracker: heartbeats and lookups.
//!
//! The tag `type` may be anywhere in a message, so the decoder derived by `serde` first buffers the whole
//! message and then decodes it. All known clients send `type` first; in this case a heartbeat or a lookup
//! is decoded directly from the bytes. All other messages take the derived decoder. A datagram with a
//! heartbeat, the most frequent one, is recognised by comparing its bytes. Invariant: every result equals
//! that of the derived code.

use super::datagram::{Cookie, Datagram};
use super::frame::FrameError;
use super::tracker::{Token, TrackerRequest, TrackerResponse};
use crate::content::limits::PROTOCOL_VERSION;
use crate::content::{FileId, FileName, serde_str};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Error, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

impl Serialize for TrackerRequest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        // The derived inherent function, which takes precedence over the method of this trait.
        TrackerRequest::serialize(self, to)
    }
}

impl<'de> Deserialize<'de> for TrackerRequest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(RequestVisitor)
    }
}

/// The byte strings of this module contain the version.
const _: () = assert!(PROTOCOL_VERSION == 5);

/// Decodes a datagram, with the same result as [`Datagram::decode`].
pub(crate) fn decode(bytes: &[u8]) -> Result<Datagram<TrackerRequest>, FrameError> {
    heartbeat(bytes).map_or_else(|| Datagram::decode(bytes), Ok)
}

/// Decodes a heartbeat with a cookie, if its bytes are exactly those that [`Datagram::encode`] writes.
///
/// Then each field has a fixed position and form.
fn heartbeat(bytes: &[u8]) -> Option<Datagram<TrackerRequest>> {
    let rest = bytes.strip_prefix(br#"{"v":5,"tx":"#)?;
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
        v: PROTOCOL_VERSION,
        tx: digits.iter().try_fold(0, decimal)?,
        cookie: Some(Cookie(serde_str::hex_number(cookie)? as u64)),
        message: TrackerRequest::Heartbeat { token: Token(serde_str::hex_number(token)?) },
    })
}

/// Encodes a response into `bytes`, with the same result as [`Datagram::write`].
pub(crate) fn write(response: &Datagram<TrackerResponse>, bytes: &mut Vec<u8>) -> Result<(), FrameError> {
    let Datagram { v: PROTOCOL_VERSION, tx, cookie: None, message: TrackerResponse::Alive } = response else {
        return response.write(bytes);
    };
    bytes.clear();
    bytes.extend_from_slice(br#"{"v":5,"tx":"#);
    serde_json::to_writer(&mut *bytes, tx)?;
    bytes.extend_from_slice(br#","message":{"type":"alive"}}"#);
    Ok(())
}

/// Fields of [`TrackerRequest::Heartbeat`].
#[derive(Deserialize)]
struct Heartbeat {
    token: Token,
    #[serde(default, rename = "type")]
    _second_tag: DuplicateTag,
}

/// Fields of [`TrackerRequest::Lookup`].
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
    _second_tag: DuplicateTag,
}

/// A second `type` field, which is an error if present.
#[derive(Default)]
struct DuplicateTag;

impl<'de> Deserialize<'de> for DuplicateTag {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::duplicate_field("type"))
    }
}

struct RequestVisitor;

impl<'de> Visitor<'de> for RequestVisitor {
    type Value = TrackerRequest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a request")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TrackerRequest, A::Error> {
        let first_key: Option<Text<'de>> = map.next_key()?;
        let tag: Option<Text<'de>> = match &first_key {
            Some(key) if key.as_str() == "type" => Some(map.next_value()?),
            _ => None,
        };
        match tag.as_ref().map(Text::as_str) {
            Some("heartbeat") => {
                let Heartbeat { token, .. } = Heartbeat::deserialize(MapAccessDeserializer::new(map))?;
                Ok(TrackerRequest::Heartbeat { token })
            }
            Some("lookup") => {
                let lookup = Lookup::deserialize(MapAccessDeserializer::new(map))?;
                let Lookup { name, id, limit, token, .. } = lookup;
                Ok(TrackerRequest::Lookup { name, id, limit, token })
            }
            // The derived inherent function.
            _ => TrackerRequest::deserialize(MapAccessDeserializer::new(Replay { first_key, tag, map })),
        }
    }
}

/// A key or a tag: borrowed from the input unless it has escape sequences.
enum Text<'de> {
    Borrowed(&'de str),
    Owned(String),
}

impl Text<'_> {
    fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Owned(text) => text,
        }
    }
}

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text::Borrowed(text))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text::Owned(text.to_owned()))
            }
        }
        from.deserialize_str(TextVisitor)
    }
}

/// A map whose first key, and its value if the key is `type`, were already read; it returns them again.
struct Replay<'de, A> {
    first_key: Option<Text<'de>>,
    tag: Option<Text<'de>>,
    map: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Replay<'de, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        match self.first_key.take() {
            Some(key) => seed.deserialize(key.as_str().into_deserializer()).map(Some),
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

    /// A request decoded by the derived code, for comparison.
    #[derive(Deserialize)]
    struct Derived(#[serde(with = "TrackerRequest")] TrackerRequest);

    fn read(json: &str) -> Result<TrackerRequest, String> {
        let derived = serde_json::from_str::<Derived>(json).map(|derived| derived.0);
        let read = serde_json::from_str::<TrackerRequest>(json);
        assert_eq!(read.as_ref().ok(), derived.as_ref().ok(), "{json}");
        read.map_err(|error| error.to_string())
    }

    #[test]
    fn requests_decode_as_with_the_derived_decoder() {
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
        assert_eq!(read(r#"{"version":5,"type":"hello"}"#), Ok(TrackerRequest::Hello { version: 5 }));
        assert!(read(r#"{"type":"lookup","limit":3,"name":"f"}"#).is_ok());
        assert!(read(r#"{"type":"lookup","limit":3,"name":"../f"}"#).is_err());
        assert!(read(r#"{"type":"lookup","name":null,"id":null,"limit":3,"token":null}"#).is_ok());
    }

    #[test]
    fn only_exact_heartbeats_take_the_byte_comparison() {
        let token = Token(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        let datagram =
            Datagram::new(907, Some(Cookie(0xfedc_ba98_7654_3210)), TrackerRequest::Heartbeat { token });
        let bytes = datagram.encode().unwrap();
        assert_eq!(heartbeat(&bytes), Some(datagram));
        // All variants with one byte changed or inserted, and all prefixes.
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
        let with_tx = |tx: &str| String::from_utf8_lossy(&bytes).replace("907", tx).into_bytes();
        for (tx, valid) in [("18446744073709551615", true), ("18446744073709551616", false), ("0", true)] {
            same_as_derived(&with_tx(tx));
            assert_eq!(heartbeat(&with_tx(tx)).is_some(), valid, "{tx}");
        }
        ["00", "01", "", "-1", "1.0", "1e2"].iter().for_each(|tx| {
            same_as_derived(&with_tx(tx));
            assert_eq!(heartbeat(&with_tx(tx)), None, "{tx}");
        });
    }

    /// Checks that a datagram accepted by the byte comparison decodes to the same value with the derived
    /// decoder.
    fn same_as_derived(bytes: &[u8]) {
        if let Some(read) = heartbeat(bytes) {
            let derived = Datagram::<TrackerRequest>::decode(bytes).ok();
            assert_eq!(Some(read), derived, "{}", String::from_utf8_lossy(bytes));
        }
    }

    proptest! {
        #[test]
        fn every_encoded_heartbeat_takes_the_byte_comparison(tx: u64, cookie: u64, token: u128) {
            let request = TrackerRequest::Heartbeat { token: Token(token) };
            let datagram = Datagram::new(tx, Some(Cookie(cookie)), request);
            let bytes = datagram.encode().unwrap();
            same_as_derived(&bytes);
            prop_assert_eq!(heartbeat(&bytes), Some(datagram));
        }

        #[test]
        fn responses_encode_as_with_the_derived_encoder(tx: u64, v in 0u32..3, cookie: Option<u64>) {
            for message in [TrackerResponse::Alive, TrackerResponse::Farewell] {
                let response = Datagram { v, tx, cookie: cookie.map(Cookie), message };
                let (mut fast, mut derived) = (b"old".to_vec(), Vec::new());
                write(&response, &mut fast).unwrap();
                response.write(&mut derived).unwrap();
                prop_assert_eq!(fast, derived);
            }
        }

        #[test]
        fn decoding_restores_every_encoded_lookup(
            name in prop::option::of("[a-zäöü\"'0-9]{1,9}"), id: Option<[u8; 32]>, limit: u32, token: Option<u128>,
        ) {
            let name = name.and_then(|name| FileName::new(name).ok());
            let lookup = TrackerRequest::Lookup { name, id: id.map(FileId), limit, token: token.map(Token) };
            prop_assert_eq!(read(&serde_json::to_string(&lookup).unwrap()), Ok(lookup));
        }
    }
}
