//! Looks after the chunks in the tracker's own store: what is there at the start, and what turns out to be wrong.
//!
//! Invariant: a chunk that was there before the start is reported only after it has been hashed; one that is wrong is
//! reported once.

use super::Inner;
use crate::content::{ChunkIndex, FileId};
use crate::report::DaemonError;
use crate::storage::ChunkSource as _;
use crate::swarm::keeping::TaskOutcome;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// Takes files into the catalogue of which the store has chunks and the catalogue knows nothing, as after a rebuild:
/// they may be the last copies. Chunks of forgotten files are dropped.
pub(super) fn take_over(inner: &Inner, forgotten: &[FileId]) -> Result<(), DaemonError> {
    for file in inner.store.files() {
        let (id, kept) = (file.id(), file.kept());
        if inner.known(id).is_some() {
            continue;
        }
        if forgotten.contains(&id) {
            let (have, _) = file.progress().have();
            inner.store.remove(id, &have.iter().collect::<Vec<_>>())?;
        } else if let Some(manifest) = file.manifest() {
            inner.take_in(kept, &manifest)?;
            log::info!("{} is kept again: some of it is here", kept.file.name);
            inner.tell(TaskOutcome::Adopted(id, Some((kept.clone(), manifest.layout().clone()))));
        }
    }
    Ok(())
}

/// Starts the threads.
pub(super) fn start(inner: &Arc<Inner>) -> io::Result<()> {
    let checking = inner.clone();
    inner.threads.spawn("check", move || check(&checking))?;
    let waiting = inner.clone();
    inner.threads.spawn("spoiled", move || {
        loop {
            crossbeam_channel::select! {
                recv(waiting.shutdown.signal()) -> _ => return,
                recv(waiting.store.damaged()) -> news => match news {
                    Ok(()) => tell_spoiled(&waiting),
                    Err(_) => return,
                },
            }
        }
    })
}

/// Hashes what was there before the start.
fn check(inner: &Inner) {
    for file in inner.store.files() {
        let chunks = file.unverified();
        for index in chunks {
            if inner.shutdown.is_stopped() {
                return;
            }
            match file.check(index) {
                Ok(true) => inner.tell(TaskOutcome::Stored(file.id(), index)),
                // The other thread tells of it.
                Ok(false) => {}
                Err(error) => log::warn!("chunk {index} of {}: {error}", file.kept().file.name),
            }
        }
    }
}

fn tell_spoiled(inner: &Inner) {
    let mut files: BTreeMap<FileId, Vec<ChunkIndex>> = BTreeMap::new();
    for (id, index) in inner.store.take_damaged() {
        if inner.store.file(id).is_some_and(|file| file.progress().has(index)) {
            // It has been fetched again meanwhile, and that has been told.
            continue;
        }
        files.entry(id).or_default().push(index);
    }
    files.into_iter().for_each(|(id, chunks)| inner.tell(TaskOutcome::Spoiled(id, chunks)));
}
