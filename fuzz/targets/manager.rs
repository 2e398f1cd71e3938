//! The whole manager as a pure machine, under arbitrary events: see `drive` for what must hold. In the end everybody
//! who is there knows who is there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal::swarm::machine::Machine as _;
use shoal::swarm::manager::Manager;
use shoal::swarm::membership::Leases;
use shoal_fuzz::drive::{Event, LEASE, World, draw};

fuzz_target!(|input: (bool, Vec<Event>)| {
    let (trust, events) = input;
    let leases = Leases { heartbeat: LEASE / 2, lease: LEASE };
    let mut world = World::new(Manager::new(leases, trust, draw()), true);
    events.into_iter().for_each(|event| world.happens(event));
    world.settles();
    world.empties();
    assert_eq!(world.machine.next_tick(), None, "there is nothing to wait for");
});
