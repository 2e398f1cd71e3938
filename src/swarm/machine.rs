//! State machine interface of a daemon that serves requests: requests, closed connections and ticks in,
//! effects out.
//!
//! The daemon around a [`Machine`] reads, writes and waits. The machine decides and never blocks.

use super::Moment;
use super::command::Answer;
use super::keeping::{ExecutorTask, TaskOutcome};
use super::reach::{DialBack, DialResult};
use crate::content::PeerName;
use crate::protocol::tracker::{TrackerRequest, TrackerResponse};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A TCP connection, numbered by the daemon.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConnectionId(pub u64);

/// Source of a request and destination of its response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A datagram with a validated source address, and the request number that the client chose.
    Datagram(SocketAddr, u64),
    /// A TCP connection from this IP address.
    Connection(ConnectionId, IpAddr),
}

/// An action for the daemon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Answer a request.
    Reply(Origin, TrackerResponse),
    /// Send an unsolicited message to a connected peer.
    Push(ConnectionId, TrackerResponse),
    /// Send an unsolicited message with a payload to a connected peer. Several peers may share one payload.
    PushWith(ConnectionId, TrackerResponse, Arc<[u8]>),
    /// Write an event line.
    Event(String),
    /// Write a log line.
    Note(String),
    /// Write a log line about a peer that left, which had registered from this source address.
    Departure(IpAddr, String),
    /// Report that a peer joined or left, after the log line about it.
    Peer(PeerChange),
    /// Write a log line at warning level: the operator should act.
    Warning(String),
    /// Write a log line at error level: data are damaged.
    Error(String),
    /// Run a task that needs a disk or a socket. Its outcome comes back through
    /// [`task_outcome`](Machine::task_outcome).
    Task(ExecutorTask),
    /// Dial an address of a peer. The result comes back through [`dialled`](Machine::dialled).
    DialBack(DialBack),
    /// Answer the command with this number.
    Answer(u64, Answer),
}

/// A peer that joined or left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerChange {
    /// Its name.
    pub name: PeerName,
    /// The address at which it serves.
    pub address: SocketAddr,
    /// It has joined; otherwise it has left.
    pub has_joined: bool,
}

/// The state of a daemon that answers requests.
pub trait Machine: Send {
    /// Reads the data that a request will need, to load it into the processor cache ahead of time. Changes
    /// nothing.
    fn prefetch(&self, _: &TrackerRequest) {}

    /// Handles a request. The reply is the first effect.
    fn request(&mut self, now: Moment, origin: Origin, request: TrackerRequest) -> Vec<Effect>;

    /// Handles the end of a connection.
    fn closed(&mut self, now: Moment, connection: ConnectionId) -> Vec<Effect>;

    /// Handles the outcome of a task or a command.
    fn task_outcome(&mut self, _: Moment, _: TaskOutcome) -> Vec<Effect> {
        Vec::new()
    }

    /// Handles the result of an [`Effect::DialBack`].
    fn dialled(&mut self, _: Moment, _: DialResult) -> Vec<Effect> {
        Vec::new()
    }

    /// Does everything that is due at `now`.
    fn tick(&mut self, now: Moment) -> Vec<Effect>;

    /// Time at which [`tick`](Self::tick) is due next.
    fn next_tick(&self) -> Option<Moment>;
}
