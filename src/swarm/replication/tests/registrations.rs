//! Tests of the records of volunteers: limits, expiry, removal; and of the lack of space.

use super::world::*;
use crate::content::{FileName, PeerName, limits};
use crate::protocol::status::ApprovalState;
use crate::protocol::tokens::VolunteerKey;
use crate::protocol::volunteer::CopyFailure;
use crate::swarm::keeping::{Approval, VolunteerNumber};
use crate::swarm::replication::{Order, Settings, StorageOffer};
use std::net::{IpAddr, SocketAddr};

fn offer(key: u128, address: SocketAddr, source: IpAddr) -> StorageOffer {
    let name = PeerName::new("v").unwrap();
    StorageOffer { key: VolunteerKey(key), name, address, source, offered: 1, free: 1, away: None }
}

#[test]
fn only_volunteers_that_connect_over_loopback_and_are_reached_over_it_need_no_approval() {
    let mut world = World::new(Settings { approve: true, ..settings() });
    let loopback: IpAddr = "127.0.0.1".parse().unwrap();
    let remote: IpAddr = "10.0.0.7".parse().unwrap();
    for (key, (address, source)) in
        [(loopback, loopback), (remote, loopback), (loopback, remote), ("::1".parse().unwrap(), loopback)]
            .into_iter()
            .enumerate()
    {
        world.planner.join(world.now, offer(key as u128, SocketAddr::new(address, 7000), source)).unwrap();
    }
    let approvals = world.planner.status(world.now, |_| None).volunteers;
    let approvals: Vec<ApprovalState> = approvals.iter().map(|one| one.approval).collect();
    use ApprovalState::{Implied, Pending};
    assert_eq!(approvals, [Implied, Pending, Pending, Implied]);
}

#[test]
fn approval_follows_the_key_and_not_the_name() {
    let mut world = World::new(Settings { approve: true, ..settings() });
    let address: SocketAddr = "10.0.0.7:7000".parse().unwrap();
    let first = world.planner.join(world.now, offer(1, address, address.ip())).unwrap();
    world.planner.set_approval(world.now, first, Approval::Approved);
    let other = world.planner.join(world.now, offer(2, address, address.ip())).unwrap();
    let approval = |world: &World, number| world.planner.volunteer(number).unwrap().history.approval;
    assert_eq!((approval(&world, first), approval(&world, other)), (Approval::Approved, Approval::Pending));
    world.planner.disconnect(world.now, first);
    assert_eq!(world.planner.join(world.now, offer(1, address, address.ip())), Ok(first));
    assert_eq!(approval(&world, first), Approval::Approved);
}

#[test]
fn records_of_one_address_are_limited_and_do_not_exclude_others() {
    let mut world = World::new(settings());
    let address: SocketAddr = "10.0.0.7:7000".parse().unwrap();
    let share = (limits::VOLUNTEER_RECORDS_MAX / 8) as u128;
    let mut refused = 0;
    for key in 0..share {
        refused += u32::from(world.planner.join(world.now, offer(key, address, address.ip())).is_err());
        world.planner.take_orders();
    }
    assert!(refused > 0, "all of them are connected");
    let known = world.planner.status(world.now, |_| None).volunteers.len() as u128;
    assert!(known > share / 2 && known < share);
    let honest: SocketAddr = "10.0.0.8:7000".parse().unwrap();
    assert!(world.planner.join(world.now, offer(1 << 70, honest, honest.ip())).is_ok());
    // Records of volunteers that have left make space for new ones.
    world.planner.mark_away(world.now, v(5));
    assert!(world.planner.join(world.now, offer(1 << 71, address, address.ip())).is_ok());
    assert_eq!(world.planner.volunteer(v(5)), None);
    assert!(world.planner.volunteer(v(6)).is_some());
}

#[test]
fn records_expire_unless_they_are_the_last_known_holder_of_a_chunk() {
    let mut world = World::with(settings(), 4, 100);
    world.planner.set_clock(1_700_000_000);
    world.publish(id(1), 6);
    world.settle();
    for file in std::mem::take(&mut world.whole) {
        world.planner.set_complete_at_tracker(world.now, file, false);
    }
    let only = world.holders(id(1), 0);
    for number in 0..4 {
        world.planner.disconnect(world.now, v(number));
    }
    world.take();
    // One holder is enough to be remembered.
    let error = world.planner.forget_volunteer(world.now, v(only[0]));
    assert_eq!(error, Ok(()), "another volunteer is known to have the chunks");
    world.pass(seconds(1));
    assert!(!world.volunteers.contains_key(&v(only[0])));
    let refused = world.planner.forget_volunteer(world.now, v(only[1])).unwrap_err();
    assert!(refused.contains("last known holder of "), "{refused}");
    let holders: Vec<VolunteerNumber> =
        (0..4).map(v).filter(|number| world.planner.forget_volunteer(world.now, *number).is_err()).collect();
    world.pass(limits::VOLUNTEER_RECORD_EXPIRY + seconds(7_300));
    let left: Vec<u32> = world.planner.status(world.now, |_| None).volunteers.iter().map(|_| 0).collect();
    assert!(!left.is_empty() && left.len() <= holders.len());
    assert!(world.planner.volunteer(v(only[1])).is_some());
}

#[test]
fn a_connected_volunteer_cannot_be_forgotten() {
    let mut world = World::with(settings(), 1, 100);
    let refused = world.planner.forget_volunteer(world.now, v(0)).unwrap_err();
    assert!(refused.contains("connected"), "{refused}");
    world.planner.disconnect(world.now, v(0));
    assert_eq!(world.planner.forget_volunteer(world.now, v(0)), Ok(()));
    world.pass(seconds(1));
    assert!(world.volunteers.is_empty());
    assert!(world.planner.forget_volunteer(world.now, v(0)).is_err());
}

#[test]
fn an_announced_absence_survives_a_restart_of_the_tracker() {
    let mut world = World::new(settings());
    world.planner.scan_complete(world.now);
    world.away = Some(seconds(3_600));
    for number in 0..3 {
        world.join(number, number, 100);
    }
    world.publish(id(1), 6);
    world.settle();
    world.planner.disconnect(world.now, v(0));
    world.take();
    world.pass(seconds(1));
    assert!(world.volunteers[&v(0)].history.away_until_s.is_some());
    world.restart(settings());
    world.join(1, 1, 100);
    world.join(2, 2, 100);
    let mut copied = 0;
    for _ in 0..100 {
        world.pass(seconds(30));
        copied += world.copies().len();
        world.run();
    }
    assert_eq!(copied, 0);
    let status = world.planner.status(world.now, |_| None);
    assert!(status.volunteers[0].away_s.is_some_and(|left| left < 700), "{:?}", status.volunteers[0]);
}

#[test]
fn lack_of_space_is_reported_once_and_small_files_still_get_their_copies() {
    let mut world = World::with(settings(), 3, 32);
    world.publish(id(1), 200);
    for _ in 0..5 {
        world.settle();
        world.pass(seconds(61));
    }
    let warnings = |world: &World| {
        let warnings = world.log.iter().filter_map(|order| match order {
            Order::Warn(text) if text.contains("too little space") => Some(text.clone()),
            _ => None,
        });
        warnings.collect::<Vec<_>>()
    };
    assert_eq!(warnings(&world).len(), 1, "{:?}", warnings(&world));
    assert!(warnings(&world)[0].contains("MiB missing"), "{:?}", warnings(&world));
    world.publish(id(2), 3);
    world.settle();
    for index in 0..3 {
        assert_eq!(world.holders(id(2), index).len(), 2, "chunk {index}");
    }
    let status = world.planner.status(world.now, |_| FileName::new("f").ok());
    assert!(status.copies.short > 0);
    assert!(!world.notes().iter().any(|note| note.contains("every chunk has its") && note.contains("200")));
}

#[test]
fn a_tracker_without_space_gets_no_copies_for_a_growing_time() {
    let mut world = World::with(Settings { offload: true, ..settings() }, 3, 14);
    world.publish(id(1), 20);
    world.settle();
    assert!(world.whole.is_empty());
    world.mark_lost(2);
    world.disk.retain(|(location, ..)| *location != at(2));
    let begun = world.now;
    let mut attempts = Vec::new();
    while world.now < begun + seconds(1_000) {
        while !world.orders.is_empty() {
            match world.orders.remove(0) {
                Order::Copy { file, index, to: TRACKER, .. } => {
                    attempts.push((world.now - begun).as_secs());
                    world.planner.not_stored(world.now, TRACKER, file, index, CopyFailure::NoRoom, None);
                    world.take();
                }
                order => world.carry_out(order),
            }
        }
        world.pass(seconds(1));
    }
    assert!(!attempts.is_empty() && attempts.len() <= 5 * limits::COPY_WINDOW_MAX as usize, "{attempts:?}");
    let pauses: Vec<u64> =
        attempts.windows(2).map(|pair| pair[1] - pair[0]).filter(|pause| *pause > 1).collect();
    assert!(pauses.len() >= 2 && pauses.is_sorted(), "{pauses:?}");
    let warnings =
        world.log.iter().filter(|order| matches!(order, Order::Warn(text) if text.contains("disk is full")));
    assert!(warnings.count() <= 5);
}
