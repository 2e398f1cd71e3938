//! Asking a tracker by datagrams: cookies, repeats, and answers matched to their questions.

use super::Shutdown;
use crate::content::limits::{DATAGRAM_MAX, DATAGRAM_TRIES, DATAGRAM_WAIT};
use crate::protocol::datagram::{Cookie, Datagram};
use crate::protocol::frame::FrameError;
use crate::protocol::tracker::{TrackerRequest, TrackerResponse};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// How often a waiting asker looks whether the answer is still wanted.
const GLANCE: Duration = Duration::from_millis(100);
/// How often a cookie may be refused before the tracker is taken for confused.
const COOKIES_MAX: u32 = 3;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum UdpClientError {
    /// Nobody listens there.
    #[error("no tracker listens on {0}")]
    Refused(SocketAddr),
    /// No answer came.
    #[error("the tracker on {0} does not answer")]
    NoResponse(SocketAddr),
    /// The question does not fit in a datagram.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The system says so.
    #[error("cannot ask the tracker: {0}")]
    Io(#[from] io::Error),
    /// The answer is not wanted any more.
    #[error("stopped")]
    Stopped,
}

/// A socket of one's own to ask one tracker.
pub struct UdpClient {
    socket: UdpSocket,
    tracker: SocketAddr,
    cookie: Option<Cookie>,
    next: u64,
    patience: Option<Duration>,
    shutdown: Shutdown,
}

impl UdpClient {
    /// Prepares to ask a tracker. Nothing is sent yet.
    ///
    /// # Errors
    /// When there is no socket to be had.
    pub fn new(tracker: SocketAddr, shutdown: &Shutdown) -> io::Result<Self> {
        let any: SocketAddr = match tracker {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(tracker)?;
        socket.set_read_timeout(Some(GLANCE))?;
        // Numbers that nobody off the path can guess keep forged answers out.
        let next = fastrand::u64(..u64::MAX / 2);
        Ok(Self { socket, tracker, cookie: None, next, patience: None, shutdown: shutdown.clone() })
    }

    /// Waits no longer than this for any answer.
    pub fn with_timeout(self, patience: Option<Duration>) -> Self {
        Self { patience, ..self }
    }

    /// The tracker that is asked.
    pub fn tracker(&self) -> SocketAddr {
        self.tracker
    }

    /// From now on answers are waited for until another shutdown.
    pub fn set_shutdown(&mut self, shutdown: &Shutdown) {
        self.shutdown = shutdown.clone();
    }

    /// Asks, [`DATAGRAM_TRIES`] times at most, waiting longer each time.
    ///
    /// # Errors
    /// No answer, or not wanted any more.
    pub fn request(&mut self, request: &TrackerRequest) -> Result<TrackerResponse, UdpClientError> {
        self.request_with_attempts(request, DATAGRAM_TRIES)
    }

    /// Asks at most `tries` times.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn request_with_attempts(
        &mut self,
        request: &TrackerRequest,
        tries: u32,
    ) -> Result<TrackerResponse, UdpClientError> {
        let mut error = UdpClientError::NoResponse(self.tracker);
        let mut cookies = 0;
        let mut attempt = 0;
        let began = Instant::now();
        let left = |patience: Duration| patience.saturating_sub(began.elapsed());
        while attempt < tries && self.patience.map(left) != Some(Duration::ZERO) {
            self.next += 1;
            let question = Datagram::new(self.next, self.cookie, request.clone());
            let wait = DATAGRAM_WAIT * (1 << attempt.min(4));
            let wait = self.patience.map_or(wait, |patience| wait.min(left(patience)));
            match self.exchange(&question.encode()?, wait) {
                Ok(TrackerResponse::Cookie { cookie }) if cookies < COOKIES_MAX => {
                    cookies += 1;
                    self.cookie = Some(cookie);
                }
                Ok(TrackerResponse::Cookie { .. }) => return Err(UdpClientError::NoResponse(self.tracker)),
                Err(UdpClientError::NoResponse(_)) => attempt += 1,
                Err(refused @ UdpClientError::Refused(_)) => {
                    attempt += 1;
                    error = refused;
                    if self.shutdown.wait(GLANCE) {
                        return Err(UdpClientError::Stopped);
                    }
                }
                other => return other,
            }
        }
        Err(error)
    }

    fn exchange(&mut self, question: &[u8], wait: Duration) -> Result<TrackerResponse, UdpClientError> {
        let deadline = Instant::now() + wait;
        let refused = |error: io::Error| match error.kind() {
            ErrorKind::ConnectionRefused => UdpClientError::Refused(self.tracker),
            _ => UdpClientError::Io(error),
        };
        self.socket.send(question).map_err(refused)?;
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
            // What is no answer to this question is late, doubled or foreign.
            match Datagram::decode(&buffer[..count]) {
                Ok(answer) if answer.tx == self.next => return Ok(answer.message),
                _ => continue,
            }
        }
        Err(UdpClientError::NoResponse(self.tracker))
    }

    /// Says something without waiting for an answer, for the moment of leaving.
    pub fn send_without_reply(&mut self, request: &TrackerRequest) {
        self.next += 1;
        if let Ok(bytes) = Datagram::new(self.next, self.cookie, request.clone()).encode() {
            let _ = self.socket.send(&bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(server: &UdpSocket, respond: impl Fn(Datagram<TrackerRequest>) -> Vec<(u64, TrackerResponse)>) {
        let mut buffer = [0; 2000];
        let (count, from) = server.recv_from(&mut buffer).unwrap();
        let question = Datagram::decode(&buffer[..count]).unwrap();
        for (tx, message) in respond(question) {
            server.send_to(&Datagram::new(tx, None, message).encode().unwrap(), from).unwrap();
        }
    }

    #[test]
    fn a_cookie_is_taken_up_and_foreign_answers_are_passed_over() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut asker = UdpClient::new(server.local_addr().unwrap(), &Shutdown::new()).unwrap();
        let thread = std::thread::spawn(move || {
            answer(&server, |question| {
                assert_eq!(question.cookie, None);
                vec![(question.tx, TrackerResponse::Cookie { cookie: Cookie(7) })]
            });
            answer(&server, |question| {
                assert_eq!(question.cookie, Some(Cookie(7)));
                server.send_to(b"garbage", server.local_addr().unwrap()).unwrap();
                vec![(question.tx - 1, TrackerResponse::Farewell), (question.tx, TrackerResponse::Alive)]
            });
        });
        assert_eq!(asker.request(&TrackerRequest::Unknown).unwrap(), TrackerResponse::Alive);
        thread.join().unwrap();
    }

    #[test]
    fn nobody_there_is_said_and_a_shutdown_ends_the_wait() {
        let free = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let mut asker = UdpClient::new(address, &shutdown).unwrap();
        shutdown.trigger();
        assert!(matches!(asker.request(&TrackerRequest::Unknown), Err(UdpClientError::Stopped)));
        drop(free);
        let mut asker = UdpClient::new(address, &Shutdown::new()).unwrap();
        let error = asker.request_with_attempts(&TrackerRequest::Unknown, 2).unwrap_err();
        assert_eq!(error.to_string(), format!("no tracker listens on {address}"));
    }
}
