//! Chunk sets: members claim chunk hashes, and a quorum of equal claims makes an agreement.
//!
//! All claims are on the check list. A chunk's hash moves to the chunk list when a quorum of different
//! addresses claim it; these members are its holders. Responses use only the chunk list. When all chunks are
//! agreed, the set is sealed into a manifest.
//!
//! Invariants: a holder's claim equals the agreed hash; an agreement lasts while it has a holder, and when
//! the last one leaves, the check list decides again; a set is sealed exactly when all its chunks are agreed.

use super::Moment;
use super::registry::PeerId;
use crate::content::{ChunkIndex, FileId, Layout, Manifest, PeerName};
use crate::protocol::tracker::Claim;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

/// Consequence of a claim or a departure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The claim of this member differs from the agreed one.
    Differs(PeerId, ChunkIndex, Claim),
    /// Another member holds the chunk that this member waits for.
    Located(PeerId, ChunkIndex),
    /// All chunks are agreed.
    Sealed(Arc<Sealed>),
    /// A sealed set has lost the last holder of a chunk: it is no longer available as a file.
    Unsealed(Arc<Sealed>),
}

/// A sealed set as a file. The cost of hashing and encoding a manifest grows with the number of chunks, so
/// both are done once and all clients share one payload.
#[derive(Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The id of the file.
    pub id: FileId,
    /// Size of the file in bytes.
    pub size: u64,
    /// Chunk size in bytes, as in the manifest message.
    pub chunk_size: u32,
    /// The encoded manifest.
    pub payload: Arc<[u8]>,
}

impl Sealed {
    fn of(manifest: &Manifest) -> Self {
        let layout = manifest.layout();
        let (size, chunk_size) = (layout.size(), layout.chunk_size());
        Self { id: manifest.id(), size, chunk_size, payload: manifest.payload().into() }
    }
}

/// Chunks whose last holder is remembered.
const LAST_HOLDERS_MAX: usize = 256;
/// Chunks that are examined for [`most_noteworthy`](ChunkSet::most_noteworthy).
const EXAMINED_MAX: u32 = 65_536;

#[derive(Debug, Default)]
struct Chunk {
    claims: BTreeMap<PeerId, Claim>,
    agreed: Option<Claim>,
    /// Members that asked for the chunk and do not have it yet.
    waiting: BTreeSet<PeerId>,
}

/// A chunk without an agreed hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undecided {
    /// Index of the chunk.
    pub index: ChunkIndex,
    /// Largest number of members at different addresses with equal claims.
    pub agree: usize,
    /// The members that claim it, if their claims differ.
    pub differ: Vec<PeerId>,
    /// If no member claims it: the last one that did, and the time at which it left.
    pub last: Option<(PeerName, Moment)>,
}

impl Chunk {
    /// Number of claims and waiting members.
    fn entries(&self) -> usize {
        self.claims.len() + self.waiting.len()
    }

    /// Whether the claims differ.
    fn is_contested(&self) -> bool {
        let first = self.claims.values().next();
        self.claims.values().any(|claim| Some(claim) != first)
    }

    /// Whether no hash is agreed and the claims differ.
    fn is_disputed(&self) -> bool {
        self.agreed.is_none() && self.is_contested()
    }

    fn holders(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.claims.iter().filter(|(_, claim)| Some(**claim) == self.agreed).map(|(peer, _)| *peer)
    }
}

#[derive(Debug)]
struct Member {
    address: SocketAddr,
    /// Number of chunks that it claims.
    claims: u32,
    /// Number of its claims that equal the agreed hash.
    held: u32,
}

/// A chunk set, its members, their claims and the agreements.
#[derive(Debug)]
pub struct ChunkSet {
    count: u32,
    quorum: usize,
    members: HashMap<PeerId, Member>,
    chunks: BTreeMap<ChunkIndex, Chunk>,
    agreed: u32,
    /// Number of claims and waiting members of all chunks.
    entries: usize,
    sealed: Option<Arc<Sealed>>,
    /// The last member that claimed a chunk, and the time at which it left; for up to [`LAST_HOLDERS_MAX`] chunks.
    last: BTreeMap<ChunkIndex, (PeerName, Moment)>,
    /// Chunks with claims that differ.
    contested: BTreeSet<ChunkIndex>,
}

impl ChunkSet {
    /// A set of `count` chunks in which `quorum` equal claims make an agreement.
    pub fn new(count: u32, quorum: usize) -> Self {
        let (members, chunks, last) = (HashMap::new(), BTreeMap::new(), BTreeMap::new());
        Self {
            count,
            quorum: quorum.max(1),
            members,
            chunks,
            agreed: 0,
            entries: 0,
            sealed: None,
            last,
            contested: BTreeSet::new(),
        }
    }

    /// Adds a member.
    pub fn join(&mut self, peer: PeerId, address: SocketAddr) {
        self.members.entry(peer).or_insert(Member { address, claims: 0, held: 0 });
    }

    /// Whether a peer is a member.
    pub fn is_member(&self, peer: PeerId) -> bool {
        self.members.contains_key(&peer)
    }

    /// The members.
    pub fn members(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.members.keys().copied()
    }

    /// Whether the set has no members and can be removed.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The set as a file, once all chunks are agreed.
    pub fn sealed(&self) -> Option<&Arc<Sealed>> {
        self.sealed.as_ref()
    }

    /// The agreed claim of a chunk.
    pub fn agreed(&self, index: ChunkIndex) -> Option<Claim> {
        self.chunks.get(&index)?.agreed
    }

    /// The holders of a chunk and their addresses at the time when they joined: one for each address, none for that of
    /// `except`.
    pub fn holders(&self, index: ChunkIndex, except: PeerId) -> Vec<(PeerId, SocketAddr)> {
        let own = self.address(except);
        let holders = self.chunks.get(&index).into_iter().flat_map(Chunk::holders);
        let with_address = holders.filter_map(|peer| Some((self.address(peer)?, peer)));
        let others: BTreeMap<_, _> = with_address.filter(|(at, _)| Some(*at) != own).collect();
        others.into_iter().map(|(address, peer)| (peer, address)).collect()
    }

    fn address(&self, peer: PeerId) -> Option<SocketAddr> {
        self.members.get(&peer).map(|member| member.address)
    }

    /// Whether a member holds every chunk of the set with the agreed hash.
    pub fn is_whole(&self, peer: PeerId) -> bool {
        self.members.get(&peer).is_some_and(|member| member.held == self.count)
    }

    /// State of a member that holder lists depend on: whether it claims any chunk, and whether it holds all
    /// chunks.
    pub fn claim_state(&self, peer: PeerId) -> (bool, bool) {
        (self.members.get(&peer).is_some_and(|member| member.claims > 0), self.is_whole(peer))
    }

    /// Whether every member holds every chunk with the agreed hash.
    pub fn is_complete(&self) -> bool {
        self.members.values().all(|member| member.held == self.count)
    }

    /// Number of claims and waiting members that are stored.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Whether a member claims a chunk.
    pub fn claims(&self, peer: PeerId, index: ChunkIndex) -> bool {
        self.chunks.get(&index).is_some_and(|chunk| chunk.claims.contains_key(&peer))
    }

    /// Whether a member waits for a chunk.
    pub fn waits(&self, peer: PeerId, index: ChunkIndex) -> bool {
        self.chunks.get(&index).is_some_and(|chunk| chunk.waiting.contains(&peer))
    }

    /// Whether no hash of a chunk is agreed and its claims differ.
    pub fn is_disputed(&self, index: ChunkIndex) -> bool {
        self.chunks.get(&index).is_some_and(Chunk::is_disputed)
    }

    /// For each member: the number of its claims that other claims contradict while no hash is agreed.
    pub fn disputed_claims(&self) -> HashMap<PeerId, u32> {
        let mut disputed = HashMap::new();
        for chunk in self.chunks.values().filter(|chunk| chunk.is_disputed()) {
            for peer in chunk.claims.keys() {
                *disputed.entry(*peer).or_default() += 1;
            }
        }
        disputed
    }

    /// Number of chunks without an agreed hash.
    pub fn undecided_count(&self) -> u32 {
        self.count - self.agreed
    }

    /// The first chunks without an agreed hash, those with different claims before the others.
    pub fn undecided(&self, at_most: usize) -> Vec<Undecided> {
        let is_disputed = |index: &ChunkIndex| self.is_disputed(*index);
        let disputed = self.contested.iter().copied().filter(is_disputed);
        let all = (0..self.count).map(ChunkIndex);
        let others = all.filter(|index| self.agreed(*index).is_none() && !self.is_disputed(*index));
        disputed.chain(others).take(at_most).map(|index| self.undecided_chunk(index)).collect()
    }

    fn undecided_chunk(&self, index: ChunkIndex) -> Undecided {
        let last = self.last_holder(index);
        let Some(chunk) = self.chunks.get(&index) else {
            return Undecided { index, agree: 0, differ: Vec::new(), last };
        };
        let mut witnesses: BTreeMap<Claim, BTreeSet<SocketAddr>> = BTreeMap::new();
        for (peer, claim) in &chunk.claims {
            witnesses.entry(*claim).or_default().extend(self.address(*peer));
        }
        let agree = witnesses.values().map(BTreeSet::len).max().unwrap_or(0);
        let differ = if witnesses.len() > 1 { chunk.claims.keys().copied().collect() } else { Vec::new() };
        Undecided { index, agree, differ, last }
    }

    /// The last member that claimed a chunk, and the time at which it left; `None` while a member claims the chunk.
    pub fn last_holder(&self, index: ChunkIndex) -> Option<(PeerName, Moment)> {
        match self.claims_of(index).next() {
            Some(_) => None,
            None => self.last.get(&index).cloned(),
        }
    }

    /// All claims of a chunk.
    pub fn claims_of(&self, index: ChunkIndex) -> impl Iterator<Item = (PeerId, Claim)> + '_ {
        let claims = self.chunks.get(&index).into_iter().flat_map(|chunk| &chunk.claims);
        claims.map(|(peer, claim)| (*peer, *claim))
    }

    /// The first chunks: those with claims that differ, then those without an agreed hash, then the others.
    ///
    /// Only the first 65,536 chunks are examined for an agreed hash.
    pub fn most_noteworthy(&self, at_most: usize) -> Vec<ChunkIndex> {
        let others = |is_agreed: bool| {
            let examined = (0..self.count.min(EXAMINED_MAX)).map(ChunkIndex);
            let others = examined.filter(|index| !self.contested.contains(index));
            others.filter(move |index| self.agreed(*index).is_some() == is_agreed)
        };
        let contested = self.contested.iter().copied();
        contested.chain(others(false)).chain(others(true)).take(at_most).collect()
    }

    /// Number of chunks that a member holds with the agreed hash.
    pub fn held(&self, peer: PeerId) -> u32 {
        self.members.get(&peer).map_or(0, |member| member.held)
    }

    /// Changes one chunk, updates the entry count, and removes the chunk when it has no entries left.
    fn change<T>(&mut self, index: ChunkIndex, change: impl FnOnce(&mut Self) -> T) -> T {
        let entries = |set: &Self| set.chunks.get(&index).map_or(0, Chunk::entries);
        let before = entries(self);
        let result = change(self);
        let after = entries(self);
        self.entries = self.entries - before + after;
        match self.chunks.get(&index).is_some_and(Chunk::is_contested) {
            true => _ = self.contested.insert(index),
            false => _ = self.contested.remove(&index),
        }
        if after == 0 {
            self.chunks.remove(&index);
        }
        result
    }

    /// Adds a member's claim. Claims of peers that are not members, and of chunks past the end, are ignored.
    pub fn claim(&mut self, peer: PeerId, index: ChunkIndex, claim: Claim) -> Vec<Outcome> {
        if index.0 >= self.count {
            return Vec::new();
        }
        self.change(index, |set| set.take(peer, index, claim))
    }

    fn take(&mut self, peer: PeerId, index: ChunkIndex, claim: Claim) -> Vec<Outcome> {
        let Some(member) = self.members.get_mut(&peer) else { return Vec::new() };
        let chunk = self.chunks.entry(index).or_default();
        let before = chunk.claims.insert(peer, claim);
        if before == Some(claim) {
            return repeated(peer, index, claim, chunk);
        }
        member.claims += u32::from(before.is_none());
        member.held -= u32::from(before.is_some() && before == chunk.agreed);
        member.held += u32::from(chunk.agreed == Some(claim));
        let mut outcomes = Vec::new();
        if before.is_some() && before == chunk.agreed {
            self.settle(index, &mut outcomes);
        }
        let chunk = self.chunks.entry(index).or_default();
        match chunk.agreed {
            Some(agreed) if agreed == claim => {
                chunk.waiting.remove(&peer);
                self.tell_waiting(index, &mut outcomes);
            }
            Some(agreed) => outcomes.push(Outcome::Differs(peer, index, agreed)),
            None => self.agree(index, claim, &mut outcomes),
        }
        outcomes
    }

    /// Withdraws a member's claim.
    pub fn unclaim(&mut self, peer: PeerId, index: ChunkIndex) -> Vec<Outcome> {
        self.change(index, |set| set.release(peer, index))
    }

    fn release(&mut self, peer: PeerId, index: ChunkIndex) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let Some(chunk) = self.chunks.get_mut(&index) else { return outcomes };
        let removed = chunk.claims.remove(&peer);
        if removed.is_some() {
            if let Some(member) = self.members.get_mut(&peer) {
                member.claims -= 1;
                member.held -= u32::from(removed == chunk.agreed);
            }
            self.settle(index, &mut outcomes);
        }
        outcomes
    }

    /// Registers a member's request for a chunk. Returns whether another member holds it. The member is told
    /// of further holders until it claims the chunk itself.
    pub fn want(&mut self, peer: PeerId, index: ChunkIndex) -> bool {
        if !self.is_member(peer) || index.0 >= self.count {
            return false;
        }
        self.change(index, |set| set.chunks.entry(index).or_default().waiting.insert(peer));
        !self.holders(index, peer).is_empty()
    }

    /// Removes a member and its claims. `name` is its name, for the members that wait for its chunks.
    pub fn leave(&mut self, peer: PeerId, name: &PeerName, now: Moment) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        if self.members.remove(&peer).is_none() {
            return outcomes;
        }
        let concerns = |chunk: &Chunk| chunk.waiting.contains(&peer) || chunk.claims.contains_key(&peer);
        let chunks = self.chunks.iter().filter(|(_, chunk)| concerns(chunk));
        let concerned: Vec<ChunkIndex> = chunks.map(|(index, _)| *index).collect();
        // Remove all claims before any decision, so that no agreement counts a claim of the departed member.
        for index in &concerned {
            if let Some(chunk) = self.chunks.get_mut(index) {
                self.entries -= chunk.entries();
                chunk.waiting.remove(&peer);
                if chunk.claims.remove(&peer).is_some()
                    && (self.last.len() < LAST_HOLDERS_MAX || self.last.contains_key(index))
                {
                    self.last.insert(*index, (name.clone(), now));
                }
                self.entries += chunk.entries();
            }
        }
        for index in concerned {
            self.change(index, |set| set.settle(index, &mut outcomes));
        }
        outcomes
    }

    /// After a withdrawn claim: an agreement without a holder ends, and the check list decides again.
    fn settle(&mut self, index: ChunkIndex, outcomes: &mut Vec<Outcome>) {
        let Some(chunk) = self.chunks.get_mut(&index) else { return };
        if chunk.agreed.is_none() || chunk.holders().next().is_some() {
            return;
        }
        chunk.agreed = None;
        self.agreed -= 1;
        let claims: BTreeSet<Claim> = chunk.claims.values().copied().collect();
        outcomes.extend(self.sealed.take().map(Outcome::Unsealed));
        for claim in claims {
            self.agree(index, claim, outcomes);
        }
    }

    /// Moves a claim to the chunk list if a quorum of addresses makes it.
    fn agree(&mut self, index: ChunkIndex, claim: Claim, outcomes: &mut Vec<Outcome>) {
        let Some(chunk) = self.chunks.get_mut(&index) else { return };
        let same = chunk.claims.iter().filter(|(_, other)| **other == claim);
        let members = same.filter_map(|(peer, _)| self.members.get(peer));
        let addresses: BTreeSet<SocketAddr> = members.map(|member| member.address).collect();
        if chunk.agreed.is_some() || addresses.len() < self.quorum {
            return;
        }
        chunk.agreed = Some(claim);
        self.agreed += 1;
        for (peer, other) in &chunk.claims {
            match *other == claim {
                true => {
                    chunk.waiting.remove(peer);
                    if let Some(member) = self.members.get_mut(peer) {
                        member.held += 1;
                    }
                }
                false => outcomes.push(Outcome::Differs(*peer, index, claim)),
            }
        }
        self.tell_waiting(index, outcomes);
        self.seal(outcomes);
    }

    /// Notifies the members that wait for a chunk of a new holder: for the first holders (up to the quorum)
    /// and then whenever the number of holders is a power of two. This spreads the load, but limits the
    /// messages in a large set.
    fn tell_waiting(&self, index: ChunkIndex, outcomes: &mut Vec<Outcome>) {
        let Some(chunk) = self.chunks.get(&index) else { return };
        let holders = chunk.holders().count();
        if holders <= self.quorum || holders.is_power_of_two() {
            outcomes.extend(chunk.waiting.iter().map(|peer| Outcome::Located(*peer, index)));
        }
    }

    fn seal(&mut self, outcomes: &mut Vec<Outcome>) {
        if self.agreed < self.count || self.sealed.is_some() {
            return;
        }
        let agreed = self.chunks.values().filter_map(|chunk| chunk.agreed);
        let digests = agreed.clone().map(|claim| claim.sha256).collect();
        let manifest = Layout::uneven(agreed.map(|claim| claim.size))
            .map_err(Into::into)
            .and_then(|layout| Manifest::new(layout, digests));
        // The sizes and counts of claims have been validated, so this always succeeds.
        if let Ok(manifest) = manifest {
            let sealed = Arc::new(Sealed::of(&manifest));
            self.sealed = Some(sealed.clone());
            outcomes.push(Outcome::Sealed(sealed));
        }
    }
}

/// Handles a repeated claim: a member that differs is told again; no other member is notified.
fn repeated(peer: PeerId, index: ChunkIndex, claim: Claim, chunk: &mut Chunk) -> Vec<Outcome> {
    match chunk.agreed {
        Some(agreed) if agreed != claim => vec![Outcome::Differs(peer, index, agreed)],
        Some(_) => {
            chunk.waiting.remove(&peer);
            Vec::new()
        }
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Digest, ManifestSizes};
    use proptest::prelude::*;
    use std::time::Duration;

    const A: PeerId = PeerId(1);
    const B: PeerId = PeerId(2);
    const C: PeerId = PeerId(3);
    const FIRST: ChunkIndex = ChunkIndex(0);

    fn claim(number: u8) -> Claim {
        Claim { sha256: Digest([number; 32]), size: number.into() }
    }

    fn name() -> PeerName {
        PeerName::new("left").unwrap()
    }

    fn at(peer: PeerId) -> (PeerId, SocketAddr) {
        (peer, address(peer))
    }

    fn address(peer: PeerId) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], peer.0 as u16))
    }

    fn set(count: u32, quorum: usize) -> ChunkSet {
        let mut set = ChunkSet::new(count, quorum);
        for peer in [A, B, C] {
            set.join(peer, address(peer));
        }
        set
    }

    #[test]
    fn two_equal_claims_make_an_agreement() {
        let mut set = set(2, 2);
        assert_eq!(set.claim(A, FIRST, claim(1)), []);
        assert!(!set.want(C, FIRST), "a single claim is no agreement");
        assert_eq!(set.claim(B, FIRST, claim(1)), [Outcome::Located(C, FIRST)]);
        assert_eq!(set.claim(B, FIRST, claim(1)), [], "a repeated claim notifies no waiting member");
        assert_eq!(set.holders(FIRST, C), [A, B].map(at));
        assert_eq!(set.holders(FIRST, A), [at(B)]);
        assert!(set.want(C, FIRST));
    }

    #[test]
    fn a_member_with_a_different_hash_is_told_and_is_no_holder() {
        let mut set = set(2, 2);
        set.claim(A, FIRST, claim(9));
        set.claim(B, FIRST, claim(1));
        assert_eq!(set.claim(C, FIRST, claim(1)), [Outcome::Differs(A, FIRST, claim(1))]);
        assert_eq!(set.holders(FIRST, A), [B, C].map(at));
        assert_eq!(set.claim(A, FIRST, claim(9)), [Outcome::Differs(A, FIRST, claim(1))]);
        assert!(set.want(A, FIRST));
        set.claim(A, FIRST, claim(1));
        assert_eq!(set.holders(FIRST, B), [A, C].map(at));
    }

    #[test]
    fn several_members_at_one_address_are_no_quorum() {
        let mut set = ChunkSet::new(1, 2);
        set.join(A, address(A));
        set.join(B, address(A));
        set.claim(A, FIRST, claim(1));
        assert_eq!(set.claim(B, FIRST, claim(1)), []);
        assert_eq!(set.agreed(FIRST), None);
    }

    #[test]
    fn a_set_is_sealed_by_its_last_agreement_and_unsealed_without_holders() {
        let mut set = set(2, 2);
        for index in [0, 1].map(ChunkIndex) {
            set.claim(A, index, claim(index.0 as u8 + 1));
        }
        set.claim(B, ChunkIndex(0), claim(1));
        let outcomes = set.claim(B, ChunkIndex(1), claim(2));
        let [Outcome::Sealed(sealed)] = &outcomes[..] else { panic!("{outcomes:?}") };
        let sizes = ManifestSizes { size: sealed.size, chunk_size: sealed.chunk_size, index: None };
        let manifest = Manifest::decode(sealed.id, sizes, &sealed.payload).unwrap();
        assert_eq!(manifest.layout().size(), 3);
        assert_eq!(manifest.digest(ChunkIndex(1)), Some(Digest([2; 32])));
        assert!(set.is_whole(A) && !set.is_whole(C));
        assert_eq!(set.leave(A, &name(), Moment::ZERO), []);
        assert!(set.sealed().is_some());
        assert_eq!(set.leave(B, &name(), Moment::ZERO), [Outcome::Unsealed(sealed.clone())]);
        assert_eq!(set.agreed(FIRST), None);
    }

    #[test]
    fn when_the_last_holder_withdraws_the_check_list_decides_again() {
        let mut set = set(2, 1);
        set.claim(A, FIRST, claim(1));
        assert_eq!(set.claim(B, FIRST, claim(2)), [Outcome::Differs(B, FIRST, claim(1))]);
        set.want(C, FIRST);
        assert_eq!(set.unclaim(A, FIRST), [Outcome::Located(C, FIRST)]);
        assert_eq!(set.agreed(FIRST), Some(claim(2)));
    }

    #[test]
    fn undecided_chunks_give_their_reason() {
        let mut set = set(4, 2);
        set.claim(A, ChunkIndex(1), claim(1));
        set.claim(B, ChunkIndex(1), claim(1));
        set.claim(A, FIRST, claim(1));
        set.claim(A, ChunkIndex(3), claim(1));
        set.claim(B, ChunkIndex(3), claim(2));
        set.claim(C, ChunkIndex(2), claim(3));
        set.want(A, ChunkIndex(2));
        set.leave(C, &name(), Duration::from_secs(7));
        let undecided = |index, agree, differ: &[PeerId], last: Option<u64>| Undecided {
            index: ChunkIndex(index),
            agree,
            differ: differ.to_vec(),
            last: last.map(|seconds| (name(), Duration::from_secs(seconds))),
        };
        let all = [undecided(3, 1, &[A, B], None), undecided(0, 1, &[], None), undecided(2, 0, &[], Some(7))];
        assert_eq!(set.undecided(9), all);
        assert_eq!((set.undecided(1), set.undecided_count()), (all[..1].to_vec(), 3));
        assert_eq!(set.disputed_claims(), HashMap::from([(A, 1), (B, 1)]));
    }

    #[test]
    fn claims_of_non_members_and_of_chunks_past_the_end_are_ignored() {
        let mut set = set(1, 1);
        assert_eq!(set.claim(PeerId(9), FIRST, claim(1)), []);
        assert_eq!(set.claim(A, ChunkIndex(1), claim(1)), []);
        assert!(!set.want(A, ChunkIndex(u32::MAX)) && !set.want(PeerId(9), FIRST));
        assert_eq!(set.leave(PeerId(9), &name(), Moment::ZERO), []);
    }

    proptest! {
        #[test]
        fn the_invariants_hold_for_any_sequence_of_requests(
            steps in prop::collection::vec((0u64..4, 0u32..4, 0u8..3, 0u8..8), 0..80),
        ) {
            let mut set = set(3, 2);
            for (peer, index, value, action) in steps {
                let (peer, index) = (PeerId(peer), ChunkIndex(index));
                match action {
                    0 => drop(set.leave(peer, &name(), Moment::ZERO)),
                    1 => set.join(peer, address(peer)),
                    2 => drop(set.unclaim(peer, index)),
                    3 => drop(set.want(peer, index)),
                    _ => drop(set.claim(peer, index, claim(value))),
                }
                let agreed = set.chunks.values().filter(|chunk| chunk.agreed.is_some()).count();
                prop_assert_eq!(agreed, set.agreed as usize);
                prop_assert_eq!(set.sealed().is_some(), set.agreed == 3);
                for (peer, member) in &set.members {
                    let claims = set.chunks.values().filter(|chunk| chunk.claims.contains_key(peer)).count();
                    prop_assert_eq!(claims, member.claims as usize);
                    let holds = |chunk: &&Chunk| chunk.holders().any(|holder| holder == *peer);
                    prop_assert_eq!(set.chunks.values().filter(holds).count(), member.held as usize);
                }
                prop_assert_eq!(set.chunks.values().map(Chunk::entries).sum::<usize>(), set.entries);
                for chunk in set.chunks.values() {
                    prop_assert!(chunk.entries() > 0);
                    prop_assert!(chunk.agreed.is_none() || chunk.holders().next().is_some());
                    prop_assert!(chunk.claims.keys().all(|peer| set.members.contains_key(peer)));
                    prop_assert!(chunk.waiting.iter().all(|peer| set.members.contains_key(peer)));
                }
            }
        }
    }
}
