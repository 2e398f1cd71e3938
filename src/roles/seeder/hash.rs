//! From a path to a complete file.

use crate::content::FileName;
use crate::net::Shutdown;
use crate::report::error::RoleError;
use crate::report::next_step::quoted;
use crate::report::watch::Watch;
use crate::storage::{CompleteFile, StoreError};
use std::io::ErrorKind;
use std::path::Path;

/// Hashes a file.
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
    let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    watch.begin(&format!("hashing {name}"), size, 0);
    let hashed = |bytes| watch.advance(bytes);
    let stop = || shutdown.is_stopped();
    let file = CompleteFile::publish(path, chunk_size, &hashed, &stop);
    watch.end();
    file.map_err(|error| explained(error, path))
}

/// Adds the next command to the two likely mistakes: a missing file, and a folder in place of a
/// file.
fn explained(error: StoreError, path: &Path) -> RoleError {
    let advice = match &error {
        StoreError::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
            "choose an existing file with: seeder -f FILE".to_owned()
        }
        StoreError::NotAFile(_) if path.is_dir() => format!(
            "share the files of a folder with: client -folder {} -transfer_port 7001 -name NAME --plain",
            quoted(&path.display().to_string())
        ),
        _ => return error.into(),
    };
    RoleError::from(error).with_advice(&advice)
}
