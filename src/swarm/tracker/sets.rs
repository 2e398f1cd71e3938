//! Chunk sets of a tracker: members, their claims, and the files that agreed sets become.

use super::Tracker;
use super::set_reports::SetReports;
use crate::content::limits::{self, FILE_SIZE_MAX, OTHER_COUNTS_MAX, TRACKER_NAME};
use crate::content::{ChunkIndex, FileId, PeerName};
use crate::protocol::tracker::{Claim, FileSummary, SetKey, TrackerResponse};
use crate::protocol::{ErrorCode, PeerAddress};
use crate::swarm::Moment;
use crate::swarm::agreement::{ChunkSet, Outcome, Sealed};
use crate::swarm::machine::Effect;
use crate::swarm::membership::error;
use crate::swarm::registry::PeerId;
use crate::swarm::shares::BudgetKind;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

/// All chunk sets.
pub(super) struct ChunkSets {
    /// Number of equal claims that make an agreement.
    quorum: usize,
    pub(super) by_key: HashMap<SetKey, ChunkSet>,
    /// The members of sets.
    pub(super) of_member: HashMap<PeerId, MemberSets>,
    /// The sets behind each id of a sealed set: several sets may have the same content.
    pub(super) sealed: HashMap<FileId, BTreeSet<SetKey>>,
    /// Times of the reports to members of sets with undecided chunks.
    pub(super) reports: SetReports,
}

/// The sets of a member.
pub(super) struct MemberSets {
    /// The source address that is charged for its claims and requests.
    source: IpAddr,
    pub(super) keys: BTreeSet<SetKey>,
}

impl ChunkSets {
    pub(super) fn new(quorum: usize) -> Self {
        Self {
            quorum,
            by_key: HashMap::new(),
            of_member: HashMap::new(),
            sealed: HashMap::new(),
            reports: SetReports::default(),
        }
    }

    /// Number of equal claims that make an agreement.
    pub(super) fn quorum(&self) -> usize {
        self.quorum
    }

    /// A sealed set with this id.
    pub(super) fn sealed(&self, file: FileId) -> Option<&Sealed> {
        let key = self.sealed.get(&file)?.first()?;
        self.by_key.get(key)?.sealed().map(|sealed| &**sealed)
    }
}

impl Tracker {
    /// Adds a peer to a set.
    pub(super) fn join_set(&mut self, now: Moment, id: PeerId, key: SetKey) -> Option<TrackerResponse> {
        if key.count == 0 || key.count > limits::CHUNKS_MAX {
            let text = format!("a set has 1 to {} chunks, not {}", limits::CHUNKS_MAX, key.count);
            return Some(error(ErrorCode::Malformed, text));
        }
        let peer = self.peers.registry.peer(id)?;
        let source = self.peers.registry.source(id)?;
        let member = MemberSets { source, keys: BTreeSet::new() };
        let joined = &mut self.sets.of_member.entry(id).or_insert(member).keys;
        if joined.len() >= limits::SETS_PER_PEER_MAX && !joined.contains(&key) {
            let text = format!("set limit of this peer reached ({})", limits::SETS_PER_PEER_MAX);
            return Some(error(ErrorCode::Busy, text));
        }
        joined.insert(key.clone());
        let quorum = self.sets.quorum;
        let set = self.sets.by_key.entry(key.clone()).or_insert_with(|| ChunkSet::new(key.count, quorum));
        set.join(id, peer.address);
        let SetKey { set: name, count } = &key;
        self.effects.push(Effect::Note(format!("{} joined the set {name} of {count} chunks", peer.name)));
        if let (Some(sealed), Some(connection)) = (set.sealed(), self.peers.connection(id)) {
            let response = TrackerResponse::SetSealed { set: key.clone(), file: sealed.id };
            self.effects.push(Effect::Push(connection, response));
        }
        self.sets.reports.schedule(now, &key);
        self.warn_of_same_name(id, &key);
        let same_name =
            self.sets.by_key.keys().filter(|other| other.set == key.set && other.count != key.count);
        let others = same_name.map(|other| other.count).take(OTHER_COUNTS_MAX).collect();
        Some(TrackerResponse::SetJoined { set: key, others })
    }

    /// Handles a request for a chunk of a set that the peer has joined.
    pub(super) fn in_set(
        &mut self,
        id: PeerId,
        key: SetKey,
        index: ChunkIndex,
        then: impl FnOnce(&mut Self, &SetKey) -> Option<TrackerResponse>,
    ) -> Option<TrackerResponse> {
        match self.sets.of_member.get(&id).is_some_and(|member| member.keys.contains(&key)) {
            true if index.0 < key.count => then(self, &key),
            true => Some(error(
                ErrorCode::Malformed,
                format!("the set has {} chunks, there is no chunk {index}", key.count),
            )),
            false => Some(error(ErrorCode::NotFound, format!("join the set {} first", key.set))),
        }
    }

    /// Handles a claim for a chunk.
    pub(super) fn claim(
        &mut self,
        now: Moment,
        id: PeerId,
        key: &SetKey,
        index: ChunkIndex,
        claim: Claim,
    ) -> Option<TrackerResponse> {
        // Then the chunks of a set never add up to more than a file can have.
        let size_max = FILE_SIZE_MAX / u64::from(key.count).max(1);
        if claim.size > size_max {
            let (size, count) = (claim.size, key.count);
            let text = format!(
                "chunk {index}: {size} bytes; with {count} chunks, each has at most {size_max} bytes"
            );
            return Some(error(ErrorCode::Malformed, text));
        }
        let source = self.sets.of_member.get(&id)?.source;
        if !self.sets.by_key.get(key)?.claims(id, index)
            && let Some(refusal) = self.claim_refusal(source)
        {
            return Some(refusal);
        }
        let (before, outcomes, after) = self.change(source, key, |set| {
            (set.claim_state(id), set.claim(id, index, claim), set.claim_state(id))
        })?;
        let sealed = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Sealed(_)));
        self.apply_outcomes(key, outcomes);
        if self.sets.by_key.get(key).is_some_and(|set| set.is_disputed(index)) {
            self.sets.reports.schedule_soon(now, key);
        }
        if before != after {
            self.update_holder(id, key);
        }
        // Sealing the set may make other members complete holders.
        if sealed || before != after {
            self.notify_complete(key);
        }
        None
    }

    /// Handles the withdrawal of a claim.
    pub(super) fn unclaim(&mut self, id: PeerId, key: &SetKey, index: ChunkIndex) -> Option<TrackerResponse> {
        let source = self.sets.of_member.get(&id)?.source;
        let (before, outcomes, after) = self
            .change(source, key, |set| (set.claim_state(id), set.unclaim(id, index), set.claim_state(id)))?;
        self.apply_outcomes(key, outcomes);
        if before != after {
            self.update_holder(id, key);
        }
        None
    }

    /// Handles a request for the holders of a chunk, which is answered later if there is no agreement yet.
    pub(super) fn where_chunk(
        &mut self,
        id: PeerId,
        key: &SetKey,
        index: ChunkIndex,
    ) -> Option<TrackerResponse> {
        let source = self.sets.of_member.get(&id)?.source;
        if !self.sets.by_key.get(key)?.waits(id, index)
            && let Some(refusal) = self.claim_refusal(source)
        {
            return Some(refusal);
        }
        match self.change(source, key, |set| set.want(id, index))? {
            true => self.chunk_location(id, key, index),
            false => {
                let line = format!("{TRACKER_NAME},CHUNK_LOCATION_UNKNOWN,{index}");
                self.effects.push(Effect::Event(line));
                Some(TrackerResponse::ChunkUnknown { set: key.clone(), index })
            }
        }
    }

    /// Changes the entries of one member in a set, and charges its source address for them or refunds it.
    fn change<T>(
        &mut self,
        source: IpAddr,
        key: &SetKey,
        change: impl FnOnce(&mut ChunkSet) -> T,
    ) -> Option<T> {
        let set = self.sets.by_key.get_mut(key)?;
        let before = set.entries();
        let result = change(set);
        let (added, removed) = (set.entries().saturating_sub(before), before.saturating_sub(set.entries()));
        let shares = &mut self.peers.registry.shares;
        shares.charge_always(source, BudgetKind::Claims, added as u32);
        shares.refund(source, BudgetKind::Claims, removed as u32);
        Some(result)
    }

    /// The refusal of a further claim or request from a source address; `None` if the budget has space for it.
    fn claim_refusal(&self, source: IpAddr) -> Option<TrackerResponse> {
        let exceeded = self.peers.registry.shares.check(source, BudgetKind::Claims, 1).err()?;
        Some(error(ErrorCode::Busy, exceeded.to_string()))
    }

    /// The holders of a chunk, for a member that asked for it. Also writes the event line.
    fn chunk_location(&mut self, id: PeerId, key: &SetKey, index: ChunkIndex) -> Option<TrackerResponse> {
        let set = self.sets.by_key.get(key)?;
        let claim: Claim = set.agreed(index)?;
        let mut members = set.holders(index, id);
        self.random.shuffle(&mut members);
        let requester = self.peers.source_ip(id)?;
        let registry = &self.peers.registry;
        // An address may have been found better since the member joined.
        let named = |(peer, joined): (PeerId, SocketAddr)| {
            let address = registry.peer(peer).map_or(joined, |peer| peer.address);
            registry.reaches.view(peer, address, requester)
        };
        // All holders together must fit into a frame.
        let each = limits::HOLDERS_MAX / members.len().max(1);
        let holders = members.into_iter().filter_map(named).take(limits::HOLDERS_MAX);
        let holders: Vec<PeerAddress> = holders.map(|holder| holder.limited(each)).collect();
        let mut line = format!("{TRACKER_NAME},GET_CHUNK_FROM,{index},{}", claim.sha256);
        for holder in &holders {
            line += &format!(",{},{}", holder.first().ip(), holder.first().port());
        }
        self.effects.push(Effect::Event(line));
        Some(TrackerResponse::ChunkLocation { set: key.clone(), index, claim, holders })
    }

    /// Carries out the consequences of a change in a set: messages to its members, seal, unseal.
    fn apply_outcomes(&mut self, key: &SetKey, outcomes: Vec<Outcome>) {
        for outcome in outcomes {
            match outcome {
                Outcome::Differs(id, index, claim) => {
                    let name =
                        self.peers.registry.peer(id).map(|peer| peer.name.to_string()).unwrap_or_default();
                    self.effects.push(Effect::Note(format!(
                        "{name} claims another hash for chunk {index} of {} than was agreed upon",
                        key.set
                    )));
                    self.push(id, TrackerResponse::ClaimDiffers { set: key.clone(), index, claim });
                }
                Outcome::Located(id, index) => {
                    if let Some(response) = self.chunk_location(id, key, index) {
                        self.push(id, response);
                    }
                }
                Outcome::Sealed(sealed) => self.seal(key, &sealed),
                Outcome::Unsealed(sealed) => self.unseal(key, sealed.id),
            }
        }
    }

    /// The members of a set.
    fn members(&self, key: &SetKey) -> Vec<PeerId> {
        self.sets.by_key.get(key).map(|set| set.members().collect()).unwrap_or_default()
    }

    /// Announces a set whose chunks are all agreed upon as a file.
    fn seal(&mut self, key: &SetKey, sealed: &Sealed) {
        let (file, size) = (sealed.id, sealed.size);
        self.sets.sealed.entry(file).or_default().insert(key.clone());
        self.effects.push(Effect::Note(format!(
            "the set {} is agreed upon: {} chunks, {size} bytes, file {file}",
            key.set, key.count
        )));
        for id in self.members(key) {
            self.push(id, TrackerResponse::SetSealed { set: key.clone(), file });
            self.update_holder(id, key);
        }
    }

    /// Withdraws the file of a set that has lost the last holder of a chunk.
    fn unseal(&mut self, key: &SetKey, file: FileId) {
        let mut others = self.sets.sealed.remove(&file).unwrap_or_default();
        others.remove(key);
        if !others.is_empty() {
            self.sets.sealed.insert(file, others.clone());
        }
        let members = self.members(key);
        // When all members have left, no peer needs a missing chunk.
        if !members.is_empty() {
            let text = format!(
                "the set {} lost the last holder of a chunk: it is no longer available as a file",
                key.set
            );
            self.effects.push(Effect::Note(text));
        }
        for id in members {
            self.peers.registry.retract(id, file, None);
            // A member that is also in another set with the same content remains a holder through that set.
            for other in &others {
                if self.sets.by_key.get(other).is_some_and(|set| set.is_member(id)) {
                    self.update_holder(id, other);
                }
            }
        }
    }

    /// Updates the registry entry of a member of a sealed set.
    fn update_holder(&mut self, id: PeerId, key: &SetKey) {
        let Some(set) = self.sets.by_key.get(key) else { return };
        let Some(sealed) = set.sealed() else { return };
        let summary =
            FileSummary { id: sealed.id, name: key.set.clone().into(), size: sealed.size, chunks: key.count };
        let same_content = self.sets.sealed.get(&sealed.id).into_iter().flatten();
        let mut same_content = same_content.filter_map(|key| self.sets.by_key.get(key));
        let held = if same_content.any(|set| set.is_whole(id)) { key.count } else { 0 };
        if let Err(full) = self.peers.registry.announce(id, &summary, held) {
            self.effects.push(Effect::Note(full.to_string()));
        }
    }

    /// Notifies all members when every member holds all chunks.
    fn notify_complete(&mut self, key: &SetKey) {
        if self.sets.by_key.get(key).is_some_and(ChunkSet::is_complete) {
            for id in self.members(key) {
                self.push(id, TrackerResponse::SetComplete { set: key.clone() });
            }
        }
    }

    /// Removes a peer from all its sets.
    pub(super) fn leave_sets(&mut self, now: Moment, id: PeerId, name: &PeerName) {
        let Some(MemberSets { source, keys }) = self.sets.of_member.remove(&id) else { return };
        for key in keys {
            let left = self.change(source, &key, |set| (set.is_whole(id), set.leave(id, name, now)));
            let Some((whole, outcomes)) = left else { continue };
            let sealed = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Sealed(_)));
            self.apply_outcomes(&key, outcomes);
            // If this peer was complete, its departure changes nothing for the others.
            if sealed || !whole {
                self.notify_complete(&key);
            }
            if self.sets.by_key.get(&key).is_some_and(ChunkSet::is_empty) {
                self.sets.by_key.remove(&key);
                self.sets.reports.remove(&key);
            } else {
                self.sets.reports.schedule(now, &key);
            }
        }
    }
}
