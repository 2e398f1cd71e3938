//! The clients of a peer, and the announcements that they get of chunks that the peer receives: the rule of the
//! daemons ([`UNREQUESTED_ARRIVALS_MAX`](shoal::content::limits::UNREQUESTED_ARRIVALS_MAX)).

use shoal::content::ChunkIndex;
use shoal::content::limits::{GOT_INTERVAL, UNREQUESTED_ARRIVALS_MAX};
use shoal::swarm::Moment;

/// A client of a peer.
struct Client {
    id: usize,
    /// Number of arriving chunks that were announced to it since its last request.
    unasked: u32,
    /// Time of the last arrival or other change that was not announced to it.
    missed: Moment,
    /// Whether it is complete or dead.
    gone: bool,
}

/// The clients of one peer, and the announcements that are delayed.
#[derive(Default)]
pub(super) struct Clients {
    all: Vec<Client>,
    /// Chunks that are arriving, and received chunks that are not announced yet, each with the time of its first
    /// block.
    arriving: Vec<(ChunkIndex, Moment)>,
    batch: Vec<(ChunkIndex, Moment)>,
    /// Time of the last batch of announcements.
    told: Option<Moment>,
}

impl Clients {
    /// Whether a client is alive and incomplete.
    pub(super) fn is_any_active(&self) -> bool {
        self.all.iter().any(|client| !client.gone)
    }

    /// Adds a client.
    pub(super) fn push(&mut self, id: usize) {
        self.all.retain(|client| client.id != id);
        self.all.push(Client { id, unasked: 0, missed: Moment::ZERO, gone: false });
    }

    /// The ids of all clients, including those that are complete or dead.
    pub(super) fn all_ids(&self) -> Vec<usize> {
        self.all.iter().map(|client| client.id).collect()
    }

    fn find(&mut self, id: usize) -> Option<&mut Client> {
        self.all.iter_mut().find(|client| client.id == id)
    }

    /// A client may have missed earlier announcements: it has just connected, or a request of it was refused.
    pub(super) fn misses(&mut self, id: usize, now: Moment) {
        if let Some(client) = self.find(id) {
            client.missed = now;
        }
    }

    /// A client has requested a chunk.
    pub(super) fn asked(&mut self, id: usize) {
        if let Some(client) = self.find(id) {
            client.unasked = 0;
        }
    }

    /// A client is complete or dead.
    pub(super) fn gone(&mut self, id: usize) {
        if let Some(client) = self.find(id) {
            client.gone = true;
        }
    }

    /// A chunk starts to arrive. Returns whether it must be announced to a client immediately.
    pub(super) fn begins(&mut self, index: ChunkIndex, now: Moment) -> bool {
        if self.arriving.iter().any(|(other, _)| *other == index) {
            return false;
        }
        self.arriving.push((index, now));
        let mut any = false;
        for client in self.all.iter_mut().filter(|client| !client.gone) {
            match client.unasked < UNREQUESTED_ARRIVALS_MAX {
                true => (client.unasked, any) = (client.unasked + 1, true),
                false => client.missed = now,
            }
        }
        any
    }

    /// A chunk that started to arrive will not be completed.
    pub(super) fn lost(&mut self, index: ChunkIndex) {
        self.arriving.retain(|(other, _)| *other != index);
    }

    /// Number of clients, including those that are complete or dead.
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// The client at an index, if a chunk that started to arrive at this time was announced to it immediately.
    pub(super) fn told_at_once(&self, at: usize, began: Moment) -> Option<usize> {
        self.active(at).filter(|(_, missed)| *missed < began).map(|(id, _)| id)
    }

    /// The client at an index, unless it is complete or dead, and the time since when each arrival was announced to
    /// it.
    pub(super) fn active(&self, at: usize) -> Option<(usize, Moment)> {
        let Client { id, missed, gone, .. } = self.all[at];
        (!gone).then_some((id, missed))
    }

    /// A chunk is complete. Returns the time of the next batch of announcements, if none is scheduled yet.
    pub(super) fn ends(&mut self, index: ChunkIndex, now: Moment) -> Option<Moment> {
        let at = self.arriving.iter().position(|(other, _)| *other == index);
        // A chunk without an observed start was announced to no client.
        let began = at.map_or(Moment::ZERO, |at| self.arriving.swap_remove(at).1);
        self.batch.push((index, began));
        (self.batch.len() == 1).then(|| self.told.map_or(now, |told| now.max(told + GOT_INTERVAL)))
    }

    /// The chunks of the batch that is announced now.
    pub(super) fn take_batch(&mut self, now: Moment) -> Vec<(ChunkIndex, Moment)> {
        self.told = Some(now);
        std::mem::take(&mut self.batch)
    }
}
