//! Simulation of a week with 30 PCs of which 20 are switched off each night, of a restart, and of a machine that
//! is lost for good.

use super::tests::world::*;
use super::{Order, Settings};
use crate::content::limits;
use crate::swarm::keeping::Location;
use std::time::Duration;

const PCS: u32 = 30;
const OFF_AT_NIGHT: u32 = 20;
const HOUR: Duration = Duration::from_secs(3_600);

fn copied(world: &World) -> u64 {
    world.planner.status(world.now, |_| None).repair.copied
}

fn drops(world: &World) -> usize {
    world.log.iter().filter(|order| matches!(order, Order::Drop { .. })).count()
}

/// A world whose volunteers announce absences of 14 hours, with a distributed file of which the tracker has no
/// copy any more.
fn distributed(volunteers: u32, chunks: u32) -> World {
    let settings = Settings { offload: true, approve: false, ..Settings::default() };
    let mut world = World::new(settings);
    world.planner.scan_complete(world.now);
    world.away = Some(14 * HOUR);
    world.recounts = false;
    for number in 0..volunteers {
        world.join(number, number, 200);
    }
    world.publish(id(1), chunks);
    (0..3).for_each(|_| world.settle());
    assert!(world.whole.is_empty(), "the file is offloaded");
    world
}

/// Lets time pass and carries out all orders.
fn live(world: &mut World, time: Duration) {
    let end = world.now + time;
    while world.now < end {
        world.run();
        world.pass(Duration::from_secs(30).min(end - world.now));
    }
    world.run();
}

#[test]
fn a_week_with_nights_copies_no_chunk_and_empties_no_store() {
    let mut world = distributed(PCS, 150);
    let mut random = fastrand::Rng::with_seed(3);
    let before = copied(&world);
    assert_eq!(before, 300);
    for day in 0..7u64 {
        live(&mut world, 2 * HOUR);
        let mut off: Vec<u32> = (0..PCS).collect();
        random.shuffle(&mut off);
        off.truncate(OFF_AT_NIGHT as usize);
        for number in &off {
            world.planner.disconnect(world.now, v(*number));
            world.take();
            live(&mut world, Duration::from_secs(random.u64(..120)));
        }
        live(&mut world, 13 * HOUR);
        assert_eq!(copied(&world), before, "night {day}");
        for number in &off {
            world.join(*number, *number, 200);
            live(&mut world, Duration::from_secs(random.u64(..60)));
        }
        live(&mut world, HOUR);
        let status = world.planner.status(world.now, |_| None);
        assert_eq!(
            (copied(&world), status.copies.lost, status.copies.verified),
            (before, 0, 300),
            "day {day}"
        );
    }
    assert_eq!(drops(&world), 0);
    let mean = 300.0 / f64::from(PCS);
    for number in 0..PCS {
        let held = world.chunks_of(number).get(&id(1)).map_or(0, Vec::len) as f64;
        assert!(held > 0.0 && held <= 1.5 * mean, "{held} chunks at {number}, {mean} on average");
    }
}

#[test]
fn a_restart_of_a_volunteer_copies_nothing() {
    for in_order in [true, false] {
        let mut world = distributed(6, 90);
        world.away = None;
        for number in 0..6 {
            match in_order {
                true => world.planner.disconnect(world.now, v(number)),
                false => world.planner.mark_away(world.now, v(number)),
            }
            world.take();
            live(&mut world, Duration::from_millis(1_200));
            world.join(number, number, 200);
            live(&mut world, Duration::from_secs(60));
        }
        assert_eq!((copied(&world), drops(&world)), (180, 0));
        assert_eq!(world.planner.status(world.now, |_| None).copies.verified, 180);
    }
}

#[test]
fn a_restart_of_the_tracker_copies_nothing() {
    let mut world = distributed(6, 90);
    let settings = Settings { offload: true, approve: false, ..Settings::default() };
    world.restart(settings);
    live(&mut world, Duration::from_secs(3));
    for number in 0..6 {
        world.join(number, number, 200);
    }
    live(&mut world, Duration::from_secs(120));
    assert_eq!((copied(&world), drops(&world)), (0, 0));
    assert_eq!(world.planner.status(world.now, |_| None).copies.verified, 180);
}

#[test]
fn a_machine_that_is_lost_for_good_is_repaired_within_the_repair_delay() {
    let mut world = distributed(6, 90);
    // Two safe copies remain of each chunk of a file with three.
    let three = Settings { replicas: 3, replicas_max: 5, approve: false, ..Settings::default() };
    world.restart(three);
    for number in 0..6 {
        world.join(number, number, 200);
    }
    live(&mut world, Duration::from_secs(120));
    assert_eq!(world.planner.status(world.now, |_| None).copies.verified, 270);
    let before = copied(&world);
    let lost = world.chunks_of(2)[&id(1)].len() as u64;
    world.planner.mark_away(world.now, v(2));
    world.take();
    world.disk.retain(|(location, ..)| *location != Location::Volunteer(v(2)));
    live(&mut world, limits::REPAIR_DELAY - Duration::from_secs(30));
    assert_eq!(copied(&world), before, "two safe copies of each chunk remain");
    live(&mut world, Duration::from_secs(60));
    assert_eq!(copied(&world), before + lost);
    assert_eq!(world.planner.status(world.now, |_| None).copies.short, 0);
}
