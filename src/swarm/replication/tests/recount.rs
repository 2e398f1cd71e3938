//! Recomputes all counters from scratch, to compare them with the stored ones.

use super::super::ReplicationPlanner;
use super::super::chunk::{CopyCounts, CopyState, Key};
use super::super::file::Counts;
use super::super::priority::Priority;
use super::super::queue::Queued;
use super::super::volunteer::{Liveness, Traffic};
use crate::swarm::keeping::Location;
use std::collections::BTreeMap;

impl ReplicationPlanner {
    /// Panics if a stored counter differs from the recomputed one.
    pub fn recount(&self) {
        let mut all = Counts::default();
        let mut queued = Queued::default();
        let mut of_volunteers: BTreeMap<u32, (u64, u64, u64)> = BTreeMap::new();
        for (slot, file) in (0u32..).zip(&self.files) {
            let Some(file) = file else { continue };
            let mut counts = Counts::default();
            for (index, chunk) in (0u32..).zip(&file.chunks) {
                let key = Key { file: slot, index };
                let mut copy_counts = CopyCounts::default();
                let mut met = Vec::new();
                for replica in chunk.replicas.iter() {
                    let (number, state) = (replica.volunteer(), replica.state());
                    assert!(!met.contains(&number), "two copies at one volunteer");
                    met.push(number);
                    let volunteer = self.at(number).unwrap();
                    copy_counts.add(state, volunteer.draining);
                    counts.verified += u64::from(state == CopyState::Verified);
                    counts.claimed += u64::from(state.is_here() && state != CopyState::Verified);
                    let sums = of_volunteers.entry(number.0).or_default();
                    if state.counts() {
                        sums.0 += file.length(index);
                        sums.1 += 1;
                    }
                    sums.2 += u64::from(state == CopyState::Verified);
                    assert!(volunteer.is_here() || !state.is_here());
                    assert_eq!(
                        state == CopyState::Coming,
                        self.transfers.contains_key(&(key, Location::Volunteer(number)))
                    );
                    let held = volunteer.holdings[&slot].chunks.contains(&index);
                    assert_eq!(held, state != CopyState::Coming);
                }
                assert_eq!(copy_counts, chunk.copy_counts, "{key:?}");
                queued.move_one(Priority::NONE, chunk.priority);
                counts.under_replicated += u64::from(chunk.deficits.under_replicated);
                counts.waiting += u64::from(chunk.deficits.waiting);
                counts.bare += u64::from(chunk.deficits.bare);
                counts.impaired += u64::from(chunk.deficits.impaired);
                counts.lost += u64::from(chunk.lost);
                let replicas = self.settings.replicas;
                assert_eq!(chunk.deficits.under_replicated, usize::from(copy_counts.verified) < replicas);
                assert_eq!(
                    chunk.deficits.waiting,
                    usize::from(copy_counts.live + copy_counts.coming) < replicas
                );
                let copies = copy_counts.live + copy_counts.leaving + copy_counts.coming;
                assert_eq!(chunk.deficits.bare, copies == 0 && !file.has(chunk), "{key:?}");
            }
            assert_eq!(counts, file.counts);
            assert_eq!(file.own as usize, file.chunks.iter().filter(|chunk| chunk.own).count());
            all.verified += counts.verified;
            all.claimed += counts.claimed;
            all.under_replicated += counts.under_replicated;
            all.waiting += counts.waiting;
            all.bare += counts.bare;
            all.impaired += counts.impaired;
            all.lost += counts.lost;
        }
        assert_eq!(all, self.counts);
        assert_eq!(queued, self.queued);
        self.recount_volunteers(&of_volunteers);
    }

    fn recount_volunteers(&self, sums: &BTreeMap<u32, (u64, u64, u64)>) {
        let mut census = (0, 0, 0);
        for volunteer in self.volunteers.iter().flatten() {
            let number = volunteer.record.number;
            let sum = sums.get(&number.0).copied().unwrap_or_default();
            assert_eq!((volunteer.held, volunteer.chunks, volunteer.verified), sum, "{number:?}");
            let location = Location::Volunteer(number);
            let (mut incoming, mut outgoing) = (Traffic::default(), Traffic::default());
            for ((_, to), transfer) in &self.transfers {
                if *to == location {
                    incoming.add(transfer.length);
                }
                if transfer.from == location {
                    outgoing.add(transfer.length);
                }
            }
            assert_eq!((volunteer.incoming, volunteer.outgoing), (incoming, outgoing));
            for traffic in [incoming, outgoing] {
                assert!(traffic.copies <= self.window.copies.max(1));
                assert!(traffic.copies == 1 || traffic.bytes <= self.window.bytes);
            }
            assert!(volunteer.is_here() || incoming.copies == 0);
            census.0 += usize::from(volunteer.has_reported() && !volunteer.draining);
            census.1 += usize::from(!volunteer.has_reported() && volunteer.liveness != Liveness::Dead);
            census.2 += usize::from(volunteer.draining);
            for (slot, holding) in &volunteer.holdings {
                let chunks = &self.file(*slot).unwrap().chunks;
                let state = |index: &u32| chunks[*index as usize].replicas.get(number);
                let served =
                    holding.chunks.iter().filter(|index| state(index).is_some_and(CopyState::is_here));
                assert_eq!(holding.served as usize, served.count());
            }
        }
        assert_eq!(census, (self.census.staying, self.census.expected, self.census.draining));
        assert!(self.incoming.copies <= self.window.copies && self.outgoing.copies <= self.window.copies);
    }
}
