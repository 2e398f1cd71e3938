//! Brings a file or a folder back into the folder of offered files.
//!
//! A hidden part file or staging folder beside the target collects the chunks: from the tracker's own copies, or else from volunteers. A
//! recall that failed goes on from there when it is repeated. Invariants: each chunk is verified against the manifest and
//! the MD5 of a whole file is computed before one rename gives it its name; no file is replaced: a corrupt one is renamed first.

use super::Inner;
use super::corrupt::ASIDE_SUFFIX;
use super::proofs::read_verified;
use super::workers::reachable;
use crate::content::{ChunkIndex, Digest, FileId, FileName, Manifest, Md5};
use crate::download::events::{Expected as _, SourceError};
use crate::protocol::volunteer::KeptFile;
use crate::storage::verify::VerifyCallbacks;
use crate::storage::{
    ChunkSink, ChunkSource, PartFile, Prepared, SharedFolder, StoreError, StoredChunk, TreePart,
    TreeReceiveOptions, TreeRecheck, Verify,
};
use crate::swarm::keeping::CorruptFile;
use crate::tracker::store::CatalogueError;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// Consecutive failed connections after which a volunteer is not asked any more.
const CONNECTION_FAILURES_MAX: usize = 2;

/// A volunteer that holds chunks of the file.
struct Source {
    address: SocketAddr,
    /// Consecutive failed connections.
    failures: usize,
}

impl Source {
    fn all(addresses: &[SocketAddr]) -> VecDeque<Self> {
        addresses.iter().map(|address| Self { address: reachable(*address), failures: 0 }).collect()
    }
}

/// What is in the folder under the name of the file.
#[derive(PartialEq, Eq)]
enum Target {
    Absent,
    /// The file itself, complete.
    Present,
    /// The file itself, found corrupt.
    Corrupt(CorruptFile),
    Other,
}

impl Inner {
    /// Brings a file back into the folder, publishes it and returns; or returns the reason of the failure.
    pub(super) fn recall(&self, kept: &KeptFile, from: &[SocketAddr]) -> Result<(), String> {
        let (id, name) = (kept.file.id, &kept.file.name);
        let folder = self.folder.as_ref().ok_or("the tracker runs without --files")?;
        let manifest = self.manifest(id).ok_or("the catalogue has no manifest of it")?;
        let path = folder.path().join(name.as_str());
        let corrupt = match self.target(folder, kept) {
            Target::Present => return self.publish_recalled(folder, kept),
            Target::Other => return Err(in_the_way(name)),
            Target::Absent => None,
            Target::Corrupt(mark) => Some((mark, aside(folder, name)?)),
        };
        if manifest.is_tree() {
            self.assemble_folder(kept, &path, manifest, from)?;
            return self.publish_recalled(folder, kept);
        }
        let part = PartFile::open(&path, manifest).map_err(|error| error.to_string())?;
        // An earlier recall may have left chunks; each counts only after it has been hashed.
        let stop = || self.shutdown.is_stopped();
        let callbacks = VerifyCallbacks { begin: &|_| (), hashed: &|_| (), stop: &stop };
        part.check(Verify::Full, callbacks).map_err(|error| error.to_string())?;
        log::info!("recalling {name}, {} bytes", kept.file.size);
        let watch = self.watch.separate();
        watch.begin(&format!("recalling {name}"), kept.file.size, part.resumed_bytes());
        // Most of its chunks are right.
        let corrupt_file = corrupt.as_ref().and_then(|_| File::open(&path).ok()).map(Arc::new);
        let stored = |bytes| watch.advance(bytes);
        let mut sources = Source::all(from);
        let missing = part.progress().have().0.missing().collect();
        let assembled = self.assemble(kept, (&part, missing), &mut sources, corrupt_file.as_ref(), &stored);
        watch.end();
        if assembled.is_err() {
            part.note().err().into_iter().for_each(|error| log::warn!("{error}"));
        }
        assembled?;
        let md5 = verified_md5(&part, kept, &stop)?;
        let kept = &KeptFile { md5, ..kept.clone() };
        if let Some((mark, aside)) = corrupt {
            self.set_aside(folder, name, (mark, &aside))?;
        }
        part.finish(false, true).map_err(|error| match error {
            StoreError::Exists(_) => in_the_way(name),
            error => error.to_string(),
        })?;
        drop(part);
        self.publish_recalled(folder, kept)
    }

    fn target(&self, folder: &SharedFolder, kept: &KeptFile) -> Target {
        let (id, name) = (kept.file.id, &kept.file.name);
        let shared = folder.by_name(name).filter(|file| file.id == id && file.file.is_intact());
        let corrupt = self.corrupt_file_in_place(folder, name).filter(|mark| mark.id == id);
        match shared {
            Some(_) if !self.is_corrupt(name) => Target::Present,
            _ if let Some(mark) = corrupt => Target::Corrupt(mark),
            _ if fs::symlink_metadata(folder.path().join(name.as_str())).is_ok() => Target::Other,
            _ => Target::Absent,
        }
    }

    /// Assembles a folder in a staging folder beside its target, and gives it its name.
    fn assemble_folder(
        &self,
        kept: &KeptFile,
        path: &Path,
        manifest: Arc<Manifest>,
        from: &[SocketAddr],
    ) -> Result<(), String> {
        let name = &kept.file.name;
        let text = |error: StoreError| error.to_string();
        // As it was published: links that lead outside are its owner's.
        let options = TreeReceiveOptions { with_any_links: true, ..TreeReceiveOptions::default() };
        let tree = TreePart::open(path, manifest, options).map_err(text)?;
        let stop = || self.shutdown.is_stopped();
        let callbacks = VerifyCallbacks { begin: &|_| (), hashed: &|_| (), stop: &stop };
        log::info!("recalling {name}, {} bytes", kept.file.size);
        let watch = self.watch.separate();
        watch.begin(&format!("recalling {name}"), kept.file.size, 0);
        let mut sources = Source::all(from);
        let mut assemble = || {
            let (wanted, done) = (tree.wanted(), tree.done());
            let missing = wanted.iter().filter(|index| !done.has(*index)).collect();
            self.assemble(kept, (&tree, missing), &mut sources, None, &|bytes| watch.advance(bytes))
        };
        let assembled = assemble().and_then(|()| {
            let recheck = TreeRecheck { trusts_state: false, in_place: Verify::Full, staged: Verify::Full };
            match tree.prepare(false, recheck, callbacks).map_err(text)? {
                Prepared::Differs(_) => Err(in_the_way(name)),
                Prepared::Complete { .. } => Ok(()),
                Prepared::Incomplete { .. } => assemble(),
            }
        });
        watch.end();
        if assembled.is_err() {
            tree.note().err().into_iter().for_each(|error| log::warn!("{error}"));
        }
        assembled?;
        tree.finish(false, true).map_err(|error| match error {
            StoreError::Exists(_) => in_the_way(name),
            error => error.to_string(),
        })
    }

    /// Collects chunks in a part file or a staging folder. `stored` is called with the length of each.
    fn assemble<T: ChunkSource + ChunkSink>(
        &self,
        kept: &KeptFile,
        (part, missing): (&T, Vec<ChunkIndex>),
        sources: &mut VecDeque<Source>,
        corrupt: Option<&Arc<File>>,
        stored: &dyn Fn(u64),
    ) -> Result<(), String> {
        let id = kept.file.id;
        let manifest = part.manifest().ok_or("the catalogue has no manifest of it")?;
        let mut bytes = Vec::new();
        for index in missing {
            if self.shutdown.is_stopped() {
                return Err("the tracker ends".to_owned());
            }
            if self.is_being_forgotten(id) {
                return Err("it is being forgotten".to_owned());
            }
            let expected = manifest.expected(index).ok_or("the manifest is damaged")?;
            let memory = self.memory.reserve(expected.1, &self.shutdown);
            let _memory = memory.ok_or("the tracker ends")?;
            let span = manifest.layout().span(index);
            let corrupt_chunk = corrupt.zip(span).map(|(file, span)| StoredChunk {
                file: file.clone(),
                offset: span.offset,
                length: span.length,
            });
            let found = self.read_any_own((kept.file.id, index), expected, corrupt_chunk, &mut bytes)
                || self.receive_from_any(kept, index, expected, sources, &mut bytes);
            if !found {
                return Err(format!(
                    "missing chunk {index}: no volunteer that is connected delivers it; repeat the recall when its \
                     holders are back"
                ));
            }
            part.store(index, expected.0, &bytes).map_err(|error| error.to_string())?;
            stored(expected.1);
        }
        Ok(())
    }

    /// Reads a chunk from the tracker's own copies: the chunk store, the corrupt file, or the file under another name.
    fn read_any_own(
        &self,
        (id, index): (FileId, ChunkIndex),
        expected: (Digest, u64),
        corrupt: Option<StoredChunk>,
        bytes: &mut Vec<u8>,
    ) -> bool {
        let in_store = self.store.file(id).and_then(|file| file.stored(index).ok());
        let whole = self.folder.as_ref().and_then(|folder| folder.by_id(id));
        let in_folder = whole.and_then(|whole| whole.file.stored(index).ok());
        let mut copies = [in_store, corrupt, in_folder].into_iter().flatten();
        copies.any(|stored| read_verified(&stored, expected, bytes) == Some(true))
    }

    /// Renames the corrupt file, so that the recalled one gets its name.
    fn set_aside(
        &self,
        folder: &SharedFolder,
        name: &FileName,
        (mark, aside): (CorruptFile, &FileName),
    ) -> Result<(), String> {
        // First: the bytes are not offered under the new name, either.
        self.mark_corrupt(aside, mark).map_err(|error| self.failed(error))?;
        match folder.set_aside(name, aside, mark.stamp) {
            Ok(true) => {
                log::warn!("renamed the corrupt file {name} to {aside}; it is not offered");
                Ok(())
            }
            Ok(false) => Err(in_the_way(name)),
            Err(StoreError::Exists(_)) => Err(in_the_way(aside)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Reports a failed catalogue and returns the text of its error.
    fn failed(&self, error: CatalogueError) -> String {
        let text = error.to_string();
        self.fail(error);
        text
    }

    /// Downloads a chunk from the first volunteer that delivers the right bytes, beginning with the one that did last.
    fn receive_from_any(
        &self,
        kept: &KeptFile,
        index: ChunkIndex,
        expected: (Digest, u64),
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
        self.unmark_corrupt(name).map_err(|error| self.failed(error))?;
        self.ignore(id, false);
        if let Err(error) = folder.adopt(name.clone(), manifest) {
            // It is complete and in place: the next scan hashes and publishes it.
            log::warn!("{name} is not offered yet: {error}");
            return Ok(());
        }
        log::info!("recalled {name}");
        // A folder is published when the scans have found and hashed it.
        let Some(file) = folder.by_name(name).filter(|file| file.id == id) else { return Ok(()) };
        self.publish(folder, &file, kept.clone()).map_err(|error| self.failed(error))
    }
}

/// The MD5 of the complete part file. If it is not the expected one, all chunks are hashed again: the expected one may
/// have been named wrongly by a volunteer.
fn verified_md5(part: &PartFile, kept: &KeptFile, stop: &(dyn Fn() -> bool + Sync)) -> Result<Md5, String> {
    let md5 = part.md5(&|_| (), stop).map_err(|error| error.to_string())?;
    if md5 != kept.md5 {
        let callbacks = VerifyCallbacks { begin: &|_| (), hashed: &|_| (), stop };
        part.check(Verify::Full, callbacks).map_err(|error| error.to_string())?;
        if !part.progress().is_complete() || part.md5(&|_| (), stop).ok() != Some(md5) {
            return Err("the disk returns other bytes than were written; repeat the recall".to_owned());
        }
        let name = &kept.file.name;
        log::warn!("MD5 of {name} corrected: {md5} instead of {}; all bytes match the id", kept.md5);
    }
    Ok(md5)
}

fn in_the_way(name: &FileName) -> String {
    format!("another file has the name {name}; move or rename it, then repeat the recall")
}

/// The free name to which the corrupt file is renamed.
fn aside(folder: &SharedFolder, name: &FileName) -> Result<FileName, String> {
    let aside = FileName::new(format!("{name}{ASIDE_SUFFIX}"))
        .map_err(|error| format!("rename the corrupt file {name}, then repeat the recall: {error}"))?;
    match fs::symlink_metadata(folder.path().join(aside.as_str())) {
        Ok(_) => Err(in_the_way(&aside)),
        Err(_) => Ok(aside),
    }
}
