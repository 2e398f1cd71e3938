//! Names of part files and their resume files, and the choice of the part file of a download.
//!
//! A part file is named `NAME.part`, its resume file `.NAME.part.resume`. Invariant: an existing
//! file is used as a part file only if it has the full size and a resume file beside it that does
//! not belong to another file; every other file of that name is left alone, and the part file is
//! named `NAME.2.part` and so on.

use super::super::disk;
use super::super::error::{self, StoreError};
use super::super::resume_file::{self, Found, Owner, ResumeMaps, Turns};
use super::{MODE, OPEN_ATTEMPTS_MAX};
use crate::content::FileId;
use rustix::fs::OFlags;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Ending of a part file's name.
pub(in crate::storage) const PART: &str = ".part";
/// Ending of a resume file's name.
const RESUME: &str = ".resume";
/// Names that are tried for a part file before the download is refused.
const NAMES_MAX: u32 = 32;
/// Bytes of the target's name that the previous version repeated in its hidden names.
const OLDER_NAME_BYTES_MAX: usize = 180;

/// The part file of a download and its resume files.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    pub part: PathBuf,
    pub resume: PathBuf,
    /// The resume files of the previous version, `.have` and `.note`: only read, and removed at the
    /// end. They exist only beside a hidden part file of that version.
    pub older: Option<[PathBuf; 2]>,
}

/// A download for which a part file is opened.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub target: &'a Path,
    pub id: FileId,
    pub size: u64,
    pub count: u32,
    pub boot: Option<&'a str>,
}

/// A locked part file of full size, and the chunks that its resume files list.
pub(super) struct Opened {
    pub paths: Paths,
    pub file: File,
    pub inode: u64,
    pub maps: ResumeMaps,
    pub turns: Turns,
    /// Only hashing the part file can find its chunks.
    pub unusable_map: bool,
}

/// Result of looking at one name.
enum Candidate {
    Free,
    Taken,
    Own(Box<Opened>),
}

/// Name of the resume file of a part file.
pub(in crate::storage) fn resume_name(part: &str) -> String {
    format!(".{part}{RESUME}")
}

/// Name of the part file of a resume file.
pub(in crate::storage) fn part_of_resume_name(name: &str) -> Option<&str> {
    name.strip_prefix('.')?.strip_suffix(RESUME)
}

impl Wanted<'_> {
    /// Opens and locks the part file of an earlier run, or creates a sparse one of full size.
    pub(super) fn open(self) -> Result<Opened, StoreError> {
        let name = self.target.file_name().ok_or_else(|| StoreError::NotAFile(self.target.to_owned()))?;
        let (name, folder) = (name.to_string_lossy(), disk::folder_of(self.target));
        if let Some(opened) = self.open_older(Paths::of_previous_version(folder, &name, self.id))? {
            return Ok(opened);
        }
        let name_bytes_max = disk::name_bytes_max(folder);
        for _ in 0..OPEN_ATTEMPTS_MAX {
            let mut free = None;
            for number in 1..=NAMES_MAX {
                let paths = Paths::beside(folder, &name, self.id, number, name_bytes_max);
                match self.look_at(&paths)? {
                    Candidate::Own(opened) => return Ok(*opened),
                    Candidate::Free if free.is_none() => free = Some(paths),
                    Candidate::Free | Candidate::Taken => {}
                }
            }
            let Some(paths) = free else {
                let reason = format!("{NAMES_MAX} other files have its names");
                return Err(error::invalid_input("create a part file for", self.target, reason));
            };
            if let Some(opened) = self.create(paths)? {
                return Ok(opened);
            }
        }
        Err(StoreError::Busy(self.target.to_owned()))
    }

    fn owner(&self, inode: u64) -> Owner<'_> {
        Owner { id: self.id, count: self.count, inode, boot: self.boot }
    }

    /// Opens the hidden part file of the previous version, if one of full size exists.
    fn open_older(&self, paths: Paths) -> Result<Option<Opened>, StoreError> {
        let Ok((file, metadata)) = open_existing(&paths.part) else { return Ok(None) };
        if metadata.len() != self.size || paths.older.iter().flatten().all(|path| !exists(path)) {
            return Ok(None);
        }
        if !lock_part(&file, &paths.part)? {
            return Err(StoreError::Busy(paths.part));
        }
        match path_refers_to(&file, &paths.part)? {
            true => Ok(self.opened(paths, file, &metadata)),
            false => Ok(None),
        }
    }

    fn look_at(&self, paths: &Paths) -> Result<Candidate, StoreError> {
        let (file, metadata) = match open_existing(&paths.part) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(Candidate::Free);
            }
            Err(_) => return Ok(Candidate::Taken),
            Ok(opened) => opened,
        };
        if metadata.len() != self.size {
            return Ok(Candidate::Taken);
        }
        if !lock_part(&file, &paths.part)? {
            // Without a resume file it is the new part file of another process.
            return match resume_file::read(&paths.resume, self.owner(metadata.ino())) {
                Found::OtherFile => Ok(Candidate::Taken),
                _ => Err(StoreError::Busy(paths.part.clone())),
            };
        }
        // Between open and lock, the previous owner of the lock may have renamed the file to its
        // target. Writing to it would damage a finished file.
        if !path_refers_to(&file, &paths.part)? {
            return Ok(Candidate::Free);
        }
        if !exists(&paths.resume) {
            return Ok(Candidate::Taken);
        }
        Ok(self
            .opened(paths.clone(), file, &metadata)
            .map_or(Candidate::Taken, |opened| Candidate::Own(Box::new(opened))))
    }

    /// Reads the resume files; `None` if they belong to another file.
    fn opened(&self, paths: Paths, file: File, metadata: &Metadata) -> Option<Opened> {
        let inode = metadata.ino();
        let mut opened = Opened {
            paths,
            file,
            inode,
            maps: ResumeMaps::empty(self.count),
            turns: Turns::default(),
            unusable_map: false,
        };
        let foreign = disk::writable_by_others(metadata);
        if let Some(why) = foreign {
            log::warn!("resume files of {} ignored: {why}", opened.paths.part.display());
            opened.unusable_map = true;
        }
        let (owner, Paths { resume, older, .. }) = (self.owner(inode), &opened.paths);
        let older = older.iter().flat_map(|[have, note]| [(have, 1), (note, 2)]);
        let found = resume_file::read(resume, owner);
        match found {
            Found::OtherFile => return None,
            Found::Usable(_, turns) => opened.turns = turns,
            Found::Absent | Found::Unusable => {}
        }
        let older = older.map(|(path, slots)| resume_file::read_older(path, owner, slots));
        for found in std::iter::once(found).chain(older) {
            match found {
                Found::Usable(maps, _) if foreign.is_none() => opened.maps.add(&maps),
                Found::Usable(..) | Found::Absent => {}
                Found::OtherFile | Found::Unusable => opened.unusable_map = true,
            }
        }
        Some(opened)
    }

    /// Creates a part file; `None` if another program has created a file of that name meanwhile.
    fn create(&self, paths: Paths) -> Result<Option<Opened>, StoreError> {
        // It gets its name when it is locked, has its size, and its resume file exists.
        let temporary = disk::temporary_for(&paths.part, b"", false, MODE)?;
        let file = temporary.as_file();
        lock_part(file, &paths.part)?;
        super::check_space(file, &paths.part, self.size, 0)?;
        file.set_len(self.size).map_err(error::write("set the size of", &paths.part, self.size))?;
        let inode = file.metadata().map_err(error::io("read the metadata of", &paths.part))?.ino();
        // The resume file of an earlier part file must not be applied to this one.
        if disk::remove(&paths.resume)? {
            disk::sync_folder(disk::folder_of(&paths.part))?;
        }
        resume_file::create(&paths.resume, self.owner(inode))?;
        match temporary.persist_noclobber(&paths.part) {
            Ok(file) => {
                let (maps, turns) = (ResumeMaps::empty(self.count), Turns::default());
                Ok(Some(Opened { paths, file, inode, maps, turns, unusable_map: false }))
            }
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => {
                let _ = disk::remove(&paths.resume);
                Err(error::io("create", &paths.part)(error.error))
            }
        }
    }
}

impl Paths {
    /// The names that are tried as number `number`, from 1. A name that is too long for the file
    /// system is cut and gets the first digits of the id.
    pub(super) fn beside(folder: &Path, name: &str, id: FileId, number: u32, name_bytes_max: usize) -> Self {
        let ending = if number == 1 { PART.to_owned() } else { format!(".{number}{PART}") };
        let part = |name: &str| format!("{name}{ending}");
        let whole = part(name);
        let excess = resume_name(&whole).len().saturating_sub(name_bytes_max);
        let part = match excess {
            0 => whole,
            _ => {
                let digits = format!(".{}", id.short());
                let kept = name.len().saturating_sub(excess + digits.len());
                part(&format!("{}{digits}", &name[..name.floor_char_boundary(kept)]))
            }
        };
        Self { resume: folder.join(resume_name(&part)), part: folder.join(part), older: None }
    }

    /// The hidden names of the previous version.
    fn of_previous_version(folder: &Path, name: &str, id: FileId) -> Self {
        let kept = &name[..name.floor_char_boundary(OLDER_NAME_BYTES_MAX)];
        let path = |ending| folder.join(format!(".{kept}.{}.{ending}", id.short()));
        Self { part: path("part"), resume: path("resume"), older: Some([path("have"), path("note")]) }
    }

    /// The resume files.
    pub(super) fn resume_files(&self) -> impl Iterator<Item = &Path> {
        self.older.iter().flatten().chain([&self.resume]).map(PathBuf::as_path)
    }

    pub(super) fn remove_older(&self) -> Result<(), StoreError> {
        self.older.iter().flatten().try_for_each(|path| disk::remove(path).map(|_| ()))
    }
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Opens an existing regular file for reading and writing.
pub(in crate::storage) fn open_existing(path: &Path) -> Result<(File, Metadata), StoreError> {
    // Do not follow a link: it was not created by shoal.
    let (file, _) = disk::open_as_file(OpenOptions::new().read(true).write(true), OFlags::NOFOLLOW, path)?;
    let metadata = file.metadata().map_err(error::io("read the metadata of", path))?;
    Ok((file, metadata))
}

/// Locks a part file; `false` if another process has locked it.
fn lock_part(file: &File, path: &Path) -> Result<bool, StoreError> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
            log::warn!(
                "cannot lock {}: not supported by the file system; start only one download of this file",
                path.display()
            );
            Ok(true)
        }
        Err(TryLockError::Error(error)) => Err(error::io("lock", path)(error)),
    }
}

/// Whether the path refers to the open file.
pub(in crate::storage) fn path_refers_to(file: &File, path: &Path) -> Result<bool, StoreError> {
    let opened = file.metadata().map_err(error::io("read the metadata of", path))?;
    let named = fs::symlink_metadata(path);
    Ok(named.is_ok_and(|named| (named.dev(), named.ino()) == (opened.dev(), opened.ino())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_every_file_system() {
        let (folder, id) = (Path::new("folder"), FileId([0xab; 32]));
        let length = |path: &Path| path.file_name().unwrap().len();
        for name_bytes_max in [64, 143, 255] {
            for name_bytes in 1..=name_bytes_max {
                for letter in ["x", "é"] {
                    let name = letter.repeat(name_bytes / letter.len());
                    let paths = [1, 2, 32].map(|n| Paths::beside(folder, &name, id, n, name_bytes_max));
                    for Paths { part, resume, .. } in &paths {
                        assert!(length(part).max(length(resume)) <= name_bytes_max, "{part:?}");
                        assert!(part.to_string_lossy().ends_with(PART));
                    }
                    assert!(paths[0].part != paths[1].part && paths[1].part != paths[2].part);
                }
            }
        }
        let short = Paths::beside(folder, "file.bin", id, 1, 143);
        assert_eq!(short.part, folder.join("file.bin.part"));
        assert_eq!(short.resume, folder.join(".file.bin.part.resume"));
        assert_eq!(Paths::beside(folder, "file.bin", id, 2, 143).part, folder.join("file.bin.2.part"));
        let long = Paths::beside(folder, &"x".repeat(143), id, 1, 143).part;
        assert!(long.to_string_lossy().ends_with("x.abababab.part"), "{long:?}");
    }
}
