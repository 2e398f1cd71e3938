//! Arbitrary requests with values from small sets, so that requests often refer to the same peers and files.

use arbitrary::Arbitrary;
use shoal::content::{ChunkIndex, Digest, FileId, FileName, Md5, PeerName, SetName};
use shoal::protocol::tokens::VolunteerKey;
use shoal::protocol::tracker::{Claim, FileSummary, Registration, SetKey, Token, TrackerRequest};
use shoal::protocol::volunteer::{CopyFailure, KeptFile, VolunteerReport};
use std::net::SocketAddr;

/// A peer, by the order of its registration; a number past the end is an unknown peer.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub struct PeerNumber(u8);

/// A chunk of a set.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub struct Chunk {
    set: u8,
    count: u8,
    index: u8,
}

/// A request.
#[derive(Arbitrary, Debug)]
pub enum Ask {
    /// Registers a peer.
    Register { name: u8, port: u8, advertise: Option<u8> },
    /// Renews the lease.
    Heartbeat(PeerNumber),
    /// Removes the peer.
    Goodbye(PeerNumber),
    /// Announces a file.
    Announce { peer: PeerNumber, file: u8, name: u8, held: u8 },
    /// Withdraws a file.
    Withdraw(PeerNumber, u8),
    /// Looks up a file.
    Lookup { peer: Option<PeerNumber>, name: Option<u8>, id: Option<u8>, limit: u8 },
    /// Requests the list of all files.
    List,
    /// Joins a chunk set.
    Join(PeerNumber, Chunk),
    /// Claims the hash of a chunk.
    Claim { peer: PeerNumber, chunk: Chunk, hash: u8, size: u8 },
    /// Withdraws a claim.
    Unclaim(PeerNumber, Chunk),
    /// Looks up the holders of a chunk.
    Where(PeerNumber, Chunk),
    /// Reports a chunk without a reachable holder.
    Unreachable(PeerNumber, Chunk, u8),
    /// Requests the manifest of a sealed set.
    Manifest(u8),
    /// Sends a volunteer's report.
    Volunteer(PeerNumber, Act),
    /// Requests the status.
    Status,
    /// Repeats the hello.
    Hello,
    /// A message of an unknown type.
    Unknown,
}

/// A report of a volunteer.
#[derive(Arbitrary, Debug)]
#[expect(missing_docs, reason = "the variants have the names of the messages")]
pub enum Act {
    Lend { key: u8, offered: u16, free: u16 },
    Holds { file: u8, held: Vec<u8>, checked: bool },
    Reported,
    Stored { file: u8, index: u8, free: u16 },
    NotStored { file: u8, index: u8, why: u8, free: u16 },
    Dropped { file: u8, chunks: Vec<u8>, free: u16 },
    Spoiled { file: u8, chunks: Vec<u8>, free: u16 },
    Drain,
}

/// One of three file names.
pub fn file_name(number: u8) -> FileName {
    FileName::new(["a", "b b", "ä.bin"][usize::from(number % 3)]).expect("a name")
}

/// One of three names of peers.
pub fn peer_name(number: u8) -> PeerName {
    PeerName::new(["x", "y", "default"][usize::from(number % 3)]).expect("a name")
}

/// One of few names of sets.
fn set_name(number: u8) -> SetName {
    SetName::new(["x", "y", "default"][usize::from(number % 3)]).expect("a name")
}

/// One of five file ids.
pub fn file_id(number: u8) -> FileId {
    FileId([number % 5; 32])
}

/// The summary of a file, determined by its number and name.
pub fn summary(file: u8, name: u8) -> FileSummary {
    let chunks = 1 + u32::from(file % 5);
    FileSummary { id: file_id(file), name: file_name(name), size: u64::from(chunks) * 20_000, chunks }
}

/// The entry of a file that volunteers store.
pub fn kept(file: u8) -> KeptFile {
    KeptFile { file: summary(file, file), md5: Md5([file % 5; 16]) }
}

impl Chunk {
    fn key(self) -> SetKey {
        // Few sets, so that claims of different peers can agree; a count of 0 is invalid and occurs rarely.
        let count = if self.count == 255 { 0 } else { 1 + u32::from(self.count % 2) };
        SetKey { set: set_name(self.set % 2), count }
    }

    fn index(self) -> ChunkIndex {
        ChunkIndex(u32::from(self.index % 3))
    }
}

fn chunks(numbers: &[u8]) -> Vec<ChunkIndex> {
    numbers.iter().map(|number| ChunkIndex(u32::from(number % 7))).collect()
}

/// A number of bytes in steps of 4 KiB.
fn space(number: u16) -> u64 {
    u64::from(number) * 4_096
}

impl Act {
    fn request(self) -> VolunteerReport {
        let index = |number: u8| ChunkIndex(u32::from(number % 7));
        match self {
            Act::Lend { key, offered, free } => VolunteerReport::Lend {
                away_s: None,
                key: VolunteerKey(u128::from(key % 5)),
                offered: space(offered),
                free: space(free),
            },
            Act::Holds { file, held, checked } => {
                VolunteerReport::Holds { kept: kept(file), held: chunks(&held), checked }
            }
            Act::Reported => VolunteerReport::Reported,
            Act::Stored { file, index: at, free } => {
                VolunteerReport::Stored { file: file_id(file), index: index(at), free: space(free) }
            }
            Act::NotStored { file, index: at, why, free } => {
                let why = [CopyFailure::NoRoom, CopyFailure::Corrupt, CopyFailure::Unreachable]
                    .get(usize::from(why))
                    .copied()
                    .unwrap_or(CopyFailure::Disk);
                let (file, text) = (file_id(file), "because".to_owned());
                VolunteerReport::NotStored { file, index: index(at), why, text, free: space(free) }
            }
            Act::Dropped { file, chunks: those, free } => {
                VolunteerReport::Dropped { file: file_id(file), chunks: chunks(&those), free: space(free) }
            }
            Act::Spoiled { file, chunks: those, free } => {
                VolunteerReport::Spoiled { file: file_id(file), chunks: chunks(&those), free: space(free) }
            }
            Act::Drain => VolunteerReport::Drain,
        }
    }
}

impl Ask {
    /// The request. `token` returns the token of a peer, `sealed` the id of a sealed set.
    pub fn request(self, token: impl Fn(usize) -> Token, sealed: impl Fn(usize) -> FileId) -> TrackerRequest {
        let token = |PeerNumber(number): PeerNumber| token(number.into());
        match self {
            Ask::Register { name, port, advertise } => TrackerRequest::Register(Registration {
                name: peer_name(name),
                port: u16::from(port % 9),
                advertise: advertise.map(|host| SocketAddr::from(([10, 0, 0, host % 4], 7_000))),
                addresses: Vec::new(),
                identity: None,
                volunteer: false,
            }),
            Ask::Heartbeat(peer) => TrackerRequest::Heartbeat { token: token(peer) },
            Ask::Goodbye(peer) => TrackerRequest::Goodbye { token: token(peer) },
            Ask::Announce { peer, file, name, held } => TrackerRequest::Announce {
                token: token(peer),
                file: summary(file, name),
                held: u32::from(held % 8),
                sent: None,
            },
            Ask::Withdraw(peer, file) => {
                TrackerRequest::Withdraw { token: token(peer), file: file_id(file), name: None }
            }
            Ask::Lookup { peer, name, id, limit } => TrackerRequest::Lookup {
                name: name.map(file_name),
                id: id.map(file_id),
                limit: 1 + u32::from(limit),
                token: peer.map(token),
            },
            Ask::List => TrackerRequest::List,
            Ask::Join(peer, chunk) => TrackerRequest::JoinSet { token: token(peer), set: chunk.key() },
            Ask::Claim { peer, chunk, hash, size } => TrackerRequest::Claim {
                token: token(peer),
                set: chunk.key(),
                index: chunk.index(),
                claim: Claim { sha256: Digest([hash % 2; 32]), size: u64::from(size % 2) },
            },
            Ask::Unclaim(peer, chunk) => {
                TrackerRequest::Unclaim { token: token(peer), set: chunk.key(), index: chunk.index() }
            }
            Ask::Where(peer, chunk) => {
                TrackerRequest::WhereChunk { token: token(peer), set: chunk.key(), index: chunk.index() }
            }
            Ask::Unreachable(peer, chunk, seconds) => TrackerRequest::Unreachable {
                token: token(peer),
                set: chunk.key(),
                index: chunk.index(),
                seconds: seconds.into(),
            },
            Ask::Manifest(number) => TrackerRequest::Manifest { file: sealed(number.into()) },
            Ask::Volunteer(peer, act) => TrackerRequest::Volunteer { token: token(peer), act: act.request() },
            Ask::Status => TrackerRequest::Status,
            Ask::Hello => TrackerRequest::Hello { version: 1 },
            Ask::Unknown => TrackerRequest::Unknown,
        }
    }
}
