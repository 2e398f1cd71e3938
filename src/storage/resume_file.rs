//! Resume file: the chunks of a part file that a restart need not download or hash again.
//!
//! A resume file is one line of JSON and two bitmaps: the chunks that were durable when the file
//! was written, and the chunks that were in the page cache. The page cache survives the death of
//! the process but not of the machine, so the second bitmap counts only while the machine's boot id
//! is the same.
//!
//! The durable resume file (`.have`) is replaced by an atomic rename. The note (`.note`) has two
//! slots that are overwritten in turn: a rename can block for seconds on a busy disk until the new
//! file is written, an overwrite cannot. A file that is torn, of another file or of the wrong
//! length counts as absent, and so does a file that another user can have written. Invariant: each
//! chunk returned by [`decode`] was listed by this program, for this file, and is still present.

use super::disk;
use super::error::{self, StoreError};
use crate::content::{Bitfield, ChunkIndex, Digest, FileId};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Permissions of a resume file, less the umask: a file that other users can write is not trusted.
const MODE: u32 = 0o644;
const FORMAT: &str = "shoal have-map";
const VERSION: u32 = 1;
/// Longest first line, bytes.
const HEADER_BYTES_MAX: u64 = 1024;
/// Number of slots in a note.
const NOTE_SLOT_COUNT: usize = 2;

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
}

/// Identifier of this boot of the machine; `None` if the system provides none.
pub(super) fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// Encodes a resume file.
pub(super) fn encode(id: FileId, boot: Option<&str>, maps: &ResumeMaps) -> io::Result<Vec<u8>> {
    let payload = [maps.durable.to_bytes(), maps.written.to_bytes()].concat();
    let header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        id,
        count: maps.durable.count(),
        boot: boot.map(str::to_owned),
        sha256: Digest::of(&payload),
        length: payload.len() as u64,
    };
    let mut bytes = serde_json::to_vec(&header)?;
    bytes.push(b'\n');
    bytes.extend(payload);
    Ok(bytes)
}

/// Decodes a resume file of the file `id` with `count` chunks. `boot` is the current boot id;
/// chunks that did not survive a reboot are left out.
pub(super) fn decode(
    bytes: &[u8],
    id: FileId,
    count: u32,
    boot: Option<&str>,
) -> Result<ResumeMaps, Unusable> {
    let end =
        bytes.iter().take(HEADER_BYTES_MAX as usize).position(|&byte| byte == b'\n').ok_or(Unusable::Torn)?;
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
    let (durable, written) = payload.split_at_checked(Bitfield::byte_length(count)).ok_or(Unusable::Torn)?;
    let map = |bytes| Bitfield::from_bytes(count, bytes).map_err(|_| Unusable::Torn);
    let (durable, mut written) = (map(durable)?, map(written)?);
    if boot.is_none() || header.boot.as_deref() != boot {
        written = Bitfield::none(count);
    }
    merge(&mut written, &durable);
    Ok(ResumeMaps { durable, written })
}

/// Longest resume file for `count` chunks, bytes; also the size of a note's slot.
fn encoded_bytes_max(count: u32) -> usize {
    HEADER_BYTES_MAX as usize + 2 * Bitfield::byte_length(count)
}

/// Union of the slots of a note. A slot that was never written, or was torn by a kill, does not
/// invalidate the other.
fn decode_note(bytes: &[u8], id: FileId, count: u32, boot: Option<&str>) -> Result<ResumeMaps, Unusable> {
    if bytes.len() > NOTE_SLOT_COUNT * encoded_bytes_max(count) {
        return Err(Unusable::Torn);
    }
    let decode = |slot: &[u8]| {
        let header = slot.iter().position(|&byte| byte == b'\n').ok_or(Unusable::Torn)?;
        // The rest of the slot is left from a longer content.
        let end = slot.len().min(header + 1 + 2 * Bitfield::byte_length(count));
        decode(&slot[..end], id, count, boot)
    };
    let mut slots = bytes.chunks(encoded_bytes_max(count)).map(decode);
    let first = slots.next().unwrap_or(Err(Unusable::Torn));
    match (first, slots.next().unwrap_or(Err(Unusable::Torn))) {
        (Ok(mut one), Ok(other)) => {
            one.add(&other);
            Ok(one)
        }
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
        (Err(why), Err(_)) => Err(why),
    }
}

/// Reads a durable resume file; an absent file lists no chunk.
///
/// # Errors
/// The file exists and is not usable; the reason is logged.
pub(super) fn read(path: &Path, id: FileId, count: u32, boot: Option<&str>) -> Result<ResumeMaps, ()> {
    read_with(path, count, encoded_bytes_max(count), |bytes| decode(bytes, id, count, boot))
}

/// Reads a note; an absent file lists no chunk.
///
/// # Errors
/// The file exists and neither slot is usable; the reason is logged.
pub(super) fn read_note(path: &Path, id: FileId, count: u32, boot: Option<&str>) -> Result<ResumeMaps, ()> {
    read_with(path, count, NOTE_SLOT_COUNT * encoded_bytes_max(count), |bytes| {
        decode_note(bytes, id, count, boot)
    })
}

fn read_with(
    path: &Path,
    count: u32,
    bytes_max: usize,
    decode: impl Fn(&[u8]) -> Result<ResumeMaps, Unusable>,
) -> Result<ResumeMaps, ()> {
    let mut bytes = Vec::new();
    // Do not follow a link: it was not created by shoal.
    let opened = disk::open_as_file(OpenOptions::new().read(true), OFlags::NOFOLLOW, path);
    let read = opened.and_then(|(file, _)| {
        let metadata = file.metadata().map_err(error::io("read the metadata of", path))?;
        // Read one byte more than the limit, to detect a longer file.
        file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(error::io("read", path))?;
        Ok(disk::writable_by_others(&metadata))
    });
    match read {
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(ResumeMaps::empty(count));
        }
        Err(error) => log::warn!("resume file ignored: {error}; the part file is checked instead"),
        Ok(foreign) => match foreign
            .map_or_else(|| decode(&bytes), |why| Err(Unusable::WritableByOthers(why)))
        {
            Ok(maps) => return Ok(maps),
            Err(why) => {
                log::warn!("resume file {} ignored: {why}; the part file is checked instead", path.display())
            }
        },
    }
    Err(())
}

/// Replaces a resume file and syncs it. Its name is durable only after [`disk::sync_folder`].
pub(super) fn write(
    path: &Path,
    id: FileId,
    boot: Option<&str>,
    maps: &ResumeMaps,
) -> Result<(), StoreError> {
    let bytes = encode(id, boot, maps).map_err(error::io("write", path))?;
    let new = temporary_path(path);
    let needed = bytes.len() as u64;
    // A file of that name may be a hard link to another file: it is not written to.
    disk::remove(&new)?;
    let written = options()
        .create_new(true)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(&bytes)?;
            disk::sync(&file)
        })
        .map_err(error::write("write", &new, needed));
    if let Err(error) = written {
        let _ = disk::remove(&new);
        return Err(error);
    }
    fs::rename(&new, path).map_err(error::write("replace", path, needed))
}

/// Creates a note that lists no chunk and has all its disk space allocated.
pub(super) fn create_note(path: &Path, id: FileId, boot: Option<&str>, count: u32) -> Result<(), StoreError> {
    let empty = ResumeMaps::empty(count);
    (0..NOTE_SLOT_COUNT).try_for_each(|slot| write_note(path, id, boot, &empty, slot))
}

/// Overwrites the slot of a note that is next in turn, without fsync.
pub(super) fn write_note(
    path: &Path,
    id: FileId,
    boot: Option<&str>,
    maps: &ResumeMaps,
    turn: usize,
) -> Result<(), StoreError> {
    let mut bytes = encode(id, boot, maps).map_err(error::io("write", path))?;
    let slot_bytes = encoded_bytes_max(maps.durable.count());
    bytes.resize(slot_bytes.max(bytes.len()), 0);
    let offset = (turn % NOTE_SLOT_COUNT * slot_bytes) as u64;
    let file = options().create(true).truncate(false).open(path);
    let written = file.and_then(|file| file.write_all_at(&bytes, offset).and_then(|()| disk::close(file)));
    written.map_err(error::write("write", path, slot_bytes as u64))
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

/// Removes a resume file, and the temporary file that a killed process may have left.
pub(super) fn remove(path: &Path) -> Result<bool, StoreError> {
    let (new, old) = (disk::remove(&temporary_path(path)), disk::remove(path));
    Ok(new? | old?)
}

/// Temporary name of a resume file. The name is fixed, so that kills leave at most one; the part
/// file's lock excludes other processes.
fn temporary_path(path: &Path) -> PathBuf {
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

    fn map(count: u32, held: &[u32]) -> Bitfield {
        let mut map = Bitfield::none(count);
        held.iter().for_each(|&index| assert!(map.insert(ChunkIndex(index))));
        map
    }

    fn sample() -> (ResumeMaps, Vec<u8>) {
        let maps = ResumeMaps { durable: map(20, &[0, 3]), written: map(20, &[0, 3, 19]) };
        let bytes = encode(ID, BOOT, &maps).unwrap();
        (maps, bytes)
    }

    #[test]
    fn chunks_in_the_page_cache_count_only_within_one_boot() {
        let (maps, bytes) = sample();
        assert_eq!(decode(&bytes, ID, 20, BOOT), Ok(maps.clone()));
        for boot in [Some("another"), None] {
            let durable = decode(&bytes, ID, 20, boot).unwrap();
            assert_eq!(durable.written, maps.durable);
        }
        let unknown = encode(ID, None, &maps).unwrap();
        assert_eq!(decode(&unknown, ID, 20, None).unwrap().written, maps.durable);
    }

    #[test]
    fn torn_and_foreign_resume_files_are_rejected() {
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
    fn a_written_resume_file_is_read_back_and_an_oversized_one_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("have");
        let (maps, mut bytes) = sample();
        assert_eq!(read(&path, ID, 20, BOOT), Ok(ResumeMaps::empty(20)));
        write(&path, ID, BOOT, &maps).unwrap();
        assert_eq!(read(&path, ID, 20, BOOT), Ok(maps));
        bytes.resize(1 << 20, 0);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(read(&path, ID, 20, BOOT), Err(()));
        assert_eq!(read(folder.path(), ID, 20, BOOT), Err(()));
        assert!(remove(&path).unwrap() && !remove(&path).unwrap());
    }

    #[test]
    fn a_torn_slot_of_a_note_does_not_invalidate_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("note");
        assert_eq!(read_note(&path, ID, 20, BOOT), Ok(ResumeMaps::empty(20)));
        create_note(&path, ID, BOOT, 20).unwrap();
        let slot_bytes = std::fs::metadata(&path).unwrap().len();
        assert_eq!(read_note(&path, ID, 20, BOOT), Ok(ResumeMaps::empty(20)));
        let held = |held: &[u32]| ResumeMaps { durable: map(20, &[]), written: map(20, held) };
        for turn in 0..5 {
            write_note(&path, ID, BOOT, &held(&[turn as u32, 19]), turn).unwrap();
        }
        assert_eq!(read_note(&path, ID, 20, BOOT), Ok(held(&[3, 4, 19])));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), slot_bytes);
        // Killed while the first slot was being overwritten.
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"{\"format\":\"", 0).unwrap();
        file.write_all_at(&[0xff; 3], slot_bytes / 2 - 5).unwrap();
        assert_eq!(read_note(&path, ID, 20, BOOT), Ok(held(&[3, 4, 19])));
        file.write_all_at(&[0; 40], 0).unwrap();
        assert_eq!(read_note(&path, ID, 20, BOOT), Ok(held(&[3, 19])));
        assert_eq!(read_note(&path, FileId([8; 32]), 20, BOOT), Err(()));
        file.write_all_at(&[0; 40], slot_bytes / 2).unwrap();
        assert_eq!(read_note(&path, ID, 20, BOOT), Err(()));
        file.set_len(0).unwrap();
        assert_eq!(read_note(&path, ID, 20, BOOT), Err(()));
        write_note(&path, ID, BOOT, &held(&[5]), 1).unwrap();
        assert_eq!(read_note(&path, ID, 20, BOOT), Ok(held(&[5])));
        file.set_len(slot_bytes + 1).unwrap();
        assert_eq!(read_note(&path, ID, 20, BOOT), Err(()));
    }

    #[test]
    fn the_largest_header_fits() {
        let empty = ResumeMaps::empty(u32::MAX >> 12);
        let bytes = encode(ID, boot_id().as_deref(), &empty).unwrap();
        assert!(decode(&bytes, ID, u32::MAX >> 12, None).is_ok());
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
            let bytes = encode(ID, BOOT, &maps).unwrap();
            prop_assert_eq!(decode(&bytes, ID, count, BOOT), Ok(maps));
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
