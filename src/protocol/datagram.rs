//! Encoding of datagrams: a message in a JSON object of at most [`DATAGRAM_MAX`] bytes.
//!
//! A stateless [`Cookie`] validates the source address, like the connection id of BitTorrent's UDP trackers
//! (BEP 15) and the cookies of DNS (RFC 7873). Invariant: a source that is not validated never receives
//! more bytes than it sent; therefore a datagram without a cookie is padded with white space to
//! [`DATAGRAM_PADDED_BYTES`] bytes.

use super::Message;
use super::frame::FrameError;
use crate::content::limits::{DATAGRAM_MAX, DATAGRAM_PADDED_BYTES, PROTOCOL_VERSION};
use crate::content::{Digest, serde_str};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::net::{IpAddr, SocketAddr};

/// Cookie that validates the source address of a datagram; 16 hexadecimal digits in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cookie(pub u64);

impl Serialize for Cookie {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(serde_str::hex(&self.0.to_be_bytes(), &mut [0; 16]))
    }
}

impl<'de> Deserialize<'de> for Cookie {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "16 hexadecimal digits";
        serde_str::deserialize(from, EXPECTED, |text| {
            let number = serde_str::hex_number(text.as_bytes()).filter(|_| text.len() == 16);
            number.map(|number| Cookie(number as u64)).ok_or(EXPECTED)
        })
    }
}

/// Issues and verifies cookies from one secret, without state for each address.
pub struct CookieJar {
    secret: [u8; 32],
}

impl CookieJar {
    /// A cookie jar; `secret` must be random and is never sent.
    pub fn new(secret: [u8; 32]) -> Self {
        Self { secret }
    }

    /// The cookie of an address in an epoch: time divided by
    /// [`COOKIE_INTERVAL`](crate::content::limits::COOKIE_INTERVAL).
    pub fn cookie(&self, address: SocketAddr, epoch: u64) -> Cookie {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        // A fixed length makes the encoding unambiguous. At most 55 bytes fit in one block of SHA-256,
        // which matters because every datagram is verified.
        let mut input = [0; 54];
        input[..32].copy_from_slice(&self.secret);
        input[32..36].copy_from_slice(&(epoch as u32).to_be_bytes());
        input[36..52].copy_from_slice(&ip.octets());
        input[52..].copy_from_slice(&address.port().to_be_bytes());
        let [a, b, c, d, e, f, g, h, ..] = Digest::of(&input).0;
        Cookie(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    /// Whether a cookie validates an address: a cookie of this epoch or of the previous one does.
    pub fn validates(&self, cookie: Cookie, address: SocketAddr, epoch: u64) -> bool {
        cookie == self.cookie(address, epoch)
            || epoch.checked_sub(1).is_some_and(|last| cookie == self.cookie(address, last))
    }
}

/// Contents of a datagram.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Datagram<M> {
    /// [`PROTOCOL_VERSION`].
    pub v: u32,
    /// Transaction number, chosen by the client and repeated in the response.
    pub tx: u64,
    /// Validates the source address; absent until the tracker has issued a cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<Cookie>,
    /// The request or response.
    pub message: M,
}

/// Version and transaction number of a datagram whose message cannot be decoded.
///
/// They suffice to answer with an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub struct Envelope {
    /// Protocol version.
    pub v: u32,
    /// Transaction number.
    pub tx: u64,
}

impl<M: Message> Datagram<M> {
    /// A datagram of this protocol version.
    pub fn new(tx: u64, cookie: Option<Cookie>, message: M) -> Self {
        Self { v: PROTOCOL_VERSION, tx, cookie, message }
    }

    /// Encodes a request, padded if it has no cookie.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] above [`DATAGRAM_MAX`] bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let mut bytes = Vec::new();
        self.write(&mut bytes)?;
        if self.cookie.is_none() && bytes.len() < DATAGRAM_PADDED_BYTES {
            bytes.resize(DATAGRAM_PADDED_BYTES, b' ');
        }
        Ok(bytes)
    }

    /// Encodes a response into `bytes`, whose contents are replaced. Responses need no padding.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] above [`DATAGRAM_MAX`] bytes.
    pub fn write(&self, bytes: &mut Vec<u8>) -> Result<(), FrameError> {
        bytes.clear();
        serde_json::to_writer(&mut *bytes, self)?;
        if bytes.len() > DATAGRAM_MAX { Err(FrameError::TooLong) } else { Ok(()) }
    }

    /// Decodes a datagram.
    ///
    /// # Errors
    /// The bytes exceed [`DATAGRAM_MAX`], or are not a datagram with a message of the expected direction.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        match bytes.len() > DATAGRAM_MAX {
            true => Err(FrameError::TooLong),
            false => Ok(serde_json::from_slice(bytes)?),
        }
    }
}

/// Decodes the envelope of a datagram that [`Datagram::decode`] refused; `None` if that fails, too.
pub fn envelope(bytes: &[u8]) -> Option<Envelope> {
    serde_json::from_slice(bytes.get(..DATAGRAM_MAX.min(bytes.len()))?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tracker::{Token, TrackerRequest, TrackerResponse};
    use proptest::prelude::*;

    #[test]
    fn the_protocol_page_names_the_present_version() {
        let page = include_str!("../../docs/protocol.md");
        assert!(page.contains(&format!("Version: {PROTOCOL_VERSION}. ")), "docs/protocol.md");
    }

    #[test]
    fn json_of_a_datagram_is_fixed() {
        let request = Datagram::new(5, Some(Cookie(1)), TrackerRequest::Heartbeat { token: Token(42) });
        let json = r#"{"v":5,"tx":5,"cookie":"0000000000000001","message":{"type":"heartbeat","token":"0000000000000000000000000000002a"}}"#;
        assert_eq!(request.encode().unwrap(), json.as_bytes());
        assert_eq!(Datagram::decode(json.as_bytes()).unwrap(), request);
    }

    #[test]
    fn a_cookie_response_is_never_larger_than_its_request() {
        let smallest = Datagram::new(0, None, TrackerRequest::Unknown).encode().unwrap();
        let response = TrackerResponse::Cookie { cookie: Cookie(u64::MAX) };
        let response = serde_json::to_vec(&Datagram::new(u64::MAX, None, response)).unwrap();
        assert!(response.len() <= smallest.len());
        assert!(Datagram::<TrackerRequest>::decode(&smallest).is_ok(), "padding is white space");
    }

    #[test]
    fn a_cookie_validates_one_address_for_two_epochs() {
        let jar = CookieJar::new([1; 32]);
        let (client, other) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.1:2".parse().unwrap());
        let cookie = jar.cookie(client, 7);
        assert!(jar.validates(cookie, client, 7) && jar.validates(cookie, client, 8));
        assert!(!jar.validates(cookie, client, 9) && !jar.validates(cookie, client, 6));
        assert!(!jar.validates(cookie, other, 7));
        assert!(!CookieJar::new([2; 32]).validates(cookie, client, 7));
        assert!(!jar.validates(Cookie(0), client, 0));
    }

    #[test]
    fn a_datagram_of_another_version_has_an_envelope() {
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
