//! A client with a plain folder: downloads the files of `--get`, or runs the prompt, or only serves.

use super::downloads::{self, Order};
use super::prompt::command_loop::has_terminal;
use super::{BarWatch, signals};
use crate::content::fmt::counted;
use crate::net::Shutdown;
use crate::report::Fault;
use crate::report::RoleError;
use crate::report::next_step;
use crate::roles::folder_client::{Member, MemberConfig};
use crate::tracker_client::selection::Item;
use crate::volunteer::Volunteer;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The task of a client with a plain folder, from its flags.
#[derive(Debug, Clone)]
pub struct Task {
    /// Files to download.
    pub get: Vec<Item>,
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
    let (name, manager, tracker) = (config.name.clone(), config.manager.clone(), config.tracker.clone());
    let shared = (config.shares && !task.get.is_empty() && !task.stay).then(|| config.folder.clone());
    let member = Member::start(config, watch.clone(), shutdown)?;
    if let (Some(folder), 1..) = (shared, member.count_files()) {
        let folder = folder.display();
        log::info!(
            "the files of {folder} are shared until the downloads end (--no-serve: no file is shared)"
        );
    }
    // With --drain-on-exit the first Ctrl-C ends the task and starts the drain; the connections stay open until then.
    let leaving = if task.drain_on_exit { shutdown.child() } else { shutdown.clone() };
    if task.drain_on_exit {
        let leave = leaving.clone();
        signals::on_next_interrupt(move || leave.trigger());
    }
    let result = match task.get.is_empty() {
        true => {
            if !has_terminal() {
                match (&manager, &tracker) {
                    (Some(manager), _) => log::info!("{}", next_step::get_from_peers(manager)),
                    (None, Some(tracker)) => log::info!("{}", next_step::download_any(tracker)),
                    (None, None) => {}
                }
            }
            super::prompt::run(&member, &name, task.wait, watch, &leaving)
        }
        false => {
            let order = Order { items: task.get.clone(), out: None, wait: task.wait };
            let result = downloads::run(&member, order, watch, &leaving);
            let result = match task.stay && !leaving.is_stopped() {
                true => result.and_then(|()| member.wait_for(&leaving)),
                false => result,
            };
            result.and(member.finish_commands())
        }
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
