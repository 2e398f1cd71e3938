//! Splits a file into chunk folders, and joins the chunks of a complete folder into a file.

use super::disk;
use super::error::{self, StoreError};
use super::{ChunkFolder, ChunkSource};
use crate::content::limits::CHUNKS_MAX;
use crate::content::local_chunks::{self, LocalChunks};
use crate::content::{ChunkIndex, FileName};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Bytes that are compared or copied at a time.
const BLOCK_BYTES: usize = 256 * 1024;

/// Splits a file into `parts` chunks of equal size (the first ones may be a byte longer), and writes each chunk into two
/// consecutive folders: chunk 1 into the last and the first, chunk 2 into the first and the second. The list of a folder is
/// written after its chunks.
///
/// # Errors
/// The file cannot be read, there are fewer than two folders, one occurs twice or is not empty (nothing is written
/// then), or a folder cannot be written to.
pub fn split(file: &Path, parts: u32, folders: &[PathBuf]) -> Result<(), StoreError> {
    let (source, stamp) = disk::open_regular(file)?;
    let refuse = |reason: String| Err(error::invalid_input("split", file, reason));
    if folders.len() < 2 {
        return refuse("each chunk is stored in two folders: name at least two".to_owned());
    }
    if parts == 0 || parts > CHUNKS_MAX {
        return refuse(format!("a set has 1 to {CHUNKS_MAX} chunks, not {parts}"));
    }
    let size = stamp.size;
    let folders = empty_folders(folders)?;
    let mut lists = vec![BTreeMap::new(); folders.len()];
    let mut source = source;
    for index in 0..parts {
        let (from, to) = (start_of(size, parts, index), start_of(size, parts, index + 1));
        let chunk = ChunkIndex(index);
        let second = index as usize % folders.len();
        let first = (second + folders.len() - 1) % folders.len();
        let name = FileName::new(format!("chunk_{chunk}"))
            .map_err(|error| error::invalid_input("split", file, error.to_string()))?;
        source.seek(SeekFrom::Start(from)).map_err(error::io("read", file))?;
        let written = folders[first].join(name.as_str());
        let copied = write_new(&written, &mut (&source).take(to - from))?;
        if copied != to - from {
            return Err(StoreError::Changed(file.to_owned()));
        }
        // From the first copy: both are equal even if the file is changed meanwhile.
        let mut again = File::open(&written).map_err(error::io("read", &written))?;
        write_new(&folders[second].join(name.as_str()), &mut again)?;
        for folder in [first, second] {
            lists[folder].insert(chunk, name.clone());
        }
    }
    for (folder, files) in folders.iter().zip(lists) {
        let list = LocalChunks { count: parts, files }.render();
        write_new(&folder.join(local_chunks::FILE), &mut list.as_bytes())?;
        disk::sync_folder(folder)?;
    }
    Ok(())
}

/// Offset at which a chunk starts; that of the chunk after the last is the size of the file.
fn start_of(size: u64, parts: u32, index: u32) -> u64 {
    let (parts, index) = (u64::from(parts), u64::from(index));
    size / parts * index + index.min(size % parts)
}

/// Creates the folders. Checks first that none has entries or occurs twice.
fn empty_folders(folders: &[PathBuf]) -> Result<Vec<PathBuf>, StoreError> {
    let mut known = BTreeSet::new();
    for folder in folders {
        match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error::io("open", folder)(error)),
            Ok(mut entries) => {
                if entries.next().is_some() {
                    let reason = "the folder is not empty".to_owned();
                    return Err(error::invalid_input("split into", folder, reason));
                }
            }
        }
    }
    let mut created = Vec::new();
    for folder in folders {
        fs::create_dir_all(folder).map_err(error::io("create", folder))?;
        let root = fs::canonicalize(folder).map_err(error::io("open", folder))?;
        if !known.insert(root.clone()) {
            return Err(error::invalid_input("split into", folder, "the folder is named twice".to_owned()));
        }
        created.push(root);
    }
    Ok(created)
}

/// Writes a file that does not exist yet, durably. Returns its length.
fn write_new(path: &Path, bytes: &mut dyn Read) -> Result<u64, StoreError> {
    let mut file = File::create_new(path).map_err(error::io("create", path))?;
    let copied = io::copy(bytes, &mut file).map_err(error::write("write", path, 0))?;
    disk::sync(&file).map_err(error::write("write", path, 0))?;
    Ok(copied)
}

/// Writes the chunks of a complete folder into one file, durably. A file with this content is left as it is.
///
/// # Errors
/// [`StoreError::Exists`] if a different file is there. A chunk is missing or was changed, or the file cannot be written.
pub fn join(folder: &ChunkFolder, path: &Path) -> Result<(), StoreError> {
    match File::open(path) {
        Ok(present) => return compare(folder, path, &present),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error::io("open", path)(error)),
    }
    let mut file = disk::temporary(path, b"", false)?;
    for_each_block(folder, &mut |block| {
        io::Write::write_all(&mut file, block).map_err(error::write("write", path, 0))
    })?;
    disk::sync(file.as_file()).map_err(error::write("write", path, 0))?;
    match file.persist_noclobber(path) {
        Ok(_) => disk::sync_folder(disk::folder_of(path)),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            Err(StoreError::Exists(path.to_owned()))
        }
        Err(error) => Err(error::io("rename a file to", path)(error.error)),
    }
}

/// Compares the chunks with a file.
fn compare(folder: &ChunkFolder, path: &Path, present: &File) -> Result<(), StoreError> {
    let differs = || StoreError::Exists(path.to_owned());
    let metadata = present.metadata().map_err(error::io("read the metadata of", path))?;
    if !metadata.is_file() {
        return Err(differs());
    }
    let (mut at, mut other) = (0, vec![0; BLOCK_BYTES]);
    for_each_block(folder, &mut |block| {
        let other = &mut other[..block.len()];
        present.read_exact_at(other, at).map_err(|_| differs())?;
        at += block.len() as u64;
        if other == block { Ok(()) } else { Err(differs()) }
    })?;
    if at == metadata.len() { Ok(()) } else { Err(differs()) }
}

/// Calls a function for each block of all chunks, in order.
fn for_each_block(
    folder: &ChunkFolder,
    then: &mut dyn FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut buffer = vec![0; BLOCK_BYTES];
    for index in (0..folder.count()).map(ChunkIndex) {
        let chunk = folder.stored(index)?;
        let (mut offset, end) = (chunk.offset, chunk.offset + chunk.length);
        while offset < end {
            let length = (end - offset).min(buffer.len() as u64) as usize;
            let block = &mut buffer[..length];
            chunk.file.read_exact_at(block, offset).map_err(error::io("read", folder.path()))?;
            then(block)?;
            offset += length as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::verify::VerifyCallbacks;

    #[test]
    fn chunks_cover_the_file_and_lie_in_two_consecutive_folders() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        fs::write(&file, "abcdefgh").unwrap();
        let folders = ["f1", "f2", "f3"].map(|name| place.path().join(name));
        split(&file, 3, &folders).unwrap();
        for (folder, list) in
            folders.iter().zip(["1,chunk_1\n2,chunk_2", "2,chunk_2\n3,chunk_3", "1,chunk_1\n3,chunk_3"])
        {
            let found = fs::read_to_string(folder.join(local_chunks::FILE)).unwrap();
            assert_eq!(found, format!("{list}\n3,LASTCHUNK\n"));
        }
        let chunks = [(0, 1, "abc"), (2, 1, "abc"), (0, 2, "def"), (1, 2, "def"), (1, 3, "gh"), (2, 3, "gh")];
        for (folder, number, content) in chunks {
            assert_eq!(fs::read_to_string(folders[folder].join(format!("chunk_{number}"))).unwrap(), content);
        }
    }

    #[test]
    fn folders_with_entries_and_repeated_folders_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        fs::write(&file, "abc").unwrap();
        let [full, new] = ["full", "new"].map(|name| place.path().join(name));
        fs::create_dir(&full).unwrap();
        fs::write(full.join("mine"), "x").unwrap();
        let text = |folders: &[PathBuf], parts| split(&file, parts, folders).unwrap_err().to_string();
        assert!(text(&[new.clone(), full.clone()], 2).contains("the folder is not empty"));
        assert!(!new.exists(), "nothing is written");
        assert!(text(std::slice::from_ref(&new), 2).contains("at least two"));
        assert!(text(&[new.clone(), place.path().join("./new")], 2).contains("named twice"));
        assert!(text(&[new.clone(), full], 0).contains("1 to"));
    }

    #[test]
    fn joined_file_is_the_whole_and_a_different_file_is_kept() {
        let place = tempfile::tempdir().unwrap();
        let list = "1,a\n2,b\n3,c\n3,LASTCHUNK\n";
        for (name, content) in [("local_chunks.txt", list), ("a", "one"), ("b", ""), ("c", "three")] {
            fs::write(place.path().join(name), content).unwrap();
        }
        let folder = ChunkFolder::open(place.path(), VerifyCallbacks::NONE).unwrap();
        let whole = place.path().join("whole");
        join(&folder, &whole).unwrap();
        assert_eq!(fs::read_to_string(&whole).unwrap(), "onethree");
        join(&folder, &whole).unwrap();
        for different in ["onethref", "onethree ", "onethre"] {
            fs::write(&whole, different).unwrap();
            assert!(matches!(join(&folder, &whole), Err(StoreError::Exists(_))), "{different}");
            assert_eq!(fs::read_to_string(&whole).unwrap(), different);
        }
    }
}
