//! Arbitrary requests whose parts come from small sets, so that they have to do with each other.

use arbitrary::Arbitrary;
use shoal::content::{ChunkIndex, Digest, FileId, FileName, Md5, PeerName, SetName};
use shoal::protocol::tokens::VolunteerKey;
use shoal::protocol::tracker::{Claim, FileSummary, Registration, SetKey, Token, TrackerRequest};
use shoal::protocol::volunteer::{CopyFailure, KeptFile, VolunteerReport};
use std::net::SocketAddr;

/// A peer, by the order of its registration; or nobody.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub struct Who(u8);

/// A chunk of a set.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub struct Chunk {
    set: u8,
    count: u8,
    index: u8,
}

/// What somebody asks.
#[derive(Arbitrary, Debug)]
pub enum Ask {
    /// Joins.
    Register { name: u8, port: u8, advertise: Option<u8> },
    /// Lives on.
    Heartbeat(Who),
    /// Leaves.
    Goodbye(Who),
    /// Offers a file.
    Announce { who: Who, file: u8, name: u8, held: u8 },
    /// No longer does.
    Withdraw(Who, u8),
    /// Looks for a file.
    Lookup { who: Option<Who>, name: Option<u8>, id: Option<u8>, limit: u8 },
    /// Looks for all.
    List,
    /// Joins a set.
    Join(Who, Chunk),
    /// Claims a chunk.
    Claim { who: Who, chunk: Chunk, hash: u8, size: u8 },
    /// No longer does.
    Unclaim(Who, Chunk),
    /// Looks for a chunk.
    Where(Who, Chunk),
    /// Asks for the manifest of a file that was sealed.
    Manifest(u8),
    /// Says something as a volunteer.
    Volunteer(Who, Act),
    /// Asks how everything is.
    Status,
    /// Says hello once more.
    Hello,
    /// Says what nobody understands.
    Unknown,
}

/// What a volunteer says.
#[derive(Arbitrary, Debug)]
#[expect(missing_docs, reason = "named as the messages are")]
pub enum Act {
    Lend { key: u8, offered: u16, free: u16 },
    Holds { file: u8, held: Vec<u8>, checked: bool },
    Reported,
    Stored { file: u8, index: u8, free: u16 },
    NotStored { file: u8, index: u8, why: u8, free: u16 },
    Dropped { file: u8, chunks: Vec<u8>, free: u16 },
    Spoiled { file: u8, chunks: Vec<u8>, free: u16 },
    Proof { challenge: u8, right: Option<bool> },
    Drain,
}

/// One of few file names.
pub fn file_name(number: u8) -> FileName {
    FileName::new(["a", "b b", "ä.bin"][usize::from(number % 3)]).expect("a name")
}

/// One of few names of peers.
pub fn peer_name(number: u8) -> PeerName {
    PeerName::new(["x", "y", "default"][usize::from(number % 3)]).expect("a name")
}

/// One of few names of sets.
fn set_name(number: u8) -> SetName {
    SetName::new(["x", "y", "default"][usize::from(number % 3)]).expect("a name")
}

/// One of few files.
pub fn file_id(number: u8) -> FileId {
    FileId([number % 5; 32])
}

/// What a file is: the same for the same number.
pub fn summary(file: u8, name: u8) -> FileSummary {
    let chunks = 1 + u32::from(file % 5);
    FileSummary { id: file_id(file), name: file_name(name), size: u64::from(chunks) * 20_000, chunks }
}

/// A file as volunteers know it.
pub fn kept(file: u8) -> KeptFile {
    KeptFile { file: summary(file, file), md5: Md5([file % 5; 16]) }
}

impl Chunk {
    fn key(self) -> SetKey {
        // Few sets, or nobody would ever agree with anybody; now and then one that there cannot be.
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

/// Bytes in steps that chunks of the files here fit in.
fn space(number: u16) -> u64 {
    u64::from(number) * 4_096
}

impl Act {
    fn request(self) -> VolunteerReport {
        let index = |number: u8| ChunkIndex(u32::from(number % 7));
        match self {
            Act::Lend { key, offered, free } => VolunteerReport::Lend {
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
            Act::Proof { challenge, right } => VolunteerReport::Proof {
                challenge: challenge.into(),
                sha256: right.map(|right| Digest([right.into(); 32])),
            },
            Act::Drain => VolunteerReport::Drain,
        }
    }
}

impl Ask {
    /// The request. `token` finds a peer's token, `sealed` a sealed set's id.
    pub fn request(self, token: impl Fn(usize) -> Token, sealed: impl Fn(usize) -> FileId) -> TrackerRequest {
        let token = |Who(number): Who| token(number.into());
        match self {
            Ask::Register { name, port, advertise } => TrackerRequest::Register(Registration {
                name: peer_name(name),
                port: u16::from(port % 9),
                advertise: advertise.map(|host| SocketAddr::from(([10, 0, 0, host % 4], 7_000))),
            }),
            Ask::Heartbeat(who) => TrackerRequest::Heartbeat { token: token(who) },
            Ask::Goodbye(who) => TrackerRequest::Goodbye { token: token(who) },
            Ask::Announce { who, file, name, held } => TrackerRequest::Announce {
                token: token(who),
                file: summary(file, name),
                held: u32::from(held % 8),
            },
            Ask::Withdraw(who, file) => TrackerRequest::Withdraw { token: token(who), file: file_id(file) },
            Ask::Lookup { who, name, id, limit } => TrackerRequest::Lookup {
                name: name.map(file_name),
                id: id.map(file_id),
                limit: 1 + u32::from(limit),
                token: who.map(token),
            },
            Ask::List => TrackerRequest::List,
            Ask::Join(who, chunk) => TrackerRequest::JoinSet { token: token(who), set: chunk.key() },
            Ask::Claim { who, chunk, hash, size } => TrackerRequest::Claim {
                token: token(who),
                set: chunk.key(),
                index: chunk.index(),
                claim: Claim { sha256: Digest([hash % 2; 32]), size: u32::from(size % 2) },
            },
            Ask::Unclaim(who, chunk) => {
                TrackerRequest::Unclaim { token: token(who), set: chunk.key(), index: chunk.index() }
            }
            Ask::Where(who, chunk) => {
                TrackerRequest::WhereChunk { token: token(who), set: chunk.key(), index: chunk.index() }
            }
            Ask::Manifest(number) => TrackerRequest::Manifest { file: sealed(number.into()) },
            Ask::Volunteer(who, act) => TrackerRequest::Volunteer { token: token(who), act: act.request() },
            Ask::Status => TrackerRequest::Status,
            Ask::Hello => TrackerRequest::Hello { version: 1 },
            Ask::Unknown => TrackerRequest::Unknown,
        }
    }
}
