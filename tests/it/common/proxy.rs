//! A bad network between programs: connections that are slow, cut into single bytes, reset, half-closed or swallowed,
//! and datagrams that are lost, doubled, late or out of order.
//!
//! What happens to the n-th connection or datagram follows from a seed. Nothing that passes is changed. Invariant:
//! when a proxy is dropped its threads end, as soon as the programs on both sides have.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How often a waiting thread looks whether it is still wanted.
const GLANCE: Duration = Duration::from_millis(200);

/// What becomes of a connection.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// Nothing bad.
    Clean,
    /// Each piece waits for up to this long.
    Slow(Duration),
    /// So many bytes travel one by one.
    Crumbs(usize),
    /// Reset after so many bytes.
    Reset(usize),
    /// After so many bytes nothing gets through any more, and nobody is told.
    BlackHole(usize),
    /// After so many bytes one direction is closed.
    HalfClose(usize),
}

impl Fate {
    fn draw(random: &mut fastrand::Rng) -> Self {
        // From a part of a hello to several chunks.
        let most = 1 << random.u32(4..18);
        let bytes = random.usize(1..most);
        match random.u32(..100) {
            0..25 => Fate::Clean,
            25..45 => Fate::Slow(Duration::from_millis(random.u64(1..20))),
            45..65 => Fate::Crumbs(random.usize(1..4_000)),
            65..80 => Fate::Reset(bytes),
            80..88 => Fate::BlackHole(bytes),
            _ => Fate::HalfClose(bytes),
        }
    }
}

/// Stands between programs.
pub struct Proxy {
    /// Where it is reached.
    pub address: SocketAddr,
    target: Arc<OnceLock<SocketAddr>>,
    stopped: Arc<AtomicBool>,
}

impl Proxy {
    /// A bad network for connections. Until [`lead_to`](Self::lead_to) says where, they wait.
    pub fn for_connections(seed: u64) -> Self {
        Self::listening(TcpListener::bind("127.0.0.1:0").unwrap(), seed)
    }

    /// A bad network for connections and datagrams, on one port.
    pub fn for_everything(seed: u64, target: SocketAddr) -> Self {
        let (listener, socket) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()) {
                break (listener, Arc::new(socket));
            }
        };
        let proxy = Self::listening(listener, seed);
        proxy.lead_to(target);
        let stopped = proxy.stopped.clone();
        std::thread::spawn(move || Datagrams { socket, target, stopped, seed }.run());
        proxy
    }

    fn listening(listener: TcpListener, seed: u64) -> Self {
        let address = listener.local_addr().unwrap();
        let (target, stopped) = (Arc::new(OnceLock::new()), Arc::new(AtomicBool::new(false)));
        let (leads, ends) = (target.clone(), stopped.clone());
        std::thread::spawn(move || {
            let mut random = fastrand::Rng::with_seed(seed);
            for stream in listener.incoming().flatten() {
                if ends.load(Relaxed) {
                    return;
                }
                let (fate, up, target) = (Fate::draw(&mut random), random.bool(), *leads.wait());
                let seed = random.u64(..);
                std::thread::spawn(move || connect(stream, target, fate, up, seed));
            }
        });
        Self { address, target, stopped }
    }

    /// Where it leads.
    pub fn lead_to(&self, target: SocketAddr) {
        self.target.set(target).unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stopped.store(true, Relaxed);
        // Whoever still waits for a target gets one where nobody is.
        let _ = self.target.set(self.address);
        let _ = TcpStream::connect(self.address);
    }
}

/// Copies in both directions, with the bad fate in one of them.
fn connect(stream: TcpStream, target: SocketAddr, fate: Fate, up: bool, seed: u64) {
    let Ok(far) = TcpStream::connect(target) else { return };
    let fates = if up { [fate, Fate::Clean] } else { [Fate::Clean, fate] };
    let ends = [(&stream, &far), (&far, &stream)].map(|(from, to)| (from.try_clone(), to.try_clone()));
    let copies = ends.into_iter().zip(fates).zip(seed..);
    let threads: Vec<_> = copies
        .filter_map(|(((from, to), fate), seed)| {
            let (from, to) = (from.ok()?, to.ok()?);
            Some(std::thread::spawn(move || copy(from, to, fate, fastrand::Rng::with_seed(seed))))
        })
        .collect();
    threads.into_iter().for_each(|thread| drop(thread.join()));
}

fn copy(mut from: TcpStream, mut to: TcpStream, fate: Fate, mut random: fastrand::Rng) {
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
        let sent = match fate {
            Fate::Clean => to.write_all(bytes),
            Fate::Slow(most) => {
                std::thread::sleep(most.mul_f64(random.f64()));
                to.write_all(bytes)
            }
            Fate::Crumbs(limit) => bytes[..left(limit)]
                .chunks(1)
                .try_for_each(|crumb| to.write_all(crumb))
                .and_then(|()| to.write_all(&bytes[left(limit)..])),
            Fate::Reset(limit) | Fate::BlackHole(limit) | Fate::HalfClose(limit) => {
                to.write_all(&bytes[..left(limit)])
            }
        };
        if sent.is_err() {
            let _ = from.shutdown(Shutdown::Both);
            return;
        }
        passed += read;
        match fate {
            Fate::Reset(limit) if passed >= limit => {
                for end in [&from, &to] {
                    // Closing does not say goodbye then.
                    let _ = socket2::SockRef::from(end).set_linger(Some(Duration::ZERO));
                    let _ = end.shutdown(Shutdown::Both);
                }
                return;
            }
            Fate::HalfClose(limit) if passed >= limit => break,
            _ => {}
        }
    }
    if !matches!(fate, Fate::BlackHole(limit) if passed >= limit) {
        let _ = to.shutdown(Shutdown::Write);
    }
}

/// Datagrams between many and one.
struct Datagrams {
    socket: Arc<UdpSocket>,
    target: SocketAddr,
    stopped: Arc<AtomicBool>,
    seed: u64,
}

impl Datagrams {
    fn run(self) {
        let mut random = fastrand::Rng::with_seed(self.seed);
        // Each sender has a way of its own, so that answers find back.
        let mut ways: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
        self.socket.set_read_timeout(Some(GLANCE)).unwrap();
        let mut buffer = [0; 2_000];
        while !self.stopped.load(Relaxed) {
            let (count, from) = match self.socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if is_nothing(&error) => continue,
                Err(_) => return,
            };
            let way = ways.entry(from).or_insert_with(|| self.way_for(from, random.u64(..)));
            let way = way.clone();
            scatter(&buffer[..count], &mut random, move |bytes| drop(way.send(bytes)));
        }
    }

    /// A socket of its own towards the target, and a thread for what comes back.
    fn way_for(&self, from: SocketAddr, seed: u64) -> Arc<UdpSocket> {
        let way = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        way.connect(self.target).unwrap();
        way.set_read_timeout(Some(GLANCE)).unwrap();
        let (back, socket, stopped) = (way.clone(), self.socket.clone(), self.stopped.clone());
        std::thread::spawn(move || {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut buffer = [0; 2_000];
            while !stopped.load(Relaxed) {
                match back.recv(&mut buffer) {
                    Ok(count) => {
                        let socket = socket.clone();
                        scatter(&buffer[..count], &mut random, move |bytes| {
                            drop(socket.send_to(bytes, from))
                        });
                    }
                    Err(error) if is_nothing(&error) || error.kind() == ErrorKind::ConnectionRefused => {}
                    Err(_) => return,
                }
            }
        });
        way
    }
}

fn is_nothing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::ConnectionRefused)
}

/// Loses a datagram, or sends it once or twice, now or later, so that others overtake it.
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
        let (late, bytes, send) = (Duration::from_millis(random.u64(1..300)), bytes.to_vec(), send.clone());
        std::thread::spawn(move || {
            std::thread::sleep(late);
            send(&bytes);
        });
    }
}
