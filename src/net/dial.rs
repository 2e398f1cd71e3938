//! Making connections.

use super::Shutdown;
use crate::content::limits::CONNECT_TIMEOUT;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How often a waiting dial looks whether it is still wanted.
const GLANCE: Duration = Duration::from_millis(100);

/// Connects within [`CONNECT_TIMEOUT`], or until `shutdown`.
///
/// # Errors
/// Refused, unreachable, `TimedOut`, or `Interrupted` by the shutdown.
pub fn dial(address: SocketAddr, shutdown: &Shutdown) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            return Err(error);
        }
        Err(_) => wait_connected(&socket, shutdown)?,
        Ok(()) => {}
    }
    socket.set_nonblocking(false)?;
    socket.set_tcp_nodelay(true)?;
    let stream = TcpStream::from(socket);
    // Connecting to an ephemeral port on one's own machine can meet itself (simultaneous open).
    match stream.local_addr()? == stream.peer_addr()? {
        true => Err(ErrorKind::ConnectionRefused.into()),
        false => Ok(stream),
    }
}

fn wait_connected(socket: &Socket, shutdown: &Shutdown) -> io::Result<()> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let glance = Timespec { tv_sec: 0, tv_nsec: GLANCE.subsec_nanos().into() };
    loop {
        let ready = match poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&glance)) {
            Err(rustix::io::Errno::INTR) => 0,
            other => other?,
        };
        if ready > 0 {
            return socket.take_error()?.map_or(Ok(()), Err);
        }
        if shutdown.is_stopped() {
            return Err(ErrorKind::Interrupted.into());
        }
        if Instant::now() >= deadline {
            return Err(ErrorKind::TimedOut.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_listener_is_reached_and_a_closed_port_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = dial(address, &Shutdown::new()).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
        drop((stream, listener));
        assert_eq!(dial(address, &Shutdown::new()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}
