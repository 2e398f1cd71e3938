//! Brings a file back into the folder of offered files.
//!
//! A hidden part file beside the target collects the chunks: from the tracker's own copies, or else from volunteers. A
//! recall that failed goes on from there when it is repeated. Invariants: each chunk is verified against the manifest and
//! the whole file against its MD5 before one rename gives it its name; another file is never replaced.

use super::Inner;
use super::proofs::read_verified;
use super::workers::reachable;
use crate::content::{ChunkIndex, Digest};
use crate::download::events::{Expected as _, SourceError};
use crate::protocol::volunteer::KeptFile;
use crate::storage::verify::VerifyCallbacks;
use crate::storage::{ChunkSink as _, ChunkSource as _, PartFile, SharedFolder, StoreError, Verify};
use std::collections::VecDeque;
use std::fs;
use std::net::SocketAddr;

/// Consecutive failed connections after which a volunteer is not asked any more.
const CONNECTION_FAILURES_MAX: usize = 2;

/// A volunteer that holds chunks of the file.
struct Source {
    address: SocketAddr,
    /// Consecutive failed connections.
    failures: usize,
}

/// What is in the folder under the name of the file.
#[derive(PartialEq, Eq)]
enum Target {
    Absent,
    /// The file itself, complete.
    Present,
    /// The file itself, found corrupt.
    Corrupt,
    Other,
}

impl Inner {
    /// Brings a file back into the folder, publishes it and returns; or returns the reason of the failure.
    pub(super) fn recall(&self, kept: &KeptFile, from: &[SocketAddr]) -> Result<(), String> {
        let (id, name) = (kept.file.id, &kept.file.name);
        let folder = self.folder.as_ref().ok_or("the tracker runs without --files")?;
        let manifest = self.manifest(id).ok_or("the catalogue has no manifest of it")?;
        let path = folder.path().join(name.as_str());
        let in_the_way =
            || format!("another file has the name {name}; move or rename it, then repeat the recall");
        let replace = match self.target(folder, kept) {
            Target::Present => return self.publish_recalled(folder, kept),
            Target::Other => return Err(in_the_way()),
            Target::Absent => false,
            Target::Corrupt => true,
        };
        let part = PartFile::open(&path, manifest).map_err(|error| error.to_string())?;
        // An earlier recall may have left chunks; each counts only after it has been hashed.
        let stop = || self.shutdown.is_stopped();
        let callbacks = VerifyCallbacks { begin: &|_| (), hashed: &|_| (), stop: &stop };
        part.check(Verify::Full, callbacks).map_err(|error| error.to_string())?;
        log::info!("recalling {name}, {} bytes", kept.file.size);
        let assembled = self.assemble(kept, &part, from);
        if assembled.is_err() {
            part.note().err().into_iter().for_each(|error| log::warn!("{error}"));
        }
        assembled?;
        let md5 = part.md5(&|_| (), &stop).map_err(|error| error.to_string())?;
        if md5 != kept.md5 {
            return Err(format!("its MD5 is {md5} instead of {}", kept.md5));
        }
        if replace && self.target(folder, kept) != Target::Corrupt {
            return Err(in_the_way());
        }
        part.finish(replace, true).map_err(|error| match error {
            StoreError::Exists(_) => in_the_way(),
            error => error.to_string(),
        })?;
        drop(part);
        self.publish_recalled(folder, kept)
    }

    fn target(&self, folder: &SharedFolder, kept: &KeptFile) -> Target {
        let (id, name) = (kept.file.id, &kept.file.name);
        let shared = folder.by_name(name).filter(|file| file.id == id && file.file.is_intact());
        match shared {
            Some(_) if self.is_corrupt(id) => Target::Corrupt,
            Some(_) => Target::Present,
            None if fs::symlink_metadata(folder.path().join(name.as_str())).is_ok() => Target::Other,
            None => Target::Absent,
        }
    }

    /// Collects the missing chunks in the part file.
    fn assemble(&self, kept: &KeptFile, part: &PartFile, from: &[SocketAddr]) -> Result<(), String> {
        let id = kept.file.id;
        let manifest = part.manifest().ok_or("the catalogue has no manifest of it")?;
        let mut sources: VecDeque<Source> =
            from.iter().map(|address| Source { address: reachable(*address), failures: 0 }).collect();
        let mut bytes = Vec::new();
        for index in part.progress().have().0.missing() {
            if self.shutdown.is_stopped() {
                return Err("the tracker ends".to_owned());
            }
            if self.is_being_forgotten(id) {
                return Err("it is being forgotten".to_owned());
            }
            let expected = manifest.expected(index).ok_or("the manifest is damaged")?;
            let memory = self.memory.reserve(expected.1.into(), &self.shutdown);
            let _memory = memory.ok_or("the tracker ends")?;
            let found = self.read_any_own(kept, index, expected, &mut bytes)
                || self.receive_from_any(kept, index, expected, &mut sources, &mut bytes);
            if !found {
                return Err(format!(
                    "missing chunk {index}: no volunteer that is connected delivers it; repeat the recall when its \
                     holders are back"
                ));
            }
            part.store(index, expected.0, &bytes).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Reads a chunk from the tracker's own copies: the chunk store, or a corrupt file, of which most chunks are right.
    fn read_any_own(
        &self,
        kept: &KeptFile,
        index: ChunkIndex,
        expected: (Digest, u32),
        bytes: &mut Vec<u8>,
    ) -> bool {
        let id = kept.file.id;
        let stored = self.store.file(id).and_then(|file| file.stored(index).ok());
        if stored.is_some_and(|stored| read_verified(&stored, expected, bytes) == Some(true)) {
            return true;
        }
        let whole = self.folder.as_ref().and_then(|folder| folder.by_id(id));
        let stored = whole.and_then(|whole| whole.file.stored(index).ok());
        stored.is_some_and(|stored| read_verified(&stored, expected, bytes) == Some(true))
    }

    /// Downloads a chunk from the first volunteer that delivers the right bytes, beginning with the one that did last.
    fn receive_from_any(
        &self,
        kept: &KeptFile,
        index: ChunkIndex,
        expected: (Digest, u32),
        sources: &mut VecDeque<Source>,
        bytes: &mut Vec<u8>,
    ) -> bool {
        for _ in 0..sources.len() {
            let Some(mut source) = sources.pop_front() else { return false };
            match self.receive(kept.file.id, index, expected, source.address, bytes) {
                Ok(()) => {
                    source.failures = 0;
                    sources.push_front(source);
                    return true;
                }
                Err(error) => {
                    let (name, address) = (&kept.file.name, source.address);
                    log::info!("failed to fetch chunk {index} of {name} from {address}: {error}");
                    match error {
                        SourceError::Connection(_) => source.failures += 1,
                        _ => source.failures = 0,
                    }
                    if source.failures < CONNECTION_FAILURES_MAX {
                        sources.push_back(source);
                    }
                }
            }
        }
        false
    }

    /// Publishes a file that has just been recalled, or is in the folder already.
    fn publish_recalled(&self, folder: &SharedFolder, kept: &KeptFile) -> Result<(), String> {
        let (id, name) = (kept.file.id, &kept.file.name);
        let manifest = self.manifest(id).ok_or("the catalogue has no manifest of it")?;
        let _offer_lock = self.lock_offers();
        self.set_corrupt(id, false);
        self.ignore(id, false);
        if let Err(error) = folder.adopt(name.clone(), manifest) {
            // It is complete and in place: the next scan hashes and publishes it.
            log::warn!("{name} is not offered yet: {error}");
            return Ok(());
        }
        let Some(file) = folder.by_name(name).filter(|file| file.id == id) else { return Ok(()) };
        log::info!("recalled {name}");
        self.publish(folder, &file, kept.clone()).map_err(|error| {
            let text = error.to_string();
            self.fail(error);
            text
        })
    }
}
