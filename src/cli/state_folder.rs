//! Folder for what the programs remember about this user.

use std::path::PathBuf;

/// Folder of this user's records of the stores of volunteers, inside the state folder.
const STORES: &str = "stores";

/// `$XDG_STATE_HOME/shoal`, or `~/.local/state/shoal`; `None` without a home folder. It need not exist.
///
/// Relative paths in the variables are ignored, as the XDG Base Directory Specification demands.
pub fn state_folder() -> Option<PathBuf> {
    let absolute =
        |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("shoal"))
}

/// The folder with the records of this user's stores.
pub fn store_records() -> Option<PathBuf> {
    state_folder().map(|folder| folder.join(STORES))
}
