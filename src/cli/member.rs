//! A client with a plain folder: downloads the files of `--get`, or runs the prompt, or only serves.

use super::prompt::conduct::has_terminal;
use super::{BarWatch, signals};
use crate::content::words::counted;
use crate::content::{FileId, FileName};
use crate::daemon::lookup::Query;
use crate::daemon::member::{DownloadRequest, Member, MemberConfig};
use crate::daemon::volunteer::Volunteer;
use crate::daemon::{DaemonError, Fault, next_step};
use crate::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The task of a client with a plain folder.
#[derive(Debug, Clone)]
pub struct Task {
    /// Files to download, by name or id.
    pub get: Vec<String>,
    /// Keeps serving after the downloads.
    pub stay: bool,
    /// Maximum time to wait for a peer that offers the files.
    pub wait: Duration,
    /// Waits at the end until the replicas in this volunteer have been copied to others.
    pub drain_on_exit: bool,
}

/// Minimum interval between two log lines about the progress of a drain.
const SAY_AGAIN: Duration = Duration::from_secs(1);

/// Runs a member until its task is done, its user quits, or the shutdown.
///
/// # Errors
/// The client cannot start, or a download failed.
pub fn run(
    config: MemberConfig,
    task: &Task,
    watch: &Arc<BarWatch>,
    shutdown: &Shutdown,
) -> Result<(), DaemonError> {
    let wishes = task.get.iter().map(|text| wish(text, task.wait)).collect::<Result<Vec<_>, _>>()?;
    let (name, manager, tracker) = (config.name.clone(), config.manager, config.tracker);
    let member = Member::start(config, watch.clone(), shutdown)?;
    // With something to do before the end, what asks for the end is not yet the end.
    let leaving = if task.drain_on_exit { shutdown.child() } else { shutdown.clone() };
    if task.drain_on_exit {
        let leave = leaving.clone();
        signals::on_next_interrupt(move || leave.trigger());
    }
    let result = match wishes.is_empty() {
        true if has_terminal() => super::prompt::run(&member, &name, task.wait, watch, &leaving),
        true => {
            match (manager, tracker) {
                (Some(manager), _) => log::info!("{}", next_step::get_from_peers(manager)),
                (None, Some(tracker)) => log::info!("{}", next_step::download_any(tracker)),
                (None, None) => {}
            }
            wait(&member, &leaving)
        }
        false => get_all(&member, wishes, task.stay, watch, &leaving),
    };
    if task.drain_on_exit {
        signals::forget_next_interrupt();
        let is_away = result.as_ref().is_err_and(|error| error.fault == Fault::Unreachable);
        match member.volunteer() {
            Some(volunteer) if !is_away => drain(&member, volunteer, shutdown),
            _ => {}
        }
    }
    member.stop();
    result
}

/// Waits for the shutdown.
///
/// # Errors
/// The manager or tracker did not answer within the timeout.
pub(super) fn wait(member: &Member, leaving: &Shutdown) -> Result<(), DaemonError> {
    crossbeam_channel::select! {
        recv(leaving.signal()) -> _ => Ok(()),
        recv(member.failed()) -> failure => failure.map_or(Ok(()), Err),
    }
}

/// Drains the volunteer: waits until the tracker has copied its replicas to others, or for a second Ctrl-C.
fn drain(member: &Member, volunteer: &Volunteer, shutdown: &Shutdown) {
    if volunteer.status().chunks == 0 {
        return;
    }
    log::info!("leaving when what is kept here has been copied elsewhere; Ctrl-C leaves at once");
    volunteer.drain();
    let mut said: Option<(u64, Instant)> = None;
    while !shutdown.is_stopped() {
        let status = volunteer.status();
        match (status.left, said) {
            _ if status.refused => return log::warn!("the tracker does not empty this volunteer; leaving"),
            (Some(0), _) => return log::info!("leaving: everything has been copied elsewhere"),
            (Some(left), Some((before, when))) if left == before || when.elapsed() < SAY_AGAIN => {}
            (Some(left), _) => {
                log::info!("leaving: {} to go", counted(left, "chunk"));
                said = Some((left, Instant::now()));
            }
            (None, _) => {}
        }
        crossbeam_channel::select! {
            recv(shutdown.signal()) -> _ => {}
            recv(volunteer.changed()) -> _ => {}
            recv(member.failed()) -> _ => return log::warn!("the tracker does not answer; leaving"),
            default(SAY_AGAIN) => {}
        }
    }
}

/// Parses the id or the name of a file.
///
/// # Errors
/// The text is neither.
pub fn wish(text: &str, patience: Duration) -> Result<DownloadRequest, DaemonError> {
    let query = match text.parse::<FileId>() {
        Ok(id) => Query { name: None, id: Some(id) },
        Err(_) => {
            let name = FileName::new(text);
            let name = name.map_err(|error| DaemonError::new(Fault::Usage, error.to_string()))?;
            Query { name: Some(name), id: None }
        }
    };
    Ok(DownloadRequest { query, patience, ..DownloadRequest::default() })
}

fn get_all(
    member: &Member,
    wishes: Vec<DownloadRequest>,
    stay: bool,
    watch: &BarWatch,
    leaving: &Shutdown,
) -> Result<(), DaemonError> {
    let mut transfers = Vec::new();
    for wish in wishes {
        transfers.push(member.get(wish)?);
    }
    let running = transfers.clone();
    leaving.on_trigger(move || running.iter().for_each(|transfer| transfer.cancel()));
    let count = transfers.len();
    let mut failures = Vec::new();
    for transfer in transfers {
        match transfer.wait() {
            Ok(()) => {
                let text = format!("Successfully downloaded {}\n", transfer.status().wanted);
                watch.console().say(&text);
            }
            Err(error) => failures.push(error.fault),
        }
    }
    match failures.last() {
        // Why each has failed is in the log already, since it happened.
        Some(fault) if count == 1 => Err(DaemonError::new(*fault, "")),
        Some(fault) => {
            let text = format!("{} of {count} files could not be got", failures.len());
            Err(DaemonError::new(*fault, text))
        }
        None if leaving.is_stopped() => Ok(()),
        None if stay => wait(member, leaving),
        None => Ok(()),
    }
}
