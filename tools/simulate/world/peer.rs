//! The state of a simulated peer, and the transfers to and from it.

use super::clients::Clients;
use super::trees::Standing;
use shoal::content::{Bitfield, ChunkIndex};
use shoal::swarm::Moment;
use shoal::swarm::picker::Picker;
use shoal::swarm::super_seeding::SuperSeeder;
use shoal::swarm::trees::{Pace, Trees};
use std::collections::BTreeMap;

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
    pub(super) fresh: Option<SuperSeeder<usize>>,
    /// A seeder's trees; for a leecher, its positions in them.
    pub(super) trees: Trees<usize>,
    pub(super) standings: BTreeMap<usize, Standing>,
    /// Upload rates by receiver.
    pub(super) pace: Pace<usize>,
    /// The sources of the peer, and its clients.
    pub(super) sources: Vec<usize>,
    pub(super) clients: Clients,
    /// Requests of clients that are not served yet, the oldest first; never more than a few.
    asked: Vec<(usize, ChunkIndex)>,
    /// Receivers of the outgoing transfers, and the incoming transfers with their senders: one chunk at a time each.
    pub(super) sending: Vec<usize>,
    receiving: Vec<(usize, Transfer)>,
    pub(super) alive: bool,
    pub(super) began: Moment,
    pub(super) done: Option<Moment>,
}

impl Peer {
    /// An inactive peer with these chunks.
    pub(super) fn new(have: Bitfield, sources: Vec<usize>, clients: Clients) -> Self {
        Self {
            picker: Picker::new(have, true),
            fresh: None,
            trees: Trees::new(0, 1),
            standings: BTreeMap::new(),
            pace: Pace::default(),
            sources,
            clients,
            asked: Vec::new(),
            sending: Vec::new(),
            receiving: Vec::new(),
            alive: false,
            began: Moment::ZERO,
            done: None,
        }
    }

    /// Maximum upload rate to one receiver, bytes per second; infinite without stripes.
    pub(super) fn gives(&self) -> f64 {
        let is_split = self.trees.stripes() > 1 || self.standings.values().any(Standing::is_split);
        self.pace.most().filter(|_| is_split).unwrap_or(f64::INFINITY)
    }

    /// Whether the peer is alive and incomplete.
    pub(super) fn fetches(&self) -> bool {
        self.alive && self.done.is_none()
    }

    /// Queues a client's request for a chunk.
    pub(super) fn is_asked(&mut self, client: usize, index: ChunkIndex) {
        self.asked.push((client, index));
    }

    /// Takes the next request of a client.
    pub(super) fn next_asked(&mut self, client: usize) -> Option<ChunkIndex> {
        let at = self.asked.iter().position(|(peer, _)| *peer == client)?;
        Some(self.asked.remove(at).1)
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
