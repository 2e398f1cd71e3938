//! The positions of simulated peers in the trees of the seeders, with the rules of the daemons.

use super::{Event, World};
use shoal::swarm::Moment;
use shoal::swarm::picker::{self, SourceId};
use shoal::swarm::trees::Moved;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Minimum time between two requests for another predecessor; the same as in the daemons.
const OVERTAKE_INTERVAL: Duration = Duration::from_millis(200);
const OVERTAKES_MAX: u32 = 8;

/// The positions of a peer in the trees of one seeder.
#[derive(Default)]
pub(super) struct Standing {
    stripes: usize,
    places: BTreeMap<usize, Place>,
}

impl Standing {
    /// Whether the seeder distributes the file in several stripes.
    pub(super) fn is_split(&self) -> bool {
        self.stripes > 1
    }
}

#[derive(Clone, Copy)]
struct Place {
    ahead: Option<usize>,
    beyond: Option<usize>,
    second: bool,
    steps: u32,
    slow: bool,
    left: bool,
    since: Moment,
    overtakes: u32,
    placements: u32,
}

impl World {
    /// Tells peers all of their new positions before they send requests.
    pub(super) fn placed(&mut self, seeder: usize, moved: Vec<Moved<usize>>) {
        let peers: BTreeSet<usize> = moved.iter().map(|moved| moved.who).collect();
        moved.into_iter().for_each(|moved| self.place(seeder, moved));
        peers.into_iter().for_each(|peer| self.ask_all(peer));
    }

    fn place(&mut self, seeder: usize, moved: Moved<usize>) {
        let Moved { who: peer, stripe, stripes, ahead, beyond, second, steps, slow, left } = moved;
        if stripes == 0 {
            self.peers[peer].standings.remove(&seeder);
            return self.follow(peer);
        }
        let standing = self.peers[peer].standings.entry(seeder).or_default();
        if standing.stripes != stripes {
            *standing = Standing { stripes, places: BTreeMap::new() };
        }
        let before = standing.places.get(&stripe);
        let (overtakes, placements) = before.map_or((0, 0), |place| (place.overtakes, place.placements));
        let place = Place {
            ahead,
            beyond,
            second,
            steps: steps as u32,
            slow,
            left,
            since: self.now,
            overtakes,
            placements: placements + 1,
        };
        standing.places.insert(stripe, place);
        for other in ahead.into_iter().chain(beyond) {
            if !self.peers[peer].sources.contains(&other) {
                self.peers[peer].sources.push(other);
                self.peers[other].clients.push(peer);
                self.meet(peer, other);
            }
        }
        self.follow(peer);
        self.peers[peer].picker.expect_upstream(stripe, self.now);
    }

    /// With exactly one seeder, each stripe has a preferred source.
    pub(super) fn follow(&mut self, peer: usize) {
        let standings = &self.peers[peer].standings;
        let only = standings.first_key_value().filter(|_| standings.len() == 1);
        let Some((&seeder, Standing { stripes, places })) = only else {
            return self.peers[peer].picker.follow_nobody();
        };
        let (stripes, places) = (*stripes, places.clone());
        self.peers[peer].picker.split(stripes, self.now);
        let id = |peer: usize| SourceId(peer as u32);
        for (stripe, Place { ahead, beyond, second, steps, slow, left, .. }) in places {
            let upstream = ahead.unwrap_or(seeder);
            let beyond = beyond.filter(|beyond| self.peers[*beyond].alive).map(id);
            let source = Some(upstream).filter(|upstream| self.peers[*upstream].alive).map(id);
            let first = second.then_some(id(seeder));
            let place = picker::Place { source, beyond, first, steps, slow, left };
            self.peers[peer].picker.follow(stripe, place, self.now);
        }
    }

    pub(super) fn overtake(&mut self, peer: usize) {
        let (now, one) = (self.now, &mut self.peers[peer]);
        let Some((&seeder, standing)) = one.standings.iter_mut().next() else { return };
        let mut requests = Vec::new();
        for (stripe, place) in &mut standing.places {
            let lately = now.saturating_sub(place.since) < OVERTAKE_INTERVAL * place.placements.clamp(1, 3);
            if one.picker.waits_long(*stripe, now) && !lately && place.overtakes < OVERTAKES_MAX {
                place.since = now;
                place.overtakes += 1;
                requests.push((*stripe, one.picker.is_slower_than_first(*stripe, now)));
            }
        }
        for (stripe, sure) in requests {
            self.send_message(Event::Overtakes(peer, seeder, stripe, sure));
        }
    }

    /// Removes a peer that is complete or dead from all trees.
    pub(super) fn step_out(&mut self, peer: usize) {
        for seeder in std::mem::take(&mut self.peers[peer].standings).into_keys() {
            let moved = self.peers[seeder].trees.leave(peer);
            self.send_placements(seeder, moved);
        }
    }

    /// Sends one message to each peer with a new position.
    pub(super) fn send_placements(&mut self, seeder: usize, moved: Vec<Moved<usize>>) {
        let mut each: BTreeMap<usize, Vec<Moved<usize>>> = BTreeMap::new();
        moved.into_iter().for_each(|moved| each.entry(moved.who).or_default().push(moved));
        for (peer, moved) in each {
            if self.peers[peer].alive {
                self.send_message(Event::Placed(seeder, moved));
            }
        }
    }
}
