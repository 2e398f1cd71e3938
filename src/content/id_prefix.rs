//! First digits of a file id, as a user enters them.

use super::FileId;
use super::limits::ID_PREFIX_MIN;
use std::fmt;
use std::str::FromStr;

/// Number of digits of a whole id.
const DIGITS: usize = 64;

/// The first digits of a file id, at least [`ID_PREFIX_MIN`], in lower case; or a whole id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdPrefix(String);

/// A text that is no [`IdPrefix`].
#[derive(Debug, thiserror::Error)]
#[error("an id has {DIGITS} hexadecimal digits, of which at least the first {ID_PREFIX_MIN} are needed")]
pub struct NotAnId;

impl FromStr for IdPrefix {
    type Err = NotAnId;
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let fits = (ID_PREFIX_MIN..=DIGITS).contains(&text.len());
        match fits && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            true => Ok(Self(text.to_ascii_lowercase())),
            false => Err(NotAnId),
        }
    }
}

impl fmt::Display for IdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl IdPrefix {
    /// The id, if this is a whole one.
    pub fn whole(&self) -> Option<FileId> {
        self.0.parse().ok()
    }

    /// Whether an id begins with these digits.
    pub fn matches(&self, id: FileId) -> bool {
        id.to_string().starts_with(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_eight_digits_or_more_and_ignores_case() {
        let id = FileId([0xab; 32]);
        let parse = |text: &str| text.parse::<IdPrefix>();
        assert!(parse("ABababab").unwrap().matches(id));
        assert!(!parse("abababac").unwrap().matches(id));
        assert_eq!(parse(&"ab".repeat(32)).unwrap().whole(), Some(id));
        assert_eq!(parse("abababab").unwrap().whole(), None);
        for text in ["", "abababa", "abababag", &"ab".repeat(33)] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
