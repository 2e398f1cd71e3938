//! Whom to ask before all others, as told by those who keep trees, and what is said about it in turn.
//!
//! Several keepers would stand in each other's way: with more than one nobody is asked before all others. Invariant: a
//! keeper that names one after the other, or ones that are not to be had, holds a download up for a bounded time.

use super::{CandidateState, DownloadScheduler, SourceCommand};
use crate::protocol::peer::Upstream;
use crate::swarm::Moment;
use crate::swarm::picker::{self, STRIPES_MAX, SourceId};
use crate::upload::pacing::Held;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// So many times for each stripe one who is named upstream and not connected yet is waited for.
const PLACEMENTS_MAX: u32 = 16;
/// So often the number of stripes may change: each time everything is counted anew.
const RESHAPES_MAX: u32 = 16;
/// One who is upstream is given so long before another one is asked for; the next ones twice and three times as long,
/// as it takes a while to catch up behind them. So often that is done for each stripe.
const OVERTAKE_PAUSE: Duration = Duration::from_millis(200);
const OVERTAKES_MAX: u32 = 8;
/// So long after the first connection is begun the word of those who keep trees is waited for; and so long before sources are
/// asked that have next to nothing: when many begin at once connections take their time, and what all of them would ask
/// the first ones for fills their links for long.
const WORD: Duration = Duration::from_millis(250);
const WORD_EARLY: Duration = Duration::from_secs(2);
/// Next to nothing: chunks.
const EARLY: u32 = 8;
/// So many others are said to be slow.
const SLOW_MAX: usize = 8;

/// Whom a keeper has named for one stripe.
#[derive(Debug, Clone, Copy)]
struct Place {
    address: SocketAddr,
    /// Whom that one asks.
    beyond: Option<SocketAddr>,
    since: Moment,
    /// Whether that is the first after the keeper.
    second: bool,
    /// How many steps this peer is away from the keeper.
    steps: u32,
    /// Whether this peer has been found slow.
    slow: bool,
    /// Whether the one named before has left the keeper.
    left: bool,
}

/// What one keeper has said.
#[derive(Debug, Default)]
struct Kept {
    stripes: usize,
    places: BTreeMap<usize, Place>,
}

/// What has happened in a stripe.
#[derive(Debug, Default, Clone, Copy)]
struct Counted {
    placements: u32,
    overtakes: u32,
}

/// What the keepers have said.
#[derive(Default)]
pub(super) struct Upstreams {
    keepers: BTreeMap<SourceId, Kept>,
    counted: [Counted; STRIPES_MAX],
    /// How often the number of stripes has changed.
    reshapes: u32,
    /// Who has been said to be slow.
    slow: BTreeSet<SocketAddr>,
    /// The pace at which this peer gives the file to others, while there are several stripes.
    pace: Option<Held>,
    /// When somebody was connected to for the first time.
    began: Option<Moment>,
}

impl Upstreams {
    /// Somebody is connected to.
    pub(super) fn begin(&mut self, now: Moment) {
        self.began.get_or_insert(now);
    }

    /// A source is gone, and its trees are of no use.
    pub(super) fn lose(&mut self, id: SourceId) {
        self.keepers.remove(&id);
    }

    /// All sources are gone.
    pub(super) fn clear(&mut self) {
        self.keepers.clear();
        self.pace = None;
    }

    /// Whether somebody is to be asked before all others.
    pub(super) fn is_kept(&self) -> bool {
        self.only().is_some()
    }

    fn only(&self) -> Option<(SourceId, &Kept)> {
        self.keepers.first_key_value().filter(|_| self.keepers.len() == 1).map(|(id, kept)| (*id, kept))
    }
}

impl DownloadScheduler {
    /// Whether a source had better not be asked yet: it does not have everything, and one that may say whom to ask before all
    /// others is being connected to. The answer of the only one who has the file is the last to come, as it waits behind the
    /// first chunk; if all asked for that one at once whoever gets it first, everything behind it would be late for good.
    pub(super) fn awaits_word(&self, id: SourceId, now: Moment) -> bool {
        let patience = if self.picker.held_by(id) < EARLY { WORD_EARLY } else { WORD };
        let until = self.upstreams.began.map_or(now, |began| began + patience);
        now < until
            && self.job.subscribe
            && !self.upstreams.is_kept()
            && self.picker.is_partial(id)
            && self.live.values().any(|live| !live.connected)
            && !self.live.keys().any(|id| self.picker.has_had_all(*id))
    }

    /// A source says whom to ask before all others for a stripe.
    pub(super) fn placed(&mut self, id: SourceId, upstream: Upstream, now: Moment) {
        let Upstream { peer, beyond, first, stripe, stripes, steps, slow, left } = upstream;
        let (stripe, stripes) = (usize::from(stripe), usize::from(stripes));
        if stripe >= stripes || stripes > STRIPES_MAX {
            // There are no trees any more, or more than anybody needs.
            self.upstreams.lose(id);
            return self.follow(now);
        }
        if self.picker.picks_in_order() {
            // A tree distributes chunks in another order.
            peer.into_iter().for_each(|peer| self.add_source(peer, now));
            return;
        }
        let Some(address) = peer.or_else(|| self.live.get(&id).map(|live| live.address)) else { return };
        let kept = self.upstreams.keepers.entry(id).or_default();
        if kept.stripes != stripes {
            *kept = Kept { stripes, places: BTreeMap::new() };
            self.upstreams.reshapes += 1;
            if self.upstreams.reshapes > RESHAPES_MAX {
                self.upstreams.lose(id);
                return self.follow(now);
            }
        }
        kept.places.insert(stripe, Place { address, beyond, since: now, second: first, steps, slow, left });
        let address = self.note_source(address.into(), now);
        beyond.into_iter().for_each(|beyond| _ = self.note_source(beyond.into(), now));
        self.follow(now);
        let counted = &mut self.upstreams.counted[stripe];
        counted.placements += 1;
        if counted.placements <= PLACEMENTS_MAX {
            self.reach(address, now);
            beyond.into_iter().for_each(|beyond| self.reach(beyond, now));
            // With several roots all sources are asked, at once.
            if self.upstreams.is_kept() {
                self.picker.expect_upstream(stripe, now);
            }
        }
    }

    /// With one keeper there is one to be asked first for each stripe.
    pub(super) fn follow(&mut self, now: Moment) {
        self.hold_pace();
        let Some((keeper, Kept { stripes, places })) = self.upstreams.only() else {
            return self.picker.follow_nobody();
        };
        self.picker.split(*stripes, now);
        let source = |address: &SocketAddr| match self.candidates.get(address).map(|one| &one.link) {
            Some(CandidateState::Active(id)) if self.live.get(id).is_some_and(|live| live.connected) => {
                Some(*id)
            }
            _ => None,
        };
        for (stripe, Place { address, beyond, second, steps, slow, left, .. }) in places {
            let (source, beyond) = (source(address), beyond.as_ref().and_then(source));
            let first = second.then_some(keeper);
            let place = picker::Place { source, beyond, first, steps: *steps, slow: *slow, left: *left };
            self.picker.follow(*stripe, place, now);
        }
    }

    fn hold_pace(&mut self) {
        let is_split = self.upstreams.only().is_some_and(|(_, kept)| kept.stripes > 1);
        match self.job.relay.as_ref().filter(|_| is_split) {
            None => self.upstreams.pace = None,
            Some(relay) => {
                let hold = || relay.pacing().hold(self.job.file);
                self.upstreams.pace.get_or_insert_with(hold);
            }
        }
    }

    /// Says so when the one behind takes what it is given far more slowly than it comes here. That one itself learns of it
    /// late, as what it is told waits behind what it is given.
    pub(super) fn name_slow(&mut self) {
        let Some((keeper, kept)) = self.upstreams.only() else { return };
        let taker = self.job.relay.as_ref().and_then(|relay| relay.only_receiver(self.job.file));
        let Some((address, took)) = taker.filter(|_| kept.stripes == 1) else { return };
        let is_known = self.upstreams.slow.len() >= SLOW_MAX || self.upstreams.slow.contains(&address);
        if is_known || !self.picker.is_slow_to_take(0, took) {
            return;
        }
        self.upstreams.slow.insert(address);
        if let Some(live) = self.live.get(&keeper) {
            log::debug!("{address} takes its chunks slowly: {} is told", live.address);
            let _ = live.commands.try_send(SourceCommand::Slow(address));
        }
    }

    /// Says so when one ahead keeps this peer waiting, or is not to be had. Also of the keeper itself, which moves nobody: a
    /// slow one at the head of a line has then said all it may before others are put ahead of it that it would blame.
    pub(super) fn overtake(&mut self, now: Moment) {
        let Some((keeper, kept)) = self.upstreams.only() else { return };
        let places: Vec<(usize, Place)> =
            kept.places.iter().map(|(stripe, place)| (*stripe, *place)).collect();
        for (stripe, Place { address, since, .. }) in places {
            let link = self.candidates.get(&address).map(|candidate| &candidate.link);
            let is_live = matches!(link, Some(CandidateState::Active(_)));
            let waits = if is_live { self.picker.waits_long(stripe, now) } else { !self.is_complete() };
            let Counted { placements, overtakes } = self.upstreams.counted[stripe];
            let named_lately = now.saturating_sub(since) < OVERTAKE_PAUSE * placements.clamp(1, 3);
            if !waits || named_lately || overtakes >= OVERTAKES_MAX {
                continue;
            }
            let sure = !is_live || self.picker.is_slower_than_first(stripe, now);
            if let Some(live) = self.live.get(&keeper) {
                log::debug!("{address} is slow: {} is asked for another one", live.address);
                let _ = live.commands.try_send(SourceCommand::Overtake { stripe: stripe as u8, sure });
            }
            self.upstreams.counted[stripe].overtakes += 1;
            let kept = self.upstreams.keepers.get_mut(&keeper);
            if let Some(place) = kept.and_then(|kept| kept.places.get_mut(&stripe)) {
                place.since = now;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::staging::{Nothing, job};
    use super::super::{ActiveSource, SourceEvent, SourceUpdate};
    use super::*;
    use crate::content::{Bitfield, ChunkIndex};
    use crate::net::{Shutdown, Threads};
    use crossbeam_channel::bounded;
    use std::sync::Arc;

    fn fetch(shutdown: &Shutdown) -> DownloadScheduler {
        let (events, _) = crossbeam_channel::unbounded();
        let job = job(9, Arc::new(Nothing));
        DownloadScheduler::new(job, Bitfield::none(9), true, events, &Threads::new(), shutdown)
    }

    #[test]
    fn sources_are_asked_at_once_if_several_are_roots() {
        let shutdown = Shutdown::new();
        let mut fetch = fetch(&shutdown);
        let (commands, requests) = [1, 2].map(|_| bounded(9)).into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
        for (id, commands) in (0..).zip(commands) {
            let address = SocketAddr::from(([10, 0, 0, 1], 7000 + id as u16));
            let (since, pieces, refusals) = (Moment::ZERO, Default::default(), Default::default());
            let shutdown = shutdown.child();
            let live = ActiveSource {
                address,
                since,
                connected: false,
                commands,
                pieces,
                heard: 0,
                refusals,
                shutdown,
            };
            fetch.live.insert(SourceId(id), live);
            fetch.note_source(address.into(), Moment::ZERO);
            fetch.candidates.get_mut(&address).unwrap().link = CandidateState::Active(SourceId(id));
        }
        // Each tells this peer to follow it.
        let upstream = Upstream::SERVER;
        for (id, requests) in (0..).zip(&requests) {
            let have = Some(Bitfield::all(9));
            let update =
                SourceUpdate::Connected { have, upstreams: vec![upstream], rtt: Duration::from_millis(1) };
            fetch.handle(SourceEvent { download: 0, source: SourceId(id), update }, Duration::from_millis(5));
            assert!(!requests.is_empty(), "source {id}");
        }
    }

    #[test]
    fn nobody_is_asked_before_the_one_who_has_everything_has_said_whom_to_ask() {
        let shutdown = Shutdown::new();
        let mut fetch = fetch(&shutdown);
        let (commands, _asked) = bounded(9);
        for (id, connected) in [(1, true), (2, false)] {
            let address = SocketAddr::from(([10, 0, 0, 1], id as u16));
            let (commands, shutdown) = (commands.clone(), shutdown.child());
            let (since, pieces) = (Moment::ZERO, Default::default());
            let refusals = Default::default();
            let live =
                ActiveSource { address, since, connected, commands, pieces, heard: 0, refusals, shutdown };
            fetch.live.insert(SourceId(id), live);
        }
        fetch.upstreams.begin(Moment::ZERO);
        let mut have = Bitfield::none(9);
        have.insert(ChunkIndex(0));
        let soon = Duration::from_millis(50);
        fetch.picker.add_source(SourceId(1), have.clone(), soon);
        assert!(fetch.awaits_word(SourceId(1), soon) && fetch.awaits_word(SourceId(1), WORD));
        assert!(!fetch.awaits_word(SourceId(1), WORD_EARLY), "not for ever");
        (1..EARLY).for_each(|index| _ = have.insert(ChunkIndex(index)));
        fetch.picker.add_source(SourceId(1), have, soon);
        assert!(fetch.awaits_word(SourceId(1), soon));
        assert!(!fetch.awaits_word(SourceId(1), WORD), "it has much");
        fetch.picker.add_source(SourceId(2), Bitfield::all(9), soon);
        assert!(!fetch.awaits_word(SourceId(2), soon) && !fetch.awaits_word(SourceId(1), soon));
        fetch.picker.remove_source(SourceId(2));
        fetch.live.remove(&SourceId(2));
        assert!(!fetch.awaits_word(SourceId(1), soon), "there is nobody else");
    }
}
