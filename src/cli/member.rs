//! What a client with a plain folder does for its user: gets what was named, or reads commands, or just serves.

use super::BarWatch;
use super::prompt::conduct::has_terminal;
use crate::content::{FileId, FileName};
use crate::daemon::lookup::Query;
use crate::daemon::member::{Member, MemberConfig, Wish};
use crate::daemon::{DaemonError, Fault};
use crate::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

/// What the user wants.
#[derive(Debug, Clone)]
pub struct Task {
    /// Files to get, by name or id.
    pub get: Vec<String>,
    /// Goes on serving when they are there.
    pub stay: bool,
    /// How long to wait for somebody to have them.
    pub wait: Duration,
}

/// Runs a member until its task is done, its user quits, or the shutdown.
///
/// # Errors
/// It cannot start, or what was named cannot be had.
pub fn run(
    config: MemberConfig,
    task: &Task,
    watch: &Arc<BarWatch>,
    shutdown: &Shutdown,
) -> Result<(), DaemonError> {
    let wishes = task.get.iter().map(|text| wish(text, task.wait)).collect::<Result<Vec<_>, _>>()?;
    let name = config.name.clone();
    let member = Member::start(config, watch.clone(), shutdown)?;
    let result = match wishes.is_empty() {
        true if has_terminal() => super::prompt::run(&member, &name, task.wait, watch, shutdown),
        true => member.wait(),
        false => get_all(&member, wishes, task.stay, shutdown),
    };
    member.stop();
    result
}

/// What a user means by a word: a file's id, or its name.
///
/// # Errors
/// Neither.
pub fn wish(text: &str, patience: Duration) -> Result<Wish, DaemonError> {
    let query = match text.parse::<FileId>() {
        Ok(id) => Query { name: None, id: Some(id) },
        Err(_) => {
            let name = FileName::new(text);
            let name = name.map_err(|error| DaemonError::new(Fault::Usage, error.to_string()))?;
            Query { name: Some(name), id: None }
        }
    };
    Ok(Wish { query, patience, ..Wish::default() })
}

fn get_all(member: &Member, wishes: Vec<Wish>, stay: bool, shutdown: &Shutdown) -> Result<(), DaemonError> {
    let mut transfers = Vec::new();
    for wish in wishes {
        transfers.push(member.get(wish)?);
    }
    let count = transfers.len();
    let mut failures = Vec::new();
    for transfer in transfers {
        match transfer.wait() {
            Ok(()) => println!("Successfully downloaded {}", transfer.status().wanted),
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
        None if shutdown.is_stopped() => Ok(()),
        None if stay => member.wait(),
        None => Ok(()),
    }
}
