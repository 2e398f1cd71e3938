//! Record of the chunk files that this client wrote into a chunk folder.
//!
//! Only these files may be replaced or removed; every other file is the user's, regardless of its name.
//! The record is a hidden file with one line for each written file: size, SHA-256 and name. Lines
//! are appended and synced before the file gets its name. A torn, missing or untrusted record only
//! has the effect that files of this client are kept, too. Invariant: a file with a recorded name
//! and content was written by this client.

use super::super::disk;
use super::super::error::{self, StoreError};
use crate::content::{Digest, FileName, limits};
use rustix::fs::OFlags;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Name of the record in the chunk folder.
pub(super) const FILE: &str = ".shoal-written";
/// Permissions of the record, less the umask: a record that other users can write is not trusted.
const MODE: u32 = 0o644;
/// Contents remembered for each name: the one before a replacement and the one after it.
const CONTENTS_PER_NAME_MAX: usize = 2;
/// Lines without a use that are left in the record when the folder is opened.
const STALE_LINES_MAX: usize = 4_096;
/// Longest line, bytes: size, digest and name.
const LINE_BYTES_MAX: u64 = 96 + limits::FILE_NAME_MAX as u64;
/// Longest record that is read, bytes.
const RECORD_BYTES_MAX: u64 = 2 * limits::CHUNKS_MAX as u64 * LINE_BYTES_MAX;

/// Size and SHA-256 of a written file.
pub(super) type Content = (u64, Digest);

/// The record of one folder.
pub(super) struct WrittenFiles {
    path: PathBuf,
    files: HashMap<FileName, Vec<Content>>,
}

impl WrittenFiles {
    /// Reads the record of a folder that this process has locked. Logs why a record is not used.
    pub(super) fn read(root: &Path) -> Self {
        let mut written = Self { path: root.join(FILE), files: HashMap::new() };
        match written.read_lines() {
            Ok(lines) if lines > 2 * written.files.len() + STALE_LINES_MAX => {
                written.compact().err().into_iter().for_each(|error| log::warn!("{error}"));
            }
            Ok(_) => {}
            Err(error) => {
                log::warn!("{error}; all files in {} count as the user's", root.display());
                written.files.clear();
            }
        }
        written
    }

    /// Whether this client has written this content to a file of this name.
    pub(super) fn contains(&self, name: &FileName, content: Content) -> bool {
        self.files.get(name).is_some_and(|contents| contents.contains(&content))
    }

    /// Whether this client has ever written a file of this name and size.
    pub(super) fn may_contain(&self, name: &FileName, size: u64) -> bool {
        self.files.get(name).is_some_and(|contents| contents.iter().any(|(other, _)| *other == size))
    }

    /// Records files that are about to be written, durably.
    pub(super) fn add(&mut self, files: &[(FileName, Content)]) -> Result<(), StoreError> {
        if files.is_empty() {
            return Ok(());
        }
        // A crash may have torn the last line: begin a new one.
        let mut text = "\n".to_owned();
        files.iter().for_each(|(name, content)| push_line(&mut text, name, *content));
        if self.distrust_reason()?.is_some() {
            // Appended lines would not be trusted either.
            disk::remove(&self.path)?;
        }
        let mut options = OpenOptions::new();
        // Do not follow a link: it was not created by shoal.
        let is_new = self.path.symlink_metadata().is_err();
        options.append(true).create(true).mode(MODE).custom_flags(OFlags::NOFOLLOW.bits() as i32);
        let written = options.open(&self.path).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            disk::sync(&file)
        });
        written.map_err(error::write("write", &self.path, text.len() as u64))?;
        if is_new {
            disk::sync_folder(disk::folder_of(&self.path))?;
        }
        files.iter().for_each(|(name, content)| self.insert(name.clone(), *content));
        Ok(())
    }

    fn insert(&mut self, name: FileName, content: Content) {
        let contents = self.files.entry(name).or_default();
        contents.retain(|other| *other != content);
        contents.push(content);
        if contents.len() > CONTENTS_PER_NAME_MAX {
            contents.remove(0);
        }
    }

    /// Why the record on disk is not trusted, if it exists.
    fn distrust_reason(&self) -> Result<Option<&'static str>, StoreError> {
        match fs::symlink_metadata(&self.path) {
            Ok(metadata) if !metadata.is_file() => Ok(Some("it is not a regular file")),
            Ok(metadata) => Ok(disk::writable_by_others(&metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error::io("read the metadata of", &self.path)(error)),
        }
    }

    /// Reads all lines and returns their number. Invalid lines are skipped.
    fn read_lines(&mut self) -> Result<usize, StoreError> {
        if let Some(why) = self.distrust_reason()? {
            return Err(error::invalid_input("use", &self.path, why.to_owned()));
        }
        let opened = disk::open_as_file(OpenOptions::new().read(true), OFlags::NOFOLLOW, &self.path);
        let (file, stamp) = match opened {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(0),
            opened => opened?,
        };
        if stamp.size > RECORD_BYTES_MAX {
            let reason = format!("longer than {RECORD_BYTES_MAX} bytes");
            return Err(error::invalid_input("use", &self.path, reason));
        }
        let (mut reader, mut lines, mut line) = (BufReader::new(file), 0, Vec::new());
        loop {
            line.clear();
            let read = reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
            if read.map_err(error::io("read", &self.path))? == 0 {
                return Ok(lines);
            }
            lines += 1;
            if let Some((name, content)) = parse_line(&line) {
                self.insert(name, content);
            }
        }
    }

    /// Rewrites the record without the lines of files that no longer exist.
    fn compact(&mut self) -> Result<(), StoreError> {
        let folder = disk::folder_of(&self.path).to_owned();
        self.files.retain(|name, _| folder.join(name.as_str()).symlink_metadata().is_ok());
        let mut text = String::new();
        for (name, contents) in &self.files {
            contents.iter().for_each(|content| push_line(&mut text, name, *content));
        }
        disk::replace(&self.path, disk::temporary_for(&self.path, text.as_bytes(), true, MODE)?)?;
        disk::sync_folder(&folder)
    }
}

fn push_line(text: &mut String, name: &FileName, (size, digest): Content) {
    let _ = writeln!(text, "{size},{digest},{name}");
}

fn parse_line(line: &[u8]) -> Option<(FileName, Content)> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (size, rest) = line.split_once(',')?;
    let (digest, name) = rest.split_once(',')?;
    Some((FileName::new(name).ok()?, (size.parse().ok()?, digest.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use tempfile::TempDir;

    fn name(text: &str) -> FileName {
        FileName::new(text).unwrap()
    }

    fn content(text: &str) -> Content {
        (text.len() as u64, Digest::of(text.as_bytes()))
    }

    #[test]
    fn the_record_survives_a_restart_and_a_torn_line() {
        let folder = TempDir::new().unwrap();
        let mut written = WrittenFiles::read(folder.path());
        written.add(&[(name("a, b"), content("one")), (name("c"), content(""))]).unwrap();
        let path = folder.path().join(FILE);
        let mut torn = fs::read(&path).unwrap();
        torn.extend(b"3,77");
        fs::write(&path, torn).unwrap();
        let mut written = WrittenFiles::read(folder.path());
        assert!(written.contains(&name("a, b"), content("one")) && written.contains(&name("c"), content("")));
        assert!(
            !written.contains(&name("c"), content("one")) && !written.contains(&name("b"), content("one"))
        );
        assert!(written.may_contain(&name("c"), 0) && !written.may_contain(&name("c"), 3));
        written.add(&[(name("c"), content("two"))]).unwrap();
        let written = WrittenFiles::read(folder.path());
        assert!(written.contains(&name("c"), content("")) && written.contains(&name("c"), content("two")));
    }

    #[test]
    fn a_record_that_another_user_can_write_is_replaced() {
        let folder = TempDir::new().unwrap();
        let forged = format!("3,{},mine\n", Digest::of(b"one"));
        fs::write(folder.path().join(FILE), forged).unwrap();
        assert!(WrittenFiles::read(folder.path()).contains(&name("mine"), content("one")));
        fs::set_permissions(folder.path().join(FILE), fs::Permissions::from_mode(0o666)).unwrap();
        let mut written = WrittenFiles::read(folder.path());
        assert!(!written.contains(&name("mine"), content("one")));
        written.add(&[(name("a"), content("two"))]).unwrap();
        let written = WrittenFiles::read(folder.path());
        assert!(written.contains(&name("a"), content("two")) && written.files.len() == 1);
    }

    #[test]
    fn the_record_is_compacted_when_most_lines_are_stale() {
        let folder = TempDir::new().unwrap();
        let mut written = WrittenFiles::read(folder.path());
        fs::write(folder.path().join("kept"), "").unwrap();
        let lines: Vec<_> = (0..9_000).map(|number| (name("kept"), content(&number.to_string()))).collect();
        written.add(&lines).unwrap();
        written.add(&[(name("gone"), content("gone"))]).unwrap();
        let written = WrittenFiles::read(folder.path());
        assert!(written.contains(&name("kept"), content("8999")));
        assert_eq!(fs::read_to_string(folder.path().join(FILE)).unwrap().lines().count(), 2);
    }
}
