//! Names that come from outside: of files, and of peers and chunk sets.
//!
//! A [`FileName`] can be joined to a folder and never leads out of it, on any system that people use;
//! an [`EntityName`] can stand in an event line. Both are checked when they are made, so that whoever
//! holds one need not check again.

use super::{limits, text};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;
use unicode_normalization::UnicodeNormalization as _;

/// Why a text is not a usable name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("the name is empty")]
    Empty,
    /// Longer than file systems take.
    #[error("the name has {0} bytes, more than {1}")]
    TooLong(usize, usize),
    /// `.`, `..`, or only dots.
    #[error("{0:?} is not the name of a file")]
    Dots(String),
    /// Contains what names must not contain.
    #[error("the name {0:?} contains {1:?}")]
    Character(String, char),
    /// A device on Windows, with or without an ending.
    #[error("{0:?} is a device on Windows")]
    Device(String),
    /// Ends in a way that Windows silently cuts off.
    #[error("the name {0:?} ends in a dot or begins or ends with a space")]
    Ending(String),
}

macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident($text:ty), $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub struct $name($text);

        impl $name {
            /// Checks a text.
            ///
            /// # Errors
            /// What is wrong with it.
            pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
                let text = text.as_ref();
                $check(text)?;
                Ok(Self(text.into()))
            }
            /// The name as text.
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
                text::read(from, "a name", |text| Self::new(text))
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
    /// The name of a file: one plain component, safe to join to a folder. Spaces and letters of any
    /// script are welcome; separators, control characters, `.`, `..`, Windows devices
    /// (`CON`, `nul.txt`, `COM1` ...) and what Windows forbids or cuts off are not. Whoever copies it copies a
    /// reference: many may hold a file under the same name.
    FileName(Arc<str>), check_file_name
}
checked_name! {
    /// The name of a peer or of a chunk set: a [`FileName`] of 1 to 64 bytes without white space and
    /// comma, so that it can stand in an event line of `logs.log` and name the file that a set becomes.
    EntityName(Box<str>), check_entity_name
}

impl FileName {
    /// What the name is compared by where systems differ: two names with the same key may be one file on
    /// Windows and macOS, which tell neither case apart nor how an accent is composed.
    pub fn folded(&self) -> String {
        fold(&self.0)
    }
}

/// The key that [`FileName::folded`] gives, of any text: composed (NFC), and in full lower case as Unicode
/// has it without regard to language. The final sigma counts as the plain one; "ß" stays "ß", not "ss".
pub fn fold(text: &str) -> String {
    // Once more at the end: "J" with a caron has no composed form, "j" with a caron has.
    text.nfc().collect::<String>().to_lowercase().replace('ς', "σ").nfc().collect()
}

fn check_length(text: &str, max: usize) -> Result<(), NameError> {
    match text.len() {
        0 => Err(NameError::Empty),
        length if length > max => Err(NameError::TooLong(length, max)),
        _ => Ok(()),
    }
}

fn refuse(text: &str, bad: impl Fn(char) -> bool) -> Result<(), NameError> {
    match text.chars().find(|&c| bad(c)) {
        Some(c) => Err(NameError::Character(text.to_owned(), c)),
        None => Ok(()),
    }
}

/// Characters that change how a line is shown without being seen themselves (Unicode's bidirectional
/// controls and line separators): with them a name could be shown as another.
fn deceives(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        | '\u{2028}' | '\u{2029}')
}

fn check_file_name(text: &str) -> Result<(), NameError> {
    check_length(text, limits::FILE_NAME_MAX)?;
    refuse(text, |c| {
        c.is_control() || deceives(c) || matches!(c, '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|')
    })?;
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

/// Windows opens a device for these names whatever their case and ending
/// (Microsoft, "Naming Files, Paths, and Namespaces").
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

fn check_entity_name(text: &str) -> Result<(), NameError> {
    check_length(text, limits::ENTITY_NAME_MAX)?;
    refuse(text, |c| c.is_whitespace() || c == ',')?;
    check_file_name(text)
}

impl From<EntityName> for FileName {
    fn from(name: EntityName) -> FileName {
        FileName(name.0.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    #[test]
    fn good_file_names() {
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
        ] {
            assert_eq!(FileName::new(name).map(String::from).as_deref(), Ok(name));
        }
        assert!(FileName::new("x".repeat(255)).is_ok());
    }

    #[test]
    fn evil_file_names() {
        for name in [
            "",
            ".",
            "..",
            "...",
            "../x",
            "/etc/x",
            "a/../../x",
            "a/b",
            "a\\b",
            "..\\x",
            "C:",
            "C:\\x",
            "x:stream",
            "nul\0",
            "a\nb",
            "a\u{7f}",
            "CON",
            "con",
            "nul.txt",
            "Aux.tar.gz",
            "COM1",
            "lpt9.x",
            "com¹",
            "NUL .txt",
            "x.",
            "x ",
            " x",
            "a*",
            "a?",
            "a\"",
            "a<",
            "a|",
            "gpj\u{202e}exe.txt",
            "a\u{2028}b",
        ] {
            assert!(FileName::new(name).is_err(), "{name:?}");
        }
        assert_eq!(FileName::new("x".repeat(300)), Err(NameError::TooLong(300, 255)));
        assert!(serde_json::from_str::<FileName>("\"../x\"").is_err());
    }

    #[test]
    fn entity_names() {
        assert!(EntityName::new("client_1").is_ok() && EntityName::new("Zoë").is_ok());
        for name in ["", "a b", "a,b", "a\nb", "a\tb", "..", "a/b", &"x".repeat(65)] {
            assert!(EntityName::new(name).is_err(), "{name:?}");
        }
    }

    fn same(one: &str, other: &str) -> bool {
        FileName::new(one).unwrap().folded() == FileName::new(other).unwrap().folded()
    }

    #[test]
    fn names_that_some_systems_do_not_tell_apart_fold_alike() {
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
        fn folding_depends_neither_on_composition_nor_on_having_been_done(text in ".*") {
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
        fn an_entity_name_keeps_an_event_line_whole(text in ".*") {
            if let Ok(name) = EntityName::new(text) {
                let line = format!("{name},WHERE_CHUNK,1");
                prop_assert_eq!(line.split(',').count(), 3);
                prop_assert_eq!(line.split_whitespace().count(), 1);
            }
        }
    }
}
