//! Sends a command to the tracker that runs with a state folder.

use super::path::{SOCKET, SocketPath};
use super::stream::ControlStream;
use crate::content::limits::CONTROL_TIMEOUT;
use crate::net::Shutdown;
use crate::swarm::command::{Answer, Command};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// The reason that a command got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No tracker runs with this state folder.
    #[error("no tracker runs with --state {}: {source}", state.display())]
    NotRunning {
        /// The state folder.
        state: PathBuf,
        /// The error of the connection.
        source: io::Error,
    },
    /// The folder or the socket belongs to another user.
    #[error("cannot use {}: {source}", path.display())]
    Access {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the connection.
        source: io::Error,
    },
    /// The user interrupted the wait for the answer.
    #[error("interrupted; the tracker carries the command out all the same")]
    Interrupted,
    /// The connection ended before the answer.
    #[error("the tracker ended the connection without an answer: {0}")]
    Closed(io::Error),
}

/// Sends a command and waits for its answer, without a limit: `verify` and `recall` take as long as their work.
///
/// # Errors
/// No tracker runs with the state folder, or it did not answer.
pub fn send(state: &Path, command: &Command, shutdown: &Shutdown) -> Result<Answer, ControlError> {
    let stream = connect(state).map_err(|source| match source.kind() {
        ErrorKind::PermissionDenied => ControlError::Access { path: state.join(SOCKET), source },
        _ => ControlError::NotRunning { state: state.to_owned(), source },
    })?;
    let ask = || {
        let mut stream = ControlStream::new(stream, shutdown)?;
        stream.send_line(command, CONTROL_TIMEOUT)?;
        stream.read_answer(CONTROL_TIMEOUT)
    };
    ask().map_err(|error| match shutdown.is_stopped() {
        true => ControlError::Interrupted,
        false => ControlError::Closed(error),
    })
}

fn connect(state: &Path) -> io::Result<UnixStream> {
    let path = SocketPath::new(state)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.connect(&SockAddr::unix(path.path())?)?;
    Ok(OwnedFd::from(socket).into())
}
