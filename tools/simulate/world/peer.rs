//! The state of a simulated peer, and the transfers to and from it.

use super::clients::Clients;
use shoal::content::{Bitfield, ChunkIndex};
use shoal::swarm::Moment;
use shoal::swarm::picker::{Picker, SourceId};
use shoal::swarm::rings::{Member, Rings, Transfers};
use shoal::swarm::super_seeding::SuperSeeder;
use std::time::Duration;

/// Time after which a peer that has sent no bitfield does not count as a source, as in the daemons.
const BITFIELD_TIMEOUT: Duration = Duration::from_secs(1);

/// A transfer of one chunk between two peers, block by block.
pub(super) struct Transfer {
    pub(super) index: ChunkIndex,
    pub(super) blocks: u32,
    pub(super) total: u32,
    /// The flow of the current block; `None` while the sender does not have the next block.
    pub(super) flow: Option<usize>,
}

/// A seeder or a leecher.
pub(super) struct Peer {
    pub(super) picker: Picker,
    /// Of a seeder: its rings, what it has sent, what its members have, and its transfers with their receivers.
    pub(super) rings: Rings<usize>,
    pub(super) super_seeder: Option<SuperSeeder<usize>>,
    pub(super) has: Vec<Bitfield>,
    pub(super) transfers: Transfers,
    pub(super) tickets: Vec<(usize, u64)>,
    pub(super) has_told_spent: bool,
    /// Of a leecher: its place in the rings, the peers that it knows, and what it has reported to each seeder.
    pub(super) member: Member<usize>,
    pub(super) is_member: bool,
    pub(super) known: Vec<usize>,
    pub(super) reported: Vec<Bitfield>,
    /// The sources of the peer, and its clients.
    pub(super) sources: Vec<usize>,
    /// Peers that it tries to connect to in vain, with the start of the attempt, and the next time at which it connects to lost seeders.
    pub(super) connecting: Vec<(usize, Moment)>,
    pub(super) reconnects_at: Moment,
    /// Next time at which it looks up members.
    pub(super) lookup_at: Moment,
    pub(super) clients: Clients,
    /// Requests of clients that are not served yet, the oldest first; never more than a few.
    /// `None` stands for a chunk of the seeder's choice.
    asked: Vec<(usize, Option<ChunkIndex>)>,
    /// Receivers of the outgoing transfers, and the incoming transfers with their senders: one chunk at a time each.
    pub(super) sending: Vec<usize>,
    receiving: Vec<(usize, Transfer)>,
    pub(super) alive: bool,
    pub(super) began: Moment,
    pub(super) done: Option<Moment>,
}

impl Peer {
    /// An inactive peer with these chunks.
    pub(super) fn new(have: Bitfield, seeders: usize) -> Self {
        Self {
            reported: vec![Bitfield::none(have.count()); seeders],
            picker: Picker::new(have, true),
            rings: Rings::default(),
            super_seeder: None,
            has: Vec::new(),
            transfers: Transfers::default(),
            tickets: Vec::new(),
            has_told_spent: false,
            member: Member::default(),
            is_member: false,
            known: Vec::new(),
            sources: Vec::new(),
            connecting: Vec::new(),
            reconnects_at: Moment::ZERO,
            lookup_at: Moment::ZERO,
            clients: Clients::default(),
            asked: Vec::new(),
            sending: Vec::new(),
            receiving: Vec::new(),
            alive: false,
            began: Moment::ZERO,
            done: None,
        }
    }

    /// Number of incomplete sources that can be expected to deliver, with those being connected to.
    pub(super) fn partial_sources(&self, seeders: usize, now: Moment) -> usize {
        let is_complete = |other: usize| self.picker.is_complete_source(SourceId(other as u32));
        let is_overdue = |other: usize| self.picker.overdue(SourceId(other as u32), now).is_some();
        let partial = self.sources.iter().filter(|other| **other >= seeders && !is_complete(**other));
        let connecting = self.connecting.iter().filter(|(_, since)| now < *since + BITFIELD_TIMEOUT);
        partial.filter(|other| !is_overdue(**other)).count() + connecting.count()
    }

    /// Whether the peer tries to connect to another one in vain.
    pub(super) fn is_connecting(&self, other: usize) -> bool {
        self.connecting.iter().any(|(source, _)| *source == other)
    }

    /// Whether the peer is alive and incomplete.
    pub(super) fn fetches(&self) -> bool {
        self.alive && self.done.is_none()
    }

    /// Queues a client's request for a chunk, or for any (`None`).
    pub(super) fn is_asked(&mut self, client: usize, index: Option<ChunkIndex>) {
        self.asked.push((client, index));
    }

    /// Takes the next request of a client.
    pub(super) fn next_asked(&mut self, client: usize) -> Option<Option<ChunkIndex>> {
        let at = self.asked.iter().position(|(peer, _)| *peer == client)?;
        Some(self.asked.remove(at).1)
    }

    /// Whether a client has a request in the queue.
    pub(super) fn has_asked(&self, client: usize) -> bool {
        self.asked.iter().any(|(peer, _)| *peer == client)
    }

    /// Drops the requests of a client.
    pub(super) fn forget(&mut self, client: usize) {
        self.asked.retain(|(peer, _)| *peer != client);
    }

    /// The transfer from a peer.
    pub(super) fn coming(&mut self, from: usize) -> Option<&mut Transfer> {
        self.receiving.iter_mut().find(|(peer, _)| *peer == from).map(|(_, transfer)| transfer)
    }

    /// Adds an incoming transfer.
    pub(super) fn receive(&mut self, from: usize, transfer: Transfer) {
        self.receiving.push((from, transfer));
    }

    /// Removes an incoming transfer that is complete or aborted.
    pub(super) fn received(&mut self, from: usize) -> Option<Transfer> {
        let at = self.receiving.iter().position(|(peer, _)| *peer == from)?;
        Some(self.receiving.remove(at).1)
    }

    /// Removes an outgoing transfer.
    pub(super) fn sent(&mut self, to: usize) {
        self.sending.retain(|other| *other != to);
    }

    /// The flows that carry a chunk to this peer.
    pub(super) fn flows(&self, index: ChunkIndex) -> impl Iterator<Item = usize> + '_ {
        let coming = self.receiving.iter().map(|(_, transfer)| transfer);
        coming.filter(move |transfer| transfer.index == index).filter_map(|transfer| transfer.flow)
    }

    /// Number of received blocks of a chunk; `u32::MAX` if the chunk is complete.
    pub(super) fn received_blocks(&self, index: ChunkIndex) -> u32 {
        if self.picker.done().has(index) {
            return u32::MAX;
        }
        let coming = self.receiving.iter().map(|(_, transfer)| transfer);
        coming.filter(|transfer| transfer.index == index).map(|transfer| transfer.blocks).max().unwrap_or(0)
    }
}
