//! Random secrets of 128 bits, each of its own type; 32 hexadecimal digits in JSON.
//!
//! `Debug` hides their values, so that they never appear in log lines.

use crate::content::{Digest, Hasher, serde_str};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

macro_rules! secret_tokens {
    ($($(#[$doc:meta])* $name:ident)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u128);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }

        impl FromStr for $name {
            type Err = &'static str;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(serde_str::hex(&self.0.to_be_bytes(), &mut [0; 32]))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                serde_str::deserialize(from, "32 hexadecimal digits", str::parse)
            }
        }
    )+};
}

secret_tokens! {
    /// Token of a registered peer; it authorises the requests of this peer.
    Token
    /// Key that identifies a volunteer across restarts and addresses.
    ///
    /// A volunteer sends it to its tracker only: any peer that knows the key can impersonate the volunteer.
    VolunteerKey
    /// Key of a registration, by which the peer proves its identity where its tracker or manager dials it.
    ///
    /// The peer chooses it, so that it can answer before it has received its token.
    IdentityKey
    /// Number that a downloading peer draws for one run, so that its reports of completion count once.
    ReportId
    /// Random number in a challenge, so that an earlier proof cannot be replayed.
    Nonce
}

/// Proof that a peer has a registration: SHA-256 of "shoal identity", the key and the nonce (16 bytes each, big-endian).
/// It does not reveal the key.
pub fn identity_proof(key: IdentityKey, nonce: Nonce) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(b"shoal identity");
    hasher.update(&key.0.to_be_bytes());
    hasher.update(&nonce.0.to_be_bytes());
    hasher.finish()
}

/// Public print of a [`VolunteerKey`]: the first 8 bytes of SHA-256 of "shoal volunteer key" and the key (16 bytes,
/// big-endian). It names a volunteer without revealing its key; users type its first digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyPrint(pub [u8; 8]);

impl VolunteerKey {
    /// The public print of the key.
    pub fn print(self) -> KeyPrint {
        let mut hasher = Hasher::new();
        hasher.update(b"shoal volunteer key");
        hasher.update(&self.0.to_be_bytes());
        let mut print = [0; 8];
        print.copy_from_slice(&hasher.finish().0[..8]);
        KeyPrint(print)
    }
}

impl KeyPrint {
    /// The first 8 digits, for log lines and tables.
    pub fn short(self) -> String {
        self.to_string().chars().take(8).collect()
    }
}

impl fmt::Display for KeyPrint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(serde_str::hex(&self.0, &mut [0; 16]))
    }
}

impl fmt::Debug for KeyPrint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPrint({self})")
    }
}

impl FromStr for KeyPrint {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = serde_str::hex_number(text.as_bytes()).filter(|_| text.len() == 16);
        let number = number.and_then(|number| u64::try_from(number).ok());
        number.map(|number| Self(number.to_be_bytes())).ok_or("expected 16 hexadecimal digits")
    }
}

impl Serialize for KeyPrint {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(serde_str::hex(&self.0, &mut [0; 16]))
    }
}

impl<'de> Deserialize<'de> for KeyPrint {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        serde_str::deserialize(from, "16 hexadecimal digits", str::parse)
    }
}

fn parse(text: &str) -> Result<u128, &'static str> {
    const WRONG: &str = "expected 32 hexadecimal digits";
    serde_str::hex_number(text.as_bytes()).filter(|_| text.len() == 32).ok_or(WRONG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_print_names_a_key_without_revealing_it() {
        let print = VolunteerKey(42).print();
        assert_ne!(print, VolunteerKey(43).print());
        assert_eq!(print.to_string().parse(), Ok(print));
        assert_eq!(serde_json::to_string(&print).unwrap(), format!("\"{print}\""));
        for bad in ["", "0123456789abcde", "0123456789abcdef0", "+123456789abcdef"] {
            assert!(bad.parse::<KeyPrint>().is_err(), "{bad}");
        }
    }
}
