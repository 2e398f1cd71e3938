//! Accepting connections, each into a thread of its own, up to a cap.
//!
//! When the cap is reached a new connection takes the place of one that has asked for nothing yet, or for nothing in a
//! long time: whoever only holds places keeps nobody out. Invariant: a connection on which something was asked lately
//! is never closed for another one.

use super::{Shutdown, Threads};
use crate::content::limits::{EVICTION_GRACE, EVICTION_IDLE, LISTEN_BACKLOG};
use socket2::{Domain, Socket, Type};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long accepting rests after the system had no room for another connection.
const REST: Duration = Duration::from_millis(100);

/// How often it is looked whether evicted connections have ended, while a new one waits for that.
const CROWDED_PAUSE: Duration = Duration::from_millis(5);

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has the port.
    #[error("port {port} on {ip} is in use by another program ({protocol})", port = .address.port(), ip = .address.ip())]
    InUse {
        /// The address.
        address: SocketAddr,
        /// TCP or UDP.
        protocol: &'static str,
    },
    /// Anything else.
    #[error("cannot listen on {0} ({1}): {2}")]
    Other(SocketAddr, &'static str, #[source] io::Error),
}

impl BindError {
    fn new(address: SocketAddr, protocol: &'static str, error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::AddrInUse => BindError::InUse { address, protocol },
            _ => BindError::Other(address, protocol, error),
        }
    }
}

/// A socket that takes connections.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens on an address; port 0 takes any free one.
    ///
    /// # Errors
    /// When the port is taken, or the address is not one of this machine.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let bind = || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(LISTEN_BACKLOG)?;
            let socket = TcpListener::from(socket);
            let address = socket.local_addr()?;
            Ok(Self { socket, address })
        };
        bind().map_err(|error| BindError::new(address, "TCP", error))
    }

    /// Listens on the same port for connections and for datagrams. With port 0 a few are tried until
    /// one is free for both.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_tcp_and_udp(address: SocketAddr) -> Result<(Self, UdpSocket), BindError> {
        let mut tries = if address.port() == 0 { 16 } else { 1 };
        loop {
            tries -= 1;
            let listener = Self::bind(address)?;
            match UdpSocket::bind(listener.address) {
                Ok(socket) => return Ok((listener, socket)),
                Err(error) if error.kind() == ErrorKind::AddrInUse && tries > 0 => {}
                Err(error) => return Err(BindError::new(listener.address, "UDP", error)),
            }
        }
    }

    /// Where it really listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until the shutdown, in a thread of its own, and runs `handle` in a thread for each
    /// connection. Beyond `most` connections at once one that is idle is closed for a new one, or else the new one.
    ///
    /// # Errors
    /// When no thread can be spawned.
    pub fn serve(
        self,
        name: &'static str,
        most: usize,
        threads: &Threads,
        shutdown: &Shutdown,
        handle: impl Fn(Arc<TcpStream>, SocketAddr, &Activity) + Send + Sync + 'static,
    ) -> io::Result<()> {
        let wake = reachable(self.address);
        // A connection of our own wakes the accept, as tiny_http does it.
        shutdown.on_trigger(move || drop(TcpStream::connect_timeout(&wake, Duration::from_secs(1))));
        let acceptor = Acceptor {
            name,
            most,
            running: Arc::default(),
            seats: Arc::default(),
            threads: threads.clone(),
            shutdown: shutdown.clone(),
            handle: Arc::new(handle),
        };
        threads.spawn(&format!("{name}-accept"), move || acceptor.run(&self.socket))
    }
}

/// When something was last asked for on a connection. Whoever handles it keeps this up to date.
#[derive(Debug, Default)]
pub struct Activity(Mutex<Option<Instant>>);

impl Activity {
    /// Something has just been asked for.
    pub fn record_request(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn last(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that has a place.
struct Seat {
    stream: Arc<TcpStream>,
    from: IpAddr,
    activity: Arc<Activity>,
    since: Instant,
}

/// Whether a place could be taken from somebody.
enum Eviction {
    Done,
    /// When it may be tried again: until then everybody may still have something to say.
    Later(Duration),
    Impossible,
}

/// The connections that have places, the oldest first.
#[derive(Default)]
struct Seats {
    taken: BTreeMap<u64, Seat>,
    next: u64,
}

impl Seats {
    /// Takes the place of a connection that nobody will miss: the oldest on which nothing was ever asked, or the one on
    /// which nothing was for longest.
    fn evict(&mut self) -> Eviction {
        let idle = self.taken.iter().min_by_key(|(_, seat)| seat.activity.last());
        let Some((&number, seat)) = idle else { return Eviction::Impossible };
        match seat.activity.last() {
            Some(last) if last.elapsed() < EVICTION_IDLE => return Eviction::Impossible,
            // A place that is taken away at once is none: in a rush nobody would get to speak.
            None if seat.since.elapsed() < EVICTION_GRACE => {
                return Eviction::Later(EVICTION_GRACE.saturating_sub(seat.since.elapsed()));
            }
            _ => {}
        }
        let _ = seat.stream.shutdown(std::net::Shutdown::Both);
        self.taken.remove(&number);
        Eviction::Done
    }
}

/// The one that occurs most often, and how often.
fn commonest(all: impl Iterator<Item = IpAddr>) -> Option<(IpAddr, usize)> {
    let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
    all.for_each(|ip| *counts.entry(ip).or_default() += 1);
    counts.into_iter().max_by_key(|(_, count)| *count)
}

struct Acceptor<H> {
    name: &'static str,
    most: usize,
    /// Threads that have not ended yet, also of connections that have no place any more.
    running: Arc<AtomicUsize>,
    seats: Arc<Mutex<Seats>>,
    threads: Threads,
    shutdown: Shutdown,
    handle: Arc<H>,
}

/// One of the places; gives it back when dropped.
struct Place {
    number: u64,
    seats: Arc<Mutex<Seats>>,
    running: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.seats).taken.remove(&self.number);
        self.running.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock(seats: &Mutex<Seats>) -> MutexGuard<'_, Seats> {
    seats.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<H: Fn(Arc<TcpStream>, SocketAddr, &Activity) + Send + Sync + 'static> Acceptor<H> {
    fn run(&self, socket: &TcpListener) {
        let mut full = false;
        while !self.shutdown.is_stopped() {
            match socket.accept() {
                Ok((stream, from)) => {
                    let now_full = self.admit(stream, from);
                    if now_full && !std::mem::replace(&mut full, now_full) {
                        self.say_full();
                    }
                    full = now_full;
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) => {
                    log::warn!("cannot accept a connection: {error}");
                    lock(&self.seats).evict();
                    self.shutdown.wait(REST);
                }
            }
        }
    }

    fn say_full(&self) {
        let most = commonest(lock(&self.seats).taken.values().map(|seat| seat.from));
        let whose = most.map(|(ip, count)| format!("; {count} of them are from {ip}")).unwrap_or_default();
        log::warn!("{} connections are open: only idle ones make room for others{whose}", self.most);
    }

    /// Takes a connection in, if there is a place or one can be made. Returns whether all places were taken.
    fn admit(&self, stream: TcpStream, from: SocketAddr) -> bool {
        let stream = Arc::new(stream);
        let activity = Arc::new(Activity::default());
        let Some((place, full)) = self.place(&stream, from.ip(), &activity) else { return true };
        let (handle, shutdown) = (self.handle.clone(), self.shutdown.clone());
        let spawned = self.threads.spawn(self.name, move || {
            let _place = place;
            let _guard = shutdown.guard(&stream);
            if stream.set_nodelay(true).is_ok() && !shutdown.is_stopped() {
                handle(stream, from, &activity);
            }
        });
        if let Err(error) = &spawned {
            log::warn!("no thread for the connection from {from}: {error}");
        }
        full
    }

    /// A place for a connection, and whether all were taken; `None` when none can be had.
    fn place(
        &self,
        stream: &Arc<TcpStream>,
        from: IpAddr,
        activity: &Arc<Activity>,
    ) -> Option<(Place, bool)> {
        let mut full = false;
        let begun = Instant::now();
        loop {
            let mut seats = lock(&self.seats);
            if seats.taken.len() < self.most {
                let number = seats.next;
                seats.next += 1;
                let (stream, activity, since) = (stream.clone(), activity.clone(), Instant::now());
                seats.taken.insert(number, Seat { stream, from, activity, since });
                self.running.fetch_add(1, Ordering::Relaxed);
                let place = Place { number, seats: self.seats.clone(), running: self.running.clone() };
                return Some((place, full));
            }
            full = true;
            // Those that were evicted end soon, and are waited for; should they not, there is a limit to that, too.
            let crowded = self.running.load(Ordering::Relaxed) >= self.most + self.most.div_ceil(4);
            let eviction = match crowded {
                true if begun.elapsed() < EVICTION_GRACE => Eviction::Later(CROWDED_PAUSE),
                true => Eviction::Impossible,
                false => seats.evict(),
            };
            drop(seats);
            match eviction {
                Eviction::Done => {}
                Eviction::Later(wait) if !self.shutdown.wait(wait) => {}
                Eviction::Later(_) | Eviction::Impossible => return None,
            }
        }
    }
}

/// An address under which a listener on this machine is reached from this machine.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn connections_are_served_up_to_the_cap_and_all_end_at_the_shutdown() {
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
        assert_eq!(TcpStream::connect(address).unwrap().read(&mut [0]).unwrap(), 0, "one too many");
        shutdown.trigger();
        threads.join();
        assert_eq!(streams[0].read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn who_has_most_places_is_known() {
        let [one, other]: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        assert_eq!(commonest([one, other, other].into_iter()), Some((other, 2)));
        assert_eq!(commonest([].into_iter()), None);
    }

    #[test]
    fn who_asks_for_nothing_makes_room() {
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
                // Not all end at once: the new ones have to wait for it.
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
            assert_eq!(idle.read(&mut [0]).unwrap(), 0, "it makes room");
            idle = next;
        }
        assert!(ask(&idle) && ask(&asking));
        assert_eq!(connect().read(&mut [0]).unwrap_or(0), 0, "both are busy");
        shutdown.trigger();
        threads.join();
        assert_eq!(asking.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_taken_port_is_named() {
        let (first, _datagrams) = Listener::bind_tcp_and_udp("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = Listener::bind(first.address()).err().unwrap().to_string();
        let port = first.address().port();
        assert_eq!(error, format!("port {port} on 127.0.0.1 is in use by another program (TCP)"));
    }
}
