//! Reports on chunk sets: chunks without an agreed hash, agreed chunks without a reachable holder, equal names.

use super::Tracker;
use crate::content::ChunkIndex;
use crate::content::limits::{REPORTED_CHUNKS_MAX, REPORTED_NAMES_MAX};
use crate::protocol::set_report::{LastHolder, WaitingChunk};
use crate::protocol::tracker::{SetKey, TrackerResponse};
use crate::swarm::Moment;
use crate::swarm::agreement::Undecided;
use crate::swarm::machine::Effect;
use crate::swarm::registry::PeerId;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// Interval of the reports on a set with undecided chunks.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);
/// Delay of a report after claims that differ: their number is not known at the first.
const DISPUTE_DELAY: Duration = Duration::from_secs(1);
/// Shortest interval between two reports on a set.
const REPORT_INTERVAL_MIN: Duration = Duration::from_secs(10);
/// Log lines of reports, of all sets together, per [`REPORT_INTERVAL`]: clients can create many sets.
const REPORT_LINES_MAX: usize = 64;
/// Members of a set that are compared with the name of a joining member.
const SAME_NAME_MEMBERS_MAX: usize = 1_000;

/// Times of the next reports.
#[derive(Debug, Default)]
pub(super) struct SetReports {
    due: BTreeSet<(Moment, SetKey)>,
    of_set: HashMap<SetKey, SetTimes>,
    /// Start of the interval in which `lines` were logged.
    lines_since: Moment,
    lines: usize,
}

#[derive(Debug, Default, Clone, Copy)]
struct SetTimes {
    next: Option<Moment>,
    last: Option<Moment>,
}

impl SetReports {
    /// Schedules the next regular report, unless one is due earlier.
    pub(super) fn schedule(&mut self, now: Moment, key: &SetKey) {
        self.schedule_at(now + REPORT_INTERVAL, key);
    }

    /// Schedules an early report on claims that differ.
    pub(super) fn schedule_soon(&mut self, now: Moment, key: &SetKey) {
        let last = self.of_set.get(key).and_then(|times| times.last);
        let earliest = last.map_or(Moment::ZERO, |last| last + REPORT_INTERVAL_MIN);
        self.schedule_at(earliest.max(now + DISPUTE_DELAY), key);
    }

    fn schedule_at(&mut self, at: Moment, key: &SetKey) {
        let times = self.of_set.entry(key.clone()).or_default();
        if times.next.is_some_and(|next| next <= at) {
            return;
        }
        if let Some(next) = times.next.replace(at) {
            self.due.remove(&(next, key.clone()));
        }
        self.due.insert((at, key.clone()));
    }

    /// Forgets a set.
    pub(super) fn remove(&mut self, key: &SetKey) {
        if let Some(SetTimes { next: Some(next), .. }) = self.of_set.remove(key) {
            self.due.remove(&(next, key.clone()));
        }
    }

    /// Time of the next report.
    pub(super) fn next(&self) -> Option<Moment> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The next set whose report is due.
    fn take_due(&mut self, now: Moment) -> Option<SetKey> {
        if self.next()? > now {
            return None;
        }
        let (_, key) = self.due.pop_first()?;
        self.of_set.insert(key.clone(), SetTimes { next: None, last: Some(now) });
        Some(key)
    }

    /// Whether another line may be logged.
    fn may_log(&mut self, now: Moment) -> bool {
        if now.saturating_sub(self.lines_since) >= REPORT_INTERVAL {
            (self.lines_since, self.lines) = (now, 0);
        }
        self.lines += 1;
        self.lines <= REPORT_LINES_MAX
    }
}

impl Tracker {
    /// Reports the undecided chunks of each set whose report is due, in the log and to the members that wait.
    pub(super) fn report_undecided(&mut self, now: Moment) {
        while let Some(key) = self.sets.reports.take_due(now) {
            let Some(set) = self.sets.by_key.get(&key) else { continue };
            let count = set.undecided_count();
            if count == 0 {
                continue;
            }
            let undecided = set.undecided(REPORTED_CHUNKS_MAX);
            let disputed = set.disputed_claims();
            let members: Vec<PeerId> = set.members().collect();
            let chunks: Vec<WaitingChunk> =
                undecided.into_iter().map(|chunk| self.waiting_chunk(now, chunk)).collect();
            let more = count - chunks.len() as u32;
            self.log_report(now, &key, &chunks, more);
            for id in members {
                let (chunks, disputed) = (chunks.clone(), disputed.get(&id).copied().unwrap_or(0));
                self.push(id, TrackerResponse::SetWaits { set: key.clone(), chunks, more, disputed });
            }
            self.sets.reports.schedule(now, &key);
        }
    }

    /// Logs that a member reaches no holder of an agreed chunk.
    pub(super) fn note_unreachable(
        &mut self,
        now: Moment,
        id: PeerId,
        key: &SetKey,
        index: ChunkIndex,
        seconds: u64,
    ) -> Option<TrackerResponse> {
        let peer = self.peers.registry.peer(id)?;
        let is_agreed = self.sets.by_key.get(key)?.agreed(index).is_some();
        if is_agreed && self.sets.reports.may_log(now) {
            let (set, name) = (&key.set, &peer.name);
            let line = format!("set {set}: chunk {index}: {name} has reached no holder for {seconds} s");
            self.effects.push(Effect::Note(line));
        }
        None
    }

    fn log_report(&mut self, now: Moment, key: &SetKey, chunks: &[WaitingChunk], more: u32) {
        let lines = chunks.iter().map(|chunk| (!chunk.differ.is_empty(), chunk.to_string()));
        let rest = (more > 0).then(|| (false, format!("{more} more chunks without an agreed hash")));
        for (is_warning, line) in lines.chain(rest) {
            if self.sets.reports.may_log(now) {
                let line = format!("set {}: {line}", key.set);
                self.effects.push(if is_warning { Effect::Warning(line) } else { Effect::Note(line) });
            }
        }
    }

    fn waiting_chunk(&self, now: Moment, chunk: Undecided) -> WaitingChunk {
        let Undecided { index, agree, differ, last } = chunk;
        let names = differ.iter().filter_map(|id| self.peers.registry.peer(*id));
        WaitingChunk {
            index,
            agree: agree as u32,
            quorum: self.sets.quorum() as u32,
            differ: names.map(|peer| peer.name.clone()).take(REPORTED_NAMES_MAX).collect(),
            last: last.map(|(name, left)| LastHolder { name, seconds: now.saturating_sub(left).as_secs() }),
        }
    }

    /// Warns of other members of a set that have the name of a joining member, and warns both.
    pub(super) fn warn_of_same_name(&mut self, id: PeerId, key: &SetKey) {
        let registry = &self.peers.registry;
        let Some(peer) = registry.peer(id) else { return };
        let members = self.sets.by_key.get(key).into_iter().flat_map(|set| set.members());
        let mut others = members.take(SAME_NAME_MEMBERS_MAX).filter(|other| *other != id);
        let same = |other: PeerId| {
            let found = registry.peer(other)?;
            (found.name == peer.name && found.address != peer.address).then_some((other, found.address))
        };
        let found = others.find_map(same);
        let (name, address) = (peer.name.clone(), peer.address);
        drop(others);
        let Some((other, other_address)) = found else { return };
        self.effects.push(Effect::Warning(format!(
            "two clients of set {} have the name {name}: {other_address} and {address}; their event lines cannot be \
             told apart",
            key.set
        )));
        for (id, address) in [(id, other_address), (other, address)] {
            self.push(id, TrackerResponse::SameName { set: key.clone(), address });
        }
    }
}
