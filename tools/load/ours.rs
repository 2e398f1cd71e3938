//! What is asked of our own tracker: cookie, registration, announcement, heartbeat, lookup.

use crate::window::{Talk, Wrong};
use shoal::content::{FileId, FileName, PeerName};
use shoal::protocol::datagram::{Cookie, Datagram};
use shoal::protocol::tracker::{FileSummary, Registration, TrackerRequest, TrackerResponse};
use std::collections::BTreeSet;
use std::io::Write as _;

/// One answer in so many is read as a whole; of the others the beginning, the end and the addresses are looked at.
const READ: u64 = 256;

/// What the load knows of its peers.
pub struct Ours {
    cookies: Vec<Option<Cookie>>,
    /// Tokens as they are written, by peer.
    tokens: Vec<[u8; 32]>,
    files: usize,
    random: fastrand::Rng,
    stage: Stage,
    /// How many peers of each source have had their turn.
    turns: Vec<usize>,
    /// How many answers there were.
    checked: u64,
}

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// A cookie for each source.
    Cookies,
    /// Every peer, registered from the source that it belongs to.
    Register,
    /// A file of every peer.
    Announce,
    /// Heartbeats of any peer.
    Heartbeat,
    /// Who has a file, by its id.
    LookupId {
        /// Addresses wanted.
        wanted: u32,
    },
    /// Who has a file, by its name.
    LookupName {
        /// Addresses wanted.
        wanted: u32,
    },
}

fn file(number: usize) -> FileSummary {
    let mut id = [0xab; 32];
    id[..8].copy_from_slice(&(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    let name = FileName::new(format!("file-{number:07}.bin")).expect("a plain name");
    FileSummary { id: FileId(id), name, size: 1 << 30, chunks: 2_048 }
}

impl Ours {
    /// Peers that share so many files equally.
    pub fn new(sources: usize, peers: usize, files: usize) -> Self {
        Self {
            cookies: vec![None; sources],
            tokens: vec![[0; 32]; peers],
            files,
            random: fastrand::Rng::with_seed(1),
            stage: Stage::Cookies,
            turns: vec![0; sources],
            checked: 0,
        }
    }

    /// Asks something else from now on.
    pub fn turn_to(&mut self, stage: Stage) {
        self.stage = stage;
        self.turns.fill(0);
    }

    /// The next peer of a source: the first of `n` sources has the peers 0, n, 2n and so on, each with its own port.
    fn turn(&mut self, source: usize) -> Option<(usize, u16)> {
        let turn = self.turns[source];
        let peer = source + turn * self.turns.len();
        self.turns[source] += 1;
        (peer < self.tokens.len()).then_some((peer, 1 + turn as u16))
    }

    fn register(&mut self, source: usize, number: u32) -> Option<(TrackerRequest, u64)> {
        let (peer, port) = self.turn(source)?;
        let name = PeerName::new(format!("peer-{peer:07}")).ok()?;
        let registration = Registration { name, port, advertise: None };
        // The answer says whose it is.
        Some((TrackerRequest::Register(registration), (peer as u64) << 32 | u64::from(number)))
    }

    fn announce(&mut self, source: usize, number: u32) -> Option<(TrackerRequest, u64)> {
        let (peer, _) = self.turn(source)?;
        let token = std::str::from_utf8(&self.tokens[peer]).ok()?.parse().ok()?;
        let file = file(peer % self.files);
        Some((TrackerRequest::Announce { token, held: file.chunks, file }, u64::from(number)))
    }

    fn quick(&mut self, cookie: Cookie, number: u32, question: &mut Vec<u8>) -> std::io::Result<()> {
        let head =
            format_args!(r#"{{"v":1,"tx":{number},"cookie":"{:016x}","message":"#, cookie.0).to_string();
        question.extend_from_slice(head.as_bytes());
        match self.stage {
            Stage::LookupId { wanted } => {
                let id = file(self.random.usize(..self.files)).id;
                write!(question, r#"{{"type":"lookup","id":"{id}","limit":{wanted}}}}}"#)
            }
            Stage::LookupName { wanted } => {
                let name = self.random.usize(..self.files);
                write!(question, r#"{{"type":"lookup","name":"file-{name:07}.bin","limit":{wanted}}}}}"#)
            }
            _ => {
                question.extend_from_slice(br#"{"type":"heartbeat","token":""#);
                question.extend_from_slice(&self.tokens[self.random.usize(..self.tokens.len())]);
                question.extend_from_slice(br#""}}"#);
                Ok(())
            }
        }
    }

    fn look(&self, answer: &[u8], wanted: u32) -> Result<(), Wrong> {
        if !self.checked.is_multiple_of(READ) {
            // Three dots in each address, and one in the file's name.
            let dots = answer.iter().filter(|byte| **byte == b'.').count();
            return match dots == 3 * wanted as usize + 1 {
                true => Ok(()),
                false => Err(format!("not {wanted} addresses: {}", String::from_utf8_lossy(answer))),
            };
        }
        match Datagram::<TrackerResponse>::decode(answer).map_err(|error| error.to_string())?.message {
            TrackerResponse::Found { files, .. } if files.len() == 1 => {
                let distinct: BTreeSet<_> = files[0].whole.iter().chain(&files[0].partial).collect();
                match distinct.len() == wanted as usize {
                    true => Ok(()),
                    false => Err(format!("{} addresses, not {wanted}", distinct.len())),
                }
            }
            other => Err(format!("{other:?}")),
        }
    }
}

impl Talk for Ours {
    fn ask(&mut self, source: usize, number: u32, question: &mut Vec<u8>) -> bool {
        let cookie = self.cookies[source];
        let asked = match (self.stage, cookie) {
            (Stage::Cookies, None) if number == 0 => {
                Some((TrackerRequest::Lookup { name: None, id: None, limit: 1, token: None }, 0))
            }
            (Stage::Cookies, _) => None,
            (Stage::Register, _) => self.register(source, number),
            (Stage::Announce, _) => self.announce(source, number),
            (_, Some(cookie)) => return self.quick(cookie, number, question).is_ok(),
            (_, None) => None,
        };
        let Some((request, tx)) = asked else { return false };
        Datagram::new(tx, cookie, request).encode().map(|bytes| question.extend(bytes)).is_ok()
    }

    fn number(&self, answer: &[u8]) -> Result<u32, Wrong> {
        let digits = answer.strip_prefix(br#"{"v":1,"tx":"#).ok_or("not an answer")?.iter();
        let digits = digits.take_while(|byte| byte.is_ascii_digit());
        Ok(digits.fold(0u64, |sum, digit| sum.wrapping_mul(10) + u64::from(digit - b'0')) as u32)
    }

    fn check(&mut self, source: usize, answer: &[u8]) -> Result<(), Wrong> {
        self.checked += 1;
        match self.stage {
            Stage::Heartbeat => {
                let right = answer.trim_ascii_end().ends_with(br#","message":{"type":"alive"}}"#);
                right.then_some(()).ok_or_else(|| String::from_utf8_lossy(answer).into_owned())
            }
            Stage::LookupId { wanted } | Stage::LookupName { wanted } => self.look(answer, wanted),
            _ => {
                let answer =
                    Datagram::<TrackerResponse>::decode(answer).map_err(|error| error.to_string())?;
                match answer.message {
                    TrackerResponse::Cookie { cookie } => self.cookies[source] = Some(cookie),
                    TrackerResponse::Registered { token, .. } => {
                        let written = format!("{:032x}", token.0);
                        self.tokens[(answer.tx >> 32) as usize].copy_from_slice(written.as_bytes());
                    }
                    TrackerResponse::Announced { .. } => {}
                    other => return Err(format!("{other:?}")),
                }
                Ok(())
            }
        }
    }
}
