//! Datagrams in flight: some questions on each of a few sockets, and for each answer the next question.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// What is not answered by then is lost, and asked again.
const LOST: Duration = Duration::from_millis(300);

/// Why an answer is none.
pub type Wrong = String;

/// What is asked, and how an answer is checked.
pub trait Talk {
    /// Writes a question that bears a number; `false` when there is nothing more to ask.
    fn ask(&mut self, source: usize, number: u32, question: &mut Vec<u8>) -> bool;

    /// The number that an answer bears.
    fn number(&self, answer: &[u8]) -> Result<u32, Wrong>;

    /// Checks an answer to a question that was asked.
    fn check(&mut self, source: usize, answer: &[u8]) -> Result<(), Wrong>;
}

/// Sockets, each at an IP address of its own, and what is asked over them.
pub struct Window {
    sockets: Vec<Source>,
    /// Questions in flight on each.
    depth: u32,
    /// The first number of the next run: an answer that comes too late for its own run is none of another's.
    first: u32,
}

/// More numbers than a run needs, and a multiple of every depth that is a power of two.
const NUMBERS: u32 = 1 << 27;

struct Source {
    socket: UdpSocket,
    /// The number that each place of the window waits for, and the question.
    places: Vec<(u32, Vec<u8>)>,
    heard: Instant,
}

/// What came of it.
#[derive(Clone, Copy, Default, Debug)]
pub struct Count {
    /// Right answers.
    pub answered: u64,
    /// Questions that had to be asked again.
    pub lost: u64,
    /// How long it took.
    pub took: Duration,
}

impl Window {
    /// Sockets at `sources` that ask `target`.
    pub fn new(sources: &[IpAddr], target: SocketAddr, depth: u32) -> io::Result<Self> {
        let open = |source: &IpAddr| {
            let socket = UdpSocket::bind((*source, 0))?;
            socket.connect(target)?;
            socket.set_nonblocking(true)?;
            Ok(Source { socket, places: Vec::new(), heard: Instant::now() })
        };
        let sockets = sources.iter().map(open).collect::<io::Result<_>>()?;
        Ok(Self { sockets, depth: depth.next_power_of_two(), first: 0 })
    }

    /// Asks until the time is over, or until there is nothing more to ask.
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
                open |= source.places.iter().any(|(_, question)| !question.is_empty());
            }
            if !open || began.elapsed() >= time {
                break;
            }
            if idle {
                self.sockets.iter_mut().for_each(|source| source.again(&mut count));
                self.wait();
            }
        }
        count.took = began.elapsed();
        self.first = self.first.wrapping_add(NUMBERS);
        self.drain();
        Ok(count)
    }

    fn fill(&mut self, index: usize, talk: &mut impl Talk) -> Result<(), Wrong> {
        let source = &mut self.sockets[index];
        source.places = vec![(0, Vec::new()); self.depth as usize];
        source.heard = Instant::now();
        for place in 0..self.depth {
            source.next(index, talk, self.first.wrapping_add(place));
        }
        Ok(())
    }

    /// Waits for an answer on any socket, so that the load's core is free for it when it comes: who yields instead comes
    /// last on a machine that others use.
    fn wait(&self) {
        let sockets = self.sockets.iter().map(|source| PollFd::new(&source.socket, PollFlags::IN));
        let most = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        let _ = poll(&mut sockets.collect::<Vec<_>>(), Some(&most));
    }

    /// Late answers are not to stand before those of the next run.
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
        // Not for ever: the other sockets have answers as well.
        for _ in 0..depth {
            let length = match self.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.to_string()),
            };
            let number = talk.number(&buffer[..length])?;
            let place = (number % depth) as usize;
            // The answer to a question that was asked twice comes twice.
            if self.places[place].0 == number && !self.places[place].1.is_empty() {
                talk.check(index, &buffer[..length])?;
                count.answered += 1;
                self.heard = Instant::now();
                self.next(index, talk, number.wrapping_add(depth));
            }
        }
        Ok(())
    }

    fn next(&mut self, index: usize, talk: &mut impl Talk, number: u32) {
        let place = number as usize % self.places.len();
        let (waiting, question) = &mut self.places[place];
        *waiting = number;
        question.clear();
        if talk.ask(index, number, question) {
            // What is lost is asked again.
            let _ = self.socket.send(question);
        } else {
            question.clear();
        }
    }

    fn again(&mut self, count: &mut Count) {
        if self.heard.elapsed() < LOST {
            return;
        }
        self.heard = Instant::now();
        for (_, question) in self.places.iter().filter(|(_, question)| !question.is_empty()) {
            count.lost += 1;
            let _ = self.socket.send(question);
        }
    }
}
