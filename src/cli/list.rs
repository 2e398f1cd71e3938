//! `leecher --list`: the files that a tracker knows, as a table on standard output or as events.

use super::console::print_error;
use super::{json, table};
use crate::net::{Endpoint, Shutdown, Timeouts};
use crate::report::Fault;
use crate::report::RoleError;
use crate::report::events::{self, Event, FileEvent, FileState};
use crate::report::next_step;
use crate::tracker_client::lookup;
use std::io::{self, Write};

/// Prints the list of files, with all digits of each id if `long`. An empty list is reported on standard error only.
///
/// # Errors
/// The tracker does not respond.
pub fn run(tracker: &Endpoint, long: bool, timeouts: Timeouts, shutdown: &Shutdown) -> Result<(), RoleError> {
    let listed = lookup::list(tracker, timeouts, shutdown);
    let found = match listed {
        Ok(found) => found,
        Err(_) if shutdown.is_stopped() => return Err(crate::download::finder::interrupted()),
        Err(error @ lookup::RequestError::NotATracker(_)) => {
            return Err(RoleError::from_error(Fault::Usage, error));
        }
        Err(error) => {
            let advice = next_step::after_failure("tracker", tracker, &error);
            let text = format!("cannot get the list of files from the tracker on {tracker}: {error}{advice}");
            return Err(RoleError::new(Fault::Unreachable, text).with_source(error));
        }
    };
    if found.is_empty() {
        let advice = next_step::share_with_tracker(tracker);
        print_error(&format!("the tracker on {tracker} knows no files; {advice}"));
        return Ok(());
    }
    if json::is_active() {
        let event = |file| Event::File(FileEvent::of_found(FileState::Listed, file));
        found.iter().for_each(|file| events::emit(|| event(file)));
        return Ok(());
    }
    // A reader such as `head` may close the pipe early: a write error is ignored.
    let _ = io::stdout().lock().write_all(table::files(&found, long).as_bytes());
    Ok(())
}
