//! Values that are written as one string and read from it.

use serde::de::{Deserializer, Error, Visitor};
use std::fmt;

/// Reads a value from a string where it stands: `serde` copies what is read as a `String`, and as a `Cow<str>`.
pub(crate) fn read<'de, D: Deserializer<'de>, T, E: fmt::Display>(
    from: D,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, D::Error> {
    from.deserialize_str(Text { expected, parse })
}

struct Text<F> {
    expected: &'static str,
    parse: F,
}

impl<T, E: fmt::Display, F: FnOnce(&str) -> Result<T, E>> Visitor<'_> for Text<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<X: Error>(self, text: &str) -> Result<T, X> {
        (self.parse)(text).map_err(X::custom)
    }
}

/// The digits of a byte sequence, lower case, in a buffer of as many.
pub(crate) fn hex<'a, const N: usize>(bytes: &[u8], digits: &'a mut [u8; N]) -> &'a str {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let mut count = 0;
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
        count += 2;
    }
    // They are all ASCII.
    std::str::from_utf8(&digits[..count]).unwrap_or_default()
}

/// The value of a hexadecimal digit, of either case.
pub(crate) fn digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}
