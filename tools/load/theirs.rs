//! Requests to another tracker in BitTorrent's UDP protocol (BEP 15): connect, then announce.

use crate::window::{Talk, Wrong};

/// The protocol id of a connect request (BEP 15).
const PROTOCOL_ID: u64 = 0x417_2710_1980;

/// The state of the simulated peers.
pub struct Theirs {
    connections: Vec<Option<u64>>,
    peers: usize,
    torrents: usize,
    random: fastrand::Rng,
    stage: Stage,
    turns: Vec<usize>,
}

/// The kind of request that is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// One connect request from each source.
    Connect,
    /// The first announcement of each peer.
    Fill,
    /// Further announcements of random peers, which request a number of addresses.
    Announce {
        /// Number of requested addresses.
        wanted: u32,
    },
}

impl Theirs {
    /// Peers that share `torrents` torrents equally.
    pub fn new(sources: usize, peers: usize, torrents: usize) -> Self {
        let random = fastrand::Rng::with_seed(1);
        let (connections, turns) = (vec![None; sources], vec![0; sources]);
        Self { connections, peers, torrents, random, stage: Stage::Connect, turns }
    }

    /// Switches to another kind of request.
    pub fn turn_to(&mut self, stage: Stage) {
        self.stage = stage;
        self.turns.fill(0);
    }

    fn announce(&self, connection: u64, number: u32, peer: usize, wanted: u32, request_bytes: &mut Vec<u8>) {
        request_bytes.extend(connection.to_be_bytes());
        request_bytes.extend(1u32.to_be_bytes());
        request_bytes.extend(number.to_be_bytes());
        let mut hash = [0xab; 20];
        let torrent = (peer % self.torrents) as u64;
        hash[..8].copy_from_slice(&torrent.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        request_bytes.extend(hash);
        request_bytes.extend(*b"-SH0000-");
        request_bytes.extend([0; 4]);
        request_bytes.extend((peer as u64).to_be_bytes());
        // The fields downloaded, left and uploaded; event, address and key.
        request_bytes.extend([0; 24 + 12]);
        request_bytes.extend(wanted.to_be_bytes());
        request_bytes.extend((1 + (peer / self.turns.len()) as u16).to_be_bytes());
    }
}

impl Talk for Theirs {
    fn ask(&mut self, source: usize, number: u32, request_bytes: &mut Vec<u8>) -> bool {
        let sources = self.turns.len();
        match (self.stage, self.connections[source]) {
            (Stage::Connect, None) if number == 0 => {
                request_bytes.extend(PROTOCOL_ID.to_be_bytes());
                request_bytes.extend(0u32.to_be_bytes());
                request_bytes.extend(number.to_be_bytes());
                true
            }
            (Stage::Fill, Some(connection)) => {
                let peer = source + self.turns[source] * sources;
                self.turns[source] += 1;
                self.announce(connection, number, peer, 1, request_bytes);
                peer < self.peers
            }
            (Stage::Announce { wanted }, Some(connection)) => {
                let own = (self.peers - source).div_ceil(sources);
                let peer = source + self.random.usize(..own) * sources;
                self.announce(connection, number, peer, wanted, request_bytes);
                true
            }
            _ => false,
        }
    }

    fn number(&self, answer: &[u8]) -> Result<u32, Wrong> {
        word(answer, 4)
    }

    fn check(&mut self, source: usize, answer: &[u8]) -> Result<(), Wrong> {
        match (self.stage, word(answer, 0)?) {
            (Stage::Connect, 0) => {
                let connection = u64::from(word(answer, 8)?) << 32 | u64::from(word(answer, 12)?);
                self.connections[source] = Some(connection);
                Ok(())
            }
            (Stage::Fill, 1) => Ok(()),
            (Stage::Announce { wanted }, 1) if answer.len() == 20 + 6 * wanted as usize => Ok(()),
            (_, action) => Err(format!("action {action}, {} bytes", answer.len())),
        }
    }
}

/// Four bytes of a response.
fn word(answer: &[u8], at: usize) -> Result<u32, Wrong> {
    let bytes = answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u32::from_be_bytes).ok_or_else(|| format!("{answer:?}"))
}
