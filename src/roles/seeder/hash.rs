//! From a path to a complete file.

use crate::content::FileName;
use crate::net::Shutdown;
use crate::report::error::RoleError;
use crate::report::watch::Watch;
use crate::storage::{CompleteFile, Spool, StoreError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Hashes a file or block device. A FIFO or `-` (standard input) is read to its end first.
///
/// # Errors
/// The file cannot be read, changes meanwhile, or the shutdown.
pub(super) fn hash(
    path: &Path,
    name: &FileName,
    chunk_size: Option<u32>,
    watch: &dyn Watch,
    shutdown: &Shutdown,
) -> Result<CompleteFile, RoleError> {
    let hashed = |bytes| watch.advance(bytes);
    let stop = || shutdown.is_stopped();
    let spool = match Spool::is_needed(path) {
        true => Some(spool(path, name, watch, shutdown)?),
        false => None,
    };
    let size = match &spool {
        Some(spool) => spool.size(),
        None => std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
    };
    watch.begin(&format!("hashing {name}"), size, 0);
    let file = CompleteFile::publish_input(path, spool, chunk_size, &hashed, &stop);
    watch.end();
    file.map_err(explained)
}

/// Reads standard input or a FIFO to its end into a temporary file.
fn spool(path: &Path, name: &FileName, watch: &dyn Watch, shutdown: &Shutdown) -> Result<Spool, RoleError> {
    let folder = std::env::var_os("TMPDIR").filter(|folder| !folder.is_empty());
    let folder = folder.map_or_else(|| PathBuf::from("."), PathBuf::from);
    watch.begin(&format!("reading {name}"), 0, 0);
    let copied = |bytes| watch.advance(bytes);
    let spool = Spool::read(path, &folder, &copied, &|| shutdown.is_stopped());
    watch.end();
    Ok(spool?)
}

/// Adds the next command to the likely mistake, a missing file.
fn explained(error: StoreError) -> RoleError {
    let advice = match &error {
        StoreError::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
            "choose an existing file with: seeder -f FILE".to_owned()
        }
        _ => return error.into(),
    };
    RoleError::from(error).with_advice(&advice)
}
