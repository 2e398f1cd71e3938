//! Command that is run once for each completed file (`--on-complete`).
//!
//! One thread runs the commands one after another, so that none delays a download. Invariant: a file is passed to the
//! command only after it has its name.

use crate::content::FileId;
use crate::net::{Shutdown, Threads, spawn_detached};
use crate::report::error::{Fault, RoleError};
use crate::sync::lock;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use nix::sys::signal::SigSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Environment variable of the absolute path of the file.
const PATH_VARIABLE: &str = "SHOAL_PATH";
/// Environment variable of the name under which the file is offered.
const NAME_VARIABLE: &str = "SHOAL_NAME";
/// Environment variable of the id of the file.
const ID_VARIABLE: &str = "SHOAL_ID";

/// A completed file.
struct Completed {
    path: PathBuf,
    name: String,
    id: FileId,
}

/// The command for completed files.
pub struct OnComplete {
    command: Arc<str>,
    /// `None` after the end.
    files: Mutex<Option<Sender<Completed>>>,
    /// Closed when all commands have ended.
    ended: Receiver<()>,
    has_failed: Arc<AtomicBool>,
}

impl OnComplete {
    /// Starts the thread that runs the command. The shutdown ends the wait for a command, not the command.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(command: &str, threads: &Threads, shutdown: &Shutdown) -> io::Result<Self> {
        // Not bounded: a download never waits for a command. Files are limited by the arguments and by the list of files.
        let (files, queued) = unbounded::<Completed>();
        let (running, ended) = bounded(0);
        let has_failed = Arc::new(AtomicBool::new(false));
        let (command, failed, shutdown): (Arc<str>, _, _) =
            (command.into(), has_failed.clone(), shutdown.clone());
        let text = command.clone();
        threads.spawn("on-complete", move || {
            let _running: Sender<()> = running;
            // A program with a prompt blocks the signals of job control; its children inherit the mask of this thread.
            let _ = SigSet::empty().thread_set_mask();
            loop {
                crossbeam_channel::select! {
                    recv(queued) -> file => match file {
                        Ok(file) if !run(&text, &file, &shutdown) => failed.store(true, Ordering::Relaxed),
                        Ok(_) => {}
                        Err(_) => return,
                    },
                    recv(shutdown.signal()) -> _ => {
                        if !queued.is_empty() {
                            log::warn!("--on-complete was not run for {} completed files", queued.len());
                            failed.store(true, Ordering::Relaxed);
                        }
                        return;
                    }
                }
            }
        })?;
        Ok(Self { command, files: Mutex::new(Some(files)), ended, has_failed })
    }

    /// Runs the command for a completed file, after those of earlier files.
    pub fn completed(&self, path: &Path, name: &str, id: FileId) {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        if let Some(files) = &*lock(&self.files) {
            let _ = files.send(Completed { path, name: name.to_owned(), id });
        }
    }

    /// Waits for the commands of all completed files.
    ///
    /// # Errors
    /// A command has failed.
    pub fn finish(&self) -> Result<(), RoleError> {
        lock(&self.files).take();
        let _ = self.ended.recv();
        match self.has_failed.load(Ordering::Relaxed) {
            true => Err(RoleError::new(Fault::Other, format!("--on-complete failed: {}", self.command))),
            false => Ok(()),
        }
    }
}

/// Runs the command for one file. Returns whether it succeeded.
fn run(command: &str, file: &Completed, shutdown: &Shutdown) -> bool {
    let Completed { path, name, id } = file;
    let child = Command::new("sh")
        .args(["-c", command])
        .env(PATH_VARIABLE, path)
        .env(NAME_VARIABLE, name)
        .env(ID_VARIABLE, id.to_string())
        .stdin(Stdio::null())
        .spawn();
    let waited = child.and_then(|mut child| {
        let pid = child.id();
        let (ended, status) = bounded(1);
        spawn_detached("on-complete", move || _ = ended.send(child.wait()))?;
        crossbeam_channel::select! {
            recv(status) -> status => status.map_err(io::Error::other)?.map(Some),
            recv(shutdown.signal()) -> _ => {
                log::warn!("the command of --on-complete for {name} still runs (process {pid})");
                Ok(None)
            }
        }
    });
    match waited {
        Ok(Some(status)) if status.success() => true,
        Ok(Some(status)) => {
            log::warn!("the command of --on-complete for {name} ended with {}", described(status));
            false
        }
        // Not waited for, because the user has ended this program.
        Ok(None) => true,
        Err(error) => {
            log::warn!("the command of --on-complete for {name} cannot be run: {error}");
            false
        }
    }
}

fn described(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("code {code}"),
        None => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_passed_to_the_command_and_a_failure_is_reported_at_the_end() {
        let place = tempfile::tempdir().unwrap();
        let list = place.path().join("list");
        let command = format!(
            "echo \"$SHOAL_PATH $SHOAL_NAME $SHOAL_ID\" >> '{}'; test \"$SHOAL_NAME\" = a",
            list.display()
        );
        for (names, fails) in [(&["a"][..], false), (&["b", "a"], true)] {
            let (threads, shutdown) = (Threads::new(), Shutdown::new());
            let on_complete = OnComplete::start(&command, &threads, &shutdown).unwrap();
            for name in names {
                on_complete.completed(Path::new("/x y"), name, FileId([7; 32]));
            }
            assert_eq!(on_complete.finish().is_err(), fails);
            threads.join();
        }
        let id = FileId([7; 32]);
        let wanted: String = ["a", "b", "a"].map(|name| format!("/x y {name} {id}\n")).concat();
        assert_eq!(std::fs::read_to_string(list).unwrap(), wanted);
    }

    #[test]
    fn a_shutdown_does_not_wait_for_a_command() {
        let (threads, shutdown) = (Threads::new(), Shutdown::new());
        let place = tempfile::tempdir().unwrap();
        let (begun, end) = (place.path().join("begun"), place.path().join("end"));
        for fifo in [&begun, &end] {
            assert!(Command::new("mkfifo").arg(fifo).status().unwrap().success());
        }
        let command = format!("echo > '{}'; cat '{}'", begun.display(), end.display());
        let on_complete = OnComplete::start(&command, &threads, &shutdown).unwrap();
        on_complete.completed(Path::new("/a"), "a", FileId([7; 32]));
        // Returns when the command runs.
        std::fs::read(&begun).unwrap();
        shutdown.trigger();
        assert!(on_complete.finish().is_ok());
        threads.join();
        // Ends the command.
        std::fs::write(&end, b"").unwrap();
    }
}
