//! Accepting connections, each into a thread of its own, up to a cap.

use super::{Shutdown, Threads};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long accepting rests after the system had no room for another connection.
const REST: Duration = Duration::from_millis(100);

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has the port.
    #[error("port {port} on {ip} is in use by another program ({protocol}); choose another", port = .address.port(), ip = .address.ip())]
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
            let socket = TcpListener::bind(address)?;
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
    pub fn bind_with_datagrams(address: SocketAddr) -> Result<(Self, UdpSocket), BindError> {
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
    /// connection. Beyond `most` connections at once a new one is closed.
    ///
    /// # Errors
    /// When no thread can be spawned.
    pub fn serve(
        self,
        name: &'static str,
        most: usize,
        threads: &Threads,
        shutdown: &Shutdown,
        handle: impl Fn(Arc<TcpStream>, SocketAddr) + Send + Sync + 'static,
    ) -> io::Result<()> {
        let wake = reachable(self.address);
        // A connection of our own wakes the accept, as tiny_http does it.
        shutdown.on_trigger(move || drop(TcpStream::connect_timeout(&wake, Duration::from_secs(1))));
        let acceptor = Acceptor {
            name,
            most,
            open: Arc::new(AtomicUsize::new(0)),
            threads: threads.clone(),
            shutdown: shutdown.clone(),
            handle: Arc::new(handle),
        };
        threads.spawn(&format!("{name}-accept"), move || acceptor.run(&self.socket))
    }
}

struct Acceptor<H> {
    name: &'static str,
    most: usize,
    open: Arc<AtomicUsize>,
    threads: Threads,
    shutdown: Shutdown,
    handle: Arc<H>,
}

/// One connection of those that may be open; gives its place back when dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<H: Fn(Arc<TcpStream>, SocketAddr) + Send + Sync + 'static> Acceptor<H> {
    fn run(&self, socket: &TcpListener) {
        let mut full = false;
        while !self.shutdown.is_stopped() {
            match socket.accept() {
                Ok((stream, from)) => {
                    let was_full = std::mem::replace(&mut full, !self.admit(stream, from));
                    if full && !was_full {
                        log::warn!("{} connections are open, no more are taken for now", self.most);
                    }
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) => {
                    log::warn!("cannot accept a connection: {error}");
                    self.shutdown.wait(REST);
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, from: SocketAddr) -> bool {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        let place = Place(self.open.clone());
        let (handle, shutdown) = (self.handle.clone(), self.shutdown.clone());
        let spawned = self.threads.spawn(self.name, move || {
            let _place = place;
            let stream = Arc::new(stream);
            let _guard = shutdown.guard(&stream);
            if stream.set_nodelay(true).is_ok() && !shutdown.is_stopped() {
                handle(stream, from);
            }
        });
        if let Err(error) = &spawned {
            log::warn!("no thread for the connection from {from}: {error}");
        }
        spawned.is_ok()
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
            .serve("test", 2, &threads, &shutdown, |stream, _| {
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
    fn a_taken_port_is_named() {
        let (first, _datagrams) = Listener::bind_with_datagrams("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = Listener::bind(first.address()).err().unwrap().to_string();
        let port = first.address().port();
        assert_eq!(
            error,
            format!("port {port} on 127.0.0.1 is in use by another program (TCP); choose another")
        );
    }
}
