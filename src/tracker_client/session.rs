//! Session: a persistent TCP connection to a tracker or manager, reconnected after each loss.
//!
//! It registers, passes on all messages of the tracker, and reconnects with backoff for as long as the client
//! runs. Heartbeats are datagrams; at intervals one is sent over the connection, to verify that it still
//! works. Invariant: after [`SessionEvent::Joined`] every request belongs to the same registration until
//! [`SessionEvent::Lost`].

use crate::content::limits::{
    KEEP_ALIVE_INTERVAL, LIST_MAX, OUTBOX_MESSAGES_MAX, PROTOCOL_VERSION, RETRY_MAX, UDP_RETRY_INTERVAL,
};
use crate::content::{Manifest, ManifestSizes};
use crate::net::framed_stream::split;
use crate::net::{
    Endpoint, FrameReader, FrameWriter, Shutdown, StreamError, Threads, Timeouts, UdpClient, UdpClientError,
    running_time,
};
use crate::protocol::ErrorCode;
use crate::protocol::frame::FrameError;
use crate::protocol::payload::manifest_payload_length;
use crate::protocol::tracker::{HubRole, PeerSummary, Token, TrackerRequest, TrackerResponse};
use crate::report::error::RoleError;
use crate::report::next_step::{self, FailedRequest};
use crate::tracker_client::announcer::{Outage, clamp_heartbeat};
use crate::tracker_client::lookup::explain_connect_error;
use crate::tracker_client::presence::{Presence, Purpose};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Events that a session reports to its owner.
#[derive(Debug)]
pub enum SessionEvent {
    /// Connected and registered; the tracker has no state of earlier connections.
    Joined {
        /// Token for all requests.
        token: Token,
        /// Address of this peer that the tracker reports to others.
        address: SocketAddr,
        /// Address of the tracker.
        tracker: SocketAddr,
        /// Queue of requests. If it is full, the tracker does not read.
        requests: Sender<TrackerRequest>,
    },
    /// A message of the tracker.
    Message(TrackerResponse),
    /// A manifest, verified against its id.
    Manifest(Arc<Manifest>),
    /// The manager's list of active peers.
    Peers(Vec<PeerSummary>),
    /// The connection was lost; the session reconnects.
    Lost,
    /// The session has ended: the outage of the tracker has exceeded the timeout, or the program there has the other role.
    Failed(RoleError),
}

/// Configuration of a session.
pub struct SessionConfig {
    /// Role of the other side in messages: tracker or manager.
    pub role: &'static str,
    /// Address of the tracker or manager.
    pub tracker: Endpoint,
    /// Name and addresses of this peer.
    pub presence: Presence,
    /// Purpose of the registration.
    pub purpose: Purpose,
    /// Longest outage, over all connection attempts.
    pub timeout: Option<Duration>,
    /// Timeouts of a single connection.
    pub timeouts: Timeouts,
}

/// Starts the threads of a session with a tracker or manager; they end at the shutdown.
///
/// # Errors
/// A thread cannot be started.
pub fn start(
    config: SessionConfig,
    events: Sender<SessionEvent>,
    threads: &Threads,
    shutdown: &Shutdown,
) -> io::Result<()> {
    let SessionConfig { role, tracker, presence, purpose, timeout, timeouts } = config;
    let mut session = Session {
        role,
        tracker: tracker.clone(),
        presence,
        purpose,
        timeouts,
        events,
        waiting_since: running_time(),
        outage: Outage::new(role, tracker, timeout),
        alive: Arc::default(),
        threads: threads.clone(),
        shutdown: shutdown.clone(),
    };
    threads.spawn("tracker-session", move || session.run())
}

struct Session {
    role: &'static str,
    tracker: Endpoint,
    presence: Presence,
    purpose: Purpose,
    timeouts: Timeouts,
    events: Sender<SessionEvent>,
    /// Start of the present outage, or of the present connection attempt, in [`running_time`].
    waiting_since: Duration,
    outage: Outage,
    /// Set when the response to a heartbeat arrives over the connection.
    alive: Arc<AtomicBool>,
    threads: Threads,
    shutdown: Shutdown,
}

/// Cause of the end of a connection.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("no connection to the {0} on {1}: {2}")]
    Connect(&'static str, Endpoint, #[source] io::Error),
    #[error("the connection to the {0} on {1} is lost: {2}")]
    Connection(&'static str, Endpoint, #[source] StreamError),
    /// The registration was answered with an error or an unexpected message.
    #[error("the {0} on {1} {2}")]
    Refused(&'static str, Endpoint, String),
    /// A later message was invalid, or reported that the registration has ended.
    #[error("the {0} on {1} {2}")]
    Invalid(&'static str, Endpoint, String),
    /// A manager in place of a tracker, or the other way round.
    #[error("{0}")]
    WrongRole(String),
    #[error("stopped")]
    Stopped,
}

impl FailedRequest for SessionError {
    fn is_refusal(&self) -> bool {
        matches!(self, SessionError::Refused(..))
    }

    fn is_wrong_role(&self) -> bool {
        matches!(self, SessionError::WrongRole(_))
    }
}

impl Session {
    fn run(&mut self) {
        while !self.shutdown.is_stopped() {
            self.waiting_since = running_time();
            let error = self.run_connection();
            if self.shutdown.is_stopped() {
                return;
            }
            match self.outage.failed(self.waiting_since, error) {
                Ok(pause) => {
                    if self.shutdown.wait(pause) {
                        return;
                    }
                }
                Err(error) => {
                    let _ = self.events.send(SessionEvent::Failed(error));
                    return;
                }
            }
        }
    }

    /// Makes one connection and serves it until it ends. Returns the cause.
    fn run_connection(&mut self) -> SessionError {
        let (role, tracker) = (self.role, &self.tracker);
        let link_lost = |error: StreamError| SessionError::Connection(role, tracker.clone(), error);
        let stream = match tracker.connect_within(self.outage.remaining(), &self.shutdown) {
            Ok(stream) => Arc::new(stream),
            Err(error) => {
                let error = explain_connect_error(error, tracker, &self.shutdown);
                return SessionError::Connect(role, tracker.clone(), error);
            }
        };
        let _guard = self.shutdown.guard(&stream);
        let halves = stream.peer_addr().and_then(|peer| Ok((peer, split(&stream, self.timeouts.stall)?)));
        let (peer, (mut reader, mut writer)) = match halves {
            Ok((peer, (reader, writer))) => (peer, (reader.watching_address(), writer)),
            Err(error) => return SessionError::Connect(role, tracker.clone(), error),
        };
        let local = stream.local_addr().ok();
        self.presence.connected_from(local);
        let joined = self.register(&mut reader, &mut writer, local);
        let (token, address, heartbeat) = match joined {
            Ok(joined) => joined,
            Err(error) => return error,
        };
        self.outage.ended();
        log::info!("registered with the {role} on {tracker} as {address}");
        let registered_at = Instant::now();
        // Ends with this connection, or at the shutdown.
        let connection_end = self.shutdown.child();
        let (requests, queued) = bounded(OUTBOX_MESSAGES_MAX);
        let (beat, beats) = bounded(1);
        let result = self
            .spawn_writer(writer, (queued, beats), token, &stream, &connection_end)
            .and_then(|()| self.spawn_heartbeat(token, (heartbeat, beat), &stream, &connection_end))
            .map_err(StreamError::from)
            .map_err(link_lost);
        if let Err(error) = result {
            connection_end.trigger();
            return error;
        }
        let sent = self.events.send(SessionEvent::Joined { token, address, tracker: peer, requests });
        let error = match sent {
            Ok(()) => self.pass_on_messages(&mut reader),
            Err(_) => SessionError::Stopped,
        };
        connection_end.trigger();
        self.waiting_since = running_time();
        if registered_at.elapsed() >= RETRY_MAX {
            self.outage.reset_backoff();
        }
        let _ = self.events.send(SessionEvent::Lost);
        error
    }

    fn register(
        &self,
        reader: &mut FrameReader,
        writer: &mut FrameWriter,
        local: Option<SocketAddr>,
    ) -> Result<(Token, SocketAddr, Duration), SessionError> {
        let (role, tracker) = (self.role, &self.tracker);
        let lost = |error: StreamError| SessionError::Connection(role, tracker.clone(), error);
        writer.send(&TrackerRequest::Hello { version: PROTOCOL_VERSION }).map_err(lost)?;
        let registration = self.presence.registration(self.purpose);
        let addresses = registration.addresses.clone();
        writer.send(&TrackerRequest::Register(registration)).map_err(lost)?;
        let mut timeout = self.timeouts.hello;
        loop {
            match reader.message(timeout).map_err(lost)? {
                TrackerResponse::Hello { version: PROTOCOL_VERSION } => timeout = self.timeouts.stall,
                TrackerResponse::Registered { token, address, heartbeat_ms, public, role: found, .. } => {
                    check_role(role, found, tracker)?;
                    self.presence.registered(local, public);
                    let widened = self.presence.addresses();
                    if widened != addresses {
                        writer
                            .send(&TrackerRequest::Addresses { token, addresses: widened })
                            .map_err(lost)?;
                    }
                    let heartbeat = Duration::from_millis(heartbeat_ms);
                    return Ok((token, address, clamp_heartbeat(heartbeat)));
                }
                TrackerResponse::Error { text, .. } => {
                    return Err(SessionError::Refused(role, tracker.clone(), format!("refuses: {text}")));
                }
                other => {
                    return Err(SessionError::Refused(role, tracker.clone(), format!("answers {other:?}")));
                }
            }
        }
    }

    /// Passes on the tracker's messages until the connection ends. Returns the cause.
    fn pass_on_messages(&self, reader: &mut FrameReader) -> SessionError {
        let lost = |error: StreamError| SessionError::Connection(self.role, self.tracker.clone(), error);
        loop {
            let event = match reader.message(self.timeouts.idle) {
                Ok(TrackerResponse::Alive) => {
                    self.alive.store(true, Ordering::Relaxed);
                    continue;
                }
                Ok(TrackerResponse::Reachability(reachability)) => {
                    if reachability.pending == 0 {
                        self.presence.judge(&self.tracker, &reachability);
                    }
                    continue;
                }
                Ok(TrackerResponse::Manifest { file, size, chunk_size, length }) => {
                    let sizes = ManifestSizes { size, chunk_size, index: None };
                    let length = match manifest_payload_length(sizes, length) {
                        Ok(length) => length,
                        Err(text) => {
                            let text = format!("it {text}");
                            return SessionError::Invalid(self.role, self.tracker.clone(), text);
                        }
                    };
                    let mut payload = vec![0; length];
                    if let Err(error) = reader.payload(&mut payload) {
                        return SessionError::Invalid(self.role, self.tracker.clone(), error.to_string());
                    }
                    match Manifest::decode(file, sizes, &payload) {
                        Ok(manifest) => SessionEvent::Manifest(Arc::new(manifest)),
                        Err(error) => {
                            return SessionError::Invalid(self.role, self.tracker.clone(), error.to_string());
                        }
                    }
                }
                Ok(TrackerResponse::Peers { length, .. }) if length > LIST_MAX => {
                    let text = format!("sent a list of {length} bytes, more than {LIST_MAX}");
                    return SessionError::Invalid(self.role, self.tracker.clone(), text);
                }
                Ok(TrackerResponse::Peers { length, .. }) => {
                    let mut payload = vec![0; length as usize];
                    if let Err(error) = reader.payload(&mut payload) {
                        return lost(error);
                    }
                    match serde_json::from_slice(&payload) {
                        Ok(peers) => SessionEvent::Peers(peers),
                        Err(error) => return lost(FrameError::Json(error).into()),
                    }
                }
                Ok(TrackerResponse::Error { code: ErrorCode::UnknownToken, text }) => {
                    return SessionError::Invalid(
                        self.role,
                        self.tracker.clone(),
                        format!("reports: {text}"),
                    );
                }
                Ok(response) => SessionEvent::Message(response),
                Err(error) => return lost(error),
            };
            if self.events.send(event).is_err() {
                return SessionError::Stopped;
            }
        }
    }

    fn spawn_writer(
        &self,
        mut writer: FrameWriter,
        (queued, beats): (Receiver<TrackerRequest>, Receiver<()>),
        token: Token,
        stream: &Arc<TcpStream>,
        connection_end: &Shutdown,
    ) -> io::Result<()> {
        let (stream, connection_end) = (stream.clone(), connection_end.clone());
        self.threads.spawn("tracker-ask", move || {
            // At fixed intervals, not only when idle: claims are not answered, and the tracker's silence
            // would exceed the timeout.
            let keep_alive = crossbeam_channel::tick(KEEP_ALIVE_INTERVAL);
            loop {
                let sent = crossbeam_channel::select! {
                    recv(connection_end.signal()) -> _ => break,
                    recv(queued) -> request => match request {
                        Ok(request) => writer.send(&request),
                        Err(_) => break,
                    },
                    recv(beats) -> beat => match beat {
                        Ok(()) => writer.send(&TrackerRequest::Heartbeat { token }),
                        Err(_) => break,
                    },
                    recv(keep_alive) -> _ => writer.send(&TrackerRequest::Heartbeat { token }),
                };
                if sent.is_err() {
                    break;
                }
            }
            // Ends the reader as well.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        })
    }

    /// Starts the thread that sends heartbeats: as datagrams, or over the connection while UDP gets no response. If the
    /// tracker does not know the token, or the address of this host has changed, it closes the connection, so that the
    /// session registers again.
    fn spawn_heartbeat(
        &self,
        token: Token,
        (interval, over_tcp): (Duration, Sender<()>),
        stream: &Arc<TcpStream>,
        connection_end: &Shutdown,
    ) -> io::Result<()> {
        // The address of the connection, not another one of the same name.
        let client = UdpClient::new(stream.peer_addr()?.into(), connection_end).with_timeout(Some(interval));
        let (role, tracker, stream) = (self.role, self.tracker.clone(), stream.clone());
        let (local, blocked, is_over_tcp, alive) = (None, None, false, self.alive.clone());
        let mut heartbeats =
            Heartbeats { role, tracker, token, client, local, blocked, over_tcp, is_over_tcp, alive };
        let connection_end = connection_end.clone();
        self.threads.spawn("heartbeat", move || {
            let mut next = Instant::now();
            while !connection_end.wait(next.saturating_duration_since(Instant::now())) {
                next = Instant::now() + interval;
                if !heartbeats.send() {
                    let _ = stream.shutdown(std::net::Shutdown::Both);
                    return;
                }
            }
        })
    }
}

/// Refuses a manager where a tracker is expected, and a tracker where a manager is expected.
fn check_role(expected: &str, found: Option<HubRole>, address: &Endpoint) -> Result<(), SessionError> {
    let text = match (expected, found) {
        ("manager", Some(HubRole::Tracker)) => format!(
            "the program on {address} is a tracker, not a manager: use it with --tracker {address} --plain, or name a \
             manager with --manager HOST:PORT"
        ),
        ("tracker", Some(HubRole::Manager)) => next_step::not_a_tracker(address),
        _ => return Ok(()),
    };
    Err(SessionError::WrongRole(text))
}

/// Sender of the heartbeats of one connection.
struct Heartbeats {
    role: &'static str,
    tracker: Endpoint,
    token: Token,
    client: UdpClient,
    /// IP address from which the first datagram with a response was sent.
    local: Option<IpAddr>,
    /// Time of the last datagram without response, while UDP is blocked.
    blocked: Option<Instant>,
    /// Sends a heartbeat over the connection.
    over_tcp: Sender<()>,
    /// Whether the last heartbeat was sent over the connection.
    is_over_tcp: bool,
    /// Set when the response to a heartbeat over the connection arrives.
    alive: Arc<AtomicBool>,
}

impl Heartbeats {
    /// Sends a heartbeat. Returns `false` if this peer must register again.
    fn send(&mut self) -> bool {
        if self.blocked.is_some_and(|since| since.elapsed() < UDP_RETRY_INTERVAL) {
            let _ = self.over_tcp.try_send(());
            return true;
        }
        match self.client.request(&TrackerRequest::Heartbeat { token: self.token }) {
            Ok(TrackerResponse::Error { code: ErrorCode::UnknownToken, .. }) => false,
            Ok(_) => {
                self.blocked = None;
                self.is_over_tcp = false;
                let local = self.client.local_ip();
                let has_moved = self.local.is_some() && self.local != local;
                self.local = local;
                !has_moved
            }
            Err(UdpClientError::Stopped) => true,
            Err(error) => {
                log::debug!("no response to a heartbeat: {error}");
                // Without a route the next datagram may leave from another address: it is not delayed.
                let is_blocked = self.alive.swap(false, Ordering::Relaxed)
                    && self.is_over_tcp
                    && !matches!(error, UdpClientError::Unreachable(..));
                if is_blocked && self.blocked.replace(Instant::now()).is_none() {
                    let (role, tracker) = (self.role, &self.tracker);
                    log::warn!(
                        "UDP to the {role} on {tracker} seems to be blocked; sending heartbeats over TCP"
                    );
                }
                self.is_over_tcp = true;
                let _ = self.over_tcp.try_send(());
                true
            }
        }
    }
}
