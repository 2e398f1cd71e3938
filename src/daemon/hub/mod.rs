//! Sockets around a pure [`Machine`]: what a tracker and a manager have in common.
//!
//! One thread receives datagrams and proves their sources, one thread for each connection reads, one writes, and
//! the state thread decides. Invariants: the state thread never waits for a socket; a connection that does not
//! drain its queue is dropped, and delays nobody else; of one connection's requests few wait for the state thread,
//! and datagrams, which heartbeats are, wait behind none of them.

mod connections;
mod datagrams;

use crate::content::limits;
use crate::net::{BindError, Listener, Shutdown, Threads};
use crate::protocol::tracker::TrackerRequest;
use crate::swarm::Moment;
use crate::swarm::keeping::{Answer, News, Task};
use crate::swarm::machine::{ConnectionId, Effect, Machine, Origin};
use connections::Connection;
use crossbeam_channel::{Receiver, Sender, bounded, never, unbounded};
use datagrams::Replies;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Events that may wait for the state thread, in each of the two queues: of datagrams and of connections.
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

/// A datagram whose source is proven, with the number that its answer bears.
type Question = (SocketAddr, u64, TrackerRequest);

/// What the state thread hears of connections.
enum Event {
    /// A connection has said hello.
    Opened(ConnectionId, Connection),
    /// A request over a connection.
    Request(ConnectionId, SocketAddr, TrackerRequest),
    /// A connection has ended.
    Closed(ConnectionId),
}

/// Who carries out what the machine wants done that is neither an answer nor a log line.
///
/// Neither direction is bounded by a number: the machine has few tasks under way by its own rules, and each task makes
/// one piece of news.
pub struct Hands {
    /// Tasks, in the order in which they were given.
    pub tasks: Sender<Task>,
    /// Answers for whoever asked at the prompt.
    pub answers: Sender<(u64, Answer)>,
    /// What has come of the tasks, and what people ask.
    pub news: Receiver<News>,
}

impl Hands {
    /// For a machine that wants nothing done.
    pub fn none() -> Self {
        Self { tasks: unbounded().0, answers: unbounded().0, news: never() }
    }
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
        hands: Hands,
        shutdown: &Shutdown,
    ) -> Result<Self, StartError> {
        let (listener, socket) = Listener::bind_with_datagrams(config.listen)?;
        let address = listener.address();
        let threads = Threads::new();
        let (events, received) = bounded(QUEUE);
        let replies = Replies::new(socket.try_clone()?);
        let (questions, asked) = bounded(QUEUE);
        datagrams::receive(socket, secret()?, questions, &threads, shutdown)?;
        connections::serve(listener, config, events, &threads, shutdown)?;
        let state = State { machine, replies, hands, connections: HashMap::new(), started: Instant::now() };
        let stopped = shutdown.clone();
        threads.spawn("state", move || state.run(&asked, &received, &stopped))?;
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
    hands: Hands,
    connections: HashMap<ConnectionId, Connection>,
    started: Instant,
}

impl<M: Machine> State<M> {
    fn now(&self) -> Moment {
        self.started.elapsed()
    }

    fn run(mut self, asked: &Receiver<Question>, events: &Receiver<Event>, shutdown: &Shutdown) {
        let mut news = self.hands.news.clone();
        while !shutdown.is_stopped() {
            let wait = self.machine.next_tick().map_or(IDLE, |due| due.saturating_sub(self.now()));
            let effects = crossbeam_channel::select! {
                recv(shutdown.signal()) -> _ => break,
                recv(asked) -> question => match question {
                    Ok((from, tx, request)) => {
                        let now = self.now();
                        self.machine.request(now, Origin::Datagram(from, tx), request)
                    }
                    Err(_) => break,
                },
                recv(events) -> event => match event {
                    Ok(event) => self.handle(event),
                    Err(_) => break,
                },
                recv(news) -> heard => match heard {
                    Ok(heard) => self.machine.news(self.started.elapsed(), heard),
                    // Nobody will tell anything any more; a closed channel would be ready all the time.
                    Err(_) => {
                        news = never();
                        Vec::new()
                    }
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
            Event::Opened(id, connection) => {
                self.connections.insert(id, connection);
                Vec::new()
            }
            Event::Request(id, from, request) => {
                if let Some(connection) = self.connections.get(&id) {
                    connection.handled();
                }
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
                Effect::Warning(text) => log::warn!("{text}"),
                // Whoever would carry it out has ended, and so will this.
                Effect::Task(task) => _ = self.hands.tasks.send(task),
                Effect::Answer(number, answer) => _ = self.hands.answers.send((number, answer)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{LinkReader, LinkWriter};
    use crate::protocol::datagram::Datagram;
    use crate::protocol::tracker::{Token, TrackerResponse};
    use crossbeam_channel::Sender;
    use std::net::{TcpStream, UdpSocket};
    use std::sync::Arc;

    /// Requests in the flood: far more than can be handled while the test runs.
    const FLOOD: usize = 20_000;
    /// Longer than anything takes that is not waiting for the whole flood.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Takes long to look something up, tells that it did, and answers nothing but heartbeats.
    struct Slow(Sender<()>);

    impl Machine for Slow {
        fn request(&mut self, _: Moment, origin: Origin, request: TrackerRequest) -> Vec<Effect> {
            match request {
                TrackerRequest::Heartbeat { .. } => vec![Effect::Reply(origin, TrackerResponse::Alive)],
                _ => {
                    // Stands for the work.
                    std::thread::sleep(Duration::from_millis(5));
                    let _ = self.0.send(());
                    Vec::new()
                }
            }
        }

        fn closed(&mut self, _: Moment, _: ConnectionId) -> Vec<Effect> {
            Vec::new()
        }

        fn tick(&mut self, _: Moment) -> Vec<Effect> {
            Vec::new()
        }

        fn next_tick(&self) -> Option<Moment> {
            None
        }
    }

    /// Pipelines many expensive requests over a connection that it gives back.
    fn flood(address: SocketAddr) -> Arc<TcpStream> {
        let stream = Arc::new(TcpStream::connect(address).unwrap());
        let mut writer = LinkWriter::new(stream.clone()).unwrap();
        writer.send(&TrackerRequest::Hello { version: limits::PROTOCOL_VERSION }).unwrap();
        let hello: TrackerResponse = LinkReader::new(stream.clone()).message(Duration::from_secs(9)).unwrap();
        assert!(matches!(hello, TrackerResponse::Hello { .. }));
        std::thread::spawn(move || {
            let lookup = TrackerRequest::Lookup { name: None, id: None, limit: 1, token: None };
            for _ in 0..FLOOD {
                if writer.send(&lookup).is_err() {
                    return;
                }
            }
        });
        stream
    }

    fn ask(socket: &UdpSocket, cookie: Option<crate::protocol::datagram::Cookie>) -> TrackerResponse {
        let heartbeat = TrackerRequest::Heartbeat { token: Token(1) };
        socket.send(&Datagram::new(1, cookie, heartbeat).encode().unwrap()).unwrap();
        let mut buffer = [0; limits::DATAGRAM_MAX];
        let count = socket.recv(&mut buffer).expect("an answer in time");
        Datagram::decode(&buffer[..count]).unwrap().message
    }

    #[test]
    fn a_connection_that_floods_delays_neither_heartbeats_nor_other_connections_nor_the_end() {
        let shutdown = Shutdown::new();
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = HubConfig { listen, connections: 9, outbox: 9 };
        let (tell, handled) = crossbeam_channel::unbounded();
        let hub = Hub::start(&config, Slow(tell), Hands::none(), &shutdown).unwrap();
        let flooding = flood(hub.address());
        // By then as much of it waits as ever will.
        (0..2 * limits::HUB_REQUESTS).for_each(|_| handled.recv_timeout(PATIENCE).unwrap());
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(hub.address()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let TrackerResponse::Cookie { cookie } = ask(&socket, None) else { panic!("no cookie") };
        for _ in 0..5 {
            assert_eq!(ask(&socket, Some(cookie)), TrackerResponse::Alive);
        }
        let stream = Arc::new(TcpStream::connect(hub.address()).unwrap());
        let (mut reader, mut writer) = (LinkReader::new(stream.clone()), LinkWriter::new(stream).unwrap());
        for request in [
            TrackerRequest::Hello { version: limits::PROTOCOL_VERSION },
            TrackerRequest::Heartbeat { token: Token(1) },
        ] {
            writer.send(&request).unwrap();
            reader.message::<TrackerResponse>(PATIENCE).expect("an answer in time");
        }
        shutdown.trigger();
        hub.join();
        assert!(handled.len() < FLOOD / 2, "nobody waits for the flood");
        drop(flooding);
    }
}
