//! UDP front end. A source address is validated by a cookie before its requests are processed.

use super::udp_socket::{Sender, ServerSocket, ServerSockets};
use crate::content::limits::{COOKIE_INTERVAL, DATAGRAM_MAX, PROTOCOL_VERSION};
use crate::net::{Shutdown, Threads};
use crate::protocol::ErrorCode;
use crate::protocol::datagram::{CookieJar, Datagram, Envelope, envelope};
use crate::protocol::fast_path;
use crate::protocol::tracker::{TrackerRequest, TrackerResponse};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::io;
use std::time::Instant;

/// Datagrams that are received and handed to the machine in one batch.
pub(super) const BATCH: usize = 64;

/// A request from a validated source address, with the transaction number for its response.
pub(super) type DatagramRequest = (Sender, u64, TrackerRequest);

/// Sends responses without blocking.
///
/// If the socket buffer is full, a response is lost; the client retries.
pub(super) struct Replies {
    sockets: ServerSockets,
    /// Encoded response; reused, so that a response needs no allocation.
    bytes: Vec<u8>,
}

impl Replies {
    pub(super) fn new(sockets: ServerSockets) -> Self {
        Self { sockets, bytes: Vec::with_capacity(DATAGRAM_MAX) }
    }

    /// Sends a response to a validated source.
    ///
    /// A response longer than a datagram is shortened and marked as truncated.
    pub(super) fn send(&mut self, to: Sender, tx: u64, response: TrackerResponse) {
        let mut answer = Datagram::new(tx, None, response);
        loop {
            match fast_path::write(&answer, &mut self.bytes) {
                Ok(()) => return self.send_bytes(to),
                Err(_) if answer.message.shrink() => {}
                Err(error) => {
                    return log::warn!("response to {} exceeds the datagram limit: {error}", to.address);
                }
            }
        }
    }

    fn send_bytes(&self, to: Sender) {
        let Some(socket) = self.sockets.get(to.socket) else { return };
        if let Err(error) = socket.send(&self.bytes, to) {
            log::debug!("lost a response to {}: {error}", to.address);
        }
    }
}

struct DatagramReceiver<H> {
    socket: ServerSocket,
    replies: Replies,
    jar: CookieJar,
    started: Instant,
    /// Receive buffers for a batch.
    ///
    /// The whole batch is received before the first datagram is decoded: the code and data of each step stay in the
    /// CPU caches.
    buffers: Vec<[u8; DATAGRAM_MAX + 1]>,
    /// Length in bytes and source of each received datagram of the batch.
    received: Vec<(usize, Sender)>,
    /// Validated requests that have not been handed over.
    batch: Vec<DatagramRequest>,
    hand_over: H,
}

/// Starts the thread that receives datagrams and passes validated requests to `hand_over` in
/// batches.
///
/// The thread ends at the shutdown. `hand_over` must empty the batch.
pub(super) fn receive(
    socket: ServerSocket,
    replies: Replies,
    secret: [u8; 32],
    threads: &Threads,
    shutdown: &Shutdown,
    hand_over: impl FnMut(&mut Vec<DatagramRequest>) + Send + 'static,
) -> io::Result<()> {
    let waker = socket.try_clone()?;
    // Wakes the receiver. It needs no network: the address may be gone.
    shutdown.on_trigger(move || waker.shut_down());
    let mut receiver = DatagramReceiver {
        replies,
        socket,
        jar: CookieJar::new(secret),
        started: Instant::now(),
        buffers: vec![[0; DATAGRAM_MAX + 1]; BATCH],
        received: Vec::with_capacity(BATCH),
        batch: Vec::with_capacity(BATCH),
        hand_over,
    };
    let shutdown = shutdown.clone();
    threads.spawn("datagrams", move || receiver.run(&shutdown))
}

impl<H: FnMut(&mut Vec<DatagramRequest>)> DatagramReceiver<H> {
    fn run(&mut self, shutdown: &Shutdown) {
        while !shutdown.is_stopped() {
            // Blocks for the first datagram; takes the others without blocking, until the batch is full.
            self.receive(RecvFlags::empty());
            for _ in 1..BATCH {
                if !self.receive(RecvFlags::DONTWAIT) {
                    break;
                }
            }
            let epoch = self.started.elapsed().as_secs() / COOKIE_INTERVAL.as_secs();
            let (buffers, mut received) =
                (std::mem::take(&mut self.buffers), std::mem::take(&mut self.received));
            for (bytes, (count, from)) in buffers.iter().zip(received.drain(..)) {
                self.handle(&bytes[..count], from, epoch);
            }
            (self.buffers, self.received) = (buffers, received);
            if !self.batch.is_empty() {
                (self.hand_over)(&mut self.batch);
            }
        }
    }

    /// Receives one datagram. Returns `false` if the socket has no more.
    fn receive(&mut self, flags: RecvFlags) -> bool {
        match self.socket.receive(&mut self.buffers[self.received.len()], flags) {
            Ok((count, Some(from))) => {
                self.received.push((count, from));
                true
            }
            Err(Errno::WOULDBLOCK) => false,
            // CONNREFUSED reports an earlier response to a closed port (ICMP port unreachable), not a failed receive.
            Ok((_, None)) | Err(Errno::CONNREFUSED | Errno::INTR) => true,
            Err(error) => {
                log::debug!("failed to receive a datagram: {error}");
                std::thread::yield_now();
                false
            }
        }
    }

    /// Adds the request of a datagram to the batch, or answers with a cookie or an error.
    ///
    /// `epoch` is the number of the present cookie interval.
    fn handle(&mut self, bytes: &[u8], from: Sender, epoch: u64) {
        let envelope = match fast_path::decode(bytes) {
            Ok(Datagram { v: PROTOCOL_VERSION, tx, cookie, message }) => {
                return match cookie.is_some_and(|cookie| self.jar.validates(cookie, from.address, epoch)) {
                    true => self.batch.push((from, tx, message)),
                    false => {
                        let cookie = self.jar.cookie(from.address, epoch);
                        self.answer_unvalidated(from, tx, TrackerResponse::Cookie { cookie }, bytes.len());
                    }
                };
            }
            Ok(Datagram { v, tx, .. }) => Ok(Envelope { v, tx }),
            Err(error) => envelope(bytes).ok_or(error),
        };
        // Short texts: the response must not be longer than the datagram.
        let (tx, code, text) = match envelope {
            Ok(Envelope { v, tx }) if v != PROTOCOL_VERSION => {
                (tx, ErrorCode::UnknownVersion, "another version")
            }
            Ok(Envelope { tx, .. }) => (tx, ErrorCode::Malformed, "not a message"),
            // Without a version and a transaction number no response is possible.
            Err(error) => {
                return log::debug!("ignored a datagram of another protocol from {}: {error}", from.address);
            }
        };
        let error = TrackerResponse::Error { code, text: text.into() };
        self.answer_unvalidated(from, tx, error, bytes.len());
    }

    /// Responds to an unvalidated source, with at most as many bytes as it sent: no amplification.
    fn answer_unvalidated(&mut self, to: Sender, tx: u64, response: TrackerResponse, received: usize) {
        match Datagram::new(tx, None, response).write(&mut self.replies.bytes) {
            Ok(()) if self.replies.bytes.len() <= received => self.replies.send_bytes(to),
            _ => log::debug!("no response to {}: its datagram is shorter than the response", to.address),
        }
    }
}
