//! `leecher --clean`: lists the part files that interrupted downloads have left, and removes them.

use super::console::print_error;
use super::line::escaped;
use super::{confirm, json};
use crate::content::fmt::{counted, size};
use crate::net::Shutdown;
use crate::report::RoleError;
use crate::report::events::{self, Event};
use crate::storage::leftovers;
use std::io::{self, Write as _};
use std::path::Path;

/// Longest path that is shown whole, bytes.
const PATH_BYTES_MAX: usize = 4096;

/// Lists the part files of a folder that no program uses, and removes them after a confirmation.
///
/// # Errors
/// The folder cannot be read, the removal is not confirmed, or a file cannot be removed.
pub fn run(folder: &Path, yes: bool, shutdown: &Shutdown) -> Result<(), RoleError> {
    let found = leftovers::find(folder)?;
    for (path, why) in &found.kept {
        log::info!("{} is kept: {why}", path.display());
    }
    if found.unused.is_empty() {
        print_error(&format!("{} has no unused part files", folder.display()));
        return Ok(());
    }
    let lines: String = found
        .unused
        .iter()
        .map(|left| {
            format!("{:>10}  {}\n", size(left.allocated_bytes), escaped(&left.path.display(), PATH_BYTES_MAX))
        })
        .collect();
    for left in &found.unused {
        events::emit(|| Event::PartFile { path: left.path.clone(), bytes: left.allocated_bytes });
    }
    if !json::is_active() {
        // A reader such as `head` may close the pipe early: a write error is ignored.
        let _ = io::stdout().lock().write_all(lines.as_bytes());
    }
    let bytes = found.unused.iter().map(|left| left.allocated_bytes).sum();
    let count = counted(found.unused.len() as u64, "part file");
    confirm::removal(yes)(&format!("this removes {count}, {}", size(bytes)), shutdown)?;
    found.unused.into_iter().try_for_each(|left| left.remove())?;
    log::info!("removed {count}, {}", size(bytes));
    Ok(())
}
