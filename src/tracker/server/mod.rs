//! TCP and UDP server around a pure [`Machine`], used by trackers and managers, and by a seeder on the port of its upload
//! server ([`SharedPortServer`]).
//!
//! One thread for each UDP socket receives datagrams and validates their sources. Each connection has a reader and a writer thread. The
//! state thread passes events of connections to the machine. The datagram thread passes datagrams to it directly if it
//! is free. Invariants: a thread that holds the machine never waits for a socket; a connection whose send queue is full
//! is closed and delays no other peer; the number of requests of one connection that wait for the state thread is
//! bounded; datagrams, heartbeats among them, do not queue behind requests of connections.

mod connections;
mod datagrams;
mod dial_back;
mod shared_machine;
mod shared_port;
mod state;
mod udp_socket;

use crate::net::{BindError, InFlightBudget, Listener, POLL_INTERVAL, Shutdown, Threads, Timeouts};
use crate::protocol::tracker::TrackerRequest;
use crate::report::{Fault, RoleError};
use crate::swarm::keeping::TaskOutcome;
use crate::swarm::machine::{ConnectionId, Machine};
use crate::swarm::reach::DialResult;
use crate::tracker::commands::{Answers, Commands};
use crate::tracker::tasks::{TaskSender, task_channel};
use connections::Connection;
use crossbeam_channel::{Receiver, Sender, bounded, never, unbounded};
use datagrams::Replies;
use dial_back::DialQueue;
use log::Level;
use shared_machine::SharedMachine;
pub use shared_port::SharedPortServer;
use state::State;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use udp_socket::ServerSockets;

/// Capacity of the queue of connection events for the state thread.
const QUEUE: usize = 16 * 1024;

/// Address, limits and timeouts of a server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Address for both TCP and UDP.
    pub listen: SocketAddr,
    /// Maximum number of connections.
    pub connections: usize,
    /// Messages that may be queued for a connection before it is closed.
    pub outbox: usize,
    /// Bytes of responses that wait for their readers, over all connections.
    pub in_flight: InFlightBudget,
    /// Timeouts of connections.
    pub timeouts: Timeouts,
}

/// The reason that a server cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// No thread can be started, or no random bytes are available.
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
}

/// Events of connections, for the state thread.
enum Event {
    /// The hello exchange of a connection is complete.
    Opened(ConnectionId, Connection),
    /// A request over a connection.
    Request(ConnectionId, SocketAddr, TrackerRequest),
    /// A connection has ended.
    Closed(ConnectionId),
}

/// Channels to the executor, which carries out the machine's disk and host tasks, and to the senders of commands.
///
/// The channels are unbounded: the machine limits its outstanding tasks itself, and each task has one outcome.
pub struct ExecutorChannels {
    /// Tasks, in the order of the machine's decisions.
    pub tasks: TaskSender,
    /// Receivers of the answers to commands.
    pub answers: Answers,
    /// Outcomes of tasks, and commands.
    pub outcomes: Receiver<TaskOutcome>,
}

impl ExecutorChannels {
    /// Channels without an executor, for a machine that has no tasks.
    pub fn none() -> Self {
        Self { tasks: task_channel().0, answers: Answers::default(), outcomes: never() }
    }

    /// Channels for the commands of a prompt, without an executor.
    pub fn of_commands() -> (Self, Commands) {
        let (sender, outcomes) = unbounded();
        let commands = Commands::new(sender);
        (Self { tasks: task_channel().0, answers: commands.answers(), outcomes }, commands)
    }
}

/// A running server.
pub struct SwarmServer {
    address: SocketAddr,
    threads: Threads,
}

impl SwarmServer {
    /// Binds the sockets and starts the threads. The server runs until the shutdown.
    ///
    /// # Errors
    /// The address cannot be bound, no thread can be started, or no random bytes are available.
    pub fn start(
        config: &ServerConfig,
        machine: impl Machine + 'static,
        channels: ExecutorChannels,
        shutdown: &Shutdown,
    ) -> Result<Self, StartError> {
        let (listener, socket) = Listener::bind_tcp_and_udp(config.listen)?;
        let address = listener.address();
        let threads = Threads::new();
        let started = Self::start_in(&threads, config, (listener, socket), machine, channels, shutdown);
        threads.join_on_error(started, shutdown)?;
        Ok(Self { address, threads })
    }

    fn start_in(
        threads: &Threads,
        config: &ServerConfig,
        (listener, socket): (Listener, UdpSocket),
        machine: impl Machine + 'static,
        channels: ExecutorChannels,
        shutdown: &Shutdown,
    ) -> io::Result<()> {
        let (datagrams, events) = start_machine(machine, channels, Level::Info, threads, shutdown)?;
        datagrams.receive_from(socket, threads, shutdown)?;
        connections::serve(listener, config, events, threads, shutdown)
    }

    /// The address on which the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The threads of the server, for others that end with it.
    pub fn threads(&self) -> &Threads {
        &self.threads
    }

    /// Waits until all threads have ended after a shutdown.
    pub fn join(self) {
        self.threads.join();
    }
}

/// A machine and the sockets through which it receives datagrams.
struct DatagramInputs<M> {
    shared: Arc<SharedMachine<M>>,
    sockets: ServerSockets,
}

impl<M: Machine + 'static> DatagramInputs<M> {
    /// Starts the thread that receives the datagrams of a socket.
    fn receive_from(&self, socket: UdpSocket, threads: &Threads, shutdown: &Shutdown) -> io::Result<()> {
        let (secret, socket) = (secret()?, self.sockets.add(socket)?);
        let (shared, replies) = (self.shared.clone(), Replies::new(self.sockets.clone()));
        let process = move |batch: &mut _| shared.process_or_queue(batch);
        datagrams::receive(socket, replies, secret, threads, shutdown, process)
    }
}

/// Starts the threads of a machine without sockets: the state thread, and those that dial peers. Events of connections
/// come through the returned channel.
fn start_machine<M: Machine + 'static>(
    machine: M,
    channels: ExecutorChannels,
    note_level: Level,
    threads: &Threads,
    shutdown: &Shutdown,
) -> io::Result<(DatagramInputs<M>, Sender<Event>)> {
    let sockets = ServerSockets::default();
    let (events, received) = bounded(QUEUE);
    let replies = Replies::new(sockets.clone());
    let outcomes = channels.outcomes.clone();
    let (wake, woken) = bounded(1);
    let (dials, dialled) = DialQueue::start(threads, shutdown)?;
    let state = State::new(machine, replies, channels, dials).with_note_level(note_level);
    let shared = Arc::new(SharedMachine::new(state, wake));
    let inputs = DatagramInputs { shared: shared.clone(), sockets };
    let stopped = shutdown.clone();
    threads.spawn("state", move || {
        run(&shared, Inputs { woken, events: &received, outcomes, dialled }, &stopped);
        drop(shared);
        // Unprocessed events would stay in the channel until the last sender is dropped, and with them the
        // connections for whose end these senders wait.
        received.iter().for_each(drop);
    })?;
    Ok((inputs, events))
}

/// Random bytes that cannot be guessed, for cookies and seeds.
pub(crate) fn secret() -> io::Result<[u8; 32]> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    Ok(secret)
}

/// A random number that cannot be guessed.
///
/// Retries on an error: the system's generator does not fail after its first success.
pub(crate) fn draw() -> u128 {
    let mut bytes = [0; 16];
    while getrandom::fill(&mut bytes).is_err() {
        std::thread::yield_now();
    }
    u128::from_be_bytes(bytes)
}

/// Loop of the state thread: waits for the next event and passes it to the machine, until the
/// shutdown.
fn run<M: Machine>(shared: &SharedMachine<M>, inputs: Inputs<'_>, shutdown: &Shutdown) {
    let Inputs { woken, events, mut outcomes, dialled } = inputs;
    let mut wait = shared.lock().time_to_tick();
    while !shutdown.is_stopped() {
        let cause = crossbeam_channel::select! {
            recv(shutdown.signal()) -> _ => break,
            recv(woken) -> _ => Cause::Wake,
            recv(events) -> event => match event {
                Ok(event) => Cause::Event(event),
                Err(_) => break,
            },
            recv(dialled) -> result => match result {
                Ok(result) => Cause::Dialled(result),
                Err(_) => break,
            },
            recv(outcomes) -> received => match received {
                Ok(outcome) => Cause::Outcome(outcome),
                // The executor has ended. A closed channel would always be ready, so it is replaced.
                Err(_) => {
                    outcomes = never();
                    continue;
                }
            },
            default(wait) => Cause::Time,
        };
        let mut state = shared.lock();
        match cause {
            Cause::Wake => shared.process_queued(&mut state),
            Cause::Event(event) => state.handle(event),
            Cause::Outcome(outcome) => state.handle_outcome(outcome),
            Cause::Dialled(result) => state.handle_dialled(result),
            Cause::Time => {}
        }
        // After each event, so that leases also expire in time under load.
        state.tick();
        wait = state.time_to_tick();
    }
}

/// Channels of the state thread.
struct Inputs<'a> {
    woken: Receiver<()>,
    events: &'a Receiver<Event>,
    outcomes: Receiver<TaskOutcome>,
    dialled: Receiver<DialResult>,
}

/// The reason for a wake-up of the state thread.
enum Cause {
    Wake,
    Event(Event),
    Outcome(TaskOutcome),
    Dialled(DialResult),
    Time,
}

/// Queues an event for the state thread; blocks while the queue is full.
///
/// Returns `false` after the shutdown.
fn forward(events: &Sender<Event>, shutdown: &Shutdown, mut event: Event) -> bool {
    use crossbeam_channel::SendTimeoutError;
    while !shutdown.is_stopped() {
        match events.send_timeout(event, POLL_INTERVAL) {
            Ok(()) => return true,
            Err(SendTimeoutError::Timeout(back)) => event = back,
            Err(SendTimeoutError::Disconnected(_)) => return false,
        }
    }
    false
}

impl From<StartError> for RoleError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Bind(error) => Self::bind("--listen HOST:PORT")(error),
            StartError::Io(_) => Self::from_error(Fault::Other, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::limits;
    use crate::net::{FrameReader, FrameWriter};
    use crate::protocol::datagram::Datagram;
    use crate::protocol::tracker::{Token, TrackerResponse};
    use crate::swarm::Moment;
    use crate::swarm::machine::{Effect, Origin};
    use std::net::{TcpStream, UdpSocket};
    use std::time::Duration;

    /// Requests in the flood: more than the machine can process during the test.
    const FLOOD: usize = 20_000;
    /// Longer than any operation that does not wait for the whole flood.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A machine with slow lookups.
    ///
    /// It reports each lookup over a channel and responds only to heartbeats.
    struct Slow(Sender<()>);

    impl Machine for Slow {
        fn request(&mut self, _: Moment, origin: Origin, request: TrackerRequest) -> Vec<Effect> {
            match request {
                TrackerRequest::Heartbeat { .. } => vec![Effect::Reply(origin, TrackerResponse::Alive)],
                _ => {
                    // Simulates the time of a lookup.
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

    /// Pipelines `FLOOD` lookups over a new connection and returns the connection.
    fn flood(address: SocketAddr) -> Arc<TcpStream> {
        let stream = Arc::new(TcpStream::connect(address).unwrap());
        let mut writer = FrameWriter::new(stream.clone()).unwrap();
        writer.send(&TrackerRequest::Hello { version: limits::PROTOCOL_VERSION }).unwrap();
        let hello: TrackerResponse =
            FrameReader::new(stream.clone()).message(Duration::from_secs(9)).unwrap();
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

    /// Number of connection writer threads of this process.
    fn writers() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name.trim_end() == "link-out").count()
    }

    fn ask(socket: &UdpSocket, cookie: Option<crate::protocol::datagram::Cookie>) -> TrackerResponse {
        let heartbeat = TrackerRequest::Heartbeat { token: Token(1) };
        socket.send(&Datagram::new(1, cookie, heartbeat).encode().unwrap()).unwrap();
        let mut buffer = [0; limits::DATAGRAM_MAX];
        let count = socket.recv(&mut buffer).expect("a response before the timeout");
        Datagram::decode(&buffer[..count]).unwrap().message
    }

    #[test]
    fn flooding_connection_delays_neither_heartbeats_nor_other_connections_nor_shutdown() {
        let shutdown = Shutdown::new();
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = ServerConfig {
            listen,
            connections: 9,
            outbox: 9,
            in_flight: InFlightBudget::new(1 << 20),
            timeouts: Timeouts::default(),
        };
        let (report, handled) = crossbeam_channel::unbounded();
        let server = SwarmServer::start(&config, Slow(report), ExecutorChannels::none(), &shutdown).unwrap();
        let flooding = flood(server.address());
        // From here on the number of queued requests is at its limit.
        (0..2 * limits::CONNECTION_REQUESTS_MAX).for_each(|_| handled.recv_timeout(PATIENCE).unwrap());
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server.address()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let TrackerResponse::Cookie { cookie } = ask(&socket, None) else { panic!("no cookie") };
        for _ in 0..5 {
            assert_eq!(ask(&socket, Some(cookie)), TrackerResponse::Alive);
        }
        let stream = Arc::new(TcpStream::connect(server.address()).unwrap());
        let (mut reader, mut writer) = (FrameReader::new(stream.clone()), FrameWriter::new(stream).unwrap());
        for request in [
            TrackerRequest::Hello { version: limits::PROTOCOL_VERSION },
            TrackerRequest::Heartbeat { token: Token(1) },
        ] {
            writer.send(&request).unwrap();
            reader.message::<TrackerResponse>(PATIENCE).expect("a response before the timeout");
        }
        shutdown.trigger();
        server.join();
        assert!(handled.len() < FLOOD / 2, "the shutdown does not wait for the flood");
        drop(flooding);
    }

    #[test]
    fn connections_still_unknown_to_the_state_thread_end_at_shutdown() {
        let shutdown = Shutdown::new();
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = ServerConfig {
            listen,
            connections: 99,
            outbox: 9,
            in_flight: InFlightBudget::new(1 << 20),
            timeouts: Timeouts::default(),
        };
        // With a channel of capacity 0 the machine blocks within a request until the test receives its report.
        let (report, handled) = bounded(0);
        let server = SwarmServer::start(&config, Slow(report), ExecutorChannels::none(), &shutdown).unwrap();
        let connect = || {
            let stream = Arc::new(TcpStream::connect(server.address()).unwrap());
            stream.set_nodelay(true).unwrap();
            let (mut reader, mut writer) =
                (FrameReader::new(stream.clone()), FrameWriter::new(stream).unwrap());
            writer.send(&TrackerRequest::Hello { version: limits::PROTOCOL_VERSION }).unwrap();
            reader.message::<TrackerResponse>(PATIENCE).expect("a response before the timeout");
            (reader, writer)
        };
        let (_busy, mut busy_writer) = connect();
        for _ in 0..2 {
            busy_writer
                .send(&TrackerRequest::Lookup { name: None, id: None, limit: 1, token: None })
                .unwrap();
        }
        handled.recv_timeout(PATIENCE).unwrap();
        let unknown: Vec<_> = (0..50).map(|_| connect()).collect();
        // The writer thread of a connection starts after its event has been queued for the state thread.
        let began = std::time::Instant::now();
        while writers() < unknown.len() {
            assert!(began.elapsed() < PATIENCE, "{} writer threads", writers());
            std::thread::yield_now();
        }
        shutdown.trigger();
        // Unblocks the machine; the state thread then sees the shutdown.
        drop(handled);
        let (ended, end) = bounded(0);
        std::thread::spawn(move || {
            server.join();
            drop::<Sender<()>>(ended);
        });
        let end = end.recv_timeout(PATIENCE);
        assert_eq!(end, Err(crossbeam_channel::RecvTimeoutError::Disconnected), "the server ends");
        drop(unknown);
    }
}
