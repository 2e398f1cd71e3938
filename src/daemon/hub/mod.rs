//! Sockets around a pure [`Machine`]: what a tracker and a manager have in common.
//!
//! One thread receives datagrams and proves their sources, one thread for each connection reads, one writes, and
//! the state thread decides. Invariant: the state thread never waits for a socket; a connection that does not
//! drain its queue is dropped, and delays nobody else.

mod connections;
mod datagrams;

use crate::content::limits;
use crate::net::{BindError, Listener, Shutdown, Threads};
use crate::protocol::tracker::TrackerRequest;
use crate::swarm::Moment;
use crate::swarm::machine::{ConnectionId, Effect, Machine, Origin};
use connections::Connection;
use crossbeam_channel::{Receiver, bounded};
use datagrams::Replies;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Events that may wait for the state thread.
const QUEUE: usize = 16 * 1024;
/// The longest the state thread sleeps.
const IDLE: Duration = Duration::from_secs(3600);

/// What a hub is told.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// Where to listen, TCP and UDP.
    pub listen: SocketAddr,
    /// Connections served at once.
    pub connections: usize,
    /// Messages that may wait for a connection before it is dropped.
    pub outbox: usize,
}

/// Why a hub cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// No thread, or no randomness.
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
}

/// Everything that the state thread reacts to.
enum Event {
    /// A datagram whose source is proven.
    Datagram(SocketAddr, u64, TrackerRequest),
    /// A connection has said hello.
    Opened(ConnectionId, Connection),
    /// A request over a connection.
    Request(ConnectionId, SocketAddr, TrackerRequest),
    /// A connection has ended.
    Closed(ConnectionId),
}

/// A running hub.
pub struct Hub {
    address: SocketAddr,
    threads: Threads,
}

impl Hub {
    /// Binds and starts a machine. It runs until the shutdown.
    ///
    /// # Errors
    /// When the port is taken, or the system gives no threads or randomness.
    pub fn start(
        config: &HubConfig,
        machine: impl Machine + 'static,
        shutdown: &Shutdown,
    ) -> Result<Self, StartError> {
        let (listener, socket) = Listener::bind_with_datagrams(config.listen)?;
        let address = listener.address();
        let threads = Threads::new();
        let (events, received) = bounded(QUEUE);
        let replies = Replies::new(socket.try_clone()?);
        datagrams::receive(socket, secret()?, events.clone(), &threads, shutdown)?;
        connections::serve(listener, config, events, &threads, shutdown)?;
        let state = State { machine, replies, connections: HashMap::new(), started: Instant::now() };
        let stopped = shutdown.clone();
        threads.spawn("state", move || state.run(&received, &stopped))?;
        Ok(Self { address, threads })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has ended after a shutdown.
    pub fn join(self) {
        self.threads.join();
    }
}

/// Bytes that nobody can guess.
pub(super) fn secret() -> io::Result<[u8; 32]> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    Ok(secret)
}

/// A number that nobody can guess. The system's generator does not fail once it has worked.
pub(super) fn draw() -> u128 {
    let mut bytes = [0; 16];
    while getrandom::fill(&mut bytes).is_err() {
        std::thread::yield_now();
    }
    u128::from_be_bytes(bytes)
}

struct State<M> {
    machine: M,
    replies: Replies,
    connections: HashMap<ConnectionId, Connection>,
    started: Instant,
}

impl<M: Machine> State<M> {
    fn now(&self) -> Moment {
        self.started.elapsed()
    }

    fn run(mut self, events: &Receiver<Event>, shutdown: &Shutdown) {
        while !shutdown.is_stopped() {
            let wait = self.machine.next_tick().map_or(IDLE, |due| due.saturating_sub(self.now()));
            let effects = crossbeam_channel::select! {
                recv(shutdown.signal()) -> _ => break,
                recv(events) -> event => match event {
                    Ok(event) => self.handle(event),
                    Err(_) => break,
                },
                default(wait) => Vec::new(),
            };
            self.apply(effects);
            // Also under load: a lease ends when it ends.
            let effects = self.machine.tick(self.now());
            self.apply(effects);
        }
    }

    fn handle(&mut self, event: Event) -> Vec<Effect> {
        let now = self.now();
        match event {
            Event::Datagram(from, tx, request) => {
                self.machine.request(now, Origin::Datagram(from, tx), request)
            }
            Event::Opened(id, connection) => {
                self.connections.insert(id, connection);
                Vec::new()
            }
            Event::Request(id, from, request) => {
                self.machine.request(now, Origin::Connection(id, from.ip()), request)
            }
            Event::Closed(id) => {
                self.connections.remove(&id);
                self.machine.closed(now, id)
            }
        }
    }

    fn apply(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Reply(Origin::Datagram(to, tx), response) => self.replies.send(to, tx, response),
                Effect::Reply(Origin::Connection(id, _), response) | Effect::Push(id, response) => {
                    self.send(id, (response, None));
                }
                Effect::PushWith(id, response, payload) => self.send(id, (response, Some(payload))),
                Effect::Event(line) => log::info!(target: limits::EVENT_TARGET, "{line}"),
                Effect::Note(text) => log::info!("{text}"),
            }
        }
    }

    fn send(&mut self, id: ConnectionId, outgoing: connections::Outgoing) {
        if let Some(connection) = self.connections.get(&id)
            && !connection.send(outgoing)
        {
            // Its reader ends now and reports it closed.
            self.connections.remove(&id);
        }
    }
}

/// What waits for the state thread is bounded, so senders wait; they do so only while it runs.
fn forward(events: &crossbeam_channel::Sender<Event>, shutdown: &Shutdown, mut event: Event) -> bool {
    use crossbeam_channel::SendTimeoutError;
    while !shutdown.is_stopped() {
        match events.send_timeout(event, Duration::from_millis(100)) {
            Ok(()) => return true,
            Err(SendTimeoutError::Timeout(back)) => event = back,
            Err(SendTimeoutError::Disconnected(_)) => return false,
        }
    }
    false
}
