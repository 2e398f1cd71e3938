//! Verifies the chunks in the tracker's own store after a start and reports damaged ones.
//!
//! Invariant: a chunk from a previous run is reported as stored only after it has been hashed; a damaged chunk is
//! reported once.

use super::Inner;
use crate::content::{ChunkIndex, FileId};
use crate::report::RoleError;
use crate::storage::ChunkSource as _;
use crate::swarm::keeping::TaskOutcome;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// Adds files to the catalogue whose chunks are in the store but which the catalogue does not list,
/// as after a rebuild.
///
/// Their chunks may be the last replicas. Chunks of forgotten files are dropped.
pub(super) fn adopt_stored(inner: &Inner, forgotten: &[FileId]) -> Result<(), RoleError> {
    for file in inner.store.files() {
        let (id, kept) = (file.id(), file.kept());
        if inner.known(id).is_some() {
            continue;
        }
        if forgotten.contains(&id) {
            let (have, _) = file.progress().have();
            inner.store.remove(id, &have.iter().collect::<Vec<_>>())?;
        } else if let Some(manifest) = file.manifest() {
            inner.add_to_catalogue(kept, &manifest)?;
            log::info!("added {} to the catalogue: the tracker's store has chunks of it", kept.file.name);
            inner.report(TaskOutcome::Adopted(id, Some((kept.clone(), manifest.layout().clone()))));
        }
    }
    Ok(())
}

/// Starts the thread that verifies stored chunks and the thread that reports damaged ones.
pub(super) fn start(inner: &Arc<Inner>) -> io::Result<()> {
    let checking = inner.clone();
    inner.threads.spawn("check", move || check(&checking))?;
    let waiting = inner.clone();
    inner.threads.spawn("damaged", move || {
        loop {
            crossbeam_channel::select! {
                recv(waiting.shutdown.signal()) -> _ => return,
                recv(waiting.store.damaged()) -> damaged => match damaged {
                    Ok(()) => report_damaged(&waiting),
                    Err(_) => return,
                },
            }
        }
    })
}

/// Hashes the chunks of previous runs.
fn check(inner: &Inner) {
    for file in inner.store.files() {
        let chunks = file.unverified();
        let layout = file.manifest().map(|manifest| manifest.layout().clone());
        let bytes =
            |index| layout.as_ref().and_then(|layout| layout.span(index)).map_or(0, |span| span.length);
        let watch = inner.watch.separate();
        let total = chunks.iter().map(|index| bytes(*index)).sum();
        watch.begin(&format!("checking {}", file.kept().file.name), total, 0);
        for index in chunks {
            if inner.shutdown.is_stopped() {
                return watch.end();
            }
            watch.advance(bytes(index));
            match file.check(index) {
                Ok(true) => inner.report(TaskOutcome::Stored(file.id(), index)),
                // Reported by thread `damaged`.
                Ok(false) => {}
                Err(error) => {
                    log::warn!("failed to verify chunk {index} of {}: {error}", file.kept().file.name);
                }
            }
        }
        watch.end();
    }
}

fn report_damaged(inner: &Inner) {
    let mut files: BTreeMap<FileId, Vec<ChunkIndex>> = BTreeMap::new();
    for (id, index) in inner.store.take_damaged() {
        if inner.store.file(id).is_some_and(|file| file.progress().has(index)) {
            // The chunk has been downloaded again since, and that was reported.
            continue;
        }
        files.entry(id).or_default().push(index);
    }
    files.into_iter().for_each(|(id, chunks)| inner.report(TaskOutcome::Spoiled(id, chunks)));
}
