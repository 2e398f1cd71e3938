//! Choice of the entries of a tree by patterns, for a download of a part of it.

use super::path::TreePath;
use glob::MatchOptions;
use std::fmt;
use std::str::FromStr;

/// `*` and `?` match no `/`, `**` does; hidden names are like others.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// Pattern over the paths of a tree: `*`, `?`, `[...]`, and `**` as a whole component for any number of directories.
///
/// It matches an entry if it matches its path or that of a directory above it. A pattern without `/` is compared with each
/// component alone. Bytes of a path that are not UTF-8 are matched by `?` and `*` only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
    glob: glob::Pattern,
}

/// A text that is not a [`PathPattern`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pattern {text:?} is invalid: {reason}")]
pub struct PatternError {
    text: String,
    reason: String,
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let error = |reason: &str| PatternError { text: text.to_owned(), reason: reason.to_owned() };
        // A final slash is that of a directory, a first one that of the root of the tree.
        let inner = text.trim_end_matches('/');
        let inner = inner.strip_prefix("./").unwrap_or(inner);
        let inner_names = inner.trim_start_matches('/');
        if inner_names.split('/').any(|name| ["", ".", ".."].contains(&name)) {
            return Err(error("it matches no entry"));
        }
        let glob = glob::Pattern::new(inner_names).map_err(|found| error(found.msg))?;
        Ok(Self { text: inner.to_owned(), glob })
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PathPattern {
    /// Whether the pattern matches an entry or a directory above it.
    pub fn matches(&self, path: &TreePath) -> bool {
        let text = String::from_utf8_lossy(path.bytes());
        if !self.text.contains('/') {
            return text.split('/').any(|component| self.glob.matches_with(component, OPTIONS));
        }
        let ends = text.match_indices('/').map(|(at, _)| at).chain([text.len()]);
        ends.into_iter().any(|end| self.glob.matches_with(&text[..end], OPTIONS))
    }
}

/// The entries of a tree that are wanted: those that match a pattern of `only`, or all without one, less those that match
/// a pattern of `exclude`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PathFilter {
    /// Patterns of wanted entries.
    pub only: Vec<PathPattern>,
    /// Patterns of entries that are not wanted.
    pub exclude: Vec<PathPattern>,
}

impl PathFilter {
    /// Whether every entry is wanted.
    pub fn is_all(&self) -> bool {
        self.only.is_empty() && self.exclude.is_empty()
    }

    /// Whether an entry is wanted. The root always is.
    pub fn selects(&self, path: &TreePath) -> bool {
        let matches = |patterns: &[PathPattern]| patterns.iter().any(|pattern| pattern.matches(path));
        path.is_root() || (self.only.is_empty() || matches(&self.only)) && !matches(&self.exclude)
    }
}

/// The filter as flags: two filters with one text select the same entries.
impl fmt::Display for PathFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = self.only.iter().map(|pattern| ("--only", pattern));
        let flags = flags.chain(self.exclude.iter().map(|pattern| ("--exclude", pattern)));
        for (number, (flag, pattern)) in flags.enumerate() {
            let space = if number == 0 { "" } else { " " };
            write!(f, "{space}{flag} {:?}", pattern.text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> PathPattern {
        text.parse().unwrap()
    }

    fn path(text: &[u8]) -> TreePath {
        TreePath::new(text).unwrap()
    }

    fn matches(text: &str, path: &[u8]) -> bool {
        pattern(text).matches(&self::path(path))
    }

    #[test]
    fn a_pattern_matches_a_path_and_everything_below_it() {
        assert!(
            matches("docs", b"docs") && matches("docs/", b"docs/a/b") && matches("docs/a", b"docs/a/b/c")
        );
        assert!(matches("*.json", b"a.json") && matches("*.json", b"deep/er/a.json"));
        assert!(matches("docs/*.md", b"docs/a.md") && !matches("docs/*.md", b"docs/x/a.md"));
        assert!(matches("docs/**/*.md", b"docs/x/y/a.md") && matches("docs/**/*.md", b"docs/a.md"));
        assert!(matches("/top", b"top") && !matches("/top", b"a/top") && matches("top", b"a/top/x"));
        assert!(!matches("docs", b"docs2") && !matches("*.json", b"a.JSON") && matches("[ab]?", b"a1"));
        assert!(matches("*", b".hidden") && matches("gr?n", "grün".as_bytes()));
        assert!(matches("x?y", b"x\xffy") && matches("x*", b"x\xff/z") && !matches("x\u{ff}y", b"x\xffy"));
        for bad in ["", "/", "./", ".", "..", "a//b", "a/../b", "a[", "a/***"] {
            assert!(bad.parse::<PathPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn excluded_entries_are_left_out_of_the_chosen_ones() {
        let filter = PathFilter {
            only: vec![pattern("models"), pattern("*.json")],
            exclude: vec![pattern("*.tmp"), pattern("models/old")],
        };
        assert!(filter.selects(&path(b"models/a.bin")) && filter.selects(&path(b"x/config.json")));
        assert!(!filter.selects(&path(b"models/a.tmp")) && !filter.selects(&path(b"models/old/a")));
        assert!(!filter.selects(&path(b"readme")) && filter.selects(&TreePath::root()));
        assert!(PathFilter::default().is_all() && !filter.is_all());
        assert_eq!(
            filter.to_string(),
            r#"--only "models" --only "*.json" --exclude "*.tmp" --exclude "models/old""#
        );
    }

    proptest! {
        #[test]
        fn a_literal_pattern_matches_itself_and_what_is_below(
            names in prop::collection::vec("[a-z]{1,4}", 1..4),
            below in "[a-z]{1,4}",
        ) {
            let whole = names.join("/");
            let anchored = pattern(&format!("/{whole}"));
            prop_assert!(anchored.matches(&path(whole.as_bytes())));
            let inner = format!("{whole}/{below}");
            prop_assert!(anchored.matches(&path(inner.as_bytes())));
            let longer = format!("{whole}x");
            prop_assert!(!anchored.matches(&path(longer.as_bytes())));
        }

        #[test]
        fn arbitrary_patterns_and_paths_never_panic(text: String, bytes: Vec<u8>) {
            if let (Ok(pattern), Ok(path)) = (text.parse::<PathPattern>(), TreePath::new(bytes)) {
                let _ = pattern.matches(&path);
            }
        }
    }
}
