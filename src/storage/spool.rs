//! Spool: the content of standard input or of a FIFO, read to its end into a temporary file.
//!
//! The temporary file has no name, so that it is removed with its last descriptor, also after a kill.
//! Invariant: a read never blocks for longer than [`POLL_INTERVAL`] without a look at `stop`.

use super::error::{self, StoreError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The path that stands for standard input.
pub const STDIN: &str = "-";
/// Longest wait for bytes, nanoseconds.
const POLL_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// Longest single read, bytes.
const READ_BYTES_MAX: usize = 256 * 1024;

/// A stream that has been read to its end.
#[derive(Debug)]
pub struct Spool {
    file: File,
    size: u64,
}

impl Spool {
    /// Whether the path is standard input or a FIFO, which can be served only from a copy.
    pub fn is_needed(path: &Path) -> bool {
        path == Path::new(STDIN) || path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo())
    }

    /// Reads standard input or a FIFO to its end into a temporary file in `folder`. Waits for the first
    /// writer of a FIFO.
    ///
    /// `copied` receives the number of bytes just read.
    ///
    /// # Errors
    /// The stream cannot be read, the disk of `folder` is full, or [`StoreError::Stopped`].
    pub fn read(
        path: &Path,
        folder: &Path,
        copied: &dyn Fn(u64),
        stop: &dyn Fn() -> bool,
    ) -> Result<Self, StoreError> {
        let file = tempfile::tempfile_in(folder).map_err(error::write("create a file in", folder, 1))?;
        if path == Path::new(STDIN) {
            return copy(io::stdin().as_fd(), Path::new("standard input"), file, folder, copied, stop);
        }
        let nonblocking = OFlags::NONBLOCK.bits() as i32;
        let fifo = OpenOptions::new().read(true).custom_flags(nonblocking).open(path);
        let fifo = fifo.map_err(error::io("open", path))?;
        let metadata = fifo.metadata().map_err(error::io("read the metadata of", path))?;
        match metadata.file_type().is_fifo() {
            true => copy(fifo.as_fd(), path, file, folder, copied, stop),
            false => Err(StoreError::NotAFile(path.to_owned())),
        }
    }

    /// Bytes read.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn into_file(self) -> File {
        self.file
    }
}

fn copy(
    from: BorrowedFd<'_>,
    name: &Path,
    mut file: File,
    folder: &Path,
    copied: &dyn Fn(u64),
    stop: &dyn Fn() -> bool,
) -> Result<Spool, StoreError> {
    let (mut buffer, mut size) = (vec![0; READ_BYTES_MAX], 0);
    let copy_path = || -> PathBuf { folder.join(format!("the copy of {}", name.display())) };
    loop {
        if stop() {
            return Err(StoreError::Stopped);
        }
        // A FIFO that no program has opened for writing yet is not readable: its end is not taken for that of the data.
        let mut ready = [PollFd::new(&from, PollFlags::IN)];
        match poll(&mut ready, Some(&POLL_INTERVAL)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(error::io("read", name)(errno.into())),
        }
        match rustix::io::read(from, &mut buffer) {
            Ok(0) => return Ok(Spool { file, size }),
            Ok(count) => {
                file.write_all(&buffer[..count]).map_err(error::write(
                    "write",
                    &copy_path(),
                    count as u64,
                ))?;
                size += count as u64;
                copied(count as u64);
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(errno) => return Err(error::io("read", name)(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode};
    use std::io::Read as _;
    use std::os::unix::fs::FileExt as _;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    fn fifo(folder: &Path) -> PathBuf {
        let path = folder.join("fifo");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_bits_truncate(0o600), 0).unwrap();
        path
    }

    #[test]
    fn a_fifo_is_read_to_its_end_and_its_copy_has_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let spools = tempfile::tempdir().unwrap();
        let path = fifo(folder.path());
        assert!(
            Spool::is_needed(&path) && Spool::is_needed(Path::new("-")) && !Spool::is_needed(folder.path())
        );
        let bytes: Vec<u8> = (0..1_000_000u32).map(|at| (at % 251) as u8).collect();
        let (written, writer_path) = (bytes.clone(), path.clone());
        // Opens the FIFO when it is read: the reader waits for its first writer.
        let writer = std::thread::spawn(move || std::fs::write(writer_path, written).unwrap());
        let count = AtomicU64::new(0);
        let copied = |bytes| _ = count.fetch_add(bytes, Relaxed);
        let spool = Spool::read(&path, spools.path(), &copied, &|| false).unwrap();
        writer.join().unwrap();
        assert_eq!(count.into_inner(), bytes.len() as u64);
        assert_eq!(std::fs::read_dir(spools.path()).unwrap().count(), 0);
        let mut got = vec![0; bytes.len()];
        let mut file = spool.into_file();
        file.read_exact_at(&mut got, 0).unwrap();
        assert!(got == bytes && file.read(&mut got).unwrap() == 0);
    }

    #[test]
    fn waiting_for_a_writer_ends_at_the_stop() {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(folder.path());
        let polls = AtomicU64::new(0);
        let stop = || polls.fetch_add(1, Relaxed) >= 2;
        let stopped = Spool::read(&path, folder.path(), &|_| (), &stop);
        assert!(matches!(stopped, Err(StoreError::Stopped)), "{stopped:?}");
    }

    #[test]
    fn a_full_disk_is_reported_with_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        std::thread::spawn(move || (&writer).write_all(b"bytes"));
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error =
            copy(reader.as_fd(), Path::new("standard input"), full, folder.path(), &|_| (), &|| false);
        let error = error.unwrap_err();
        assert!(matches!(error, StoreError::Exhausted { .. }), "{error}");
        assert!(
            error.to_string().contains("/the copy of standard input: the file system accepts no more data"),
            "{error}"
        );
    }
}
