//! Stored state of a complete tree: its index, and a stamp of each file, so that it is recognised without being read.
//!
//! A tree `NAME` has the hidden file `.NAME.tree` beside it. While files of an existing tree are replaced, the same content
//! is the journal of the replacement. A state counts only if it is of the wanted part of the wanted tree, is not torn, and
//! cannot have been written by another user. Invariant: a file whose stamp is unchanged had the content of the tree when
//! the stamp was read.

use super::folder::EntryStamp;
use crate::content::{Digest, FileId, Hasher};
use crate::storage::disk;
use crate::storage::error::{self, StoreError};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::Read as _;
use std::path::{Path, PathBuf};

const FORMAT: &str = "shoal tree state";
const VERSION: u32 = 1;
/// Longest first line, bytes.
const HEADER_BYTES_MAX: usize = 1024;
/// Bytes of a stamp.
const STAMP_BYTES: usize = 40;
/// Ending of the name.
const ENDING: &str = ".tree";

/// Content of a state file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TreeState {
    /// The wanted part of the tree.
    pub part: FileId,
    /// Bytes of the index.
    pub index: Vec<u8>,
    /// A stamp for each entry of the index; those that are no files have empty ones.
    pub stamps: Vec<EntryStamp>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    /// Id of the wanted part.
    part: FileId,
    index_bytes: u64,
    entries: u64,
    sha256: Digest,
}

/// Path of the state file of a tree.
pub(super) fn path_of(target: &Path) -> Option<PathBuf> {
    let name = target.file_name()?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(ENDING);
    Some(target.with_file_name(hidden))
}

impl TreeState {
    /// Writes the state; it replaces an earlier one by a rename.
    pub fn write(&self, path: &Path, durable: bool) -> Result<(), StoreError> {
        disk::temporary(path, &self.encode(), durable).and_then(|file| disk::replace(path, file)).map(|_| ())
    }

    /// Reads a state file of a part of a tree; `None` if there is none that counts.
    pub fn read(path: &Path, part: FileId) -> Option<Self> {
        let opened = disk::open_as_file(OpenOptions::new().read(true), OFlags::NOFOLLOW, path);
        let (file, stamp) = opened.ok()?;
        let unusable = |why: &str| {
            log::debug!("{} is not used: {why}", path.display());
            None
        };
        if let Some(why) = disk::writable_by_others(&file.metadata().ok()?) {
            return unusable(why);
        }
        let mut bytes = Vec::new();
        // The header decides whether the rest is read.
        let mut start = vec![0; HEADER_BYTES_MAX.min(stamp.size as usize)];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut start, 0).ok()?;
        match header_of(&start) {
            Some((header, _)) if header.part != part => return None,
            Some(_) => {}
            None => return unusable("unknown format or version"),
        }
        file.take(stamp.size).read_to_end(&mut bytes).map_err(error::io("read", path)).ok()?;
        match Self::decode(&bytes) {
            None => unusable("torn write"),
            state => state,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut payload = self.index.clone();
        for EntryStamp { inode, size, modified, changed } in &self.stamps {
            payload.extend(inode.to_be_bytes());
            payload.extend(size.to_be_bytes());
            for (seconds, nanoseconds) in [modified, changed] {
                payload.extend(seconds.to_be_bytes());
                payload.extend(nanoseconds.to_be_bytes());
            }
        }
        let header = Header {
            format: FORMAT.to_owned(),
            version: VERSION,
            part: self.part,
            index_bytes: self.index.len() as u64,
            entries: self.stamps.len() as u64,
            sha256: digest_of(self.part, &payload),
        };
        // A header of these types is always written.
        let mut bytes = serde_json::to_vec(&header).unwrap_or_default();
        bytes.push(b'\n');
        bytes.extend(payload);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (Header { part, index_bytes, entries, sha256, .. }, payload) = header_of(bytes)?;
        if digest_of(part, payload) != sha256 {
            return None;
        }
        let (index, stamps) = payload.split_at_checked(usize::try_from(index_bytes).ok()?)?;
        if stamps.len() as u64 != entries.checked_mul(STAMP_BYTES as u64)? {
            return None;
        }
        let stamp = |bytes: &[u8]| {
            let number =
                |at: usize| bytes[at..at + 8].iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
            let time = |at: usize| (number(at) as i64, (number(at + 4) & u64::from(u32::MAX)) as u32);
            EntryStamp { inode: number(0), size: number(8), modified: time(16), changed: time(28) }
        };
        let stamps = stamps.chunks_exact(STAMP_BYTES).map(stamp).collect();
        Some(Self { part, index: index.to_vec(), stamps })
    }
}

fn digest_of(part: FileId, payload: &[u8]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(&part.0);
    hasher.update(payload);
    hasher.finish()
}

/// The header, and the bytes after it.
fn header_of(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let end = bytes.iter().take(HEADER_BYTES_MAX).position(|byte| *byte == b'\n')?;
    let header: Header = serde_json::from_slice(&bytes[..end]).ok()?;
    (header.format == FORMAT && header.version == VERSION).then_some((header, &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state() -> TreeState {
        let stamp =
            EntryStamp { inode: 7, size: 1 << 40, modified: (-5, 999_999_999), changed: (1 << 40, 1) };
        TreeState {
            part: FileId([3; 32]),
            index: b"index\nbytes".to_vec(),
            stamps: vec![stamp, EntryStamp::default()],
        }
    }

    #[test]
    fn a_state_is_read_only_if_it_is_whole_and_of_the_wanted_part() {
        let folder = tempfile::tempdir().unwrap();
        let path = path_of(&folder.path().join("tree")).unwrap();
        assert!(path.ends_with(".tree.tree") && TreeState::read(&path, state().part).is_none());
        state().write(&path, false).unwrap();
        assert_eq!(TreeState::read(&path, state().part), Some(state()));
        assert_eq!(TreeState::read(&path, FileId([4; 32])), None);
        let bytes = std::fs::read(&path).unwrap();
        for at in [bytes.len() - 1, bytes.len() - 60, 20] {
            let mut torn = bytes.clone();
            torn[at] ^= 1;
            std::fs::write(&path, &torn).unwrap();
            assert_eq!(TreeState::read(&path, state().part), None, "byte {at}");
        }
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(TreeState::read(&path, state().part), None);
        std::fs::write(&path, &bytes).unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(TreeState::read(&path, state().part), None, "other users can have written it");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, at in 0usize..400, byte: u8) {
            prop_assert!(TreeState::decode(&bytes).is_none());
            let mut near = state().encode();
            let at = at % near.len();
            near[at] = byte;
            let _ = TreeState::decode(&near);
        }
    }
}
