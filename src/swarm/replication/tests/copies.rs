//! Tests of distribution and repair.

use super::world::*;
use crate::content::limits;
use crate::protocol::volunteer::CopyFailure;
use crate::swarm::keeping::Location;
use crate::swarm::replication::{Order, Settings};
use std::collections::BTreeSet;
use std::time::Duration;

fn assert_two_copies_each(world: &World, file: u8, chunks: u32) {
    for index in 0..chunks {
        assert_eq!(world.holders(id(file), index).len(), 2, "chunk {index}");
    }
}

#[test]
fn with_three_volunteers_each_chunk_goes_to_two() {
    let mut world = World::with(settings(), 2, 100);
    world.publish(id(1), 12);
    world.settle();
    assert_eq!(world.disk.len(), 0, "two volunteers are below the minimum");
    world.join(2, 2, 100);
    assert_eq!(world.copies().len(), 8, "the tracker's window");
    assert!(world.copies().iter().all(|(_, from, _)| *from == TRACKER));
    world.settle();
    assert_two_copies_each(&world, 1, 12);
    for number in 0..3 {
        assert_eq!(world.chunks_of(number)[&id(1)].len(), 8, "evenly");
    }
    let status = world.planner.status(world.now, |_| Some(crate::content::FileName::new("f").unwrap()));
    assert_eq!((status.copies.wanted, status.copies.verified, status.copies.short), (24, 24, 0));
    assert_eq!((status.repair.waiting, status.repair.running, status.repair.copied), (0, 0, 24));
    assert_eq!((status.files[0].here, status.files[0].offloaded), (12, false));
    assert_eq!(world.notes().len(), 1, "{:?}", world.notes());
    assert_eq!(world.planner.held_by(v(1), id(1)), 8);
    assert!(world.planner.changed_holdings().contains(&(v(1), id(1))));
    assert_eq!(world.planner.changed_holdings(), []);
}

#[test]
fn the_second_copy_comes_from_a_volunteer_rather_than_from_the_tracker() {
    let mut world = World::with(settings(), 3, 100);
    world.publish(id(1), 30);
    world.settle();
    let copies = world.log.iter().filter(|order| matches!(order, Order::Copy { from: TRACKER, .. })).count();
    assert!(copies < 45, "{copies} of 60 copies came from the tracker");
}

#[test]
fn copies_go_to_different_addresses_where_there_are_any() {
    let mut world = World::with(settings(), 0, 0);
    for (number, host) in [(0, 7), (1, 7), (2, 7), (3, 8)] {
        world.join(number, host, 1_000);
    }
    world.publish(id(1), 40);
    world.settle();
    for index in 0..40 {
        assert!(world.holders(id(1), index).contains(&3), "chunk {index}: one copy is at the other address");
    }
    assert_two_copies_each(&world, 1, 40);
}

#[test]
fn volunteers_at_one_address_still_get_one_copy_each() {
    let mut world = World::with(settings(), 0, 0);
    for number in 0..3 {
        world.join(number, 7, 100);
    }
    world.publish(id(1), 9);
    world.settle();
    assert_two_copies_each(&world, 1, 9);
}

#[test]
fn emptier_and_larger_volunteers_get_more_copies() {
    let mut world = World::with(settings(), 0, 0);
    for (number, chunks) in [(0, 100), (1, 100), (2, 200)] {
        world.join(number, number, chunks);
    }
    world.publish(id(1), 40);
    world.settle();
    assert!(world.chunks_of(2)[&id(1)].len() >= 34, "at the fill level of the others it would have all 40");
    assert!(world.chunks_of(0)[&id(1)].len() <= 24);
}

#[test]
fn windows_limit_copies_in_both_directions() {
    let mut world = World::with(settings(), 3, 1_000);
    world.planner.set_window(2, 64 << 20);
    world.publish(id(1), 40);
    assert_eq!(world.copies().len(), 2);
    world.settle();
    assert_two_copies_each(&world, 1, 40);
}

/// The tracker loses its own copies of all files.
fn withdraw(world: &mut World) {
    for file in std::mem::take(&mut world.whole) {
        world.planner.set_complete_at_tracker(world.now, file, false);
    }
    world.take();
}

#[test]
fn repair_of_chunks_with_one_copy_left_begins_when_the_lease_of_a_volunteer_ends() {
    let mut world = World::with(settings(), 4, 100);
    world.publish(id(1), 20);
    world.settle();
    withdraw(&mut world);
    let held = world.chunks_of(1)[&id(1)].len();
    world.planner.note_message(world.now, v(1));
    world.planner.mark_away(world.now + seconds(3), v(1));
    world.pass(Duration::from_millis(12_999));
    assert_eq!(world.copies(), [], "it may return");
    world.pass(Duration::from_millis(1));
    assert_eq!(world.copies().len(), held);
    for (_, from, to) in world.copies() {
        assert!(![from, to].contains(&at(1)) && from != TRACKER);
    }
    world.pass(seconds(3));
    world.disk.retain(|(location, ..)| *location != at(1));
    world.settle();
    assert_two_copies_each(&world, 1, 20);
    assert!(world.notes().iter().any(|note| note.starts_with("volunteer-1 is away with")));
    assert!(
        world.notes().last().unwrap().starts_with("repair is done: it took 3.0 s"),
        "{:?}",
        world.notes()
    );
}

#[test]
fn with_a_copy_at_the_tracker_the_copies_of_an_absent_volunteer_are_replaced_after_the_repair_delay() {
    let mut world = World::with(settings(), 4, 100);
    world.publish(id(1), 20);
    world.settle();
    let held = world.chunks_of(1)[&id(1)].len();
    world.planner.mark_away(world.now, v(1));
    world.pass(limits::REPAIR_DELAY - seconds(1));
    assert_eq!(world.copies(), [], "each chunk has two safe copies");
    let status = world.planner.status(world.now, |_| None);
    assert_eq!((status.copies.away, status.copies.present), (held as u64, 40 - held as u64));
    world.pass(seconds(1));
    assert_eq!(world.copies().len(), held);
    assert!(world.notes().iter().any(|note| note.starts_with("volunteer-1 is gone with")));
}

#[test]
fn an_announced_absence_causes_no_copies_before_its_end() {
    let mut world = World::new(settings());
    world.planner.scan_complete(world.now);
    world.away = Some(seconds(14 * 3600));
    for number in 0..4 {
        world.join(number, number, 100);
    }
    world.publish(id(1), 20);
    world.settle();
    withdraw(&mut world);
    for number in [0, 1] {
        world.planner.disconnect(world.now, v(number));
    }
    world.take();
    world.pass(seconds(14 * 3600 - 10));
    assert_eq!(world.copies(), []);
    let both = (0..20).filter(|index| world.holders(id(1), *index) == [0, 1]).count() as u64;
    let file = || crate::content::FileName::new("f").ok();
    let status = world.planner.status(world.now, |_| file());
    assert!(both > 0 && !status.files[0].readable);
    assert_eq!(status.files[0].waiting_for_holders, both, "they wait and are not lost");
    world.join(0, 0, 100);
    world.join(1, 1, 100);
    world.settle();
    assert_eq!((world.copies(), world.planner.status(world.now, |_| file()).copies.verified), (vec![], 40));
    // An absence that is longer than announced is a loss.
    world.planner.disconnect(world.now, v(0));
    world.take();
    world.pass(seconds(14 * 3600));
    assert!(!world.copies().is_empty());
}

#[test]
fn an_announced_absence_does_not_apply_to_a_connection_that_breaks() {
    let mut world = World::new(settings());
    world.planner.scan_complete(world.now);
    world.away = Some(seconds(14 * 3600));
    for number in 0..4 {
        world.join(number, number, 100);
    }
    world.publish(id(1), 20);
    world.settle();
    withdraw(&mut world);
    world.planner.mark_away(world.now, v(0));
    world.pass(seconds(20));
    assert!(!world.copies().is_empty());
}

#[test]
fn a_volunteer_that_returns_within_its_lease_is_not_replaced() {
    let mut world = World::with(settings(), 4, 100);
    world.publish(id(1), 20);
    world.settle();
    world.planner.mark_away(world.now, v(1));
    world.pass(seconds(5));
    world.join(1, 1, 100);
    world.pass(seconds(60));
    assert_eq!(world.copies(), []);
    assert_two_copies_each(&world, 1, 20);
}

#[test]
fn repair_survives_a_second_death() {
    let mut world = World::with(settings(), 5, 100);
    world.publish(id(1), 40);
    world.settle();
    world.whole.clear();
    world.planner.set_complete_at_tracker(world.now, id(1), false);
    world.mark_lost(0);
    let order = world.orders.remove(0);
    world.carry_out(order);
    world.mark_lost(1);
    world.pass(seconds(120));
    world.settle();
    world.disk.retain(|(location, ..)| ![at(0), at(1)].contains(location));
    world.pass(seconds(60));
    world.settle();
    let mut lost = BTreeSet::new();
    for order in &world.log {
        if let Order::Lost { chunks, last, .. } = order {
            assert!(last.iter().all(|number| number.0 < 2));
            lost.extend(chunks.iter().map(|index| index.0));
        }
    }
    for index in (0..40).filter(|index| !lost.contains(index)) {
        assert_eq!(world.holders(id(1), index).len(), 2, "chunk {index}");
    }
    assert!((0..40).all(|index| lost.contains(&index) == world.holders(id(1), index).is_empty()));
    assert!(lost.len() < 20, "{lost:?}");
}

#[test]
fn the_chunk_with_the_fewest_copies_is_copied_first() {
    let settings = Settings { replicas: 3, ..settings() };
    let mut world = World::with(settings, 6, 100);
    world.publish(id(1), 30);
    world.settle();
    world.whole.clear();
    world.planner.set_complete_at_tracker(world.now, id(1), false);
    world.planner.pause(world.now, true);
    world.mark_lost(0);
    world.mark_lost(1);
    world.planner.set_window(1, 64 << 20);
    world.planner.pause(world.now, false);
    world.take();
    let both = |index| world.holders(id(1), index).iter().filter(|holder| **holder < 2).count() == 2;
    assert!((0..30).any(both), "some have lost two copies");
    let copies = world.copies();
    assert!(!copies.is_empty() && copies.iter().all(|(index, ..)| both(*index)), "{copies:?}");
}

#[test]
fn a_failed_copy_is_retried_from_another_source_after_a_backoff() {
    let mut world = World::with(settings(), 4, 100);
    world.publish(id(1), 1);
    world.settle();
    let holders = world.holders(id(1), 0);
    world.mark_lost(holders[0]);
    let [(0, from, to)] = world.copies()[..] else { panic!("{:?}", world.copies()) };
    world.orders.clear();
    let chunk = crate::content::ChunkIndex(0);
    world.planner.not_stored(world.now, to, id(1), chunk, CopyFailure::Unreachable, None);
    world.take();
    assert_eq!(world.copies(), []);
    world.pass(seconds(1));
    let [(0, again, other)] = world.copies()[..] else { panic!("{:?}", world.copies()) };
    assert_eq!((again, from), (TRACKER, at(holders[1])), "the tracker has it, too");
    assert_ne!(other, to);
}

#[test]
fn copies_come_from_the_tracker_and_not_from_claims() {
    let mut world = World::new(settings());
    for number in 0..2 {
        world.disk.insert((at(number), id(1), 0));
    }
    world.publish(id(1), 1);
    (0..4).for_each(|number| world.join(number, number, 100));
    world.take();
    let copies = world.copies();
    assert!(!copies.is_empty());
    assert!(
        copies.iter().all(|(_, from, to)| *from == TRACKER && ![at(0), at(1)].contains(to)),
        "{copies:?}"
    );
}

#[test]
fn an_unanswered_copy_times_out_and_its_late_answer_is_harmless() {
    let mut world = World::with(settings(), 4, 100);
    world.publish(id(1), 1);
    world.settle();
    world.mark_lost(world.holders(id(1), 0)[0]);
    let [(0, _, first)] = world.copies()[..] else { panic!() };
    world.orders.clear();
    world.pass(seconds(33));
    let [(0, _, second)] = world.copies()[..] else { panic!("{:?}", world.copies()) };
    assert_ne!(first, second);
    let chunk = crate::content::ChunkIndex(0);
    world.planner.not_stored(world.now, first, id(1), chunk, CopyFailure::Other, None);
    world.take();
    world.settle();
    assert!(world.holders(id(1), 0).len() >= 2);
}

#[test]
fn a_volunteer_with_a_disk_error_or_without_free_space_gets_no_copies() {
    for why in [CopyFailure::Disk, CopyFailure::NoRoom] {
        let mut world = World::with(settings(), 4, 100);
        world.publish(id(1), 1);
        let [(0, _, to), ..] = world.copies()[..] else { panic!() };
        world.orders.remove(0);
        let chunk = crate::content::ChunkIndex(0);
        world.planner.not_stored(world.now, to, id(1), chunk, why, None);
        world.take();
        let again = world.copies();
        assert!(!again.is_empty() && again.iter().all(|(_, _, other)| *other != to), "{why:?}");
        world.settle();
        assert_two_copies_each(&world, 1, 1);
    }
}

#[test]
fn the_repair_limit_does_not_slow_the_first_distribution() {
    let limited = Settings { repair_limit: 10 * CHUNK, ..settings() };
    let mut world = World::with(limited, 4, 1_000);
    world.publish(id(1), 200);
    world.run();
    assert_two_copies_each(&world, 1, 200);
    let begun = world.now;
    world.mark_lost(3);
    let missing = world.chunks_of(3)[&id(1)].len() as u64;
    world.disk.retain(|(location, ..)| *location != at(3));
    while world.planner.files.counts.needs_repair > 0 {
        world.run();
        world.pass(Duration::from_millis(50));
    }
    let took = (world.now - begun).as_secs_f64();
    let least = (missing as f64 - 5.0) / 10.0;
    assert!((least..least + 2.0).contains(&took), "{took} s for {missing} chunks");
    assert_two_copies_each(&world, 1, 200);
}

#[test]
fn a_pause_stops_new_copies() {
    let mut world = World::with(settings(), 4, 100);
    world.planner.pause(world.now, true);
    world.publish(id(1), 20);
    assert_eq!(world.copies(), []);
    assert!(world.planner.status(world.now, |_| None).repair.paused);
    world.planner.pause(world.now, false);
    world.take();
    assert_eq!(world.copies().len(), 8);
    world.settle();
    assert_two_copies_each(&world, 1, 20);
}

#[test]
fn chunks_without_a_target_return_to_the_tracker_and_are_distributed_later() {
    let offload = Settings { offload: true, ..settings() };
    let mut world = World::with(offload, 3, 14);
    world.publish(id(1), 20);
    world.settle();
    assert!(
        world.whole.is_empty(),
        "40 copies fit into space for 42, and the tracker has offloaded the file"
    );
    world.mark_lost(2);
    world.disk.retain(|(location, ..)| *location != at(2));
    world.settle();
    let (whole, own) = world.planner.tracker_copy(id(1));
    let single = (0..20).filter(|index| world.holders(id(1), *index).len() == 1).count() as u32;
    assert!(!whole && single > 0);
    assert_eq!(own, single, "each chunk with a single copy at volunteers has one at the tracker");
    world.pass(seconds(300));
    world.settle();
    assert_eq!(world.planner.tracker_copy(id(1)).1, own, "once");
    world.join(3, 3, 40);
    world.settle();
    assert_two_copies_each(&world, 1, 20);
    assert_eq!(world.planner.tracker_copy(id(1)), (false, 0), "dropped once volunteers have all copies");
    assert!(!world.disk.iter().any(|(location, ..)| *location == Location::Tracker));
}

#[test]
fn chunks_come_back_when_a_single_volunteer_is_left() {
    let offload = Settings { offload: true, ..settings() };
    let mut world = World::with(offload, 3, 100);
    world.publish(id(1), 9);
    world.settle();
    world.planner.mark_away(world.now, v(2));
    world.mark_lost(1);
    let to_tracker = |world: &World| world.copies().iter().filter(|(_, _, to)| *to == TRACKER).count();
    assert_eq!(to_tracker(&world), 0, "the other volunteer may return");
    world.disk.retain(|(location, ..)| *location == at(0));
    world.pass(seconds(10));
    world.settle();
    let held = world.chunks_of(0)[&id(1)].len() as u32;
    assert_eq!(world.planner.tracker_copy(id(1)).1, held);
}
