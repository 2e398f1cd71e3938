//! Output of the tracker prompt and of `tracker status`, as text.
//!
//! Pure. Invariant: each output ends with a newline and is never empty.

use super::command::Names;
use crate::cli::chunk_sets;
pub use crate::cli::prompt::show::line;
use crate::cli::table::{Side, id_text, size, table};
use crate::content::fmt::{counted, duration};
use crate::protocol::status::{
    ApprovalState, Copies, DaemonKind, DropStatus, FileStatus, Status, VolunteerState, VolunteerStatus,
};
use crate::protocol::tracker::{FileSummary, PeerSummary};
use crate::swarm::command::{Answer, PeerEntry, PeerList};
use jiff::Timestamp;
use std::fmt::Write;

/// Number of drops that the status shows.
const SHOWN_DROPS_MAX: usize = 5;

/// The answer of a tracker that keeps no files to a question about them.
const KEEPS_NO_FILES: &str = "this tracker keeps no files; restart it with --files DIR --state DIR\n";

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

/// Everything about a tracker or manager; `long` shows whole ids.
pub fn all(status: &Status, long: bool) -> String {
    let peers = peer_count(status);
    match status.kind {
        DaemonKind::KeepingTracker => {
            let tables = [self::status(status), volunteers(status), files(status, long)].join("\n");
            let offered = match status.offered_known {
                0 => String::new(),
                _ => format!("\nfiles of other peers\n{}", offered(status, long)),
            };
            format!("{tables}{offered}\n{}", sets(status))
        }
        DaemonKind::Tracker => {
            format!("{}\n{}\n{}", self::status(status), offered(status, long), sets(status))
        }
        DaemonKind::Manager => {
            let list = peer_table(status);
            format!(
                "{peers}files       not known to a manager: ask the peers (`files` at the prompt of a client)\n{list}"
            )
        }
    }
}

/// Summary of a tracker that keeps no files.
fn plain_status(status: &Status) -> String {
    let bytes = status.offered_files.iter().map(|found| found.file.size).fold(0, u64::saturating_add);
    let count = counted(status.offered_known, "file");
    format!("{}files       {count}, {}\n", peer_count(status), size(bytes))
}

fn peer_count(status: &Status) -> String {
    format!("peers       {} registered\n", status.peers_known)
}

fn peer_table(status: &Status) -> String {
    if status.peers.is_empty() {
        return String::new();
    }
    let row = |peer: &PeerSummary| [peer.name.to_string(), peer.address.to_string()];
    let columns = [("NAME", Side::Left), ("ADDRESS", Side::Left)];
    let mut text = format!("\n{}", table(columns, &status.peers.iter().map(row).collect::<Vec<_>>()));
    let omitted = status.peers_known.saturating_sub(status.peers.len() as u64);
    if omitted > 0 {
        let _ = writeln!(text, "and {omitted} more");
    }
    text
}

/// The files that peers offer, and why chunks of them may be missing.
fn offered(status: &Status, long: bool) -> String {
    if status.offered_files.is_empty() {
        return "no files are offered\n".to_owned();
    }
    let mut text = super::super::table::files(&status.offered_files, long);
    for found in status.offered_files.iter().filter(|found| found.complete == 0) {
        let holders = counted(found.holders.into(), "peer");
        let FileSummary { name, chunks, .. } = &found.file;
        let all = counted((*chunks).into(), "chunk");
        let note =
            format!("{name}: chunks may be missing: no peer has all {all}, {holders} with some of them");
        let _ = writeln!(text, "{}", line(&note));
    }
    let omitted = status.offered_known.saturating_sub(status.offered_files.len() as u64);
    if omitted > 0 {
        let _ = writeln!(text, "and {omitted} more");
    }
    text
}

/// Why copies of a file are missing; `None` if there are enough.
fn why_copies_are_missing(status: &Status, file: &FileStatus) -> Option<String> {
    let Copies { wanted, present, away, short, lost, .. } = file.copies;
    if lost > 0 {
        let chunks = counted(lost, "chunk");
        return Some(format!(
            "missing {chunks}: their holders are lost; a holder that returns restores them"
        ));
    }
    if short == 0 {
        return None;
    }
    let is_present =
        |one: &&VolunteerStatus| matches!(one.state, VolunteerState::Alive | VolunteerState::Draining);
    let volunteers = status.volunteers.iter().filter(is_present).count();
    let reason = match () {
        () if present >= wanted => "they are stored, and wait for their proofs".to_owned(),
        () if volunteers < status.volunteers_needed as usize => {
            format!("{volunteers} of the {} volunteers needed are present", status.volunteers_needed)
        }
        () if status.repair.paused => "repair is paused".to_owned(),
        () if present + away >= wanted => {
            format!("{} on volunteers that are away and expected back", counted(away, "copy"))
        }
        () if status.repair.running > 0 => "they are being copied".to_owned(),
        () if status.free == 0 => "no volunteer has free space".to_owned(),
        () => "they wait for a volunteer with free space, or for the repair limit".to_owned(),
    };
    Some(format!("{} with too few proven copies: {reason}", counted(short, "chunk")))
}

/// Summary of peers, volunteers, files, replicas, repair and the latest drops.
pub fn status(status: &Status) -> String {
    if status.kind == DaemonKind::Tracker {
        return plain_status(status);
    }
    let count = |wanted: fn(&VolunteerStatus) -> bool| {
        status.volunteers.iter().filter(|volunteer| wanted(volunteer)).count()
    };
    let present =
        count(|volunteer| matches!(volunteer.state, VolunteerState::Alive | VolunteerState::Draining));
    let mut text = peer_count(status);
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
    if status.kind == DaemonKind::Tracker {
        return KEEPS_NO_FILES.to_owned();
    }
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
    if status.kind == DaemonKind::Tracker {
        return KEEPS_NO_FILES.to_owned();
    }
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

/// Table of files, and why own copies of the tracker stay; `long` shows whole ids.
pub fn files(status: &Status, long: bool) -> String {
    if status.kind == DaemonKind::Tracker {
        return offered(status, long);
    }
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
            id_text(file.id, long),
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
            why_copies_are_missing(status, file),
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
    fn missing_copies_have_a_reason() {
        let copies = |present, away, short, lost| Copies {
            wanted: 8,
            present,
            away,
            short,
            lost,
            ..Copies::default()
        };
        let status = |needed, paused, running, free| Status {
            volunteers_needed: needed,
            free,
            repair: RepairStatus { paused, running, ..RepairStatus::default() },
            ..Status::default()
        };
        for (status, copies, reason) in [
            (status(0, false, 0, 1), copies(8, 0, 0, 0), None),
            (status(0, false, 0, 1), copies(6, 0, 1, 1), Some("a holder that returns restores them")),
            (status(0, false, 0, 1), copies(8, 0, 2, 0), Some("they are stored, and wait for their proofs")),
            (status(3, false, 0, 1), copies(4, 0, 4, 0), Some("0 of the 3 volunteers needed are present")),
            (status(0, true, 0, 1), copies(4, 0, 4, 0), Some("repair is paused")),
            (status(0, false, 0, 1), copies(4, 4, 4, 0), Some("4 copies on volunteers that are away")),
            (status(0, false, 1, 1), copies(4, 0, 4, 0), Some("they are being copied")),
            (status(0, false, 0, 0), copies(4, 0, 4, 0), Some("no volunteer has free space")),
            (status(0, false, 0, 1), copies(4, 0, 4, 0), Some("or for the repair limit")),
        ] {
            let file = FileStatus { copies, ..file() };
            let why = why_copies_are_missing(&status, &file);
            assert_eq!(why.is_some(), reason.is_some(), "{why:?}");
            assert!(why.unwrap_or_default().contains(reason.unwrap_or_default()), "{reason:?}");
        }
    }

    #[test]
    fn a_file_without_a_complete_holder_has_a_reason() {
        let found = crate::cli::table::tests::found(1, "x.bin", 2, 0, 2);
        let status = Status {
            kind: DaemonKind::Tracker,
            peers_known: 2,
            offered_known: 1,
            offered_files: vec![found],
            ..Status::default()
        };
        let text = all(&status, false);
        assert!(text.starts_with("peers       2 registered\nfiles       1 file, 1.0 MiB\n\nNAME "), "{text}");
        let reason = "x.bin: chunks may be missing: no peer has all 2 chunks, 2 peers with some of them\n";
        assert!(text.ends_with(&format!("{reason}\nno chunk sets\n")), "{text}");
    }

    fn file() -> FileStatus {
        FileStatus {
            id: FileId([7; 32]),
            name: FileName::new("f").unwrap(),
            size: 4096,
            chunks: 4,
            here: 0,
            offloaded: true,
            copies: Copies::default(),
            readable: true,
            waiting_for_holders: 0,
            kept_here: false,
            own_copy_stays: None,
        }
    }

    #[test]
    fn status_of_an_empty_and_a_busy_tracker() {
        let empty = Status { volunteers_needed: 3, ..Status::default() };
        assert_eq!(
            status(&empty),
            "peers       0 registered\n\
             volunteers  0 present of 0 known; 0 B offered, 0 B free\n\
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
            files: vec![FileStatus { copies, own_copy_stays: Some("0 of 2 copies".to_owned()), ..file() }],
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
        assert!(files(&busy, true).contains(&busy.files[0].id.to_string()));
        let files = files(&busy, false);
        assert!(files.contains("offloaded") && files.contains("yes"), "{files}");
        assert!(files.contains("f: own copy stays: 0 of 2 copies\nand 1 more\n"), "{files}");
    }
}
