//! Outgoing TCP connections: connect with a timeout, interruptible by a shutdown.

use super::Shutdown;
use super::shutdown::POLL_INTERVAL;
use super::source_address::source_for;
use crate::content::limits::CONNECT_TIMEOUT;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Delay between the starts of two connects to addresses of the same host (RFC 8305, Connection Attempt Delay).
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(250);

/// Connects to `address` within [`CONNECT_TIMEOUT`]. A shutdown aborts the connect.
///
/// # Errors
/// Connection refused, host unreachable, `TimedOut`, or `Interrupted` by the shutdown.
pub fn dial(address: SocketAddr, shutdown: &Shutdown) -> io::Result<TcpStream> {
    dial_any(&[address], shutdown)
}

/// Connects to the first of several addresses of a host that accepts (RFC 8305, Happy Eyeballs). Each address has
/// [`CONNECT_TIMEOUT`]. A shutdown aborts the connects.
///
/// # Errors
/// Every address failed: the error of one of them, preferably that of a host that was reached. `Interrupted` by the
/// shutdown.
pub fn dial_any(addresses: &[SocketAddr], shutdown: &Shutdown) -> io::Result<TcpStream> {
    dial_any_within(addresses, CONNECT_TIMEOUT, shutdown)
}

/// As [`dial_any`], with a timeout for each address that is shorter than [`CONNECT_TIMEOUT`].
///
/// # Errors
/// As [`dial_any`].
pub fn dial_any_within(
    addresses: &[SocketAddr],
    timeout: Duration,
    shutdown: &Shutdown,
) -> io::Result<TcpStream> {
    let timeout = timeout.min(CONNECT_TIMEOUT);
    let mut race = Race { waiting: interleaved(addresses), attempts: Vec::new(), failure: None, timeout };
    let mut next_start = Instant::now();
    loop {
        while (race.attempts.is_empty() || Instant::now() >= next_start)
            && let Some(address) = race.waiting.pop()
        {
            next_start = Instant::now() + ATTEMPT_INTERVAL;
            match race.start(address) {
                Ok(Some(stream)) => return Ok(stream),
                Ok(None) => {}
                Err(error) => race.failed(error),
            }
        }
        if race.attempts.is_empty() {
            return Err(race.failure.unwrap_or_else(|| ErrorKind::AddrNotAvailable.into()));
        }
        let to_start = match race.waiting.is_empty() {
            true => POLL_INTERVAL,
            false => next_start.saturating_duration_since(Instant::now()),
        };
        if let Some(stream) = race.poll(to_start.min(POLL_INTERVAL))? {
            return Ok(stream);
        }
        if shutdown.is_stopped() {
            return Err(ErrorKind::Interrupted.into());
        }
    }
}

/// Addresses with the families in turn, the first one last.
fn interleaved(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let is_first_family = |address: &SocketAddr| address.is_ipv4() == addresses[0].is_ipv4();
    let (one, other): (Vec<_>, Vec<_>) = addresses.iter().copied().partition(is_first_family);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut turns = Vec::with_capacity(addresses.len());
    while turns.len() < addresses.len() {
        turns.extend(one.next());
        turns.extend(other.next());
    }
    turns.reverse();
    turns
}

/// A connect in progress.
struct Attempt {
    socket: Socket,
    deadline: Instant,
}

/// Connects to several addresses.
struct Race {
    /// Addresses that have not been tried; the last one is the next.
    waiting: Vec<SocketAddr>,
    attempts: Vec<Attempt>,
    failure: Option<io::Error>,
    timeout: Duration,
}

impl Race {
    /// Starts a connect. Returns the stream if it is established at once.
    fn start(&mut self, address: SocketAddr) -> io::Result<Option<TcpStream>> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        if let Some(source) = source_for(address) {
            socket.bind(&source.into())?;
        }
        match socket.connect(&address.into()) {
            Ok(()) => return connected(socket).map(Some),
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            Err(_) => self.attempts.push(Attempt { socket, deadline: Instant::now() + self.timeout }),
        }
        Ok(None)
    }

    /// Waits for the end of an attempt, at most `wait`. Returns the stream of one that succeeded.
    fn poll(&mut self, wait: Duration) -> io::Result<Option<TcpStream>> {
        let timeout = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        let mut sockets: Vec<_> =
            self.attempts.iter().map(|attempt| PollFd::new(&attempt.socket, PollFlags::OUT)).collect();
        match poll(&mut sockets, Some(&timeout)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = sockets.iter().map(|socket| !socket.revents().is_empty()).collect();
        let now = Instant::now();
        for (attempt, ready) in std::mem::take(&mut self.attempts).into_iter().zip(ready) {
            if ready {
                let error = attempt.socket.take_error()?;
                match error.map_or_else(|| connected(attempt.socket), Err) {
                    Ok(stream) => return Ok(Some(stream)),
                    Err(error) => self.failed(error),
                }
            } else if now >= attempt.deadline {
                self.failed(ErrorKind::TimedOut.into());
            } else {
                self.attempts.push(attempt);
            }
        }
        Ok(None)
    }

    /// Records an error. That of a host that was reached is kept rather than that of a missing route.
    fn failed(&mut self, error: io::Error) {
        let tells_less = |known: &io::Error| known.kind() != ErrorKind::ConnectionRefused;
        if self.failure.as_ref().is_none_or(tells_less) {
            self.failure = Some(error);
        }
    }
}

fn connected(socket: Socket) -> io::Result<TcpStream> {
    socket.set_nonblocking(false)?;
    socket.set_tcp_nodelay(true)?;
    let stream = TcpStream::from(socket);
    // TCP simultaneous open: a connect to an ephemeral port of the same host can connect the socket to itself.
    match stream.local_addr()? == stream.peer_addr()? {
        true => Err(ErrorKind::ConnectionRefused.into()),
        false => Ok(stream),
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
        assert!(dial_any(&[], &Shutdown::new()).is_err());
    }

    #[test]
    fn families_take_turns_beginning_with_the_first() {
        let addresses =
            |texts: &[&str]| -> Vec<SocketAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let given = addresses(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "[::1]:1"]);
        let mut turns = addresses(&["10.0.0.1:1", "[::1]:1", "10.0.0.2:1", "10.0.0.3:1"]);
        turns.reverse();
        assert_eq!(interleaved(&given), turns);
        assert!(interleaved(&[]).is_empty());
    }

    #[test]
    fn silent_and_closed_addresses_do_not_delay_the_one_that_accepts() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        // A listener whose backlog is full does not answer further connects.
        let silent = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        silent.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        silent.listen(0).unwrap();
        let full = silent.local_addr().unwrap().as_socket().unwrap();
        let _queued = TcpStream::connect(full).unwrap();
        let started = Instant::now();
        let stream = dial_any(&[full, closed, address], &Shutdown::new()).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
        assert!(started.elapsed() < CONNECT_TIMEOUT);
    }
}
