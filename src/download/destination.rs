//! Destination of a download: a file or folder that appears under its name when it is complete, a stream that receives the
//! bytes in order, or a block device that is written in place.
//!
//! Invariant: all of them accept only verified chunks.

use crate::content::limits::{FSYNC_INTERVAL, RESUME_FILE_INTERVAL};
use crate::content::{Bitfield, ChunkIndex, Digest, Md5};
use crate::download::finder::interrupted;
use crate::net::{Shutdown, Threads};
use crate::report::error::{Fault, RoleError};
use crate::storage::stream::STDOUT;
use crate::storage::{
    ChunkSink, ChunkSource, DelegatedSource, DeviceFile, LargeChunk, PartFile, Progress, StoreError,
    StreamFile, TreePart,
};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Asks the user to confirm a statement of what is about to be overwritten, or returns at once if that was confirmed
/// before. An error means: not confirmed.
pub type Confirm = fn(&str, &Shutdown) -> Result<(), RoleError>;

/// Kind of the destination that a user has chosen.
#[derive(Debug, Clone, Copy, Default)]
pub enum DestinationKind {
    /// A file.
    #[default]
    File,
    /// Standard output.
    Stdout,
    /// A FIFO.
    Fifo,
    /// A block device, after a confirmation.
    Device(Confirm),
}

impl DestinationKind {
    /// The kind of a path; `confirm` is used for a device. A path that does not exist becomes a file.
    pub fn of(path: Option<&Path>, confirm: Confirm) -> Self {
        let Some(path) = path else { return Self::File };
        if path == Path::new(STDOUT) {
            return Self::Stdout;
        }
        match path.metadata().map(|metadata| metadata.file_type()) {
            Ok(kind) if kind.is_fifo() => Self::Fifo,
            Ok(kind) if kind.is_block_device() => Self::Device(confirm),
            _ => Self::File,
        }
    }

    /// Whether the bytes are gone once they are written, so that none can be served or resumed.
    pub fn is_stream(self) -> bool {
        matches!(self, Self::Stdout | Self::Fifo)
    }

    /// Whether the destination is a block device.
    pub fn is_device(self) -> bool {
        matches!(self, Self::Device(_))
    }
}

/// An open destination.
pub enum Destination {
    /// A part file, renamed when it is complete.
    File(PartFile),
    /// Standard output or a FIFO.
    Stream(StreamFile),
    /// A block device.
    Device(DeviceFile),
    /// A folder, staged beside its target.
    Tree(TreePart),
}

impl Destination {
    /// Chunks that have been verified, and stored or queued for the stream.
    pub fn progress(&self) -> &Progress {
        self.source().progress()
    }

    /// The stream, if it is one: only the chunks of its window are wanted.
    pub fn stream(&self) -> Option<&StreamFile> {
        match self {
            Self::Stream(stream) => Some(stream),
            Self::File(_) | Self::Device(_) | Self::Tree(_) => None,
        }
    }

    /// The folder, if it is one.
    pub fn tree(&self) -> Option<&TreePart> {
        match self {
            Self::Tree(tree) => Some(tree),
            Self::File(_) | Self::Stream(_) | Self::Device(_) => None,
        }
    }

    /// The chunks that need no download.
    pub fn done(&self) -> Bitfield {
        match self {
            Self::Tree(tree) => tree.done(),
            Self::File(_) | Self::Stream(_) | Self::Device(_) => self.progress().have().0,
        }
    }

    /// The chunks that are wanted now; `None` for all chunks, or those of the window of a stream.
    pub fn wanted(&self) -> Option<Bitfield> {
        self.tree().map(TreePart::wanted).filter(|wanted| !wanted.is_complete())
    }

    /// Bytes of the chunks that are wanted now; `size` is that of the item.
    pub fn wanted_bytes(&self, size: u64) -> u64 {
        self.tree().map_or(size, |tree| tree.sizes().0)
    }

    /// Bytes that need no download.
    pub fn present_bytes(&self) -> u64 {
        match self {
            Self::Tree(tree) => tree.sizes().1,
            Self::File(part) => part.resumed_bytes(),
            Self::Stream(_) => 0,
            Self::Device(device) => device.found_bytes(),
        }
    }

    /// Whether every chunk is at the destination.
    pub fn is_complete(&self) -> bool {
        match self {
            Self::File(_) | Self::Device(_) => self.progress().is_complete(),
            Self::Tree(tree) => tree.is_complete(),
            Self::Stream(stream) => stream.is_complete(),
        }
    }

    /// The MD5 of the complete file. For the callbacks see
    /// [`CompleteFile::publish`](crate::storage::CompleteFile::publish).
    ///
    /// # Errors
    /// The file is not complete, cannot be read, or [`StoreError::Stopped`].
    pub fn md5(
        &self,
        hashed: &(dyn Fn(u64) + Sync),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Md5, StoreError> {
        match self {
            Self::File(part) => part.md5(hashed, stop),
            Self::Stream(stream) => stream.md5().ok_or(StoreError::Stopped),
            Self::Device(device) => device.md5(hashed, stop),
            // A folder has no MD5.
            Self::Tree(tree) => Err(StoreError::NotAFile(tree.target().to_owned())),
        }
    }

    /// Ends the download: renames a file, syncs a device.
    ///
    /// # Errors
    /// As for [`PartFile::finish`] and [`DeviceFile::finish`].
    pub fn finish(&self, overwrite: bool, durable: bool) -> Result<(), StoreError> {
        match self {
            Self::File(part) => part.finish(overwrite, durable),
            Self::Stream(_) => Ok(()),
            Self::Tree(tree) => tree.finish(overwrite, durable),
            Self::Device(device) => {
                log::info!("writing all data to {} (fsync)", device.path().display());
                device.finish()
            }
        }
    }

    /// Syncs a finished file.
    ///
    /// # Errors
    /// The disk fails.
    pub fn make_durable(&self) -> Result<(), StoreError> {
        match self {
            Self::File(part) => part.make_durable(),
            Self::Tree(tree) => tree.make_durable(),
            // A device is synced when it is finished.
            Self::Stream(_) | Self::Device(_) => Ok(()),
        }
    }

    /// Records the progress once more, after the last chunk of this run.
    ///
    /// # Errors
    /// As for [`PartFile::note`].
    pub fn note(&self) -> Result<(), StoreError> {
        match self {
            Self::File(part) => part.note(),
            Self::Tree(tree) => tree.note(),
            Self::Stream(_) | Self::Device(_) => Ok(()),
        }
    }

    /// The error of a download that was interrupted.
    pub fn interrupted(&self) -> RoleError {
        match self {
            Self::File(_) | Self::Tree(_) => interrupted(),
            Self::Stream(stream) => {
                let (name, written) = (stream.name(), stream.written_bytes());
                let text = format!("interrupted after {written} bytes were written to {name}");
                RoleError::new(Fault::Interrupted, text)
            }
            Self::Device(device) => {
                let text = format!(
                    "interrupted; {} has only parts of the file: run the same command to complete it",
                    device.path().display()
                );
                RoleError::new(Fault::Interrupted, text)
            }
        }
    }

    /// Starts the thread that records the progress of a file, or writes to a stream. Returns a channel with the error
    /// that ends the download; it is closed when the thread has ended.
    pub(super) fn start(
        self: &Arc<Self>,
        threads: &Threads,
        work: &Shutdown,
    ) -> std::io::Result<Receiver<StoreError>> {
        let (report, lost) = bounded(1);
        let (destination, work) = (self.clone(), work.clone());
        match &**self {
            Self::File(_) | Self::Tree(_) => threads.spawn("resume-file", move || {
                write_resume_file(&destination, &report, &work);
            })?,
            Self::Stream(_) => threads.spawn("stream-out", move || {
                let stream = destination.stream();
                if let Some(Err(error)) = stream.map(|stream| stream.write(&|| work.is_stopped())) {
                    let _ = report.try_send(error);
                }
            })?,
            Self::Device(_) => {}
        }
        Ok(lost)
    }
}

/// Writes the resume file at intervals and makes it and the received data durable at longer ones. Reports a lost part file
/// or staging folder, which ends the download; other errors are logged once and retried.
fn write_resume_file(part: &Destination, report: &Sender<StoreError>, work: &Shutdown) {
    let mut durable = Instant::now();
    let mut is_logged = false;
    while !work.wait(RESUME_FILE_INTERVAL) {
        let written = match durable.elapsed() >= FSYNC_INTERVAL {
            true => {
                durable = Instant::now();
                part.make_durable()
            }
            false => part.note(),
        };
        match written {
            Ok(()) => is_logged = false,
            Err(error @ StoreError::Gone(_)) => {
                let _ = report.try_send(error);
                return;
            }
            Err(_) if is_logged => {}
            Err(error) => {
                is_logged = true;
                log::warn!("{error}");
            }
        }
    }
}

impl DelegatedSource for Destination {
    fn source(&self) -> &dyn ChunkSource {
        match self {
            Self::File(part) => part,
            Self::Stream(stream) => stream,
            Self::Device(device) => device,
            Self::Tree(tree) => tree,
        }
    }
}

impl ChunkSink for Destination {
    fn store(&self, index: ChunkIndex, digest: Digest, bytes: &[u8]) -> Result<bool, StoreError> {
        match self {
            Self::File(part) => part.store(index, digest, bytes),
            Self::Stream(stream) => stream.store(index, digest, bytes),
            Self::Device(device) => device.store(index, digest, bytes),
            Self::Tree(tree) => tree.store(index, digest, bytes),
        }
    }

    fn begin(
        &self,
        index: ChunkIndex,
        digest: Digest,
        length: u64,
    ) -> Result<Box<dyn LargeChunk + '_>, StoreError> {
        match self {
            Self::File(part) => part.begin(index, digest, length),
            Self::Stream(stream) => stream.begin(index, digest, length),
            Self::Device(device) => device.begin(index, digest, length),
            Self::Tree(tree) => tree.begin(index, digest, length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unconfirmed(_: &str, _: &Shutdown) -> Result<(), RoleError> {
        Err(RoleError::new(Fault::Usage, "not confirmed"))
    }

    #[test]
    fn a_path_decides_about_the_kind_of_the_destination() {
        use rustix::fs::{CWD, FileType, Mode};
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_bits_truncate(0o600), 0).unwrap();
        let kind = |path: &Path| DestinationKind::of(Some(path), unconfirmed);
        assert!(matches!(DestinationKind::of(None, unconfirmed), DestinationKind::File));
        assert!(matches!(kind(Path::new("-")), DestinationKind::Stdout));
        assert!(matches!(kind(&fifo), DestinationKind::Fifo));
        for path in [folder.path(), &folder.path().join("new"), Path::new("./-"), Path::new("/dev/null")] {
            assert!(matches!(kind(path), DestinationKind::File), "{path:?}");
        }
    }
}
