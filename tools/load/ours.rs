//! Requests to our own tracker: cookie, registration, announcement, heartbeat, lookup.

use crate::window::{Talk, Wrong};
use shoal::content::limits::PROTOCOL_VERSION;
use shoal::content::{FileId, FileName, PeerName};
use shoal::protocol::datagram::{Cookie, Datagram};
use shoal::protocol::tracker::{FileSummary, Registration, TrackerRequest, TrackerResponse};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::LazyLock;

/// One response in this number is decoded completely; of the others the tool checks the start, the end and the number
/// of addresses.
const DECODE_INTERVAL: u64 = 256;
/// Start of each datagram in both directions.
static HEAD: LazyLock<String> = LazyLock::new(|| format!(r#"{{"v":{PROTOCOL_VERSION},"tx":"#));

/// The state of the simulated peers.
pub struct Ours {
    cookies: Vec<Option<Cookie>>,
    /// Tokens in their JSON form, by peer.
    tokens: Vec<[u8; 32]>,
    files: usize,
    random: fastrand::Rng,
    stage: Stage,
    /// Number of peers of each source that have had their turn.
    turns: Vec<usize>,
    /// Number of checked responses.
    checked: u64,
}

/// The kind of request that is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// One request for a cookie from each source.
    Cookies,
    /// The registration of each peer, from the source that it belongs to.
    Register,
    /// An announcement of one file by each peer.
    Announce,
    /// Heartbeats of random peers.
    Heartbeat,
    /// Lookups of files by id.
    LookupId {
        /// Number of addresses in the response.
        wanted: u32,
    },
    /// Lookups of files by name.
    LookupName {
        /// Number of addresses in the response.
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
    /// Peers that share `files` files equally.
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

    /// Switches to another kind of request.
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
        let registration = Registration::new(name, port);
        // The transaction id identifies the peer to which the response belongs.
        Some((TrackerRequest::Register(registration), (peer as u64) << 32 | u64::from(number)))
    }

    fn announce(&mut self, source: usize, number: u32) -> Option<(TrackerRequest, u64)> {
        let (peer, _) = self.turn(source)?;
        let token = std::str::from_utf8(&self.tokens[peer]).ok()?.parse().ok()?;
        let file = file(peer % self.files);
        Some((TrackerRequest::Announce { token, held: file.chunks, file, sent: None }, u64::from(number)))
    }

    fn write_request(
        &mut self,
        cookie: Cookie,
        number: u32,
        request_bytes: &mut Vec<u8>,
    ) -> std::io::Result<()> {
        let head = format!(r#"{}{number},"cookie":"{:016x}","message":"#, *HEAD, cookie.0);
        request_bytes.extend_from_slice(head.as_bytes());
        match self.stage {
            Stage::LookupId { wanted } => {
                let id = file(self.random.usize(..self.files)).id;
                write!(request_bytes, r#"{{"type":"lookup","id":"{id}","limit":{wanted}}}}}"#)
            }
            Stage::LookupName { wanted } => {
                let name = self.random.usize(..self.files);
                write!(request_bytes, r#"{{"type":"lookup","name":"file-{name:07}.bin","limit":{wanted}}}}}"#)
            }
            _ => {
                request_bytes.extend_from_slice(br#"{"type":"heartbeat","token":""#);
                request_bytes.extend_from_slice(&self.tokens[self.random.usize(..self.tokens.len())]);
                request_bytes.extend_from_slice(br#""}}"#);
                Ok(())
            }
        }
    }

    fn check_found(&self, response: &[u8], wanted: u32) -> Result<(), Wrong> {
        if !self.checked.is_multiple_of(DECODE_INTERVAL) {
            // Each address has three dots, and the file name has one.
            let dots = response.iter().filter(|byte| **byte == b'.').count();
            return match dots == 3 * wanted as usize + 1 {
                true => Ok(()),
                false => Err(format!("not {wanted} addresses: {}", String::from_utf8_lossy(response))),
            };
        }
        match Datagram::<TrackerResponse>::decode(response).map_err(|error| error.to_string())?.message {
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
    fn ask(&mut self, source: usize, number: u32, request_bytes: &mut Vec<u8>) -> bool {
        let cookie = self.cookies[source];
        let asked = match (self.stage, cookie) {
            (Stage::Cookies, None) if number == 0 => {
                Some((TrackerRequest::Lookup { name: None, id: None, limit: 1, token: None }, 0))
            }
            (Stage::Cookies, _) => None,
            (Stage::Register, _) => self.register(source, number),
            (Stage::Announce, _) => self.announce(source, number),
            (_, Some(cookie)) => return self.write_request(cookie, number, request_bytes).is_ok(),
            (_, None) => None,
        };
        let Some((request, tx)) = asked else { return false };
        Datagram::new(tx, cookie, request).encode().map(|bytes| request_bytes.extend(bytes)).is_ok()
    }

    fn number(&self, answer: &[u8]) -> Result<u32, Wrong> {
        let digits = answer.strip_prefix(HEAD.as_bytes()).ok_or("not an answer of this version")?.iter();
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
            Stage::LookupId { wanted } | Stage::LookupName { wanted } => self.check_found(answer, wanted),
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
