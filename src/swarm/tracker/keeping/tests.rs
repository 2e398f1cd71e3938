//! Tests of a tracker that keeps files, with simulated volunteers and an executor that act at once.

use super::super::{KeepRules, Remembered, Rules, Tracker};
use crate::content::{ChunkIndex, FileId, FileName, Layout, Md5, PeerName};
use crate::protocol::ErrorCode;
use crate::protocol::tokens::VolunteerKey;
use crate::protocol::tracker::{FileSummary, Registration, Token, TrackerRequest, TrackerResponse};
use crate::protocol::volunteer::{KeptFile, VolunteerOrder, VolunteerReport};
use crate::swarm::Moment;
use crate::swarm::command::{Answer, Command, Wanted};
use crate::swarm::keeping::{ExecutorTask, Holder, OffloadResult, OwnCopy, TaskOutcome, Verdict};
use crate::swarm::machine::{ConnectionId, Effect, Machine, Origin};
use crate::swarm::replication::Settings;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

mod owner;

const FILE: FileId = FileId([7; 32]);
const CHUNKS: u32 = 6;

fn kept(id: FileId) -> KeptFile {
    let file = FileSummary {
        id,
        name: FileName::new("f").unwrap(),
        size: u64::from(CHUNKS) * (512 << 10),
        chunks: CHUNKS,
    };
    KeptFile { file, md5: Md5([5; 16]) }
}

fn layout() -> Layout {
    Layout::even(u64::from(CHUNKS) * (512 << 10), Some(512 << 10)).unwrap()
}

/// A volunteer that carries out each order at once.
struct SimulatedVolunteer {
    token: Token,
    held: BTreeMap<FileId, BTreeSet<ChunkIndex>>,
    orders: Vec<VolunteerOrder>,
}

struct World {
    tracker: Tracker,
    now: Moment,
    volunteers: BTreeMap<u64, SimulatedVolunteer>,
    tasks: Vec<ExecutorTask>,
    notes: Vec<String>,
    answers: Vec<Answer>,
    replies: Vec<TrackerResponse>,
}

fn origin(connection: u64) -> Origin {
    Origin::Connection(ConnectionId(connection), IpAddr::from([10, 0, 0, connection as u8]))
}

impl World {
    fn new(offload: bool, rebuild: bool) -> Self {
        let settings = Settings { offload, challenge_every: None, approve: false, ..Settings::default() };
        Self::with(settings, rebuild)
    }

    fn with(settings: Settings, rebuild: bool) -> Self {
        let mut next = 0;
        let draw = move || {
            next += 1;
            next
        };
        let mut tracker = Tracker::new(Rules::default(), fastrand::Rng::with_seed(1), draw);
        let serving = "0.0.0.0:5101".parse().unwrap();
        let rules = KeepRules { settings, name: PeerName::new("T").unwrap(), serving, rebuild };
        tracker.keep(rules, Remembered::default(), fastrand::Rng::with_seed(2));
        let (volunteers, tasks, notes, answers) = Default::default();
        Self { tracker, now: Duration::ZERO, volunteers, tasks, notes, answers, replies: Vec::new() }
    }

    fn request(&mut self, connection: u64, request: TrackerRequest) {
        let effects = self.tracker.request(self.now, origin(connection), request);
        self.settle(effects);
    }

    fn news(&mut self, news: TaskOutcome) {
        let effects = self.tracker.task_outcome(self.now, news);
        self.settle(effects);
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.tracker.next_tick().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let effects = self.tracker.tick(self.now);
            self.settle(effects);
            if due <= self.now {
                // An event that is due again immediately runs 1 ms later.
                self.now += Duration::from_millis(1);
            }
        }
        self.now = end;
        self.beat();
    }

    /// All connected volunteers send a heartbeat.
    fn beat(&mut self) {
        let tokens: Vec<(u64, Token)> =
            self.volunteers.iter().map(|(id, volunteer)| (*id, volunteer.token)).collect();
        for (id, token) in tokens {
            self.request(id, TrackerRequest::Heartbeat { token });
        }
    }

    fn join(&mut self, connection: u64) {
        self.join_with(connection, BTreeMap::new());
    }

    fn join_with(&mut self, connection: u64, held: BTreeMap<FileId, BTreeSet<ChunkIndex>>) {
        let name = PeerName::new(format!("v{connection}")).unwrap();
        let registration = Registration { name, port: 7000, advertise: None, volunteer: false };
        self.request(connection, TrackerRequest::Register(registration));
        let Some(TrackerResponse::Registered { token, .. }) = self.replies.pop() else {
            panic!("not registered")
        };
        self.volunteers
            .insert(connection, SimulatedVolunteer { token, held: held.clone(), orders: Vec::new() });
        let key = VolunteerKey(connection.into());
        self.say(connection, VolunteerReport::Lend { key, offered: 1 << 30, free: 1 << 30, away_s: None });
        for (file, chunks) in held {
            let held = chunks.into_iter().collect();
            self.say(connection, VolunteerReport::Holds { kept: kept(file), held, checked: true });
        }
        self.say(connection, VolunteerReport::Reported);
    }

    fn say(&mut self, connection: u64, act: VolunteerReport) {
        let token = self.volunteers[&connection].token;
        self.request(connection, TrackerRequest::Volunteer { token, act });
    }

    fn settle(&mut self, effects: Vec<Effect>) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Reply(_, TrackerResponse::Volunteer { .. } | TrackerResponse::Alive) => {}
                Effect::Reply(_, response) => self.replies.push(response),
                Effect::Push(ConnectionId(id), TrackerResponse::Volunteer { order }) => {
                    effects.extend(self.carry_out(id, *order));
                }
                Effect::Note(text) | Effect::Warning(text) => self.notes.push(text),
                Effect::Answer(_, answer) => self.answers.push(answer),
                Effect::Task(task) => {
                    self.tasks.push(task.clone());
                    let news = match task {
                        ExecutorTask::Record { number, .. } => TaskOutcome::Recorded(number),
                        ExecutorTask::Offload { kept, .. } => {
                            TaskOutcome::Offloaded(kept.file.id, OffloadResult::Deleted)
                        }
                        ExecutorTask::Download { kept, index, .. } => {
                            TaskOutcome::Stored(kept.file.id, index)
                        }
                        ExecutorTask::Drop { file, chunks, .. } => TaskOutcome::Dropped(file, chunks),
                        ExecutorTask::Adopt { kept, .. } => {
                            TaskOutcome::Adopted(kept.file.id, Some((kept, layout())))
                        }
                        ExecutorTask::ProveCopies { number, file, index, holders } => {
                            self.prove(number, file, index, &holders)
                        }
                        _ => continue,
                    };
                    effects.extend(self.tracker.task_outcome(self.now, news));
                }
                other => panic!("unexpected: {other:?}"),
            }
        }
    }

    /// The volunteer with the key `n` has connection `n`.
    fn prove(&self, number: u64, file: FileId, index: ChunkIndex, holders: &[Holder]) -> TaskOutcome {
        let verdict = |holder: &Holder| match self.volunteers.get(&(holder.key.0 as u64)) {
            Some(one) if one.held.get(&file).is_some_and(|held| held.contains(&index)) => Verdict::Right,
            Some(_) => Verdict::Wrong,
            None => Verdict::CannotTell,
        };
        let verdicts = holders.iter().map(|holder| (holder.volunteer, verdict(holder))).collect();
        TaskOutcome::Proved { number, file, index, own: OwnCopy::Right, verdicts }
    }

    fn carry_out(&mut self, id: u64, order: VolunteerOrder) -> Vec<Effect> {
        let Some(volunteer) = self.volunteers.get_mut(&id) else { return Vec::new() };
        volunteer.orders.push(order.clone());
        let free = 1 << 30;
        let act = match order {
            VolunteerOrder::Copy { kept, index, .. } => {
                let file = kept.file.id;
                assert!(
                    volunteer.held.entry(file).or_default().insert(index),
                    "ordered twice to copy {index}"
                );
                VolunteerReport::Stored { file, index, free }
            }
            VolunteerOrder::Drop { file, chunks } => {
                let held = volunteer.held.entry(file).or_default();
                chunks.iter().for_each(|index| {
                    assert!(held.remove(index), "ordered to drop a chunk that it does not have")
                });
                VolunteerReport::Dropped { file, chunks, free }
            }
            _ => return Vec::new(),
        };
        let token = volunteer.token;
        self.tracker.request(self.now, origin(id), TrackerRequest::Volunteer { token, act })
    }

    fn publish(&mut self) {
        self.news(TaskOutcome::Published { kept: kept(FILE), layout: layout() });
        self.news(TaskOutcome::ScanComplete);
    }

    fn copies(&self) -> usize {
        self.volunteers.values().filter_map(|volunteer| volunteer.held.get(&FILE)).map(BTreeSet::len).sum()
    }

    fn leave(&mut self, connection: u64) -> SimulatedVolunteer {
        let volunteer = self.volunteers.remove(&connection).unwrap();
        let effects = self.tracker.closed(self.now, ConnectionId(connection));
        self.settle(effects);
        volunteer
    }

    fn found(&mut self) -> (usize, usize, Option<Md5>) {
        let lookup = TrackerRequest::Lookup { name: None, id: Some(FILE), limit: 30, token: None };
        self.request(99, lookup);
        let Some(TrackerResponse::Found { files, .. }) = self.replies.pop() else { panic!("no answer") };
        files.first().map_or((0, 0, None), |found| (found.whole.len(), found.partial.len(), found.md5))
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_file_is_replicated_offloaded_and_found_at_its_volunteers() {
    let mut world = World::new(true, false);
    world.publish();
    assert_eq!(world.found(), (1, 0, Some(Md5([5; 16]))), "the tracker itself has it");
    (1..=2).for_each(|id| world.join(id));
    world.wait(SECOND);
    assert_eq!(world.copies(), 0, "two volunteers are too few");
    world.join(3);
    world.wait(SECOND);
    assert_eq!(world.copies(), 12);
    let offload = world
        .tasks
        .iter()
        .position(|task| matches!(task, ExecutorTask::Offload { .. }))
        .expect("the file is offloaded");
    let recorded = |task: &ExecutorTask| matches!(task, ExecutorTask::Record { .. });
    assert!(world.tasks[..offload].iter().any(recorded), "the locations of the copies are recorded first");
    // The tracker has the manifest and no chunk; lookups return the volunteers with their chunks.
    assert_eq!(world.found(), (0, 4, Some(Md5([5; 16]))));
}

#[test]
fn only_a_volunteer_that_does_not_return_is_replaced() {
    let mut world = World::new(true, false);
    world.publish();
    (1..=4).for_each(|id| world.join(id));
    world.wait(SECOND);
    assert_eq!(world.copies(), 12);
    let volunteer = world.leave(1);
    let had = volunteer.held.get(&FILE).map_or(0, BTreeSet::len);
    assert!(had > 0);
    (0..5).for_each(|_| world.wait(SECOND));
    assert_eq!(world.copies(), 12 - had, "it may return");
    world.join_with(1, volunteer.held);
    world.wait(SECOND);
    assert_eq!(world.copies(), 12, "it has returned with all its chunks");
    world.leave(1);
    (0..130).for_each(|_| world.wait(5 * SECOND));
    assert_eq!(world.copies(), 12, "the other volunteers hold its chunks now");
}

#[test]
fn a_volunteer_that_disconnects_in_order_is_away_and_replaced_after_the_repair_delay() {
    let mut world = World::new(false, false);
    world.publish();
    (1..=4).for_each(|id| world.join(id));
    world.wait(SECOND);
    let volunteer = world.volunteers.remove(&1).unwrap();
    world.request(1, TrackerRequest::Goodbye { token: volunteer.token });
    let had = volunteer.held.get(&FILE).map_or(0, BTreeSet::len);
    (0..100).for_each(|_| world.wait(5 * SECOND));
    assert_eq!(world.copies(), 12 - had, "the tracker has a copy of each chunk, too");
    (0..25).for_each(|_| world.wait(5 * SECOND));
    assert_eq!(world.copies(), 12);
}

#[test]
fn files_unknown_to_the_catalogue_are_ignored_unless_rebuild_is_set() {
    let held = || BTreeMap::from([(FILE, (0..CHUNKS).map(ChunkIndex).collect())]);
    let mut world = World::new(true, false);
    world.join_with(1, held());
    assert!(world.notes.iter().any(|note| note.contains("--rebuild")), "{:?}", world.notes);
    assert!(world.volunteers[&1].orders.iter().all(|order| !matches!(order, VolunteerOrder::Drop { .. })));
    assert_eq!(world.found().1, 0);
    let mut world = World::new(true, true);
    // The volunteers join one after the other: no copy starts before all had time to report.
    for id in 1..=3 {
        world.join_with(id, if id < 3 { held() } else { BTreeMap::new() });
        (0..4).for_each(|_| world.wait(SECOND));
    }
    assert_eq!(world.copies(), 2 * CHUNKS as usize);
    assert!(
        !world.tasks.iter().any(|task| matches!(task, ExecutorTask::Download { .. })),
        "no chunk is copied back to the tracker"
    );
    assert!(world.found().0 > 0 || world.found().1 > 0, "the file is kept again");
    assert_eq!(world.tasks.iter().filter(|task| matches!(task, ExecutorTask::Adopt { .. })).count(), 1);
}

#[test]
fn a_forgotten_file_is_dropped_at_all_volunteers() {
    let mut world = World::new(true, false);
    world.publish();
    (1..=3).for_each(|id| world.join(id));
    world.wait(SECOND);
    let away = world.leave(3);
    let forget = Command::Forget { file: Wanted("f".to_owned()), yes: true, dry_run: false };
    world.news(TaskOutcome::Command(5, forget.clone()));
    assert!(matches!(world.answers.pop(), Some(Answer::Done { .. })));
    world.wait(SECOND);
    assert_eq!((world.copies(), world.found()), (0, (0, 0, None)));
    // A volunteer that was away is told when it returns.
    world.join_with(3, away.held);
    world.wait(SECOND);
    assert_eq!(world.copies(), 0);
    world.news(TaskOutcome::Command(6, forget));
    assert!(matches!(world.answers.pop(), Some(Answer::Refused { .. })));
}

#[test]
fn reports_without_an_offer_or_from_another_connection_are_refused() {
    let mut world = World::new(false, false);
    world.join(1);
    let token = world.volunteers[&1].token;
    let act = VolunteerReport::Reported;
    world.request(2, TrackerRequest::Volunteer { token, act: act.clone() });
    let refused = |world: &mut World| match world.replies.pop() {
        Some(TrackerResponse::Error { code, .. }) => code,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&mut world), ErrorCode::UnknownToken);
    let registration =
        Registration { name: PeerName::new("x").unwrap(), port: 7000, advertise: None, volunteer: false };
    world.request(2, TrackerRequest::Register(registration));
    let Some(TrackerResponse::Registered { token, .. }) = world.replies.pop() else { panic!() };
    world.request(2, TrackerRequest::Volunteer { token, act });
    assert_eq!(refused(&mut world), ErrorCode::Refused);
    // The status is available only on the tracker's own host.
    world.request(2, TrackerRequest::Status);
    assert_eq!(refused(&mut world), ErrorCode::Refused);
}
