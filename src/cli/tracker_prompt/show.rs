//! What a tracker's prompt answers, and what `tracker status` prints, as text.
//!
//! Pure. Invariant: every answer ends in a newline and says so when there is nothing.

pub use crate::cli::prompt::show::line;
use crate::cli::table::{Side, percent, size, table};
use crate::content::words::counted;
use crate::protocol::status::{Copies, FileStatus, Status, VolunteerState, VolunteerStatus};
use std::fmt::Write;

/// How everything is.
pub fn status(status: &Status) -> String {
    let here = |volunteer: &&VolunteerStatus| {
        matches!(volunteer.state, VolunteerState::Here | VolunteerState::Draining)
    };
    let (there, known) = (status.volunteers.iter().filter(here).count(), status.volunteers.len());
    let mut text = String::new();
    let _ = writeln!(
        text,
        "volunteers  {there} here of {known} known; {} lent, {} free",
        size(status.offered),
        size(status.free)
    );
    let bytes = status.files.iter().map(|file| file.size).sum();
    let _ = writeln!(text, "files       {}, {}", status.files_known, size(bytes));
    let _ = writeln!(text, "copies      {}", copies(&status.copies));
    if there < status.volunteers_needed as usize {
        let _ = writeln!(
            text,
            "            nothing is distributed below {} volunteers",
            status.volunteers_needed
        );
    }
    text + &repair(status)
}

fn copies(copies: &Copies) -> String {
    let Copies { wanted, verified, claimed, short, lost } = copies;
    let mut text = format!("{verified} verified of {wanted} wanted");
    for (count, what) in [
        (*claimed, format!("{claimed} claimed")),
        (*short, format!("{} short", counted(*short, "chunk"))),
        (*lost, format!("{} LOST", counted(*lost, "chunk"))),
    ] {
        if count > 0 {
            let _ = write!(text, ", {what}");
        }
    }
    text
}

/// What is being copied.
pub fn repair(status: &Status) -> String {
    let repair = &status.repair;
    let (running, waiting) = (counted(repair.running, "chunk"), repair.waiting);
    let underway = format!("{running} on the way, {waiting} waiting");
    let what = match (repair.paused, repair.running, repair.waiting) {
        (true, 0, 0) => "paused; nothing to do".to_owned(),
        (true, ..) => format!("paused; {underway}"),
        (false, 0, 0) => "nothing to do".to_owned(),
        (false, ..) => underway,
    };
    let limit = match repair.limit {
        0 => String::new(),
        limit => format!("; at most {}/s", size(limit)),
    };
    format!(
        "repair      {what}; {} ({}) copied since the start{limit}\n",
        counted(repair.copied, "chunk"),
        size(repair.copied_bytes)
    )
}

/// The volunteers.
pub fn volunteers(status: &Status) -> String {
    if status.volunteers.is_empty() {
        return "no volunteer has come yet; client --volunteer SIZE makes one\n".to_owned();
    }
    let row = |volunteer: &VolunteerStatus| {
        let state = match volunteer.state {
            VolunteerState::Here => "here",
            VolunteerState::Draining => "draining",
            VolunteerState::Away => "away",
            VolunteerState::Gone => "gone",
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
        ("LENDS", Side::Right),
        ("FREE", Side::Right),
        ("CHUNKS", Side::Right),
        ("VERIFIED", Side::Right),
        ("COMING", Side::Right),
    ];
    table(columns, &status.volunteers.iter().map(row).collect::<Vec<_>>())
}

/// The files.
pub fn files(status: &Status) -> String {
    if status.files.is_empty() {
        return "no files are kept yet\n".to_owned();
    }
    let row = |file: &FileStatus| {
        let Copies { wanted, verified, short, lost, .. } = file.copies;
        let here = match (file.here >= file.chunks, file.offloaded) {
            (true, _) => "whole".to_owned(),
            (false, true) if file.here == 0 => "offloaded".to_owned(),
            (false, false) if file.here == 0 => "nothing".to_owned(),
            _ => counted(file.here.into(), "chunk"),
        };
        let copies = format!("{verified} of {wanted}");
        [
            file.name.to_string(),
            size(file.size),
            file.chunks.to_string(),
            here,
            copies,
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
        ("HERE", Side::Left),
        ("COPIES", Side::Right),
        ("DONE", Side::Right),
        ("SHORT", Side::Right),
        ("LOST", Side::Right),
        ("ID", Side::Left),
    ];
    let mut text = table(columns, &status.files.iter().map(row).collect::<Vec<_>>());
    let unnamed = status.files_known.saturating_sub(status.files.len() as u64);
    if unnamed > 0 {
        let _ = writeln!(text, "and {unnamed} more");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{EntityName, FileId, FileName};
    use crate::protocol::status::RepairStatus;

    #[test]
    fn everything_in_words() {
        let empty = Status { volunteers_needed: 3, ..Status::default() };
        assert_eq!(
            status(&empty),
            "volunteers  0 here of 0 known; 0 B lent, 0 B free\n\
             files       0, 0 B\n\
             copies      0 verified of 0 wanted\n            \
             nothing is distributed below 3 volunteers\n\
             repair      nothing to do; 0 chunks (0 B) copied since the start\n"
        );
        let copies = Copies { wanted: 8, verified: 5, claimed: 1, short: 2, lost: 1 };
        let full = Status {
            volunteers_needed: 1,
            offered: 2048,
            free: 1024,
            copies,
            volunteers: vec![VolunteerStatus {
                name: EntityName::new("anna").unwrap(),
                address: "10.0.0.1:7000".parse().unwrap(),
                state: VolunteerState::Draining,
                offered: 2048,
                free: 1024,
                chunks: 4,
                verified: 3,
                incoming: 2,
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
            }],
            repair: RepairStatus { paused: true, waiting: 3, running: 1, limit: 1024, ..Default::default() },
            ..Status::default()
        };
        let text = status(&full);
        assert!(text.contains("1 here of 1 known; 2.0 KiB lent, 1.0 KiB free"), "{text}");
        assert!(text.contains("5 verified of 8 wanted, 1 claimed, 2 chunks short, 1 chunk LOST"), "{text}");
        assert!(text.contains("paused; 1 chunk on the way, 3 waiting"), "{text}");
        assert!(text.contains("at most 1.0 KiB/s"), "{text}");
        assert!(volunteers(&full).contains("draining"));
        let files = files(&full);
        assert!(
            files.contains("offloaded") && files.contains("62 %") && files.contains("and 1 more"),
            "{files}"
        );
    }
}
