//! Membership in the rings of the seeders, super-seeding, and the standing of each peer, with the rules of the daemons.

use super::{Event, TICK_INTERVAL, World};
use shoal::content::limits::LOOKUP_INTERVAL;
use shoal::content::{Bitfield, ChunkIndex};
use shoal::swarm::picker::SourceId;
use shoal::swarm::rings::{Adjustment, NAMED_MAX, Placement, RINGS, STANDING_INTERVAL, Site};
use std::net::{IpAddr, Ipv4Addr};

/// Messages from the connect to the bitfield of a peer, each of which takes one latency.
const HANDSHAKE_MESSAGES: u32 = 4;

/// The only site: links between hosts are alike.
fn site() -> Site {
    Site::of(None, IpAddr::V4(Ipv4Addr::LOCALHOST))
}

impl World {
    /// A peer that has connected to all seeders joins the rings of one, and learns of earlier members.
    pub(super) fn join_rings(&mut self, peer: usize) {
        if self.now >= self.peers[peer].lookup_at {
            self.peers[peer].lookup_at = self.now + LOOKUP_INTERVAL;
            let all = self.setting.seeders..self.peers.len();
            let members = all.filter(|other| *other != peer && self.peers[*other].is_member);
            let found = self.random.choose_multiple(members, NAMED_MAX as usize);
            let known = &mut self.peers[peer].known;
            let new: Vec<usize> = found.into_iter().filter(|other| !known.contains(other)).collect();
            known.extend(new);
        }
        let Some(root) = self.peers[peer].member.choose_root(false, self.now) else { return };
        let placements = self.join_root(peer, root);
        self.peers[peer].is_member = true;
        self.send_placements(root, placements);
    }

    /// Adds a peer to the rings of a root.
    pub(super) fn join_root(&mut self, peer: usize, root: usize) -> Vec<Placement<usize>> {
        self.peers[root].rings.join(peer, site(), &mut self.random)
    }

    /// Seeders choose the chunks that they send while some are unsent, unless the peer is alone.
    fn let_seeders_choose(&mut self, peer: usize) {
        for seeder in 0..self.setting.seeders {
            let has_unsent =
                self.peers[seeder].super_seeder.as_ref().is_some_and(|seeder| !seeder.is_spent());
            let is_placed = self.peers[peer].member.is_placed();
            self.peers[peer].picker.set_chooses(SourceId(seeder as u32), has_unsent && is_placed);
        }
    }

    pub(super) fn send_placements(&mut self, root: usize, placements: Vec<Placement<usize>>) {
        for placement in placements {
            self.send_message(root, Event::Placed(root, placement));
        }
    }

    pub(super) fn placed(&mut self, root: usize, placement: Placement<usize>) {
        let predecessor = self.named_predecessor(&placement);
        let Placement { member: peer, ring, .. } = placement;
        if !self.peers[peer].fetches() {
            return;
        }
        self.peers[peer].member.place(root, ring, predecessor);
        if !self.peers[peer].known.contains(&predecessor) {
            self.peers[peer].known.push(predecessor);
        }
        self.let_seeders_choose(peer);
        self.connect_members(peer);
    }

    /// Connects to predecessors, and to random peers while there are too few; disconnects from replaced ones.
    pub(super) fn connect_members(&mut self, peer: usize) {
        let predecessors = self.peers[peer].member.predecessors();
        predecessors.iter().for_each(|other| self.connect(peer, *other));
        let few = RINGS.saturating_sub(self.peers[peer].partial_sources(self.setting.seeders, self.now));
        (0..few).for_each(|_| self.connect_extra(peer));
        for other in self.peers[peer].sources.clone() {
            let one = &self.peers[peer];
            let is_kept = predecessors.contains(&other) || one.member.is_extra(other);
            if other >= self.setting.seeders && !is_kept && one.picker.is_partial(SourceId(other as u32)) {
                self.disconnect(peer, other);
            }
        }
    }

    fn connect_extra(&mut self, peer: usize) {
        let one = &self.peers[peer];
        let unused = one.known.iter().copied();
        let unused = unused.filter(|other| self.peers[*other].alive && !one.sources.contains(other));
        let Some(other) = self.random.choice(unused.collect::<Vec<_>>()) else { return };
        self.peers[peer].member.add_extra(other);
        self.connect(peer, other);
    }

    pub(super) fn connect(&mut self, peer: usize, other: usize) {
        let one = &self.peers[peer];
        if one.sources.contains(&other) || one.is_connecting(other) || !self.peers[other].alive {
            return;
        }
        if !self.is_reachable(peer, other) {
            self.fail_to_connect(peer, other);
        } else {
            self.peers[peer].sources.push(other);
            self.peers[other].clients.push(peer);
            self.messages += 2;
            self.at(self.now + self.setting.latency * HANDSHAKE_MESSAGES, Event::Meet(peer, other));
        }
    }

    /// Ends the connection of a peer to a source.
    pub(super) fn disconnect(&mut self, peer: usize, other: usize) {
        self.abort(other, peer);
        self.peers[other].forget(peer);
        self.end_ticket(other, peer);
        self.peers[other].clients.gone(peer);
        let one = &mut self.peers[peer];
        one.member.lost(other);
        one.picker.remove_source(SourceId(other as u32));
        one.sources.retain(|source| *source != other);
        if let Some(seeder) = &mut self.peers[other].super_seeder {
            seeder.leave(peer);
            self.peers[peer].reported[other] = Bitfield::none(self.peers[peer].reported[other].count());
            let placements = self.peers[other].rings.leave(peer);
            self.send_placements(other, placements);
        }
        self.ask_all(peer);
    }

    /// Every [`TICK_INTERVAL`]: the decisions of a member about its sources.
    pub(super) fn check_standing(&mut self, peer: usize) {
        let now = self.now;
        let seeders = self.setting.seeders;
        let one = &mut self.peers[peer];
        if one.picker.has_stalled(now) {
            one.member.stalled();
        }
        if now.as_nanos() / STANDING_INTERVAL.as_nanos()
            != (now - TICK_INTERVAL.min(now)).as_nanos() / STANDING_INTERVAL.as_nanos()
        {
            let adjustment = one.member.adjust(one.picker.deficit());
            one.picker.set_boost(one.member.boost());
            match adjustment {
                Some(Adjustment::AddSource) => self.connect_extra(peer),
                Some(Adjustment::RemoveSource) => {
                    let extras = one.sources.iter().filter(|other| **other >= seeders);
                    let extras = extras.filter(|other| one.member.is_extra(**other));
                    let slowest = extras.max_by_key(|other| one.picker.chunk_time(SourceId(**other as u32)));
                    if let Some(other) = slowest.copied() {
                        let has_room = one.partial_sources(seeders, now) > RINGS;
                        if has_room {
                            self.disconnect(peer, other);
                        }
                    }
                }
                None => {}
            }
        }
        self.connect_members(peer);
    }

    /// Asks the seeders for chunks of their choice.
    pub(super) fn ask_next(&mut self, peer: usize) {
        for seeder in 0..self.setting.seeders {
            let source = SourceId(seeder as u32);
            loop {
                let one = &self.peers[peer];
                let outstanding = one.picker.nexts();
                let is_limited = one.clients.is_any_active() && one.picker.can_download_from_peers();
                if !one.picker.is_next_due(source) || !one.member.wants_next(outstanding, is_limited) {
                    break;
                }
                let taken = one.picker.taken();
                let one = &mut self.peers[peer];
                let news = taken.iter().filter(|index| one.reported[seeder].insert(*index)).collect();
                one.picker.asked_next(source);
                self.send_message(peer, Event::Next(peer, seeder, news));
            }
        }
    }

    /// A seeder learns what a peer has, and queues its request.
    pub(super) fn asked_next(&mut self, from: usize, to: usize, news: Vec<ChunkIndex>) {
        if let Some(seeder) = &mut self.peers[to].super_seeder {
            news.iter().for_each(|index| seeder.claimed(from, *index));
        }
        let Some(has) = self.peers[to].has.get_mut(from) else { return };
        news.iter().for_each(|index| _ = has.insert(*index));
        self.peers[to].is_asked(from, None);
        self.serve(to, from);
        self.tell_if_spent(to);
    }

    /// The chunk of its choice that a seeder sends to a peer.
    pub(super) fn choose_next(&mut self, from: usize, to: usize) -> Option<ChunkIndex> {
        let seeder = &mut self.peers[from];
        let index = seeder.super_seeder.as_mut()?.next(to, &seeder.has[to]);
        match index {
            Some(index) => {
                seeder.has[to].insert(index);
                if self.peers[to].picker.given(SourceId(from as u32), index, self.now) {
                    self.peers[to].member.is_given(index);
                }
            }
            None => self.send_message(from, Event::Spent(from, to)),
        }
        self.tell_if_spent(from);
        index
    }

    /// Tells all members when each chunk has been sent once.
    pub(super) fn tell_if_spent(&mut self, seeder: usize) {
        let is_spent = self.peers[seeder].super_seeder.as_ref().is_some_and(|seeder| seeder.is_spent());
        if is_spent && !self.peers[seeder].has_told_spent {
            self.peers[seeder].has_told_spent = true;
            for other in self.peers[seeder].clients.all_ids() {
                self.send_message(seeder, Event::Spent(seeder, other));
            }
        }
    }

    pub(super) fn spent(&mut self, seeder: usize, peer: usize) {
        self.peers[peer].picker.set_chooses(SourceId(seeder as u32), false);
        self.ask(peer, seeder);
    }

    /// Removes a peer that is complete or dead from the rings.
    pub(super) fn step_out(&mut self, peer: usize) {
        self.peers[peer].is_member = false;
        for seeder in 0..self.setting.seeders {
            let placements = self.peers[seeder].rings.leave(peer);
            self.send_placements(seeder, placements);
        }
    }
}
