//! Who asks a peer, and what it is told of chunks that the peer gets: the rule of the daemons
//! ([`UNREQUESTED_ARRIVALS_MAX`](shoal::content::limits::UNREQUESTED_ARRIVALS_MAX)).

use shoal::content::ChunkIndex;
use shoal::content::limits::{GOT_INTERVAL, UNREQUESTED_ARRIVALS_MAX};
use shoal::swarm::Moment;

/// One who asks a peer.
struct Client {
    who: usize,
    /// How many chunks it has been told of as they began to arrive, since it last asked for one.
    unasked: u32,
    /// When a chunk last began to arrive of which it was not told; or when something else was missed.
    missed: Moment,
    /// Whether it has everything, or is dead.
    gone: bool,
}

/// Those who ask one peer, and what they are not told at once.
#[derive(Default)]
pub(super) struct Clients {
    all: Vec<Client>,
    /// Chunks that are arriving, and those that are there and have not been told of yet, with when they began.
    arriving: Vec<(ChunkIndex, Moment)>,
    news: Vec<(ChunkIndex, Moment)>,
    /// When news was told last.
    told: Option<Moment>,
}

impl Clients {
    /// There is one more.
    pub(super) fn push(&mut self, who: usize) {
        self.all.push(Client { who, unasked: 0, missed: Moment::ZERO, gone: false });
    }

    /// All of them, also those who are gone.
    pub(super) fn everybody(&self) -> Vec<usize> {
        self.all.iter().map(|client| client.who).collect()
    }

    fn find(&mut self, who: usize) -> Option<&mut Client> {
        self.all.iter_mut().find(|client| client.who == who)
    }

    /// One may not know all that has begun by now: it has just come, or it has been refused a chunk.
    pub(super) fn misses(&mut self, who: usize, now: Moment) {
        if let Some(client) = self.find(who) {
            client.missed = now;
        }
    }

    /// One has asked for a chunk.
    pub(super) fn asked(&mut self, who: usize) {
        if let Some(client) = self.find(who) {
            client.unasked = 0;
        }
    }

    /// One has everything, or is dead.
    pub(super) fn gone(&mut self, who: usize) {
        if let Some(client) = self.find(who) {
            client.gone = true;
        }
    }

    /// A chunk begins to arrive. Returns whether anybody is to be told at once.
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

    /// A chunk that began to arrive will not come.
    pub(super) fn lost(&mut self, index: ChunkIndex) {
        self.arriving.retain(|(other, _)| *other != index);
    }

    /// How many they are, also with those who are gone.
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// The one at a place, if it was told at once of a chunk that began to arrive then.
    pub(super) fn told_at_once(&self, at: usize, began: Moment) -> Option<usize> {
        self.hears(at).filter(|(_, missed)| *missed < began).map(|(who, _)| who)
    }

    /// The one at a place, unless it is gone, and since when it has been told of everything at once.
    pub(super) fn hears(&self, at: usize) -> Option<(usize, Moment)> {
        let Client { who, missed, gone, .. } = self.all[at];
        (!gone).then_some((who, missed))
    }

    /// A chunk is there. Returns when those who are to hear of it do, if that is not known yet.
    pub(super) fn ends(&mut self, index: ChunkIndex, now: Moment) -> Option<Moment> {
        let at = self.arriving.iter().position(|(other, _)| *other == index);
        // What was not seen to begin has been told of to nobody.
        let began = at.map_or(Moment::ZERO, |at| self.arriving.swap_remove(at).1);
        self.news.push((index, began));
        (self.news.len() == 1).then(|| self.told.map_or(now, |told| now.max(told + GOT_INTERVAL)))
    }

    /// What is to be told now.
    pub(super) fn take_news(&mut self, now: Moment) -> Vec<(ChunkIndex, Moment)> {
        self.told = Some(now);
        std::mem::take(&mut self.news)
    }
}
