//! Part files, and staging folders of folders, that interrupted downloads have left in a folder, and their removal.
//!
//! Invariant: a file counts only if a resume file of a download is beside it and no program has
//! locked it, a staging folder only if it has one. It stays locked until it is removed, so that no download resumes it
//! meanwhile. A staging folder with a journal is kept: files of a folder have been replaced by its content.

use super::part::names::{self, PART};
use super::tree_part::staging;
use super::{disk, error, error::StoreError, resume_file};
use crate::content::FileId;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Endings of the hidden files of the previous version beside its part file.
const OLDER_ENDINGS: [&str; 3] = ["have", "note", "resume"];
/// Ending of the temporary resume file of the previous version.
const OLDER_TEMPORARY: &str = "have.new";
/// Digits of the id in the hidden names of the previous version.
const OLDER_DIGITS: usize = 8;

/// A part file with its resume files, resume files whose part file is gone, or a staging folder.
#[derive(Debug)]
pub struct Leftover {
    /// Path of the part file, or of the resume file if there is no part file.
    pub path: PathBuf,
    /// Disk space that it occupies, bytes.
    pub allocated_bytes: u64,
    part: Option<(PathBuf, File)>,
    resume: Vec<PathBuf>,
}

/// The part files of a folder.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Those that can be removed, by name.
    pub unused: Vec<Leftover>,
    /// Part files that a program has locked, or that cannot be opened, with the reason.
    pub kept: Vec<(PathBuf, String)>,
}

/// A download that can be resumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// Name of the file that is downloaded.
    pub name: String,
    /// Its id, the number of chunks that are present, and the number of all; `None` if only hashing can find them.
    pub progress: Option<(FileId, u32, u32)>,
}

/// Lists the downloads directly in a folder that can be resumed. Those that run are among them: nothing is locked, so that
/// none of them fails.
///
/// # Errors
/// The folder cannot be read.
pub fn unfinished(folder: &Path) -> Result<Vec<Unfinished>, StoreError> {
    let files = file_names(folder)?;
    let download = |name: &String| {
        let (part, resume) = group_of(name, &files).filter(|(part, _)| part == name)?;
        let resume: Vec<PathBuf> = resume.iter().map(|name| folder.join(name)).collect();
        let is_ours = older_stem(&part).is_some() || resume.iter().any(|path| resume_file::is_ours(path));
        let inode = folder.join(&part).symlink_metadata().ok().filter(|_| is_ours)?.ino();
        let progress = resume.iter().find_map(|path| resume_file::progress(path, inode));
        let older = older_stem(&part).and_then(|stem| Some(stem.strip_prefix('.')?.rsplit_once('.')?.0));
        let name = older.or(part.strip_suffix(PART)).unwrap_or(&part).to_owned();
        Some(Unfinished { name, progress })
    };
    let mut found: Vec<Unfinished> = files.iter().filter_map(download).collect();
    for path in staging_folders(folder)? {
        let (Some(name), Ok(metadata)) = (path.file_name().and_then(OsStr::to_str), path.symlink_metadata())
        else {
            continue;
        };
        let progress = resume_file::progress(&path.join(staging::RESUME), metadata.ino());
        let name = name.trim_start_matches('.').trim_end_matches(PART).to_owned();
        found.push(Unfinished { name, progress });
    }
    Ok(found)
}

/// Finds the part files directly in a folder.
///
/// # Errors
/// The folder cannot be read.
pub fn find(folder: &Path) -> Result<Leftovers, StoreError> {
    let files = file_names(folder)?;
    let mut found = Leftovers::default();
    for name in &files {
        let Some((part, resume)) = group_of(name, &files) else { continue };
        let resume: Vec<PathBuf> = resume.iter().map(|name| folder.join(name)).collect();
        // The hidden names of the previous version are unmistakable, `.NAME.part.resume` is not.
        let resume_name = folder.join(names::resume_name(&part));
        if resume == [resume_name] && !resume_file::is_ours(&resume[0]) {
            continue;
        }
        let path = folder.join(name);
        match unlocked(files.contains(&part).then(|| folder.join(&part))) {
            Ok(part) => found.unused.push(Leftover {
                allocated_bytes: part.iter().map(|(path, _)| path).chain(&resume).map(|p| allocated(p)).sum(),
                path,
                part,
                resume,
            }),
            Err(why) => found.kept.push((path, why)),
        }
    }
    for path in staging_folders(folder)? {
        let is_replacing = path.join(staging::JOURNAL).symlink_metadata().is_ok();
        match staging::open_locked(&path) {
            Ok(_) if is_replacing => {
                let why = "its files replace those of a folder; run the same command again to complete it";
                found.kept.push((path, why.to_owned()));
            }
            Ok(lock) => found.unused.push(Leftover {
                allocated_bytes: allocated_below(&path),
                part: Some((path.clone(), lock)),
                path,
                resume: Vec::new(),
            }),
            Err(why) => found.kept.push((path, why)),
        }
    }
    Ok(found)
}

/// The staging folders directly in a folder, by name.
fn staging_folders(folder: &Path) -> Result<BTreeSet<PathBuf>, StoreError> {
    let mut found = BTreeSet::new();
    for entry in folder.read_dir().map_err(error::io("read", folder))? {
        let entry = entry.map_err(error::io("read", folder))?;
        let name = entry.file_name();
        let is_named = name.as_bytes().starts_with(b".") && name.as_bytes().ends_with(PART.as_bytes());
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_named && is_folder && resume_file::is_ours(&entry.path().join(staging::RESUME)) {
            found.insert(entry.path());
        }
    }
    Ok(found)
}

/// Disk space of the files below a folder, bytes. Links are not followed.
fn allocated_below(folder: &Path) -> u64 {
    let mut left = vec![folder.to_owned()];
    let mut sum = 0u64;
    while let Some(path) = left.pop() {
        for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
            sum = sum.saturating_add(allocated(&entry.path()));
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
            }
        }
    }
    sum
}

/// The names of the regular files directly in a folder.
fn file_names(folder: &Path) -> Result<BTreeSet<String>, StoreError> {
    let mut files = BTreeSet::new();
    for entry in folder.read_dir().map_err(error::io("read", folder))? {
        let entry = entry.map_err(error::io("read", folder))?;
        // Names that are not UTF-8 are not ours.
        if let (Ok(name), true) =
            (entry.file_name().into_string(), entry.file_type().is_ok_and(|t| t.is_file()))
        {
            files.insert(name);
        }
    }
    Ok(files)
}

/// Name of a part file and the names of its resume files that exist, if `name` is the first file of
/// such a group: the part file, or else the first resume file.
fn group_of(name: &str, files: &BTreeSet<String>) -> Option<(String, Vec<String>)> {
    let group = |part: String, resume: Vec<String>| {
        let resume: Vec<String> = resume.into_iter().filter(|name| files.contains(name)).collect();
        let first = if files.contains(&part) { Some(&part) } else { resume.first() };
        (first.is_some_and(|first| first == name) && !resume.is_empty()).then_some((part, resume))
    };
    if let Some(part) = names::part_of_resume_name(name).filter(|part| part.ends_with(PART)) {
        return group(part.to_owned(), vec![name.to_owned()]);
    }
    if let Some(stem) = older_stem(name) {
        let endings = OLDER_ENDINGS.iter().chain([&OLDER_TEMPORARY]);
        let part = format!("{stem}{PART}");
        let mut resume: Vec<String> = endings.map(|ending| format!("{stem}.{ending}")).collect();
        resume.push(names::resume_name(&part));
        return group(part, resume);
    }
    match name.ends_with(PART) {
        true => group(name.to_owned(), vec![names::resume_name(name)]),
        false => None,
    }
}

/// `.NAME.ID`, if this is the name of a file of the previous version.
fn older_stem(name: &str) -> Option<&str> {
    let endings = OLDER_ENDINGS.iter().chain([&OLDER_TEMPORARY, &"part"]);
    let stem =
        endings.filter_map(|ending| name.strip_suffix(ending)?.strip_suffix('.')).min_by_key(|s| s.len())?;
    let (before, digits) = stem.rsplit_once('.')?;
    let is_id = digits.len() == OLDER_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    (is_id && before.len() > 1 && before.starts_with('.')).then_some(stem)
}

/// Locks a part file.
///
/// # Errors
/// The reason why it must be kept.
fn unlocked(part: Option<PathBuf>) -> Result<Option<(PathBuf, File)>, String> {
    let Some(path) = part else { return Ok(None) };
    let (file, _) = names::open_existing(&path).map_err(|error| error.to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(Some((path, file))),
        Err(TryLockError::WouldBlock) => Err("a program is downloading it".to_owned()),
        Err(TryLockError::Error(error)) => Err(format!("its lock cannot be read: {error}")),
    }
}

fn allocated(path: &Path) -> u64 {
    path.symlink_metadata().map_or(0, |metadata| metadata.blocks().saturating_mul(512))
}

impl Leftover {
    /// Removes the part file, then its resume files.
    ///
    /// # Errors
    /// A file cannot be removed. A part file that was renamed or replaced meanwhile is not an error.
    pub fn remove(self) -> Result<(), StoreError> {
        if let Some((path, file)) = &self.part {
            if !names::path_refers_to(file, path)? {
                return Ok(());
            }
            if path.is_dir() {
                return staging::remove_folder(path);
            }
            disk::remove(path)?;
        }
        self.resume.iter().try_for_each(|path| disk::remove(path).map(|_| ()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{ChunkIndex, Digest, Layout, Manifest};
    use crate::storage::{ChunkSink as _, PartFile};
    use std::sync::Arc;

    fn names(folder: &Path) -> Vec<String> {
        let name =
            |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<_> = folder.read_dir().unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn staging_folders_are_found_and_removed_unless_they_are_in_use_or_replace_files() {
        use crate::content::manifest::ItemKind;
        use crate::storage::{TreePart, TreeReceiveOptions};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let open = |name: &str| {
            let layout = Layout::uneven([5]).unwrap();
            let kind = ItemKind::Tree { index_bytes: 5, chunk_size: 65_536 };
            let manifest = Manifest::of_kind(kind, layout, vec![Digest::of(b"hello")]).unwrap();
            let part =
                TreePart::open(&path.join(name), Arc::new(manifest), TreeReceiveOptions::default()).unwrap();
            part.store(ChunkIndex(0), Digest([0; 32]), b"hello").unwrap();
            part.note().unwrap();
            part
        };
        std::fs::create_dir(path.join(".theirs.part")).unwrap();
        drop(open("left"));
        drop(open("replacing"));
        std::fs::write(path.join(".replacing.part/journal"), "").unwrap();
        let active = open("active");
        let listed = unfinished(path).unwrap();
        let names_of: Vec<&str> = listed.iter().map(|download| download.name.as_str()).collect();
        assert_eq!(names_of, ["active", "left", "replacing"]);
        assert_eq!(listed[1].progress.map(|(_, held, count)| (held, count)), Some((1, 1)));
        let found = find(path).unwrap();
        assert!(
            found
                .kept
                .iter()
                .any(|(path, why)| path.ends_with(".active.part") && why.contains("is downloading"))
        );
        assert!(
            found.kept.iter().any(|(path, why)| path.ends_with(".replacing.part") && why.contains("replace"))
        );
        assert_eq!(found.unused.len(), 1);
        assert!(found.unused[0].path.ends_with(".left.part") && found.unused[0].allocated_bytes > 0);
        found.unused.into_iter().for_each(|left| left.remove().unwrap());
        assert_eq!(names(path), [".active.part", ".replacing.part", ".theirs.part"]);
        drop(active);
    }

    #[test]
    fn only_unlocked_part_files_with_a_resume_file_are_found_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let open = |name: &str| {
            let manifest = Manifest::new(Layout::even(5, None).unwrap(), vec![Digest::of(b"hello")]).unwrap();
            let part = PartFile::open(&path.join(name), Arc::new(manifest)).unwrap();
            part.store(ChunkIndex(0), Digest([0; 32]), b"hello").unwrap();
            part
        };
        let theirs =
            ["film.part", "x.0123abcd.part", "a.resume", ".b.part.resume", ".c.part", "d", ".e.have"];
        theirs.iter().for_each(|name| std::fs::write(path.join(name), "theirs").unwrap());
        std::fs::create_dir(path.join("folder.part")).unwrap();
        // An older one, one whose part file is gone, and resume files without a part file.
        for name in [".o.0123abcd.part", ".o.0123abcd.have", ".o.0123abcd.note", ".p.0123abcd.have.new"] {
            std::fs::write(path.join(name), "ours").unwrap();
        }
        drop(open("gone"));
        std::fs::remove_file(path.join("gone.part")).unwrap();
        drop(open("left"));
        drop(open(".hidden"));
        let active = open("active");
        let before = names(path);
        let listed = unfinished(path).unwrap();
        let named: Vec<&str> = listed.iter().map(|download| download.name.as_str()).collect();
        assert_eq!(named, [".hidden", "o", "active", "left"]);
        assert_eq!(listed[3].progress.map(|(_, held, count)| (held, count)), Some((0, 1)));
        assert_eq!(listed[1].progress, None);
        let found = find(path).unwrap();
        let listed: Vec<_> =
            found.unused.iter().map(|left| left.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(
            listed,
            [".gone.part.resume", ".hidden.part", ".o.0123abcd.part", ".p.0123abcd.have.new", "left.part"]
        );
        assert!(found.unused.iter().all(|left| left.allocated_bytes > 0));
        assert_eq!(found.kept.len(), 1);
        assert!(found.kept[0].0.ends_with("active.part") && found.kept[0].1.contains("is downloading it"));
        assert_eq!(names(path), before);
        // A file that is replaced after it was found is not removed.
        std::fs::rename(path.join("left.part"), path.join("moved")).unwrap();
        std::fs::write(path.join("left.part"), "theirs").unwrap();
        found.unused.into_iter().for_each(|left| left.remove().unwrap());
        let mut kept: Vec<&str> = theirs.to_vec();
        kept.extend([
            "folder.part",
            "left.part",
            ".left.part.resume",
            "moved",
            "active.part",
            ".active.part.resume",
        ]);
        kept.sort_unstable();
        assert_eq!(names(path), kept);
        drop(active);
    }
}
