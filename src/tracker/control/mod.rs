//! Control socket of a running tracker: a Unix socket in its state folder, for commands of the owner from scripts.
//!
//! A connection carries one command and its answer: a line of JSON with the command, then a line with the length of the
//! answer and the answer as JSON. Invariants: only the owner of the state folder can connect, because the socket has mode
//! 0600 from its creation; the socket is created under the lock of the catalogue, so that it never replaces the socket
//! of a running tracker; the number of connections, the size of a command and the time for it are limited.

mod client;
mod path;
mod stream;

pub use client::{ControlError, send};

use super::commands::Commands;
use crate::content::limits::{CONTROL_CONNECTIONS_MAX, CONTROL_TIMEOUT};
use crate::net::{POLL_INTERVAL, Shutdown, Threads};
use crate::storage::StoreError;
use crate::storage::error;
use crate::swarm::command::Command;
use path::{SOCKET, SocketPath};
use rustix::fs::Mode;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use stream::ControlStream;

/// A socket that is removed when the last thread that uses it ends.
struct ControlSocket {
    socket: Socket,
    path: PathBuf,
    /// Device and inode of the socket file.
    file: (u64, u64),
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // The file of another tracker, which was started in the meantime, stays.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Creates the control socket in a state folder and serves it until the shutdown. The caller holds the lock of the
/// catalogue in this folder.
///
/// # Errors
/// The socket cannot be created, another file has its name, or no thread can be started.
pub fn serve(
    state: &Path,
    commands: Commands,
    threads: &Threads,
    shutdown: &Shutdown,
) -> Result<(), StoreError> {
    let path = state.join(SOCKET);
    let socket = Arc::new(bind(state, &path).map_err(error::io("create the control socket", &path))?);
    let woken = Arc::downgrade(&socket);
    // Wakes the accept loop.
    shutdown.on_trigger(move || {
        if let Some(socket) = woken.upgrade() {
            let _ = socket.socket.shutdown(std::net::Shutdown::Both);
        }
    });
    let (group, stop) = (threads.clone(), shutdown.clone());
    threads
        .spawn("control-accept", move || accept(&socket, &commands, &group, &stop))
        .map_err(error::io("serve", &path))
}

/// Creates the socket. A socket that a killed tracker has left is replaced.
fn bind(state: &Path, path: &Path) -> io::Result<ControlSocket> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "another file has this name; move it away"));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let short = SocketPath::new(state)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // On Linux the file gets the mode of the socket, so that nobody else can connect at any time.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(short.path())?)?;
    let found = fs::symlink_metadata(path)?;
    let socket = ControlSocket { socket, path: path.to_owned(), file: (found.dev(), found.ino()) };
    socket.socket.listen(CONTROL_CONNECTIONS_MAX as i32)?;
    Ok(socket)
}

/// Accepts connections until the shutdown. Above the limit a new connection is closed.
fn accept(socket: &Arc<ControlSocket>, commands: &Commands, threads: &Threads, shutdown: &Shutdown) {
    let open = Arc::new(AtomicUsize::new(0));
    while !shutdown.is_stopped() {
        let stream = match socket.socket.accept() {
            Ok((stream, _)) => UnixStream::from(OwnedFd::from(stream)),
            Err(error) => {
                if !shutdown.wait(POLL_INTERVAL) {
                    log::debug!("no connection accepted on the control socket: {error}");
                }
                continue;
            }
        };
        if open.load(Ordering::SeqCst) >= CONTROL_CONNECTIONS_MAX {
            log::warn!("connection to the control socket refused: {CONTROL_CONNECTIONS_MAX} are open");
            continue;
        }
        open.fetch_add(1, Ordering::SeqCst);
        let slot = Slot(open.clone());
        let (commands, stop) = (commands.clone(), shutdown.clone());
        let spawned = threads.spawn("control", move || {
            let _slot = slot;
            if let Err(error) = answer(stream, &commands, &stop) {
                log::debug!("connection to the control socket ended: {error}");
            }
        });
        if let Err(error) = spawned {
            log::warn!("connection to the control socket refused: {error}");
        }
    }
}

/// An open connection that counts against the limit.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Reads a command and sends its answer.
fn answer(stream: UnixStream, commands: &Commands, shutdown: &Shutdown) -> io::Result<()> {
    let mut stream = ControlStream::new(stream, shutdown)?;
    let command: Command = stream.read_line(Some(CONTROL_TIMEOUT))?;
    let receiver = commands.send(command);
    crossbeam_channel::select! {
        recv(receiver) -> answer => match answer {
            Ok(answer) => stream.send_answer(&answer, CONTROL_TIMEOUT),
            Err(_) => Ok(()),
        },
        recv(shutdown.signal()) -> _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
