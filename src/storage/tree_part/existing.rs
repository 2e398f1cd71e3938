//! Comparison of an existing folder with a tree.
//!
//! Files are compared by their chunks: a chunk of which all pieces exist, with sizes as in the tree, is hashed. Entries that
//! the folder has and the tree lacks make no difference.

use super::folder::{EntryStamp, TreeFolder, kind_of};
use super::places::{Places, ROOT};
use super::state::TreeState;
use crate::content::tree::{Entry, EntryKind};
use crate::content::{Bitfield, ChunkIndex, Digest, Manifest};
use crate::storage::error::StoreError;
use crate::storage::hashing::on_all_cores;
use crate::storage::verify::{Verify, VerifyCallbacks};
use crate::sync::lock;
use rustix::fs::FileType;
use std::sync::Mutex;

/// What an existing folder has of a tree.
pub(super) struct Comparison {
    /// The entries that need no change, except for their metadata.
    pub in_place: Vec<bool>,
    /// Chunks of which the folder has all pieces.
    pub chunks: Bitfield,
    /// The first entry that differs, and how.
    pub difference: Option<String>,
    /// Entries that differ in permissions or modification time alone.
    pub other_metadata: u64,
}

impl Comparison {
    /// Whether the folder has the whole tree.
    pub fn is_complete(&self) -> bool {
        self.difference.is_none()
    }
}

/// Compares a folder with a tree. Files whose stamp in `state` is unchanged are not read; of the others, the share `verify`
/// is.
pub(super) fn compare(
    folder: &TreeFolder,
    places: &Places,
    manifest: &Manifest,
    state: Option<&TreeState>,
    verify: Verify,
    callbacks: VerifyCallbacks<'_>,
) -> Result<Comparison, StoreError> {
    let mut found = Comparison {
        in_place: vec![false; places.count() as usize],
        chunks: Bitfield::none(manifest.layout().count()),
        difference: None,
        other_metadata: 0,
    };
    let mut is_trusted = vec![false; places.count() as usize];
    for (number, entry) in places.entries() {
        if number % 1024 == 0 && (callbacks.stop)() {
            return Err(StoreError::Stopped);
        }
        let difference = look_at(folder, places, (number, &entry), &mut found)?;
        found.in_place[number as usize] = difference.is_none();
        if let Some(how) = difference {
            found.difference.get_or_insert_with(|| format!("{} {how}", places.path(number)));
        } else if let Some(state) = state
            && let Some(stat) = folder.stat(places, number)?
        {
            is_trusted[number as usize] = state.stamps.get(number as usize) == Some(&EntryStamp::of(&stat));
        }
    }
    hash_chunks(folder, places, manifest, (&is_trusted, verify), callbacks, &mut found)?;
    Ok(found)
}

/// How an entry on disk differs from that of the tree, apart from the content of files; `None` if it does not.
fn look_at(
    folder: &TreeFolder,
    places: &Places,
    (number, entry): (u32, &Entry),
    found: &mut Comparison,
) -> Result<Option<&'static str>, StoreError> {
    let Some(stat) = folder.stat(places, number)? else { return Ok(Some("is missing")) };
    let kind = kind_of(&stat);
    let difference = match &entry.kind {
        EntryKind::Directory => (kind != FileType::Directory).then_some("is not a folder"),
        EntryKind::File { size, .. } => match kind {
            FileType::RegularFile => (stat.st_size as u64 != *size).then_some("has another size"),
            _ => Some("is not a file"),
        },
        EntryKind::Link { target } => match kind {
            FileType::Symlink => {
                (folder.link_target(places, number)? != *target).then_some("is another link")
            }
            _ => Some("is not a symbolic link"),
        },
        EntryKind::HardLink { to } => {
            let file = places.content().index().find(to.bytes());
            let file = file.map(|file| folder.stat(places, file)).transpose()?.flatten();
            let is_same = file.is_some_and(|file| (file.st_dev, file.st_ino) == (stat.st_dev, stat.st_ino));
            (!is_same).then_some("is not a hard link to its file")
        }
    };
    let modified = (entry.modified.seconds, entry.modified.nanoseconds);
    let is_link = matches!(entry.kind, EntryKind::Link { .. });
    let has_mode = is_link || stat.st_mode & 0o7777 == u32::from(entry.mode);
    // The modification time of a directory changes with each entry that the receiver adds.
    let has_time = entry.kind == EntryKind::Directory || EntryStamp::of(&stat).modified == modified;
    if difference.is_none() && !(has_mode && has_time) {
        found.other_metadata += 1;
    }
    Ok(difference)
}

/// Finds the chunks that the folder has, and takes files with a missing chunk off the entries in place.
fn hash_chunks(
    folder: &TreeFolder,
    places: &Places,
    manifest: &Manifest,
    (is_trusted, verify): (&[bool], Verify),
    callbacks: VerifyCallbacks<'_>,
    found: &mut Comparison,
) -> Result<(), StoreError> {
    let layout = manifest.layout();
    let (content, in_place) = (places.content(), &found.in_place);
    let mut candidates = Bitfield::none(layout.count());
    for index in places.chunks().iter().filter(|index| index.0 >= content.index_chunks()) {
        let pieces = content.pieces(index);
        let all = |are: &[bool]| {
            pieces.iter().filter_map(|piece| places.of_file(piece.entry)).all(|at| are[at as usize])
        };
        if all(is_trusted) {
            found.chunks.insert(index);
        } else if places.is_whole(index) && all(in_place) {
            candidates.insert(index);
        }
    }
    let chosen = verify.choose(&candidates);
    let length = |index: &ChunkIndex| layout.span(*index).map_or(0, |span| span.length);
    (callbacks.begin)(chosen.iter().map(length).sum());
    let matching = Mutex::new(candidates);
    on_all_cores(chosen.len() as u32, layout.longest() as usize, &|item, buffer| {
        if (callbacks.stop)() {
            return Err(StoreError::Stopped);
        }
        let index = chosen[item as usize];
        let bytes = &mut buffer[..length(&index) as usize];
        let is_same = match read_pieces(places, index, bytes, |_| Ok(folder)) {
            Ok(()) => manifest.digest(index) == Some(Digest::of(bytes)),
            Err(_) => false,
        };
        (callbacks.hashed)(bytes.len() as u64);
        if !is_same {
            lock(&matching).remove(index);
        }
        Ok(true)
    })?;
    let matching = matching.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    matching.iter().for_each(|index| _ = found.chunks.insert(index));
    for index in places.chunks().iter().filter(|index| index.0 >= content.index_chunks()) {
        if found.chunks.has(index) {
            continue;
        }
        for place in content.pieces(index).iter().filter_map(|piece| places.of_file(piece.entry)) {
            if std::mem::replace(&mut found.in_place[place as usize], false) {
                found.difference.get_or_insert_with(|| format!("{} has another content", places.path(place)));
            }
        }
    }
    found.in_place[ROOT as usize] = true;
    Ok(())
}

/// Reads a chunk from the files of its pieces, each in the folder that `folder_of` names for its place.
///
/// # Errors
/// [`StoreError::Missing`] if a piece is not stored, [`StoreError::Changed`] if a file is too short.
pub(super) fn read_pieces<'a>(
    places: &Places,
    index: ChunkIndex,
    mut buffer: &mut [u8],
    folder_of: impl Fn(u32) -> Result<&'a TreeFolder, StoreError>,
) -> Result<(), StoreError> {
    use std::os::unix::fs::FileExt as _;
    for piece in places.content().pieces(index) {
        let place = places.of_file(piece.entry).ok_or(StoreError::Missing(index))?;
        let (bytes, rest) =
            buffer.split_at_mut_checked(piece.length as usize).ok_or(StoreError::Missing(index))?;
        let folder = folder_of(place)?;
        let is_large = piece.length as usize >= crate::content::limits::CHUNK_SIZE_MIN as usize;
        let file = folder.open_for_reading(places, place, is_large)?;
        file.read_exact_at(bytes, piece.offset_in_file)
            .map_err(|_| StoreError::Changed(folder.path_of(places, place)))?;
        buffer = rest;
    }
    Ok(())
}
