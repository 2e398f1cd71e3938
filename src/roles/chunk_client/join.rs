//! Joins the chunks of the complete folder into one file, in a thread of its own.

use crate::net::Threads;
use crate::storage::{ChunkFolder, StoreError, split_file};
use crossbeam_channel::{Receiver, bounded, never};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// The joined file and the state of its thread.
pub(super) struct JoinTask {
    /// `None` if no file is wanted, or its thread has been started.
    path: Option<PathBuf>,
    threads: Threads,
    result: Receiver<Result<PathBuf, StoreError>>,
    is_running: bool,
}

impl JoinTask {
    pub(super) fn new(path: Option<PathBuf>, threads: Threads) -> Self {
        Self { path, threads, result: never(), is_running: false }
    }

    /// Starts the thread, once.
    pub(super) fn start(&mut self, folder: &Arc<ChunkFolder>) -> io::Result<()> {
        let Some(path) = self.path.take() else { return Ok(()) };
        let (sender, result) = bounded(1);
        let folder = folder.clone();
        self.threads.spawn("join", move || {
            // Fails only at the end of the client.
            let _ = sender.send(split_file::join(&folder, &path).map(|()| path));
        })?;
        (self.result, self.is_running) = (result, true);
        Ok(())
    }

    /// Channel of the result.
    pub(super) fn result(&self) -> Receiver<Result<PathBuf, StoreError>> {
        self.result.clone()
    }

    /// Records that the result has been received.
    pub(super) fn finished(&mut self) {
        (self.result, self.is_running) = (never(), false);
    }

    /// Whether the file is still being written.
    pub(super) fn is_running(&self) -> bool {
        self.is_running
    }
}
