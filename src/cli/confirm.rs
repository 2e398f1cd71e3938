//! Confirmation of an action that destroys data: a question on the terminal, or `--yes`.
//!
//! Invariant: a question waits only on a terminal, and the shutdown ends the wait.

use super::json;
use crate::download::destination::DestinationKind;
use crate::net::Shutdown;
use crate::report::{Fault, RoleError};
use crate::roles::leecher::Confirm;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;

/// Longest wait for an answer before the shutdown is looked at.
const POLL_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Flags of a download that do not fit every destination; whether each is given.
#[derive(Debug, Clone, Copy, Default)]
pub struct DestinationFlags {
    /// `--yes`.
    pub yes: bool,
    /// `--overwrite`.
    pub overwrite: bool,
    /// `--verify`.
    pub verify: bool,
    /// `--stay`.
    pub stay: bool,
    /// `--durable`.
    pub durable: bool,
}

/// The kind of the destination `--out`.
///
/// # Errors
/// A usage error: a flag means nothing for this destination, or a device would need a confirmation that cannot be
/// asked for.
pub fn destination(out: Option<&Path>, flags: DestinationFlags) -> Result<DestinationKind, RoleError> {
    let kind = DestinationKind::of(out, if flags.yes { confirmed } else { ask });
    let out = out.unwrap_or(Path::new("")).display();
    let DestinationFlags { yes, overwrite, verify, stay, durable } = flags;
    let meaningless: &[(&str, bool)] = match kind {
        DestinationKind::File => &[],
        DestinationKind::Stdout | DestinationKind::Fifo => {
            &[("--overwrite", overwrite), ("--verify", verify), ("--stay", stay), ("--durable", durable)]
        }
        DestinationKind::Device(_) => &[("--overwrite", overwrite)],
    };
    let usage = |text: String| Err(RoleError::new(Fault::Usage, text));
    if let Some((flag, _)) = meaningless.iter().find(|(_, given)| *given) {
        return match kind.is_stream() {
            true => usage(format!("{flag} means nothing with --out {out}: a stream keeps no bytes")),
            false => usage(format!(
                "{flag} means nothing with --out {out}: a device is written in place; see --yes"
            )),
        };
    }
    if matches!(kind, DestinationKind::Stdout) && json::is_active() {
        return usage(
            "--out - and --json both need standard output; choose a file or a FIFO with --out".to_owned(),
        );
    }
    if matches!(kind, DestinationKind::Stdout) && io::stdout().is_terminal() {
        return usage(
            "--out - writes the bytes of the file to a terminal; redirect standard output".to_owned(),
        );
    }
    if kind.is_device() && !yes && !has_user() {
        return usage(format!("--out {out} overwrites a device; confirm that with --yes"));
    }
    Ok(kind)
}

/// Whether questions can be asked: at a terminal, and not with `--json`.
fn has_user() -> bool {
    io::stdin().is_terminal() && !json::is_active()
}

/// Confirms without a question: `--yes` was given.
fn confirmed(_: &str, _: &Shutdown) -> Result<(), RoleError> {
    Ok(())
}

/// How a file that was found in the local network by its name is confirmed: with `--yes` without a question, else on
/// the terminal if there is one.
pub fn found_file(yes: bool) -> Confirm {
    match (yes, has_user()) {
        (true, _) => confirmed,
        (false, true) => ask,
        (false, false) => refuse,
    }
}

/// How the removal of files is confirmed: with `--yes` without a question, else on the terminal if there is one.
pub fn removal(yes: bool) -> Confirm {
    match (yes, has_user()) {
        (true, _) => confirmed,
        (false, true) => ask,
        (false, false) => |statement, _| {
            Err(RoleError::new(
                Fault::Usage,
                format!("{statement}; confirm it with --yes; nothing was removed"),
            ))
        },
    }
}

/// Refuses: there is no terminal for a question.
fn refuse(statement: &str, _: &Shutdown) -> Result<(), RoleError> {
    let text = format!(
        "{statement}; confirm it with --yes, --from HOST or --id ID, because any host can offer a file of this name"
    );
    Err(RoleError::new(Fault::Usage, text))
}

/// Asks on the terminal.
fn ask(statement: &str, shutdown: &Shutdown) -> Result<(), RoleError> {
    let _ = write!(io::stderr(), "{statement}. Continue? [y/N] ");
    loop {
        if shutdown.is_stopped() {
            return Err(RoleError::new(Fault::Interrupted, "interrupted; nothing was changed"));
        }
        let stdin = io::stdin();
        let mut ready = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut ready, Some(&POLL_INTERVAL)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => break,
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
    }
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        true => Ok(()),
        false => Err(RoleError::new(Fault::Usage, "not confirmed; nothing was changed")),
    }
}
