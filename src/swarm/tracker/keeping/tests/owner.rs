//! Commands of the owner.

use super::*;
use crate::protocol::status::Status;
use crate::swarm::command::{Refusal, Verification, VolunteerSelector};
use crate::swarm::keeping::Change;

const NEWER: FileId = FileId([8; 32]);

impl World {
    /// Sends a command and returns its answer, or `None` if the answer follows later.
    fn command(&mut self, command: Command) -> Option<Answer> {
        self.news(TaskOutcome::Command(1, command));
        self.answers.pop()
    }

    fn status(&mut self) -> Box<Status> {
        match self.command(Command::Status) {
            Some(Answer::Status { status }) => status,
            other => panic!("{other:?}"),
        }
    }

    /// All changes that were written to the catalogue.
    fn changes(&self) -> Vec<&Change> {
        let records = self.tasks.iter().filter_map(|task| match task {
            ExecutorTask::Record { changes, .. } => Some(changes),
            _ => None,
        });
        records.flatten().collect()
    }

    fn offloads(&self) -> usize {
        self.tasks.iter().filter(|task| matches!(task, ExecutorTask::Offload { .. })).count()
    }

    #[track_caller]
    fn assert_noted(&self, part: &str) {
        assert!(self.notes.iter().any(|note| note.contains(part)), "{:#?}", self.notes);
    }
}

fn file(text: &str) -> FileSelector {
    FileSelector(text.to_owned())
}

#[track_caller]
fn done(answer: Option<Answer>) -> String {
    match answer {
        Some(Answer::Done { text }) => text,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(answer: Option<Answer>) -> (Refusal, String) {
    match answer {
        Some(Answer::Refused { why, text }) => (why, text),
        other => panic!("{other:?}"),
    }
}

/// A world with three volunteers that hold all copies of the file.
fn replicated(offload: bool) -> World {
    let mut world = World::new(offload, false);
    world.publish();
    (1..=3).for_each(|id| world.join(id));
    world.wait(SECOND);
    assert_eq!(world.copies(), 12);
    world
}

#[test]
fn forget_of_the_last_copies_needs_a_confirmation() {
    let forget = |yes, dry_run| Command::Forget { file: file("f"), yes, dry_run };
    let mut world = replicated(true);
    assert_eq!(world.offloads(), 1);
    let text = done(world.command(forget(false, true)));
    assert!(text.contains("would drop 12 copies at volunteers"), "{text}");
    let Some(Answer::Confirm { text, command }) = world.command(forget(false, false)) else { panic!() };
    assert!(text.contains("no complete copy in the folder") && text.contains("recall"), "{text}");
    assert_eq!(world.copies(), 12, "nothing is deleted without a confirmation");
    done(world.command(command.confirmed()));
    assert_eq!(world.copies(), 0);
    // The file in the folder is not deleted: no question.
    let mut world = replicated(false);
    done(world.command(forget(false, false)));
    assert_eq!(world.copies(), 0);
}

#[test]
fn a_recalled_file_is_marked_and_never_offloaded_until_the_owner_offloads_it() {
    let mut world = replicated(true);
    assert_eq!(world.command(Command::Recall { file: file("f") }), None, "the answer follows");
    let Some(ExecutorTask::Recall { kept: recalled, from }) = world.tasks.last().cloned() else {
        panic!("{:?}", world.tasks)
    };
    assert_eq!((recalled.file.id, from.len()), (FILE, 3));
    assert_eq!(world.command(Command::Recall { file: file("f") }), None, "a second command waits, too");
    world.news(TaskOutcome::Published { kept: kept(FILE), layout: layout() });
    world.news(TaskOutcome::Recalled(FILE, Ok(())));
    assert_eq!(std::mem::take(&mut world.answers).len(), 2);
    world.wait(SECOND);
    assert_eq!(world.offloads(), 1, "it is not offloaded again");
    assert!(world.changes().contains(&&Change::Kept(FILE, true)));
    assert!(world.status().files[0].kept_here);
    let text = done(world.command(Command::Recall { file: file("f") }));
    assert!(text.contains("is in the folder"), "{text}");
    let text = done(world.command(Command::Offload { file: file("f"), dry_run: true }));
    assert!(text.contains("would delete 3.0 MiB"), "{text}");
    assert_eq!(world.offloads(), 1);
    done(world.command(Command::Offload { file: file("f"), dry_run: false }));
    world.wait(SECOND);
    assert_eq!(world.offloads(), 2);
    let changes = world.changes();
    assert!(changes.contains(&&Change::Kept(FILE, false)));
    let orders = changes.into_iter().filter(|change| matches!(change, Change::OffloadWanted(..)));
    let orders: Vec<_> = orders.cloned().collect();
    assert_eq!(orders, [Change::OffloadWanted(FILE, true), Change::OffloadWanted(FILE, false)]);
}

#[test]
fn a_failed_recall_removes_the_mark_and_names_the_reason() {
    let mut world = replicated(true);
    assert_eq!(world.command(Command::Recall { file: file("07070707") }), None);
    world.news(TaskOutcome::Recalled(FILE, Err("another file has the name f".to_owned())));
    let answer = world.answers.pop();
    assert_eq!(
        refused(answer),
        (Refusal::Failed, format!("recall of f (id {FILE}) failed: another file has the name f"))
    );
    assert!(!world.status().files[0].kept_here);
}

#[test]
fn offload_works_without_the_flag_and_waits_for_the_copies() {
    let mut world = World::new(false, false);
    world.publish();
    let text = done(world.command(Command::Offload { file: file("f"), dry_run: true }));
    assert!(text.ends_with("nothing yet: own copy stays: 0 of 2 proven copies"), "{text}");
    let text = done(world.command(Command::Offload { file: file("07070707"), dry_run: true }));
    assert!(text.contains(&format!("f (id {FILE})")), "a selection by prefix shows the whole id: {text}");
    let text = done(world.command(Command::Offload { file: file("f"), dry_run: false }));
    assert!(text.contains("as soon as its copies permit it; own copy stays: 0 of 2"), "{text}");
    assert_eq!(world.status().files[0].own_copy_stays.as_deref(), Some("0 of 2 proven copies"));
    (1..=3).for_each(|id| world.join(id));
    world.wait(SECOND);
    assert_eq!(world.offloads(), 1);
}

#[test]
fn verify_answers_with_a_summary_when_all_copies_were_asked() {
    let mut world = replicated(true);
    let Some(Answer::Verified { result, text }) = world.command(Command::Verify { file: file("f") }) else {
        panic!("{:?}", world.answers)
    };
    assert_eq!((result, text), (Verification::Proven, format!("f (id {FILE}): 12 copies proven, 12 wanted")));
    let lose = |volunteer: &mut SimulatedVolunteer| {
        _ = volunteer.held.entry(FILE).or_default().remove(&ChunkIndex(2))
    };
    world.volunteers.values_mut().for_each(lose);
    let Some(Answer::Verified { result, text }) = world.command(Command::Verify { file: file("f") }) else {
        panic!("{:?}", world.answers)
    };
    assert_eq!(result, Verification::Corrupt);
    assert!(text.contains("2 copies corrupt or missing"), "{text}");
    assert_eq!(refused(world.command(Command::Verify { file: file("g") })).0, Refusal::NotFound);
}

#[test]
fn copies_at_absent_volunteers_are_counted_by_verify_and_not_asked() {
    let mut world = replicated(true);
    (1..=3).for_each(|id| drop(world.leave(id)));
    assert_eq!(
        world.command(Command::Verify { file: file("f") }),
        None,
        "it waits for the holders for a time"
    );
    world.wait(SECOND * 61);
    let Some(Answer::Verified { result, text }) = world.answers.pop() else { panic!("{:?}", world.answers) };
    assert_eq!(result, Verification::TooFew);
    assert!(text.contains("0 copies proven, 12 wanted"), "{text}");
}

#[test]
fn approval_applies_to_a_key_and_survives_a_return() {
    let mut world = World::with(Settings { challenge_every: None, ..Settings::default() }, false);
    world.join(1);
    world.assert_noted("v1 at 10.0.0.1:7001 (key ");
    world.assert_noted(
        "waits for approval: its copies justify no deletion; approve it with: tracker approve ",
    );
    let key = VolunteerKey(1).print();
    let text = done(world.command(Command::Approve { volunteer: VolunteerSelector(key.short()) }));
    assert!(text.contains(&format!("v1 at 10.0.0.1:7001 (key {})", key.short())), "{text}");
    world.leave(1);
    world.notes.clear();
    world.join(1);
    assert!(!world.notes.iter().any(|note| note.contains("waits for approval")), "{:?}", world.notes);
    done(world.command(Command::Deny { volunteer: VolunteerSelector("v1".to_owned()) }));
    world.wait(SECOND);
    let approvals: Vec<_> = world
        .changes()
        .into_iter()
        .filter_map(|change| match change {
            Change::Volunteer(record) => Some(record.history.approval),
            _ => None,
        })
        .collect();
    assert_eq!(approvals.last(), Some(&crate::swarm::keeping::Approval::Denied));
}

#[test]
fn a_record_of_a_volunteer_that_left_can_be_removed() {
    let forget =
        |name: &str, yes| Command::ForgetVolunteer { volunteer: VolunteerSelector(name.to_owned()), yes };
    let mut world = replicated(true);
    assert_eq!(refused(world.command(forget("v1", true))).0, Refusal::State, "it is connected");
    (1..=3).for_each(|id| drop(world.leave(id)));
    for name in ["v1", "v2"] {
        if let Some(Answer::Confirm { command, .. }) = world.command(forget(name, false)) {
            assert_eq!(name, "v2", "v3 has all copies of v1 and v2 only together");
            done(world.command(command));
        }
    }
    let Some(Answer::Confirm { text, .. }) = world.command(forget("v3", false)) else { panic!() };
    assert!(text.contains("is the last known holder of"), "{text}");
    done(world.command(forget("v3", true)));
    world.wait(SECOND);
    assert_eq!(world.status().volunteers, []);
    let removed =
        world.changes().into_iter().filter(|change| matches!(change, Change::VolunteerForgotten(_)));
    assert_eq!(removed.count(), 3);
}

#[test]
fn an_edited_file_is_a_new_version_and_is_found_by_its_name() {
    let mut world = replicated(true);
    world.news(TaskOutcome::Published { kept: kept(NEWER), layout: layout() });
    world.wait(SECOND);
    let lookup = |name: Option<&str>, id| TrackerRequest::Lookup {
        name: name.map(|name| FileName::new(name).unwrap()),
        id,
        limit: 30,
        token: None,
    };
    let mut found = |request| {
        world.request(99, request);
        match world.replies.pop() {
            Some(TrackerResponse::Found { files, .. }) => files.iter().map(|found| found.file.id).collect(),
            other => panic!("{other:?}"),
        }
    };
    let newest: Vec<FileId> = found(lookup(Some("f"), None));
    assert_eq!(newest, [NEWER]);
    let older: Vec<FileId> = found(lookup(None, Some(FILE)));
    assert_eq!(older, [FILE], "an older version is available by its id");
    let text = done(world.command(Command::Forget { file: file("f"), yes: true, dry_run: true }));
    assert!(text.contains("older versions of this name: 070707070707"), "{text}");
}

#[test]
fn a_removed_file_is_called_kept_only_with_proven_copies() {
    let mut world = replicated(false);
    world.news(TaskOutcome::Withdrawn(FILE));
    world.assert_noted("f (070707070707) is no longer in the folder; volunteers have all 12 copies of it");
    let mut world = World::new(false, false);
    world.publish();
    world.news(TaskOutcome::Withdrawn(FILE));
    world.assert_noted(
        "6 of its 6 chunks have no copy at a volunteer; put the file back until they are copied",
    );
}

#[test]
fn a_volunteer_counts_as_one_peer() {
    let mut world = World::new(false, false);
    let mut register = |connection, volunteer| {
        let registration = Registration {
            name: PeerName::new("anna").unwrap(),
            port: 7000,
            advertise: None,
            addresses: Vec::new(),
            identity: None,
            volunteer,
        };
        world.request(connection, TrackerRequest::Register(registration));
        world.replies.pop();
    };
    register(1, false);
    register(2, true);
    register(3, false);
    let joined: Vec<&String> = world.notes.iter().filter(|note| note.contains("joined")).collect();
    assert!(joined[0].ends_with(", 1 peer") && joined[1].ends_with(", 2 peers"), "{joined:?}");
    let Some(Answer::Peers(list)) = world.command(Command::Peers) else { panic!() };
    assert_eq!(list.count, 2);
}
