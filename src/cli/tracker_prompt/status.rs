//! `tracker status`: the volunteers, files and chunk sets of a running tracker on this host.

use super::show;
use crate::net::{Endpoint, Shutdown};
use crate::report::Fault;
use crate::report::RoleError;
use crate::report::next_step;
use crate::tracker_client::lookup;
use std::io::{self, Write};

/// Prints the status on standard output: as tables, or as the JSON that the tracker sent.
///
/// # Errors
/// The tracker does not respond, or refuses.
pub fn run(tracker: &Endpoint, json: bool, shutdown: &Shutdown) -> Result<(), RoleError> {
    let result = lookup::status(tracker, shutdown);
    let status = result.map_err(|error| {
        let advice = next_step::after_failure("tracker", tracker, &error);
        let text = format!("cannot get the status of the tracker on {tracker}: {error}{advice}");
        RoleError::new(Fault::Unreachable, text).with_source(error)
    })?;
    let text = match json {
        true => {
            let text = serde_json::to_string_pretty(&status).map_err(io::Error::from)?;
            format!("{text}\n")
        }
        // A tracker without files has no volunteers either.
        false if status.replicas == 0 => show::sets(&status),
        false => {
            let tables = [show::status(&status), show::volunteers(&status), show::files(&status)];
            format!("{}\n{}", tables.join("\n"), show::sets(&status))
        }
    };
    // A reader such as `head` may close the pipe early: a write error is ignored.
    let _ = io::stdout().lock().write_all(text.as_bytes());
    Ok(())
}
