//! A peer of a simulated swarm: what it knows, and what is on its way to it and from it.

use super::clients::Clients;
use super::trees::Standing;
use shoal::content::{Bitfield, ChunkIndex};
use shoal::swarm::Moment;
use shoal::swarm::picker::Picker;
use shoal::swarm::super_seeding::SuperSeeder;
use shoal::swarm::trees::{Pace, Trees};
use std::collections::BTreeMap;

/// A chunk on its way from one to another, block by block.
pub(super) struct Transfer {
    pub(super) index: ChunkIndex,
    pub(super) blocks: u32,
    pub(super) total: u32,
    /// The flow of the block that moves; none while it is not there yet.
    pub(super) flow: Option<usize>,
}

/// A seeder or a leecher.
pub(super) struct Peer {
    pub(super) picker: Picker,
    pub(super) fresh: Option<SuperSeeder<usize>>,
    /// Its trees, if it is a seeder; else where it hangs in theirs.
    pub(super) trees: Trees<usize>,
    pub(super) standings: BTreeMap<usize, Standing>,
    /// What it gives to whom.
    pub(super) pace: Pace<usize>,
    /// Whom it asks, and who asks it.
    pub(super) sources: Vec<usize>,
    pub(super) clients: Clients,
    /// What each client has asked for and is not being sent yet, the oldest first. There is never much of it.
    asked: Vec<(usize, ChunkIndex)>,
    /// To whom something goes out, and from whom something comes: one chunk at a time.
    pub(super) sending: Vec<usize>,
    receiving: Vec<(usize, Transfer)>,
    pub(super) alive: bool,
    pub(super) began: Moment,
    pub(super) done: Option<Moment>,
}

impl Peer {
    /// One that has something or nothing, and does nothing yet.
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

    /// How fast it gives something to anybody, bytes a second: as fast as it can, unless there are several stripes.
    pub(super) fn gives(&self) -> f64 {
        let is_split = self.trees.stripes() > 1 || self.standings.values().any(Standing::is_split);
        self.pace.most().filter(|_| is_split).unwrap_or(f64::INFINITY)
    }

    /// Whether it is there and fetches.
    pub(super) fn fetches(&self) -> bool {
        self.alive && self.done.is_none()
    }

    /// A client asks for a chunk.
    pub(super) fn is_asked(&mut self, client: usize, index: ChunkIndex) {
        self.asked.push((client, index));
    }

    /// What a client is to be sent next.
    pub(super) fn next_asked(&mut self, client: usize) -> Option<ChunkIndex> {
        let at = self.asked.iter().position(|(who, _)| *who == client)?;
        Some(self.asked.remove(at).1)
    }

    /// A client asks for nothing any more.
    pub(super) fn forget(&mut self, client: usize) {
        self.asked.retain(|(who, _)| *who != client);
    }

    /// What comes from somebody.
    pub(super) fn coming(&mut self, from: usize) -> Option<&mut Transfer> {
        self.receiving.iter_mut().find(|(who, _)| *who == from).map(|(_, transfer)| transfer)
    }

    /// Something begins to come.
    pub(super) fn receive(&mut self, from: usize, transfer: Transfer) {
        self.receiving.push((from, transfer));
    }

    /// What came has come, or will not.
    pub(super) fn received(&mut self, from: usize) -> Option<Transfer> {
        let at = self.receiving.iter().position(|(who, _)| *who == from)?;
        Some(self.receiving.remove(at).1)
    }

    /// Nothing goes out to somebody any more.
    pub(super) fn sent(&mut self, to: usize) {
        self.sending.retain(|other| *other != to);
    }

    /// The flows in which a chunk comes.
    pub(super) fn flows(&self, index: ChunkIndex) -> impl Iterator<Item = usize> + '_ {
        let coming = self.receiving.iter().map(|(_, transfer)| transfer);
        coming.filter(move |transfer| transfer.index == index).filter_map(|transfer| transfer.flow)
    }

    /// How many blocks of a chunk it has.
    pub(super) fn there(&self, index: ChunkIndex) -> u32 {
        if self.picker.done().has(index) {
            return u32::MAX;
        }
        let coming = self.receiving.iter().map(|(_, transfer)| transfer);
        coming.filter(|transfer| transfer.index == index).map(|transfer| transfer.blocks).max().unwrap_or(0)
    }
}
