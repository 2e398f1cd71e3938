//! Sockets around a pure [`Machine`]: what a tracker and a manager have in common.
//!
//! One thread receives datagrams and proves their sources, one thread for each connection reads, one writes, and
//! the state thread has the machine decide; over datagrams it decides where they are received, when it is free (see
//! `desk`). Invariants: whoever has the machine never waits for a socket; a connection that does not drain its queue is
//! dropped, and delays nobody else; of one connection's requests few wait for the state thread, and datagrams, which
//! heartbeats are, wait behind none of them.

mod connections;
mod datagrams;
mod desk;
mod state;

use crate::net::{BindError, Listener, Shutdown, Threads, Timeouts};
use crate::protocol::tracker::TrackerRequest;
use crate::swarm::keeping::{Answer, News, Task};
use crate::swarm::machine::{ConnectionId, Machine};
use connections::Connection;
use crossbeam_channel::{Receiver, Sender, bounded, never, unbounded};
use datagrams::Replies;
use desk::SharedMachine;
use state::State;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

/// Events of connections that may wait for the state thread.
const QUEUE: usize = 16 * 1024;

/// What a hub is told.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// Where to listen, TCP and UDP.
    pub listen: SocketAddr,
    /// Connections served at once.
    pub connections: usize,
    /// Messages that may wait for a connection before it is dropped.
    pub outbox: usize,
    /// How long connections are waited for.
    pub timeouts: Timeouts,
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
pub struct ExecutorChannels {
    /// Tasks, in the order in which they were given.
    pub tasks: Sender<Task>,
    /// Answers for whoever asked at the prompt.
    pub answers: Sender<(u64, Answer)>,
    /// What has come of the tasks, and what people ask.
    pub news: Receiver<News>,
}

impl ExecutorChannels {
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
        hands: ExecutorChannels,
        shutdown: &Shutdown,
    ) -> Result<Self, StartError> {
        let (listener, socket) = Listener::bind_with_datagrams(config.listen)?;
        let address = listener.address();
        let threads = Threads::new();
        let started = Self::start_in(&threads, config, (listener, socket), machine, hands, shutdown);
        threads.unless_failed(started, shutdown)?;
        Ok(Self { address, threads })
    }

    fn start_in(
        threads: &Threads,
        config: &HubConfig,
        (listener, socket): (Listener, UdpSocket),
        machine: impl Machine + 'static,
        hands: ExecutorChannels,
        shutdown: &Shutdown,
    ) -> io::Result<()> {
        let (events, received) = bounded(QUEUE);
        let replies = Replies::new(socket.try_clone()?);
        let news = hands.news.clone();
        let (bell, rung) = bounded(1);
        let desk = Arc::new(SharedMachine::new(State::new(machine, replies, hands), bell));
        let counter = desk.clone();
        datagrams::receive(socket, secret()?, threads, shutdown, move |batch| counter.hear(batch))?;
        connections::serve(listener, config, events, threads, shutdown)?;
        let stopped = shutdown.clone();
        threads.spawn("state", move || {
            run(&desk, &rung, &received, news, &stopped);
            drop(desk);
            // What was not heard of any more would stay in the channel for as long as somebody can send, and in it
            // connections, whose ends their senders wait for.
            received.iter().for_each(drop);
        })
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

/// Waits for whatever comes next and has the machine handle it, until the shutdown.
fn run<M: Machine>(
    desk: &SharedMachine<M>,
    rung: &Receiver<()>,
    events: &Receiver<Event>,
    mut news: Receiver<News>,
    shutdown: &Shutdown,
) {
    let mut wait = desk.turn().rest();
    while !shutdown.is_stopped() {
        let cause = crossbeam_channel::select! {
            recv(shutdown.signal()) -> _ => break,
            recv(rung) -> _ => Cause::Bell,
            recv(events) -> event => match event {
                Ok(event) => Cause::Event(event),
                Err(_) => break,
            },
            recv(news) -> heard => match heard {
                Ok(heard) => Cause::News(heard),
                // Nobody will tell anything any more; a closed channel would be ready all the time.
                Err(_) => {
                    news = never();
                    continue;
                }
            },
            default(wait) => Cause::Time,
        };
        let mut state = desk.turn();
        match cause {
            Cause::Bell => desk.answer_waiting(&mut state),
            Cause::Event(event) => state.handle(event),
            Cause::News(heard) => state.hear(heard),
            Cause::Time => {}
        }
        // Also under load: a lease ends when it ends.
        state.tick();
        wait = state.rest();
    }
}

/// Why the state thread is awake.
enum Cause {
    Bell,
    Event(Event),
    News(News),
    Time,
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
    use crate::content::limits;
    use crate::net::{LinkReader, LinkWriter};
    use crate::protocol::datagram::Datagram;
    use crate::protocol::tracker::{Token, TrackerResponse};
    use crate::swarm::Moment;
    use crate::swarm::machine::{Effect, Origin};
    use crossbeam_channel::Sender;
    use std::net::{TcpStream, UdpSocket};

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

    /// Connections of this process that are written to.
    fn writers() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name.trim_end() == "link-out").count()
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
        let config = HubConfig { listen, connections: 9, outbox: 9, timeouts: Timeouts::default() };
        let (tell, handled) = crossbeam_channel::unbounded();
        let hub = Hub::start(&config, Slow(tell), ExecutorChannels::none(), &shutdown).unwrap();
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

    #[test]
    fn connections_that_the_state_thread_has_not_heard_of_end_with_the_hub() {
        let shutdown = Shutdown::new();
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = HubConfig { listen, connections: 99, outbox: 9, timeouts: Timeouts::default() };
        // With a channel that has no room the machine is in the middle of a request for as long as nobody listens.
        let (tell, handled) = bounded(0);
        let hub = Hub::start(&config, Slow(tell), ExecutorChannels::none(), &shutdown).unwrap();
        let connect = || {
            let stream = Arc::new(TcpStream::connect(hub.address()).unwrap());
            stream.set_nodelay(true).unwrap();
            let (mut reader, mut writer) =
                (LinkReader::new(stream.clone()), LinkWriter::new(stream).unwrap());
            writer.send(&TrackerRequest::Hello { version: limits::PROTOCOL_VERSION }).unwrap();
            reader.message::<TrackerResponse>(PATIENCE).expect("an answer in time");
            (reader, writer)
        };
        let (_busy, mut asks) = connect();
        for _ in 0..2 {
            asks.send(&TrackerRequest::Lookup { name: None, id: None, limit: 1, token: None }).unwrap();
        }
        handled.recv_timeout(PATIENCE).unwrap();
        let unheard: Vec<_> = (0..50).map(|_| connect()).collect();
        // One begins to write when the state thread has been told of it.
        let began = std::time::Instant::now();
        while writers() < unheard.len() {
            assert!(began.elapsed() < PATIENCE, "{} write", writers());
            std::thread::yield_now();
        }
        shutdown.trigger();
        // The machine goes on, and sees that it is over.
        drop(handled);
        let (ended, end) = bounded(0);
        std::thread::spawn(move || {
            hub.join();
            drop::<Sender<()>>(ended);
        });
        let end = end.recv_timeout(PATIENCE);
        assert_eq!(end, Err(crossbeam_channel::RecvTimeoutError::Disconnected), "it ends");
        drop(unheard);
    }
}
