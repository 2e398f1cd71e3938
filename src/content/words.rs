//! Numbers and sizes for people.
//!
//! Pure. Invariant: what is said of one thing is said in the singular.

use bytesize::ByteSize;

/// So many of something that is named in the singular: `1 chunk`, `2,048 chunks`, `3 copies`.
pub fn counted(count: u64, what: &str) -> String {
    let number = grouped(count);
    match what.strip_suffix('y') {
        _ if count == 1 => format!("{number} {what}"),
        Some(stem) => format!("{number} {stem}ies"),
        None => format!("{number} {what}s"),
    }
}

/// A number, its thousands set apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many bytes: `1.0 GiB`.
pub fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_thousands_are_set_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        for (count, what, text) in [
            (0, "chunk", "0 chunks"),
            (1, "chunk", "1 chunk"),
            (1, "copy", "1 copy"),
            (2_048, "copy", "2,048 copies"),
        ] {
            assert_eq!(counted(count, what), text);
        }
        assert_eq!(size(3 << 20), "3.0 MiB");
    }
}
