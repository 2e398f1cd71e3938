//! Outgoing TCP connections: connect with a timeout, interruptible by a shutdown.

use super::Shutdown;
use super::shutdown::POLL_INTERVAL;
use crate::content::limits::CONNECT_TIMEOUT;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

/// Connects to `address` within [`CONNECT_TIMEOUT`]. A shutdown aborts the connect.
///
/// # Errors
/// Connection refused, host unreachable, `TimedOut`, or `Interrupted` by the shutdown.
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
    // TCP simultaneous open: a connect to an ephemeral port of the same host can connect the socket to itself.
    match stream.local_addr()? == stream.peer_addr()? {
        true => Err(ErrorKind::ConnectionRefused.into()),
        false => Ok(stream),
    }
}

fn wait_connected(socket: &Socket, shutdown: &Shutdown) -> io::Result<()> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let interval = Timespec { tv_sec: 0, tv_nsec: POLL_INTERVAL.subsec_nanos().into() };
    loop {
        let ready = match poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&interval)) {
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
    fn connects_to_a_listener_and_is_refused_by_a_closed_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = dial(address, &Shutdown::new()).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
        drop((stream, listener));
        assert_eq!(dial(address, &Shutdown::new()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}
