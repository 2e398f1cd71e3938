//! Where the peers of a simulated swarm stand in the lines of its seeders: what the daemons do about it.

use super::{Event, World};
use shoal::swarm::Moment;
use shoal::swarm::line::Moved;
use shoal::swarm::picker::SourceId;
use std::time::Duration;

/// How long one who is upstream is given, and how often another one is asked for, as by the daemons.
const OVERTAKE_PAUSE: Duration = Duration::from_millis(200);
const OVERTAKES_MAX: u32 = 8;

/// Where a peer stands in the line of a seeder.
pub(super) struct Standing {
    pub(super) ahead: Option<usize>,
    pub(super) second: bool,
    pub(super) since: Moment,
}

impl World {
    pub(super) fn placed(&mut self, seeder: usize, Moved { who, ahead, second, closed }: Moved<usize>) {
        if closed {
            self.peers[who].standings.remove(&seeder);
            self.follow(who);
            return self.ask_all(who);
        }
        self.peers[who].placements += 1;
        self.peers[who].standings.insert(seeder, Standing { ahead, second, since: self.now });
        if let Some(ahead) = ahead.filter(|ahead| !self.peers[who].sources.contains(ahead)) {
            self.peers[who].sources.push(ahead);
            self.peers[ahead].clients.push(who);
            self.meet(who, ahead);
        }
        self.peers[who].picker.expect_upstream(self.now);
        self.follow(who);
        self.ask_all(who);
    }

    /// With one line there is one to be asked first.
    pub(super) fn follow(&mut self, peer: usize) {
        let standings = &self.peers[peer].standings;
        let only = standings.first_key_value().filter(|_| standings.len() == 1);
        let id = |peer: usize| SourceId(peer as u32);
        let upstream = only.map(|(seeder, standing)| standing.ahead.unwrap_or(*seeder));
        let upstream = upstream.filter(|upstream| self.peers[*upstream].alive).map(id);
        let first = only.filter(|(_, standing)| standing.second).map(|(seeder, _)| id(*seeder));
        self.peers[peer].picker.follow(upstream, first, self.now);
    }

    pub(super) fn overtake(&mut self, peer: usize) {
        let (now, one) = (self.now, &mut self.peers[peer]);
        let Some((seeder, standing)) = one.standings.iter_mut().next() else { return };
        let lately = now.saturating_sub(standing.since) < OVERTAKE_PAUSE * one.placements.clamp(1, 3);
        if one.picker.waits_long(now) && !lately && one.overtakes < OVERTAKES_MAX {
            standing.since = now;
            let sure = one.picker.is_slower_than_first(now);
            one.overtakes += 1;
            let seeder = *seeder;
            self.say(Event::Overtakes(peer, seeder, sure));
        }
    }

    /// A peer fetches no more.
    pub(super) fn step_out(&mut self, peer: usize) {
        for seeder in std::mem::take(&mut self.peers[peer].standings).into_keys() {
            for moved in self.peers[seeder].line.leave(peer) {
                self.say(Event::Placed(seeder, moved));
            }
        }
    }
}
