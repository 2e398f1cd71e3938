//! Encoded list of all files that a tracker knows, built once and shared by many clients.
//!
//! Invariants: a listing for which [`holds`](Listing::holds) is true equals a newly built one, except for the
//! random choice of holders; its size never exceeds [`LIST_MAX`].

use super::Moment;
use super::registry::Registry;
use crate::content::limits::{LIST_MAX, LISTED_FILES_MAX, LISTED_HOLDERS_MAX};
use crate::protocol::tracker::{FoundFile, TrackerResponse};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// The encoded list and the registry state that it was built from.
pub struct Listing {
    /// [`Registry::changes`] at the time of encoding.
    changes: u64,
    /// Time at which the next lease may expire.
    until: Moment,
    count: u32,
    payload: Arc<[u8]>,
}

impl Listing {
    /// Encodes the current content of a registry for requesters on the host of the tracker (`local`) or on others.
    pub fn of(now: Moment, registry: &Registry, local: bool, random: &mut fastrand::Rng) -> Self {
        // No peer has the unspecified address as its source: it stands for every other host.
        let requester = if local { IpAddr::from(Ipv4Addr::LOCALHOST) } else { Ipv4Addr::UNSPECIFIED.into() };
        let (found, all) = registry.list(now, LISTED_HOLDERS_MAX, LISTED_FILES_MAX, requester, random);
        Self {
            changes: registry.changes(),
            until: registry.next_expiry().unwrap_or(Moment::MAX),
            count: all as u32,
            payload: encode(&found).into(),
        }
    }

    /// Whether the registry is unchanged and no lease has expired since.
    pub fn holds(&self, now: Moment, registry: &Registry) -> bool {
        self.changes == registry.changes() && now < self.until
    }

    /// The message and its payload.
    pub fn message(&self) -> (TrackerResponse, Arc<[u8]>) {
        let response = TrackerResponse::Listing { count: self.count, length: self.payload.len() as u64 };
        (response, self.payload.clone())
    }
}

/// A JSON array of the first files that fit into [`LIST_MAX`] bytes.
fn encode(files: &[FoundFile]) -> Vec<u8> {
    let mut array = vec![b'['];
    for found in files {
        // Names and addresses always serialise.
        let Ok(json) = serde_json::to_vec(found) else { continue };
        if (array.len() + json.len()) as u64 + 2 > LIST_MAX {
            break;
        }
        if array.len() > 1 {
            array.push(b',');
        }
        array.extend(json);
    }
    array.push(b']');
    array
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{FileId, FileName};
    use crate::protocol::PeerAddress;
    use crate::protocol::tracker::FileSummary;

    #[test]
    fn a_list_never_exceeds_its_size_limit() {
        let name = FileName::new("é".repeat(127)).unwrap();
        let address =
            "[1111:2222:3333:4444:5555:6666:7777:8888]:65535".parse::<std::net::SocketAddr>().unwrap();
        let holders: Vec<PeerAddress> = vec![address.into(); LISTED_HOLDERS_MAX];
        let file = FileSummary { id: FileId([255; 32]), name, size: u64::MAX, chunks: u32::MAX };
        let found = FoundFile {
            file,
            holders: u32::MAX,
            complete: u32::MAX,
            whole: holders.clone(),
            partial: holders,
            md5: None,
        };
        let one = encode(std::slice::from_ref(&found)).len() as u64;
        let fitting = (LIST_MAX - 2) / one;
        let payload = encode(&vec![found; fitting as usize + 9_000]);
        assert!(payload.len() as u64 <= LIST_MAX && payload.ends_with(b"]"));
        assert!(fitting >= LISTED_FILES_MAX as u64, "LISTED_FILES entries fit, even with the longest names");
    }
}
