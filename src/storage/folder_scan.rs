//! One look at a plain folder: which of its files can be shared, and why others cannot.
//!
//! One `readdir` and one `stat` a file; no file is opened, so that neither a pipe nor a slow disk holds it up,
//! and nothing is remembered. Invariant: a file that [`scan`] gives is regular, has a name that any system
//! takes, is not hidden, and lies in the folder, also when links are followed.

use super::disk::Identity;
use super::error::{self, StoreError};
use crate::content::FileName;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// What a folder has. Subfolders and hidden names, which our own part files and temporary files have, are
/// not mentioned.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The files that can be shared.
    pub files: BTreeMap<FileName, Identity>,
    /// What looks like a file and cannot be shared, and why.
    pub skipped: BTreeMap<OsString, String>,
}

/// Looks at everything in a folder.
pub(super) fn scan(folder: &Path) -> Result<Scan, StoreError> {
    let root = fs::canonicalize(folder).map_err(error::io("open", folder))?;
    let mut scan = Scan::default();
    for entry in fs::read_dir(&root).map_err(error::io("read", folder))? {
        let name = entry.map_err(error::io("read", folder))?.file_name();
        match classify(&root, &name) {
            Ok(Some((name, identity))) => _ = scan.files.insert(name, identity),
            Ok(None) => {}
            Err(why) => _ = scan.skipped.insert(name, why),
        }
    }
    Ok(scan)
}

/// Looks at one name in a folder whose links have all been followed. `None` for what need not be mentioned;
/// the error says why a file is not shared.
pub(super) fn classify(root: &Path, name: &OsStr) -> Result<Option<(FileName, Identity)>, String> {
    if is_hidden(name) {
        return Ok(None);
    }
    let path = root.join(name);
    let metadata = match fs::symlink_metadata(&path) {
        // It vanished a moment ago.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
        Ok(metadata) if metadata.is_dir() => return Ok(None),
        Ok(metadata) if metadata.is_symlink() => follow(root, &path)?,
        Ok(metadata) => metadata,
    };
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let text = name.to_str().ok_or("the name is not UTF-8")?;
    let name = FileName::new(text).map_err(|error| error.to_string())?;
    match text.ends_with(".part") {
        true => Err("by its name it is an unfinished download".to_owned()),
        false => Ok(Some((name, Identity::of(&metadata)))),
    }
}

/// Looks at what a link leads to.
fn follow(root: &Path, link: &Path) -> Result<Metadata, String> {
    let real = fs::canonicalize(link).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "it is a link that leads nowhere".to_owned(),
        _ => error.to_string(),
    })?;
    let Ok(inside) = real.strip_prefix(root) else {
        return Err(format!("it is a link that leads out of the folder, to {}", real.display()));
    };
    if inside.iter().any(is_hidden) {
        return Err(format!("it is a link to a hidden file, {}", inside.display()));
    }
    fs::symlink_metadata(real).map_err(|error| error.to_string())
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}
