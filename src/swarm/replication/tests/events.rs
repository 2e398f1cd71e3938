//! Random events in random order: no forbidden order is issued, all counters are right, and in the end every
//! chunk that is not lost has all its copies.

use super::super::file::Offload;
use super::world::*;
use crate::content::ChunkIndex;
use crate::protocol::volunteer::CopyFailure;
use crate::swarm::replication::{Order, Settings};
use proptest::prelude::*;
use std::time::Duration;

#[derive(Clone, Debug)]
enum Event {
    Join {
        number: u32,
        checked: bool,
    },
    Connect(u32),
    Report(u32),
    Away(u32),
    Die(u32),
    Wipe(u32),
    Publish(u8),
    Withdraw(u8),
    Forget(u8),
    /// An order is carried out, not necessarily the first one.
    CarryOut(usize),
    /// An order is never answered.
    Ignore(usize),
    Fail(usize, CopyFailure),
    Damage(usize),
    Spoil(usize),
    Drain(u32, bool),
    Pause(bool),
    Record,
    Pass(u64),
    Run,
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    use Event::*;
    let why = prop_oneof![
        Just(CopyFailure::NoRoom),
        Just(CopyFailure::Corrupt),
        Just(CopyFailure::Unreachable),
        Just(CopyFailure::Disk),
    ];
    prop_oneof![
        4 => (0u32..6, any::<bool>()).prop_map(|(number, checked)| Join { number, checked }),
        1 => (0u32..6).prop_map(Connect),
        1 => (0u32..6).prop_map(Report),
        2 => (0u32..6).prop_map(Away),
        2 => (0u32..6).prop_map(Die),
        1 => (0u32..6).prop_map(Wipe),
        2 => (1u8..4).prop_map(Publish),
        1 => (1u8..4).prop_map(Withdraw),
        1 => (1u8..4).prop_map(Forget),
        12 => (0usize..8).prop_map(CarryOut),
        1 => (0usize..8).prop_map(Ignore),
        2 => (0usize..8, why).prop_map(|(at, why)| Fail(at, why)),
        1 => (0usize..40).prop_map(Damage),
        1 => (0usize..40).prop_map(Spoil),
        2 => (0u32..6, any::<bool>()).prop_map(|(number, on)| Drain(number, on)),
        1 => any::<bool>().prop_map(Pause),
        3 => Just(Record),
        3 => (1u64..15_000).prop_map(Pass),
        2 => Just(Run),
        1 => Just(Restart),
    ]
}

/// The simulated world and its connected volunteers.
struct Random {
    world: World,
    settings: Settings,
    known: u32,
    connected: [bool; 6],
}

impl Random {
    fn connect(&mut self, number: u32) -> u32 {
        // Volunteers get consecutive numbers when they first join.
        let number = number.min(self.known);
        self.known = self.known.max(number + 1);
        self.connected[number as usize] = true;
        self.world.connect(number, number / 2, 14 + u64::from(number));
        number
    }

    fn leave(&mut self, number: u32) {
        self.connected[number as usize] = false;
        // The volunteer carries out no further orders and delivers no further copies.
        self.world.orders.retain(|order| !concerns(order, number));
    }

    fn take_order(&mut self, at: usize) -> Option<Order> {
        let at = at.checked_rem(self.world.orders.len())?;
        Some(self.world.orders.remove(at))
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Join { number, checked } => {
                let number = self.connect(number);
                self.world.report(number, checked);
            }
            Event::Connect(number) => drop(self.connect(number)),
            Event::Report(number) if self.connected[number as usize] => self.world.report(number, false),
            Event::Away(number) => {
                self.world.planner.mark_away(self.world.now, v(number));
                self.leave(number);
            }
            Event::Die(number) => {
                self.world.planner.mark_lost(self.world.now, v(number));
                self.leave(number);
            }
            Event::Wipe(number) if !self.connected[number as usize] => {
                self.world.disk.retain(|(location, ..)| *location != at(number));
            }
            Event::Publish(file) => self.world.publish(id(file), u32::from(file) * 4),
            Event::Withdraw(file) => {
                self.world.whole.remove(&id(file));
                self.world.planner.set_complete_at_tracker(self.world.now, id(file), false);
            }
            Event::Forget(file) => {
                self.world.planner.forget(self.world.now, id(file));
                self.world.disk.retain(|(location, held, _)| *location != TRACKER || *held != id(file));
                self.world.rotten.retain(|(held, _)| *held != id(file));
            }
            Event::Drain(number, on) => self.world.planner.drain(self.world.now, v(number), on),
            Event::Pause(on) => self.world.planner.pause(self.world.now, on),
            Event::Record => self.world.record(),
            Event::Pass(time) => self.world.pass(Duration::from_millis(time)),
            Event::Run => self.world.run(),
            Event::Restart => {
                self.connected = [false; 6];
                // All state that is not durable is lost, except the numbers of volunteers, which the test
                // relies on.
                for number in (0..self.known).map(v) {
                    let record = self.world.planner.volunteer(number).unwrap().clone();
                    self.world.volunteers.insert(number, record);
                }
                self.world.restart(self.settings.clone());
            }
            other => self.apply_to_order(other),
        }
        self.world.take();
    }

    fn apply_to_order(&mut self, event: Event) {
        match event {
            Event::CarryOut(at) => {
                if let Some(order) = self.take_order(at) {
                    self.world.carry_out(order);
                }
            }
            Event::Ignore(at) => drop(self.take_order(at)),
            Event::Fail(at, why) => match self.take_order(at) {
                Some(Order::Copy { file, index, to, .. }) => {
                    self.world.planner.not_stored(self.world.now, to, file, index, why, None);
                }
                Some(other) => self.world.carry_out(other),
                None => {}
            },
            Event::Damage(at) => {
                let copy =
                    self.world.disk.iter().nth(at).filter(|(location, ..)| *location != TRACKER).copied();
                self.world.bad.extend(copy);
            }
            Event::Spoil(at) => {
                let Some(copy) = self.world.disk.iter().nth(at).copied() else { return };
                self.world.disk.remove(&copy);
                self.world.bad.remove(&copy);
                let (location, file, index) = copy;
                self.world.planner.spoiled(self.world.now, location, file, &[ChunkIndex(index)], None);
            }
            _ => {}
        }
    }
}

fn concerns(order: &Order, number: u32) -> bool {
    match order {
        Order::Copy { to, .. } => *to == at(number),
        Order::Drop { at: volunteer, .. } | Order::Check { volunteer, .. } => *volunteer == v(number),
        _ => false,
    }
}

fn settings_of(offload: bool, replicas: usize, repair_limit: u64) -> Settings {
    Settings {
        offload,
        replicas,
        replicas_max: 0,
        approve: false,
        repair_limit,
        challenge_every: Some(seconds(7)),
        ..Settings::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_invariants_hold_for_any_sequence_of_events(
        events in prop::collection::vec(event(), 1..120),
        offload in any::<bool>(),
        replicas in 1usize..4,
        limited in any::<bool>(),
    ) {
        let settings = settings_of(offload, replicas, if limited { 4 * CHUNK } else { 0 });
        let world = World::with(settings.clone(), 0, 0);
        let mut random = Random { world, settings, known: 0, connected: [false; 6] };
        random.world.records = false;
        for event in events {
            random.apply(event);
        }
        heal(&mut random);
        let world = &random.world;
        let status = world.planner.status(world.now, |_| None);
        prop_assert_eq!(status.copies.short, status.copies.lost, "each chunk that is not lost has all copies");
        prop_assert_eq!((status.repair.waiting, status.repair.running), (status.copies.lost, 0));
        let copies = world.disk.iter().filter(|(location, file, _)| *location != TRACKER && !world.forgotten.contains(file));
        prop_assert_eq!(copies.count() as u64, status.copies.verified, "no copy is over-replicated or unknown");
        prop_assert_eq!(status.copies.verified + status.copies.lost * replicas as u64, status.copies.wanted);
        for file in world.planner.files.iter().filter(|file| file.offload == Offload::Done) {
            prop_assert_eq!(file.stored_chunks, 0, "chunks copied back were distributed again");
        }
    }
}

/// All volunteers join with enough storage and verify their chunks; all orders are carried out.
fn heal(random: &mut Random) {
    random.world.records = true;
    random.world.record();
    random.world.planner.pause(random.world.now, false);
    random.world.take();
    for number in 0..6 {
        let number = number.min(random.known);
        random.known = random.known.max(number + 1);
        random.world.orders.retain(|order| !concerns(order, number));
        let sound = random.world.bad.iter().filter(|(location, ..)| *location == at(number)).copied();
        for copy in sound.collect::<Vec<_>>() {
            random.world.bad.remove(&copy);
            random.world.disk.remove(&copy);
        }
        random.world.connect(number, number / 2, 1_000);
        random.world.report(number, true);
        random.world.planner.drain(random.world.now, v(number), false);
        random.world.take();
    }
    // Longer than the time after which a proof without an outcome is given up, and the longest backoff.
    for _ in 0..100 {
        random.world.run();
        random.world.pass(seconds(10));
    }
    random.world.run();
}
