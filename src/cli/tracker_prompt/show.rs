//! Output of the tracker prompt and of `tracker status`, as text.
//!
//! Pure. Invariant: each output ends with a newline and is never empty.

pub use crate::cli::prompt::show::line;
use crate::cli::table::{Side, percent, size, table};
use crate::content::fmt::counted;
use crate::protocol::status::{Copies, FileStatus, Status, VolunteerState, VolunteerStatus};
use std::fmt::Write;

/// Summary of volunteers, files, replicas and repair.
pub fn status(status: &Status) -> String {
    let is_alive = |volunteer: &&VolunteerStatus| {
        matches!(volunteer.state, VolunteerState::Alive | VolunteerState::Draining)
    };
    let (alive, known) = (status.volunteers.iter().filter(is_alive).count(), status.volunteers.len());
    let mut text = String::new();
    let _ = writeln!(
        text,
        "volunteers  {alive} alive of {known} known; {} offered, {} free",
        size(status.offered),
        size(status.free)
    );
    let bytes = status.files.iter().map(|file| file.size).sum();
    let _ = writeln!(text, "files       {}, {}", status.files_known, size(bytes));
    let _ = writeln!(text, "replicas    {}", replicas(&status.copies));
    if alive < status.volunteers_needed as usize {
        let _ = writeln!(
            text,
            "            no files are distributed with fewer than {} volunteers",
            status.volunteers_needed
        );
    }
    text + &repair(status)
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
        let state = match volunteer.state {
            VolunteerState::Alive => "alive",
            VolunteerState::Draining => "draining",
            VolunteerState::Away => "away",
            VolunteerState::Dead => "dead",
        };
        [
            volunteer.name.to_string(),
            volunteer.address.to_string(),
            state.to_owned(),
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
        ("STATE", Side::Left),
        ("OFFERED", Side::Right),
        ("FREE", Side::Right),
        ("CHUNKS", Side::Right),
        ("VERIFIED", Side::Right),
        ("INCOMING", Side::Right),
    ];
    table(columns, &status.volunteers.iter().map(row).collect::<Vec<_>>())
}

/// Table of files.
pub fn files(status: &Status) -> String {
    if status.files.is_empty() {
        return "no files in the catalogue\n".to_owned();
    }
    let row = |file: &FileStatus| {
        let Copies { wanted, verified, short, lost, .. } = file.copies;
        let local = match (file.here >= file.chunks, file.offloaded) {
            (true, _) => "complete".to_owned(),
            (false, true) if file.here == 0 => "offloaded".to_owned(),
            (false, false) if file.here == 0 => "none".to_owned(),
            _ => counted(file.here.into(), "chunk"),
        };
        let replicas = format!("{verified} of {wanted}");
        [
            file.name.to_string(),
            size(file.size),
            file.chunks.to_string(),
            local,
            replicas,
            percent(verified, wanted),
            short.to_string(),
            lost.to_string(),
            file.id.short(),
        ]
    };
    let columns = [
        ("NAME", Side::Left),
        ("SIZE", Side::Right),
        ("CHUNKS", Side::Right),
        ("LOCAL", Side::Left),
        ("REPLICAS", Side::Right),
        ("DONE", Side::Right),
        ("UNDER-REPLICATED", Side::Right),
        ("LOST", Side::Right),
        ("ID", Side::Left),
    ];
    let mut text = table(columns, &status.files.iter().map(row).collect::<Vec<_>>());
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
    use crate::protocol::status::{ApprovalState, RepairStatus};
    use crate::protocol::tokens::KeyPrint;

    #[test]
    fn status_of_an_empty_and_a_busy_tracker() {
        let empty = Status { volunteers_needed: 3, ..Status::default() };
        assert_eq!(
            status(&empty),
            "volunteers  0 alive of 0 known; 0 B offered, 0 B free\n\
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
                own_copy_stays: None,
            }],
            repair: RepairStatus { paused: true, waiting: 3, running: 1, limit: 1024, ..Default::default() },
            ..Status::default()
        };
        let text = status(&busy);
        assert!(text.contains("1 alive of 1 known; 2.0 KiB offered, 1.0 KiB free"), "{text}");
        assert!(
            text.contains("5 verified of 8 wanted, 1 claimed, 2 chunks under-replicated, 1 chunk LOST"),
            "{text}"
        );
        assert!(text.contains("paused; 1 chunk in flight, 3 waiting"), "{text}");
        assert!(text.contains("limit 1.0 KiB/s"), "{text}");
        assert!(volunteers(&busy).contains("draining"));
        let files = files(&busy);
        assert!(
            files.contains("offloaded") && files.contains("62 %") && files.contains("and 1 more"),
            "{files}"
        );
    }
}
