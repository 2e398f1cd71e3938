//! A window of datagrams in flight on each of a few sockets: each response is followed by the next request.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// Time without a response after which a request is sent again.
const RESEND_TIMEOUT: Duration = Duration::from_millis(300);

/// The reason for which a response is wrong.
pub type Wrong = String;

/// A source of requests, and the check of their responses.
pub trait Talk {
    /// Writes a request with a number; `false` if there is no further request.
    fn ask(&mut self, source: usize, number: u32, request: &mut Vec<u8>) -> bool;

    /// The number of the request to which a response belongs.
    fn number(&self, answer: &[u8]) -> Result<u32, Wrong>;

    /// Checks a response.
    fn check(&mut self, source: usize, answer: &[u8]) -> Result<(), Wrong>;
}

/// Sockets, each at its own IP address, and their requests in flight.
pub struct Window {
    sockets: Vec<Source>,
    /// Number of requests in flight on each socket.
    depth: u32,
    /// The first number of the next run; it differs for each run, so that late responses are recognised.
    first: u32,
}

/// Numbers reserved for a run: more than it needs, and a multiple of every depth that is a power of two.
const NUMBERS_PER_RUN: u32 = 1 << 27;

struct Source {
    socket: UdpSocket,
    /// For each slot of the window, the number of the request in flight, and the request.
    slots: Vec<(u32, Vec<u8>)>,
    heard: Instant,
}

/// The result of a run.
#[derive(Clone, Copy, Default, Debug)]
pub struct Count {
    /// Number of right responses.
    pub answered: u64,
    /// Number of requests that had to be sent again.
    pub lost: u64,
    /// Duration of the run.
    pub took: Duration,
}

impl Window {
    /// Opens sockets at `sources` that send to `target`.
    pub fn new(sources: &[IpAddr], target: SocketAddr, depth: u32) -> io::Result<Self> {
        let open = |source: &IpAddr| {
            let socket = UdpSocket::bind((*source, 0))?;
            socket.connect(target)?;
            socket.set_nonblocking(true)?;
            Ok(Source { socket, slots: Vec::new(), heard: Instant::now() })
        };
        let sockets = sources.iter().map(open).collect::<io::Result<_>>()?;
        Ok(Self { sockets, depth: depth.next_power_of_two(), first: 0 })
    }

    /// Runs until `time` is over or there is no further request.
    pub fn run(&mut self, talk: &mut impl Talk, time: Duration) -> Result<Count, Wrong> {
        let began = Instant::now();
        let mut count = Count::default();
        for index in 0..self.sockets.len() {
            self.fill(index, talk)?;
        }
        loop {
            let mut idle = true;
            let mut open = false;
            for (index, source) in self.sockets.iter_mut().enumerate() {
                let before = count.answered;
                source.answers(index, talk, self.depth, &mut count)?;
                idle &= before == count.answered;
                open |= source.slots.iter().any(|(_, request)| !request.is_empty());
            }
            if !open || began.elapsed() >= time {
                break;
            }
            if idle {
                self.sockets.iter_mut().for_each(|source| source.resend(&mut count));
                self.wait();
            }
        }
        count.took = began.elapsed();
        self.first = self.first.wrapping_add(NUMBERS_PER_RUN);
        self.drain();
        Ok(count)
    }

    fn fill(&mut self, index: usize, talk: &mut impl Talk) -> Result<(), Wrong> {
        let source = &mut self.sockets[index];
        source.slots = vec![(0, Vec::new()); self.depth as usize];
        source.heard = Instant::now();
        for slot in 0..self.depth {
            source.next(index, talk, self.first.wrapping_add(slot));
        }
        Ok(())
    }

    /// Waits in the kernel for a response on any socket, so that the tool's core is scheduled when one arrives. A
    /// thread that yields instead gets the processor last on a busy machine.
    fn wait(&self) {
        let sockets = self.sockets.iter().map(|source| PollFd::new(&source.socket, PollFlags::IN));
        let most = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        let _ = poll(&mut sockets.collect::<Vec<_>>(), Some(&most));
    }

    /// Discards late responses, so that the next run does not read them first.
    fn drain(&mut self) {
        std::thread::sleep(Duration::from_millis(20));
        let mut buffer = [0; 2048];
        for source in &self.sockets {
            while source.socket.recv(&mut buffer).is_ok() {}
        }
    }
}

impl Source {
    fn answers(
        &mut self,
        index: usize,
        talk: &mut impl Talk,
        depth: u32,
        count: &mut Count,
    ) -> Result<(), Wrong> {
        let mut buffer = [0; 2048];
        // Bounded, because the other sockets have responses as well.
        for _ in 0..depth {
            let length = match self.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.to_string()),
            };
            let number = talk.number(&buffer[..length])?;
            let slot = (number % depth) as usize;
            // A request that was sent twice may have two responses.
            if self.slots[slot].0 == number && !self.slots[slot].1.is_empty() {
                talk.check(index, &buffer[..length])?;
                count.answered += 1;
                self.heard = Instant::now();
                self.next(index, talk, number.wrapping_add(depth));
            }
        }
        Ok(())
    }

    fn next(&mut self, index: usize, talk: &mut impl Talk, number: u32) {
        let slot = number as usize % self.slots.len();
        let (waiting, request) = &mut self.slots[slot];
        *waiting = number;
        request.clear();
        if talk.ask(index, number, request) {
            // A request that cannot be sent counts as lost and is sent again.
            let _ = self.socket.send(request);
        } else {
            request.clear();
        }
    }

    fn resend(&mut self, count: &mut Count) {
        if self.heard.elapsed() < RESEND_TIMEOUT {
            return;
        }
        self.heard = Instant::now();
        for (_, request) in self.slots.iter().filter(|(_, request)| !request.is_empty()) {
            count.lost += 1;
            let _ = self.socket.send(request);
        }
    }
}
