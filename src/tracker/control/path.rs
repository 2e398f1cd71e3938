//! Address of the control socket of a state folder.

use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// File name of the control socket in the state folder.
pub(super) const SOCKET: &str = "control.sock";
/// Longest path of a Unix socket on Linux, bytes.
const PATH_MAX: usize = 107;

/// A path of the control socket that fits in a socket address.
pub(super) struct SocketPath {
    path: PathBuf,
    /// The state folder, if its path is too long: the path leads through this descriptor.
    _folder: Option<OwnedFd>,
}

impl SocketPath {
    /// The address in a state folder.
    ///
    /// # Errors
    /// The path of the folder is too long for a socket address, and the folder cannot be opened.
    pub fn new(state: &Path) -> io::Result<Self> {
        let path = state.join(SOCKET);
        if path.as_os_str().len() <= PATH_MAX {
            return Ok(Self { path, _folder: None });
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(state, flags, Mode::empty())?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()));
        Ok(Self { path, _folder: Some(folder) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}
