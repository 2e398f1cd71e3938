//! Lookup of the files that an argument selects: asks for the list of files, and waits until one matches.

use crate::content::limits::URGENT_LOOKUP_INTERVAL;
use crate::download::finder::{Finder, interrupted};
use crate::net::{Shutdown, running_time};
use crate::report::error::{Fault, RoleError};
use crate::tracker_client::announcer::Outage;
use crate::tracker_client::lookup::Query;
use crate::tracker_client::selection::{Item, Wanted};
use std::time::Duration;

/// How long a selection waits, and the command that lists files.
pub struct SelectionWait<'a> {
    /// Time to wait for the tracker or manager and for a first match.
    pub wait_timeout: Duration,
    /// Command that lists the offered files.
    pub list: &'a str,
}

/// The files that an argument selects: at least one.
///
/// # Errors
/// No file matches, no answer within the wait timeout, or the shutdown.
pub fn select(
    item: &Item,
    finder: &mut dyn Finder,
    outage: Outage,
    wait: &SelectionWait<'_>,
    shutdown: &Shutdown,
) -> Result<Vec<Wanted>, RoleError> {
    if let Some(wanted) = item.only() {
        return Ok(vec![wanted]);
    }
    let waiting = format!(
        "waiting {} s for it (--wait 0 ends at once)",
        crate::content::fmt::seconds(wait.wait_timeout)
    );
    let mut outage = outage.with_wait(wait.wait_timeout, &waiting);
    let (mut waited, mut is_announced) = (Duration::ZERO, false);
    loop {
        let started = running_time();
        let pause = match finder.find(&Query::default(), shutdown) {
            Ok(files) => {
                let wanted = item.select(&files);
                if !wanted.is_empty() {
                    return Ok(wanted);
                }
                let text = match item {
                    Item::All => "no files found: no peer offers any".to_owned(),
                    _ => format!("no file matches {item}"),
                };
                let remaining = wait.wait_timeout.saturating_sub(waited);
                if remaining.is_zero() && !shutdown.is_stopped() {
                    let error = RoleError::new(Fault::NotFound, text);
                    return Err(error.with_advice(&format!("list the offered files with: {}", wait.list)));
                }
                if !std::mem::replace(&mut is_announced, true) {
                    log::warn!("{text}; {waiting}");
                }
                URGENT_LOOKUP_INTERVAL.min(remaining)
            }
            Err(_) if shutdown.is_stopped() => Duration::ZERO,
            Err(error) => outage.failed(started, error)?,
        };
        if shutdown.wait(pause) {
            return Err(interrupted());
        }
        waited += running_time().saturating_sub(started);
    }
}
