//! Helpers of `serde` for values written as one JSON string, among them hexadecimal numbers.

use serde::de::{Deserializer, Error, Visitor};
use std::fmt;

/// Deserializes a value from a string without a copy.
///
/// A field of type `String` or `Cow<str>` would be copied by `serde` before it is parsed.
pub(crate) fn deserialize<'de, D: Deserializer<'de>, T, E: fmt::Display>(
    from: D,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, D::Error> {
    from.deserialize_str(StrVisitor { expected, parse })
}

struct StrVisitor<F> {
    expected: &'static str,
    parse: F,
}

impl<T, E: fmt::Display, F: FnOnce(&str) -> Result<T, E>> Visitor<'_> for StrVisitor<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<X: Error>(self, text: &str) -> Result<T, X> {
        (self.parse)(text).map_err(X::custom)
    }
}

const DIGITS: [u8; 16] = *b"0123456789abcdef";

/// Writes bytes as lower-case hexadecimal digits into `digits`, which has two bytes for each.
pub(crate) fn hex<'a, const N: usize>(bytes: &[u8], digits: &'a mut [u8; N]) -> &'a str {
    let mut count = 0;
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
        count += 2;
    }
    // The digits are ASCII, so this never fails.
    std::str::from_utf8(&digits[..count]).unwrap_or_default()
}

/// Parses up to 32 hexadecimal digits, of either case; `None` for other bytes or more digits.
pub(crate) fn hex_number(digits: &[u8]) -> Option<u128> {
    if digits.len() > 32 {
        return None;
    }
    digits.iter().try_fold(0, |number, byte| Some(number << 4 | u128::from(hex_digit(*byte)?)))
}

/// The value of a hexadecimal digit, of either case; `None` for any other byte.
pub(crate) fn hex_digit(digit: u8) -> Option<u8> {
    // A table, because a branch on "digit or letter" is mispredicted half of the time.
    let value = VALUES[usize::from(digit)];
    (value < 16).then_some(value)
}

/// The value of each byte as a hexadecimal digit; `u8::MAX` for bytes that are not digits.
const VALUES: [u8; 256] = {
    let mut values = [u8::MAX; 256];
    let mut value = 0;
    while value < 16 {
        let digit = DIGITS[value as usize];
        values[digit as usize] = value;
        values[digit.to_ascii_uppercase() as usize] = value;
        value += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digit_values_match_the_standard_library() {
        for byte in 0..=u8::MAX {
            assert_eq!(hex_digit(byte).map(u32::from), char::from(byte).to_digit(16), "{byte}");
        }
    }
}
