//! Scan of a plain folder: which files can be shared, and why the others cannot.
//!
//! One `readdir` per folder and one `stat` per file. No file is opened, so neither a pipe nor a
//! slow disk blocks the scan, and no state is kept. Invariant: each file in [`Scan::files`] is
//! regular, has a valid name, is not hidden, and lies inside the folder
//! after links have been resolved.

use super::disk::Identity;
use super::error::{self, StoreError};
use super::part::names;
use crate::content::FileName;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// The content of a folder. Subfolders and hidden names are left out, and so are our own part files;
/// their resume files and all temporary files are hidden.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The files that can be shared.
    pub files: BTreeMap<FileName, Identity>,
    /// Names of the files that are in [`SHAREABLE_FOLDER`].
    pub nested: BTreeSet<FileName>,
    /// Names that cannot be shared, with the reason.
    pub skipped: BTreeMap<OsString, String>,
}

/// Sub-folder whose files are shared under their own names, if the caller wants it.
pub(super) const SHAREABLE_FOLDER: &str = "shareable_files";

/// Scans a folder, and [`SHAREABLE_FOLDER`] in it if `nested`. A file of the folder itself hides one of the same name in the
/// sub-folder.
pub(super) fn scan(folder: &Path, nested: bool) -> Result<Scan, StoreError> {
    let root = fs::canonicalize(folder).map_err(error::io("open", folder))?;
    let mut scan = scan_one(&root, folder)?;
    let below = root.join(SHAREABLE_FOLDER);
    // A link would leave the folder.
    if !nested || !fs::symlink_metadata(&below).is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(scan);
    }
    let inner = scan_one(&below, &folder.join(SHAREABLE_FOLDER))?;
    let path = |name: &OsStr| Path::new(SHAREABLE_FOLDER).join(name).into_os_string();
    for (name, identity) in inner.files {
        if scan.files.contains_key(&name) {
            let reason = format!("{} has a file of the same name, which is shared", folder.display());
            scan.skipped.insert(path(OsStr::new(name.as_str())), reason);
        } else {
            scan.nested.insert(name.clone());
            scan.files.insert(name, identity);
        }
    }
    scan.skipped.extend(inner.skipped.into_iter().map(|(name, reason)| (path(&name), reason)));
    Ok(scan)
}

/// Names of the visible sub-folders of a folder, sorted; none if it cannot be read.
pub(super) fn subfolders(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let names = folders.map(|entry| entry.file_name()).filter(|name| !is_hidden(name));
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

fn scan_one(root: &Path, folder: &Path) -> Result<Scan, StoreError> {
    let mut scan = Scan::default();
    for entry in fs::read_dir(root).map_err(error::io("read", folder))? {
        let name = entry.map_err(error::io("read", folder))?.file_name();
        match classify(root, &name) {
            Ok(Some((name, identity))) => _ = scan.files.insert(name, identity),
            Ok(None) => {}
            Err(reason) => _ = scan.skipped.insert(name, reason),
        }
    }
    Ok(scan)
}

/// Classifies one name in a folder whose own path has no links. `None` if the name is to be
/// ignored.
///
/// # Errors
/// The reason why the file cannot be shared.
pub(super) fn classify(root: &Path, name: &OsStr) -> Result<Option<(FileName, Identity)>, String> {
    if is_hidden(name) {
        return Ok(None);
    }
    let path = root.join(name);
    let metadata = match fs::symlink_metadata(&path) {
        // The file was removed after `readdir`.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
        Ok(metadata) if metadata.is_dir() => return Ok(None),
        Ok(metadata) if metadata.is_symlink() => resolve_link(root, &path)?,
        Ok(metadata) => metadata,
    };
    if !metadata.is_file() {
        return Err("not a regular file".to_owned());
    }
    let text = name.to_str().ok_or("the name is not UTF-8")?;
    let name = FileName::new(text).map_err(|error| error.to_string())?;
    if text.ends_with(names::PART) && root.join(names::resume_name(text)).symlink_metadata().is_ok() {
        return Ok(None);
    }
    match refusal(text) {
        Some(reason) => Err(reason.to_owned()),
        None => Ok(Some((name, Identity::of(&metadata)))),
    }
}

/// The reason why no file of this name is shared, if there is one.
pub(super) fn refusal(name: &str) -> Option<&'static str> {
    match name {
        _ if is_hidden(OsStr::new(name)) => Some("its name begins with a dot"),
        _ if name.ends_with(names::PART) => Some("its name ends in .part, as an unfinished download's does"),
        _ => None,
    }
}

/// Metadata of the target of a link; an error if the target is outside the folder or hidden.
fn resolve_link(root: &Path, link: &Path) -> Result<Metadata, String> {
    let real = fs::canonicalize(link).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "the target of the link does not exist".to_owned(),
        _ => error.to_string(),
    })?;
    let Ok(inside) = real.strip_prefix(root) else {
        return Err(format!("the target of the link is outside the folder: {}", real.display()));
    };
    if inside.iter().any(is_hidden) {
        return Err(format!("the target of the link is hidden: {}", inside.display()));
    }
    fs::symlink_metadata(real).map_err(|error| error.to_string())
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}
