//! Tests of offloading, over-replication, draining, forgetting, lost chunks and restarts.

use super::super::chunk::ChunkKey;
use super::world::*;
use crate::content::{ChunkIndex, limits};
use crate::swarm::keeping::{Change, Location, OffloadResult};
use crate::swarm::replication::{Order, Settings};
use std::time::Duration;

fn offload() -> Settings {
    Settings { offload: true, ..settings() }
}

fn offloads(world: &World) -> usize {
    world.log.iter().filter(|order| matches!(order, Order::Offload { .. })).count()
}

fn drops(world: &World) -> Vec<(Location, u32)> {
    let drops = world.log.iter().filter_map(|order| match order {
        Order::Drop { at: number, chunks, .. } => {
            Some(chunks.iter().map(|index| (at(number.0), index.0)).collect::<Vec<_>>())
        }
        _ => None,
    });
    drops.flatten().collect()
}

#[test]
fn the_trackers_copy_is_deleted_only_after_a_durable_record() {
    let mut world = World::with(offload(), 3, 100);
    world.records = false;
    world.publish(id(1), 4);
    world.run();
    let (_, changes) = world.pending.last().expect("an offload is recorded without delay");
    assert_eq!(changes.last(), Some(&Change::Offloaded(id(1), true)));
    world.pass(seconds(60));
    assert_eq!(offloads(&world), 0);
    world.record();
    world.take();
    assert_eq!(offloads(&world), 1);
    world.run();
    assert_eq!(world.planner.tracker_copy(id(1)), (false, 0));
    assert!(
        world.planner.status(world.now, |_| Some(crate::content::FileName::new("f").unwrap())).files[0]
            .offloaded
    );
}

#[test]
fn a_copy_that_is_lost_while_the_record_is_written_stops_the_offload() {
    let mut world = World::with(offload(), 3, 100);
    world.records = false;
    world.publish(id(1), 4);
    world.run();
    world.planner.mark_away(world.now, v(0));
    world.record();
    world.take();
    assert_eq!(offloads(&world), 0);
    world.join(0, 0, 100);
    world.record();
    world.take();
    assert_eq!(offloads(&world), 0, "the copies are not proven");
    world.run();
    assert_eq!(offloads(&world), 0, "the copies are not recorded");
    world.record();
    world.take();
    assert_eq!(offloads(&world), 1);
}

#[test]
fn a_copy_that_replaces_a_recorded_one_must_be_recorded_before_an_offload() {
    let mut world = World::with(Settings { replicas: 1, ..offload() }, 3, 100);
    world.records = false;
    world.publish(id(1), 1);
    world.run();
    let holder = world.holders(id(1), 0)[0];
    world.planner.drain(world.now, v(holder), true);
    world.take();
    world.run();
    assert_eq!(world.holders(id(1), 0).len(), 2);
    world.record();
    world.take();
    assert_eq!(offloads(&world), 0, "the record contains the draining copy");
    world.record();
    world.take();
    assert_eq!(offloads(&world), 1);
}

#[test]
fn without_the_flag_the_tracker_keeps_its_copy() {
    let mut world = World::with(settings(), 3, 100);
    world.publish(id(1), 4);
    world.settle();
    world.pass(seconds(60));
    assert_eq!((offloads(&world), world.planner.tracker_copy(id(1))), (0, (true, 0)));
}

#[test]
fn a_failed_offload_is_not_retried() {
    let mut world = World::with(offload(), 3, 100);
    world.publish(id(1), 1);
    while offloads(&world) == 0 {
        let order = world.orders.remove(0);
        world.carry_out(order);
    }
    world.orders.clear();
    world.planner.offloaded(world.now, id(1), OffloadResult::Failed);
    world.take();
    world.pass(seconds(5));
    assert_eq!((offloads(&world), world.offloaded[&id(1)]), (1, false));
    assert_eq!(world.planner.tracker_copy(id(1)), (true, 0));
}

#[test]
fn a_file_that_is_published_again_is_offloaded_again() {
    let mut world = World::with(offload(), 3, 100);
    world.publish(id(1), 2);
    world.settle();
    assert!(world.whole.is_empty());
    world.publish(id(1), 2);
    world.settle();
    assert_eq!((offloads(&world), world.whole.len()), (2, 0));
}

#[test]
fn copies_of_a_returning_volunteer_count_and_over_replicated_ones_are_dropped() {
    let mut world = World::with(settings(), 4, 100);
    world.publish(id(1), 20);
    world.settle();
    world.mark_lost(0);
    world.settle();
    assert_eq!(drops(&world), []);
    let mine = world.chunks_of(0)[&id(1)].len();
    world.connect(0, 0, 100);
    assert_eq!(drops(&world), [], "it has not reported yet");
    world.report(0, false);
    world.settle();
    assert_eq!(drops(&world).len(), mine);
    assert!((0..20).all(|index| world.holders(id(1), index).len() == 2));
}

#[test]
fn verified_copies_of_a_returning_emptier_volunteer_stay() {
    let mut world = World::with(settings(), 4, 100);
    world.publish(id(1), 20);
    world.settle();
    world.mark_lost(0);
    world.settle();
    world.connect(0, 0, 1_000);
    world.report(0, true);
    world.settle();
    assert!(drops(&world).iter().all(|(location, _)| *location != at(0)), "{:?}", drops(&world));
    assert!((0..20).all(|index| world.holders(id(1), index).len() == 2));
}

#[test]
fn copies_that_are_not_proven_cause_no_drops() {
    let mut world = World::with(settings(), 3, 100);
    world.publish(id(1), 6);
    world.settle();
    world.restart(settings());
    for (number, index) in (0..3).flat_map(|number| (0..6).map(move |index| (number, index))) {
        world.disk.insert((at(number), id(1), index));
    }
    world.unreachable = (0..3).map(v).collect();
    for number in 0..3 {
        world.join(number, number, 100);
        world.report(number, true);
    }
    world.settle();
    assert_eq!(drops(&world), [], "three claimed copies each, none of them proven");
    world.unreachable.remove(&v(0));
    world.pass(seconds(60));
    world.settle();
    assert_eq!(drops(&world), [], "one proven copy each");
    world.unreachable.clear();
    for _ in 0..10 {
        world.pass(seconds(60));
        world.settle();
    }
    assert_eq!(drops(&world).len(), 6);
}

#[test]
fn copies_that_share_an_address_are_dropped_first() {
    let mut world = World::with(settings(), 0, 0);
    for (number, host) in [(0, 7), (1, 8), (2, 9)] {
        world.join(number, host, 100);
    }
    world.publish(id(1), 1);
    world.settle();
    for number in 0..3 {
        world.disk.insert((at(number), id(1), 0));
        world.planner.mark_lost(world.now, v(number));
    }
    for (number, host) in [(0, 7), (1, 8), (2, 8)] {
        world.connect(number, host, 100);
    }
    for number in 0..3 {
        world.report(number, true);
    }
    world.settle();
    let holders = world.holders(id(1), 0);
    assert!(holders.len() == 2 && holders.contains(&0), "{holders:?}");
}

#[test]
fn a_drained_volunteer_may_leave_when_no_chunk_depends_on_it() {
    let mut world = World::with(offload(), 4, 100);
    world.publish(id(1), 20);
    world.settle();
    let held = world.chunks_of(0)[&id(1)].len() as u64;
    let told = |world: &World| {
        let told = world.log.iter().filter_map(|order| match order {
            Order::Drained { volunteer, left } => Some((volunteer.0, *left)),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    world.planner.drain(world.now, v(0), true);
    world.take();
    assert_eq!(told(&world), [(0, held)]);
    assert!(world.copies().iter().all(|(_, _, to)| *to != at(0)));
    world.pass(seconds(5));
    assert_eq!(told(&world), [(0, held)]);
    world.run();
    world.pass(seconds(1));
    assert_eq!(told(&world), [(0, held), (0, 0)]);
    world.mark_lost(0);
    world.disk.retain(|(location, ..)| *location != at(0));
    world.settle();
    assert!((0..20).all(|index| world.holders(id(1), index).len() == 2));
    assert_eq!(world.planner.files.counts.needs_repair, 0);
}

#[test]
fn a_cancelled_drain_leaves_no_over_replicated_chunk() {
    let mut world = World::with(settings(), 4, 100);
    world.publish(id(1), 20);
    world.settle();
    world.planner.drain(world.now, v(0), true);
    world.take();
    world.settle();
    assert_eq!(drops(&world), []);
    world.planner.drain(world.now, v(0), false);
    world.take();
    world.settle();
    assert!((0..20).all(|index| world.holders(id(1), index).len() == 2));
}

#[test]
fn a_drain_challenges_the_other_copies_and_waits_until_they_are_verified() {
    let mut world = World::with(offload(), 3, 100);
    world.publish(id(1), 6);
    world.settle();
    world.restart(offload());
    for number in 0..3 {
        world.join(number, number, 100);
    }
    world.settle();
    world.planner.drain(world.now, v(0), true);
    world.take();
    for _ in 0..40 {
        world.run();
        world.pass(Duration::from_millis(250));
    }
    let last = world.log.iter().rev().find(|order| matches!(order, Order::Drained { .. }));
    assert_eq!(last, Some(&Order::Drained { volunteer: v(0), left: 0 }));
}

#[test]
fn a_forgotten_file_is_dropped_even_by_volunteers_that_return_later() {
    let mut world = World::with(settings(), 3, 100);
    world.publish(id(1), 6);
    world.settle();
    world.mark_lost(2);
    let late = world.chunks_of(2)[&id(1)].len();
    world.orders.clear();
    world.planner.forget(world.now, id(1));
    world.take();
    world.settle();
    assert!(!world.planner.is_known(id(1)) && world.planner.was_forgotten(id(1)));
    assert!(world.forgotten.contains(&id(1)));
    assert_eq!(world.disk.len(), late);
    world.restart(settings());
    world.join(2, 2, 100);
    world.settle();
    assert_eq!(world.disk.len(), 0);
    assert!(!world.planner.holds(world.now, v(2), id(9), &[ChunkIndex(0)], true), "an unknown file");
    world.settle();
    world.publish(id(1), 6);
    assert!(!world.planner.was_forgotten(id(1)));
}

#[test]
fn lost_chunks_are_reported_once_and_found_again_when_their_holder_returns() {
    let mut world = World::with(offload(), 3, 100);
    world.publish(id(1), 8);
    world.settle();
    world.pass(seconds(11));
    let lost = |world: &World| {
        let lost = world.log.iter().filter_map(|order| match order {
            Order::Lost { chunks, last, .. } => Some((chunks.clone(), last.clone())),
            _ => None,
        });
        lost.collect::<Vec<_>>()
    };
    let both: Vec<ChunkIndex> =
        (0..8).filter(|index| world.holders(id(1), *index) == [0, 1]).map(ChunkIndex).collect();
    assert!(!both.is_empty());
    world.mark_lost(0);
    assert_eq!(lost(&world), []);
    world.orders.clear();
    world.mark_lost(1);
    assert_eq!(lost(&world), [(both.clone(), vec![v(0), v(1)])]);
    assert_eq!(world.planner.status(world.now, |_| None).copies.lost, both.len() as u64);
    world.pass(seconds(100));
    world.connect(1, 1, 100);
    assert_eq!(
        world.planner.status(world.now, |_| None).copies.lost,
        both.len() as u64,
        "it has not reported yet"
    );
    world.report(1, false);
    assert_eq!(lost(&world).len(), 1);
    assert_eq!(world.planner.status(world.now, |_| None).copies.lost, 0);
    assert!(world.notes().iter().any(|note| note.ends_with(" found again")));
}

#[test]
fn no_chunk_is_lost_before_all_volunteers_could_have_returned() {
    let mut world = World::with(offload(), 3, 100);
    world.publish(id(1), 8);
    world.settle();
    world.restart(offload());
    let lost = |world: &World| world.log.iter().any(|order| matches!(order, Order::Lost { .. }));
    world.pass(limits::REPAIR_DELAY - seconds(1));
    assert!(!lost(&world) && world.copies().is_empty());
    world.pass(seconds(2));
    assert!(lost(&world));
}

#[test]
fn a_restart_restores_the_copies() {
    let mut world = World::with(offload(), 5, 100);
    world.publish(id(1), 30);
    world.publish(id(2), 7);
    world.settle();
    world.mark_lost(4);
    world.pass(seconds(1));
    world.run();
    world.pass(seconds(1));
    let holders = |world: &World| -> Vec<Vec<u32>> {
        let all =
            (0u32..2).flat_map(|file| (0..[30, 7][file as usize]).map(move |index| ChunkKey { file, index }));
        let sorted = |key| {
            let chunk = world.planner.files.chunk(key).unwrap();
            let mut holders: Vec<u32> = chunk.replicas.iter().map(|replica| replica.volunteer().0).collect();
            holders.sort_unstable();
            holders
        };
        all.map(sorted).collect()
    };
    let before = holders(&world);
    world.restart(offload());
    assert_eq!(holders(&world), before);
    assert_eq!(world.planner.tracker_copy(id(1)), (false, 0));
    for number in 0..4 {
        world.join(number, number, 100);
    }
    world.pass(seconds(60));
    world.settle();
    assert_eq!(holders(&world), before);
    assert_eq!(world.copies(), []);
    let new = world.planner.status(world.now, |_| None);
    assert_eq!((new.copies.claimed, new.copies.verified, new.copies.lost), (0, 74, 0));
}

#[test]
fn an_offload_interrupted_between_record_and_deletion_is_completed() {
    let mut world = World::with(offload(), 3, 100);
    world.publish(id(1), 3);
    while offloads(&world) == 0 {
        let order = world.orders.remove(0);
        world.carry_out(order);
    }
    world.restart(offload());
    assert_eq!(world.planner.tracker_copy(id(1)), (true, 0));
    for number in 0..3 {
        world.connect(number, number, 100);
        world.report(number, true);
    }
    world.settle();
    assert!(world.whole.is_empty());
}

#[test]
fn unknown_volunteer_numbers_in_the_catalogue_are_harmless() {
    let mut world = World::with(settings(), 1, 10);
    world.pass(seconds(1));
    let mut record = world.volunteers[&v(0)].clone();
    record.number = v(u32::MAX);
    world.planner.restore_volunteer(world.now, record);
    assert_eq!(world.planner.volunteer(v(u32::MAX)), None);
    assert_eq!(world.planner.volunteers().count(), 1);
}
