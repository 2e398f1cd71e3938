//! Path of an entry in a tree: bytes, relative to the root of the tree.

use crate::content::Digest;
use crate::content::limits::{FILE_NAME_MAX, TREE_LEVELS_MAX, TREE_PATH_BYTES_MAX};
use std::cmp::Ordering;
use std::fmt;

/// Bytes that are not the path of an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A component is empty: the path is absolute, or has `//` or a final `/`.
    #[error("a component of the path is empty")]
    EmptyComponent,
    /// A component is `.` or `..`.
    #[error("the path contains . or ..")]
    Dots,
    /// The path contains a NUL byte.
    #[error("the path contains a NUL byte")]
    Nul,
    /// A component is longer than [`FILE_NAME_MAX`].
    #[error("a component of the path has {0} bytes, more than {max}", max = FILE_NAME_MAX)]
    LongComponent(usize),
    /// The path has more than [`TREE_LEVELS_MAX`] components.
    #[error("the path has {0} levels, more than {max}", max = TREE_LEVELS_MAX)]
    Levels(usize),
    /// The path is longer than [`TREE_PATH_BYTES_MAX`].
    #[error("the path has {0} bytes, more than {max}", max = TREE_PATH_BYTES_MAX)]
    Long(usize),
}

/// Path of an entry: components separated by `/`, relative to the root. The root itself has the empty path.
///
/// A component is any bytes except `/` and NUL, 1 to 255 of them, and is neither `.` nor `..`. Paths are ordered by
/// their components, byte by byte, so that the entries of a directory follow it directly.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TreePath(Box<[u8]>);

impl TreePath {
    /// The path of the root: it has no component.
    pub fn root() -> Self {
        Self(Box::default())
    }

    /// The path of an entry; no bytes are the path of the root.
    ///
    /// # Errors
    /// [`PathError`]: the path could leave the tree, or is longer than the limits.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        check(&bytes).map(|()| Self(bytes))
    }

    /// The path of the entry `name` in the directory of this path.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        match self.is_root() {
            true => Self::new(name),
            false => Self::new([&self.0, &b"/"[..], name].concat()),
        }
    }

    /// The bytes of the path.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the path of the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The components, the outermost first; none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|component| !component.is_empty())
    }

    /// The path of the directory that contains the entry; `None` for the root.
    pub fn parent(&self) -> Option<&[u8]> {
        let slash = self.0.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        (!self.is_root()).then(|| &self.0[..slash])
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// The first 64 bits of the SHA-256 of the path, on which the boundaries of chunks depend.
    pub(super) fn hash64(&self) -> u64 {
        Digest::of(&self.0).0[..8].iter().fold(0, |hash, byte| hash << 8 | u64::from(*byte))
    }
}

/// Whether the path `inner` is that of an entry below the directory `outer`.
pub(super) fn is_below(inner: &[u8], outer: &[u8]) -> bool {
    match inner.strip_prefix(outer) {
        Some(rest) => !rest.is_empty() && (outer.is_empty() || rest[0] == b'/'),
        None => false,
    }
}

/// Order of two paths: by components. A separator is lower than any other byte, and there is no NUL.
pub(super) fn compare(one: &[u8], other: &[u8]) -> Ordering {
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    one.iter().map(rank).cmp(other.iter().map(rank))
}

fn check(bytes: &[u8]) -> Result<(), PathError> {
    if bytes.is_empty() {
        return Ok(());
    }
    if bytes.len() > TREE_PATH_BYTES_MAX {
        return Err(PathError::Long(bytes.len()));
    }
    if bytes.contains(&0) {
        return Err(PathError::Nul);
    }
    let mut levels = 0;
    for component in bytes.split(|byte| *byte == b'/') {
        levels += 1;
        match component {
            b"" => return Err(PathError::EmptyComponent),
            b"." | b".." => return Err(PathError::Dots),
            _ if component.len() > FILE_NAME_MAX => return Err(PathError::LongComponent(component.len())),
            _ => {}
        }
    }
    match levels > TREE_LEVELS_MAX {
        true => Err(PathError::Levels(levels)),
        false => Ok(()),
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The path as text: control characters, backslashes and bytes that are not UTF-8 are escaped. The root is `.`.
impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_root() {
            true => f.write_str("."),
            false => fmt::Display::fmt(&Escaped(&self.0), f),
        }
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TreePath({self})")
    }
}

/// Bytes as text: control characters, backslashes and bytes that are not UTF-8 are escaped.
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '\\' => f.write_str("\\\\")?,
                    _ if character.is_control() => write!(f, "{}", character.escape_default())?,
                    _ => f.write_char(character)?,
                }
            }
            chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &[u8]) -> TreePath {
        TreePath::new(text).unwrap()
    }

    #[test]
    fn paths_that_leave_the_tree_or_exceed_the_limits_are_refused() {
        let refused = |bytes: &[u8]| TreePath::new(bytes).unwrap_err();
        for empty in [&b"/"[..], b"/a", b"a//b", b"a/"] {
            assert_eq!(refused(empty), PathError::EmptyComponent, "{empty:?}");
        }
        for dots in [&b".."[..], b".", b"a/../b", b"./a", b"a/.."] {
            assert_eq!(refused(dots), PathError::Dots, "{dots:?}");
        }
        assert_eq!(refused(b"a\0b"), PathError::Nul);
        assert_eq!(refused(&[b'x'; 256]), PathError::LongComponent(256));
        assert_eq!(refused(&b"a/".repeat(256)[..511]), PathError::Levels(256));
        assert!(TreePath::new(&b"a/".repeat(255)[..509]).is_ok());
        let long = [&[b'x'; 255][..], b"/"].concat().repeat(17);
        assert_eq!(refused(&long[..4_097]), PathError::Long(4_097));
        for usual in [&b""[..], b"...", b"a b/\xff\n", &[b'x'; 255]] {
            assert!(TreePath::new(usual).is_ok(), "{usual:?}");
        }
        assert!(path(b"a").join(b"..").is_err() && path(b"a").join(b"").is_err());
    }

    #[test]
    fn the_entries_of_a_directory_follow_it_directly() {
        let mut paths: Vec<TreePath> = ["a-b", "a/b", "", "a", "a/b/c", "a/bc", "a.b", "b"]
            .iter()
            .map(|text| path(text.as_bytes()))
            .collect();
        paths.sort_unstable();
        let sorted: Vec<String> = paths.iter().map(TreePath::to_string).collect();
        assert_eq!(sorted, [".", "a", "a/b", "a/b/c", "a/bc", "a-b", "a.b", "b"]);
    }

    #[test]
    fn a_path_knows_its_parent_its_name_and_its_components() {
        let deep = path(b"a/b/c");
        assert_eq!((deep.parent(), deep.name()), (Some(&b"a/b"[..]), &b"c"[..]));
        assert_eq!(deep.components().collect::<Vec<_>>(), [b"a", b"b", b"c"]);
        assert_eq!((path(b"a").parent(), path(b"a").name()), (Some(&b""[..]), &b"a"[..]));
        assert_eq!((TreePath::root().parent(), TreePath::root().components().count()), (None, 0));
        assert_eq!(path(b"a").join(b"b"), Ok(path(b"a/b")));
        assert_eq!(TreePath::root().join(b"b"), Ok(path(b"b")));
        assert!(is_below(b"a/b", b"a") && is_below(b"a", b"") && !is_below(b"ab", b"a"));
        assert!(!is_below(b"a", b"a") && !is_below(b"", b""));
    }

    #[test]
    fn unprintable_bytes_are_escaped() {
        assert_eq!(path(b"gr\xc3\xbcn/\xff\n\\").to_string(), "grün/\\xff\\n\\\\");
    }
}
