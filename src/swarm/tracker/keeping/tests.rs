//! Tests of a tracker that keeps files, with simulated volunteers and an executor that act at once.

use super::super::{KeepRules, Remembered, Rules, Tracker};
use crate::content::{ChunkIndex, FileId, FileName, Layout, Md5, PeerName, limits};
use crate::protocol::ErrorCode;
use crate::protocol::tokens::VolunteerKey;
use crate::protocol::tracker::{FileSummary, Registration, Token, TrackerRequest, TrackerResponse};
use crate::protocol::volunteer::{KeptFile, VolunteerOrder, VolunteerReport};
use crate::swarm::Moment;
use crate::swarm::command::{Answer, Command, FileSelector};
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
    errors: Vec<String>,
    /// Volunteers whose manifests cannot be downloaded, by port.
    unreachable: BTreeSet<u16>,
    /// The tracker's own copy of each chunk.
    own: OwnCopy,
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
        Self {
            tracker,
            now: Duration::ZERO,
            volunteers: BTreeMap::new(),
            tasks: Vec::new(),
            notes: Vec::new(),
            errors: Vec::new(),
            unreachable: BTreeSet::new(),
            own: OwnCopy::Right,
            answers: Vec::new(),
            replies: Vec::new(),
        }
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
        self.join_naming(connection, held, Md5([5; 16]));
    }

    /// Connects a volunteer that reports this MD5 for all its files.
    fn join_naming(&mut self, connection: u64, held: BTreeMap<FileId, BTreeSet<ChunkIndex>>, md5: Md5) {
        let name = PeerName::new(format!("v{connection}")).unwrap();
        let registration = Registration::new(name, 7000 + connection as u16);
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
            let kept = KeptFile { md5, ..kept(file) };
            self.say(connection, VolunteerReport::Holds { kept, held, checked: true });
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
                Effect::Note(text) | Effect::Departure(_, text) | Effect::Warning(text) => {
                    self.notes.push(text);
                }
                Effect::Peer(_) => {}
                Effect::Error(text) => self.errors.push(text),
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
                        ExecutorTask::Adopt { kept, from } if self.unreachable.contains(&from.port()) => {
                            TaskOutcome::Adopted(kept.file.id, None)
                        }
                        ExecutorTask::Withdraw(file) => {
                            self.own = OwnCopy::Absent;
                            TaskOutcome::Withdrawn(file)
                        }
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
                Effect::DialBack(_) => {}
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
        TaskOutcome::Proved { number, file, index, own: self.own, verdicts }
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
fn equal_files_of_the_tracker_are_found_under_each_name() {
    let mut world = World::new(false, false);
    world.publish();
    let name = |text: &str| FileName::new(text).unwrap();
    let finds = |world: &mut World, text: &str| {
        let lookup = TrackerRequest::Lookup { name: Some(name(text)), id: None, limit: 30, token: None };
        world.request(99, lookup);
        match world.replies.pop() {
            Some(TrackerResponse::Found { files, .. }) => files.iter().any(|found| !found.whole.is_empty()),
            other => panic!("{other:?}"),
        }
    };
    world.news(TaskOutcome::Named(FILE, name("g"), true));
    assert!(finds(&mut world, "f") && finds(&mut world, "g"));
    // The first name is removed.
    world.news(TaskOutcome::Named(FILE, name("f"), false));
    let file = FileSummary { name: name("g"), ..kept(FILE).file };
    world.news(TaskOutcome::Published { kept: KeptFile { file, ..kept(FILE) }, layout: layout() });
    assert!(!finds(&mut world, "f") && finds(&mut world, "g"));
    world.news(TaskOutcome::Named(FILE, name("h"), true));
    assert!(finds(&mut world, "h"));
    world.news(TaskOutcome::Withdrawn(FILE));
    assert!(!finds(&mut world, "h") && !finds(&mut world, "g"));
}

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
    // The tracker has the manifest and no chunk, and is no holder; lookups return the volunteers with their chunks.
    assert_eq!(world.found(), (0, 3, Some(Md5([5; 16]))));
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
    let forget = Command::Forget { file: FileSelector("f".to_owned()), yes: true, dry_run: false };
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
    let registration = Registration::new(PeerName::new("x").unwrap(), 7000);
    world.request(2, TrackerRequest::Register(registration));
    let Some(TrackerResponse::Registered { token, .. }) = world.replies.pop() else { panic!() };
    world.request(2, TrackerRequest::Volunteer { token, act });
    assert_eq!(refused(&mut world), ErrorCode::Refused);
}

#[test]
fn clone_of_a_connected_volunteer_is_refused_until_that_one_has_left() {
    let mut world = World::new(false, false);
    world.join(1);
    world.join(2);
    let lend = VolunteerReport::Lend { key: VolunteerKey(1), offered: 9, free: 9, away_s: None };
    let registration = Registration::new(PeerName::new("clone").unwrap(), 7009);
    world.request(9, TrackerRequest::Register(registration));
    let Some(TrackerResponse::Registered { token, .. }) = world.replies.pop() else { panic!() };
    world.volunteers.insert(9, SimulatedVolunteer { token, held: BTreeMap::new(), orders: Vec::new() });
    for _ in 0..2 {
        world.say(9, lend.clone());
        assert!(matches!(world.replies.pop(), Some(TrackerResponse::Error { code: ErrorCode::Busy, .. })));
    }
    let told = |world: &World| {
        let is_told = |order: &&VolunteerOrder| matches!(order, VolunteerOrder::Cloned { .. });
        world.volunteers[&1].orders.iter().filter(is_told).count()
    };
    assert_eq!(told(&world), 1, "the original is told once");
    world.leave(1);
    world.say(9, lend);
    assert!(world.replies.is_empty(), "the key is free");
}

#[test]
fn one_connection_offers_storage_under_one_key() {
    let mut world = World::new(false, false);
    world.join(1);
    let lend = |key| VolunteerReport::Lend { key: VolunteerKey(key), offered: 9, free: 9, away_s: None };
    world.say(1, lend(1));
    assert!(world.replies.is_empty(), "the same key is accepted again");
    world.say(1, lend(2));
    assert!(matches!(world.replies.pop(), Some(TrackerResponse::Error { code: ErrorCode::Refused, .. })));
    assert_eq!(world.tracker.status(world.now).volunteers.len(), 1);
}

#[test]
fn a_rebuild_asks_the_next_reporter_and_keeps_all_reports() {
    let held = || BTreeMap::from([(FILE, (0..CHUNKS).map(ChunkIndex).collect())]);
    let mut world = World::new(false, true);
    world.unreachable.insert(7001);
    world.join_with(1, held());
    world.wait(SECOND);
    assert_eq!(world.found().1, 0);
    world.join_with(2, held());
    (0..5).for_each(|_| world.wait(5 * SECOND));
    assert_eq!(
        world.found().1 + world.found().0,
        2,
        "the reports of both count; the tracker has only the manifest"
    );
    let status = world.tracker.status(world.now);
    assert_eq!((status.files_known, status.copies.verified), (1, 12));
}

#[test]
fn a_rebuild_retries_with_a_pause_while_no_reporter_delivers_the_manifest() {
    let held = || BTreeMap::from([(FILE, (0..CHUNKS).map(ChunkIndex).collect())]);
    let mut world = World::new(false, true);
    world.unreachable.extend([7001, 7002]);
    world.join_with(1, held());
    world.join_with(2, held());
    (0..60).for_each(|_| world.wait(5 * SECOND));
    let asked = world.tasks.iter().filter(|task| matches!(task, ExecutorTask::Adopt { .. })).count();
    assert!((6..40).contains(&asked), "{asked} attempts within 300 s");
    world.unreachable.clear();
    (0..70).for_each(|_| world.wait(5 * SECOND));
    assert_eq!(world.tracker.status(world.now).files_known, 1);
}

#[test]
fn false_reports_of_unknown_files_leave_no_state_behind() {
    let mut world = World::new(false, true);
    world.unreachable.insert(7001);
    let held =
        |file| BTreeMap::from([(FileId([file; 32]), BTreeSet::from([ChunkIndex(0), ChunkIndex(u32::MAX)]))]);
    world.join_with(1, held(1));
    assert!(world.tracker.keeping.as_ref().unwrap().next_adoption().is_some());
    world.leave(1);
    world.wait(400 * SECOND);
    assert_eq!(world.tracker.keeping.as_ref().unwrap().next_adoption(), None);
    // Without --rebuild, the log names a limited number of such files.
    let mut world = World::new(false, false);
    world.join(1);
    let before = world.notes.len();
    for number in 0..=limits::UNKNOWN_FILES_NAMED_MAX as u64 {
        let mut id = [9; 32];
        id[..8].copy_from_slice(&number.to_be_bytes());
        let kept = kept(FileId(id));
        world.say(1, VolunteerReport::Holds { kept, held: vec![ChunkIndex(0)], checked: true });
    }
    assert_eq!(world.notes.len() - before, limits::UNKNOWN_FILES_NAMED_MAX);
}

#[test]
fn the_md5_of_an_adopted_file_is_the_one_that_most_reporters_name() {
    let held = || BTreeMap::from([(FILE, (0..CHUNKS).map(ChunkIndex).collect())]);
    let mut world = World::new(false, true);
    world.join_naming(1, held(), Md5([6; 16]));
    world.wait(SECOND);
    assert_eq!(world.found().2, Some(Md5([6; 16])));
    world.join_with(2, held());
    world.join_with(3, held());
    world.wait(SECOND);
    assert_eq!(world.found().2, Some(Md5([5; 16])));
    let last = world.tasks.iter().rev().find_map(|task| match task {
        ExecutorTask::Adopt { kept, .. } => Some(kept.md5),
        _ => None,
    });
    assert_eq!(last, Some(Md5([5; 16])), "the catalogue is corrected, too");
}

#[test]
fn an_edited_file_is_a_new_version_and_its_previous_one_is_not_lost() {
    let new = FileId([8; 32]);
    for published_first in [false, true] {
        let mut world = World::new(false, false);
        world.publish();
        let mut events =
            [TaskOutcome::Withdrawn(FILE), TaskOutcome::Published { kept: kept(new), layout: layout() }];
        if published_first {
            events.reverse();
        }
        world.wait(15 * SECOND);
        events.into_iter().for_each(|event| world.news(event));
        world.wait(60 * SECOND);
        assert!(!world.notes.iter().any(|note| note.contains("LOST")), "{:?}", world.notes);
        let no_copy = "6 of its 6 chunks have no copy at a volunteer";
        assert!(world.notes.iter().any(|note| note.contains(no_copy)), "{:?}", world.notes);
        // A file that is removed is lost without copies.
        world.news(TaskOutcome::Withdrawn(new));
        world.wait(60 * SECOND);
        assert!(world.notes.iter().any(|note| note.contains("LOST")), "{:?}", world.notes);
    }
}

#[test]
fn a_corrupt_own_file_is_withdrawn_with_one_error_line() {
    let mut world = World::new(false, false);
    (1..=3).for_each(|id| world.join(id));
    world.own = OwnCopy::Corrupt;
    world.publish();
    (0..20).for_each(|_| world.wait(5 * SECOND));
    let [error] = &world.errors[..] else { panic!("{:?}", world.errors) };
    assert!(error.contains(" of f (") && error.contains("recall f"), "{error}");
    assert!(world.tasks.contains(&ExecutorTask::Withdraw(FILE)));
    assert!(
        world
            .volunteers
            .values()
            .flat_map(|one| &one.orders)
            .all(|order| { !matches!(order, VolunteerOrder::Drop { .. } | VolunteerOrder::Check { .. }) })
    );
}

#[test]
fn drop_orders_and_their_reasons_are_in_the_status() {
    let mut world = World::new(true, false);
    world.publish();
    (1..=3).for_each(|id| world.join(id));
    (0..3).for_each(|_| world.wait(SECOND));
    world.news(TaskOutcome::Command(
        5,
        Command::Forget { file: FileSelector("f".to_owned()), yes: true, dry_run: false },
    ));
    world.wait(SECOND);
    let drops = world.tracker.status(world.now).drops;
    let first = &drops[0];
    assert_eq!((first.volunteer.clone(), first.chunks), (None, 6), "the offload: {drops:?}");
    assert_eq!(drops.len(), 4, "{drops:?}");
    assert!(
        drops[1..].iter().all(|drop| drop.reason == "the file was forgotten" && drop.volunteer.is_some())
    );
    assert!(world.notes.iter().any(|note| note.starts_with("dropping 4 chunks of ")), "{:?}", world.notes);
}
