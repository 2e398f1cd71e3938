//! Tests of challenges and audits.

use super::world::*;
use crate::content::limits;
use crate::swarm::keeping::Location;
use crate::swarm::replication::{Order, Settings};

fn challenging(offload: bool) -> Settings {
    Settings { challenge_every: Some(limits::CHALLENGE_INTERVAL), offload, ..Settings::default() }
}

fn distributed(offload: bool, chunks: u32) -> World {
    let mut world = World::with(challenging(offload), 3, 100);
    world.publish(id(1), chunks);
    world.settle();
    world
}

fn last_challenge(world: &World) -> (u64, Vec<Location>) {
    let found = world.log.iter().rev().find_map(|order| match order {
        Order::Challenge { number, to, range } => {
            assert!(u64::from(range.offset) + u64::from(range.length) <= CHUNK);
            Some((*number, to.clone()))
        }
        _ => None,
    });
    found.unwrap()
}

fn audits(world: &World) -> usize {
    world.log.iter().filter(|order| matches!(order, Order::Audit { .. })).count()
}

#[test]
fn holders_and_the_tracker_are_challenged_at_each_interval() {
    let mut world = distributed(false, 5);
    world.pass(limits::CHALLENGE_INTERVAL);
    let (_, to) = last_challenge(&world);
    assert_eq!((to.len(), to.last()), (3, Some(&TRACKER)));
    world.run();
    assert_eq!((audits(&world), world.planner.challenges.outstanding.len()), (0, 0));
}

#[test]
fn a_corrupt_copy_is_found_by_the_trackers_own_copy_and_replaced() {
    let mut world = distributed(false, 1);
    let bad = world.holders(id(1), 0)[0];
    world.bad.insert((at(bad), id(1), 0));
    world.pass(limits::CHALLENGE_INTERVAL);
    world.run();
    assert_eq!(audits(&world), 0);
    assert!(world.notes().iter().any(|note| note.contains("the copy of chunk 1 at volunteer-")));
    assert!(world.bad.is_empty());
    world.settle();
    assert_eq!(world.holders(id(1), 0).len(), 2);
}

#[test]
fn without_a_tracker_copy_holders_that_differ_are_audited() {
    let mut world = distributed(true, 1);
    assert!(world.whole.is_empty());
    let bad = world.holders(id(1), 0)[1];
    world.bad.insert((at(bad), id(1), 0));
    world.pass(limits::CHALLENGE_INTERVAL);
    world.run();
    assert_eq!(audits(&world), 2);
    world.settle();
    assert!(world.bad.is_empty());
    assert_eq!(world.holders(id(1), 0).len(), 2);
    assert_eq!(world.planner.status(|_| None).copies.verified, 2);
}

#[test]
fn claimed_copies_that_agree_are_verified() {
    let mut world = distributed(true, 1);
    world.restart(challenging(true));
    for number in 0..3 {
        world.join(number, number, 100);
    }
    assert_eq!(world.planner.status(|_| None).copies.verified, 0);
    world.pass(limits::CHALLENGE_INTERVAL);
    world.run();
    assert_eq!(world.planner.status(|_| None).copies.verified, 2);
}

#[test]
fn a_holder_that_does_not_answer_is_audited() {
    let mut world = distributed(false, 1);
    world.pass(limits::CHALLENGE_INTERVAL);
    let (number, _) = last_challenge(&world);
    world.orders.clear();
    world.planner.proof(world.now, TRACKER, number, None);
    world.pass(limits::CHALLENGE_TIMEOUT - seconds(1));
    assert_eq!(audits(&world), 0);
    world.pass(seconds(1));
    assert_eq!(audits(&world), 2);
}

#[test]
fn a_missing_copy_is_replaced() {
    let mut world = distributed(false, 1);
    let holders = world.holders(id(1), 0);
    world.disk.remove(&(at(holders[0]), id(1), 0));
    world.bad.insert((at(holders[0]), id(1), 0));
    world.pass(limits::CHALLENGE_INTERVAL);
    world.run();
    world.settle();
    assert_eq!(world.holders(id(1), 0).len(), 2);
}

#[test]
fn a_source_of_corrupt_bytes_is_audited_and_replaced() {
    let mut world = distributed(true, 1);
    let holders = world.holders(id(1), 0);
    world.bad.insert((at(holders[1]), id(1), 0));
    world.mark_dead(holders[0]);
    world.run();
    assert_eq!(audits(&world), 1);
    assert!(world.notes().iter().any(|note| note.contains("is bad")));
    assert!(
        world.log.iter().any(|order| matches!(order, Order::Lost { .. }))
            || world.holders(id(1), 0).len() <= 1
    );
    world.join(holders[0], holders[0], 100);
    world.settle();
    world.pass(seconds(20));
    world.settle();
    assert_eq!(world.holders(id(1), 0).len(), 2, "the volunteer that returned had it");
}

#[test]
fn a_single_holder_is_audited_from_time_to_time() {
    let mut world = World::with(Settings { replicas: 1, ..challenging(true) }, 3, 100);
    world.publish(id(1), 1);
    world.settle();
    for _ in 0..40 {
        world.pass(limits::CHALLENGE_INTERVAL);
        world.run();
    }
    assert!((3..25).contains(&audits(&world)), "{}", audits(&world));
}

#[test]
fn unsolicited_answers_are_ignored() {
    let mut world = distributed(false, 1);
    world.planner.proof(world.now, at(0), 99, None);
    world.pass(limits::CHALLENGE_INTERVAL);
    let (number, to) = last_challenge(&world);
    world.orders.clear();
    let stranger = (0..3).map(at).find(|location| !to.contains(location)).unwrap();
    world.planner.proof(world.now, stranger, number, None);
    world.take();
    assert_eq!(world.planner.challenges.outstanding.len(), 1);
}
