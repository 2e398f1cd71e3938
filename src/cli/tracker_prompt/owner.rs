//! Commands of the owner from the command line, such as `tracker approve`: clients of the control socket.

use super::show;
use crate::cli::json;
use crate::net::Shutdown;
use crate::report::events::{self, Event};
use crate::report::{Fault, RoleError};
use crate::swarm::command::{Answer, Command, Refusal, Verification};
use crate::tracker::control::{self, ControlError};
use std::io::{self, Write as _};
use std::path::Path;

/// Sends a command to the tracker that runs with a state folder, and prints its answer.
///
/// # Errors
/// No tracker runs with this folder, or it refused the command, or a verification did not prove all wanted copies.
pub fn run(state: &Path, command: &Command, shutdown: &Shutdown) -> Result<(), RoleError> {
    let answer = control::send(state, command, shutdown).map_err(|error| {
        let fault = match &error {
            ControlError::NotRunning { .. } => Fault::Unreachable,
            ControlError::Access { .. } => Fault::FileAccess,
            ControlError::Interrupted => Fault::Interrupted,
            ControlError::Closed(_) => Fault::Other,
        };
        RoleError::from_error(fault, error)
    })?;
    let Some(fault) = fault(&answer) else {
        if json::is_active() {
            events::emit(|| Event::Answer(answer));
            return Ok(());
        }
        // A reader such as `head` may close the pipe early: a write error is ignored.
        let _ = io::stdout().lock().write_all(show::answer(&answer).as_bytes());
        return Ok(());
    };
    Err(failure(fault, answer))
}

/// The fault that an answer reports; `None` if the command was carried out.
pub(super) fn fault(answer: &Answer) -> Option<Fault> {
    Some(match answer {
        Answer::Status { .. }
        | Answer::Peers(_)
        | Answer::Done { .. }
        | Answer::Verified { result: Verification::Proven, .. } => return None,
        Answer::Verified { result: Verification::TooFew, .. } => Fault::ChunksMissing,
        Answer::Verified { result: Verification::Corrupt, .. } => Fault::VerificationFailed,
        Answer::Confirm { .. } => Fault::Usage,
        Answer::Refused { why, .. } => match why {
            Refusal::NotFound => Fault::NotFound,
            Refusal::Ambiguous => Fault::Usage,
            Refusal::State | Refusal::Failed => Fault::Other,
        },
    })
}

/// The error for an answer that reports a fault.
pub(super) fn failure(fault: Fault, answer: Answer) -> RoleError {
    let error = RoleError::new(fault, show::answer(&answer).trim_end());
    match answer {
        Answer::Confirm { .. } => error.with_advice("confirm with --yes"),
        _ => error,
    }
}
