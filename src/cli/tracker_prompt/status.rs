//! `tracker status` and `manager status`: the peers, files, volunteers and chunk sets of a running program on this host.

use super::show;
use crate::net::{Endpoint, Shutdown};
use crate::report::Fault;
use crate::report::RoleError;
use crate::report::next_step;
use crate::tracker_client::lookup;
use std::io::{self, Write};

/// Prints the status of a program (`role`) on standard output: as tables, with whole ids if `long`, or as the JSON that it sent.
///
/// # Errors
/// The program does not respond, or refuses.
pub fn run(
    role: &str,
    address: &Endpoint,
    json: bool,
    long: bool,
    shutdown: &Shutdown,
) -> Result<(), RoleError> {
    let result = lookup::status(address, shutdown);
    let status = result.map_err(|error| {
        let advice = next_step::after_failure(role, address, &error);
        let text = format!("cannot get the status of the {role} on {address}: {error}{advice}");
        RoleError::new(Fault::Unreachable, text).with_source(error)
    })?;
    let text = match json {
        true => {
            let text = serde_json::to_string_pretty(&status).map_err(io::Error::from)?;
            format!("{text}\n")
        }
        false => show::all(&status, long),
    };
    // A reader such as `head` may close the pipe early: a write error is ignored.
    let _ = io::stdout().lock().write_all(text.as_bytes());
    Ok(())
}
