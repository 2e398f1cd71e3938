//! Random secrets of 128 bits, each of its own type; 32 hexadecimal digits in JSON.
//!
//! `Debug` hides their values, so that they never appear in log lines.

use crate::content::serde_str;
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
    /// Random number in a challenge, so that an earlier proof cannot be replayed.
    Nonce
}

fn parse(text: &str) -> Result<u128, &'static str> {
    const WRONG: &str = "expected 32 hexadecimal digits";
    serde_str::hex_number(text.as_bytes()).filter(|_| text.len() == 32).ok_or(WRONG)
}
