//! Recomputes all counters from scratch, to compare them with the stored ones.

use super::super::ReplicationPlanner;
use super::super::chunk::{ChunkKey, CopyCounts, Deficits};
use super::super::file::Counts;
use super::super::priority::Priority;
use super::super::queue::WaitingCounts;
use super::super::replicas::CopyState;
use super::super::traffic::Traffic;
use super::super::transfers::Transfers;
use crate::swarm::keeping::Location;
use std::collections::BTreeMap;

impl ReplicationPlanner {
    /// Panics if a stored counter differs from the recomputed one.
    pub fn recount(&self) {
        let mut all = Counts::default();
        let mut waiting = WaitingCounts::default();
        let mut of_volunteers: BTreeMap<u32, (u64, u64, u64, u64)> = BTreeMap::new();
        for slot in 0..self.files.slot_count() {
            let Some(file) = self.files.get(slot) else { continue };
            let mut counts = Counts::default();
            for (index, chunk) in (0u32..).zip(&file.chunks) {
                let key = ChunkKey { file: slot, index };
                let mut copy_counts = CopyCounts::default();
                let mut addresses = Vec::new();
                let mut seen = Vec::new();
                let mut suspended = 0;
                for replica in chunk.replicas.iter() {
                    let (number, state) = (replica.volunteer(), replica.state());
                    assert!(!seen.contains(&number), "two copies at one volunteer");
                    seen.push(number);
                    let volunteer = self.volunteers.get(number).unwrap();
                    let mut standing = volunteer.standing(self.settings.approve);
                    if standing.justifies && state == CopyState::Proven {
                        standing.justifies = !addresses.contains(&volunteer.record.address);
                        addresses.push(volunteer.record.address);
                    }
                    copy_counts.add(state, standing);
                    let stays = !standing.draining && !standing.denied;
                    suspended += usize::from(state == CopyState::Suspected && stays);
                    assert_eq!(
                        state == CopyState::Suspected,
                        state.is_present()
                            && volunteer.trust.is_suspected()
                            && !matches!(state, CopyState::Claimed | CopyState::Refuted)
                    );
                    counts.proven += u64::from(state == CopyState::Proven);
                    counts.claimed += u64::from(state.is_present() && state != CopyState::Proven);
                    counts.readable += u64::from(state.is_readable());
                    counts.away += u64::from(state.is_away());
                    let sums = of_volunteers.entry(number.0).or_default();
                    if state.is_held() {
                        sums.0 += file.length(index);
                        sums.1 += 1;
                    }
                    sums.2 += u64::from(state == CopyState::Proven);
                    sums.3 += u64::from(state.needs_proof());
                    assert!(volunteer.is_alive() || !state.is_present());
                    assert!(!state.needs_proof() || self.proofs.pending.contains(&number));
                    assert_eq!(
                        state == CopyState::Coming,
                        self.transfers.is_in_flight(key, Location::Volunteer(number))
                    );
                    let held = volunteer.holdings[&slot].chunks.contains(&index);
                    assert_eq!(held, state != CopyState::Coming);
                }
                assert_eq!(copy_counts, chunk.copy_counts, "{key:?}");
                waiting.move_one(Priority::NONE, chunk.priority);
                let Deficits { under_replicated, unjustified, waiting, without_copy, .. } = chunk.deficits;
                counts.justifying += u64::from(copy_counts.justifying);
                counts.under_replicated += u64::from(under_replicated);
                counts.unjustified += u64::from(unjustified);
                counts.waiting += u64::from(waiting);
                counts.without_copy += u64::from(without_copy);
                counts.unreadable += u64::from(chunk.deficits.unreadable);
                counts.waits_for_holders += u64::from(chunk.deficits.unreadable && copy_counts.away > 0);
                counts.needs_repair += u64::from(chunk.deficits.needs_repair);
                counts.lost += u64::from(chunk.reported_lost);
                let (replicas, own) = (self.settings.replicas, file.tracker_has(chunk));
                assert_eq!(under_replicated, usize::from(copy_counts.proven) < replicas);
                assert_eq!(unjustified, usize::from(copy_counts.justifying) < replicas);
                let approved = self.wanted_copies(slot).approved;
                let lacks_approved = usize::from(copy_counts.approved) + suspended < approved;
                assert_eq!(waiting, copy_counts.planned(own) + suspended < replicas || lacks_approved);
                assert_eq!(without_copy, copy_counts.held + copy_counts.in_flight == 0 && !own, "{key:?}");
                assert_eq!(chunk.deficits.unreadable, copy_counts.readable == 0 && !own);
            }
            assert_eq!(counts, file.counts);
            assert_eq!(
                file.stored_chunks as usize,
                file.chunks.iter().filter(|chunk| chunk.is_in_store()).count()
            );
            add(&mut all, &counts);
        }
        assert_eq!(all, self.files.counts);
        assert_eq!(waiting, self.waiting.counts);
        self.recount_volunteers(&of_volunteers);
    }

    fn recount_volunteers(&self, sums: &BTreeMap<u32, (u64, u64, u64, u64)>) {
        for volunteer in self.volunteers.iter() {
            let number = volunteer.record.number;
            let sum = sums.get(&number.0).copied().unwrap_or_default();
            assert_eq!(
                (volunteer.held_bytes, volunteer.copies, volunteer.proven_copies, volunteer.unproven),
                sum,
                "{number:?}"
            );
            let location = Location::Volunteer(number);
            let (mut incoming, mut outgoing) = (Traffic::default(), Traffic::default());
            for ((_, to), transfer) in self.transfers.iter() {
                if *to == location {
                    incoming.add(transfer.length);
                }
                if transfer.from == location {
                    outgoing.add(transfer.length);
                }
            }
            assert_eq!((volunteer.incoming, volunteer.outgoing), (incoming, outgoing));
            for traffic in [incoming, outgoing] {
                assert!(traffic.copies <= self.transfers.window.copies.max(1));
                assert!(traffic.copies == 1 || traffic.bytes <= self.transfers.window.bytes);
            }
            assert!(volunteer.is_alive() || incoming.copies == 0);
            for (slot, holding) in &volunteer.holdings {
                let chunks = &self.files.get(*slot).unwrap().chunks;
                let state = |index: &u32| chunks[*index as usize].replicas.get(number);
                let served =
                    holding.chunks.iter().filter(|index| state(index).is_some_and(CopyState::is_source));
                assert_eq!(holding.served as usize, served.count());
                let unproven =
                    holding.chunks.iter().filter(|index| state(index).is_some_and(CopyState::needs_proof));
                assert_eq!(holding.unproven as usize, unproven.count());
            }
        }
        let Transfers { window, tracker_incoming, tracker_outgoing, .. } = &self.transfers;
        assert!(tracker_incoming.copies <= window.copies && tracker_outgoing.copies <= window.copies);
    }
}

fn add(all: &mut Counts, counts: &Counts) {
    for (sum, part) in [
        (&mut all.proven, counts.proven),
        (&mut all.claimed, counts.claimed),
        (&mut all.readable, counts.readable),
        (&mut all.away, counts.away),
        (&mut all.justifying, counts.justifying),
        (&mut all.under_replicated, counts.under_replicated),
        (&mut all.unjustified, counts.unjustified),
        (&mut all.waiting, counts.waiting),
        (&mut all.without_copy, counts.without_copy),
        (&mut all.unreadable, counts.unreadable),
        (&mut all.waits_for_holders, counts.waits_for_holders),
        (&mut all.needs_repair, counts.needs_repair),
        (&mut all.lost, counts.lost),
    ] {
        *sum += part;
    }
}
