//! Peers that join, complete or die, and the announcements of chunks between connected peers.

use super::{Event, TICK_INTERVAL, World};
use shoal::content::ChunkIndex;
use shoal::swarm::Moment;
use shoal::swarm::picker::SourceId;

impl World {
    pub(super) fn join(&mut self, peer: usize) {
        self.peers[peer].alive = true;
        if self.is_silent(peer) {
            return self.join_silently(peer);
        }
        self.peers[peer].member.begin(self.now);
        for source in self.peers[peer].sources.clone() {
            self.peers[source].clients.push(peer);
            self.meet(peer, source);
        }
        self.join_rings(peer);
        self.ask_all(peer);
        let first = TICK_INTERVAL.mul_f64(self.random.f64());
        self.at(self.now + first, Event::Tick(peer));
    }

    pub(super) fn meet(&mut self, client: usize, source: usize) {
        if !self.peers[client].fetches() || !self.peers[source].alive {
            return;
        }
        let have = self.claimed(source);
        self.peers[source].clients.misses(client, self.now);
        let members = self.stated_members(client, source);
        let joins = source < self.setting.seeders && self.serves(client);
        let one = &mut self.peers[client];
        one.picker.add_source(SourceId(source as u32), have, self.now);
        if joins {
            one.member.add_root(source, members);
        }
        self.ask(client, source);
    }

    pub(super) fn die(&mut self, peer: usize) {
        if self.counts(peer) && self.peers[peer].done.is_none() {
            self.waiting -= 1;
        }
        self.peers[peer].alive = false;
        self.step_out(peer);
        for source in self.peers[peer].sources.clone() {
            self.peers[source].clients.gone(peer);
            self.abort(source, peer);
            self.peers[source].forget(peer);
            self.end_ticket(source, peer);
            if let Some(seeder) = &mut self.peers[source].super_seeder {
                seeder.leave(peer);
            }
        }
        for client in self.peers[peer].clients.all_ids() {
            self.abort(peer, client);
            let one = &mut self.peers[client];
            one.picker.remove_source(SourceId(peer as u32));
            one.sources.retain(|source| *source != peer);
            one.known.retain(|known| *known != peer);
            one.member.lost(peer);
            if one.fetches() {
                self.connect_members(client);
            }
            self.ask_all(client);
        }
    }

    pub(super) fn complete(&mut self, peer: usize) {
        self.peers[peer].done = Some(self.now);
        self.waiting -= usize::from(self.counts(peer));
        self.step_out(peer);
        for at in 0..self.peers[peer].sources.len() {
            let source = self.peers[peer].sources[at];
            self.peers[source].clients.gone(peer);
        }
    }

    /// Clients that are told immediately learn of a chunk that started to arrive.
    pub(super) fn announce_arrival(&mut self, peer: usize, index: ChunkIndex, began: Moment) {
        for at in 0..self.peers[peer].clients.count() {
            if let Some(other) = self.peers[peer].clients.told_at_once(at, began) {
                self.messages += 1;
                self.peers[other].picker.source_receives(SourceId(peer as u32), index);
                self.ask(other, peer);
            }
        }
    }

    /// All clients learn of received chunks in one message; clients that missed an earlier message can request them.
    pub(super) fn announce_received(&mut self, peer: usize) {
        let batch = self.peers[peer].clients.take_batch(self.now);
        for at in 0..self.peers[peer].clients.count() {
            let Some((other, missed)) = self.peers[peer].clients.active(at) else { continue };
            self.messages += 1;
            let mut any = false;
            for (index, began) in &batch {
                self.peers[other].picker.source_has(SourceId(peer as u32), *index);
                any |= *began <= missed;
            }
            if any {
                self.ask(other, peer);
            }
        }
    }
}
