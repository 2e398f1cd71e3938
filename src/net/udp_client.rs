//! UDP client of a tracker: validates its source address with a cookie, retransmits with backoff, and matches
//! responses to requests by transaction number.

use super::Shutdown;
use super::shutdown::POLL_INTERVAL;
use crate::content::limits::{DATAGRAM_ATTEMPTS_MAX, DATAGRAM_MAX, DATAGRAM_TIMEOUT};
use crate::protocol::datagram::{Cookie, Datagram};
use crate::protocol::frame::FrameError;
use crate::protocol::tracker::{TrackerRequest, TrackerResponse};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// Maximum number of cookies that the tracker may send in response to one request; with more, the request fails.
const COOKIES_MAX: u32 = 3;

/// The reason that a request has no response.
#[derive(Debug, thiserror::Error)]
pub enum UdpClientError {
    /// The host reported that the UDP port is closed.
    #[error("no tracker listens on {0}")]
    Refused(SocketAddr),
    /// Every attempt timed out.
    #[error("the tracker on {0} does not respond")]
    NoResponse(SocketAddr),
    /// The request does not fit into a datagram.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The tracker answered with an error.
    #[error("request to the tracker failed: {0}")]
    Rejected(String),
    /// The socket failed, or the tracker sent an unexpected response.
    #[error("request to the tracker failed: {0}")]
    Io(#[from] io::Error),
    /// A shutdown ended the wait.
    #[error("interrupted by the shutdown")]
    Stopped,
}

/// A UDP client of one tracker, with a socket and a cookie of its own.
pub struct UdpClient {
    socket: UdpSocket,
    tracker: SocketAddr,
    cookie: Option<Cookie>,
    /// Transaction number of the last request.
    transaction: u64,
    /// Maximum time for a request with all of its attempts.
    timeout: Option<Duration>,
    shutdown: Shutdown,
}

impl UdpClient {
    /// Opens a socket for a tracker. Sends nothing.
    ///
    /// # Errors
    /// No socket can be opened.
    pub fn new(tracker: SocketAddr, shutdown: &Shutdown) -> io::Result<Self> {
        let any: SocketAddr = match tracker {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(tracker)?;
        socket.set_read_timeout(Some(POLL_INTERVAL))?;
        // The first number is random, so that an off-path attacker cannot forge a response.
        let transaction = fastrand::u64(..u64::MAX / 2);
        Ok(Self { socket, tracker, cookie: None, transaction, timeout: None, shutdown: shutdown.clone() })
    }

    /// Sets the maximum time for a request with all of its attempts. `None` means that only the attempts limit it.
    pub fn with_timeout(self, timeout: Option<Duration>) -> Self {
        Self { timeout, ..self }
    }

    /// The address of the tracker.
    pub fn tracker(&self) -> SocketAddr {
        self.tracker
    }

    /// Replaces the shutdown that interrupts a request.
    pub fn set_shutdown(&mut self, shutdown: &Shutdown) {
        self.shutdown = shutdown.clone();
    }

    /// Sends a request and waits for its response: at most [`DATAGRAM_ATTEMPTS_MAX`] attempts, with exponential backoff.
    ///
    /// # Errors
    /// No response, or interrupted by the shutdown.
    pub fn request(&mut self, request: &TrackerRequest) -> Result<TrackerResponse, UdpClientError> {
        self.request_with_attempts(request, DATAGRAM_ATTEMPTS_MAX)
    }

    /// As [`request`](Self::request), with another maximum of attempts.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub fn request_with_attempts(
        &mut self,
        request: &TrackerRequest,
        attempts_max: u32,
    ) -> Result<TrackerResponse, UdpClientError> {
        let mut error = UdpClientError::NoResponse(self.tracker);
        let mut cookies = 0;
        let mut attempt = 0;
        let started = Instant::now();
        let remaining = |timeout: Duration| timeout.saturating_sub(started.elapsed());
        while attempt < attempts_max && self.timeout.map(remaining) != Some(Duration::ZERO) {
            self.transaction += 1;
            let datagram = Datagram::new(self.transaction, self.cookie, request.clone());
            let wait = DATAGRAM_TIMEOUT * (1 << attempt.min(4));
            let wait = self.timeout.map_or(wait, |timeout| wait.min(remaining(timeout)));
            match self.exchange(&datagram.encode()?, wait) {
                Ok(TrackerResponse::Cookie { cookie }) if cookies < COOKIES_MAX => {
                    cookies += 1;
                    self.cookie = Some(cookie);
                }
                Ok(TrackerResponse::Cookie { .. }) => return Err(UdpClientError::NoResponse(self.tracker)),
                Err(UdpClientError::NoResponse(_)) => attempt += 1,
                Err(refused @ UdpClientError::Refused(_)) => {
                    attempt += 1;
                    error = refused;
                    if self.shutdown.wait(POLL_INTERVAL) {
                        return Err(UdpClientError::Stopped);
                    }
                }
                other => return other,
            }
        }
        Err(error)
    }

    /// Sends one datagram and waits for its response, at most `wait`.
    fn exchange(&mut self, datagram: &[u8], wait: Duration) -> Result<TrackerResponse, UdpClientError> {
        let deadline = Instant::now() + wait;
        let refused = |error: io::Error| match error.kind() {
            ErrorKind::ConnectionRefused => UdpClientError::Refused(self.tracker),
            _ => UdpClientError::Io(error),
        };
        self.socket.send(datagram).map_err(refused)?;
        let mut buffer = [0; DATAGRAM_MAX + 1];
        while Instant::now() < deadline {
            if self.shutdown.is_stopped() {
                return Err(UdpClientError::Stopped);
            }
            let count = match self.socket.recv(&mut buffer) {
                Ok(count) => count,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => continue,
                    _ => return Err(refused(error)),
                },
            };
            // A datagram with another transaction number is late, duplicated or forged: it is ignored.
            match Datagram::decode(&buffer[..count]) {
                Ok(response) if response.tx == self.transaction => return Ok(response.message),
                _ => continue,
            }
        }
        Err(UdpClientError::NoResponse(self.tracker))
    }

    /// Sends a request once and does not wait for a response. Used for the goodbye message at exit.
    pub fn send_without_reply(&mut self, request: &TrackerRequest) {
        self.transaction += 1;
        if let Ok(bytes) = Datagram::new(self.transaction, self.cookie, request.clone()).encode() {
            let _ = self.socket.send(&bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Receives one request and sends the responses that `respond` returns, each with its transaction number.
    fn answer(server: &UdpSocket, respond: impl Fn(Datagram<TrackerRequest>) -> Vec<(u64, TrackerResponse)>) {
        let mut buffer = [0; 2000];
        let (count, from) = server.recv_from(&mut buffer).unwrap();
        let request = Datagram::decode(&buffer[..count]).unwrap();
        for (tx, message) in respond(request) {
            server.send_to(&Datagram::new(tx, None, message).encode().unwrap(), from).unwrap();
        }
    }

    #[test]
    fn cookie_is_repeated_and_responses_to_other_requests_are_ignored() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut client = UdpClient::new(server.local_addr().unwrap(), &Shutdown::new()).unwrap();
        let thread = std::thread::spawn(move || {
            answer(&server, |request| {
                assert_eq!(request.cookie, None);
                vec![(request.tx, TrackerResponse::Cookie { cookie: Cookie(7) })]
            });
            answer(&server, |request| {
                assert_eq!(request.cookie, Some(Cookie(7)));
                server.send_to(b"garbage", server.local_addr().unwrap()).unwrap();
                vec![(request.tx - 1, TrackerResponse::Farewell), (request.tx, TrackerResponse::Alive)]
            });
        });
        assert_eq!(client.request(&TrackerRequest::Unknown).unwrap(), TrackerResponse::Alive);
        thread.join().unwrap();
    }

    #[test]
    fn closed_port_is_reported_and_shutdown_interrupts_a_request() {
        let free = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let mut client = UdpClient::new(address, &shutdown).unwrap();
        shutdown.trigger();
        assert!(matches!(client.request(&TrackerRequest::Unknown), Err(UdpClientError::Stopped)));
        drop(free);
        let mut client = UdpClient::new(address, &Shutdown::new()).unwrap();
        let error = client.request_with_attempts(&TrackerRequest::Unknown, 2).unwrap_err();
        assert_eq!(error.to_string(), format!("no tracker listens on {address}"));
    }
}
