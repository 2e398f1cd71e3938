//! State of the chunk sets of a tracker, for its owner and for the members of a set.

use super::Tracker;
use crate::content::limits::{STATUS_CHUNKS_MAX, STATUS_CLAIMS_MAX, STATUS_MEMBERS_MAX, STATUS_NAMES_MAX};
use crate::content::{ChunkIndex, Digest, PeerName};
use crate::protocol::ErrorCode;
use crate::protocol::set_report::LastHolder;
use crate::protocol::set_status::{ChunkStatus, ClaimStatus, Clients, SetMember, SetStatus};
use crate::protocol::tracker::{SetKey, TrackerResponse};
use crate::swarm::Moment;
use crate::swarm::agreement::ChunkSet;
use crate::swarm::membership::error;
use crate::swarm::registry::PeerId;
use std::collections::BTreeMap;

/// Sets in the status of a tracker.
const SETS_MAX: usize = 100;

impl Tracker {
    /// State of the first sets, by name.
    pub(super) fn set_statuses(&self, now: Moment) -> Vec<SetStatus> {
        let mut keys: Vec<&SetKey> = self.sets.by_key.keys().collect();
        keys.sort();
        keys.into_iter().take(SETS_MAX).filter_map(|key| self.set_status(now, key)).collect()
    }

    /// The state of a set, for a member.
    pub(super) fn member_set_status(&self, now: Moment, id: PeerId, key: &SetKey) -> TrackerResponse {
        let is_member = self.sets.of_member.get(&id).is_some_and(|member| member.keys.contains(key));
        match self.set_status(now, key).filter(|_| is_member) {
            Some(status) => TrackerResponse::SetStatus { status: Box::new(status) },
            None => error(ErrorCode::NotFound, format!("join the set {} first", key.set)),
        }
    }

    fn set_status(&self, now: Moment, key: &SetKey) -> Option<SetStatus> {
        let set = self.sets.by_key.get(key)?;
        let member = |id: PeerId| {
            let peer = self.peers.registry.peer(id)?;
            Some(SetMember { name: peer.name.clone(), address: peer.address, held: set.held(id) })
        };
        let mut members: Vec<SetMember> = set.members().filter_map(member).collect();
        let clients = members.len() as u32;
        members.sort();
        members.truncate(STATUS_MEMBERS_MAX);
        let chunks = set.most_noteworthy(STATUS_CHUNKS_MAX).into_iter();
        Some(SetStatus {
            set: key.set.clone(),
            count: key.count,
            quorum: self.sets.quorum() as u32,
            agreed: key.count - set.undecided_count(),
            clients,
            members,
            chunks: chunks.map(|index| self.chunk_status(now, set, index)).collect(),
        })
    }

    fn chunk_status(&self, now: Moment, set: &ChunkSet, index: ChunkIndex) -> ChunkStatus {
        let agreed = set.agreed(index);
        let mut by_hash: BTreeMap<Digest, Vec<PeerId>> = BTreeMap::new();
        let mut holders = Vec::new();
        for (peer, claim) in set.claims_of(index) {
            match Some(claim) == agreed {
                true => holders.push(peer),
                false => by_hash.entry(claim.sha256).or_default().push(peer),
            }
        }
        let claims = by_hash.into_iter().take(STATUS_CLAIMS_MAX);
        let claims = claims.map(|(sha256, peers)| ClaimStatus { sha256, clients: self.clients(&peers) });
        let last = |(name, left): (PeerName, Moment)| LastHolder {
            name,
            seconds: now.saturating_sub(left).as_secs(),
        };
        ChunkStatus {
            index,
            agreed: agreed.map(|claim| claim.sha256),
            holders: self.clients(&holders),
            claims: claims.collect(),
            last: set.last_holder(index).map(last),
        }
    }

    fn clients(&self, peers: &[PeerId]) -> Clients {
        let known = peers.iter().filter_map(|id| self.peers.registry.peer(*id));
        let names = known.map(|peer| peer.name.clone()).take(STATUS_NAMES_MAX).collect();
        Clients { count: peers.len() as u32, names }
    }
}
