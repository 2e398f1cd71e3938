//! Validated names from untrusted input: of files, peers and chunk sets.
//!
//! A [`FileName`] joined to a folder never leaves that folder; a
//! [`PeerName`] or [`SetName`] is one field of an event line. They are validated in their constructors, so
//! that a value of these types needs no further check.

use super::{limits, serde_str};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;
use unicode_normalization::UnicodeNormalization as _;

/// A text that is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("the name is empty")]
    Empty,
    /// Length and maximum, bytes.
    #[error("the name has {0} bytes, more than {1}")]
    TooLong(usize, usize),
    /// The name is `.` or `..`, or that of a peer and consists of dots only.
    #[error("{0:?} is not the name of a file")]
    Dots(String),
    /// The name contains a forbidden character.
    #[error("the name {0:?} contains {1:?}")]
    Character(String, char),
    /// The name of a peer or set contains a forbidden character.
    #[error(
        r#"the name {0:?} contains {1:?}; a name has no , / \ : * ? " < > |, tabs or control characters"#
    )]
    PeerCharacter(String, char),
    /// The name of trackers in event lines.
    #[error("the name {0:?} belongs to trackers")]
    Tracker(String),
    /// The name is reserved for a Windows device, with or without an extension.
    #[error("{0:?} is a device name on Windows")]
    Device(String),
    /// The name begins or ends with characters that Windows silently removes.
    #[error("the name {0:?} ends in a dot or begins or ends with a space")]
    Ending(String),
}

macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident($text:ty), $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub struct $name($text);

        impl $name {
            /// Validates a text.
            ///
            /// # Errors
            /// The first violated rule.
            pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
                let text = text.as_ref();
                $check(text)?;
                Ok(Self(text.into()))
            }
            /// The name as a string slice.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.as_str().to_owned()
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                serde_str::deserialize(from, "a name", |text| Self::new(text))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_name! {
    /// Name of a file: one path component, safe to join to a folder.
    ///
    /// A name is refused only where it cannot exist on Linux or macOS: `/`, `.` and `..`. Control characters
    /// and bidirectional controls are refused, too. A clone shares the text by reference count.
    FileName(Arc<str>), check_file_name
}
checked_name! {
    /// Name of a peer: 1 to 64 bytes without comma, and without the characters and names that Windows refuses. Spaces
    /// are allowed between other characters.
    ///
    /// It is one field of the comma-separated event lines of `logs.log`.
    PeerName(Box<str>), check_peer_name
}
checked_name! {
    /// Name of a chunk set, with the same rules as a [`PeerName`].
    ///
    /// It is also the name of the file assembled from the chunks.
    SetName(Box<str>), check_peer_name
}

impl FileName {
    /// Comparison key: names with equal keys may denote the same file on Windows or macOS.
    ///
    /// These systems ignore case and the composition of accents.
    pub fn folded(&self) -> String {
        fold(&self.0)
    }
}

/// The key of [`FileName::folded`] for any text: composed (NFC) and in lower case.
///
/// Lower case is Unicode's full mapping, independent of language. A final sigma becomes a plain one; "ß"
/// stays "ß", not "ss".
pub fn fold(text: &str) -> String {
    // NFC again at the end: "J" with a caron has no composed form, "j" with a caron has one.
    text.nfc().collect::<String>().to_lowercase().replace('ς', "σ").nfc().collect()
}

fn check_length(text: &str, max: usize) -> Result<(), NameError> {
    match text.len() {
        0 => Err(NameError::Empty),
        length if length > max => Err(NameError::TooLong(length, max)),
        _ => Ok(()),
    }
}

/// The first character of a text that is `bad`.
fn first(text: &str, bad: impl Fn(char) -> bool) -> Option<char> {
    text.chars().find(|&c| bad(c))
}

/// Whether a character is invisible but changes how a line is displayed, so that a name looks like another
/// one.
///
/// These are the bidirectional controls and line separators of Unicode.
fn is_deceptive(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        | '\u{2028}' | '\u{2029}')
}

fn check_file_name(text: &str) -> Result<(), NameError> {
    check_length(text, limits::FILE_NAME_MAX)?;
    match (text, first(text, |c| c.is_control() || is_deceptive(c) || c == '/')) {
        (_, Some(c)) => Err(NameError::Character(text.to_owned(), c)),
        ("." | "..", None) => Err(NameError::Dots(text.to_owned())),
        (_, None) => Ok(()),
    }
}

/// Refuses names that Windows refuses or changes, apart from those with forbidden characters.
fn check_portable(text: &str) -> Result<(), NameError> {
    if text.chars().all(|c| c == '.') {
        return Err(NameError::Dots(text.to_owned()));
    }
    if text.ends_with(['.', ' ']) || text.starts_with(' ') {
        return Err(NameError::Ending(text.to_owned()));
    }
    match is_device(text) {
        true => Err(NameError::Device(text.to_owned())),
        false => Ok(()),
    }
}

/// Whether Windows opens a device instead of a file of this name, in any case and with any extension.
///
/// Source: Microsoft, "Naming Files, Paths, and Namespaces".
fn is_device(text: &str) -> bool {
    let stem = text.split('.').next().unwrap_or(text).trim_end();
    let stem = stem.to_ascii_uppercase();
    let numbered = |prefix| {
        stem.strip_prefix(prefix).is_some_and(|rest| {
            matches!(rest, "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9" | "¹" | "²" | "³")
        })
    };
    matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$")
        || numbered("COM")
        || numbered("LPT")
}

fn check_peer_name(text: &str) -> Result<(), NameError> {
    check_length(text, limits::PEER_NAME_MAX)?;
    let bad = |c: char| {
        let is_special = matches!(c, ',' | '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
        is_special || c.is_control() || is_deceptive(c) || (c.is_whitespace() && c != ' ')
    };
    if let Some(c) = first(text, bad) {
        return Err(NameError::PeerCharacter(text.to_owned(), c));
    }
    check_portable(text)
}

impl PeerName {
    /// Validates the name that a peer gives itself.
    ///
    /// # Errors
    /// The first violated rule; the name of trackers in event lines ([`limits::TRACKER_NAME`]) is refused, too.
    pub fn of_peer(text: &str) -> Result<Self, NameError> {
        let name = Self::new(text)?;
        match name.is_of_tracker() {
            true => Err(NameError::Tracker(text.to_owned())),
            false => Ok(name),
        }
    }

    /// Whether this is the name of trackers in event lines, in any case.
    pub fn is_of_tracker(&self) -> bool {
        self.as_str().eq_ignore_ascii_case(limits::TRACKER_NAME)
    }
}

impl From<SetName> for FileName {
    fn from(name: SetName) -> FileName {
        FileName(name.0.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    #[test]
    fn valid_file_names_are_accepted() {
        for name in [
            "a",
            "a b.txt",
            "naïve – файл 文件.bin",
            ".hidden",
            "a..b",
            "console",
            "com10.txt",
            "nulls",
            "-f",
            "...",
            "x:stream",
            "C:\\x",
            "CON.txt",
            "nul",
            " x ",
            "x.",
            "a*?\"<>|.txt",
        ] {
            assert_eq!(FileName::new(name).map(String::from).as_deref(), Ok(name));
        }
        assert!(FileName::new("x".repeat(255)).is_ok());
    }

    #[test]
    fn dangerous_file_names_are_refused() {
        for name in [
            "",
            ".",
            "..",
            "../x",
            "/etc/x",
            "a/../../x",
            "a/b",
            "nul\0",
            "a\nb",
            "a\u{7f}",
            "gpj\u{202e}exe.txt",
            "a\u{2028}b",
        ] {
            assert!(FileName::new(name).is_err(), "{name:?}");
        }
        assert_eq!(FileName::new("x".repeat(300)), Err(NameError::TooLong(300, 255)));
        assert!(serde_json::from_str::<FileName>("\"../x\"").is_err());
    }

    #[test]
    fn peer_names_have_no_commas_separators_or_names_of_windows_devices() {
        for name in ["client_1", "Zoë", "Anna M", "Anna  M. Z"] {
            assert!(PeerName::new(name).is_ok(), "{name:?}");
        }
        let text = PeerName::new("a,b").unwrap_err().to_string();
        assert!(
            text.ends_with(r#"contains ','; a name has no , / \ : * ? " < > |, tabs or control characters"#),
            "{text}"
        );
        let general = [
            "",
            " ",
            " a",
            "a ",
            "a\u{a0}b",
            "a,b",
            "a\nb",
            "a\tb",
            "..",
            "...",
            "a/b",
            "a\\b",
            &"x".repeat(65),
            "a\u{202e}b",
        ];
        let portable = [
            "C:",
            "CON",
            "con",
            "nul.txt",
            "Aux.tar.gz",
            "COM1",
            "lpt9.x",
            "com¹",
            "x.",
            "a*",
            "a?",
            "a\"",
            "a<",
            "a|",
        ];
        for name in general.into_iter().chain(portable) {
            assert!(PeerName::new(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn no_peer_has_the_name_of_trackers() {
        for name in ["P2PTracker", "p2ptracker"] {
            assert_eq!(PeerName::of_peer(name), Err(NameError::Tracker(name.to_owned())));
        }
        assert!(PeerName::of_peer("P2PTracker2").is_ok() && PeerName::new("P2PTracker").is_ok());
    }

    fn same(one: &str, other: &str) -> bool {
        FileName::new(one).unwrap().folded() == FileName::new(other).unwrap().folded()
    }

    #[test]
    fn names_equal_on_windows_or_macos_have_equal_keys() {
        for (one, other) in [
            ("\u{c9}t\u{e9}.txt", "E\u{301}te\u{301}.txt"),
            ("\u{c9}", "e\u{301}"),
            ("README.md", "ReadMe.MD"),
            ("ФАЙЛ", "файл"),
            ("ΟΔΟΣ", "οδος"),
            ("ΟΔΟΣ", "οδοσ"),
            ("STRAẞE", "straße"),
            ("J\u{30c}", "\u{1f0}"),
            ("\u{212b}", "\u{e5}"),
            ("한글", "\u{1112}\u{1161}\u{11ab}\u{1100}\u{1173}\u{11af}"),
        ] {
            assert!(same(one, other), "{one:?} {other:?}");
        }
        for (one, other) in
            [("a", "b"), ("straße", "STRASSE"), ("e", "é"), ("ﬁ", "fi"), ("a.b", "a b"), ("①", "1")]
        {
            assert!(!same(one, other), "{one:?} {other:?}");
        }
    }

    proptest! {
        #[test]
        fn folding_ignores_composition_and_is_idempotent(text in ".*") {
            let folded = fold(&text);
            prop_assert_eq!(&fold(&text.nfd().collect::<String>()), &folded);
            prop_assert_eq!(&fold(&text.nfc().collect::<String>()), &folded);
            prop_assert_eq!(&fold(&folded), &folded);
        }

        #[test]
        fn a_file_name_never_leaves_its_folder(text in ".*") {
            if let Ok(name) = FileName::new(text) {
                let joined = Path::new("/folder").join(name.as_str());
                prop_assert_eq!(joined.parent(), Some(Path::new("/folder")));
                prop_assert!(joined.components().all(|part| !matches!(part, Component::ParentDir | Component::CurDir)));
            }
        }

        #[test]
        fn a_peer_name_is_one_field_of_an_event_line(text in ".*") {
            if let Ok(name) = PeerName::new(text) {
                let line = format!("{name},WHERE_CHUNK,1");
                prop_assert_eq!(line.split(',').count(), 3);
                prop_assert_eq!(line.lines().count(), 1);
            }
        }
    }
}
