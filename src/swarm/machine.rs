//! What a daemon that answers requests is, seen from its state: requests, endings and ticks in, effects out.
//!
//! The daemon around a [`Machine`] does the reading, writing and waiting; the machine decides and never waits.

use super::Moment;
use super::keeping::{Answer, News, Task};
use crate::protocol::tracker::{TrackerRequest, TrackerResponse};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A connection over TCP, numbered by the daemon.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConnectionId(pub u64);

/// Where a request came from, and where its response goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A datagram, with the asker's number, whose source address is proven.
    Datagram(SocketAddr, u64),
    /// A connection from this address.
    Connection(ConnectionId, IpAddr),
}

/// What the daemon is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Answer a request.
    Reply(Origin, TrackerResponse),
    /// Tell a connected peer something.
    Push(ConnectionId, TrackerResponse),
    /// Tell a connected peer something that has a payload. One payload may go to many.
    PushWith(ConnectionId, TrackerResponse, Arc<[u8]>),
    /// Write an event line.
    Event(String),
    /// Write a log line.
    Note(String),
    /// Write a log line that somebody should see to.
    Warning(String),
    /// Have something done that needs a disk or a socket; it comes back as [`news`](Machine::news).
    Task(Task),
    /// Answer what was asked under this number at the prompt.
    Answer(u64, Answer),
}

/// The state of a daemon that answers requests.
pub trait Machine: Send {
    /// Looks at what a request will need, so that the processor has it at hand when its turn comes. Changes nothing.
    fn prefetch(&self, _: &TrackerRequest) {}

    /// Handles a request. The answer comes first among the effects.
    fn request(&mut self, now: Moment, origin: Origin, request: TrackerRequest) -> Vec<Effect>;

    /// A connection has ended.
    fn closed(&mut self, now: Moment, connection: ConnectionId) -> Vec<Effect>;

    /// A task is done, or a person wants something.
    fn news(&mut self, _: Moment, _: News) -> Vec<Effect> {
        Vec::new()
    }

    /// Does what the time that has passed asks for.
    fn tick(&mut self, now: Moment) -> Vec<Effect>;

    /// When [`tick`](Self::tick) has something to do next.
    fn next_tick(&self) -> Option<Moment>;
}
