//! Accept loop: a thread for each TCP connection, up to a limit.
//!
//! At the limit, a new connection evicts one without a request so far, or one that has been idle for
//! [`EVICTION_IDLE_MIN`]: idle connections cannot lock out other peers. Invariant: a connection with a recent request is
//! never evicted.

use super::listening::{BindError, Listening};
use super::repeated_warning::RepeatedWarning;
use super::{FrameReader, Shutdown, StreamError, Threads, address_space};
use crate::content::limits::{EVICTION_GRACE_MIN, EVICTION_IDLE_MIN, LISTEN_BACKLOG};
use crate::protocol::Message;
use crate::protocol::peer_address::canonical_address;
use crate::sync::lock;
use socket2::{Domain, Socket, Type};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Pause of the accept loop after the system refused to accept a connection, for example for lack of descriptors.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Interval at which a new connection that waits for the threads of evicted ones checks whether they have ended.
const THREAD_CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// A bound TCP socket that accepts connections.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens on an address; port 0 selects any free port.
    ///
    /// # Errors
    /// The port is in use, or the address does not belong to this host.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let bind = || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            accept_ipv4(&socket, address)?;
            socket.bind(&address.into())?;
            socket.listen(LISTEN_BACKLOG)?;
            let socket = TcpListener::from(socket);
            let address = socket.local_addr()?;
            Ok(Self { socket, address })
        };
        bind().map_err(|error| BindError::new(address, "TCP", error))
    }

    /// Listens on the same port for TCP and UDP. With port 0, up to 16 ports are tried until one is free for both.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_tcp_and_udp(address: SocketAddr) -> Result<(Self, UdpSocket), BindError> {
        let mut attempts = if address.port() == 0 { 16 } else { 1 };
        loop {
            attempts -= 1;
            let listener = Self::bind(address)?;
            match bind_udp(listener.address) {
                Ok(socket) => return Ok((listener, socket)),
                Err(BindError::InUse { .. }) if attempts > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The bound address; its port is never 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts connections until the shutdown, in a thread of its own, and runs `handle` in a thread for each
    /// connection. At `connections_max` connections, an idle one is closed for a new one; if none is idle, the new one
    /// is closed. The returned handle can add addresses, which share the limit.
    ///
    /// # Errors
    /// The thread cannot be spawned.
    pub fn serve(
        self,
        name: &'static str,
        connections_max: usize,
        threads: &Threads,
        shutdown: &Shutdown,
        handle: impl Fn(Arc<TcpStream>, SocketAddr, &Activity) + Send + Sync + 'static,
    ) -> io::Result<Listening> {
        let acceptor = Arc::new(Acceptor {
            name,
            connections_max,
            running: Arc::default(),
            most: AtomicUsize::new(0),
            connections: Arc::default(),
            threads: threads.clone(),
            shutdown: shutdown.clone(),
            warnings: Warnings::default(),
            handle: Arc::new(handle),
        });
        acceptor.start(self.socket)?;
        let listen = move |address| {
            let socket = Self::bind(address)?.socket;
            acceptor.start(socket).map_err(|error| BindError::Other(address, "TCP", error))
        };
        Ok(Listening::new(self.address, listen))
    }
}

/// Binds a UDP socket.
///
/// # Errors
/// The port is in use, or the address does not belong to this host.
pub fn bind_udp(address: SocketAddr) -> Result<UdpSocket, BindError> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        accept_ipv4(&socket, address)?;
        socket.bind(&address.into())?;
        Ok(UdpSocket::from(socket))
    };
    bind().map_err(|error| BindError::new(address, "UDP", error))
}

/// Lets a socket on the unspecified IPv6 address receive IPv4, too, whatever the default of the system is.
fn accept_ipv4(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => socket.set_only_v6(false),
        _ => Ok(()),
    }
}

/// Time of the last request on a connection. The connection handler updates it.
#[derive(Debug, Default)]
pub struct Activity(Mutex<Option<Instant>>);

impl Activity {
    /// Reads the next request, and records the time of its arrival.
    ///
    /// # Errors
    /// Those of [`FrameReader::message`].
    pub fn read_request<M: Message>(
        &self,
        reader: &mut FrameReader,
        timeout: Duration,
    ) -> Result<M, StreamError> {
        let request = reader.message(timeout)?;
        self.record_request();
        Ok(request)
    }

    fn record_request(&self) {
        *lock(&self.0) = Some(Instant::now());
    }

    fn last(&self) -> Option<Instant> {
        *lock(&self.0)
    }
}

/// An open connection that counts against the limit.
struct Connection {
    stream: Arc<TcpStream>,
    from: IpAddr,
    activity: Arc<Activity>,
    accepted: Instant,
}

/// Result of an attempt to evict a connection.
enum Eviction {
    Done,
    /// Try again after this time, when the oldest connection without a request has used up its grace period.
    Later(Duration),
    Impossible,
}

/// The open connections by number, the oldest first.
#[derive(Default)]
struct Connections {
    open: BTreeMap<u64, Connection>,
    next: u64,
}

impl Connections {
    /// Closes the oldest connection without a request; if there is none, the connection that has been idle for longest.
    fn evict(&mut self) -> Eviction {
        let idle = self.open.iter().min_by_key(|(_, connection)| connection.activity.last());
        let Some((&number, connection)) = idle else { return Eviction::Impossible };
        match connection.activity.last() {
            Some(last) if last.elapsed() < EVICTION_IDLE_MIN => return Eviction::Impossible,
            // Without a grace period, a burst of connections would evict each one before its first request.
            None if connection.accepted.elapsed() < EVICTION_GRACE_MIN => {
                return Eviction::Later(EVICTION_GRACE_MIN.saturating_sub(connection.accepted.elapsed()));
            }
            _ => {}
        }
        let _ = connection.stream.shutdown(std::net::Shutdown::Both);
        self.open.remove(&number);
        Eviction::Done
    }
}

/// The most frequent address, and its count.
fn most_frequent(all: impl Iterator<Item = IpAddr>) -> Option<(IpAddr, usize)> {
    let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
    all.for_each(|ip| *counts.entry(ip).or_default() += 1);
    counts.into_iter().max_by_key(|(_, count)| *count)
}

/// Warnings of the accept loop. Any host can cause them.
#[derive(Default)]
struct Warnings {
    accept: RepeatedWarning,
    full: RepeatedWarning,
    thread: RepeatedWarning,
}

struct Acceptor<H> {
    name: &'static str,
    connections_max: usize,
    /// Number of connection threads that have not ended yet, including those of evicted connections.
    running: Arc<AtomicUsize>,
    /// The largest number of connection threads so far.
    most: AtomicUsize,
    connections: Arc<Mutex<Connections>>,
    threads: Threads,
    shutdown: Shutdown,
    warnings: Warnings,
    handle: Arc<H>,
}

/// An entry in the table of open connections; it is removed on drop.
struct Slot {
    number: u64,
    connections: Arc<Mutex<Connections>>,
    running: Arc<AtomicUsize>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.connections).open.remove(&self.number);
        self.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<H: Fn(Arc<TcpStream>, SocketAddr, &Activity) + Send + Sync + 'static> Acceptor<H> {
    /// Starts the thread that accepts the connections of a socket.
    fn start(self: &Arc<Self>, socket: TcpListener) -> io::Result<()> {
        let socket = Arc::new(socket);
        let waker = Arc::downgrade(&socket);
        // Wakes the accept loop. It needs no network: the address may be gone.
        self.shutdown.on_trigger(move || {
            if let Some(socket) = waker.upgrade() {
                let _ = rustix::net::shutdown(&*socket, rustix::net::Shutdown::Both);
            }
        });
        let acceptor = self.clone();
        self.threads.spawn(&format!("{}-accept", self.name), move || acceptor.run(&socket))
    }

    fn run(&self, socket: &TcpListener) {
        let mut full = false;
        while !self.shutdown.is_stopped() {
            match socket.accept() {
                Ok((stream, from)) => {
                    let from = canonical_address(from);
                    let now_full = self.admit(stream, from);
                    if now_full && !std::mem::replace(&mut full, now_full) {
                        self.log_full();
                    }
                    full = now_full;
                }
                Err(_) if self.shutdown.is_stopped() => return,
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) => {
                    self.warnings.accept.log(|| format!("cannot accept a connection: {error}"));
                    lock(&self.connections).evict();
                    self.shutdown.wait(ACCEPT_RETRY_INTERVAL);
                }
            }
        }
    }

    fn log_full(&self) {
        self.warnings.full.log(|| self.full_text());
    }

    fn full_text(&self) -> String {
        let top = most_frequent(lock(&self.connections).open.values().map(|connection| connection.from));
        let origin = top.map(|(ip, count)| format!("; {count} of them from {ip}")).unwrap_or_default();
        format!(
            "connection limit reached: {} open{origin}; a new connection replaces an idle one or is closed",
            self.connections_max
        )
    }

    /// Starts the thread of a connection, if the limit or an eviction permits it. Returns whether the limit was
    /// reached.
    fn admit(&self, stream: TcpStream, from: SocketAddr) -> bool {
        let stream = Arc::new(stream);
        let activity = Arc::new(Activity::default());
        let Some((slot, full)) = self.reserve(&stream, from.ip(), &activity) else { return true };
        let running = self.running.load(Ordering::Relaxed);
        let has_room = match running > self.most.load(Ordering::Relaxed) {
            true => address_space::check(running),
            // The system keeps the stacks of threads that have ended.
            false => Ok(()),
        };
        let (handle, shutdown) = (self.handle.clone(), self.shutdown.clone());
        let run = move || {
            let _slot = slot;
            let _guard = shutdown.guard(&stream);
            if stream.set_nodelay(true).is_ok() && !shutdown.is_stopped() {
                handle(stream, from, &activity);
            }
        };
        let spawned = has_room.and_then(|()| self.threads.spawn(self.name, run));
        if spawned.is_ok() {
            self.most.fetch_max(running, Ordering::Relaxed);
        }
        if let Err(error) = &spawned {
            let text = || format!("connection from {from} closed: cannot start a thread: {error}");
            self.warnings.thread.log(text);
            // Its thread and memory are free for the next connection.
            lock(&self.connections).evict();
        }
        full
    }

    /// Reserves a slot for a connection. Returns it and whether the limit was reached; `None` if no slot is free.
    fn reserve(
        &self,
        stream: &Arc<TcpStream>,
        from: IpAddr,
        activity: &Arc<Activity>,
    ) -> Option<(Slot, bool)> {
        let mut full = false;
        let started = Instant::now();
        loop {
            let mut connections = lock(&self.connections);
            if connections.open.len() < self.connections_max {
                let number = connections.next;
                connections.next += 1;
                let (stream, activity, accepted) = (stream.clone(), activity.clone(), Instant::now());
                connections.open.insert(number, Connection { stream, from, activity, accepted });
                self.running.fetch_add(1, Ordering::Relaxed);
                let slot =
                    Slot { number, connections: self.connections.clone(), running: self.running.clone() };
                return Some((slot, full));
            }
            full = true;
            // The threads of evicted connections may exceed the limit by a quarter. Above that, the new connection
            // waits for them, at most EVICTION_GRACE_MIN.
            let crowded = self.running.load(Ordering::Relaxed)
                >= self.connections_max + self.connections_max.div_ceil(4);
            let eviction = match crowded {
                true if started.elapsed() < EVICTION_GRACE_MIN => Eviction::Later(THREAD_CHECK_INTERVAL),
                true => Eviction::Impossible,
                false => connections.evict(),
            };
            drop(connections);
            match eviction {
                Eviction::Done => {}
                Eviction::Later(wait) if !self.shutdown.wait(wait) => {}
                Eviction::Later(_) | Eviction::Impossible => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn connections_above_the_limit_are_closed_and_shutdown_ends_all() {
        let (threads, shutdown) = (Threads::new(), Shutdown::new());
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.address();
        listener
            .serve("test", 2, &threads, &shutdown, |stream, _, activity| {
                activity.record_request();
                (&*stream).write_all(b"x").unwrap();
                let _ = (&*stream).read(&mut [0]);
            })
            .unwrap();
        let mut streams: Vec<_> = (0..2).map(|_| TcpStream::connect(address).unwrap()).collect();
        for stream in &mut streams {
            assert_eq!(stream.read(&mut [0]).unwrap(), 1);
        }
        assert_eq!(TcpStream::connect(address).unwrap().read(&mut [0]).unwrap(), 0, "the limit is reached");
        shutdown.trigger();
        threads.join();
        assert_eq!(streams[0].read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_running_listener_listens_on_further_addresses() {
        let (threads, shutdown) = (Threads::new(), Shutdown::new());
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listening = listener
            .serve("test", 9, &threads, &shutdown, |stream, _, _| _ = (&*stream).write_all(b"x"))
            .unwrap();
        let further = SocketAddr::from(([127, 0, 0, 2], listening.port()));
        assert!(TcpStream::connect(further).is_err());
        assert!(listening.extend(further).unwrap());
        assert!(!listening.extend(further).unwrap(), "it listens there already");
        assert_eq!(TcpStream::connect(further).unwrap().read(&mut [0]).unwrap(), 1);
        assert!(listening.extend("192.0.2.1:0".parse().unwrap()).is_err(), "not an address of this host");
        shutdown.trigger();
        threads.join();
    }

    #[test]
    fn most_frequent_address_is_found() {
        let [one, other]: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        assert_eq!(most_frequent([one, other, other].into_iter()), Some((other, 2)));
        assert_eq!(most_frequent([].into_iter()), None);
    }

    #[test]
    fn idle_connections_are_evicted_for_new_ones() {
        let (threads, shutdown) = (Threads::new(), Shutdown::new());
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.address();
        listener
            .serve("test", 2, &threads, &shutdown, |stream, _, activity| {
                // Each byte is a request.
                while (&*stream).read(&mut [0]).is_ok_and(|count| count > 0) {
                    activity.record_request();
                    (&*stream).write_all(b"x").unwrap();
                }
                // The thread ends later than its connection, so a new connection has to wait for it.
                std::thread::sleep(Duration::from_millis(20));
            })
            .unwrap();
        let connect = || {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream
        };
        let ask =
            |mut stream: &TcpStream| stream.write_all(b"?").is_ok() && stream.read_exact(&mut [0]).is_ok();
        let mut asking = connect();
        assert!(ask(&asking));
        let mut idle = connect();
        for _ in 0..3 {
            let next = connect();
            assert_eq!(idle.read(&mut [0]).unwrap(), 0, "the idle connection is evicted");
            idle = next;
        }
        assert!(ask(&idle) && ask(&asking));
        assert_eq!(connect().read(&mut [0]).unwrap_or(0), 0, "no connection is idle");
        shutdown.trigger();
        threads.join();
        assert_eq!(asking.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn port_in_use_is_named_in_the_error() {
        let (first, _datagrams) = Listener::bind_tcp_and_udp("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = Listener::bind(first.address()).err().unwrap().to_string();
        let port = first.address().port();
        assert_eq!(error, format!("port {port} on 127.0.0.1 is in use by another program (TCP)"));
    }
}
