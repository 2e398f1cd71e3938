//! The prompt. To come: for now a member at a terminal just serves.

use super::BarWatch;
use crate::daemon::DaemonError;
use crate::daemon::member::Member;
use crate::net::Shutdown;
use std::sync::Arc;

/// Reads commands until the user quits.
///
/// # Errors
/// The member has ended.
pub fn run(member: &Member, _: &Arc<BarWatch>, _: &Shutdown) -> Result<(), DaemonError> {
    member.wait()
}
