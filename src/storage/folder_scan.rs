//! Scan of a plain folder: which files and folders in it can be shared, and why the others cannot.
//!
//! One `readdir` per folder, at any depth, and one `stat` per entry. No file is opened, so neither a pipe nor a
//! slow disk blocks the scan, and no state is kept. Invariant: each item in [`Scan::items`] is a regular file or a
//! folder, has a valid name, is not hidden, and lies inside the folder after links have been resolved.

use super::disk::Identity;
use super::error::{self, StoreError};
use super::part::names;
use super::shared_folder::ItemState;
use super::tree::ScanOptions;
use crate::content::FileName;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// The content of a folder. Hidden names are left out, and so are our own part files;
/// their resume files and all temporary files are hidden.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The files and folders that can be shared.
    pub items: BTreeMap<FileName, ItemState>,
    /// Names of the items that are in [`SHAREABLE_FOLDER`].
    pub nested: BTreeSet<FileName>,
    /// Names that cannot be shared, with the reason.
    pub skipped: BTreeMap<OsString, String>,
}

/// Sub-folder that is not an item: its files and folders are, if the caller wants it.
pub(super) const SHAREABLE_FOLDER: &str = "shareable_files";

/// Scans a folder, and [`SHAREABLE_FOLDER`] in it if `nested`. A file of the folder itself hides one of the same name in the
/// sub-folder.
pub(super) fn scan(folder: &Path, nested: bool, options: &ScanOptions) -> Result<Scan, StoreError> {
    let root = fs::canonicalize(folder).map_err(error::io("open", folder))?;
    let mut scan = scan_one(&root, folder, options)?;
    let below = root.join(SHAREABLE_FOLDER);
    // A link would leave the folder.
    if !nested || !fs::symlink_metadata(&below).is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(scan);
    }
    let inner = scan_one(&below, &folder.join(SHAREABLE_FOLDER), options)?;
    let path = |name: &OsStr| Path::new(SHAREABLE_FOLDER).join(name).into_os_string();
    for (name, state) in inner.items {
        if scan.items.contains_key(&name) {
            let reason = format!("{} has a file of the same name, which is shared", folder.display());
            scan.skipped.insert(path(OsStr::new(name.as_str())), reason);
        } else {
            scan.nested.insert(name.clone());
            scan.items.insert(name, state);
        }
    }
    scan.skipped.extend(inner.skipped.into_iter().map(|(name, reason)| (path(&name), reason)));
    Ok(scan)
}

fn scan_one(root: &Path, folder: &Path, options: &ScanOptions) -> Result<Scan, StoreError> {
    let mut scan = Scan::default();
    for entry in fs::read_dir(root).map_err(error::io("read", folder))? {
        let name = entry.map_err(error::io("read", folder))?.file_name();
        match classify(root, &name, options) {
            Ok(Some((name, state))) => _ = scan.items.insert(name, state),
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
/// The reason why the item cannot be shared.
pub(super) fn classify(
    root: &Path,
    name: &OsStr,
    options: &ScanOptions,
) -> Result<Option<(FileName, ItemState)>, String> {
    if is_hidden(name) {
        return Ok(None);
    }
    let path = root.join(name);
    let metadata = match fs::symlink_metadata(&path) {
        // The file was removed after `readdir`.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
        Ok(metadata) if metadata.is_dir() && name == SHAREABLE_FOLDER => return Ok(None),
        Ok(metadata) if metadata.is_symlink() => match resolve_link(root, &path)? {
            target if target.is_dir() => return Err("a link to a folder".to_owned()),
            target => target,
        },
        Ok(metadata) => metadata,
    };
    if !metadata.is_file() && !metadata.is_dir() {
        return Err("not a regular file or folder".to_owned());
    }
    let text = name.to_str().ok_or("the name is not UTF-8")?;
    let name = FileName::new(text).map_err(|error| error.to_string())?;
    if text.ends_with(names::PART) && root.join(names::resume_name(text)).symlink_metadata().is_ok() {
        return Ok(None);
    }
    match refusal(text) {
        Some(reason) => Err(reason.to_owned()),
        None if metadata.is_dir() => {
            let state = ItemState::of_folder(&path, options).map_err(|error| error.to_string())?;
            Ok(Some((name, state)))
        }
        None => Ok(Some((name, ItemState::File(Identity::of(&metadata))))),
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
