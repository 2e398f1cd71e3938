//! Datagrams: one JSON object of at most [`DATAGRAM_MAX`] bytes around a message.
//!
//! A source address is proven by a [`Cookie`] that the tracker computes from it and forgets (as
//! BitTorrent's UDP trackers do with their connection id, BEP 15, and DNS with RFC 7873). Invariant: an
//! unproven source never gets more bytes than it sent; that is why a datagram without a cookie is padded
//! with white space to [`DATAGRAM_PADDED`] bytes.

use super::Message;
use super::frame::FrameError;
use crate::content::limits::{DATAGRAM_MAX, DATAGRAM_PADDED, PROTOCOL_VERSION};
use crate::content::{Digest, text};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::net::{IpAddr, SocketAddr};

/// Proves that a datagram comes from where it says: 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cookie(pub u64);

impl Serialize for Cookie {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(text::hex(&self.0.to_be_bytes(), &mut [0; 16]))
    }
}

impl<'de> Deserialize<'de> for Cookie {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "16 hexadecimal digits";
        text::read(from, EXPECTED, |text| {
            let number = text::number(text.as_bytes()).filter(|_| text.len() == 16);
            number.map(|number| Cookie(number as u64)).ok_or(EXPECTED)
        })
    }
}

/// Makes and checks cookies. Nothing is remembered but one secret.
pub struct CookieJar {
    secret: [u8; 32],
}

impl CookieJar {
    /// A jar with a secret that nobody else knows.
    pub fn new(secret: [u8; 32]) -> Self {
        Self { secret }
    }

    /// The cookie of an address in an epoch (a time divided by
    /// [`COOKIE_EPOCH`](crate::content::limits::COOKIE_EPOCH)).
    pub fn cookie(&self, address: SocketAddr, epoch: u64) -> Cookie {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        // Of the same length for all, so that it says one thing only, and so short that it takes one step of the hash:
        // every datagram is checked.
        let mut text = [0; 54];
        text[..32].copy_from_slice(&self.secret);
        text[32..36].copy_from_slice(&(epoch as u32).to_be_bytes());
        text[36..52].copy_from_slice(&ip.octets());
        text[52..].copy_from_slice(&address.port().to_be_bytes());
        let [a, b, c, d, e, f, g, h, ..] = Digest::of(&text).0;
        Cookie(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    /// Whether a cookie proves an address: those of this epoch and of the one before do.
    pub fn proves(&self, cookie: Cookie, address: SocketAddr, epoch: u64) -> bool {
        cookie == self.cookie(address, epoch)
            || epoch.checked_sub(1).is_some_and(|last| cookie == self.cookie(address, last))
    }
}

/// What a datagram holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Datagram<M> {
    /// [`PROTOCOL_VERSION`].
    pub v: u32,
    /// Chosen by the asker and repeated in the answer.
    pub tx: u64,
    /// Proves the source, once the tracker has told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<Cookie>,
    /// The message.
    pub message: M,
}

/// What can be read of a datagram whose message cannot: enough to answer with an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub struct Envelope {
    /// The version.
    pub v: u32,
    /// The asker's number.
    pub tx: u64,
}

impl<M: Message> Datagram<M> {
    /// A datagram of this version.
    pub fn new(tx: u64, cookie: Option<Cookie>, message: M) -> Self {
        Self { v: PROTOCOL_VERSION, tx, cookie, message }
    }

    /// The bytes to send.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] when they do not fit.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let mut bytes = Vec::new();
        self.write(&mut bytes)?;
        if self.cookie.is_none() && bytes.len() < DATAGRAM_PADDED {
            bytes.resize(DATAGRAM_PADDED, b' ');
        }
        Ok(bytes)
    }

    /// Puts the bytes to send into `bytes` in place of what was there. Without padding, which an answer does not need.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] when they do not fit.
    pub fn write(&self, bytes: &mut Vec<u8>) -> Result<(), FrameError> {
        bytes.clear();
        serde_json::to_writer(&mut *bytes, self)?;
        if bytes.len() > DATAGRAM_MAX { Err(FrameError::TooLong) } else { Ok(()) }
    }

    /// Reads a datagram.
    ///
    /// # Errors
    /// Too long, or not one.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        match bytes.len() > DATAGRAM_MAX {
            true => Err(FrameError::TooLong),
            false => Ok(serde_json::from_slice(bytes)?),
        }
    }
}

/// What can be read of a datagram that [`Datagram::decode`] refused.
pub fn envelope(bytes: &[u8]) -> Option<Envelope> {
    serde_json::from_slice(bytes.get(..DATAGRAM_MAX.min(bytes.len()))?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tracker::{Token, TrackerRequest, TrackerResponse};
    use proptest::prelude::*;

    #[test]
    fn the_exact_form() {
        let request = Datagram::new(5, Some(Cookie(1)), TrackerRequest::Heartbeat { token: Token(42) });
        let json = r#"{"v":1,"tx":5,"cookie":"0000000000000001","message":{"type":"heartbeat","token":"0000000000000000000000000000002a"}}"#;
        assert_eq!(request.encode().unwrap(), json.as_bytes());
        assert_eq!(Datagram::decode(json.as_bytes()).unwrap(), request);
    }

    #[test]
    fn a_cookie_is_never_larger_than_what_it_answers() {
        let smallest = Datagram::new(0, None, TrackerRequest::Unknown).encode().unwrap();
        let response = TrackerResponse::Cookie { cookie: Cookie(u64::MAX) };
        let answer = serde_json::to_vec(&Datagram::new(u64::MAX, None, response)).unwrap();
        assert!(answer.len() <= smallest.len());
        assert!(Datagram::<TrackerRequest>::decode(&smallest).is_ok(), "padding is white space");
    }

    #[test]
    fn a_cookie_proves_one_address_for_a_while() {
        let jar = CookieJar::new([1; 32]);
        let (here, there) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.1:2".parse().unwrap());
        let cookie = jar.cookie(here, 7);
        assert!(jar.proves(cookie, here, 7) && jar.proves(cookie, here, 8));
        assert!(!jar.proves(cookie, here, 9) && !jar.proves(cookie, here, 6));
        assert!(!jar.proves(cookie, there, 7));
        assert!(!CookieJar::new([2; 32]).proves(cookie, here, 7));
        assert!(!jar.proves(Cookie(0), here, 0));
    }

    #[test]
    fn another_version_can_still_be_answered() {
        let bytes = br#"{"v":9,"tx":3,"message":{"never":"seen"}}"#;
        assert!(Datagram::<TrackerRequest>::decode(bytes).is_err());
        assert_eq!(envelope(bytes), Some(Envelope { v: 9, tx: 3 }));
        assert_eq!(envelope(b"garbage"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Datagram::<TrackerRequest>::decode(&bytes);
            let _ = envelope(&bytes);
        }
    }
}
