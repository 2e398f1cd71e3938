//! A client with a plain folder: downloads the files of `--get`, or runs the prompt, or only serves.

use super::download_request::download_request;
use super::prompt::command_loop::has_terminal;
use super::{BarWatch, signals};
use crate::content::fmt::counted;
use crate::net::Shutdown;
use crate::report::Fault;
use crate::report::RoleError;
use crate::report::next_step;
use crate::roles::folder_client::{DownloadRequest, Member, MemberConfig};
use crate::volunteer::Volunteer;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The task of a client with a plain folder, from its flags.
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
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Runs a member until its task is done, its user quits, or the shutdown.
///
/// # Errors
/// The client cannot start, or a download failed.
pub fn run(
    config: MemberConfig,
    task: &Task,
    watch: &Arc<BarWatch>,
    shutdown: &Shutdown,
) -> Result<(), RoleError> {
    let requests =
        task.get.iter().map(|text| download_request(text, task.wait)).collect::<Result<Vec<_>, _>>()?;
    let (name, manager, tracker) = (config.name.clone(), config.manager.clone(), config.tracker.clone());
    let member = Member::start(config, watch.clone(), shutdown)?;
    // With --drain-on-exit the first Ctrl-C ends the task and starts the drain; the connections stay open until then.
    let leaving = if task.drain_on_exit { shutdown.child() } else { shutdown.clone() };
    if task.drain_on_exit {
        let leave = leaving.clone();
        signals::on_next_interrupt(move || leave.trigger());
    }
    let result = match requests.is_empty() {
        true if has_terminal() => super::prompt::run(&member, &name, task.wait, watch, &leaving),
        true => {
            match (&manager, &tracker) {
                (Some(manager), _) => log::info!("{}", next_step::get_from_peers(manager)),
                (None, Some(tracker)) => log::info!("{}", next_step::download_any(tracker)),
                (None, None) => {}
            }
            member.wait_for(&leaving)
        }
        false => get_all(&member, requests, task.stay, watch, &leaving),
    };
    if task.drain_on_exit {
        signals::cancel_next_interrupt();
        let is_away = result.as_ref().is_err_and(|error| error.fault == Fault::Unreachable);
        match member.volunteer() {
            Some(volunteer) if !is_away => drain(&member, volunteer, shutdown),
            _ => {}
        }
    }
    member.stop();
    result
}

/// Drains the volunteer: waits until the tracker has copied its replicas to others, or for a second Ctrl-C.
fn drain(member: &Member, volunteer: &Volunteer, shutdown: &Shutdown) {
    if volunteer.status().chunks == 0 {
        return;
    }
    log::info!(
        "draining: exit after the tracker has copied all replicas elsewhere; press Ctrl-C to exit now"
    );
    volunteer.drain();
    let mut logged: Option<(u64, Instant)> = None;
    while !shutdown.is_stopped() {
        let status = volunteer.status();
        match (status.left, logged) {
            _ if status.refused => {
                return log::warn!(
                    "drain aborted: the tracker refused it; exiting with all replicas still on disk"
                );
            }
            _ if status.absent => {
                return log::warn!("drain aborted: the store is not available; exiting without it");
            }
            (Some(0), _) => return log::info!("drain complete: all replicas copied elsewhere; exiting"),
            (Some(left), Some((before, when))) if left == before || when.elapsed() < PROGRESS_INTERVAL => {}
            (Some(left), _) => {
                log::info!("draining: {} left", counted(left, "chunk"));
                logged = Some((left, Instant::now()));
            }
            (None, _) => {}
        }
        crossbeam_channel::select! {
            recv(shutdown.signal()) -> _ => {}
            recv(volunteer.changed()) -> _ => {}
            recv(member.failed()) -> _ => return log::warn!("drain aborted: no response from the tracker; exiting with all replicas still on disk"),
            default(PROGRESS_INTERVAL) => {}
        }
    }
}

fn get_all(
    member: &Member,
    requests: Vec<DownloadRequest>,
    stay: bool,
    watch: &BarWatch,
    leaving: &Shutdown,
) -> Result<(), RoleError> {
    let mut transfers = Vec::new();
    for request in requests {
        transfers.push(member.get(request)?);
    }
    let running = transfers.clone();
    leaving.on_trigger(move || running.iter().for_each(|transfer| transfer.cancel()));
    let count = transfers.len();
    let mut failures = Vec::new();
    for transfer in transfers {
        match transfer.wait() {
            Ok(()) => {
                let text = format!("Successfully downloaded {}\n", transfer.status().wanted);
                watch.console().print_answer(&text);
            }
            Err(error) => failures.push(error.fault),
        }
    }
    match failures.last() {
        // The cause of each failure was logged when it happened.
        Some(fault) if count == 1 => Err(RoleError::new(*fault, "")),
        Some(fault) => {
            let text = format!("{} of {count} downloads failed", failures.len());
            Err(RoleError::new(*fault, text))
        }
        None if leaving.is_stopped() => Ok(()),
        None if stay => member.wait_for(leaving),
        None => Ok(()),
    }
}
