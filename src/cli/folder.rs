//! The two kinds of folder that a client takes: chunk folders and plain folders.

use crate::content::local_chunks;
use crate::report::Fault;
use crate::report::RoleError;
use crate::report::next_step::quoted;
use std::path::Path;

/// The kind of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FolderKind {
    /// It contains a `local_chunks.txt`.
    Chunks,
    /// Any other folder.
    Plain,
}

/// Determines the kind of a folder.
///
/// # Errors
/// The path does not exist, or is a file. The text names a command that fixes it.
pub fn kind(folder: &Path) -> Result<FolderKind, RoleError> {
    let shown = folder.display();
    let path = quoted(&shown.to_string());
    let text = match folder.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = format!(
                "folder {shown} not found; create it with: mkdir -p {path} (or choose another with -folder PATH)"
            );
            return Err(RoleError::new(Fault::FileAccess, text).with_source(error));
        }
        Ok(metadata) if !metadata.is_dir() => {
            format!("{shown} is a file, not a folder; share a single file with: seeder -f {path}")
        }
        _ => {
            let has_list = folder.join(local_chunks::FILE).symlink_metadata().is_ok();
            return Ok(if has_list { FolderKind::Chunks } else { FolderKind::Plain });
        }
    };
    Err(RoleError::new(Fault::FileAccess, text))
}

/// The error for a plain folder without a flag that says how to share it.
pub fn sharing_mode_missing(folder: &Path, port: u16, name: &str) -> RoleError {
    let list = folder.join(local_chunks::FILE);
    let text = format!(
        "{} not found, so {} is a plain folder; share it through a tracker with: client -folder {} -transfer_port \
         {port} -name {name} --plain (or through a manager with --manager HOST:PORT instead of --plain). To download a \
         chunk set into it, write the line N,{last} to {}, with the number of chunks as N: this one line is enough",
        list.display(),
        folder.display(),
        quoted(&folder.display().to_string()),
        local_chunks::FILE,
        last = local_chunks::LAST,
    );
    RoleError::new(Fault::FileAccess, text)
}

/// The error for a chunk folder with flags of a plain folder.
pub fn plain_flags_refused(folder: &Path) -> RoleError {
    let text = format!(
        "{} contains a {} and is a chunk folder; --manager, --plain, --volunteer, --get, --all and \
         --on-complete are for plain folders: \
         omit them, or choose another folder with -folder PATH",
        folder.display(),
        local_chunks::FILE
    );
    RoleError::new(Fault::Usage, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_with_a_chunk_list_is_a_chunk_folder() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(kind(place.path()).unwrap(), FolderKind::Plain);
        let list = place.path().join(local_chunks::FILE);
        std::fs::write(&list, "1,LASTCHUNK\n").unwrap();
        assert_eq!(kind(place.path()).unwrap(), FolderKind::Chunks);
        let error = kind(&list).unwrap_err();
        assert!(error.text.contains("share a single file with: seeder -f "), "{error}");
        let error = kind(&place.path().join("no folder")).unwrap_err();
        assert!(error.text.contains("create it with: mkdir -p '"), "{error}");
    }
}
