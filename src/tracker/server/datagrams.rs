//! A hub's datagrams: who sends proves that it is there, and only then is heard.

use crate::content::limits::{COOKIE_INTERVAL, DATAGRAM_MAX, PROTOCOL_VERSION};
use crate::net::listener::reachable;
use crate::net::{Shutdown, Threads};
use crate::protocol::ErrorCode;
use crate::protocol::datagram::{CookieJar, Datagram, Envelope, envelope};
use crate::protocol::fast_path;
use crate::protocol::tracker::{TrackerRequest, TrackerResponse};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

/// Datagrams that are handed over at once, while more are there.
pub(super) const BATCH: usize = 64;

/// A datagram whose source is proven, with the number that its answer bears.
pub(super) type Question = (SocketAddr, u64, TrackerRequest);

/// Sends answers without ever waiting: what the system has no room for is lost, as datagrams may be.
pub(super) struct Replies {
    socket: UdpSocket,
    /// What is being sent, kept for its room.
    bytes: Vec<u8>,
}

impl Replies {
    pub(super) fn new(socket: UdpSocket) -> Self {
        Self { socket, bytes: Vec::with_capacity(DATAGRAM_MAX) }
    }

    /// Answers a proven source; what does not fit is shortened and says so.
    pub(super) fn send(&mut self, to: SocketAddr, tx: u64, response: TrackerResponse) {
        let mut answer = Datagram::new(tx, None, response);
        loop {
            match fast_path::write(&answer, &mut self.bytes) {
                Ok(()) => return self.send_bytes(to),
                Err(_) if answer.message.shrink() => {}
                Err(error) => return log::warn!("an answer to {to} does not fit in a datagram: {error}"),
            }
        }
    }

    fn send_bytes(&self, to: SocketAddr) {
        // The flag keeps this call from blocking without making the receiver's calls spin.
        if let Err(error) = rustix::net::sendto(&self.socket, &self.bytes, SendFlags::DONTWAIT, &to) {
            log::debug!("an answer to {to} is lost: {error}");
        }
    }
}

struct DatagramReceiver<H> {
    socket: UdpSocket,
    replies: Replies,
    jar: CookieJar,
    started: Instant,
    /// Room for a batch of datagrams, and how many bytes came from whom: they are all received before the first is read,
    /// because each kind of work goes faster when it is done many times in a row.
    room: Vec<[u8; DATAGRAM_MAX + 1]>,
    received: Vec<(usize, SocketAddr)>,
    /// Proven questions that have not been handed over.
    batch: Vec<Question>,
    hand_over: H,
}

/// Receives until the shutdown, in a thread of its own, and hands proven questions over, a few at a time. Whoever gets
/// them empties the batch.
pub(super) fn receive(
    socket: UdpSocket,
    secret: [u8; 32],
    threads: &Threads,
    shutdown: &Shutdown,
    hand_over: impl FnMut(&mut Vec<Question>) + Send + 'static,
) -> io::Result<()> {
    let wake = reachable(socket.local_addr()?);
    let waker = socket.try_clone()?;
    shutdown.on_trigger(move || drop(waker.send_to(b"", wake)));
    let mut receiver = DatagramReceiver {
        replies: Replies::new(socket.try_clone()?),
        socket,
        jar: CookieJar::new(secret),
        started: Instant::now(),
        room: vec![[0; DATAGRAM_MAX + 1]; BATCH],
        received: Vec::with_capacity(BATCH),
        batch: Vec::with_capacity(BATCH),
        hand_over,
    };
    let shutdown = shutdown.clone();
    threads.spawn("datagrams", move || receiver.run(&shutdown))
}

impl<H: FnMut(&mut Vec<Question>)> DatagramReceiver<H> {
    fn run(&mut self, shutdown: &Shutdown) {
        while !shutdown.is_stopped() {
            // Waits for the first, takes what else is there, and hands it over before it waits again.
            self.receive(RecvFlags::empty());
            for _ in 1..BATCH {
                if !self.receive(RecvFlags::DONTWAIT) {
                    break;
                }
            }
            let epoch = self.started.elapsed().as_secs() / COOKIE_INTERVAL.as_secs();
            let (room, mut received) = (std::mem::take(&mut self.room), std::mem::take(&mut self.received));
            for (bytes, (count, from)) in room.iter().zip(received.drain(..)) {
                self.handle(&bytes[..count], from, epoch);
            }
            (self.room, self.received) = (room, received);
            if !self.batch.is_empty() {
                (self.hand_over)(&mut self.batch);
            }
        }
    }

    /// Receives a datagram, if there is one.
    fn receive(&mut self, flags: RecvFlags) -> bool {
        match rustix::net::recvfrom(&self.socket, &mut self.room[self.received.len()], flags) {
            Ok((count, _, Some(from))) => {
                if let Ok(from) = SocketAddr::try_from(from) {
                    self.received.push((count, from));
                }
                true
            }
            Err(Errno::WOULDBLOCK) => false,
            // An answer that nobody took comes back as an error of a later call.
            Ok((_, _, None)) | Err(Errno::CONNREFUSED | Errno::INTR) => true,
            Err(error) => {
                log::debug!("receiving a datagram: {error}");
                std::thread::yield_now();
                false
            }
        }
    }

    fn handle(&mut self, bytes: &[u8], from: SocketAddr, epoch: u64) {
        let error = match fast_path::decode(bytes) {
            Ok(Datagram { v: PROTOCOL_VERSION, tx, cookie, message }) => {
                return match cookie.is_some_and(|cookie| self.jar.validates(cookie, from, epoch)) {
                    true => self.batch.push((from, tx, message)),
                    false => {
                        let cookie = self.jar.cookie(from, epoch);
                        self.answer_unproven(from, tx, TrackerResponse::Cookie { cookie }, bytes.len());
                    }
                };
            }
            Ok(Datagram { v, tx, .. }) => Ok(Envelope { v, tx }),
            Err(error) => envelope(bytes).ok_or(error),
        };
        let (tx, code, text) = match error {
            Ok(Envelope { v, tx }) if v != PROTOCOL_VERSION => {
                (tx, ErrorCode::UnknownVersion, "another version")
            }
            Ok(Envelope { tx, .. }) => (tx, ErrorCode::Malformed, "not a message"),
            // Not even a beginning: there is nobody to answer.
            Err(error) => return log::debug!("a datagram from {from} is none of ours: {error}"),
        };
        let error = TrackerResponse::Error { code, text: text.into() };
        self.answer_unproven(from, tx, error, bytes.len());
    }

    /// An unproven source never gets more bytes than it sent.
    fn answer_unproven(&mut self, to: SocketAddr, tx: u64, response: TrackerResponse, received: usize) {
        match Datagram::new(tx, None, response).write(&mut self.replies.bytes) {
            Ok(()) if self.replies.bytes.len() <= received => self.replies.send_bytes(to),
            _ => log::debug!("a datagram from {to} is too short to be answered"),
        }
    }
}
