//! Part file: a download in progress.
//!
//! Its bytes go to a file `NAME.part` beside the target, which is renamed to the target when every
//! chunk is present. A resume file beside it lists the chunks that a restart
//! can use, in durable records and in notes that survive only a killed process.
//!
//! A resume file counts for nothing if it is torn, or can have been written by another user; so does
//! the resume file of a part file that another user can have written. [`check`](PartFile::check)
//! then hashes the part file instead. Invariant: a resume file never lists a chunk before its bytes
//! are in the part file.

mod check;
pub(super) mod names;
mod reuse;

pub use check::CheckResult;

use super::disk::{self, Stamp};
use super::error::{self, StoreError};
use super::hashing::{self, HashCallbacks};
use super::in_place::{ChunkWriters, InPlaceFile};
use super::progress::Progress;
use super::resume_file::{self, Kind, Owner, ResumeMaps, Turns};
use super::{ChunkSink, ChunkSource, LargeChunk, StoredChunk};
use crate::content::{Bitfield, ChunkIndex, Digest, FileId, Manifest, Md5};
use crate::sync::lock;
use names::{Opened, Paths, Wanted, path_refers_to};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

/// Attempts to open the part file while other processes rename or remove it.
const OPEN_ATTEMPTS_MAX: usize = 8;
/// Permissions of a part file, less the umask.
const MODE: u32 = 0o644;

/// Permissions of an ordinary new file, less the umask.
const ORDINARY_MODE: u32 = 0o666;
/// The permission of the owner to read a file.
const OWNER_READS: u32 = 0o400;

/// A download in progress: the part file, its resume file and its target.
pub struct PartFile {
    target: PathBuf,
    paths: Paths,
    file: Arc<File>,
    manifest: Arc<Manifest>,
    id: FileId,
    inode: u64,
    boot: Option<String>,
    /// Permission bits of the finished file, as stated by a peer.
    mode: Option<u32>,
    progress: Progress,
    resumed: AtomicU64,
    /// A resume file is unusable, or another user can have written the part file.
    unusable_map: bool,
    listed: Mutex<Listed>,
    /// Held while the file system is asked for write errors, which it reports only once, until they
    /// are recorded.
    checking: Mutex<()>,
    /// The file system may report a failed write only at close.
    reports_at_close: bool,
    /// Locked during each write.
    writers: Mutex<ChunkWriters>,
    /// A chunk was found to differ from its digest: no chunk is served.
    is_corrupt: AtomicBool,
    /// Size and modification time of the finished file; a file that differs is no longer served.
    stamp: OnceLock<Stamp>,
}

/// Content of the resume file.
struct Listed {
    durable: Bitfield,
    /// Number of chunks listed in any record.
    count: u32,
    turns: Turns,
    finished: bool,
    /// Error of a failed fsync or close: written data has been lost.
    write_error: Option<Errno>,
}

impl PartFile {
    /// Opens the part file of a download, or resumes an earlier one, and locks it until this value
    /// is dropped.
    ///
    /// The file gets its full size at once, as a sparse file. The target's folder must exist; the
    /// target itself is not accessed.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if the same file is being downloaded to the same target,
    /// [`StoreError::Full`] if the missing bytes do not fit on the disk, [`StoreError::NotAFile`]
    /// if the target cannot be a file, or an I/O error.
    pub fn open(target: &Path, manifest: Arc<Manifest>) -> Result<Self, StoreError> {
        Self::open_in(target, manifest, resume_file::boot_id())
    }

    fn open_in(target: &Path, manifest: Arc<Manifest>, boot: Option<String>) -> Result<Self, StoreError> {
        let (id, layout) = (manifest.id(), manifest.layout());
        let (size, count) = (layout.size(), layout.count());
        let wanted = Wanted { target, id, size, count, boot: boot.as_deref() };
        let Opened { paths, file, inode, maps, turns, unusable_map } = wanted.open()?;
        let resumed = maps.written.iter().map(|index| length_of(&manifest, index)).sum();
        check_space(&file, &paths.part, size, resumed)?;
        if paths.resume.symlink_metadata().is_err() {
            // Allocate it now: it can then be overwritten even when the disk is full.
            resume_file::create(&paths.resume, Owner { id, count, inode, boot: boot.as_deref() })?;
        }
        let reports_at_close = !disk::is_local(&file);
        let listed = Listed {
            durable: maps.durable,
            count: maps.written.held(),
            turns,
            finished: false,
            write_error: None,
        };
        Ok(Self {
            target: target.to_owned(),
            paths,
            file: Arc::new(file),
            manifest,
            id,
            inode,
            boot,
            mode: None,
            progress: Progress::new(maps.written),
            resumed: AtomicU64::new(resumed),
            unusable_map,
            listed: Mutex::new(listed),
            checking: Mutex::default(),
            reports_at_close,
            writers: Mutex::default(),
            is_corrupt: AtomicBool::new(false),
            stamp: OnceLock::new(),
        })
    }

    /// Sets the permission bits that a peer states for the finished file; all but those of 0777 are ignored.
    pub fn with_mode(self, mode: Option<u32>) -> Self {
        Self { mode: mode.map(|mode| mode & disk::PERMISSION_BITS), ..self }
    }

    fn owner(&self) -> Owner<'_> {
        let count = self.manifest.layout().count();
        Owner { id: self.id, count, inode: self.inode, boot: self.boot.as_deref() }
    }

    /// Bytes that were present when the part file was opened and, if requested, checked.
    pub fn resumed_bytes(&self) -> u64 {
        self.resumed.load(Relaxed)
    }

    /// Path of the finished file.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Writes a note to the resume file, so that a killed process loses no chunk stored so far. Cheap: one small
    /// write without fsync, and no write if no chunk was added.
    ///
    /// # Errors
    /// The note cannot be written; the file system has lost stored data;
    /// [`StoreError::Gone`] if the part file was removed, so that the download cannot continue.
    pub fn note(&self) -> Result<(), StoreError> {
        let (present, _) = self.progress.have();
        let done = |listed: &Listed| {
            listed.finished || listed.write_error.is_some() || present.held() == listed.count
        };
        if done(&lock(&self.listed)) {
            return Ok(());
        }
        // A kill would hide the error of a write that fails at close. The check covers only the
        // chunks stored before it began.
        self.check_writes()?;
        let mut listed = lock(&self.listed);
        if done(&listed) {
            return Ok(());
        }
        if !path_refers_to(&self.file, &self.paths.part)? {
            return Err(StoreError::Gone(self.paths.part.clone()));
        }
        let count = present.held();
        let maps = ResumeMaps { durable: listed.durable.clone(), written: present };
        resume_file::write(&self.paths.resume, self.owner(), &maps, Kind::Note, &mut listed.turns)?;
        listed.count = count;
        Ok(())
    }

    /// Makes the chunks stored so far durable, so that they survive a power cut: first the data,
    /// then the resume file.
    ///
    /// May take seconds; chunks can be stored and served meanwhile. After [`finish`](Self::finish)
    /// it syncs the finished file.
    ///
    /// # Errors
    /// The disk fails. Chunks that were written but not yet durable are then no longer listed, and
    /// every later call fails.
    pub fn make_durable(&self) -> Result<(), StoreError> {
        let (present, _) = self.progress.have();
        let done =
            |listed: &Listed| !listed.finished && listed.write_error.is_none() && listed.durable == present;
        if done(&lock(&self.listed)) {
            return Ok(());
        }
        // A sync covers only the bytes written before it began.
        self.sync_data()?;
        let mut listed = lock(&self.listed);
        if !listed.finished && listed.write_error.is_none() {
            let mut durable = present;
            resume_file::merge(&mut durable, &listed.durable);
            let maps = ResumeMaps { written: durable.clone(), durable };
            resume_file::write(&self.paths.resume, self.owner(), &maps, Kind::Durable, &mut listed.turns)?;
            listed.count = listed.count.max(maps.durable.held());
            listed.durable = maps.durable;
        }
        disk::sync_folder(disk::folder_of(&self.target))
    }

    /// MD5 of the file, which must be complete. For the callbacks see
    /// [`CompleteFile::publish`](super::CompleteFile::publish).
    ///
    /// # Errors
    /// [`StoreError::Missing`] if a chunk is missing, [`StoreError::Stopped`], or the file cannot
    /// be read.
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

    /// Renames the complete file to its target and removes the resume file. A repeated call only
    /// syncs.
    ///
    /// With `overwrite` an existing target is replaced. With `durable` the call returns when data
    /// and name are on the disk; without it, a power cut soon after can leave a damaged file.
    /// Chunks are served before and after.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if a chunk is missing, [`StoreError::Exists`] if the target exists
    /// and `overwrite` is not set; the part file is unchanged then. [`StoreError::Full`] or
    /// [`StoreError::Io`] if the file system has lost stored data, also at an earlier call.
    pub fn finish(&self, overwrite: bool, durable: bool) -> Result<(), StoreError> {
        if let Some(missing) = self.progress.have().0.missing().next() {
            return Err(StoreError::Missing(missing));
        }
        match durable {
            true => self.sync_data()?,
            false => self.check_writes()?,
        }
        let mut listed = lock(&self.listed);
        if !listed.finished {
            self.set_final_permissions(overwrite);
            rename(&self.paths.part, &self.target, overwrite)?;
            listed.finished = true;
            // From now on the file belongs to the user and may be changed. A changed file is not
            // served.
            let _ = self.stamp.set(Stamp::read(&self.file, &self.target)?);
            // A stale resume file does no harm: it is removed before a new part file gets its name.
            for path in self.paths.resume_files() {
                disk::remove(path).err().into_iter().for_each(|error| log::warn!("{error}"));
            }
            // The lock protected the part file. Another program may want to lock the finished file.
            if let Err(error) = self.file.unlock() {
                log::warn!("cannot unlock {}: {error}", self.target.display());
            }
        }
        match durable {
            true => disk::sync_folder(disk::folder_of(&self.target)),
            false => Ok(()),
        }
    }

    /// Rewrites the resume file, so that it lists only the durable chunks.
    fn forget_notes(&self, listed: &mut Listed) -> Result<(), StoreError> {
        if let Some([_, note]) = &self.paths.older {
            disk::remove(note)?;
        }
        resume_file::clear_notes(&self.paths.resume, self.owner())?;
        listed.count = listed.durable.held();
        Ok(())
    }

    fn sync_data(&self) -> Result<(), StoreError> {
        self.ask_for_write_errors(|file| file.sync_data().and_then(|()| disk::check_writes(file)))
    }

    /// Fails if the file system has lost stored data. A local file system reports losses only at
    /// fsync, which takes longer than its users want to wait; without `durable` it is not asked.
    fn check_writes(&self) -> Result<(), StoreError> {
        let failed = lock(&self.listed).write_error.is_some();
        match self.reports_at_close || failed {
            true => self.ask_for_write_errors(disk::check_writes),
            false => Ok(()),
        }
    }

    /// After a loss, no further chunk is listed and each later call fails: the file system reports
    /// an error only once.
    fn ask_for_write_errors(&self, ask: impl FnOnce(&File) -> io::Result<()>) -> Result<(), StoreError> {
        let _checking = lock(&self.checking);
        let earlier = lock(&self.listed).write_error;
        let answer = earlier.map_or_else(|| ask(&self.file), |errno| Err(errno.into()));
        answer.map_err(|source| {
            let mut listed = lock(&self.listed);
            if !listed.finished {
                let forgotten = self.forget_notes(&mut listed);
                forgotten.err().into_iter().for_each(|error| log::warn!("{error}"));
            }
            listed.write_error = Some(Errno::from_io_error(&source).unwrap_or(Errno::IO));
            error::write("write all data to", &self.paths.part, self.manifest.layout().size())(source)
        })
    }

    /// Gives the part file its final permissions: those of the target that it replaces, or else those
    /// stated by a peer, less the umask, or else those of an ordinary new file. Not critical: a failure
    /// leaves it writable by its owner only.
    fn set_final_permissions(&self, overwrite: bool) {
        let set = || -> io::Result<()> {
            let allowed = |mode| -> io::Result<u32> {
                let new = disk::temporary_for(&self.target, b"", false, mode).map_err(io::Error::other)?;
                Ok(new.as_file().metadata()?.mode() & disk::PERMISSION_BITS)
            };
            let replaced = fs::symlink_metadata(&self.target).ok().filter(|old| overwrite && old.is_file());
            let mode = match (replaced, self.mode) {
                (Some(old), _) => old.mode() & disk::PERMISSION_BITS,
                // The owner can always read it.
                (None, Some(hint)) => (hint | OWNER_READS) & allowed(disk::PERMISSION_BITS)?,
                (None, None) => allowed(ORDINARY_MODE)?,
            };
            match self.file.metadata()?.mode() & 0o7777 == mode {
                true => Ok(()),
                false => self.file.set_permissions(fs::Permissions::from_mode(mode)),
            }
        };
        set().err().into_iter().for_each(|error| {
            log::debug!("permissions of {} not changed: {error}", self.paths.part.display());
        });
    }

    /// Writes bytes of a chunk; zeros become a hole.
    fn write_at(&self, bytes: &[u8], offset: u64, zero: bool) -> Result<(), StoreError> {
        let result = match zero && disk::punch_hole(&self.file, offset, bytes.len()) {
            true => Ok(()),
            false => self.file.write_all_at(bytes, offset),
        };
        result.map_err(|source| error::write("write", &self.paths.part, self.missing_bytes())(source))
    }

    fn missing_bytes(&self) -> u64 {
        self.manifest.layout().size().saturating_sub(self.bytes_of(&self.progress.have().0))
    }

    fn bytes_of(&self, chunks: &Bitfield) -> u64 {
        chunks.iter().map(|index| length_of(&self.manifest, index)).sum()
    }

    /// Fails with [`StoreError::Changed`] if another program has modified the finished file, or a chunk
    /// was found to be damaged.
    fn unchanged(&self) -> Result<(), StoreError> {
        if self.is_corrupt.load(Relaxed) {
            return Err(StoreError::Changed(self.target.clone()));
        }
        self.stamp.get().map_or(Ok(()), |stamp| stamp.check(&self.file, &self.target))
    }
}

fn length_of(manifest: &Manifest, index: ChunkIndex) -> u64 {
    manifest.layout().span(index).map_or(0, |span| span.length)
}

impl ChunkSource for PartFile {
    fn manifest(&self) -> Option<Arc<Manifest>> {
        Some(Arc::clone(&self.manifest))
    }

    fn progress(&self) -> &Progress {
        &self.progress
    }

    fn mode(&self) -> Option<u32> {
        self.mode
    }

    fn is_intact(&self) -> bool {
        self.unchanged().is_ok()
    }

    fn check_reported(&self, index: ChunkIndex) -> bool {
        let matches = hashing::matches(self, index, &self.target);
        if !matches && !self.is_corrupt.swap(true, Relaxed) {
            log::warn!(
                "{}: chunk {index} differs from its SHA-256, although it was stored correctly (a peer reported it): \
                 another program or the disk has damaged it; the file is no longer offered",
                self.target.display()
            );
            let mut listed = lock(&self.listed);
            if !listed.finished {
                // The download fails at its end, and the next run hashes the part file.
                listed.write_error.get_or_insert(Errno::IO);
                self.empty_resume_files().err().into_iter().for_each(|error| log::warn!("{error}"));
            }
        }
        matches
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
        if bytes.len() as u64 != span.length {
            let reason = format!("chunk {index} has {} bytes, not {}", bytes.len(), span.length);
            return Err(error::invalid_input("write", &self.paths.part, reason));
        }
        // Two threads may write the same chunk at once: both have verified bytes.
        if !self.progress.has(index) {
            let zero = disk::is_zero(bytes);
            let writers = lock(&self.writers);
            self.write_at(bytes, span.offset, zero)?;
            drop(writers);
            self.progress.add(index);
        }
        Ok(true)
    }

    fn begin(
        &self,
        index: ChunkIndex,
        _: Digest,
        length: u64,
    ) -> Result<Box<dyn LargeChunk + '_>, StoreError> {
        let span = self.manifest.layout().span(index).filter(|span| span.length == length);
        let file = InPlaceFile {
            path: &self.paths.part,
            progress: &self.progress,
            writers: &self.writers,
            write_at: Box::new(|bytes, offset| self.write_at(bytes, offset, disk::is_zero(bytes))),
        };
        Ok(file.begin(index, span.ok_or(StoreError::Missing(index))?))
    }
}

/// Fails with [`StoreError::Full`] if the missing bytes do not fit on the disk.
fn check_space(file: &File, path: &Path, size: u64, held: u64) -> Result<(), StoreError> {
    let allocated =
        file.metadata().map_err(error::io("read the metadata of", path))?.blocks().saturating_mul(512);
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
        true => replace(from, to),
        false => match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Not supported by this kernel or file system: check and rename, which is not atomic.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => rename_if_absent(from, to),
            renamed => renamed.map_err(io::Error::from),
        },
    };
    renamed.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists if !overwrite => StoreError::Exists(to.to_owned()),
        _ => error::io("rename the finished file to", to)(error),
    })
}

/// Replaces a target, or renames to it if there is none. An existing file is exchanged with the new one and then removed:
/// ext4 writes a file to the disk before it is renamed over another one, which takes as long as an fsync. A process that is
/// killed in between leaves the replaced file under the name of the part file, with its resume file.
fn replace(from: &Path, to: &Path) -> io::Result<()> {
    let is_file = to.symlink_metadata().is_ok_and(|old| !old.is_dir());
    // Not supported by this kernel or file system, or the target has been removed: rename.
    if !is_file || rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE).is_err() {
        return fs::rename(from, to);
    }
    if let Err(error) = disk::remove(from) {
        log::warn!("the file that was replaced is still there: {error}");
    }
    Ok(())
}

/// Renames unless the target exists. A target that is created between check and rename is replaced.
fn rename_if_absent(from: &Path, to: &Path) -> io::Result<()> {
    match to.symlink_metadata() {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to),
    }
}

#[cfg(test)]
#[path = "part_tests.rs"]
mod tests;
