//! UDP client of a tracker: validates its source address with a cookie, retransmits with backoff, and matches
//! responses to requests by transaction number.
//!
//! The name of the tracker is resolved when the socket is opened: before the first request, and again after a request
//! without response. With a TCP fallback, a request without response over UDP is repeated over a TCP connection, which
//! stays open for the next requests; UDP is tried again at intervals.

use super::request_stream::RequestStream;
use super::shutdown::POLL_INTERVAL;
use super::source_address::source_for;
use super::{Endpoint, Shutdown, StreamError};
use crate::content::limits::{
    CONNECT_TIMEOUT, DATAGRAM_ATTEMPTS_MAX, DATAGRAM_MAX, DATAGRAM_TIMEOUT, RESOLVE_TIMEOUT,
    UDP_BLOCKED_TIMEOUT, UDP_RETRY_INTERVAL,
};
use crate::protocol::datagram::{Cookie, Datagram};
use crate::protocol::frame::FrameError;
use crate::protocol::tracker::{TrackerRequest, TrackerResponse};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// Maximum number of cookies that the tracker may send in response to one request; with more, the request fails.
const COOKIES_MAX: u32 = 3;

/// Attempts over UDP while the client uses TCP.
const RETRY_ATTEMPTS_MAX: u32 = 2;

/// The reason that a request has no response.
#[derive(Debug, thiserror::Error)]
pub enum UdpClientError {
    /// The host reported that the UDP port is closed.
    #[error("no tracker listens on {0}")]
    Refused(Endpoint),
    /// Every attempt timed out.
    #[error("the tracker on {0} does not respond")]
    NoResponse(Endpoint),
    /// The name cannot be resolved, or there is no route.
    #[error("cannot reach the tracker on {0}: {1}")]
    Unreachable(Endpoint, #[source] io::Error),
    /// The request does not fit into a datagram.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The tracker answered with an error.
    #[error("request to the tracker failed: {0}")]
    Rejected(String),
    /// A manager answered; the text names the flags to use.
    #[error("{0}")]
    NotATracker(String),
    /// The tracker sent an unexpected response.
    #[error("request to the tracker failed: {0}")]
    Io(#[from] io::Error),
    /// A shutdown ended the wait.
    #[error("interrupted by the shutdown")]
    Stopped,
}

/// A UDP client of one tracker, with a socket and a cookie of its own.
pub struct UdpClient {
    tracker: Endpoint,
    /// The addresses of the tracker, at least one while a route is open; resolved again after a request without response.
    addresses: Vec<SocketAddr>,
    /// Index of the address in use.
    selected: usize,
    route: Option<Route>,
    fallback: Option<Fallback>,
    /// Connection for requests that are too long for a datagram.
    batches: Option<RequestStream>,
    /// Transaction number of the last request.
    transaction: u64,
    /// Maximum time for a request with all of its attempts.
    timeout: Option<Duration>,
    shutdown: Shutdown,
}

/// A socket that is connected to one address of the tracker.
struct Route {
    socket: UdpSocket,
    /// Proves the address of this socket to the tracker.
    cookie: Option<Cookie>,
}

impl Route {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(source_for(address).unwrap_or(any))?;
        socket.connect(address)?;
        socket.set_read_timeout(Some(POLL_INTERVAL))?;
        Ok(Self { socket, cookie: None })
    }
}

/// The connection that replaces UDP where it is blocked.
#[derive(Default)]
struct Fallback {
    stream: Option<RequestStream>,
    /// Time of the last attempt over UDP without response.
    udp_failed: Option<Instant>,
    /// The connection that was used until UDP worked again. A registration over it ends when it is closed.
    retired: Option<RequestStream>,
}

/// The requests of one call: its attempts so far and the deadline of all of them.
struct Attempts {
    started: Instant,
    timeout: Option<Duration>,
    made: u32,
    cookies: u32,
    failure: UdpClientError,
}

impl Attempts {
    fn remaining(&self) -> Duration {
        self.timeout.map_or(Duration::MAX, |timeout| timeout.saturating_sub(self.started.elapsed()))
    }
}

impl UdpClient {
    /// A client of a tracker. Opens no socket and sends nothing before the first request.
    pub fn new(tracker: Endpoint, shutdown: &Shutdown) -> Self {
        // The first number is random, so that an off-path attacker cannot forge a response.
        let transaction = fastrand::u64(..u64::MAX / 2);
        let (addresses, shutdown) = (Vec::new(), shutdown.clone());
        let (route, fallback, batches) = (None, None, None);
        Self {
            tracker,
            addresses,
            selected: 0,
            route,
            fallback,
            batches,
            transaction,
            timeout: None,
            shutdown,
        }
    }

    /// Repeats a request without response over TCP.
    pub fn with_tcp_fallback(self) -> Self {
        Self { fallback: Some(Fallback::default()), ..self }
    }

    /// Sets the maximum time for a request with all of its attempts. `None` means that only the attempts limit it.
    pub fn with_timeout(self, timeout: Option<Duration>) -> Self {
        Self { timeout, ..self }
    }

    /// The tracker.
    pub fn tracker(&self) -> &Endpoint {
        &self.tracker
    }

    /// The address of the tracker that responded last; `None` after a request without response.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.fallback.as_ref().and_then(|fallback| fallback.stream.as_ref()) {
            Some(stream) => stream.peer(),
            None => self.addresses.get(self.selected).copied(),
        }
    }

    /// The address of this host from which the last request was sent; `None` after a request without response.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self.fallback.as_ref().and_then(|fallback| fallback.stream.as_ref()) {
            Some(stream) => stream.local_address(),
            None => self.route.as_ref()?.socket.local_addr().ok(),
        }
    }

    /// The IP address of [`local_address`](Self::local_address).
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.local_address().map(|address| address.ip())
    }

    /// Opens the socket for the next request, if it can be opened, so that [`local_address`](Self::local_address) is known before it.
    pub fn prepare(&mut self) {
        // The next request reports the error.
        let _ = self.open(self.timeout.unwrap_or(RESOLVE_TIMEOUT));
    }

    /// Whether UDP works again after a time over TCP. The owner registers again, because a registration over TCP ends with
    /// its connection, and then calls [`close_retired`](Self::close_retired).
    pub fn has_returned_to_udp(&self) -> bool {
        self.fallback.as_ref().is_some_and(|fallback| fallback.retired.is_some())
    }

    /// Closes the connection that was used until UDP worked again.
    pub fn close_retired(&mut self) {
        self.fallback.iter_mut().for_each(|fallback| fallback.retired = None);
    }

    /// Replaces the shutdown that interrupts a request.
    pub fn set_shutdown(&mut self, shutdown: &Shutdown) {
        self.shutdown = shutdown.clone();
    }

    /// Sends a request and waits for its response: at most [`DATAGRAM_ATTEMPTS_MAX`] attempts, with exponential backoff.
    /// If the name of the tracker has several addresses, an attempt without response is repeated at the next address.
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
        let started = Instant::now();
        let Some(fallback) = &mut self.fallback else {
            return self.request_over_udp(request, attempts_max, self.timeout);
        };
        if fallback.stream.is_some() {
            let is_due = fallback.udp_failed.is_none_or(|failed| failed.elapsed() >= UDP_RETRY_INTERVAL);
            if is_due && let Ok(response) = self.retry_udp(request) {
                log::info!("UDP to the tracker on {} works again", self.tracker);
                return Ok(response);
            }
            if let Ok(response) = self.request_over_tcp(request, started) {
                return Ok(response);
            }
        }
        // The rest of the timeout is for TCP.
        let udp = self.timeout.map_or(UDP_BLOCKED_TIMEOUT, |timeout| UDP_BLOCKED_TIMEOUT.min(timeout / 2));
        let error = match self.request_over_udp(request, attempts_max, Some(udp)) {
            Err(error @ (UdpClientError::Frame(_) | UdpClientError::Stopped)) => return Err(error),
            Err(error) => error,
            response => return response,
        };
        match self.request_over_tcp(request, started) {
            // Another program, or a refusal: it does not show whether UDP is blocked.
            Ok(refusal @ TrackerResponse::Error { .. }) => Ok(refusal),
            // A tracker that was stopped answers both after it has continued. The same request again, because a firewall
            // may drop only long datagrams.
            Ok(response) => Ok(self.retry_udp(request).unwrap_or_else(|_| {
                log::warn!("UDP to the tracker on {} seems to be blocked; using TCP", self.tracker);
                response
            })),
            Err(_) if self.shutdown.is_stopped() => Err(UdpClientError::Stopped),
            Err(_) => Err(error),
        }
    }

    /// Repeats a request over UDP, to find out whether it is still blocked.
    fn retry_udp(&mut self, request: &TrackerRequest) -> Result<TrackerResponse, UdpClientError> {
        let response = self.request_over_udp(request, RETRY_ATTEMPTS_MAX, self.timeout);
        if let Some(fallback) = &mut self.fallback {
            fallback.udp_failed = Some(Instant::now());
            if response.is_ok() {
                fallback.retired = fallback.stream.take();
            }
        }
        response
    }

    /// Sends a request that may be too long for a datagram over TCP. The connection stays open until
    /// [`close_batches`](Self::close_batches).
    ///
    /// # Errors
    /// No connection, or no response over it.
    pub fn request_in_batch(&mut self, request: &TrackerRequest) -> Result<TrackerResponse, StreamError> {
        if self.fallback.as_ref().is_some_and(|fallback| fallback.stream.is_some()) {
            return self.request_over_tcp(request, Instant::now());
        }
        let mut stream = match self.batches.take() {
            Some(stream) => stream,
            None => {
                let addresses = self.tracker.resolve_within(RESOLVE_TIMEOUT, &self.shutdown)?;
                RequestStream::open(&addresses, UDP_BLOCKED_TIMEOUT, &self.shutdown)?
            }
        };
        let response = stream.request(request, CONNECT_TIMEOUT, &self.shutdown)?;
        self.batches = Some(stream);
        Ok(response)
    }

    /// Closes the connection of [`request_in_batch`](Self::request_in_batch).
    pub fn close_batches(&mut self) {
        self.batches = None;
    }

    /// Sends a request over the open TCP connection, or over a new one.
    fn request_over_tcp(
        &mut self,
        request: &TrackerRequest,
        started: Instant,
    ) -> Result<TrackerResponse, StreamError> {
        let remaining = self.timeout.map_or(CONNECT_TIMEOUT, |time| time.saturating_sub(started.elapsed()));
        let Some(fallback) = &mut self.fallback else { return Err(StreamError::Closed) };
        let stream = match fallback.stream.take() {
            Some(stream) => stream,
            None => {
                let limit = remaining.min(RESOLVE_TIMEOUT);
                let addresses = self.tracker.resolve_within(limit, &self.shutdown)?;
                RequestStream::open(&addresses, remaining.min(UDP_BLOCKED_TIMEOUT), &self.shutdown)?
            }
        };
        let stream = fallback.stream.insert(stream);
        let response = stream.request(request, remaining.max(DATAGRAM_TIMEOUT), &self.shutdown);
        match response {
            Ok(_) => _ = fallback.udp_failed.get_or_insert_with(Instant::now),
            Err(_) => fallback.stream = None,
        }
        response
    }

    /// Sends a request over UDP, with at most `attempts_max` attempts within `timeout`.
    fn request_over_udp(
        &mut self,
        request: &TrackerRequest,
        attempts_max: u32,
        timeout: Option<Duration>,
    ) -> Result<TrackerResponse, UdpClientError> {
        let mut attempts = Attempts {
            started: Instant::now(),
            timeout,
            made: 0,
            cookies: 0,
            failure: UdpClientError::NoResponse(self.tracker.clone()),
        };
        while attempts.made < attempts_max.max(self.addresses.len() as u32) && !attempts.remaining().is_zero()
        {
            match self.attempt(request, &mut attempts) {
                Ok(Some(response)) => return Ok(response),
                Ok(None) => {}
                Err(error @ (UdpClientError::Refused(_) | UdpClientError::Unreachable(..))) => {
                    attempts.failure = error;
                    self.next_address(&mut attempts);
                    // Not before all addresses have been tried.
                    if self.selected == 0 && self.shutdown.wait(POLL_INTERVAL) {
                        return Err(UdpClientError::Stopped);
                    }
                }
                Err(UdpClientError::NoResponse(_)) => self.next_address(&mut attempts),
                Err(error) => return Err(error),
            }
        }
        // The next request resolves the name again and opens a new socket: the address of this host, or that of the
        // tracker, may have changed.
        self.close();
        Err(attempts.failure)
    }

    /// Makes one attempt. Returns `None` if the tracker responded with a cookie, which the next attempt sends.
    fn attempt(
        &mut self,
        request: &TrackerRequest,
        attempts: &mut Attempts,
    ) -> Result<Option<TrackerResponse>, UdpClientError> {
        self.open(attempts.remaining())?;
        self.transaction += 1;
        let cookie = self.route.as_ref().and_then(|route| route.cookie);
        let datagram = Datagram::new(self.transaction, cookie, request.clone()).encode()?;
        let round = attempts.made / self.addresses.len().max(1) as u32;
        let wait = (DATAGRAM_TIMEOUT * (1 << round.min(4))).min(attempts.remaining());
        match self.exchange(&datagram, wait)? {
            TrackerResponse::Cookie { cookie } if attempts.cookies < COOKIES_MAX => {
                attempts.cookies += 1;
                self.route.iter_mut().for_each(|route| route.cookie = Some(cookie));
                Ok(None)
            }
            TrackerResponse::Cookie { .. } => Err(UdpClientError::NoResponse(self.tracker.clone())),
            response => Ok(Some(response)),
        }
    }

    /// Opens the socket if it is not open, and resolves the tracker's name before the first.
    fn open(&mut self, timeout: Duration) -> Result<(), UdpClientError> {
        if self.route.is_some() {
            return Ok(());
        }
        if self.addresses.is_empty() {
            let found = self.tracker.resolve_within(timeout.min(RESOLVE_TIMEOUT), &self.shutdown);
            self.addresses = found.map_err(|error| self.unreachable(error))?;
            self.selected = 0;
        }
        let route = Route::open(self.addresses[self.selected]);
        self.route = Some(route.map_err(|error| self.unreachable(error))?);
        Ok(())
    }

    fn unreachable(&self, error: io::Error) -> UdpClientError {
        match error.kind() {
            ErrorKind::ConnectionRefused => UdpClientError::Refused(self.tracker.clone()),
            _ if self.shutdown.is_stopped() => UdpClientError::Stopped,
            _ => UdpClientError::Unreachable(self.tracker.clone(), error),
        }
    }

    /// Counts a failed attempt and selects the next address for the next one.
    fn next_address(&mut self, attempts: &mut Attempts) {
        attempts.made += 1;
        if self.addresses.len() != 1 || matches!(attempts.failure, UdpClientError::Unreachable(..)) {
            self.selected = (self.selected + 1) % self.addresses.len().max(1);
            self.route = None;
        }
    }

    fn close(&mut self) {
        self.route = None;
        self.addresses.clear();
        self.selected = 0;
    }

    /// Sends one datagram and waits for its response, at most `wait`.
    fn exchange(&self, datagram: &[u8], wait: Duration) -> Result<TrackerResponse, UdpClientError> {
        let no_response = || UdpClientError::NoResponse(self.tracker.clone());
        let Some(Route { socket, .. }) = &self.route else { return Err(no_response()) };
        let deadline = Instant::now() + wait;
        log::trace!("sending {} bytes to the tracker or manager on {}", datagram.len(), self.tracker);
        socket.send(datagram).map_err(|error| self.unreachable(error))?;
        let mut buffer = [0; DATAGRAM_MAX + 1];
        while Instant::now() < deadline {
            if self.shutdown.is_stopped() {
                return Err(UdpClientError::Stopped);
            }
            let count = match socket.recv(&mut buffer) {
                Ok(count) => count,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => continue,
                    _ => return Err(self.unreachable(error)),
                },
            };
            // A datagram with another transaction number is late, duplicated or forged: it is ignored.
            match Datagram::decode(&buffer[..count]) {
                Ok(response) if response.tx == self.transaction => return Ok(response.message),
                _ => continue,
            }
        }
        Err(no_response())
    }

    /// Sends a request once and does not wait for a response. Used for the goodbye message at exit.
    pub fn send_without_reply(&mut self, request: &TrackerRequest) {
        if let Some(stream) = self.fallback.as_mut().and_then(|fallback| fallback.stream.as_mut()) {
            return stream.send_without_reply(request);
        }
        self.transaction += 1;
        let Some(Route { socket, cookie }) = &self.route else { return };
        if let Ok(bytes) = Datagram::new(self.transaction, *cookie, request.clone()).encode() {
            let _ = socket.send(&bytes);
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
        let mut client = UdpClient::new(server.local_addr().unwrap().into(), &Shutdown::new());
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
        let mut client = UdpClient::new(address.into(), &shutdown);
        shutdown.trigger();
        assert!(matches!(client.request(&TrackerRequest::Unknown), Err(UdpClientError::Stopped)));
        drop(free);
        let mut client = UdpClient::new(address.into(), &Shutdown::new());
        let error = client.request_with_attempts(&TrackerRequest::Unknown, 2).unwrap_err();
        assert_eq!(error.to_string(), format!("no tracker listens on {address}"));
    }
}
