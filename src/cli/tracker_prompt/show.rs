//! Output of the tracker prompt and of `tracker status`, as text.
//!
//! Pure. Invariant: each output ends with a newline and is never empty.

use super::command::Names;
use crate::cli::chunk_sets;
pub use crate::cli::prompt::show::line;
use crate::cli::table::{Side, size, table};
use crate::content::fmt::{counted, duration};
use crate::protocol::status::{
    ApprovalState, Copies, DropStatus, FileStatus, Status, VolunteerState, VolunteerStatus,
};
use crate::swarm::command::{Answer, PeerEntry, PeerList};
use jiff::Timestamp;
use std::fmt::Write;

/// Number of drops that the status shows.
const SHOWN_DROPS_MAX: usize = 5;

/// The answer to a command.
pub fn answer(answer: &Answer) -> String {
    match answer {
        Answer::Status { status } => self::status(status),
        Answer::Peers(list) => peers(list, ""),
        Answer::Done { text }
        | Answer::Verified { text, .. }
        | Answer::Confirm { text, .. }
        | Answer::Refused { text, .. } => format!("{}\n", line(text)),
    }
}

/// Table of the peers whose names begin with a text.
pub fn peers(list: &PeerList, begun: &str) -> String {
    if list.peers.is_empty() {
        return "no peers are registered\n".to_owned();
    }
    let shown: Vec<&PeerEntry> =
        list.peers.iter().filter(|peer| peer.name.as_str().starts_with(begun)).collect();
    if shown.is_empty() {
        return format!("no name of a registered peer begins with {}\n", line(begun));
    }
    let row = |peer: &&PeerEntry| {
        let role = if peer.volunteer { "volunteer" } else { "peer" };
        [peer.name.to_string(), peer.address.to_string(), role.to_owned()]
    };
    let columns = [("NAME", Side::Left), ("ADDRESS", Side::Left), ("ROLE", Side::Left)];
    let mut text = table(columns, &shown.iter().map(row).collect::<Vec<_>>());
    let omitted = list.count.saturating_sub(list.peers.len() as u64);
    if omitted > 0 {
        let _ = writeln!(text, "and {omitted} more");
    }
    text
}

/// Names for Tab completion. Volunteers that share a name are completed by their key.
pub fn names(status: &Status) -> Names {
    let mut names = Names::default();
    for volunteer in &status.volunteers {
        let is_shared =
            status.volunteers.iter().filter(|other| other.name == volunteer.name).nth(1).is_some();
        if is_shared {
            names.volunteers.insert(volunteer.key.short());
        }
        names.volunteers.insert(volunteer.name.to_string());
    }
    names.files = status.files.iter().map(|file| file.name.to_string()).collect();
    names
}

/// Summary of volunteers, files, replicas, repair and the latest drops.
pub fn status(status: &Status) -> String {
    let count = |wanted: fn(&VolunteerStatus) -> bool| {
        status.volunteers.iter().filter(|volunteer| wanted(volunteer)).count()
    };
    let present =
        count(|volunteer| matches!(volunteer.state, VolunteerState::Alive | VolunteerState::Draining));
    let mut text = String::new();
    let _ = write!(text, "volunteers  {present} present of {} known", status.volunteers.len());
    for (count, state) in [
        (count(|volunteer| volunteer.state == VolunteerState::Away), "away"),
        (count(|volunteer| volunteer.state == VolunteerState::Dead), "lost"),
        (count(|volunteer| volunteer.approval == ApprovalState::Pending), "waiting for approval"),
    ] {
        if count > 0 {
            let _ = write!(text, ", {count} {state}");
        }
    }
    let _ = writeln!(text, "; {} offered, {} free", size(status.offered), size(status.free));
    let bytes = status.files.iter().map(|file| file.size).sum();
    let _ = writeln!(text, "files       {}, {}", status.files_known, size(bytes));
    let _ = writeln!(text, "replicas    {}", replicas(&status.copies));
    if present < status.volunteers_needed as usize {
        let _ = writeln!(
            text,
            "            no files are distributed with fewer than {} volunteers",
            status.volunteers_needed
        );
    }
    text += &repair(status);
    for drop in status.drops.iter().rev().take(SHOWN_DROPS_MAX) {
        text += &drop_line(drop);
    }
    text
}

/// A drop order or deletion and its reason.
fn drop_line(drop: &DropStatus) -> String {
    let time = i64::try_from(drop.at_s).ok().and_then(|at| Timestamp::from_second(at).ok());
    let time = time.map_or_else(String::new, |time| format!("{time} "));
    let place = drop.volunteer.as_ref().map_or("the tracker", |name| name.as_str());
    let text = format!(
        "dropped     {time}{} of {} at {place}: {}",
        counted(drop.chunks, "chunk"),
        drop.file,
        drop.reason
    );
    format!("{}\n", line(&text))
}

fn replicas(copies: &Copies) -> String {
    let Copies { wanted, verified, claimed, short, lost, .. } = copies;
    let mut text = format!("{verified} verified of {wanted} wanted");
    for (count, text_of_count) in [
        (*claimed, format!("{claimed} claimed")),
        (*short, format!("{} under-replicated", counted(*short, "chunk"))),
        (*lost, format!("{} LOST", counted(*lost, "chunk"))),
    ] {
        if count > 0 {
            let _ = write!(text, ", {text_of_count}");
        }
    }
    text
}

/// Progress of repair.
pub fn repair(status: &Status) -> String {
    let repair = &status.repair;
    let (running, waiting) = (counted(repair.running, "chunk"), repair.waiting);
    let progress = format!("{running} in flight, {waiting} waiting");
    let state = match (repair.paused, repair.running, repair.waiting) {
        (true, 0, 0) => "paused; idle".to_owned(),
        (true, ..) => format!("paused; {progress}"),
        (false, 0, 0) => "idle".to_owned(),
        (false, ..) => progress,
    };
    let limit = match repair.limit {
        0 => String::new(),
        limit => format!("; limit {}/s", size(limit)),
    };
    format!(
        "repair      {state}; {} ({}) copied since the start{limit}\n",
        counted(repair.copied, "chunk"),
        size(repair.copied_bytes)
    )
}

/// Table of volunteers.
pub fn volunteers(status: &Status) -> String {
    if status.volunteers.is_empty() {
        return "no volunteers yet; start one with: client -folder PATH -transfer_port PORT -name NAME \
                --volunteer SIZE\n"
            .to_owned();
    }
    let row = |volunteer: &VolunteerStatus| {
        let state = match (volunteer.state, volunteer.away_s) {
            (VolunteerState::Alive, _) => "present".to_owned(),
            (VolunteerState::Draining, _) => "draining".to_owned(),
            (VolunteerState::Away, Some(left)) => format!("away ({})", duration(left)),
            (VolunteerState::Away, None) => "away".to_owned(),
            (VolunteerState::Dead, _) => "lost".to_owned(),
        };
        let approval = match volunteer.approval {
            ApprovalState::Pending => format!("pending ({})", duration(volunteer.known_s)),
            ApprovalState::Approved => "approved".to_owned(),
            ApprovalState::Implied => "not needed".to_owned(),
            ApprovalState::Denied => "denied".to_owned(),
        };
        [
            volunteer.name.to_string(),
            volunteer.address.to_string(),
            volunteer.key.short(),
            state,
            approval,
            size(volunteer.offered),
            size(volunteer.free),
            volunteer.chunks.to_string(),
            volunteer.verified.to_string(),
            volunteer.incoming.to_string(),
        ]
    };
    let columns = [
        ("NAME", Side::Left),
        ("ADDRESS", Side::Left),
        ("KEY", Side::Left),
        ("STATE", Side::Left),
        ("APPROVAL", Side::Left),
        ("OFFERED", Side::Right),
        ("FREE", Side::Right),
        ("CHUNKS", Side::Right),
        ("VERIFIED", Side::Right),
        ("INCOMING", Side::Right),
    ];
    table(columns, &status.volunteers.iter().map(row).collect::<Vec<_>>())
}

/// The chunk sets: agreed hashes, holders and claims that differ.
pub fn sets(status: &Status) -> String {
    chunk_sets::sets(status.sets_known, &status.sets)
}

/// Table of files, and why own copies of the tracker stay.
pub fn files(status: &Status) -> String {
    if status.files.is_empty() {
        return "no files in the catalogue\n".to_owned();
    }
    let row = |file: &FileStatus| {
        let Copies { wanted, verified, present, away, short, lost, .. } = file.copies;
        let local = match (file.here >= file.chunks, file.offloaded) {
            (true, _) => "complete".to_owned(),
            (false, true) if file.here == 0 => "offloaded".to_owned(),
            (false, false) if file.here == 0 => "none".to_owned(),
            _ => counted(file.here.into(), "chunk"),
        };
        [
            file.name.to_string(),
            size(file.size),
            file.chunks.to_string(),
            local,
            format!("{verified} of {wanted}"),
            present.to_string(),
            away.to_string(),
            short.to_string(),
            lost.to_string(),
            if file.readable { "yes" } else { "no" }.to_owned(),
            file.id.short(),
        ]
    };
    let columns = [
        ("NAME", Side::Left),
        ("SIZE", Side::Right),
        ("CHUNKS", Side::Right),
        ("LOCAL", Side::Left),
        ("REPLICAS", Side::Right),
        ("PRESENT", Side::Right),
        ("AWAY", Side::Right),
        ("UNDER-REPLICATED", Side::Right),
        ("LOST", Side::Right),
        ("READABLE", Side::Left),
        ("ID", Side::Left),
    ];
    let mut text = table(columns, &status.files.iter().map(row).collect::<Vec<_>>());
    for file in &status.files {
        let notes = [
            file.kept_here.then(|| "kept in the folder; `offload` removes the mark".to_owned()),
            (file.waiting_for_holders > 0)
                .then(|| format!("{} wait for their holders", counted(file.waiting_for_holders, "chunk"))),
            file.own_copy_stays.as_ref().map(|why| format!("own copy stays: {why}")),
        ];
        for note in notes.into_iter().flatten() {
            let _ = writeln!(text, "{}", line(&format!("{}: {note}", file.name)));
        }
    }
    let omitted = status.files_known.saturating_sub(status.files.len() as u64);
    if omitted > 0 {
        let _ = writeln!(text, "and {omitted} more");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{FileId, FileName, PeerName};
    use crate::protocol::status::RepairStatus;
    use crate::protocol::tokens::KeyPrint;

    #[test]
    fn status_of_an_empty_and_a_busy_tracker() {
        let empty = Status { volunteers_needed: 3, ..Status::default() };
        assert_eq!(
            status(&empty),
            "volunteers  0 present of 0 known; 0 B offered, 0 B free\n\
             files       0, 0 B\n\
             replicas    0 verified of 0 wanted\n            \
             no files are distributed with fewer than 3 volunteers\n\
             repair      idle; 0 chunks (0 B) copied since the start\n"
        );
        let copies = Copies { wanted: 8, verified: 5, claimed: 1, short: 2, lost: 1, ..Copies::default() };
        let busy = Status {
            volunteers_needed: 1,
            offered: 2048,
            free: 1024,
            copies,
            volunteers: vec![VolunteerStatus {
                name: PeerName::new("anna").unwrap(),
                address: "10.0.0.1:7000".parse().unwrap(),
                state: VolunteerState::Draining,
                offered: 2048,
                free: 1024,
                chunks: 4,
                verified: 3,
                incoming: 2,
                key: KeyPrint([7; 8]),
                approval: ApprovalState::Pending,
                known_s: 60,
                away_s: None,
            }],
            files_known: 2,
            files: vec![FileStatus {
                id: FileId([7; 32]),
                name: FileName::new("f").unwrap(),
                size: 4096,
                chunks: 4,
                here: 0,
                offloaded: true,
                copies,
                readable: true,
                waiting_for_holders: 0,
                kept_here: false,
                own_copy_stays: Some("0 of 2 copies".to_owned()),
            }],
            repair: RepairStatus { paused: true, waiting: 3, running: 1, limit: 1024, ..Default::default() },
            drops: vec![DropStatus {
                at_s: 60,
                file: FileName::new("f").unwrap(),
                volunteer: Some(PeerName::new("anna").unwrap()),
                chunks: 2,
                reason: "surplus".to_owned(),
            }],
            ..Status::default()
        };
        let text = status(&busy);
        assert!(
            text.contains("1 present of 1 known, 1 waiting for approval; 2.0 KiB offered, 1.0 KiB free"),
            "{text}"
        );
        assert!(
            text.contains("5 verified of 8 wanted, 1 claimed, 2 chunks under-replicated, 1 chunk LOST"),
            "{text}"
        );
        assert!(text.contains("paused; 1 chunk in flight, 3 waiting"), "{text}");
        assert!(text.contains("limit 1.0 KiB/s"), "{text}");
        assert!(text.ends_with("1970-01-01T00:01:00Z 2 chunks of f at anna: surplus\n"), "{text}");
        let volunteers = volunteers(&busy);
        assert!(volunteers.contains("07070707") && volunteers.contains("draining"), "{volunteers}");
        assert!(volunteers.contains("pending (60 s)"), "{volunteers}");
        let files = files(&busy);
        assert!(files.contains("offloaded") && files.contains("yes"), "{files}");
        assert!(files.contains("f: own copy stays: 0 of 2 copies\nand 1 more\n"), "{files}");
    }
}
