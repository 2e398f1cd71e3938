//! Numbers of 16 random bytes that prove something, each a type of its own. Written as 32 hexadecimal digits.
//!
//! They are secrets, so `Debug`, and with it every log line, does not show them.

use crate::content::text;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

macro_rules! numbers {
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
                to.serialize_str(text::hex(&self.0.to_be_bytes(), &mut [0; 32]))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                text::read(from, "32 hexadecimal digits", str::parse)
            }
        }
    )+};
}

numbers! {
    /// What a peer proves by that it is the one that registered.
    Token
    /// What a volunteer is known by, across restarts and addresses. It tells nobody but its tracker: whoever has it can
    /// pass for that volunteer.
    VolunteerKey
    /// What makes the answer to a challenge unlike any that was given before.
    Nonce
}

fn parse(text: &str) -> Result<u128, &'static str> {
    const WRONG: &str = "expected 32 hexadecimal digits";
    text::number(text.as_bytes()).filter(|_| text.len() == 32).ok_or(WRONG)
}
