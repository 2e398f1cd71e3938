//! A tracker that keeps files, under the reports of hostile volunteers and with tasks that fail: the invariants of `drive`
//! hold, and after all peers have left, only the records of volunteers remain.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use shoal::content::{ChunkIndex, FileId, Layout};
use shoal::protocol::volunteer::KeptFile;
use shoal::swarm::keeping::{ExecutorTask, OffloadResult, OwnCopy, TaskOutcome, Verdict};
use shoal::swarm::machine::Machine as _;
use shoal::swarm::membership::Leases;
use shoal::swarm::replication::Settings;
use shoal::swarm::tracker::{KeepRules, Remembered, Rules, Tracker};
use shoal_fuzz::drive::{Event, LEASE, World, draw};
use shoal_fuzz::requests::{file_id, kept, peer_name};

#[derive(Arbitrary, Debug)]
enum Step {
    World(Event),
    /// The task of this number ends, well or badly.
    TaskEnds(u8, u8),
    Published(u8),
    Withdrawn(u8),
    Spoiled(u8, u8),
}

fn layout(kept: &KeptFile) -> Layout {
    let lengths = vec![20_000; kept.file.chunks as usize];
    Layout::uneven(lengths).expect("a layout")
}

/// The outcome of a task; `None` for a task without one.
fn outcome(task: ExecutorTask, how: u8) -> Option<TaskOutcome> {
    let good = how.is_multiple_of(2);
    Some(match task {
        ExecutorTask::Record { number, .. } => TaskOutcome::Recorded(number),
        ExecutorTask::Download { kept, index, .. } if good => TaskOutcome::Stored(kept.file.id, index),
        ExecutorTask::Download { kept, index, .. } => {
            let why = shoal::protocol::volunteer::CopyFailure::Corrupt;
            TaskOutcome::NotStored(kept.file.id, index, why)
        }
        ExecutorTask::Drop { file, chunks, .. } => {
            TaskOutcome::Dropped(file, if good { chunks } else { Vec::new() })
        }
        ExecutorTask::Offload { kept, .. } => TaskOutcome::Offloaded(kept.file.id, OffloadResult::Deleted),
        ExecutorTask::Adopt { kept, .. } => {
            let layout = layout(&kept);
            TaskOutcome::Adopted(kept.file.id, good.then_some((kept, layout)))
        }
        ExecutorTask::ProveCopies { number, file, index, holders } => {
            let verdict = |at: usize| match (usize::from(how) >> (at % 4)) % 3 {
                0 => Verdict::Right,
                1 => Verdict::Wrong,
                _ => Verdict::CannotTell,
            };
            let verdicts = holders.iter().enumerate().map(|(at, one)| (one.volunteer, verdict(at))).collect();
            let own = if how > 200 { OwnCopy::Corrupt } else { OwnCopy::Absent };
            TaskOutcome::Proved { number, file, index, own, verdicts }
        }
        ExecutorTask::Withdraw(file) => TaskOutcome::Withdrawn(file),
        ExecutorTask::Recall { kept, .. } => {
            TaskOutcome::Recalled(kept.file.id, if good { Ok(()) } else { Err("no space".to_owned()) })
        }
        _ => return None,
    })
}

fn end_task(world: &mut World<Tracker>, task: ExecutorTask, how: u8) {
    if let Some(outcome) = outcome(task, how) {
        report(world, outcome);
    }
}

fn report(world: &mut World<Tracker>, outcome: TaskOutcome) {
    let effects = world.machine.task_outcome(world.now, outcome);
    world.check(effects);
}

fn publish(world: &mut World<Tracker>, number: u8) {
    let kept = kept(number);
    let layout = layout(&kept);
    report(world, TaskOutcome::Published { kept, layout });
}

fuzz_target!(|input: (bool, bool, Vec<Step>)| {
    let (rebuild, approve, steps) = input;
    let leases = Leases { heartbeat: LEASE / 2, lease: LEASE };
    let rules = Rules { leases, ..Rules::default() };
    let mut tracker = Tracker::new(rules, fastrand::Rng::with_seed(1), draw());
    let serving = ([0, 0, 0, 0], 5_101).into();
    let settings = Settings { approve, volunteers_min: 1, lease: LEASE, ..Settings::default() };
    let keep = KeepRules { settings, name: peer_name(0), serving, rebuild };
    tracker.keep(keep, Remembered::default(), fastrand::Rng::with_seed(2));
    let mut world = World::new(tracker, false);
    world.keeps = true;
    world.always.insert(serving);
    report(&mut world, TaskOutcome::ScanComplete);
    for step in steps {
        match step {
            Step::World(event) => world.apply(event),
            Step::TaskEnds(number, how) if !world.tasks.is_empty() => {
                let at = usize::from(number) % world.tasks.len();
                let task = world.tasks.remove(at);
                end_task(&mut world, task, how);
            }
            Step::TaskEnds(..) => {}
            Step::Published(number) => publish(&mut world, number),
            Step::Withdrawn(number) => report(&mut world, TaskOutcome::Withdrawn(file_id(number))),
            Step::Spoiled(number, index) => {
                let (file, index): (FileId, _) = (file_id(number), ChunkIndex(u32::from(index % 7)));
                report(&mut world, TaskOutcome::Spoiled(file, vec![index]));
            }
        }
        // Records are written in order.
        let (records, others) = std::mem::take(&mut world.tasks)
            .into_iter()
            .partition(|task| matches!(task, ExecutorTask::Record { .. }));
        world.tasks = others;
        let records: Vec<ExecutorTask> = records;
        records.into_iter().for_each(|record| end_task(&mut world, record, 0));
    }
    world.remove_all_peers();
});
