//! Tests of the justification of deletions: surplus drops, permits, limits of drop orders.

use super::super::chunk::ChunkKey;
use super::super::replicas::CopyState;
use super::world::*;
use crate::content::{ChunkIndex, limits};
use crate::swarm::keeping::{Approval, Location, OffloadResult};
use crate::swarm::replication::{DropReason, Order, Settings};
use std::collections::BTreeSet;

fn dropped(world: &World) -> Vec<(u32, u32)> {
    let drops = world.log.iter().filter_map(|order| match order {
        Order::Drop { at, chunks, .. } => {
            Some(chunks.iter().map(|index| (at.0, index.0)).collect::<Vec<_>>())
        }
        _ => None,
    });
    drops.flatten().collect()
}

fn offloads(world: &World) -> usize {
    world.log.iter().filter(|order| matches!(order, Order::Offload { .. })).count()
}

fn revocations(world: &World) -> usize {
    world.log.iter().filter(|order| matches!(order, Order::Revoke(_))).count()
}

/// A chunk with copies at four volunteers, all proven.
fn four_copies(settings: Settings) -> World {
    let mut world = World::with(settings.clone(), 4, 100);
    world.publish(id(1), 1);
    world.settle();
    world.restart(settings);
    for number in 0..4 {
        world.disk.insert((at(number), id(1), 0));
        world.join(number, number, 100);
    }
    world.run();
    world
}

#[test]
fn returned_copies_stay_up_to_the_limit_while_there_is_space() {
    let mut world = four_copies(Settings { replicas_max: 4, ..settings() });
    for _ in 0..5 {
        world.settle();
        world.pass(seconds(60));
    }
    assert_eq!((dropped(&world), world.holders(id(1), 0).len()), (vec![], 4));
    let mut world = four_copies(Settings { replicas_max: 3, ..settings() });
    world.settle();
    assert_eq!((dropped(&world).len(), world.holders(id(1), 0).len()), (1, 3));
}

#[test]
fn surplus_is_dropped_when_other_chunks_need_the_space() {
    let settings = Settings { replicas_max: 4, ..settings() };
    let mut world = World::with(settings.clone(), 4, 8);
    world.publish(id(1), 8);
    world.settle();
    for number in 0..4 {
        world.planner.mark_lost(world.now, v(number));
    }
    world.disk = (0..4).flat_map(|number| (0..6).map(move |index| (at(number), id(1), index))).collect();
    for number in 0..4 {
        world.join(number, number, 8);
    }
    for _ in 0..4 {
        world.settle();
    }
    assert_eq!(dropped(&world), []);
    world.publish(id(2), 4);
    for _ in 0..10 {
        world.settle();
        world.pass(seconds(61));
        world.settle();
    }
    assert!(!dropped(&world).is_empty());
    let reasons = world.log.iter().filter_map(|order| match order {
        Order::Drop { reason, .. } => Some(*reason),
        _ => None,
    });
    assert!(reasons.into_iter().all(|reason| reason == DropReason::Space));
    for index in 0..4 {
        assert_eq!(world.holders(id(2), index).len(), 2, "chunk {index}");
    }
}

#[test]
fn a_surplus_copy_is_dropped_only_after_recent_proofs_of_the_others() {
    let mut world = four_copies(Settings { replicas_max: 4, ..settings() });
    world.pass(limits::PROOF_AGE_MAX * 2);
    world.settle();
    let proofs =
        |world: &World| world.log.iter().filter(|order| matches!(order, Order::Prove { .. })).count();
    let before = proofs(&world);
    world.disk.insert((at(4), id(1), 0));
    world.connect(4, 4, 100);
    world.report(4, true);
    // Only the new copy is proven so far.
    while proofs(&world) == before {
        world.pass(std::time::Duration::from_millis(10));
    }
    assert_eq!(dropped(&world), []);
    world.settle();
    assert_eq!(dropped(&world).len(), 1);
    let order = |order: &Order| matches!(order, Order::Drop { .. });
    let at = world.log.iter().position(order).unwrap();
    let proven = world.log[..at].iter().filter(|order| matches!(order, Order::Prove { .. })).count();
    assert!(proven >= before + 2, "the old copies are proven again before the drop");
}

#[test]
fn copies_that_cannot_be_proven_again_justify_no_drop() {
    let mut world = four_copies(Settings { replicas_max: 4, ..settings() });
    world.pass(limits::PROOF_AGE_MAX * 2);
    world.settle();
    world.unreachable.extend((0..4).map(v));
    world.disk.insert((at(4), id(1), 0));
    world.join(4, 4, 100);
    for _ in 0..10 {
        world.settle();
        world.pass(seconds(30));
    }
    assert_eq!(dropped(&world), []);
}

#[test]
fn with_approval_copies_of_other_volunteers_justify_no_deletion() {
    let settings = Settings { approve: true, offload: true, replicas_max: 4, ..settings() };
    let mut world = World::with(settings, 3, 100);
    world.publish(id(1), 6);
    for _ in 0..3 {
        world.settle();
    }
    let name = || crate::content::FileName::new("f").ok();
    let file = |world: &World| world.planner.status(world.now, |_| name()).files[0].clone();
    assert_eq!((offloads(&world), file(&world).copies.verified, file(&world).copies.approved), (0, 12, 0));
    let stays = file(&world).own_copy_stays;
    assert_eq!(stays.as_deref(), Some("0 of 2 copies on approved volunteers"));
    for number in [0, 1] {
        world.planner.set_approval(world.now, v(number), Approval::Approved);
    }
    world.take();
    for _ in 0..3 {
        world.settle();
    }
    assert_eq!(world.volunteers[&v(0)].history.approval, Approval::Approved, "it is recorded");
    assert_eq!(offloads(&world), 1, "chunks get copies at approved volunteers");
    assert!((0..6).all(|index| world.holders(id(1), index).contains(&0)));
    assert_eq!(dropped(&world), [], "the copies of the third volunteer stay");
}

#[test]
fn copies_of_a_denied_volunteer_stop_counting_and_are_not_dropped() {
    let mut world = World::with(settings(), 4, 100);
    world.publish(id(1), 12);
    world.settle();
    let held = world.chunks_of(0)[&id(1)].len();
    world.planner.set_approval(world.now, v(0), Approval::Denied);
    world.take();
    for _ in 0..3 {
        world.settle();
        world.pass(seconds(60));
    }
    assert_eq!((dropped(&world), world.chunks_of(0)[&id(1)].len()), (vec![], held));
    assert!(
        (0..12).all(|index| world.holders(id(1), index).iter().filter(|holder| **holder > 0).count() == 2)
    );
    world.publish(id(2), 12);
    world.settle();
    assert!(!world.chunks_of(0).contains_key(&id(2)));
}

#[test]
fn several_volunteers_at_one_address_and_port_count_once() {
    let mut world = World::with(Settings { offload: true, ..settings() }, 0, 0);
    for number in 0..3 {
        world.connect_at(number, "10.9.9.9:7000".parse().unwrap(), 100);
        world.report(number, false);
    }
    world.publish(id(1), 3);
    for _ in 0..3 {
        world.settle();
    }
    let status = world.planner.status(world.now, |_| None);
    assert_eq!((status.copies.verified, status.copies.approved, offloads(&world)), (6, 3, 0));
}

#[test]
fn an_offload_is_revoked_when_a_copy_that_justifies_it_is_lost() {
    let mut world = World::with(Settings { offload: true, ..settings() }, 3, 100);
    world.publish(id(1), 6);
    while offloads(&world) == 0 {
        match world.orders.is_empty() {
            true => world.pass(std::time::Duration::from_millis(50)),
            false => {
                let order = world.orders.remove(0);
                world.carry_out(order);
            }
        }
    }
    assert_eq!(revocations(&world), 0);
    world.planner.mark_away(world.now, v(0));
    world.take();
    assert_eq!(revocations(&world), 1);
    world.run();
    assert_eq!(world.planner.tracker_copy(id(1)), (true, 0), "the deletion did not take place");
    assert_eq!(world.whole.len(), 1);
    world.join(0, 0, 100);
    for _ in 0..3 {
        world.settle();
    }
    assert_eq!((offloads(&world), world.whole.len()), (2, 0), "the offload is tried again");
}

#[test]
fn drops_from_the_trackers_chunk_store_are_revoked_after_a_loss() {
    let offload = Settings { offload: true, ..settings() };
    let mut world = World::with(offload, 3, 14);
    world.publish(id(1), 20);
    world.settle();
    world.mark_lost(2);
    world.disk.retain(|(location, ..)| *location != at(2));
    world.settle();
    let own = world.planner.tracker_copy(id(1)).1;
    assert!(own > 0, "chunks came back to the tracker");
    world.join(3, 3, 40);
    // All orders but drops at the tracker are carried out.
    let is_own = |order: &Order| matches!(order, Order::DropOwn { .. });
    for _ in 0..200 {
        match world.orders.iter().position(|order| !is_own(order)) {
            Some(next) => {
                let order = world.orders.remove(next);
                world.carry_out(order);
            }
            None => world.pass(std::time::Duration::from_millis(50)),
        }
    }
    assert!(world.orders.iter().any(is_own));
    let ordered = world.orders.iter().filter(|order| is_own(order)).count();
    assert!(ordered <= limits::OWN_DROPS_IN_FLIGHT_MAX);
    world.planner.mark_away(world.now, v(3));
    world.take();
    assert!(revocations(&world) > 0);
    world.orders.retain(is_own);
    world.run();
    assert_eq!(world.planner.tracker_copy(id(1)).1, own, "no chunk was deleted");
    let kept = world.disk.iter().filter(|(location, ..)| *location == Location::Tracker).count();
    assert_eq!(kept as u32, own);
}

#[test]
fn a_file_that_the_owner_keeps_is_not_offloaded() {
    let mut world = World::with(settings(), 3, 100);
    world.publish(id(1), 3);
    world.settle();
    world.planner.want_offload(world.now, id(1));
    world.take();
    world.settle();
    assert_eq!((offloads(&world), world.whole.len()), (1, 0), "without --offload");
    world.planner.set_kept_here(world.now, id(1), true);
    world.publish(id(1), 3);
    world.settle();
    assert_eq!((offloads(&world), world.whole.len()), (1, 1));
    world.planner.offloaded(world.now, id(1), OffloadResult::Deleted);
    world.take();
    assert_eq!(world.planner.tracker_copy(id(1)), (true, 0), "an outcome without an order is ignored");
}

#[test]
fn a_volunteer_with_chunks_of_many_forgotten_files_gets_few_orders_at_a_time() {
    let mut world = World::with(settings(), 1, 100_000);
    let files: Vec<_> = (0..5_000u32)
        .map(|number| {
            let mut bytes = [9; 32];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            crate::content::FileId(bytes)
        })
        .collect();
    for file in &files {
        world.planner.restore_forgotten(*file);
        world.disk.insert((at(0), *file, 0));
    }
    world.connect(0, 0, 100_000);
    world.report(0, false);
    let ordered =
        |world: &World| world.log.iter().filter(|order| matches!(order, Order::Drop { .. })).count();
    assert_eq!(ordered(&world), limits::DROPS_IN_FLIGHT_MAX);
    assert!(
        world
            .log
            .iter()
            .all(|order| !matches!(order, Order::Drop { reason, .. } if *reason != DropReason::Forgotten))
    );
    world.pass(limits::DROP_TIMEOUT - seconds(1));
    assert_eq!(ordered(&world), limits::DROPS_IN_FLIGHT_MAX, "it has not answered");
    world.run();
    assert_eq!((ordered(&world), world.disk.len()), (5_000, 0));
}

#[test]
fn a_forgotten_file_that_is_published_again_is_not_dropped() {
    let mut world = World::with(settings(), 3, 100);
    world.publish(id(1), 4);
    world.settle();
    world.planner.mark_away(world.now, v(0));
    world.planner.forget(world.now, id(1));
    world.take();
    world.run();
    world.connect(0, 0, 100);
    let chunks: Vec<ChunkIndex> = (0..4).map(ChunkIndex).collect();
    world.disk.extend((0..4).map(|index| (at(0), id(1), index)));
    assert!(!world.planner.holds(world.now, v(0), id(1), &chunks, false));
    world.publish(id(1), 4);
    world.planner.report_complete(world.now, v(0));
    world.take();
    assert_eq!(dropped(&world).iter().filter(|(number, _)| *number == 0).count(), 0);
    let key = ChunkKey { file: 1, index: 0 };
    assert_eq!(world.planner.files.copy_state(key, v(0)), Some(CopyState::Claimed));
}

#[test]
fn claims_of_hostile_volunteers_cause_no_drop() {
    let mut world = World::with(settings(), 3, 100);
    world.publish(id(1), 6);
    world.settle();
    let honest: BTreeSet<StoredCopy> = world.disk.clone();
    let chunks: Vec<ChunkIndex> = (0..6).map(ChunkIndex).collect();
    for number in 3..6 {
        world.connect(number, number, 100);
        world.planner.holds(world.now, v(number), id(1), &chunks, true);
        world.planner.report_complete(world.now, v(number));
        world.take();
    }
    for _ in 0..10 {
        world.settle();
        world.pass(seconds(60));
    }
    assert!(dropped(&world).is_empty() && world.disk.is_superset(&honest));
}
