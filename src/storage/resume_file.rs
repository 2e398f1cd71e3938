//! The have-map on disk: which chunks of a part file a restart need not fetch or hash again.
//!
//! One line of JSON, then two bitmaps: the chunks that were on the disk when the file was written, and
//! those that had been handed to the system. The second sort survives the death of the process but not of
//! the machine, so it counts only while the machine's boot id is the same. A durable map is a file that is replaced as a
//! whole. A note has room for two of them, which are written over in turns: a file system may make whoever replaces a file
//! wait until the disk has the new one, for seconds when it is busy, and a note does not need the disk. Whatever is
//! torn, foreign or of the wrong length counts as absent. Invariant: what comes out of [`decode`] was vouched for by
//! this program, for this file, and is still there.

use super::disk;
use super::error::{self, StoreError};
use crate::content::{ChunkIndex, Digest, FileId, HaveMap};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

const FORMAT: &str = "shoal have-map";
const VERSION: u32 = 1;
/// Longest first line, bytes.
const HEADER_MAX: u64 = 1024;
/// Maps that a note has room for.
const NOTE_HALVES: usize = 2;

/// Chunks that a have-file vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResumeMaps {
    /// On the disk: there after a power cut.
    pub durable: HaveMap,
    /// There: the durable ones, and those that the system still keeps.
    pub written: HaveMap,
}

impl ResumeMaps {
    /// No chunk of `count`.
    pub(super) fn empty(count: u32) -> Self {
        Self { durable: HaveMap::none(count), written: HaveMap::none(count) }
    }

    /// Adds what another have-file of the same part file vouches for.
    pub(super) fn add(&mut self, other: &Self) {
        merge(&mut self.durable, &other.durable);
        merge(&mut self.written, &other.written);
    }
}

/// Adds the chunks of another map.
pub(super) fn merge(map: &mut HaveMap, other: &HaveMap) {
    other.iter().for_each(|index: ChunkIndex| _ = map.insert(index));
}

/// Why a have-file counts as absent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it is torn")]
    Torn,
    #[error("it is no have-map of this version")]
    Format,
    #[error("it belongs to another file")]
    OtherFile,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    id: FileId,
    count: u32,
    boot: Option<String>,
    sha256: Digest,
    length: u64,
}

/// What tells this run of the machine from the one before; `None` where the system does not say.
pub(super) fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// The bytes of a have-file.
pub(super) fn encode(id: FileId, boot: Option<&str>, vouched: &ResumeMaps) -> io::Result<Vec<u8>> {
    let payload = [vouched.durable.to_bytes(), vouched.written.to_bytes()].concat();
    let header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        id,
        count: vouched.durable.count(),
        boot: boot.map(str::to_owned),
        sha256: Digest::of(&payload),
        length: payload.len() as u64,
    };
    let mut bytes = serde_json::to_vec(&header)?;
    bytes.push(b'\n');
    bytes.extend(payload);
    Ok(bytes)
}

/// Reads the bytes of a have-file for the file `id` of `count` chunks, on a machine that now has this boot
/// id. What has not survived a restart of the machine is left out.
pub(super) fn decode(
    bytes: &[u8],
    id: FileId,
    count: u32,
    boot: Option<&str>,
) -> Result<ResumeMaps, Unusable> {
    let end = bytes.iter().take(HEADER_MAX as usize).position(|&byte| byte == b'\n').ok_or(Unusable::Torn)?;
    let header: Header = serde_json::from_slice(&bytes[..end]).map_err(|_| Unusable::Format)?;
    if header.format != FORMAT || header.version != VERSION {
        return Err(Unusable::Format);
    }
    if header.id != id || header.count != count {
        return Err(Unusable::OtherFile);
    }
    let payload = &bytes[end + 1..];
    if header.length != payload.len() as u64 || header.sha256 != Digest::of(payload) {
        return Err(Unusable::Torn);
    }
    let (durable, written) = payload.split_at_checked(HaveMap::byte_length(count)).ok_or(Unusable::Torn)?;
    let map = |bytes| HaveMap::from_bytes(count, bytes).map_err(|_| Unusable::Torn);
    let (durable, mut written) = (map(durable)?, map(written)?);
    if boot.is_none() || header.boot.as_deref() != boot {
        written = HaveMap::none(count);
    }
    merge(&mut written, &durable);
    Ok(ResumeMaps { durable, written })
}

/// The most bytes that a map of so many chunks takes.
fn map_room(count: u32) -> usize {
    HEADER_MAX as usize + 2 * HaveMap::byte_length(count)
}

/// What the halves of a note vouch for between them. One that was never written, or was being written when the process
/// was killed, takes nothing from the other.
fn decode_note(bytes: &[u8], id: FileId, count: u32, boot: Option<&str>) -> Result<ResumeMaps, Unusable> {
    if bytes.len() > NOTE_HALVES * map_room(count) {
        return Err(Unusable::Torn);
    }
    let decode = |half: &[u8]| {
        let header = half.iter().position(|&byte| byte == b'\n').ok_or(Unusable::Torn)?;
        // What follows is left of a longer one.
        let end = half.len().min(header + 1 + 2 * HaveMap::byte_length(count));
        decode(&half[..end], id, count, boot)
    };
    let mut halves = bytes.chunks(map_room(count)).map(decode);
    let first = halves.next().unwrap_or(Err(Unusable::Torn));
    match (first, halves.next().unwrap_or(Err(Unusable::Torn))) {
        (Ok(mut one), Ok(other)) => {
            one.add(&other);
            Ok(one)
        }
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
        (Err(why), Err(_)) => Err(why),
    }
}

/// Reads a durable map; one that is not there vouches for nothing.
///
/// # Errors
/// It is there and not usable, which is logged.
pub(super) fn read(path: &Path, id: FileId, count: u32, boot: Option<&str>) -> Result<ResumeMaps, ()> {
    read_with(path, count, map_room(count), |bytes| decode(bytes, id, count, boot))
}

/// The same of a note.
///
/// # Errors
/// It is there and neither half of it is usable, which is logged.
pub(super) fn read_note(path: &Path, id: FileId, count: u32, boot: Option<&str>) -> Result<ResumeMaps, ()> {
    read_with(path, count, NOTE_HALVES * map_room(count), |bytes| decode_note(bytes, id, count, boot))
}

fn read_with(
    path: &Path,
    count: u32,
    most: usize,
    decode: impl Fn(&[u8]) -> Result<ResumeMaps, Unusable>,
) -> Result<ResumeMaps, ()> {
    let mut bytes = Vec::new();
    let read = disk::open_regular(path).and_then(|(file, _)| {
        // One byte more than there can be, so that a longer file is seen to be one.
        file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(error::io("read", path))
    });
    match read {
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(ResumeMaps::empty(count));
        }
        Err(error) => log::warn!("a have-map is ignored: {error}"),
        Ok(_) => match decode(&bytes) {
            Ok(vouched) => return Ok(vouched),
            Err(why) => log::warn!("the have-map {} is ignored: {why}", path.display()),
        },
    }
    Err(())
}

/// Replaces a have-file and returns when it is on the disk; its name is so only after [`disk::sync_folder`].
pub(super) fn write(
    path: &Path,
    id: FileId,
    boot: Option<&str>,
    vouched: &ResumeMaps,
) -> Result<(), StoreError> {
    let bytes = encode(id, boot, vouched).map_err(error::io("write", path))?;
    let new = successor(path);
    let needed = bytes.len() as u64;
    let mut options = OpenOptions::new();
    // A link under this name is not ours, and is not followed.
    options.write(true).create(true).truncate(true).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    let written = options
        .open(&new)
        .and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        })
        .map_err(error::write("write", &new, needed));
    if let Err(error) = written {
        let _ = disk::remove(&new);
        return Err(error);
    }
    fs::rename(&new, path).map_err(error::write("replace", path, needed))
}

/// Makes a note that vouches for nothing, and has all the room on the disk that it will ever need.
pub(super) fn create_note(path: &Path, id: FileId, boot: Option<&str>, count: u32) -> Result<(), StoreError> {
    let nothing = ResumeMaps::empty(count);
    (0..NOTE_HALVES).try_for_each(|half| write_note(path, id, boot, &nothing, half))
}

/// Writes over one half of a note, the one that the last call did not write, without any sync.
pub(super) fn write_note(
    path: &Path,
    id: FileId,
    boot: Option<&str>,
    vouched: &ResumeMaps,
    turn: usize,
) -> Result<(), StoreError> {
    let mut bytes = encode(id, boot, vouched).map_err(error::io("write", path))?;
    let room = map_room(vouched.durable.count());
    bytes.resize(room.max(bytes.len()), 0);
    let mut options = OpenOptions::new();
    // A link under this name is not ours, and is not followed.
    options.write(true).create(true).truncate(false).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    let file = options.open(path);
    let written = file.and_then(|file| file.write_all_at(&bytes, (turn % NOTE_HALVES * room) as u64));
    written.map_err(error::write("write", path, room as u64))
}

/// Removes a have-file, and what a killed process may have left of its successor.
pub(super) fn remove(path: &Path) -> Result<bool, StoreError> {
    let (new, old) = (disk::remove(&successor(path)), disk::remove(path));
    Ok(new? | old?)
}

/// The name that a have-file has while it is written. Always the same, so that kills leave no more than one; the part
/// file's lock keeps others away.
fn successor(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: FileId = FileId([7; 32]);
    const BOOT: Option<&str> = Some("this boot");

    fn map(count: u32, held: &[u32]) -> HaveMap {
        let mut map = HaveMap::none(count);
        held.iter().for_each(|&index| assert!(map.insert(ChunkIndex(index))));
        map
    }

    fn sample() -> (ResumeMaps, Vec<u8>) {
        let vouched = ResumeMaps { durable: map(20, &[0, 3]), written: map(20, &[0, 3, 19]) };
        let bytes = encode(ID, BOOT, &vouched).unwrap();
        (vouched, bytes)
    }

    #[test]
    fn written_chunks_are_trusted_only_within_one_boot() {
        let (vouched, bytes) = sample();
        assert_eq!(decode(&bytes, ID, 20, BOOT), Ok(vouched.clone()));
        for boot in [Some("another"), None] {
            let durable = decode(&bytes, ID, 20, boot).unwrap();
            assert_eq!(durable.written, vouched.durable);
        }
        let unknown = encode(ID, None, &vouched).unwrap();
        assert_eq!(decode(&unknown, ID, 20, None).unwrap().written, vouched.durable);
    }

    #[test]
    fn what_is_torn_or_foreign_is_refused() {
        let (_, bytes) = sample();
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut], ID, 20, BOOT).is_err(), "{cut}");
        }
        let mut flipped = bytes.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert_eq!(decode(&flipped, ID, 20, BOOT), Err(Unusable::Torn));
        let longer = [bytes.clone(), vec![0]].concat();
        assert_eq!(decode(&longer, ID, 20, BOOT), Err(Unusable::Torn));
        assert_eq!(decode(&bytes, FileId([8; 32]), 20, BOOT), Err(Unusable::OtherFile));
        assert_eq!(decode(&bytes, ID, 21, BOOT), Err(Unusable::OtherFile));
        let text = String::from_utf8_lossy(&bytes).replace("\"version\":1", "\"version\":2");
        assert_eq!(decode(text.as_bytes(), ID, 20, BOOT), Err(Unusable::Format));
    }

    #[test]
    fn on_disk_it_survives_and_what_is_oversize_counts_as_absent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("have");
        let (vouched, mut bytes) = sample();
        assert_eq!(read(&path, ID, 20, BOOT), Ok(ResumeMaps::empty(20)));
        write(&path, ID, BOOT, &vouched).unwrap();
        assert_eq!(read(&path, ID, 20, BOOT), Ok(vouched));
        bytes.resize(1 << 20, 0);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(read(&path, ID, 20, BOOT), Err(()));
        assert_eq!(read(folder.path(), ID, 20, BOOT), Err(()));
        assert!(remove(&path).unwrap() && !remove(&path).unwrap());
    }

    #[test]
    fn a_note_is_written_in_turns_and_the_half_that_is_torn_takes_nothing_from_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("note");
        assert_eq!(read_note(&path, ID, 20, BOOT), Ok(ResumeMaps::empty(20)));
        create_note(&path, ID, BOOT, 20).unwrap();
        let room = std::fs::metadata(&path).unwrap().len();
        assert_eq!(read_note(&path, ID, 20, BOOT), Ok(ResumeMaps::empty(20)));
        let held = |held: &[u32]| ResumeMaps { durable: map(20, &[]), written: map(20, held) };
        for turn in 0..5 {
            write_note(&path, ID, BOOT, &held(&[turn as u32, 19]), turn).unwrap();
        }
        assert_eq!(read_note(&path, ID, 20, BOOT), Ok(held(&[3, 4, 19])));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), room);
        // Killed while the first half was written over.
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"{\"format\":\"", 0).unwrap();
        file.write_all_at(&[0xff; 3], room / 2 - 5).unwrap();
        assert_eq!(read_note(&path, ID, 20, BOOT), Ok(held(&[3, 4, 19])));
        file.write_all_at(&[0; 40], 0).unwrap();
        assert_eq!(read_note(&path, ID, 20, BOOT), Ok(held(&[3, 19])));
        assert_eq!(read_note(&path, FileId([8; 32]), 20, BOOT), Err(()));
        file.write_all_at(&[0; 40], room / 2).unwrap();
        assert_eq!(read_note(&path, ID, 20, BOOT), Err(()));
        file.set_len(0).unwrap();
        assert_eq!(read_note(&path, ID, 20, BOOT), Err(()));
        write_note(&path, ID, BOOT, &held(&[5]), 1).unwrap();
        assert_eq!(read_note(&path, ID, 20, BOOT), Ok(held(&[5])));
        file.set_len(room + 1).unwrap();
        assert_eq!(read_note(&path, ID, 20, BOOT), Err(()));
    }

    #[test]
    fn the_largest_header_fits() {
        let nothing = ResumeMaps::empty(u32::MAX >> 12);
        let bytes = encode(ID, boot_id().as_deref(), &nothing).unwrap();
        assert!(decode(&bytes, ID, u32::MAX >> 12, None).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bits in prop::collection::vec((any::<bool>(), any::<bool>()), 1..200)) {
            let count = bits.len() as u32;
            let mut vouched = ResumeMaps::empty(count);
            for (index, (durable, written)) in (0..).map(ChunkIndex).zip(bits) {
                if durable {
                    vouched.durable.insert(index);
                }
                if durable || written {
                    vouched.written.insert(index);
                }
            }
            let bytes = encode(ID, BOOT, &vouched).unwrap();
            prop_assert_eq!(decode(&bytes, ID, count, BOOT), Ok(vouched));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, count in 0u32..100, at in 0usize..400, byte: u8) {
            prop_assert!(decode(&bytes, ID, count, BOOT).is_err());
            prop_assert!(decode_note(&bytes, ID, count, BOOT).is_err());
            let (_, mut near) = sample();
            let at = at % near.len();
            near[at] = byte;
            let _ = (decode(&near, ID, 20, BOOT), decode_note(&near, ID, 20, BOOT));
        }
    }
}
