//! The sources to be asked before all others: who is ahead in the trees of a file ([`trees`](crate::swarm::trees)),
//! one for each stripe.
//!
//! As long as it keeps up, nobody else is asked for the chunks of its stripe. Whether it does is told by these signs: how
//! much more it has than this peer; how much more anybody has, or how much more this peer gets in other
//! stripes; how long nothing has come from it; and, for who stands behind the first in a line, how long a chunk takes from
//! the one who has the file.
//!
//! Invariant: beside a source ahead that does not keep up others are asked, a few at once; without one, or when nothing
//! comes from it, everybody is.

mod trial;

use super::super::Moment;
use super::super::trees::stripe_of;
use super::{HELPERS_MAX, Picker, SHORT_RTT_MAX, Source, SourceId};
use crate::content::{Bitfield, ChunkIndex};
use std::time::Duration;
use trial::Trial;

/// In a line a peer may have so many chunks less than the one it asks, and what that one gets in so much time, before it
/// is behind.
const LAG_CHUNKS: u32 = 2;
const LAG_TIME: Duration = Duration::from_millis(200);
/// Who has been behind for so long says so.
const WAITS_LONG: Duration = Duration::from_millis(100);
/// The one beyond the one ahead may have so many more.
const BEYOND_CHUNKS: u32 = 3;
/// So many chunks the one beyond is asked for, until the places have changed: what goes that way does not go to the one
/// ahead, and if that were slow for no more than a moment it would be late in turn.
const BRIDGED_MAX: u32 = 12;
/// Nor is it asked any more when so many have come from the one ahead.
const PROVEN: u32 = 4;
/// The same against the one who has most; and with several stripes, whose connections share links unevenly, against
/// the one ahead.
const FAR_CHUNKS: u32 = 8;
const FAR_TIME: Duration = Duration::from_secs(1);
/// A chunk may be owed for so long while others have everything.
const OWED: Duration = Duration::from_millis(300);
/// One stripe may be so many chunks ahead of another one.
const AHEAD_CHUNKS: u32 = 8;
/// One stripe may come so many times as fast as another one.
const UNEVEN: u32 = 4;
/// Nobody else is asked for so long while the one upstream is being connected to.
const AWAITED: Duration = Duration::from_millis(250);
/// And the one who has everything so much longer, where others have begun: when many begin at once connections take their
/// time, and what each of them would ask it for fills its link for long.
const AWAITED_SPARED: Duration = Duration::from_secs(2);
/// On top of that: connecting to it, and being told what it has.
const AWAITED_WAYS: u32 = 2;
/// Nothing may come from the one ahead for so many times as long as a chunk takes, and for that long in any case.
const SILENT: u32 = 3;
const SILENT_MIN: Duration = Duration::from_secs(2);
/// So many times longer it is waited for that something of a chunk has come from within this time.
const SPEAKS: u32 = 3;
const HEARD: Duration = Duration::from_secs(1);
/// Longer than that a chunk is not thought to take whoever gets most.
const STRIPE_PACE_MAX: Duration = Duration::from_secs(3);
/// So many times as long as from the first holder a chunk may take from the one to be asked, and a little more; and the
/// same to the one behind.
const TRIAL: u32 = 3;
const TRIAL_MIN: Duration = Duration::from_millis(100);
/// So much later everything may be for each step from the one who has the file.
const STEP_TIME: Duration = Duration::from_millis(50);
/// On top of that, for every step: a chunk is told of, asked for, and given.
const WAYS: u32 = 2;
/// Connections over a long way do not share links evenly for long: while a peer gets this many chunks, the one ahead may
/// get so many more.
const DRIFT_CHUNKS: u32 = 16;
const DRIFT: u32 = 4;
/// There are never more stripes.
pub const STRIPES_MAX: usize = 16;

/// Where a peer hangs in the tree of a stripe.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place {
    /// The source to be asked before all others, if it is connected.
    pub source: Option<SourceId>,
    /// Whom that source asks, if it is connected.
    pub beyond: Option<SourceId>,
    /// The one who has the file, if that source gets everything from it: in a line the two are compared.
    pub first: Option<SourceId>,
    /// How many steps this peer is away from the one who has the file.
    pub steps: u32,
    /// Whether this peer has been found to take what it is given more slowly than others.
    pub slow: bool,
    /// Whether the one before has left whoever says so.
    pub left: bool,
}

/// How many chunks of each stripe something has.
#[derive(Debug, Clone)]
pub(super) struct Counts(Vec<u32>);

impl Counts {
    pub(super) fn of(have: &Bitfield, stripes: usize) -> Self {
        let mut counts = Self(vec![0; stripes]);
        match stripes {
            1 => counts.0[0] = have.held(),
            _ => have.iter().for_each(|index| counts.shift(index, 1)),
        }
        counts
    }

    pub(super) fn shift(&mut self, index: ChunkIndex, by: i32) {
        let stripe = stripe_of(index, self.0.len());
        self.0[stripe] = self.0[stripe].saturating_add_signed(by);
    }
}

/// What is known of the source to be asked before all others for the chunks of a stripe.
#[derive(Default)]
pub(super) struct Ahead {
    upstream: Option<SourceId>,
    bridge: Bridge,
    /// How many chunks have come from the one ahead.
    proven: u32,
    /// Whether that one is the first after the one who has the file.
    second: bool,
    /// How many steps this peer is away from the one who has the file.
    steps: u32,
    /// Whether this peer itself is slow.
    slow: bool,
    trial: Option<Trial>,
    /// What the one before it owes.
    stuck: Vec<ChunkIndex>,
    /// Since when it is ahead.
    since: Moment,
    /// Since when it keeps this peer waiting.
    waiting: Option<Moment>,
    /// The least gaps since it is ahead: who comes late begins with wide ones.
    least: (u32, u32),
    /// How many chunks this peer had when those were looked at anew.
    looked_at: u32,
    /// Until when nobody is asked, as that source is not connected yet.
    awaited: Option<Moment>,
}

/// The way past the one ahead, to whom that one asks.
#[derive(Default)]
struct Bridge {
    beyond: Option<SourceId>,
    /// How many chunks it has been asked for.
    asked: u32,
}

/// The sources ahead, for each stripe.
pub(super) struct Upstreams {
    ahead: Vec<Ahead>,
    /// What this peer has of each stripe.
    pub(super) done: Counts,
}

impl Upstreams {
    /// Nobody is to be asked before all others.
    pub(super) fn new(done: &Bitfield, stripes: usize) -> Self {
        let ahead = std::iter::repeat_with(Ahead::default).take(stripes).collect();
        Self { ahead, done: Counts::of(done, stripes) }
    }

    pub(super) fn stripes(&self) -> usize {
        self.ahead.len()
    }

    /// A source is gone.
    pub(super) fn lose(&mut self, id: SourceId) {
        for ahead in &mut self.ahead {
            ahead.upstream = ahead.upstream.filter(|upstream| *upstream != id);
            ahead.bridge.beyond = ahead.bridge.beyond.filter(|beyond| *beyond != id);
        }
    }

    /// Whether a source is to be asked before all others for something.
    pub(super) fn has(&self, id: SourceId) -> bool {
        self.ahead.iter().any(|ahead| ahead.upstream == Some(id))
    }

    /// A source is asked for a chunk.
    pub(super) fn asked(&mut self, id: SourceId, index: ChunkIndex, now: Moment) {
        if let Some(trial) = self.trial(id, index) {
            trial.asked(index, now);
        }
        let stripe = stripe_of(index, self.ahead.len());
        let ahead = &mut self.ahead[stripe];
        ahead.bridge.asked += u32::from(ahead.bridge.beyond == Some(id) && ahead.upstream != Some(id));
    }

    /// A chunk has come from a source, from which one takes so long, if it was asked for it.
    pub(super) fn arrived(&mut self, id: SourceId, index: ChunkIndex, pace: Option<Duration>, now: Moment) {
        let stripe = stripe_of(index, self.ahead.len());
        let ahead = &mut self.ahead[stripe];
        if ahead.upstream == Some(id) {
            ahead.proven += 1;
            if let (Some(trial), Some(pace)) = (&mut ahead.trial, pace) {
                trial.upstream_gave(ahead.proven, pace);
            }
        }
        if let Some(trial) = self.trial(id, index) {
            trial.arrived(index, now);
        }
    }

    fn trial(&mut self, id: SourceId, index: ChunkIndex) -> Option<&mut Trial> {
        let stripe = stripe_of(index, self.ahead.len());
        self.ahead[stripe].trial.as_mut().filter(|trial| trial.is_with(id))
    }
}

impl Source {
    /// How many more chunks it has than when it appeared.
    fn gains(&self) -> u32 {
        self.have.held().saturating_sub(self.had)
    }

    /// How much less this peer may get than such a source.
    fn drift(&self) -> u32 {
        if self.rtt < SHORT_RTT_MAX { 0 } else { DRIFT }
    }
}

impl Ahead {
    /// Whether the one beyond can help for a while.
    fn is_bridged(&self) -> bool {
        self.bridge.beyond.is_some() && self.bridge.asked < BRIDGED_MAX && self.proven < PROVEN
    }

    /// Whether a source is to be asked for one chunk, to be compared.
    fn tries(&self, id: SourceId) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.is_with(id) && trial.is_open())
    }
}

/// The stripes for which a source may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Allowed {
    stripes: u32,
    /// How many there are.
    count: usize,
    /// Somebody else is kept to for one of the others.
    pub(super) is_kept_from: bool,
}

impl Allowed {
    /// A source may be asked for everything.
    pub(super) const ALL: Self = Self { stripes: 1, count: 1, is_kept_from: false };

    pub(super) fn is_none(self) -> bool {
        self.stripes == 0
    }

    pub(super) fn has(self, index: ChunkIndex) -> bool {
        self.stripes >> stripe_of(index, self.count) & 1 == 1
    }
}

impl Picker {
    /// The chunks are dealt out to so many stripes, and nobody is to be asked before all others for any of them yet; of several
    /// stripes it is expected that there soon is one for each. One, unless this is called; [`STRIPES_MAX`] at most.
    pub fn split(&mut self, stripes: usize, now: Moment) {
        if self.deal(stripes) && stripes > 1 {
            // The first word of a stripe may come before that of the others.
            (0..stripes).for_each(|stripe| self.expect_upstream(stripe, now));
        }
    }

    /// Returns whether there were more or fewer stripes before.
    fn deal(&mut self, stripes: usize) -> bool {
        let stripes = stripes.clamp(1, STRIPES_MAX);
        let changes = stripes != self.upstreams.stripes();
        if changes {
            self.upstreams = Upstreams::new(&self.done, stripes);
            self.sources.values_mut().for_each(|source| source.counts = Counts::of(&source.have, stripes));
        }
        changes
    }

    /// Nobody is to be asked before all others any more, and there are no stripes.
    pub fn follow_nobody(&mut self) {
        self.deal(1);
        self.upstreams.ahead[0] = Ahead::default();
    }

    /// Whom to ask before all others for a stripe. One that has everything by now is kept: it does not need to be
    /// replaced by one that others wait for. So is one that has left with next to everything: word of the last chunks
    /// waits behind those that it gives.
    pub fn follow(
        &mut self,
        stripe: usize,
        Place { source: id, beyond, first, steps, slow, left }: Place,
        now: Moment,
    ) {
        let id = id.filter(|id| self.sources.contains_key(id));
        let is_done = |id| self.sources.get(&id).is_some_and(|one| !one.origin && !one.partial);
        let next_to_all = self.done.count().saturating_sub(FAR_CHUNKS * self.upstreams.stripes() as u32);
        let has_left = |id| left && self.sources.get(&id).is_some_and(|one| one.have.held() >= next_to_all);
        let is_line = self.upstreams.stripes() == 1;
        let Some(ahead) = self.upstreams.ahead.get_mut(stripe) else { return };
        if ahead.bridge.beyond != beyond || ahead.upstream != id {
            ahead.bridge = Bridge { beyond, asked: 0 };
        }
        (ahead.second, ahead.steps, ahead.slow) = (first.is_some(), steps, slow);
        if ahead.upstream.is_some_and(|old| id.is_some_and(|id| id == old || is_done(old)) || has_left(old)) {
            return;
        }
        // What the one before owes may take long: it is asked of the new one, too, and first.
        let before = ahead.upstream.and_then(|before| self.sources.get(&before)).filter(|one| !one.origin);
        let owed = before.into_iter().flat_map(|before| before.flights.iter().map(|(index, _)| *index));
        *ahead = Ahead {
            stuck: owed.collect(),
            upstream: id,
            bridge: std::mem::take(&mut ahead.bridge),
            proven: 0,
            second: ahead.second,
            steps: ahead.steps,
            slow: ahead.slow,
            least: (u32::MAX, u32::MAX),
            looked_at: 0,
            since: now,
            trial: first.filter(|_| id.is_some() && is_line).map(Trial::new),
            awaited: ahead.awaited.filter(|_| id.is_none()),
            waiting: None,
        };
        self.note_gaps(stripe);
    }

    /// A source to be asked before all others is being connected to, and for a short while nobody else is asked.
    pub fn expect_upstream(&mut self, stripe: usize, now: Moment) {
        let farthest = self.farthest();
        if let Some(ahead) = self.upstreams.ahead.get_mut(stripe).filter(|ahead| ahead.upstream.is_none()) {
            ahead.awaited = Some(now + AWAITED + farthest * AWAITED_WAYS);
        }
    }

    /// For which stripes a source may be asked.
    pub(super) fn allowed(&self, id: SourceId, source: &Source, now: Moment) -> Allowed {
        let count = self.upstreams.stripes();
        let mut allowed = Allowed { stripes: 0, count, is_kept_from: false };
        // Who is behind needs some help, and not a swarm: too many flows at once would hold up everybody.
        let crowded = source.flights.is_empty() && self.busy() >= HELPERS_MAX + count - 1;
        // What has left the one who has the file is had by others: it has better things to do than to send it again.
        let spared = source.origin && self.sources.values().any(|source| source.partial);
        for (stripe, ahead) in self.upstreams.ahead.iter().enumerate() {
            let patience = if spared && ahead.upstream.is_none() { AWAITED_SPARED } else { Duration::ZERO };
            if ahead.awaited.is_some_and(|until| now < until + patience) {
                continue;
            }
            let is_open = match self.keeps_to(stripe, now) {
                Some(upstream) => {
                    (upstream == id && !(source.origin && self.runs_ahead(stripe)))
                        || ahead.tries(id)
                        || self.is_to_spare(stripe, id, source, now)
                }
                None => {
                    ahead.tries(id)
                        || self.is_to_spare(stripe, id, source, now)
                        || !((crowded || spared) && self.only_helps(stripe, ahead, id, now))
                }
            };
            allowed.is_kept_from |= !is_open && self.keeps_to(stripe, now).is_some();
            allowed.stripes |= u32::from(is_open) << stripe;
        }
        allowed
    }

    /// Whether a source is the one beyond the one ahead, and has more than comes to either, far more slowly than it should:
    /// then the one ahead takes it slowly, and until it has been replaced what is not sent to that one can as well be
    /// sent here.
    fn is_to_spare(&self, stripe: usize, id: SourceId, source: &Source, now: Moment) -> bool {
        let Some((ahead, upstream)) = self.upstream(stripe) else { return false };
        if ahead.bridge.beyond != Some(id) || !ahead.is_bridged() || ahead.slow || source.origin {
            return false;
        }
        // Who comes late begins with less than others, and nobody is slow for that.
        let gets = source.gains();
        let comes = upstream.gains().max(self.own(stripe));
        let each = now.saturating_sub(self.began.unwrap_or(now)) / gets.max(1);
        let asked = upstream.flights.first().map_or(ahead.since, |(_, asked)| *asked);
        let waits = now.saturating_sub(upstream.last_arrival.max(asked));
        self.upstreams.stripes() == 1
            && gets > comes + BEYOND_CHUNKS + source.drift()
            && upstream.chunk_time.unwrap_or_default().max(waits) > each * TRIAL
    }

    /// Whether a stripe is ahead of another one.
    fn runs_ahead(&self, stripe: usize) -> bool {
        let others =
            (0..self.upstreams.stripes()).filter(|other| *other != stripe).map(|other| self.own(other));
        others.min().is_some_and(|least| self.own(stripe) > least + AHEAD_CHUNKS)
    }

    /// The one source that is asked for a stripe, as long as that is no slower than asking all.
    pub(super) fn keeps_to(&self, stripe: usize, now: Moment) -> Option<SourceId> {
        self.upstreams.ahead[stripe].upstream.filter(|_| !self.is_held_up(stripe, now))
    }

    fn upstream(&self, stripe: usize) -> Option<(&Ahead, &Source)> {
        let ahead = self.upstreams.ahead.get(stripe)?;
        Some((ahead, self.sources.get(&ahead.upstream?)?))
    }

    /// Whether the source that is to be asked before all others is slower than the first holder.
    pub fn is_slower_than_first(&self, stripe: usize, now: Moment) -> bool {
        let trial =
            self.upstream(stripe).and_then(|(ahead, upstream)| Some((ahead.trial.as_ref()?, upstream)));
        trial.is_some_and(|(trial, upstream)| trial.is_lost(upstream, now))
    }

    /// Whether a chunk that has been given to somebody for so long, and is not all there, takes far longer than one takes
    /// to get here.
    pub fn is_slow_to_take(&self, stripe: usize, took: Duration) -> bool {
        let pace = self.upstream(stripe).and_then(|(_, upstream)| upstream.chunk_time);
        pace.is_some_and(|pace| took > pace * TRIAL + TRIAL_MIN)
    }

    /// Whether that source keeps this peer waiting, and has for a while. To be called now and then.
    pub fn waits_long(&mut self, stripe: usize, now: Moment) -> bool {
        // With several stripes everybody below a slow one is late: only those who are next to it speak.
        let waits = match self.upstreams.stripes() {
            1 => {
                self.is_held_up(stripe, now)
                    || self.upstream(stripe).is_some_and(|(ahead, upstream)| {
                        !ahead.slow && self.is_near_behind(stripe, ahead, upstream, now)
                    })
            }
            _ => self.upstream(stripe).is_some_and(|(ahead, upstream)| {
                self.is_near_behind(stripe, ahead, upstream, now)
                    || self.is_silent(stripe, ahead, upstream, now)
                    || ahead.second && self.is_uneven(stripe)
            }),
        };
        let Some(ahead) = self.upstreams.ahead.get_mut(stripe) else { return false };
        ahead.waiting = ahead.waiting.filter(|_| waits).or(waits.then_some(now));
        ahead.waiting.is_some_and(|since| now.saturating_sub(since) >= WAITS_LONG)
    }

    /// Whether the source that is to be asked before all others keeps this peer waiting, or does not get more itself.
    fn is_held_up(&self, stripe: usize, now: Moment) -> bool {
        let Some((ahead, upstream)) = self.upstream(stripe) else { return false };
        if upstream.origin {
            return !self.offers(stripe, upstream) || self.is_silent(stripe, ahead, upstream, now);
        }
        // Who is slow itself is no better off with help, as long as there is something to be had where it is. But it may have
        // been found slow by mistake, and who has everything has nothing else to do.
        if ahead.slow && !upstream.flights.is_empty() && !self.others_rest() {
            return self.is_silent(stripe, ahead, upstream, now);
        }
        (!ahead.is_bridged() && self.is_near_behind(stripe, ahead, upstream, now))
            || self.is_far_behind(ahead, now)
            || self.owes_while_others_rest(stripe, ahead, upstream, now)
            || self.is_slower_than_first(stripe, now)
            || self.is_silent(stripe, ahead, upstream, now)
    }

    fn is_near_behind(&self, stripe: usize, ahead: &Ahead, upstream: &Source, now: Moment) -> bool {
        let held = upstream.counts.0[stripe];
        let gap = held.saturating_sub(self.own(stripe));
        let (chunks, time) = match self.upstreams.stripes() {
            1 => (LAG_CHUNKS, LAG_TIME),
            _ => (FAR_CHUNKS, FAR_TIME),
        };
        let lag = (chunks + upstream.drift(), time + upstream.rtt * WAYS);
        !upstream.origin && self.is_behind(gap, ahead.least.0, held, lag, now)
    }

    fn is_far_behind(&self, ahead: &Ahead, now: Moment) -> bool {
        let most = self.most();
        let gap = most.saturating_sub(self.all());
        let drift = self.sources.values().map(Source::drift).max().unwrap_or(0);
        let lag = (FAR_CHUNKS + drift * ahead.steps, FAR_TIME + self.distance(ahead));
        self.is_behind(gap, ahead.least.1, most, lag, now)
    }

    /// How much later than at the first one everything may be here: the others are as far from each other as the
    /// farthest one is from here.
    fn distance(&self, ahead: &Ahead) -> Duration {
        (STEP_TIME + self.farthest() * WAYS) * ahead.steps
    }

    /// The way to the farthest source and back.
    fn farthest(&self) -> Duration {
        self.sources.values().map(|source| source.rtt).max().unwrap_or_default()
    }

    /// Whether far less comes of a stripe than of another one: connections share a link unevenly, but not like that.
    fn is_uneven(&self, stripe: usize) -> bool {
        let others = (0..self.upstreams.stripes()).map(|other| self.own(other));
        others.max().is_some_and(|most| most > self.own(stripe) * UNEVEN + FAR_CHUNKS)
    }

    /// Whether the one ahead takes its time while others are done, and have nothing to do; or has nothing to be asked for
    /// while others have.
    fn owes_while_others_rest(&self, stripe: usize, ahead: &Ahead, upstream: &Source, now: Moment) -> bool {
        let asked = upstream.flights.first().map(|(_, asked)| *asked);
        // Far from the one who has the file it takes a while until there is a first chunk to be asked for.
        let first = if self.own(stripe) == 0 { ahead.since + self.distance(ahead) } else { Moment::ZERO };
        let waits = now.saturating_sub(upstream.last_arrival.max(asked.unwrap_or(first)));
        let rests = self.others_rest();
        let idle = match asked {
            Some(_) => rests,
            None => self.most() > self.all() && !self.open.map.intersects(&upstream.have),
        };
        // How long chunks take is not to be told of a few, and of those it costs little to have some twice.
        let few = self.done.count() <= TRIAL * self.upstreams.stripes() as u32;
        let owed = if rests && few { OWED } else { OWED.max(self.stripe_pace(now) * TRIAL) };
        idle && waits > owed + upstream.rtt * WAYS
    }

    /// Whether somebody has got everything by now.
    fn others_rest(&self) -> bool {
        self.sources.values().any(|source| !source.partial && !source.origin)
    }

    /// How long a chunk takes to come to whoever gets most, where there are several stripes, as far as that can be told: when
    /// next to nothing has come to anybody, links may be slow, or those ahead dead. In a line whoever waits for that long waits
    /// for one that is slow.
    fn stripe_pace(&self, now: Moment) -> Duration {
        if self.upstreams.stripes() == 1 {
            return Duration::ZERO;
        }
        let others = self.sources.values().filter(|source| !source.origin).map(Source::gains);
        let most = others.max().unwrap_or(0).max(self.all());
        let elapsed = now.saturating_sub(self.began.unwrap_or(now));
        (elapsed * self.upstreams.stripes() as u32 / most.max(1)).min(STRIPE_PACE_MAX)
    }

    /// Whether nothing has come from the one ahead in a long time: then it does not matter why.
    fn is_silent(&self, stripe: usize, ahead: &Ahead, upstream: &Source, now: Moment) -> bool {
        // Far from the one who has the file it takes a while until there is anything to be asked for. In a tree who has been
        // given more by others than the one ahead has waits for what that one gets; in a line that one is slow.
        let is_tree = self.upstreams.stripes() > 1;
        let gained = if is_tree { upstream.gained } else { Moment::ZERO };
        let asked = upstream.flights.first().map(|(_, asked)| *asked);
        let begins = asked.unwrap_or((ahead.since + self.distance(ahead)).max(gained));
        let waits = now.saturating_sub(upstream.last_arrival.max(begins));
        let pace = upstream.chunk_time.unwrap_or_default().max(self.stripe_pace(now));
        let patience = (pace * SILENT).max(SILENT_MIN);
        // As long as something comes it is only slow: but bytes now and then do not make up for chunks.
        let speaks = is_tree && asked.is_some() && now.saturating_sub(upstream.heard) < HEARD;
        let needed = !is_tree || asked.is_some() || self.lacks(stripe);
        needed && waits > if speaks { patience * SPEAKS } else { patience }
    }

    /// Whether something of a stripe is yet to be asked for.
    fn lacks(&self, stripe: usize) -> bool {
        let count = self.upstreams.stripes();
        self.open.map.iter().any(|index| stripe_of(index, count) == stripe)
    }

    /// Whether a source has something of a stripe that is yet to be asked for.
    fn offers(&self, stripe: usize, source: &Source) -> bool {
        let count = self.upstreams.stripes();
        self.open.map.common(&source.have).any(|index| stripe_of(index, count) == stripe)
    }

    /// Whether a source is only a help, beside one ahead from which something comes.
    fn only_helps(&self, stripe: usize, ahead: &Ahead, id: SourceId, now: Moment) -> bool {
        let upstream = ahead.upstream.filter(|upstream| *upstream != id);
        let upstream = upstream.and_then(|upstream| self.sources.get(&upstream));
        upstream.is_some_and(|upstream| !self.is_silent(stripe, ahead, upstream, now))
    }

    /// What this peer has of a stripe, or will have soon.
    fn own(&self, stripe: usize) -> u32 {
        let count = self.upstreams.stripes();
        let flying = self.flights.keys().filter(|index| stripe_of(**index, count) == stripe).count();
        self.upstreams.done.0[stripe] + flying as u32
    }

    /// The same of all stripes.
    fn all(&self) -> u32 {
        self.done.held() + self.flights.len() as u32
    }

    /// The most chunks that one of those has who have not had all from the beginning.
    fn most(&self) -> u32 {
        let others = self.sources.values().filter(|source| !source.origin);
        others.map(|source| source.have.held()).max().unwrap_or(0)
    }

    /// Whether a gap has become wider: by more than those chunks, and what somebody who has `held` gets in that time.
    fn is_behind(
        &self,
        gap: u32,
        least: u32,
        held: u32,
        (chunks, time): (u32, Duration),
        now: Moment,
    ) -> bool {
        let elapsed = now.saturating_sub(self.began.unwrap_or(now)).max(time);
        let lag = f64::from(held) * time.as_secs_f64() / elapsed.as_secs_f64();
        gap > least.saturating_add(chunks + lag as u32)
    }

    pub(super) fn note_gaps(&mut self, stripe: usize) {
        let Some((ahead, upstream)) = self.upstream(stripe) else { return };
        let own = self.own(stripe);
        let near = upstream.counts.0[stripe].saturating_sub(own);
        let far = self.most().saturating_sub(self.all());
        let drift = upstream.drift();
        let least = ahead.least;
        let is_due = drift > 0 && own >= ahead.looked_at + DRIFT_CHUNKS;
        let keeps_up = |gap: u32, least: u32| is_due && gap <= least.saturating_add(drift);
        let anew = |gap: u32, least: u32| if keeps_up(gap, least) { gap } else { least.min(gap) };
        let least = (anew(near, least.0), anew(far, least.1));
        let ahead = &mut self.upstreams.ahead[stripe];
        ahead.least = least;
        if is_due {
            ahead.looked_at = own;
        }
    }

    /// A chunk that the one before owes still, and that this one, who is ahead now, can give.
    pub(super) fn owed_before(&self, id: SourceId, source: &Source) -> Option<ChunkIndex> {
        let ahead = self.upstreams.ahead.iter().filter(|ahead| ahead.upstream == Some(id));
        ahead.flat_map(|ahead| ahead.stuck.iter().copied()).find(|index| {
            source.have.has(*index)
                && !self.done.has(*index)
                && self.flights.get(index).is_some_and(|from| !from.contains(&id))
        })
    }
}

#[cfg(test)]
mod tests;
