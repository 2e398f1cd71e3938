//! A proxy that simulates a bad network between programs.
//!
//! Connections are delayed, split into single bytes, reset, half-closed, or stop transferring. Datagrams are lost,
//! duplicated, delayed or reordered. The fault of the n-th connection or datagram follows from a seed. Bytes that
//! pass are never changed. Invariant: after a proxy is dropped, its threads end as soon as the programs on both
//! sides have ended.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Interval at which a waiting thread checks whether the proxy has been stopped.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// The fault of one direction of a connection.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// No fault.
    Clean,
    /// Each read waits for a random time up to this maximum.
    Slow(Duration),
    /// The first bytes, up to this number, are sent one by one.
    SingleBytes(usize),
    /// The connection is reset after this number of bytes.
    Reset(usize),
    /// After this number of bytes nothing is forwarded any more, and neither side is notified.
    BlackHole(usize),
    /// After this number of bytes one direction is closed.
    HalfClose(usize),
}

impl Fault {
    fn draw(random: &mut fastrand::Rng) -> Self {
        // From a part of a hello message to several chunks.
        let most = 1 << random.u32(4..18);
        let bytes = random.usize(1..most);
        match random.u32(..100) {
            0..25 => Fault::Clean,
            25..45 => Fault::Slow(Duration::from_millis(random.u64(1..20))),
            45..65 => Fault::SingleBytes(random.usize(1..4_000)),
            65..80 => Fault::Reset(bytes),
            80..88 => Fault::BlackHole(bytes),
            _ => Fault::HalfClose(bytes),
        }
    }
}

/// A proxy between programs; dropping it stops it.
pub struct Proxy {
    /// The address that programs connect to.
    pub address: SocketAddr,
    target: Arc<OnceLock<SocketAddr>>,
    stopped: Arc<AtomicBool>,
}

impl Proxy {
    /// A proxy for connections. They wait until [`set_target`](Self::set_target) is called.
    pub fn for_connections(seed: u64) -> Self {
        Self::listening(TcpListener::bind("127.0.0.1:0").unwrap(), seed)
    }

    /// A proxy for connections and datagrams on one port.
    pub fn for_everything(seed: u64, target: SocketAddr) -> Self {
        let (listener, socket) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()) {
                break (listener, Arc::new(socket));
            }
        };
        let proxy = Self::listening(listener, seed);
        proxy.set_target(target);
        let stopped = proxy.stopped.clone();
        std::thread::spawn(move || Datagrams { socket, target, stopped, seed }.run());
        proxy
    }

    fn listening(listener: TcpListener, seed: u64) -> Self {
        let address = listener.local_addr().unwrap();
        let (target, stopped) = (Arc::new(OnceLock::new()), Arc::new(AtomicBool::new(false)));
        let (target_of_connections, stop) = (target.clone(), stopped.clone());
        std::thread::spawn(move || {
            let mut random = fastrand::Rng::with_seed(seed);
            for stream in listener.incoming().flatten() {
                if stop.load(Relaxed) {
                    return;
                }
                let (fault, up, target) =
                    (Fault::draw(&mut random), random.bool(), *target_of_connections.wait());
                let seed = random.u64(..);
                std::thread::spawn(move || connect(stream, target, fault, up, seed));
            }
        });
        Self { address, target, stopped }
    }

    /// Sets the address to which the proxy forwards.
    pub fn set_target(&self, target: SocketAddr) {
        self.target.set(target).unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stopped.store(true, Relaxed);
        // Threads that wait for a target get an address that refuses connections.
        let _ = self.target.set(self.address);
        let _ = TcpStream::connect(self.address);
    }
}

/// Copies in both directions, and applies the fault to one of them.
fn connect(stream: TcpStream, target: SocketAddr, fault: Fault, up: bool, seed: u64) {
    let Ok(far) = TcpStream::connect(target) else { return };
    let faults = if up { [fault, Fault::Clean] } else { [Fault::Clean, fault] };
    let ends = [(&stream, &far), (&far, &stream)].map(|(from, to)| (from.try_clone(), to.try_clone()));
    let copies = ends.into_iter().zip(faults).zip(seed..);
    let threads: Vec<_> = copies
        .filter_map(|(((from, to), fault), seed)| {
            let (from, to) = (from.ok()?, to.ok()?);
            Some(std::thread::spawn(move || copy(from, to, fault, fastrand::Rng::with_seed(seed))))
        })
        .collect();
    threads.into_iter().for_each(|thread| drop(thread.join()));
}

fn copy(mut from: TcpStream, mut to: TcpStream, fault: Fault, mut random: fastrand::Rng) {
    let _ = to.set_nodelay(true);
    let mut passed = 0;
    let mut piece = [0; 8 * 1024];
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(_) => {
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        };
        let bytes = &piece[..read];
        let left = |limit: usize| limit.saturating_sub(passed).min(read);
        let sent = match fault {
            Fault::Clean => to.write_all(bytes),
            Fault::Slow(most) => {
                std::thread::sleep(most.mul_f64(random.f64()));
                to.write_all(bytes)
            }
            Fault::SingleBytes(limit) => bytes[..left(limit)]
                .chunks(1)
                .try_for_each(|byte| to.write_all(byte))
                .and_then(|()| to.write_all(&bytes[left(limit)..])),
            Fault::Reset(limit) | Fault::BlackHole(limit) | Fault::HalfClose(limit) => {
                to.write_all(&bytes[..left(limit)])
            }
        };
        if sent.is_err() {
            let _ = from.shutdown(Shutdown::Both);
            return;
        }
        passed += read;
        match fault {
            Fault::Reset(limit) if passed >= limit => {
                for end in [&from, &to] {
                    // With a linger time of 0 the close sends a reset.
                    let _ = socket2::SockRef::from(end).set_linger(Some(Duration::ZERO));
                    let _ = end.shutdown(Shutdown::Both);
                }
                return;
            }
            Fault::HalfClose(limit) if passed >= limit => break,
            _ => {}
        }
    }
    if !matches!(fault, Fault::BlackHole(limit) if passed >= limit) {
        let _ = to.shutdown(Shutdown::Write);
    }
}

/// Forwards datagrams between any number of senders and one target.
struct Datagrams {
    socket: Arc<UdpSocket>,
    target: SocketAddr,
    stopped: Arc<AtomicBool>,
    seed: u64,
}

impl Datagrams {
    fn run(self) {
        let mut random = fastrand::Rng::with_seed(self.seed);
        // Each sender has its own socket, so that replies can be returned to it.
        let mut sockets: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
        self.socket.set_read_timeout(Some(STOP_CHECK_INTERVAL)).unwrap();
        let mut buffer = [0; 2_000];
        while !self.stopped.load(Relaxed) {
            let (count, from) = match self.socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if is_timeout_or_refused(&error) => continue,
                Err(_) => return,
            };
            let outbound = sockets.entry(from).or_insert_with(|| self.socket_for(from, random.u64(..)));
            let outbound = outbound.clone();
            scatter(&buffer[..count], &mut random, move |bytes| drop(outbound.send(bytes)));
        }
    }

    /// A socket towards the target for one sender, and a thread that forwards the replies.
    fn socket_for(&self, from: SocketAddr, seed: u64) -> Arc<UdpSocket> {
        let outbound = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        outbound.connect(self.target).unwrap();
        outbound.set_read_timeout(Some(STOP_CHECK_INTERVAL)).unwrap();
        let (inbound, socket, stopped) = (outbound.clone(), self.socket.clone(), self.stopped.clone());
        std::thread::spawn(move || {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut buffer = [0; 2_000];
            while !stopped.load(Relaxed) {
                match inbound.recv(&mut buffer) {
                    Ok(count) => {
                        let socket = socket.clone();
                        scatter(&buffer[..count], &mut random, move |bytes| {
                            drop(socket.send_to(bytes, from))
                        });
                    }
                    Err(error)
                        if is_timeout_or_refused(&error) || error.kind() == ErrorKind::ConnectionRefused => {}
                    Err(_) => return,
                }
            }
        });
        outbound
    }
}

fn is_timeout_or_refused(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::ConnectionRefused)
}

/// Drops a datagram, or sends it once or twice, immediately or after a delay, so that datagrams are reordered.
fn scatter(bytes: &[u8], random: &mut fastrand::Rng, send: impl Fn(&[u8]) + Send + Clone + 'static) {
    let copies = match random.u32(..100) {
        0..15 => 0,
        15..30 => 2,
        _ => 1,
    };
    for _ in 0..copies {
        if random.u32(..100) < 70 {
            send(bytes);
            continue;
        }
        let (delay, bytes, send) = (Duration::from_millis(random.u64(1..300)), bytes.to_vec(), send.clone());
        std::thread::spawn(move || {
            std::thread::sleep(delay);
            send(&bytes);
        });
    }
}
