//! Targets of symbolic links: whether they lead out of the tree.

use super::entry::{Entry, EntryKind};
use super::index::TreeIndex;

/// Links that are followed while one target is resolved: the limit of Linux.
const FOLLOWED_MAX: usize = 40;

/// Whether the target of a symbolic link is, or could be, outside the tree: it is absolute, `..` leads above the root, or
/// it leads there through other links of the tree. Also true for a chain of links that has no end.
///
/// False for any entry that is not a symbolic link, and for a target inside the tree that does not exist.
pub fn leads_outside(index: &TreeIndex, link: &Entry) -> bool {
    let EntryKind::Link { target } = &link.kind else { return false };
    let mut at = link.path.parent().unwrap_or_default().to_vec();
    // The components that remain, the next one last.
    let mut rest: Vec<Vec<u8>> = Vec::new();
    if !push_target(target, &mut rest) {
        return true;
    }
    let mut followed = 0;
    while let Some(component) = rest.pop() {
        match &component[..] {
            b"" | b"." => {}
            b".." if at.is_empty() => return true,
            b".." => {
                let parent = at.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                at.truncate(parent);
            }
            name => {
                let above = at.len();
                if above > 0 {
                    at.push(b'/');
                }
                at.extend(name);
                let entry = index.find(&at).and_then(|number| index.entry(number));
                let Some(EntryKind::Link { target }) = entry.map(|entry| entry.kind) else { continue };
                // The last component is followed, too: a program that opens the link follows it.
                followed += 1;
                at.truncate(above);
                if followed > FOLLOWED_MAX || !push_target(&target, &mut rest) {
                    return true;
                }
            }
        }
    }
    false
}

/// Adds the components of a target; `false` if it is absolute.
fn push_target(target: &[u8], rest: &mut Vec<Vec<u8>>) -> bool {
    rest.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
    !target.starts_with(b"/")
}

#[cfg(test)]
mod tests {
    use super::super::entry::Mtime;
    use super::super::path::TreePath;
    use super::*;

    fn entry(path: &str, kind: EntryKind) -> Entry {
        let path = TreePath::new(path.as_bytes()).unwrap();
        Entry { path, mode: 0o755, modified: Mtime::default(), owner: None, kind }
    }

    /// Whether the link of this path leads outside, in a tree with these links and the directories `a` and `a/b`.
    fn outside(path: &str, links: &[(&str, &str)]) -> bool {
        let mut entries: Vec<Entry> =
            ["", "a", "a/b"].iter().map(|path| entry(path, EntryKind::Directory)).collect();
        entries.extend(
            links
                .iter()
                .map(|(path, target)| entry(path, EntryKind::Link { target: target.as_bytes().to_vec() })),
        );
        entries.sort_by(|one, other| one.path.cmp(&other.path));
        let index = TreeIndex::new(entries, 100).unwrap();
        let link = index.entry(index.find(path.as_bytes()).unwrap()).unwrap();
        leads_outside(&index, &link)
    }

    #[test]
    fn absolute_targets_and_targets_above_the_root_lead_outside() {
        let alone = |path: &str, target: &str| outside(path, &[(path, target)]);
        for (path, target, expected) in [
            ("x", "a/b", false),
            ("x", "missing", false),
            ("x", ".", false),
            ("x", "..", true),
            ("x", "/etc/passwd", true),
            ("x", "a/../../y", true),
            ("a/b/x", "../../a//./b/", false),
            ("a/b/x", "../../..", true),
            ("a/b/x", "../../../a", true),
        ] {
            assert_eq!(alone(path, target), expected, "{path} -> {target}");
        }
    }

    #[test]
    fn links_that_lead_outside_through_other_links_are_found() {
        let up = ("a/up", "..");
        assert!(!outside("a/up", &[up]) && !outside("x", &[up, ("x", "a/up/a")]));
        assert!(outside("x", &[up, ("x", "a/up/..")]), "by its components it would be a/..");
        assert!(outside("x", &[("x", "y"), ("y", "/etc")]));
        assert!(outside("x", &[("x", "y"), ("y", "x")]), "no end");
        assert!(!outside("x", &[("x", "a/b"), ("y", "/etc")]), "another link");
    }
}
