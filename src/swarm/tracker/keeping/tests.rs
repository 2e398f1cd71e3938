//! A tracker that keeps files, with volunteers and hands that do at once what they are told: what is said to whom.

use super::super::{KeepRules, Remembered, Rules, Tracker};
use crate::content::{ChunkIndex, Digest, FileId, FileName, Layout, Md5, PeerName};
use crate::protocol::ErrorCode;
use crate::protocol::tokens::VolunteerKey;
use crate::protocol::tracker::{FileSummary, Registration, Token, TrackerRequest, TrackerResponse};
use crate::protocol::volunteer::{KeptFile, VolunteerOrder, VolunteerReport};
use crate::swarm::Moment;
use crate::swarm::keeping::{Answer, Command, News, Task, Wanted};
use crate::swarm::machine::{ConnectionId, Effect, Machine, Origin};
use crate::swarm::placement::Settings;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

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

/// A volunteer that does at once what it is told.
struct Lender {
    token: Token,
    held: BTreeMap<FileId, BTreeSet<ChunkIndex>>,
    told: Vec<VolunteerOrder>,
}

struct World {
    tracker: Tracker,
    now: Moment,
    lenders: BTreeMap<u64, Lender>,
    tasks: Vec<Task>,
    notes: Vec<String>,
    answers: Vec<Answer>,
    replies: Vec<TrackerResponse>,
}

fn origin(connection: u64) -> Origin {
    Origin::Connection(ConnectionId(connection), IpAddr::from([10, 0, 0, connection as u8]))
}

impl World {
    fn new(offload: bool, rebuild: bool) -> Self {
        let mut next = 0;
        let draw = move || {
            next += 1;
            next
        };
        let mut tracker = Tracker::new(Rules::default(), fastrand::Rng::with_seed(1), draw);
        let settings = Settings { offload, challenge_every: None, ..Settings::default() };
        let serving = "0.0.0.0:5101".parse().unwrap();
        let rules = KeepRules { settings, name: PeerName::new("T").unwrap(), serving, rebuild };
        tracker.keep(rules, Remembered::default(), fastrand::Rng::with_seed(2));
        let (lenders, tasks, notes, answers) = Default::default();
        Self { tracker, now: Duration::ZERO, lenders, tasks, notes, answers, replies: Vec::new() }
    }

    fn request(&mut self, connection: u64, request: TrackerRequest) {
        let effects = self.tracker.request(self.now, origin(connection), request);
        self.settle(effects);
    }

    fn news(&mut self, news: News) {
        let effects = self.tracker.news(self.now, news);
        self.settle(effects);
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.tracker.next_tick().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let effects = self.tracker.tick(self.now);
            self.settle(effects);
            if due <= self.now {
                // Whatever is due again at once is due a moment later.
                self.now += Duration::from_millis(1);
            }
        }
        self.now = end;
        self.beat();
    }

    /// Everybody who is there is alive.
    fn beat(&mut self) {
        let tokens: Vec<(u64, Token)> = self.lenders.iter().map(|(id, lender)| (*id, lender.token)).collect();
        for (id, token) in tokens {
            self.request(id, TrackerRequest::Heartbeat { token });
        }
    }

    fn join(&mut self, connection: u64) {
        self.join_with(connection, BTreeMap::new());
    }

    fn join_with(&mut self, connection: u64, held: BTreeMap<FileId, BTreeSet<ChunkIndex>>) {
        let name = PeerName::new(format!("v{connection}")).unwrap();
        let registration = Registration { name, port: 7000, advertise: None };
        self.request(connection, TrackerRequest::Register(registration));
        let Some(TrackerResponse::Registered { token, .. }) = self.replies.pop() else {
            panic!("not registered")
        };
        self.lenders.insert(connection, Lender { token, held: held.clone(), told: Vec::new() });
        let key = VolunteerKey(connection.into());
        self.say(connection, VolunteerReport::Lend { key, offered: 1 << 30, free: 1 << 30 });
        for (file, chunks) in held {
            let held = chunks.into_iter().collect();
            self.say(connection, VolunteerReport::Holds { kept: kept(file), held, checked: true });
        }
        self.say(connection, VolunteerReport::Reported);
    }

    fn say(&mut self, connection: u64, act: VolunteerReport) {
        let token = self.lenders[&connection].token;
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
                        Task::Record { ticket, .. } => News::Recorded(ticket),
                        Task::Offload(kept) => News::Offloaded(kept.file.id, true),
                        Task::Fetch { kept, index, .. } => News::Stored(kept.file.id, index),
                        Task::Drop { file, chunks } => News::Dropped(file, chunks),
                        Task::Adopt { kept, .. } => News::Adopted(kept.file.id, Some((kept, layout()))),
                        _ => continue,
                    };
                    effects.extend(self.tracker.news(self.now, news));
                }
                other => panic!("unexpected: {other:?}"),
            }
        }
    }

    fn carry_out(&mut self, id: u64, order: VolunteerOrder) -> Vec<Effect> {
        let Some(lender) = self.lenders.get_mut(&id) else { return Vec::new() };
        lender.told.push(order.clone());
        let free = 1 << 30;
        let act = match order {
            VolunteerOrder::Copy { kept, index, .. } => {
                let file = kept.file.id;
                assert!(lender.held.entry(file).or_default().insert(index), "told twice to copy {index}");
                VolunteerReport::Stored { file, index, free }
            }
            VolunteerOrder::Drop { file, chunks } => {
                let held = lender.held.entry(file).or_default();
                chunks.iter().for_each(|index| assert!(held.remove(index), "told to drop what it has not"));
                VolunteerReport::Dropped { file, chunks, free }
            }
            _ => return Vec::new(),
        };
        let token = lender.token;
        self.tracker.request(self.now, origin(id), TrackerRequest::Volunteer { token, act })
    }

    fn publish(&mut self) {
        self.news(News::Published { kept: kept(FILE), layout: layout() });
        self.news(News::Looked);
    }

    fn copies(&self) -> usize {
        self.lenders.values().filter_map(|lender| lender.held.get(&FILE)).map(BTreeSet::len).sum()
    }

    fn leave(&mut self, connection: u64) -> Lender {
        let lender = self.lenders.remove(&connection).unwrap();
        let effects = self.tracker.closed(self.now, ConnectionId(connection));
        self.settle(effects);
        lender
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
fn a_file_is_spread_offloaded_and_found_at_its_volunteers() {
    let mut world = World::new(true, false);
    world.publish();
    assert_eq!(world.found(), (1, 0, Some(Md5([5; 16]))), "the tracker itself has it");
    (1..=2).for_each(|id| world.join(id));
    world.wait(SECOND);
    assert_eq!(world.copies(), 0, "two volunteers are too few");
    world.join(3);
    world.wait(SECOND);
    assert_eq!(world.copies(), 12);
    let offload =
        world.tasks.iter().position(|task| matches!(task, Task::Offload(_))).expect("it is offloaded");
    let recorded = |task: &Task| matches!(task, Task::Record { .. });
    assert!(world.tasks[..offload].iter().any(recorded), "what is where is recorded first");
    // The tracker has the manifest and no chunk any more; the volunteers are found with what they hold.
    assert_eq!(world.found(), (0, 4, Some(Md5([5; 16]))));
}

#[test]
fn a_volunteer_that_comes_back_in_time_is_not_replaced_and_one_that_does_not_is() {
    let mut world = World::new(true, false);
    world.publish();
    (1..=4).for_each(|id| world.join(id));
    world.wait(SECOND);
    assert_eq!(world.copies(), 12);
    let lender = world.leave(1);
    let had = lender.held.get(&FILE).map_or(0, BTreeSet::len);
    assert!(had > 0);
    (0..5).for_each(|_| world.wait(SECOND));
    assert_eq!(world.copies(), 12 - had, "it may come back");
    world.join_with(1, lender.held);
    world.wait(SECOND);
    assert_eq!(world.copies(), 12, "it has come back with all that it had");
    world.leave(1);
    (0..12).for_each(|_| world.wait(SECOND));
    assert_eq!(world.copies(), 12, "the others have made up for it");
}

#[test]
fn a_goodbye_is_acted_upon_at_once() {
    let mut world = World::new(true, false);
    world.publish();
    (1..=4).for_each(|id| world.join(id));
    world.wait(SECOND);
    let lender = world.lenders.remove(&1).unwrap();
    world.request(1, TrackerRequest::Goodbye { token: lender.token });
    world.wait(SECOND);
    assert_eq!(world.copies(), 12);
}

#[test]
fn what_nobody_here_knows_is_left_alone_unless_it_is_to_be_taken_in() {
    let held = || BTreeMap::from([(FILE, (0..CHUNKS).map(ChunkIndex).collect())]);
    let mut world = World::new(true, false);
    world.join_with(1, held());
    assert!(world.notes.iter().any(|note| note.contains("--rebuild")), "{:?}", world.notes);
    assert!(world.lenders[&1].told.iter().all(|order| !matches!(order, VolunteerOrder::Drop { .. })));
    assert_eq!(world.found().1, 0);
    let mut world = World::new(true, true);
    // They come one after the other: nothing is copied before the others have had the time to.
    for id in 1..=3 {
        world.join_with(id, if id < 3 { held() } else { BTreeMap::new() });
        (0..4).for_each(|_| world.wait(SECOND));
    }
    assert_eq!(world.copies(), 2 * CHUNKS as usize);
    assert!(!world.tasks.iter().any(|task| matches!(task, Task::Fetch { .. })), "nothing comes back");
    assert!(world.found().0 > 0 || world.found().1 > 0, "it is kept again");
    assert_eq!(world.tasks.iter().filter(|task| matches!(task, Task::Adopt { .. })).count(), 1);
}

#[test]
fn what_is_forgotten_is_dropped_everywhere() {
    let mut world = World::new(true, false);
    world.publish();
    (1..=3).for_each(|id| world.join(id));
    world.wait(SECOND);
    let away = world.leave(3);
    world.news(News::Command(5, Command::Forget(Wanted::Name(FileName::new("f").unwrap()))));
    assert!(matches!(world.answers.pop(), Some(Answer::Done(_))));
    world.wait(SECOND);
    assert_eq!((world.copies(), world.found()), (0, (0, 0, None)));
    // One that was away is told when it comes back.
    world.join_with(3, away.held);
    world.wait(SECOND);
    assert_eq!(world.copies(), 0);
    world.news(News::Command(6, Command::Forget(Wanted::Id(FILE))));
    assert!(matches!(world.answers.pop(), Some(Answer::Refused(_))));
}

#[test]
fn who_has_not_lent_or_is_somebody_else_is_refused() {
    let mut world = World::new(false, false);
    world.join(1);
    let token = world.lenders[&1].token;
    let act = VolunteerReport::Reported;
    world.request(2, TrackerRequest::Volunteer { token, act: act.clone() });
    let refused = |world: &mut World| match world.replies.pop() {
        Some(TrackerResponse::Error { code, .. }) => code,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&mut world), ErrorCode::UnknownToken);
    let registration = Registration { name: PeerName::new("x").unwrap(), port: 7000, advertise: None };
    world.request(2, TrackerRequest::Register(registration));
    let Some(TrackerResponse::Registered { token, .. }) = world.replies.pop() else { panic!() };
    world.request(2, TrackerRequest::Volunteer { token, act });
    assert_eq!(refused(&mut world), ErrorCode::Refused);
    // The status is for this machine alone.
    world.request(2, TrackerRequest::Status);
    assert_eq!(refused(&mut world), ErrorCode::Refused);
    let proof = VolunteerReport::Proof { challenge: 77, sha256: Some(Digest([0; 32])) };
    world.say(1, proof);
    assert!(world.replies.is_empty(), "an answer to nothing does nothing");
}
