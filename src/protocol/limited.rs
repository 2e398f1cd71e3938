//! Decoders of lists and texts in messages, with their limits.
//!
//! A list above its limit makes the message invalid, like a wrong name. A text for the user is cut instead, so that the error
//! code beside it is not lost.

use crate::content::limits::ERROR_TEXT_MAX;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// Decodes a list of at most `MAX` elements.
///
/// # Errors
/// The list is longer, or an element is invalid.
pub(super) fn list<'de, const MAX: usize, T, D>(from: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    from.deserialize_seq(ListVisitor::<MAX, T>(PhantomData))
}

struct ListVisitor<const MAX: usize, T>(PhantomData<T>);

impl<'de, const MAX: usize, T: Deserialize<'de>> Visitor<'de> for ListVisitor<MAX, T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element()? {
            if list.len() == MAX {
                return Err(A::Error::custom(format_args!("a list of more than {MAX} elements")));
            }
            list.push(element);
        }
        Ok(list)
    }
}

/// Decodes a text, and cuts it to [`ERROR_TEXT_MAX`] bytes, at the end of a character.
///
/// # Errors
/// The value is not a string.
pub(super) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let mut text = String::deserialize(from)?;
    text.truncate(text.floor_char_boundary(ERROR_TEXT_MAX));
    text.shrink_to_fit();
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Decoder, encode};
    use super::super::peer::{PeerRequest, PeerResponse};
    use super::super::set_status::{ChunkStatus, ClaimStatus, Clients, SetMember, SetStatus};
    use super::super::tracker::{
        FileSummary, FoundFile, HubRole, Reachability, Registration, SetKey, Token, TrackerRequest,
        TrackerResponse,
    };
    use super::super::volunteer::{CopyFailure, KeptFile, VolunteerOrder, VolunteerReport};
    use super::super::{ErrorCode, Message, PeerAddress, set_report::WaitingChunk};
    use super::*;
    use crate::content::limits::*;
    use crate::content::{ChunkIndex, Digest, FileId, FileName, Md5, PeerName, SetName};
    use std::net::SocketAddr;

    const FILE: FileId = FileId([7; 32]);

    /// Decodes a message as it is received, with one line of JSON.
    fn received<M: Message>(message: &M) -> Result<M, String> {
        let line = encode(message).map_err(|error| error.to_string())?;
        let mut decoder = Decoder::new();
        decoder.feed(&line);
        decoder.next_message().map(Option::unwrap).map_err(|error| error.to_string())
    }

    /// A list of `max` elements is accepted, and one more element is refused with the limit as the reason.
    #[track_caller]
    fn limit<M: Message + PartialEq + fmt::Debug>(max: usize, message: impl Fn(usize) -> M) {
        assert_eq!(received(&message(max)).unwrap(), message(max));
        let error = received(&message(max + 1)).unwrap_err();
        assert!(error.contains(&format!("a list of more than {max} elements")), "{error}");
    }

    fn chunks(count: usize) -> Vec<ChunkIndex> {
        (0..count as u32).map(ChunkIndex).collect()
    }

    fn sockets(count: usize) -> Vec<SocketAddr> {
        (1..=count as u16).map(|port| ([10, 0, 0, 1], port).into()).collect()
    }

    fn addresses(count: usize) -> Vec<PeerAddress> {
        sockets(count).into_iter().map(Into::into).collect()
    }

    #[test]
    fn lists_between_peers_are_accepted_up_to_their_limit() {
        limit(NEXT_RANGES_MAX, |count| PeerRequest::Next {
            file: FILE,
            have: chunks(count).into_iter().map(|index| (index, index)).collect(),
        });
        limit(GOT_CHUNKS_MAX, |count| PeerResponse::Got { file: FILE, chunks: chunks(count) });
        limit(NAMED_PEERS_MAX, |count| PeerResponse::Peers { file: FILE, peers: sockets(count) });
        limit(IDENTITY_PROOFS_MAX, |count| PeerResponse::Identity { proofs: vec![Digest([7; 32]); count] });
    }

    #[test]
    fn lists_of_volunteers_are_accepted_up_to_their_limit() {
        let file = FileSummary { id: FILE, name: FileName::new("f").unwrap(), size: 9, chunks: 1 };
        let kept = KeptFile { file, md5: Md5([5; 16]) };
        let report = |act| TrackerRequest::Volunteer { token: Token(1), act };
        let order = |order| TrackerResponse::Volunteer { order: Box::new(order) };
        limit(NAMED_CHUNKS_MAX, |count| {
            report(VolunteerReport::Holds { kept: kept.clone(), held: chunks(count), checked: true })
        });
        limit(NAMED_CHUNKS_MAX, |count| {
            report(VolunteerReport::Dropped { file: FILE, chunks: chunks(count), free: 0 })
        });
        limit(NAMED_CHUNKS_MAX, |count| {
            report(VolunteerReport::Spoiled { file: FILE, chunks: chunks(count), free: 0 })
        });
        limit(DROP_MAX, |count| order(VolunteerOrder::Drop { file: FILE, chunks: chunks(count) }));
        limit(NAMED_CHUNKS_MAX, |count| order(VolunteerOrder::Check { file: FILE, chunks: chunks(count) }));
    }

    #[test]
    fn lists_of_trackers_are_accepted_up_to_their_limit() {
        let found = |whole, partial| FoundFile {
            file: FileSummary { id: FILE, name: FileName::new("f").unwrap(), size: 9, chunks: 1 },
            holders: 1,
            complete: 1,
            whole: addresses(whole),
            partial: addresses(partial),
            md5: None,
        };
        let answer = |files| TrackerResponse::Found { files, truncated: false };
        limit(FOUND_FILES_MAX, |count| answer(vec![found(1, 0); count]));
        limit(HOLDERS_MAX, |count| answer(vec![found(count, 0)]));
        limit(HOLDERS_MAX, |count| answer(vec![found(0, count)]));
        let set = SetKey { set: SetName::new("s").unwrap(), count: 9 };
        let (index, claim) =
            (ChunkIndex(1), super::super::tracker::Claim { sha256: Digest([1; 32]), size: 1 });
        limit(HOLDERS_MAX, |count| TrackerResponse::ChunkLocation {
            set: set.clone(),
            index,
            claim,
            holders: addresses(count),
        });
        limit(OTHER_COUNTS_MAX, |count| TrackerResponse::SetJoined {
            set: set.clone(),
            others: vec![7; count],
        });
        let waiting = |names| WaitingChunk {
            index,
            agree: 1,
            quorum: 2,
            differ: vec![PeerName::new("p").unwrap(); names],
            last: None,
        };
        let waits = |chunks| TrackerResponse::SetWaits { set: set.clone(), chunks, more: 0, disputed: 0 };
        limit(REPORTED_CHUNKS_MAX, |count| waits(vec![waiting(1); count]));
        limit(REPORTED_NAMES_MAX, |count| waits(vec![waiting(count)]));
        limit(REACHED_ADDRESSES_MAX, |count| {
            TrackerResponse::Reachability(Reachability { working: sockets(count), ..Default::default() })
        });
    }

    #[test]
    fn lists_in_the_state_of_a_set_are_accepted_up_to_their_limit() {
        let name = || PeerName::new("p").unwrap();
        let clients = |names| Clients { count: 9, names: vec![name(); names] };
        let claim = |names| ClaimStatus { sha256: Digest([1; 32]), clients: clients(names) };
        let chunk = |names, claims| ChunkStatus {
            index: ChunkIndex(1),
            agreed: None,
            holders: clients(names),
            claims,
            last: None,
        };
        let member = SetMember { name: name(), address: sockets(1)[0], held: 1 };
        let state = |members, chunks| TrackerResponse::SetStatus {
            status: Box::new(SetStatus {
                set: SetName::new("s").unwrap(),
                count: 9,
                quorum: 2,
                agreed: 0,
                clients: 9,
                members: vec![member.clone(); members],
                chunks,
            }),
        };
        limit(STATUS_MEMBERS_MAX, |count| state(count, vec![]));
        limit(STATUS_CHUNKS_MAX, |count| state(1, vec![chunk(1, vec![]); count]));
        limit(STATUS_NAMES_MAX, |count| state(1, vec![chunk(count, vec![])]));
        limit(STATUS_CLAIMS_MAX, |count| state(1, vec![chunk(1, vec![claim(1); count])]));
        limit(STATUS_NAMES_MAX, |count| state(1, vec![chunk(1, vec![claim(count)])]));
    }

    #[test]
    fn a_registration_has_at_most_the_maximum_of_addresses() {
        let register = |count| {
            let mut registration = Registration::new(PeerName::new("p").unwrap(), 7_000);
            registration.addresses = sockets(count).iter().map(SocketAddr::ip).collect();
            TrackerRequest::Register(registration)
        };
        limit(PEER_ADDRESSES_MAX, register);
        limit(PEER_ADDRESSES_MAX, |count| TrackerRequest::Addresses {
            token: Token(1),
            addresses: sockets(count).iter().map(SocketAddr::ip).collect(),
        });
        let _ = HubRole::Tracker;
    }

    #[test]
    fn the_text_of_an_error_is_cut_at_its_limit_and_the_code_is_kept() {
        let long = "é".repeat(ERROR_TEXT_MAX / 2);
        let peer = |text: String| PeerResponse::Error { code: ErrorCode::Busy, text, index: None };
        let tracker = |text: String| TrackerResponse::Error { code: ErrorCode::Busy, text };
        let volunteer = |text: String| TrackerRequest::Volunteer {
            token: Token(1),
            act: VolunteerReport::NotStored {
                file: FILE,
                index: ChunkIndex(1),
                why: CopyFailure::Disk,
                text,
                free: 0,
            },
        };
        for added in ["", "x", "é"] {
            let sent = format!("{long}{added}");
            assert_eq!(received(&peer(sent.clone())).unwrap(), peer(long.clone()));
            assert_eq!(received(&tracker(sent.clone())).unwrap(), tracker(long.clone()));
            assert_eq!(received(&volunteer(sent)).unwrap(), volunteer(long.clone()));
        }
        let split = format!("x{long}");
        let cut = format!("x{}", "é".repeat(ERROR_TEXT_MAX / 2 - 1));
        assert_eq!(received(&peer(split)).unwrap(), peer(cut), "no character is split");
    }
}
