//! The complete state machine of a tracker under arbitrary events, with the invariants of `drive`.
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
    events.into_iter().for_each(|event| world.apply(event));
    world.remove_all_peers();
    assert_eq!(world.machine.next_tick(), None, "a timer is set without a peer");
    assert_eq!(world.files(), 0, "a file without a holder is listed");
});
