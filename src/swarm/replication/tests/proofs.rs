//! Tests of proofs.

use super::super::chunk::ChunkKey;
use super::super::replicas::CopyState;
use super::world::*;
use crate::content::limits;
use crate::swarm::keeping::{Location, OwnCopy};
use crate::swarm::replication::{Order, Settings};
use std::time::Duration;

fn challenging(offload: bool) -> Settings {
    Settings { challenge_every: Some(limits::CHALLENGE_INTERVAL), offload, ..settings() }
}

fn distributed(offload: bool, chunks: u32) -> World {
    let mut world = World::with(challenging(offload), 3, 100);
    world.publish(id(1), chunks);
    world.settle();
    world
}

fn proofs(world: &World) -> Vec<(u32, usize)> {
    let proofs = world.log.iter().filter_map(|order| match order {
        Order::Prove { index, holders, .. } => Some((index.0, holders.len())),
        _ => None,
    });
    proofs.collect()
}

fn state(world: &World, index: u32, number: u32) -> Option<CopyState> {
    world.planner.files.copy_state(ChunkKey { file: 0, index }, v(number))
}

fn drops(world: &World) -> usize {
    world.log.iter().filter(|order| matches!(order, Order::Drop { .. })).count()
}

fn verified(world: &World) -> u64 {
    world.planner.status(world.now, |_| None).copies.verified
}

#[test]
fn stored_copies_are_proven_and_all_holders_are_challenged_at_each_interval() {
    let mut world = distributed(false, 5);
    assert_eq!(verified(&world), 10);
    let before = proofs(&world).len();
    world.pass(limits::CHALLENGE_INTERVAL);
    assert_eq!(proofs(&world).len(), before + 1);
    assert_eq!(proofs(&world).last().map(|(_, holders)| *holders), Some(2));
    world.run();
    assert!(world.planner.proofs.outstanding.is_empty());
}

#[test]
fn a_corrupt_copy_stops_counting_is_hashed_again_and_is_replaced() {
    for offload in [false, true] {
        let mut world = distributed(offload, 1);
        let bad = world.holders(id(1), 0)[1];
        world.bad.insert((at(bad), id(1), 0));
        world.pass(limits::CHALLENGE_INTERVAL);
        while let Some(order) = (!world.orders.is_empty()).then(|| world.orders.remove(0)) {
            if matches!(order, Order::Check { .. }) {
                assert_eq!(state(&world, 0, bad), Some(CopyState::Refuted));
            }
            world.carry_out(order);
        }
        assert!(world.notes().iter().any(|note| note.contains("the copy of chunk 1 at volunteer-")));
        assert!(world.bad.is_empty(), "the volunteer has found it itself");
        assert_eq!(drops(&world), 0);
        world.settle();
        assert_eq!((world.holders(id(1), 0).len(), verified(&world)), (2, 2));
    }
}

#[test]
fn holders_that_agree_on_wrong_bytes_prove_nothing() {
    let mut world = distributed(true, 1);
    assert!(world.whole.is_empty());
    world.restart(challenging(true));
    for number in world.holders(id(1), 0) {
        world.bad.insert((at(number), id(1), 0));
    }
    for number in 0..3 {
        world.join(number, number, 100);
    }
    world.settle();
    assert_eq!(verified(&world), 0);
    assert_eq!(drops(&world), 0);
}

#[test]
fn a_proof_that_cannot_be_had_is_no_wrong_proof_and_ends_the_counting_after_a_time() {
    let mut world = World::with(settings(), 5, 100);
    world.unreachable.extend([v(0), v(1)]);
    world.publish(id(1), 10);
    world.settle();
    let unproven = world.planner.status(world.now, |_| None).copies;
    assert_eq!(unproven.present, 20);
    let held = world.chunks_of(0)[&id(1)].len() + world.chunks_of(1)[&id(1)].len();
    assert_eq!(unproven.verified, 20 - held as u64);
    assert_eq!(world.copies(), [], "they count for a while");
    for _ in 0..40 {
        world.pass(seconds(5));
        world.run();
    }
    assert_eq!(verified(&world), 20, "other volunteers have the copies");
    assert!(
        world
            .log
            .iter()
            .any(|order| matches!(order, Order::Warn(text) if text.contains("cannot be reached")))
    );
    assert_eq!(drops(&world), 0);
    let held = world.chunks_of(0)[&id(1)].len();
    world.publish(id(2), 10);
    world.settle();
    assert!(!world.chunks_of(0).contains_key(&id(2)), "it gets no more copies");
    // Once it can be reached, its copies count again.
    world.unreachable.clear();
    world.pass(limits::PROOF_RETRY_MAX);
    world.settle();
    assert!(verified(&world) >= 20 + held as u64);
}

#[test]
fn a_copy_that_was_proven_stays_proven_while_its_holder_is_busy() {
    let mut world = distributed(false, 1);
    let holder = world.holders(id(1), 0)[0];
    world.unreachable.insert(v(holder));
    world.pass(limits::CHALLENGE_INTERVAL * 3);
    world.run();
    assert_eq!(state(&world, 0, holder), Some(CopyState::Proven));
    assert_eq!(drops(&world), 0);
}

#[test]
fn a_rotten_chunk_at_the_tracker_withdraws_its_own_copy_and_condemns_no_other() {
    let mut world = distributed(false, 3);
    world.rotten.insert((id(1), 1));
    for _ in 0..20 {
        world.pass(limits::CHALLENGE_INTERVAL);
        world.run();
    }
    let is_withdrawn = |order: &&Order| matches!(order, Order::Withdraw { index, .. } if index.0 == 1);
    let withdrawn = world.log.iter().filter(is_withdrawn);
    assert_eq!(withdrawn.count(), 1);
    assert!(world.whole.is_empty());
    assert_eq!((drops(&world), verified(&world)), (0, 6));
    assert!(!world.log.iter().any(|order| matches!(order, Order::Check { .. })));
    assert_eq!(world.planner.tracker_copy(id(1)), (false, 0));
}

#[test]
fn a_receiver_that_gets_wrong_bytes_from_the_tracker_makes_it_compare_its_copy() {
    let mut world = World::with(settings(), 3, 100);
    world.rotten.insert((id(1), 0));
    world.publish(id(1), 1);
    let [(0, TRACKER, to), ..] = world.copies()[..] else { panic!("{:?}", world.copies()) };
    let chunk = crate::content::ChunkIndex(0);
    world.planner.not_stored(
        world.now,
        to,
        id(1),
        chunk,
        crate::protocol::volunteer::CopyFailure::Corrupt,
        None,
    );
    world.take();
    world.settle();
    assert!(world.log.iter().any(|order| matches!(order, Order::Withdraw { .. })));
}

#[test]
fn after_two_wrong_proofs_no_copy_of_a_volunteer_counts() {
    let mut world = distributed(false, 30);
    world.disk.retain(|(location, ..)| *location != at(0));
    for _ in 0..30 {
        world.pass(limits::CHALLENGE_INTERVAL);
        let checks = |order: &Order| matches!(order, Order::Check { .. });
        // The volunteer does not answer.
        world.orders.retain(|order| !checks(order));
        while let Some(order) = (!world.orders.is_empty()).then(|| world.orders.remove(0)) {
            if !checks(&order) {
                world.carry_out(order);
            }
        }
    }
    assert_eq!(verified(&world), 60, "its copies are replaced");
    assert!(world.chunks_of(0).is_empty(), "it gets no copies before it has proven one");
    assert_eq!(drops(&world), 0);
}

#[test]
fn volunteers_take_turns_when_each_proof_waits_for_the_end_of_another() {
    let settings = Settings { replicas: 1, offload: true, challenge_every: None, ..settings() };
    let mut world = World::with(settings.clone(), 3, 100);
    world.publish(id(1), 90);
    world.settle();
    assert!(world.whole.is_empty(), "the tracker downloads each chunk for its proof");
    world.restart(settings);
    world.log.clear();
    (0..3).for_each(|number| world.join(number, number, 100));
    for _ in 0..30 {
        let proof = world.orders.iter().position(|order| matches!(order, Order::Prove { .. })).unwrap();
        let order = world.orders.remove(proof);
        world.carry_out(order);
    }
    let mut counts = [0; 3];
    for order in &world.log {
        if let Order::Prove { holders, .. } = order {
            holders.iter().for_each(|holder| counts[holder.0 as usize] += 1);
        }
    }
    assert!(counts.iter().all(|count| *count >= 10), "{counts:?}");
}

/// Lets the next challenge find a corrupt copy at volunteer 0, which does not answer checks.
fn world_after_first_wrong_proof(lose: impl Fn(&mut World)) -> World {
    let mut world = distributed(false, 30);
    lose(&mut world);
    while !world.log.iter().any(|order| matches!(order, Order::Check { .. })) {
        world.pass(limits::CHALLENGE_INTERVAL);
        while let Some(order) = (!world.orders.is_empty()).then(|| world.orders.remove(0)) {
            world.carry_out(order);
            if world.log.iter().any(|order| matches!(order, Order::Check { .. })) {
                break;
            }
        }
    }
    world
}

fn copies_of_volunteer(world: &World, number: u32, wanted: CopyState) -> usize {
    (0..30).filter(|index| state(world, *index, number) == Some(wanted)).count()
}

#[test]
fn no_copy_of_a_volunteer_counts_after_its_first_wrong_proof() {
    let mut world =
        world_after_first_wrong_proof(|world| world.disk.retain(|(location, ..)| *location != at(0)));
    let present = world.planner.status(world.now, |_| None).copies.present;
    assert_eq!(copies_of_volunteer(&world, 0, CopyState::Proven), 0);
    assert_eq!(copies_of_volunteer(&world, 0, CopyState::Stored), 0);
    let suspected = copies_of_volunteer(&world, 0, CopyState::Suspected);
    assert!(suspected > 0);
    assert_eq!(present as usize, 60 - suspected - 1, "only copies at other volunteers count");
    let copied = world.copies().len();
    assert!(copied <= 1, "only the failed chunk is copied before the next proof");
    let next = world.orders.iter().find_map(|order| match order {
        Order::Prove { holders, index, .. } if holders.contains(&v(0)) => Some(*index),
        _ => None,
    });
    assert!(next.is_some_and(|index| state(&world, index.0, 0) == Some(CopyState::Suspected)), "{next:?}");
    for _ in 0..3 {
        world.run();
        world.pass(seconds(1));
    }
    assert_eq!(verified(&world), 60, "the second wrong proof follows at once, and the copies are replaced");
    assert_eq!(drops(&world), 0);
}

#[test]
fn one_corrupt_chunk_causes_one_copy() {
    let mut world = world_after_first_wrong_proof(|world| {
        _ = world.bad.insert((at(0), id(1), {
            (0..30).find(|index| world.holders(id(1), *index).contains(&0)).unwrap()
        }))
    });
    let before = world.planner.status(world.now, |_| None).repair.copied;
    assert!(copies_of_volunteer(&world, 0, CopyState::Suspected) > 0);
    for _ in 0..3 {
        world.run();
        world.pass(seconds(1));
    }
    assert_eq!(copies_of_volunteer(&world, 0, CopyState::Suspected), 0);
    world.settle();
    assert_eq!((verified(&world), drops(&world)), (60, 0));
    assert!(world.planner.status(world.now, |_| None).repair.copied <= before + 1);
}

#[test]
fn copies_of_a_suspected_volunteer_are_replaced_without_a_second_proof() {
    let mut world =
        world_after_first_wrong_proof(|world| world.disk.retain(|(location, ..)| *location != at(0)));
    world.unreachable.insert(v(0));
    for _ in 0..8 {
        world.run();
        world.pass(seconds(1));
    }
    assert!(world.planner.status(world.now, |_| None).copies.verified >= 58);
}

#[test]
fn proofs_wait_for_the_end_of_copies_but_at_most_ten_seconds() {
    let mut world = World::with(settings(), 3, 1_000);
    world.publish(id(1), 200);
    let order = world.orders.remove(0);
    world.carry_out(order);
    world.pass(Duration::from_millis(9_000));
    assert_eq!(proofs(&world), [], "copies are in flight");
    world.pass(seconds(2));
    assert_eq!(proofs(&world).len(), 1);
    world.settle();
    assert_eq!(verified(&world), 400);
}

#[test]
fn chunks_of_the_tracker_are_proven_while_other_copies_are_in_flight() {
    let mut world = World::with(Settings { offload: true, ..settings() }, 3, 1_000);
    world.publish(id(1), 200);
    let in_flight = |world: &World| world.planner.status(world.now, |_| None).repair.running;
    for _ in 0..400 {
        if !world.orders.is_empty() {
            let order = world.orders.remove(0);
            world.carry_out(order);
        }
    }
    assert!(in_flight(&world) > 0 && world.now < seconds(1));
    assert!(verified(&world) > 50, "{}", verified(&world));
    world.settle();
    assert_eq!(verified(&world), 400);
}

#[test]
fn a_challenge_is_made_at_each_interval_after_many_forgotten_files() {
    let mut world = World::with(challenging(false), 3, 10_000);
    for number in 1..200 {
        world.publish(id(number), 1);
        world.settle();
        if number < 199 {
            world.planner.forget(world.now, id(number));
            world.whole.remove(&id(number));
            world.take();
        }
    }
    world.settle();
    let before = proofs(&world).len();
    for _ in 0..20 {
        world.pass(limits::CHALLENGE_INTERVAL);
        world.run();
    }
    assert_eq!(proofs(&world).len(), before + 20);
}

#[test]
fn outcomes_of_unknown_proofs_are_ignored() {
    let mut world = distributed(false, 1);
    world.planner.proved(world.now, 99, OwnCopy::Corrupt, &[]);
    world.take();
    assert_eq!(world.planner.tracker_copy(id(1)), (true, 0));
    assert_eq!(verified(&world), 2);
}

#[test]
fn verification_proves_each_copy_of_a_file_and_reports_the_result() {
    let mut world = World::with(settings(), 3, 1_000);
    world.publish(id(1), 300);
    world.settle();
    let bad = world.holders(id(1), 7)[0];
    world.bad.insert((at(bad), id(1), 7));
    assert!(!world.planner.verify(world.now, id(9)));
    assert!(world.planner.verify(world.now, id(1)));
    world.take();
    (0..10).for_each(|_| world.settle());
    let verified = world.log.iter().find_map(|order| match order {
        Order::Verified { summary, .. } => Some(*summary),
        _ => None,
    });
    let summary = verified.expect("the verification has ended");
    assert_eq!((summary.chunks, summary.wrong, summary.cannot_tell, summary.own_corrupt), (300, 1, 0, 0));
    assert!(summary.proven >= 599, "{summary:?}");
}

#[test]
fn a_proof_without_an_own_copy_is_charged_to_the_repair_limit() {
    let mut world = World::with(Settings { offload: true, ..settings() }, 3, 100);
    world.publish(id(1), 60);
    world.settle();
    assert!(world.whole.is_empty());
    let limited = Settings { repair_limit: 5 * CHUNK, offload: true, ..settings() };
    world.restart(limited);
    for number in 0..3 {
        world.join(number, number, 100);
    }
    let begun = world.now;
    while verified(&world) < 120 {
        world.run();
        world.pass(Duration::from_millis(50));
    }
    let took = (world.now - begun).as_secs_f64();
    assert!((10.0..14.0).contains(&took), "{took} s for 60 chunks at 5 a second");
    assert_eq!(world.copies(), []);
    assert!(!world.disk.iter().any(|(location, ..)| *location == Location::Tracker));
}
