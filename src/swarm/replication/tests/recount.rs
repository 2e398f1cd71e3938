//! Recomputes all counters from scratch, to compare them with the stored ones.

use super::super::ReplicationPlanner;
use super::super::chunk::{ChunkKey, CopyCounts};
use super::super::file::Counts;
use super::super::priority::Priority;
use super::super::queue::WaitingCounts;
use super::super::replicas::CopyState;
use super::super::traffic::Traffic;
use super::super::transfers::Transfers;
use super::super::volunteer::Liveness;
use super::super::volunteer_table::VolunteerCounts;
use crate::swarm::keeping::Location;
use std::collections::BTreeMap;

impl ReplicationPlanner {
    /// Panics if a stored counter differs from the recomputed one.
    pub fn recount(&self) {
        let mut all = Counts::default();
        let mut waiting = WaitingCounts::default();
        let mut of_volunteers: BTreeMap<u32, (u64, u64, u64)> = BTreeMap::new();
        for slot in 0..self.files.slot_count() {
            let Some(file) = self.files.get(slot) else { continue };
            let mut counts = Counts::default();
            for (index, chunk) in (0u32..).zip(&file.chunks) {
                let key = ChunkKey { file: slot, index };
                let mut copy_counts = CopyCounts::default();
                let mut seen = Vec::new();
                for replica in chunk.replicas.iter() {
                    let (number, state) = (replica.volunteer(), replica.state());
                    assert!(!seen.contains(&number), "two copies at one volunteer");
                    seen.push(number);
                    let volunteer = self.volunteers.get(number).unwrap();
                    copy_counts.add(state, volunteer.draining);
                    counts.verified += u64::from(state == CopyState::Verified);
                    counts.claimed += u64::from(state.is_available() && state != CopyState::Verified);
                    let sums = of_volunteers.entry(number.0).or_default();
                    if state.counts() {
                        sums.0 += file.length(index);
                        sums.1 += 1;
                    }
                    sums.2 += u64::from(state == CopyState::Verified);
                    assert!(volunteer.is_alive() || !state.is_available());
                    assert_eq!(
                        state == CopyState::InFlight,
                        self.transfers.is_in_flight(key, Location::Volunteer(number))
                    );
                    let held = volunteer.holdings[&slot].chunks.contains(&index);
                    assert_eq!(held, state != CopyState::InFlight);
                }
                assert_eq!(copy_counts, chunk.copy_counts, "{key:?}");
                waiting.move_one(Priority::NONE, chunk.priority);
                counts.under_replicated += u64::from(chunk.deficits.under_replicated);
                counts.waiting += u64::from(chunk.deficits.waiting);
                counts.without_copy += u64::from(chunk.deficits.without_copy);
                counts.needs_repair += u64::from(chunk.deficits.needs_repair);
                counts.lost += u64::from(chunk.reported_lost);
                let replicas = self.settings.replicas;
                assert_eq!(chunk.deficits.under_replicated, usize::from(copy_counts.verified) < replicas);
                assert_eq!(
                    chunk.deficits.waiting,
                    usize::from(copy_counts.staying + copy_counts.in_flight) < replicas
                );
                let copies = copy_counts.staying + copy_counts.draining + copy_counts.in_flight;
                assert_eq!(chunk.deficits.without_copy, copies == 0 && !file.tracker_has(chunk), "{key:?}");
            }
            assert_eq!(counts, file.counts);
            assert_eq!(
                file.stored_chunks as usize,
                file.chunks.iter().filter(|chunk| chunk.in_store).count()
            );
            all.verified += counts.verified;
            all.claimed += counts.claimed;
            all.under_replicated += counts.under_replicated;
            all.waiting += counts.waiting;
            all.without_copy += counts.without_copy;
            all.needs_repair += counts.needs_repair;
            all.lost += counts.lost;
        }
        assert_eq!(all, self.files.counts);
        assert_eq!(waiting, self.waiting.counts);
        self.recount_volunteers(&of_volunteers);
    }

    fn recount_volunteers(&self, sums: &BTreeMap<u32, (u64, u64, u64)>) {
        let mut counts = VolunteerCounts::default();
        for volunteer in self.volunteers.iter() {
            let number = volunteer.record.number;
            let sum = sums.get(&number.0).copied().unwrap_or_default();
            assert_eq!(
                (volunteer.held_bytes, volunteer.copies, volunteer.verified_copies),
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
            counts.staying += usize::from(volunteer.has_reported() && !volunteer.draining);
            counts.expected += usize::from(!volunteer.has_reported() && volunteer.liveness != Liveness::Dead);
            counts.draining += usize::from(volunteer.draining);
            for (slot, holding) in &volunteer.holdings {
                let chunks = &self.files.get(*slot).unwrap().chunks;
                let state = |index: &u32| chunks[*index as usize].replicas.get(number);
                let served =
                    holding.chunks.iter().filter(|index| state(index).is_some_and(CopyState::is_available));
                assert_eq!(holding.served as usize, served.count());
            }
        }
        assert_eq!(counts, self.volunteers.counts);
        let Transfers { window, tracker_incoming, tracker_outgoing, .. } = &self.transfers;
        assert!(tracker_incoming.copies <= window.copies && tracker_outgoing.copies <= window.copies);
    }
}
