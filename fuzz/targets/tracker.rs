//! The whole tracker as a pure machine, under arbitrary events: see `drive` for what must hold.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal::swarm::machine::Machine as _;
use shoal::swarm::membership::Leases;
use shoal::swarm::tracker::{Rules, Tracker};
use shoal_fuzz::drive::{Event, LEASE, World, draw};

fuzz_target!(|input: (u8, Vec<Event>)| {
    let (quorum, events) = input;
    let leases = Leases { heartbeat: LEASE / 2, lease: LEASE };
    let rules = Rules { leases, quorum: usize::from(quorum % 4), ..Rules::default() };
    let tracker = Tracker::new(rules, fastrand::Rng::with_seed(quorum.into()), draw());
    let mut world = World::new(tracker, false);
    events.into_iter().for_each(|event| world.happens(event));
    world.empties();
    assert_eq!(world.machine.next_tick(), None, "there is nothing to wait for");
    assert_eq!(world.files(), 0, "there is no file without a holder");
});
