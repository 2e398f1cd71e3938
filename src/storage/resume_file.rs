//! Resume file: the chunks of a part file that a restart need not download or hash again.
//!
//! A record is one line of JSON and two bitmaps: the chunks that were durable when the record was
//! written, and the chunks that were in the page cache. The page cache survives the death of the
//! process but not of the machine, so the second bitmap counts only while the machine's boot id is
//! the same.
//!
//! The file has four slots for one record each: two durable ones, which are written and synced after
//! the data has been synced, and two notes, which are written often and never synced. The slots of a
//! pair are overwritten in turn, and each slot occupies pages of its own: a kill or a power cut can
//! tear only the slot that is being written. An overwrite needs no free space and, unlike a rename,
//! never blocks for seconds on a busy disk. A record that is torn, of another file or of the wrong
//! length counts as absent, and so does a file that another user can have written. Invariant: each
//! chunk returned by [`read`] was listed by this program, for this part file, and is still present.
//!
//! The previous version had two files: one with a durable record, and one with two notes.

use super::disk;
use super::error::{self, StoreError};
use crate::content::{Bitfield, ChunkIndex, Digest, FileId};
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Permissions of a resume file, less the umask: a file that other users can write is not trusted.
const MODE: u32 = 0o644;
const FORMAT: &str = "shoal have-map";
const VERSION: u32 = 1;
/// Longest first line, bytes.
const HEADER_BYTES_MAX: u64 = 1024;
/// Number of slots for durable records, and number of slots for notes.
const PAIR: usize = 2;
/// A slot begins at a multiple of this number of bytes.
const SLOT_ALIGNMENT: u64 = 4096;

/// Positions that are searched for the start of a record.
const SEARCHED_SLOTS_MAX: usize = 4096;

/// The part file that a resume file belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner<'a> {
    /// Id of the file.
    pub id: FileId,
    /// Number of chunks.
    pub count: u32,
    /// Inode of the part file.
    pub inode: u64,
    /// Identifier of this boot of the machine.
    pub boot: Option<&'a str>,
}

/// Kind of a record, and thereby the pair of slots that it is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Durable,
    Note,
}

/// Slot of each [`Kind`] that is written next: not the one with the newest record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Turns([usize; 2]);

/// Content of a resume file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is no resume file.
    Absent,
    /// At least one slot has a record of this part file.
    Usable(ResumeMaps, Turns),
    /// It belongs to the download of another file.
    OtherFile,
    /// No slot has a usable record; the reason is logged.
    Unusable,
}

/// Chunks listed in a resume file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResumeMaps {
    /// On the disk: these chunks survive a power cut.
    pub durable: Bitfield,
    /// Written: the durable chunks and those in the page cache.
    pub written: Bitfield,
}

impl ResumeMaps {
    /// No chunk of `count`.
    pub(super) fn empty(count: u32) -> Self {
        Self { durable: Bitfield::none(count), written: Bitfield::none(count) }
    }

    /// Adds the chunks of another resume file of the same part file.
    pub(super) fn add(&mut self, other: &Self) {
        merge(&mut self.durable, &other.durable);
        merge(&mut self.written, &other.written);
    }
}

/// Adds the chunks of `other` to `map`.
pub(super) fn merge(map: &mut Bitfield, other: &Bitfield) {
    other.iter().for_each(|index: ChunkIndex| _ = map.insert(index));
}

/// Why a resume file counts as absent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("torn write")]
    Torn,
    #[error("unknown format or version")]
    Format,
    #[error("belongs to another file")]
    OtherFile,
    #[error("belongs to another part file; this one was copied or replaced")]
    OtherPartFile,
    #[error("{0}")]
    WritableByOthers(&'static str),
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
    /// Inode of the part file; absent in the files of the previous version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inode: Option<u64>,
}

/// Identifier of this boot of the machine; `None` if the system provides none.
pub(super) fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// Encodes a record.
fn encode(owner: Owner<'_>, maps: &ResumeMaps) -> io::Result<Vec<u8>> {
    let payload = [maps.durable.to_bytes(), maps.written.to_bytes()].concat();
    let header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        id: owner.id,
        count: owner.count,
        boot: owner.boot.map(str::to_owned),
        sha256: Digest::of(&payload),
        length: payload.len() as u64,
        inode: Some(owner.inode),
    };
    let mut bytes = serde_json::to_vec(&header)?;
    bytes.push(b'\n');
    bytes.extend(payload);
    Ok(bytes)
}

/// Decodes the record at the start of a slot. Chunks that did not survive a reboot are left out.
fn decode(bytes: &[u8], owner: Owner<'_>) -> Result<ResumeMaps, Unusable> {
    let end =
        bytes.iter().take(HEADER_BYTES_MAX as usize).position(|&byte| byte == b'\n').ok_or(Unusable::Torn)?;
    let header: Header = serde_json::from_slice(&bytes[..end]).map_err(|_| Unusable::Format)?;
    if header.format != FORMAT || header.version != VERSION {
        return Err(Unusable::Format);
    }
    let Owner { id, count, inode, boot } = owner;
    if header.id != id || header.count != count {
        return Err(Unusable::OtherFile);
    }
    if header.inode.is_some_and(|other| other != inode) {
        return Err(Unusable::OtherPartFile);
    }
    // The rest of the slot is left from a longer content.
    let payload = &bytes[end + 1..];
    let payload = payload.get(..2 * Bitfield::byte_length(count)).ok_or(Unusable::Torn)?;
    if header.length != payload.len() as u64 || header.sha256 != Digest::of(payload) {
        return Err(Unusable::Torn);
    }
    let (durable, written) = payload.split_at_checked(Bitfield::byte_length(count)).ok_or(Unusable::Torn)?;
    let map = |bytes| Bitfield::from_bytes(count, bytes).map_err(|_| Unusable::Torn);
    let (durable, mut written) = (map(durable)?, map(written)?);
    if boot.is_none() || header.boot.as_deref() != boot {
        written = Bitfield::none(count);
    }
    merge(&mut written, &durable);
    Ok(ResumeMaps { durable, written })
}

/// Longest record for `count` chunks, bytes.
fn encoded_bytes_max(count: u32) -> u64 {
    HEADER_BYTES_MAX + 2 * Bitfield::byte_length(count) as u64
}

/// Size of a slot for `count` chunks, bytes.
fn slot_bytes(count: u32) -> u64 {
    encoded_bytes_max(count).next_multiple_of(SLOT_ALIGNMENT)
}

/// Union of the records of all slots. A slot that was never written, or is torn, does not invalidate
/// the others.
fn decode_slots(bytes: &[u8], owner: Owner<'_>, slot_bytes: u64) -> Result<(ResumeMaps, Turns), Unusable> {
    let mut maps: Option<ResumeMaps> = None;
    let mut turns = Turns::default();
    let mut why = Unusable::Torn;
    let mut held = [0; 2 * PAIR];
    for (slot, bytes) in bytes.chunks(slot_bytes as usize).take(2 * PAIR).enumerate() {
        match decode(bytes, owner) {
            Ok(record) => {
                // An empty record is newer than none.
                held[slot] = record.written.held() + 1;
                maps.get_or_insert_with(|| ResumeMaps::empty(owner.count)).add(&record);
            }
            Err(other) if why != Unusable::OtherFile => why = other,
            Err(_) => {}
        }
    }
    for (turn, pair) in turns.0.iter_mut().zip(held.chunks(PAIR)) {
        *turn = usize::from(pair[0] > pair[1]);
    }
    maps.map(|maps| (maps, turns)).ok_or(why)
}

/// Reads a resume file.
pub(super) fn read(path: &Path, owner: Owner<'_>) -> Found {
    let slot_bytes = slot_bytes(owner.count);
    read_with(path, 2 * PAIR as u64 * slot_bytes, |bytes| decode_slots(bytes, owner, slot_bytes))
}

/// Reads a resume file of the previous version with `slots` slots.
pub(super) fn read_older(path: &Path, owner: Owner<'_>, slots: u64) -> Found {
    let slot_bytes = encoded_bytes_max(owner.count);
    read_with(path, slots * slot_bytes, |bytes| decode_slots(bytes, owner, slot_bytes))
}

/// Whether a file is a resume file of any download: it was emptied, or a slot has the format.
pub(super) fn is_ours(path: &Path) -> bool {
    let Ok((file, stamp)) = disk::open_as_file(OpenOptions::new().read(true), OFlags::NOFOLLOW, path) else {
        return false;
    };
    let start = format!("{{\"format\":\"{FORMAT}\"");
    let mut bytes = vec![0; start.len()];
    let mut slots = (0..stamp.size).step_by(SLOT_ALIGNMENT as usize).take(SEARCHED_SLOTS_MAX);
    stamp.size == 0 || slots.any(|at| file.read_exact_at(&mut bytes, at).is_ok() && bytes == start.as_bytes())
}

/// The file that a resume file belongs to, the number of its chunks that are present, and the number of all. `None` if its
/// first record is not usable.
pub(super) fn progress(path: &Path, inode: u64) -> Option<(FileId, u32, u32)> {
    let (file, _) = disk::open_as_file(OpenOptions::new().read(true), OFlags::NOFOLLOW, path).ok()?;
    let mut start = Vec::new();
    file.take(HEADER_BYTES_MAX).read_to_end(&mut start).ok()?;
    let end = start.iter().position(|&byte| byte == b'\n')?;
    let Header { id, count, .. } = serde_json::from_slice(&start[..end]).ok()?;
    let boot = boot_id();
    match read(path, Owner { id, count, inode, boot: boot.as_deref() }) {
        Found::Usable(maps, _) => Some((id, maps.written.held(), count)),
        _ => None,
    }
}

fn read_with(
    path: &Path,
    bytes_max: u64,
    decode: impl Fn(&[u8]) -> Result<(ResumeMaps, Turns), Unusable>,
) -> Found {
    let mut bytes = Vec::new();
    // Do not follow a link: it was not created by shoal.
    let opened = disk::open_as_file(OpenOptions::new().read(true), OFlags::NOFOLLOW, path);
    let read = opened.and_then(|(file, _)| {
        let metadata = file.metadata().map_err(error::io("read the metadata of", path))?;
        // Read one byte more than the limit, to detect a longer file.
        file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(error::io("read", path))?;
        Ok(disk::writable_by_others(&metadata))
    });
    let decoded = match read {
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Found::Absent;
        }
        Err(error) => {
            log::warn!("resume file ignored: {error}; the part file is checked instead");
            return Found::Unusable;
        }
        Ok(Some(why)) => Err(Unusable::WritableByOthers(why)),
        Ok(None) if bytes.len() as u64 > bytes_max => Err(Unusable::Torn),
        Ok(None) => decode(&bytes),
    };
    match decoded {
        Ok((maps, turns)) => Found::Usable(maps, turns),
        Err(Unusable::OtherFile) => Found::OtherFile,
        Err(why) => {
            log::warn!("resume file {} ignored: {why}; the part file is checked instead", path.display());
            Found::Unusable
        }
    }
}

/// Replaces a resume file by one that lists no chunk and has all its disk space allocated.
pub(super) fn create(path: &Path, owner: Owner<'_>) -> Result<(), StoreError> {
    // A file of that name may be a hard link to another file: it is not written to.
    disk::remove(path)?;
    let slot_bytes = slot_bytes(owner.count);
    let mut slot = encode(owner, &ResumeMaps::empty(owner.count)).map_err(error::io("write", path))?;
    slot.resize(slot_bytes as usize, 0);
    let written = options().create_new(true).open(path).and_then(|file| {
        (0..2 * PAIR as u64).try_for_each(|at| file.write_all_at(&slot, at * slot_bytes))?;
        disk::close(file)
    });
    written.map_err(|source| {
        let _ = disk::remove(path);
        error::write("create", path, 2 * PAIR as u64 * slot_bytes)(source)
    })
}

/// Overwrites the slot that is next in turn; a durable record is synced. The name of a new file is
/// durable only after [`disk::sync_folder`].
///
/// # Errors
/// The record cannot be written. Then the same slot is next again.
pub(super) fn write(
    path: &Path,
    owner: Owner<'_>,
    maps: &ResumeMaps,
    kind: Kind,
    turns: &mut Turns,
) -> Result<(), StoreError> {
    let mut bytes = encode(owner, maps).map_err(error::io("write", path))?;
    let slot_bytes = slot_bytes(owner.count);
    bytes.resize((slot_bytes as usize).max(bytes.len()), 0);
    let turn = &mut turns.0[kind as usize];
    let slot = (kind as usize * PAIR + *turn) as u64;
    let file = match open_own(path, owner)? {
        Some(file) => file,
        None => {
            create(path, owner)?;
            options().open(path).map_err(error::io("open", path))?
        }
    };
    let written = file.write_all_at(&bytes, slot * slot_bytes).and_then(|()| match kind {
        Kind::Durable => disk::sync(&file),
        Kind::Note => disk::close(file),
    });
    written.map_err(error::write("write", path, slot_bytes))?;
    *turn = (*turn + 1) % PAIR;
    Ok(())
}

/// Opens a resume file for writing; `None` if it does not exist, is a link, is too long, or can have
/// been written by another user.
fn open_own(path: &Path, owner: Owner<'_>) -> Result<Option<File>, StoreError> {
    match options().open(path) {
        Ok(file) => {
            let metadata = file.metadata().map_err(error::io("read the metadata of", path))?;
            let fits = metadata.len() <= 2 * PAIR as u64 * slot_bytes(owner.count);
            Ok(Some(file).filter(|_| fits && disk::writable_by_others(&metadata).is_none()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => Ok(None),
        Err(error) => Err(error::io("open", path)(error)),
    }
}

/// Overwrites the notes, so that only the durable records count.
pub(super) fn clear_notes(path: &Path, owner: Owner<'_>) -> Result<(), StoreError> {
    let Some(file) = open_own(path, owner)? else { return disk::remove(path).map(|_| ()) };
    let slot_bytes = slot_bytes(owner.count);
    let zeros = vec![0; PAIR * slot_bytes as usize];
    let cleared = file.write_all_at(&zeros, PAIR as u64 * slot_bytes);
    cleared.map_err(error::write("write", path, zeros.len() as u64))
}

/// Durably empties a resume file, so that it lists no chunk and the next run hashes the part file.
/// Unlike a new resume file, this needs neither free space nor a free inode.
///
/// # Errors
/// The file can be neither emptied nor removed.
pub(super) fn invalidate(path: &Path) -> Result<(), StoreError> {
    let emptied = options().truncate(true).open(path).and_then(|file: File| disk::sync(&file));
    match emptied {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            log::debug!("cannot empty {}: {error}; removing it instead", path.display());
            disk::remove(path)?;
            disk::sync_folder(disk::folder_of(path))
        }
        Ok(()) => Ok(()),
    }
}

/// Options that open a resume file for writing.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // Do not follow a link: it was not created by shoal.
    options.write(true).mode(MODE).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: FileId = FileId([7; 32]);
    const BOOT: Option<&str> = Some("this boot");

    fn owner(count: u32) -> Owner<'static> {
        Owner { id: ID, count, inode: 5, boot: BOOT }
    }

    fn map(count: u32, held: &[u32]) -> Bitfield {
        let mut map = Bitfield::none(count);
        held.iter().for_each(|&index| assert!(map.insert(ChunkIndex(index))));
        map
    }

    fn sample() -> (ResumeMaps, Vec<u8>) {
        let maps = ResumeMaps { durable: map(20, &[0, 3]), written: map(20, &[0, 3, 19]) };
        let bytes = encode(owner(20), &maps).unwrap();
        (maps, bytes)
    }

    #[test]
    fn chunks_in_the_page_cache_count_only_within_one_boot() {
        let (maps, bytes) = sample();
        assert_eq!(decode(&bytes, owner(20)), Ok(maps.clone()));
        for boot in [Some("another"), None] {
            let durable = decode(&bytes, Owner { boot, ..owner(20) }).unwrap();
            assert_eq!(durable.written, maps.durable);
        }
        let unknown = encode(Owner { boot: None, ..owner(20) }, &maps).unwrap();
        assert_eq!(decode(&unknown, Owner { boot: None, ..owner(20) }).unwrap().written, maps.durable);
    }

    #[test]
    fn torn_and_foreign_records_are_rejected() {
        let (_, bytes) = sample();
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut], owner(20)).is_err(), "{cut}");
        }
        let mut flipped = bytes.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert_eq!(decode(&flipped, owner(20)), Err(Unusable::Torn));
        assert_eq!(decode(&bytes, Owner { id: FileId([8; 32]), ..owner(20) }), Err(Unusable::OtherFile));
        assert_eq!(decode(&bytes, owner(21)), Err(Unusable::OtherFile));
        assert_eq!(decode(&bytes, Owner { inode: 6, ..owner(20) }), Err(Unusable::OtherPartFile));
        let text = String::from_utf8_lossy(&bytes).replace("\"version\":1", "\"version\":2");
        assert_eq!(decode(text.as_bytes(), owner(20)), Err(Unusable::Format));
    }

    #[test]
    fn a_torn_slot_does_not_invalidate_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resume");
        let usable = |found: Found| match found {
            Found::Usable(maps, turns) => (maps, turns),
            other => panic!("{other:?}"),
        };
        assert_eq!(read(&path, owner(20)), Found::Absent);
        create(&path, owner(20)).unwrap();
        let bytes = std::fs::metadata(&path).unwrap().len();
        let (maps, mut turns) = usable(read(&path, owner(20)));
        assert_eq!(maps, ResumeMaps::empty(20));
        let note = |held: &[u32]| ResumeMaps { durable: map(20, &[]), written: map(20, held) };
        let durable = |held: &[u32]| ResumeMaps { durable: map(20, held), written: map(20, held) };
        write(&path, owner(20), &durable(&[0]), Kind::Durable, &mut turns).unwrap();
        for held in [&[0, 1][..], &[0, 1, 2], &[0, 1, 2, 3]] {
            write(&path, owner(20), &note(held), Kind::Note, &mut turns).unwrap();
        }
        write(&path, owner(20), &durable(&[0, 1]), Kind::Durable, &mut turns).unwrap();
        let all = ResumeMaps { durable: map(20, &[0, 1]), written: map(20, &[0, 1, 2, 3]) };
        assert_eq!(usable(read(&path, owner(20))), (all, turns));
        // Without the notes, which are of another boot.
        assert_eq!(progress(&path, 5), Some((ID, 2, 20)));
        assert_eq!(progress(&path, 6), None);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        // The next slot in turn is the older one: tearing it loses nothing.
        let all = usable(read(&path, owner(20))).0;
        for kind in [Kind::Durable, Kind::Note] {
            let slot = (kind as usize * PAIR + turns.0[kind as usize]) as u64;
            file.write_all_at(&[0xff; 70], slot * slot_bytes(20)).unwrap();
            assert_eq!(usable(read(&path, owner(20))).0, all);
        }
        // After a power cut only the durable records count.
        let rebooted = Owner { boot: Some("another"), ..owner(20) };
        assert_eq!(usable(read(&path, rebooted)).0, durable(&[0, 1]));
        assert_eq!(read(&path, Owner { id: FileId([8; 32]), ..owner(20) }), Found::OtherFile);
        assert_eq!(read(&path, Owner { inode: 6, ..owner(20) }), Found::Unusable);
        file.set_len(bytes + 1).unwrap();
        assert_eq!(read(&path, owner(20)), Found::Unusable);
        file.set_len(0).unwrap();
        assert_eq!(read(&path, owner(20)), Found::Unusable);
        write(&path, owner(20), &note(&[5]), Kind::Note, &mut turns).unwrap();
        assert_eq!(usable(read(&path, owner(20))).0, note(&[5]));
        assert_eq!(read(folder.path(), owner(20)), Found::Unusable);
    }

    #[test]
    fn the_largest_header_fits() {
        let boot = boot_id();
        let largest = Owner { inode: u64::MAX, boot: boot.as_deref(), ..owner(u32::MAX >> 12) };
        let bytes = encode(largest, &ResumeMaps::empty(largest.count)).unwrap();
        assert!(decode(&bytes, largest).is_ok() && bytes.len() as u64 <= encoded_bytes_max(largest.count));
    }

    proptest! {
        #[test]
        fn encode_and_decode_are_inverse(bits in prop::collection::vec((any::<bool>(), any::<bool>()), 1..200)) {
            let count = bits.len() as u32;
            let mut maps = ResumeMaps::empty(count);
            for (index, (durable, written)) in (0..).map(ChunkIndex).zip(bits) {
                if durable {
                    maps.durable.insert(index);
                }
                if durable || written {
                    maps.written.insert(index);
                }
            }
            let bytes = encode(owner(count), &maps).unwrap();
            prop_assert_eq!(decode(&bytes, owner(count)), Ok(maps));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, count in 0u32..100, at in 0usize..400, byte: u8) {
            prop_assert!(decode(&bytes, owner(count)).is_err());
            prop_assert!(decode_slots(&bytes, owner(count), slot_bytes(count)).is_err());
            let (_, mut near) = sample();
            let at = at % near.len();
            near[at] = byte;
            let _ = (decode(&near, owner(20)), decode_slots(&near, owner(20), slot_bytes(20)));
        }
    }
}
