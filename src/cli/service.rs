//! Notifications of the service manager: `READY=1` when the program serves, `STOPPING=1` when it ends.
//!
//! The protocol of `sd_notify(3)`: a datagram to the Unix socket that `$NOTIFY_SOCKET` names. Without the variable nothing
//! is sent, and an error changes nothing: the service manager then stops the service after its timeout.

use crate::report::events::{self, Event};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Name of the socket of the service manager.
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

fn socket() -> Option<OsString> {
    std::env::var_os(SOCKET_VARIABLE).filter(|name| !name.is_empty())
}

/// Reports to the service manager from now on, if there is one.
pub(super) fn begin() {
    if socket().is_some() {
        events::install(Box::new(notice));
    }
}

/// Reports an event that concerns the service manager.
pub(super) fn notice(event: &Event) {
    if let Event::Listening { address } = event {
        notify(&format!("READY=1\nSTATUS=serving at {address}"));
    }
}

/// Reports that the program ends.
pub(super) fn stopping() {
    notify("STOPPING=1");
}

fn notify(state: &str) {
    if let Some(name) = socket()
        && let Err(error) = send(&name, state)
    {
        log::warn!("cannot notify the service manager at {}: {error}", name.display());
    }
}

/// Sends a state to a socket: the path of a file, or `@` and an abstract name.
fn send(name: &OsStr, state: &str) -> io::Result<()> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A service manager that does not read must not stop the program.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_one_datagram_to_a_path_or_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let abstract_name = format!("shoal-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        for (receiver, name) in [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (UnixDatagram::bind_addr(&address).unwrap(), format!("@{abstract_name}").into()),
        ] {
            send(&name, "READY=1\nSTATUS=x").unwrap();
            let mut state = [0; 64];
            let length = receiver.recv(&mut state).unwrap();
            assert_eq!(&state[..length], b"READY=1\nSTATUS=x");
        }
        assert!(send(OsStr::new("/nowhere/notify"), "READY=1").is_err());
    }
}
