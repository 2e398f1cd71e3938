//! The complete state machine of a manager under arbitrary events, with the invariants of `drive`. At the end each
//! member knows all members.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal::swarm::machine::Machine as _;
use shoal::swarm::manager::Manager;
use shoal::swarm::membership::{Exposure, Leases};
use shoal_fuzz::drive::{Event, LEASE, World, draw};

fuzz_target!(|input: (bool, Vec<Event>)| {
    let (trust, events) = input;
    let leases = Leases { heartbeat: LEASE / 2, lease: LEASE };
    let mut world =
        World::new(Manager::new(leases, Exposure { public: false, trust_advertised: trust }, draw()), true);
    events.into_iter().for_each(|event| world.apply(event));
    world.assert_lists_are_current();
    world.remove_all_peers();
    assert_eq!(world.machine.next_tick(), None, "a timer is set without a peer");
});
