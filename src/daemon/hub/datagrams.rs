//! A hub's datagrams: who sends proves that it is there, and only then is heard.

use super::Question;
use crate::content::limits::{COOKIE_EPOCH, DATAGRAM_MAX, PROTOCOL_VERSION};
use crate::net::listener::reachable;
use crate::net::{Shutdown, Threads};
use crate::protocol::ErrorCode;
use crate::protocol::datagram::{CookieJar, Datagram, envelope};
use crate::protocol::tracker::{TrackerRequest, TrackerResponse};
use crossbeam_channel::Sender;
use rustix::net::SendFlags;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

/// Sends answers without ever waiting: what the system has no room for is lost, as datagrams may be.
pub(super) struct Replies(UdpSocket);

impl Replies {
    pub(super) fn new(socket: UdpSocket) -> Self {
        Self(socket)
    }

    /// Answers a proven source; what does not fit is shortened and says so.
    pub(super) fn send(&self, to: SocketAddr, tx: u64, mut response: TrackerResponse) {
        loop {
            match Datagram::new(tx, None, response.clone()).encode() {
                Ok(bytes) => return self.send_bytes(to, &bytes),
                Err(_) if response.shrink() => {}
                Err(error) => return log::warn!("an answer to {to} does not fit in a datagram: {error}"),
            }
        }
    }

    fn send_bytes(&self, to: SocketAddr, bytes: &[u8]) {
        // The flag keeps this call from blocking without making the receiver's calls spin.
        if let Err(error) = rustix::net::sendto(&self.0, bytes, SendFlags::DONTWAIT, &to) {
            log::debug!("an answer to {to} is lost: {error}");
        }
    }
}

struct DatagramReceiver {
    socket: UdpSocket,
    replies: Replies,
    jar: CookieJar,
    started: Instant,
    questions: Sender<Question>,
}

/// Receives until the shutdown, in a thread of its own.
pub(super) fn receive(
    socket: UdpSocket,
    secret: [u8; 32],
    questions: Sender<Question>,
    threads: &Threads,
    shutdown: &Shutdown,
) -> io::Result<()> {
    let wake = reachable(socket.local_addr()?);
    let waker = socket.try_clone()?;
    shutdown.on_trigger(move || drop(waker.send_to(b"", wake)));
    let receiver = DatagramReceiver {
        replies: Replies::new(socket.try_clone()?),
        socket,
        jar: CookieJar::new(secret),
        started: Instant::now(),
        questions,
    };
    let shutdown = shutdown.clone();
    threads.spawn("datagrams", move || receiver.run(&shutdown))
}

impl DatagramReceiver {
    fn run(&self, shutdown: &Shutdown) {
        let mut buffer = [0; DATAGRAM_MAX + 1];
        while !shutdown.is_stopped() {
            match self.socket.recv_from(&mut buffer) {
                Ok((count, from)) => self.handle(&buffer[..count], from),
                // An answer that nobody took comes back as an error of a later call.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => {
                    log::debug!("receiving a datagram: {error}");
                    std::thread::yield_now();
                }
            }
        }
    }

    fn handle(&self, bytes: &[u8], from: SocketAddr) {
        let epoch = self.started.elapsed().as_secs() / COOKIE_EPOCH.as_secs();
        let datagram = Datagram::<TrackerRequest>::decode(bytes);
        let (v, tx) = match (&datagram, envelope(bytes)) {
            (Ok(datagram), _) => (datagram.v, datagram.tx),
            (Err(_), Some(envelope)) => (envelope.v, envelope.tx),
            // Not even a beginning: there is nobody to answer.
            (Err(error), None) => return log::debug!("a datagram from {from} is none of ours: {error}"),
        };
        let (code, text) = match datagram {
            Ok(datagram) if v == PROTOCOL_VERSION => {
                match datagram.cookie.is_some_and(|cookie| self.jar.proves(cookie, from, epoch)) {
                    true => {
                        // When the state thread does not keep up, datagrams are lost, and sent again.
                        let _ = self.questions.try_send((from, tx, datagram.message));
                    }
                    false => {
                        let cookie = self.jar.cookie(from, epoch);
                        self.answer_unproven(from, tx, TrackerResponse::Cookie { cookie }, bytes.len());
                    }
                }
                return;
            }
            _ if v != PROTOCOL_VERSION => (ErrorCode::UnknownVersion, "another version"),
            _ => (ErrorCode::Malformed, "not a message"),
        };
        let error = TrackerResponse::Error { code, text: text.into() };
        self.answer_unproven(from, tx, error, bytes.len());
    }

    /// An unproven source never gets more bytes than it sent.
    fn answer_unproven(&self, to: SocketAddr, tx: u64, response: TrackerResponse, received: usize) {
        let datagram = Datagram::new(tx, None, response);
        match serde_json::to_vec(&datagram) {
            Ok(bytes) if bytes.len() <= received => self.replies.send_bytes(to, &bytes),
            _ => log::debug!("a datagram from {to} is too short to be answered"),
        }
    }
}
