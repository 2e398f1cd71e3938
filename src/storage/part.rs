//! A file that is being downloaded.
//!
//! Its bytes go to a hidden sibling of the target, which gets its name only when every chunk is there.
//! Two have-files beside it say which chunks a restart can rely on: `.have` is written after the data
//! has been made durable and is durable itself; `.note` is written often and without any sync, for the case
//! that the process is killed. They are two because a file that is written without a sync may be torn after a
//! power cut: the note may be lost then, the durable map must not. A map that is torn or belongs to another file
//! vouches for nothing, and [`check`](PartFile::check) finds out what is there. Invariant: a have-file never outlives
//! the part file it vouches for, and never names a chunk before its bytes are in the part file.

mod check;

pub use check::CheckResult;

use super::disk::{self, Stamp};
use super::error::{self, StoreError};
use super::hashing::{self, HashCallbacks};
use super::progress::Progress;
use super::resume_file::{self, ResumeMaps};
use super::{ChunkSink, ChunkSource, StoredChunk, lock};
use crate::content::{ChunkIndex, Digest, FileId, HaveMap, Manifest, Md5};
use rustix::fs::{CWD, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

/// Bytes of the target's name that the hidden names repeat: with what is added they stay below the 255
/// that file systems take.
const NAME_KEPT: usize = 180;
/// How often opening is tried while other processes finish and remove the part file.
const OPEN_TRIES: usize = 8;

/// A download: the part file, its have-map, and what it is to become.
pub struct PartFile {
    target: PathBuf,
    paths: Paths,
    file: Arc<File>,
    manifest: Arc<Manifest>,
    id: FileId,
    boot: Option<String>,
    progress: Progress,
    resumed: AtomicU64,
    /// A map was there that said nothing of this file.
    doubtful: bool,
    saved: Mutex<Saved>,
    /// Held while bytes are written: the system lets only one thread at a time write to a file anyway, and whoever
    /// waits for it there burns a core meanwhile.
    writing: Mutex<()>,
    /// What the finished file must still look like.
    stamp: OnceLock<Stamp>,
}

/// The hidden siblings of the target.
#[derive(Debug, Clone)]
struct Paths {
    part: PathBuf,
    have: PathBuf,
    note: PathBuf,
}

/// What the have-files say.
struct Saved {
    durable: HaveMap,
    /// How many chunks the have-files name between them.
    noted: u32,
    /// How many notes this process has written.
    notes: usize,
    finished: bool,
    /// A sync of the data failed: what the system still keeps can no longer be relied on.
    unsound: bool,
}

impl PartFile {
    /// Opens the part file of a download, goes on where an earlier one stopped, and locks it until this
    /// value is dropped. The file gets its full size at once but takes up only what is written to it. The
    /// target's folder must be there; the target itself is not looked at.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when the same file is being downloaded to the same place,
    /// [`StoreError::Full`] when what is missing does not fit on the disk, [`StoreError::NotAFile`] when
    /// the target can be no file, and whatever the system says.
    pub fn open(target: &Path, manifest: Arc<Manifest>) -> Result<Self, StoreError> {
        Self::open_in(target, manifest, resume_file::boot_id())
    }

    fn open_in(target: &Path, manifest: Arc<Manifest>, boot: Option<String>) -> Result<Self, StoreError> {
        let id = manifest.id();
        let paths = Paths::beside(target, id)?;
        let file = open_locked(&paths.part)?;
        let size = file.metadata().map_err(error::io("look at", &paths.part))?.len();
        let layout = manifest.layout();
        let resume = size == layout.size();
        let (vouched, doubtful) = match resume {
            true => paths.vouched(id, layout.count(), boot.as_deref()),
            false => (ResumeMaps::empty(layout.count()), false),
        };
        let resumed = vouched.written.iter().map(|index| length_of(&manifest, index)).sum();
        let ready = match resume {
            true => check_space(&file, &paths.part, layout.size(), resumed),
            false => start_afresh(&file, &paths, layout.size()),
        };
        if let Err(error) = ready {
            if !resume {
                // Nobody's work is in it.
                disk::remove(&paths.part).err().into_iter().for_each(|error| log::warn!("{error}"));
            }
            return Err(error);
        }
        if paths.note.symlink_metadata().is_err() {
            // Once it is there it can be written over when the disk is full.
            resume_file::create_note(&paths.note, id, boot.as_deref(), layout.count())?;
        }
        let saved = Saved {
            durable: vouched.durable,
            noted: vouched.written.held(),
            notes: 0,
            finished: false,
            unsound: false,
        };
        Ok(Self {
            target: target.to_owned(),
            paths,
            file: Arc::new(file),
            manifest,
            id,
            boot,
            progress: Progress::new(vouched.written),
            resumed: AtomicU64::new(resumed),
            doubtful,
            saved: Mutex::new(saved),
            writing: Mutex::default(),
            stamp: OnceLock::new(),
        })
    }

    /// Bytes that were there when the part file was opened and, if that was asked for, checked.
    pub fn resumed_bytes(&self) -> u64 {
        self.resumed.load(Relaxed)
    }

    /// Where the finished file will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Notes what is there, so that a killed process loses nothing of it. Cheap: a small file is written,
    /// nothing is synced; nothing is done when there is nothing new.
    ///
    /// # Errors
    /// The note cannot be written; [`StoreError::Gone`] when the part file is not there any more, so that there is
    /// no point in going on.
    pub fn note(&self) -> Result<(), StoreError> {
        let mut saved = lock(&self.saved);
        let (written, _) = self.progress.have();
        if saved.finished || saved.unsound || written.held() == saved.noted {
            return Ok(());
        }
        if !is_named(&self.file, &self.paths.part)? {
            return Err(StoreError::Gone(self.paths.part.clone()));
        }
        let noted = written.held();
        let vouched = ResumeMaps { durable: saved.durable.clone(), written };
        resume_file::write_note(&self.paths.note, self.id, self.boot.as_deref(), &vouched, saved.notes)?;
        saved.notes += 1;
        saved.noted = noted;
        Ok(())
    }

    /// Makes what is there durable, so that a power cut loses nothing of it: first the data, then the map
    /// that vouches for it. May take seconds; chunks can be stored and served meanwhile. After
    /// [`finish`](Self::finish) it makes the finished file durable.
    ///
    /// # Errors
    /// The disk fails. What was written but not yet durable is then not vouched for any more, and every
    /// later call fails too.
    pub fn make_durable(&self) -> Result<(), StoreError> {
        let (written, _) = self.progress.have();
        let done = |saved: &Saved| !saved.finished && !saved.unsound && saved.durable == written;
        if done(&lock(&self.saved)) {
            return Ok(());
        }
        // Only what was there before the sync began is durable when it ends.
        self.sync_data()?;
        let mut saved = lock(&self.saved);
        if !saved.finished {
            let mut durable = written;
            resume_file::merge(&mut durable, &saved.durable);
            let vouched = ResumeMaps { written: durable.clone(), durable };
            resume_file::write(&self.paths.have, self.id, self.boot.as_deref(), &vouched)?;
            saved.noted = saved.noted.max(vouched.durable.held());
            saved.durable = vouched.durable;
        }
        disk::sync_folder(disk::folder_of(&self.target))
    }

    /// The MD5 of the file, which must be complete. The callbacks are those of
    /// [`CompleteFile::publish`](super::CompleteFile::publish).
    ///
    /// # Errors
    /// [`StoreError::Missing`] when a chunk is, [`StoreError::Stopped`], or it cannot be read.
    pub fn md5(
        &self,
        hashed: &(dyn Fn(u64) + Sync),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Md5, StoreError> {
        if let Some(missing) = self.progress.have().0.missing().next() {
            return Err(StoreError::Missing(missing));
        }
        let size = self.manifest.layout().size();
        hashing::md5(&self.file, &self.paths.part, size, HashCallbacks { hashed, stop })
    }

    /// Gives the complete file its name and removes the have-files; a second call does nothing more. With
    /// `overwrite` a file that is in place is replaced. With `durable` returns when data and name are on
    /// the disk; without, a power cut soon after may leave a damaged file. Chunks are served before and after.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when a chunk is, [`StoreError::Exists`] when a file is in place and
    /// `overwrite` is not set; the part file stays as it is then.
    pub fn finish(&self, overwrite: bool, durable: bool) -> Result<(), StoreError> {
        if let Some(missing) = self.progress.have().0.missing().next() {
            return Err(StoreError::Missing(missing));
        }
        // After a failed sync the file may have holes; this fails once more then.
        if durable || lock(&self.saved).unsound {
            self.sync_data()?;
        }
        let mut saved = lock(&self.saved);
        if !saved.finished {
            rename(&self.paths.part, &self.target, overwrite)?;
            saved.finished = true;
            // From now on it is the user's, who may change it; what has changed is not served.
            let _ = self.stamp.set(Stamp::read(&self.file, &self.target)?);
            // Left behind they do no harm: they are removed before the next part file of this name grows.
            if let Err(error) = self.paths.remove_maps() {
                log::warn!("{error}");
            }
            // The lock was the part file's; whoever uses the finished one may want its own.
            if let Err(error) = self.file.unlock() {
                log::warn!("cannot unlock {}: {error}", self.target.display());
            }
        }
        match durable {
            true => disk::sync_folder(disk::folder_of(&self.target)),
            false => Ok(()),
        }
    }

    fn sync_data(&self) -> Result<(), StoreError> {
        let unsound = lock(&self.saved).unsound;
        // After a failed sync the next one may succeed without having written what the first one lost.
        let synced = match unsound {
            true => Err(io::Error::other("an earlier sync failed")),
            false => self.file.sync_data(),
        };
        synced.map_err(|source| {
            lock(&self.saved).unsound = true;
            let removed = resume_file::remove(&self.paths.note);
            removed.err().into_iter().for_each(|error| log::warn!("{error}"));
            error::io("sync", &self.paths.part)(source)
        })
    }

    fn missing_bytes(&self) -> u64 {
        self.manifest.layout().size().saturating_sub(self.bytes_of(&self.progress.have().0))
    }

    fn bytes_of(&self, chunks: &HaveMap) -> u64 {
        chunks.iter().map(|index| length_of(&self.manifest, index)).sum()
    }

    /// Whether nobody has written to the finished file.
    fn unchanged(&self) -> Result<(), StoreError> {
        self.stamp.get().map_or(Ok(()), |stamp| stamp.check(&self.file, &self.target))
    }
}

fn length_of(manifest: &Manifest, index: ChunkIndex) -> u64 {
    manifest.layout().span(index).map_or(0, |span| span.length.into())
}

impl ChunkSource for PartFile {
    fn manifest(&self) -> Option<Arc<Manifest>> {
        Some(Arc::clone(&self.manifest))
    }

    fn progress(&self) -> &Progress {
        &self.progress
    }

    fn is_intact(&self) -> bool {
        self.unchanged().is_ok()
    }

    fn stored(&self, index: ChunkIndex) -> Result<StoredChunk, StoreError> {
        self.unchanged()?;
        let span = self.manifest.layout().span(index).filter(|_| self.progress.has(index));
        let span = span.ok_or(StoreError::Missing(index))?;
        Ok(StoredChunk { file: Arc::clone(&self.file), offset: span.offset, length: span.length })
    }
}

impl ChunkSink for PartFile {
    fn store(&self, index: ChunkIndex, _: Digest, bytes: &[u8]) -> Result<bool, StoreError> {
        let span = self.manifest.layout().span(index).ok_or(StoreError::Missing(index))?;
        if bytes.len() as u64 != u64::from(span.length) {
            let why = format!("chunk {index} has {} bytes, not {}", bytes.len(), span.length);
            return Err(error::invalid_input("write", &self.paths.part, why));
        }
        // The same chunk twice at once does no harm: both have the bytes that the digest vouches for.
        if !self.progress.has(index) {
            let zero = disk::is_zero(bytes);
            let writing = lock(&self.writing);
            let written = match zero && disk::punch_hole(&self.file, span.offset, bytes.len()) {
                true => Ok(()),
                false => self.file.write_all_at(bytes, span.offset),
            };
            written
                .map_err(|source| error::write("write", &self.paths.part, self.missing_bytes())(source))?;
            drop(writing);
            self.progress.add(index);
        }
        Ok(true)
    }
}

impl Paths {
    fn beside(target: &Path, id: FileId) -> Result<Self, StoreError> {
        let name = target.file_name().ok_or_else(|| StoreError::NotAFile(target.to_owned()))?;
        let name = name.to_string_lossy();
        let kept = &name[..name.floor_char_boundary(NAME_KEPT)];
        let folder = disk::folder_of(target);
        let path = |ending| folder.join(format!(".{kept}.{}.{ending}", id.short()));
        Ok(Self { part: path("part"), have: path("have"), note: path("note") })
    }

    /// What the maps vouch for, and whether there is one that is not usable.
    fn vouched(&self, id: FileId, count: u32, boot: Option<&str>) -> (ResumeMaps, bool) {
        let (mut vouched, mut doubtful) = (ResumeMaps::empty(count), false);
        let durable = resume_file::read(&self.have, id, count, boot);
        for map in [durable, resume_file::read_note(&self.note, id, count, boot)] {
            match map {
                Ok(map) => vouched.add(&map),
                Err(()) => doubtful = true,
            }
        }
        (vouched, doubtful)
    }

    fn remove_maps(&self) -> Result<bool, StoreError> {
        let removed = [&self.have, &self.note].map(|path| resume_file::remove(path));
        removed.into_iter().try_fold(false, |any, removed| Ok(any | removed?))
    }
}

/// Opens the part file and locks it; makes an empty one if there is none.
fn open_locked(path: &Path) -> Result<File, StoreError> {
    let busy = || StoreError::Busy(path.to_owned());
    for _ in 0..OPEN_TRIES {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        // A link under this name is not ours, and is not followed.
        let (file, _) = disk::open_as_file(&mut options, OFlags::NOFOLLOW, path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(busy()),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                log::warn!("{}: this file system has no locks", path.display());
            }
            Err(TryLockError::Error(error)) => return Err(error::io("lock", path)(error)),
        }
        // Between opening and locking, the process that held the lock may have renamed the file to its
        // target: writing to it then would write to a finished file.
        if is_named(&file, path)? {
            return Ok(file);
        }
    }
    Err(busy())
}

/// Whether a name is that of an open file.
fn is_named(file: &File, path: &Path) -> Result<bool, StoreError> {
    let opened = file.metadata().map_err(error::io("look at", path))?;
    let named = fs::symlink_metadata(path);
    Ok(named.is_ok_and(|named| (named.dev(), named.ino()) == (opened.dev(), opened.ino())))
}

/// Gives a file that is new, or not what it should be, its size. The maps of an earlier part file go first,
/// durably: they must not vouch for this one.
fn start_afresh(file: &File, paths: &Paths, size: u64) -> Result<(), StoreError> {
    if paths.remove_maps()? {
        disk::sync_folder(disk::folder_of(&paths.part))?;
    }
    file.set_len(0).map_err(error::io("empty", &paths.part))?;
    check_space(file, &paths.part, size, 0)?;
    file.set_len(size).map_err(error::write("set the size of", &paths.part, size))
}

/// Whether what is still missing fits on the disk.
fn check_space(file: &File, path: &Path, size: u64, held: u64) -> Result<(), StoreError> {
    let allocated = file.metadata().map_err(error::io("look at", path))?.blocks().saturating_mul(512);
    let needed = size.saturating_sub(allocated.max(held));
    match disk::free_space(disk::folder_of(path)) {
        Some(available) if available < needed => {
            Err(StoreError::Full { path: path.to_owned(), needed, available })
        }
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path, overwrite: bool) -> Result<(), StoreError> {
    let renamed = match overwrite {
        true => fs::rename(from, to),
        false => match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Not known to this system or file system: the next best thing.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => rename_after_looking(from, to),
            renamed => renamed.map_err(io::Error::from),
        },
    };
    renamed.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists if !overwrite => StoreError::Exists(to.to_owned()),
        _ => error::io("rename the finished file to", to)(error),
    })
}

/// Renames unless something has the new name; a file that appears at the same moment is replaced.
fn rename_after_looking(from: &Path, to: &Path) -> io::Result<()> {
    match to.symlink_metadata() {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to),
    }
}

#[cfg(test)]
#[path = "part_tests.rs"]
mod tests;
