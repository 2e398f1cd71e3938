//! The MD5 of a whole file: a second check, independent of the chunks, after a file is assembled.
//!
//! Chunks are verified by SHA-256. The MD5 gives no protection against an attacker; it detects chunks that
//! were written to the wrong place. It is 16 bytes, written as 32 lower-case hexadecimal digits, like the
//! output of `md5sum`. It cannot be computed in parallel, so it is computed once, when a file is published.

use super::digest::{NotADigest, parse_hex};
use super::serde_str;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// The MD5 of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Md5(pub [u8; 16]);

impl fmt::Display for Md5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Md5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Md5({self})")
    }
}

impl FromStr for Md5 {
    type Err = NotADigest;
    fn from_str(text: &str) -> Result<Self, NotADigest> {
        parse_hex(text.as_bytes()).map(Self)
    }
}

impl Serialize for Md5 {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(serde_str::hex(&self.0, &mut [0; 32]))
    }
}

impl<'de> Deserialize<'de> for Md5 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        serde_str::deserialize(from, "32 hexadecimal digits", str::parse)
    }
}

/// Computes an [`Md5`] from consecutive pieces of a file.
pub struct Md5Hasher(md5::Context);

impl Default for Md5Hasher {
    fn default() -> Self {
        Self::new()
    }
}

impl Md5Hasher {
    /// A hasher of an empty file.
    pub fn new() -> Self {
        Self(md5::Context::new())
    }

    /// Appends bytes to the file.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.consume(bytes);
    }

    /// The MD5 of all bytes so far.
    pub fn finish(self) -> Md5 {
        Md5(self.0.finalize().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md5_agrees_with_md5sum_and_parses_its_own_output() {
        let mut hasher = Md5Hasher::new();
        hasher.update(b"a");
        hasher.update(b"bc");
        let md5 = hasher.finish();
        assert_eq!(md5.to_string(), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!("900150983CD24FB0D6963F7D28E17F72".parse(), Ok(md5));
        for bad in ["", "900150983cd24fb0d6963f7d28e17f7", "g00150983cd24fb0d6963f7d28e17f72"] {
            assert!(bad.parse::<Md5>().is_err(), "{bad}");
        }
        assert_eq!(Md5Hasher::new().finish().to_string(), "d41d8cd98f00b204e9800998ecf8427e");
    }
}
