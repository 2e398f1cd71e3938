//! Entries of an offered folder: its index is downloaded, and nothing else.

use super::Leecher;
use crate::content::tree::{Entry, EntryKind, Escaped};
use crate::download::finder::Finder;
use crate::download::job::{self, DownloadOrder, Located};
use crate::report::error::{Fault, RoleError};
use crate::report::events::{self, EntryEvent, Event};
use crate::report::watch::Watch;

impl Leecher<'_> {
    /// Downloads the index of a folder and shows the entries that the order wants.
    pub(super) fn list(
        &self,
        order: &DownloadOrder,
        located: Located,
        finder: Box<dyn Finder>,
        watch: &dyn Watch,
    ) -> Result<(), RoleError> {
        let name = located.file.file.name.clone();
        let folder = tempfile::tempdir()?;
        match job::fetch_index(order, located, folder.path(), finder, watch, self.shutdown)? {
            Some(index) => {
                for entry in index.entries().filter(|entry| order.tree.filter.selects(&entry.path)) {
                    match events::are_wanted() {
                        true => events::emit(|| Event::Entry(EntryEvent::new(&entry))),
                        false => self.watch.result(&line(&entry)),
                    }
                }
                Ok(())
            }
            None => Err(RoleError::new(
                Fault::Usage,
                format!("{name} is a file, not a folder: it has no entries"),
            )),
        }
    }
}

/// The line of an entry: kind and permissions, size, modification time in UTC, path.
fn line(entry: &Entry) -> String {
    let (kind, size, end) = match &entry.kind {
        EntryKind::Directory => ('d', 0, "/".to_owned()),
        EntryKind::File { size, .. } => ('-', *size, String::new()),
        EntryKind::Link { target } => ('l', 0, format!(" -> {}", Escaped(target))),
        EntryKind::HardLink { to } => ('h', 0, format!(" is {to}")),
    };
    let permission = |bit: u16, letter: char| if entry.mode & bit == 0 { '-' } else { letter };
    let bits = (0..9).rev().zip("rwxrwxrwx".chars());
    let mode: String = bits.map(|(bit, letter)| permission(1 << bit, letter)).collect();
    let seconds = entry.modified.seconds;
    let time = jiff::Timestamp::from_second(seconds);
    let time =
        time.map_or_else(|_| format!("@{seconds}"), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string());
    format!("{kind}{mode} {size:>14} {time} {}{end}", entry.path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::tree::{Mtime, TreePath};

    #[test]
    fn entries_are_listed_with_their_kind_size_and_time() {
        let entry = |path: &[u8], seconds, kind| {
            let modified = Mtime { seconds, nanoseconds: 0 };
            Entry { path: TreePath::new(path).unwrap(), mode: 0o750, modified, owner: None, kind }
        };
        let entries = [
            entry(b"", 0, EntryKind::Directory),
            entry(b"a\xff", -1, EntryKind::File { size: 12, holes: Vec::new() }),
            entry(b"b", 1 << 45, EntryKind::HardLink { to: TreePath::new(&b"a\xff"[..]).unwrap() }),
            entry(b"c", 86_400, EntryKind::Link { target: b"a".to_vec() }),
        ];
        let shown: Vec<String> = entries.iter().map(line).collect();
        assert_eq!(
            shown,
            [
                "drwxr-x---              0 1970-01-01 00:00:00 ./",
                "-rwxr-x---             12 1969-12-31 23:59:59 a\\xff",
                "hrwxr-x---              0 @35184372088832 b is a\\xff",
                "lrwxr-x---              0 1970-01-02 00:00:00 c -> a",
            ]
        );
    }
}
