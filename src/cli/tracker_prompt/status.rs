//! `tracker status` and `manager status`: the peers, files, volunteers and chunk sets of a running program on this host.

use super::show;
use crate::cli::json;
use crate::net::{Endpoint, Shutdown};
use crate::report::Fault;
use crate::report::RoleError;
use crate::report::events::{self, Event};
use crate::report::next_step;
use crate::tracker_client::lookup;
use std::io::{self, Write};

/// Prints the status of a program (`role`) on standard output: as tables, with whole ids if `long`, or with `--json` as an event.
///
/// # Errors
/// The program does not respond, or refuses.
pub fn run(role: &str, address: &Endpoint, long: bool, shutdown: &Shutdown) -> Result<(), RoleError> {
    let result = lookup::status(address, shutdown);
    let status = result.map_err(|error| {
        let advice = next_step::after_failure(role, address, &error);
        let text = format!("cannot get the status of the {role} on {address}: {error}{advice}");
        RoleError::new(Fault::Unreachable, text).with_source(error)
    })?;
    if json::is_active() {
        events::emit(|| Event::Status(Box::new(status)));
        return Ok(());
    }
    // A reader such as `head` may close the pipe early: a write error is ignored.
    let _ = io::stdout().lock().write_all(show::all(&status, long).as_bytes());
    Ok(())
}
