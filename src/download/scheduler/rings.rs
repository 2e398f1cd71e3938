//! Membership of a download in the rings of a root: which candidates are connected to, and which chunks roots send.
//!
//! Invariant: a root can make this peer dial at most [`NAMED_MAX`] addresses; with a false root, or none, the download
//! continues with random candidates.

use super::{ActiveSource, BITFIELD_TIMEOUT, CandidateState, DownloadScheduler, SourceCommand};
use crate::content::limits::NEXT_RANGES_MAX;
use crate::content::{Bitfield, ChunkIndex};
use crate::download::events::{Job, SourceRole};
use crate::swarm::Moment;
use crate::swarm::picker::SourceId;
use crate::swarm::rings::{Adjustment, Member, NAMED_MAX, RINGS, STANDING_INTERVAL, Site};
use crate::upload::relay::UploadObserver;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

/// Time for which the bitfields of new sources are awaited before a chunk counts as one that no source has.
const BITFIELD_GRACE: Duration = Duration::from_millis(250);

/// Membership of one download. Peers are identified by the first address that is known of them.
pub(super) struct RingMember {
    member: Member<SocketAddr>,
    /// Uploads of the file; `None` if this peer does not serve, and so joins no rings.
    uploads: Option<UploadObserver>,
    /// Addresses named by roots.
    named: u32,
    /// When the standing is decided about next, and when the last connection was begun.
    next_decision: Moment,
    started_at: Moment,
}

impl RingMember {
    pub(super) fn new(job: &Job) -> Self {
        let relay = job.relay.as_ref().filter(|_| job.port.is_some());
        Self {
            member: Member::default(),
            uploads: relay.map(|relay| relay.observe_uploads(job.file)),
            named: 0,
            next_decision: Moment::ZERO,
            started_at: Moment::ZERO,
        }
    }

    /// A connection is begun.
    pub(super) fn begin(&mut self, now: Moment) {
        self.member.begin(now);
        self.started_at = now;
    }
}

impl DownloadScheduler {
    /// A source has sent its bitfield and its role.
    pub(super) fn connected_member(&mut self, id: SourceId, role: SourceRole, is_near: bool, now: Moment) {
        let (Some(rings), Some(live)) = (&mut self.rings, self.live.get_mut(&id)) else { return };
        (live.is_near, live.is_direct) = (is_near, role == SourceRole::Direct);
        let can_join = rings.uploads.is_some() && !self.picker.picks_in_order();
        if let SourceRole::Root { members } = role
            && can_join
        {
            live.has_unsent = true;
            rings.member.add_root(live.address, members);
        }
        self.update_positions();
        self.choose_root(now);
    }

    /// Joins the rings of a root, unless this peer has joined some.
    fn choose_root(&mut self, now: Moment) {
        let Some(rings) = &mut self.rings else { return };
        let awaited = |address: &SocketAddr| self.candidates.get(address).is_some_and(|one| one.is_complete);
        let awaits = self.live.values().any(|live| !live.connected && awaited(&live.address));
        let Some(root) = rings.member.choose_root(awaits, now) else { return };
        log::debug!("joined the rings of {root}");
        if let Some(live) = self.live.values().find(|live| live.address == root) {
            let _ = live.commands.try_send(SourceCommand::Join);
        }
    }

    /// A source names the predecessor of this peer in a ring.
    pub(super) fn placed(&mut self, id: SourceId, ring: usize, peer: SocketAddr, now: Moment) {
        let Some(root) = self.live.get(&id).map(|live| live.address) else { return };
        let peer = self.note_source(peer.into(), now);
        let Some(rings) = self.rings.as_mut().filter(|rings| rings.named < NAMED_MAX) else { return };
        if rings.member.place(root, ring, peer) {
            rings.named += 1;
            log::trace!("{root} named {peer} as predecessor in ring {ring}");
        }
        self.update_positions();
        self.connect(now);
        self.request_from_all(now);
    }

    /// A root has sent each chunk.
    pub(super) fn spent(&mut self, id: SourceId, now: Moment) {
        if let Some(live) = self.live.get_mut(&id) {
            live.has_unsent = false;
        }
        self.update_positions();
        self.request_chunks(id, now);
    }

    /// Tells the picker which sources choose their chunks, and which are predecessors.
    fn update_positions(&mut self) {
        let Some(rings) = &self.rings else { return };
        for (id, live) in &self.live {
            self.picker.set_chooses(*id, live.has_unsent && rings.member.is_placed());
            self.picker.set_position(*id, live.is_near, rings.member.rings_of(live.address));
        }
    }

    /// Requests chunks of a root's choice.
    pub(super) fn request_next(&mut self, id: SourceId, now: Moment) {
        let (Some(rings), Some(live)) = (&mut self.rings, self.live.get_mut(&id)) else { return };
        let Some(uploads) = &rings.uploads else { return };
        if !self.picker.is_next_due(id) {
            return;
        }
        uploads.take_requested().into_iter().for_each(|index| rings.member.forwarded(index));
        let has_successors = uploads.has_subscribers();
        while self.picker.is_next_due(id) {
            let is_limited = has_successors && self.picker.can_download_from_peers();
            if !rings.member.wants_next(self.picker.nexts(), is_limited) {
                return;
            }
            let news = take_ranges(&self.picker.taken(), &mut live.told);
            if live.commands.try_send(SourceCommand::Next(news)).is_err() {
                return;
            }
            self.tally.requested(now);
            self.picker.asked_next(id);
        }
    }

    /// A root begins to send a chunk of its choice.
    pub(super) fn given(&mut self, id: SourceId, index: ChunkIndex, now: Moment) {
        let (Some(rings), Some(live)) = (&mut self.rings, self.live.get_mut(&id)) else { return };
        live.told.insert(index);
        if self.picker.given(id, index, now) {
            rings.member.is_given(index);
        }
        self.request_next(id, now);
    }

    /// A source has delivered a chunk.
    pub(super) fn delivered(&mut self, id: SourceId) {
        if let (Some(rings), Some(live)) = (&mut self.rings, self.live.get(&id)) {
            rings.member.delivered(live.address);
        }
    }

    /// A connection has ended, or could not be made: then the root learns of it.
    pub(super) fn lost_member(&mut self, id: SourceId, address: SocketAddr, was_connected: bool) {
        let Some(rings) = &mut self.rings else { return };
        let is_predecessor = rings.member.rings_of(address) != 0;
        let root = rings.member.root().filter(|_| is_predecessor && !was_connected);
        if let Some(live) = self.live.iter().find(|(other, live)| **other != id && Some(live.address) == root)
        {
            log::debug!("cannot connect to {address}: its root {} is told", live.1.address);
            let _ = live.1.commands.try_send(SourceCommand::Unreachable(address));
        }
        rings.member.lost(address);
        self.update_positions();
    }

    /// Decides about extra sources, at intervals.
    pub(super) fn check_standing(&mut self, now: Moment) {
        self.choose_root(now);
        let has_stalled = self.picker.has_stalled(now);
        let Some(rings) = &mut self.rings else { return };
        if has_stalled {
            rings.member.stalled();
        }
        if now < rings.next_decision || self.picker.picks_in_order() {
            return;
        }
        rings.next_decision = now + STANDING_INTERVAL;
        let adjustment = rings.member.adjust(self.picker.deficit());
        self.picker.set_boost(rings.member.boost());
        if let Some(uploads) = &rings.uploads {
            uploads.set_halved(rings.member.is_behind());
        }
        match adjustment {
            Some(Adjustment::AddSource) => self.connect_extra(now),
            Some(Adjustment::RemoveSource) if self.partial_sources(now) > RINGS => {
                let Some(rings) = &self.rings else { return };
                let extras = self.live.iter().filter(|(_, live)| {
                    live.connected
                        && rings.member.is_extra(live.address)
                        && rings.member.rings_of(live.address) == 0
                });
                let slowest = extras.max_by_key(|(id, _)| self.picker.chunk_time(**id));
                if let Some(id) = slowest.map(|(id, _)| *id) {
                    self.disconnect(id, now);
                }
            }
            _ => {}
        }
    }

    /// Number of incomplete sources that can be expected to deliver: not those that have sent no bitfield for
    /// [`BITFIELD_TIMEOUT`] or whose chunk is overdue. Otherwise a root could fill the places with such peers.
    fn partial_sources(&self, now: Moment) -> usize {
        let counts = |(id, live): &(&SourceId, &ActiveSource)| match live.connected {
            true => self.picker.is_partial(**id) && self.picker.overdue(**id, now).is_none(),
            false => now < live.since + BITFIELD_TIMEOUT,
        };
        self.live.iter().filter(counts).count()
    }

    fn disconnect(&mut self, id: SourceId, now: Moment) {
        let Some(live) = self.live.remove(&id) else { return };
        live.shutdown.trigger();
        self.picker.remove_source(id);
        self.lost_member(id, live.address, true);
        if let Some(candidate) = self.candidates.get_mut(&live.address) {
            candidate.link = CandidateState::Idle(now);
        }
    }

    /// Connects to a random candidate that is due, one of this site first.
    fn connect_extra(&mut self, now: Moment) {
        if self.free_slots() == 0 {
            return;
        }
        let network = |address: &SocketAddr| Site::of(None, address.ip());
        let near: HashSet<Site> =
            self.live.values().filter(|live| live.is_near).map(|live| network(&live.address)).collect();
        let due = self.candidates.iter().filter(|(_, candidate)| candidate.is_due(now));
        let due = due.map(|(address, _)| *address);
        let (first, others): (Vec<SocketAddr>, Vec<SocketAddr>) =
            due.partition(|address| near.contains(&network(address)));
        let chosen = self.random.choice(first).or_else(|| self.random.choice(others));
        if let (Some(address), Some(rings)) = (chosen, &mut self.rings) {
            rings.member.add_extra(address);
            self.start(address, now);
        }
    }

    /// Whether a direct source sends chunks, or a complete candidate may prove to be one.
    fn has_direct_source(&self, now: Moment) -> bool {
        let Some(rings) = &self.rings else { return false };
        let is_awaited = |live: &ActiveSource| {
            !live.connected
                && now < rings.started_at + BITFIELD_GRACE
                && self.candidates.get(&live.address).is_some_and(|candidate| candidate.is_complete)
        };
        !self.picker.has_stalled(now) && self.live.values().any(|live| live.is_direct || is_awaited(live))
    }

    /// Connects to predecessors and complete candidates; to random ones while there are fewer sources than rings and none
    /// is direct, or if no source has a wanted chunk. Disconnects from replaced predecessors.
    pub(super) fn connect_members(&mut self, now: Moment) {
        let Some(rings) = &self.rings else { return };
        let predecessors = rings.member.predecessors();
        let is_due = |address: &SocketAddr| self.candidates.get(address).is_some_and(|one| one.is_due(now));
        let wanted: Vec<SocketAddr> = predecessors.iter().copied().filter(is_due).collect();
        // A few more connections than others get, so that predecessors are not locked out.
        let free = self.free_slots() + RINGS;
        wanted.into_iter().take(free).for_each(|address| self.start(address, now));
        let complete = self.candidates.iter().filter(|(_, one)| one.is_complete && one.is_due(now));
        let mut complete: Vec<SocketAddr> = complete.map(|(address, _)| *address).collect();
        self.random.shuffle(&mut complete);
        // So that dead ones do not keep the connections from others.
        complete.sort_by_key(|address| self.candidates.get(address).map_or(0, |one| one.failures));
        complete.into_iter().take(self.free_slots()).for_each(|address| self.start(address, now));
        if !self.has_direct_source(now) {
            let few = RINGS.saturating_sub(self.partial_sources(now));
            (0..few).for_each(|_| self.connect_extra(now));
        }
        let awaits_bitfields = self.live.values().any(|live| !live.connected)
            && self.rings.as_ref().is_some_and(|rings| now < rings.started_at + BITFIELD_GRACE);
        if !awaits_bitfields && self.picker.unavailable().next().is_some() {
            (0..RINGS).for_each(|_| self.connect_extra(now));
        }
        let Some(rings) = &self.rings else { return };
        let is_replaced = |id: &SourceId, address: SocketAddr| {
            self.picker.is_partial(*id)
                && self.picker.in_flight(*id) == 0
                && !rings.member.is_extra(address)
                && !predecessors.contains(&address)
                && self.candidates.get(&address).is_some_and(|candidate| !candidate.is_complete)
        };
        let replaced = self.live.iter().filter(|(id, live)| live.connected && is_replaced(id, live.address));
        let replaced: Vec<SourceId> = replaced.map(|(id, _)| *id).collect();
        if self.picker.unavailable().next().is_none() {
            replaced.into_iter().for_each(|id| self.disconnect(id, now));
        }
    }
}

/// The chunks of `taken` that are not in `told` yet, as ranges of indices, up to [`NEXT_RANGES_MAX`]; adds them to `told`.
fn take_ranges(taken: &Bitfield, told: &mut Bitfield) -> Vec<(ChunkIndex, ChunkIndex)> {
    let mut ranges: Vec<(ChunkIndex, ChunkIndex)> = Vec::new();
    let new: Vec<ChunkIndex> = taken.iter().filter(|index| !told.has(*index)).collect();
    for index in new {
        if ranges.len() == NEXT_RANGES_MAX {
            break;
        }
        match ranges.last_mut() {
            Some((_, last)) if last.0 + 1 == index.0 => *last = index,
            _ => ranges.push((index, index)),
        }
        told.insert(index);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_reported_once_as_ranges_and_many_ranges_in_several_messages() {
        let count = 3 * NEXT_RANGES_MAX as u32;
        let (mut taken, mut told) = (Bitfield::none(count), Bitfield::none(count));
        [0, 1, 2, 5, 7, 8].into_iter().for_each(|index| _ = taken.insert(ChunkIndex(index)));
        let range = |first, last| (ChunkIndex(first), ChunkIndex(last));
        assert_eq!(take_ranges(&taken, &mut told), [range(0, 2), range(5, 5), range(7, 8)]);
        assert_eq!(take_ranges(&taken, &mut told), []);
        taken.insert(ChunkIndex(6));
        assert_eq!(take_ranges(&taken, &mut told), [range(6, 6)]);
        (0..count).step_by(2).for_each(|index| _ = taken.insert(ChunkIndex(index)));
        assert_eq!(take_ranges(&taken, &mut told).len(), NEXT_RANGES_MAX);
        assert!(!take_ranges(&taken, &mut told).is_empty());
        assert_eq!(told, taken, "both messages together report all");
    }
}
