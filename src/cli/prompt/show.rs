//! What the prompt answers, as text.
//!
//! Pure: what is to be shown goes in. Invariant: every answer ends in a newline, says so when there is nothing, and
//! lets nothing that others sent drive the terminal.

use super::command::{COMMANDS, quoted};
use crate::cli::line::escaped;
use crate::cli::table::{self, Side, percent, size, table};
use crate::content::words::counted;
use crate::daemon::member::{Stage, TransferStatus};
use crate::daemon::shelf::Offer;
use crate::daemon::volunteer::VolunteerStatus;
use crate::protocol::tracker::{FileSummary, FoundFile, PeerSummary};
use std::fmt::Write;
use std::net::SocketAddr;

/// Longest text in one line, bytes.
const TEXT_MAX: usize = 4_096;
/// Holders named by `why`.
const NAMED_MAX: usize = 8;

/// A text of others, or an error, on lines of its own.
pub fn line(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| escaped(&line, TEXT_MAX)).collect();
    lines.join("\n")
}

/// What can be typed.
pub fn help() -> String {
    let rows = COMMANDS.map(|(_, usage, meaning)| [usage.to_owned(), meaning.to_owned()]);
    let mut text = table([("COMMAND", Side::Left), ("WHAT IT DOES", Side::Left)], &rows);
    text += "A name with spaces stands in quotes. Tab completes commands and names.\n";
    text
}

/// What the swarm has.
pub fn files(found: &[FoundFile]) -> String {
    match found {
        [] => "nobody else has a file\n".to_owned(),
        found => table::files(found),
    }
}

/// Who is there.
pub fn peers(mut peers: Vec<PeerSummary>) -> String {
    if peers.is_empty() {
        return "no other peers are known\n".to_owned();
    }
    peers.sort_by(|a, b| (a.name.as_str(), a.address).cmp(&(b.name.as_str(), b.address)));
    let rows: Vec<_> = peers.iter().map(|peer| [peer.name.to_string(), peer.address.to_string()]).collect();
    table([("NAME", Side::Left), ("ADDRESS", Side::Left)], &rows)
}

/// What is shared here.
pub fn mine(offers: &[Offer]) -> String {
    if offers.is_empty() {
        return "nothing is shared from this folder\n".to_owned();
    }
    let row = |Offer { file, source }: &Offer| {
        let held = source.progress().held();
        let there = percent(held.into(), file.chunks.into());
        [file.name.to_string(), size(file.size), file.chunks.to_string(), there, file.id.short()]
    };
    let rows: Vec<_> = offers.iter().map(row).collect();
    let columns = [
        ("NAME", Side::Left),
        ("SIZE", Side::Right),
        ("CHUNKS", Side::Right),
        ("HERE", Side::Right),
        ("ID", Side::Left),
    ];
    table(columns, &rows)
}

/// How the transfers stand.
pub fn status(transfers: &[TransferStatus]) -> String {
    if transfers.is_empty() {
        return "nothing has been got yet; get NAME begins\n".to_owned();
    }
    let row = |status: &TransferStatus| {
        let (done, total) = status.bytes;
        let begun = total > 0 || status.stage == Stage::Done;
        let share = if begun { percent(done, total) } else { "-".to_owned() };
        let bytes = if begun { format!("{} of {}", size(done), size(total)) } else { "-".to_owned() };
        let rate = if status.rate > 0 { format!("{}/s", size(status.rate)) } else { "-".to_owned() };
        let sources = match &status.stage {
            Stage::Downloading => status.note.trim_end_matches(" sources").to_owned(),
            _ => "-".to_owned(),
        };
        [status.wanted.clone(), share, bytes, rate, sources, stage(status)]
    };
    let rows: Vec<_> = transfers.iter().map(row).collect();
    let columns = [
        ("NAME", Side::Left),
        ("DONE", Side::Right),
        ("BYTES", Side::Right),
        ("RATE", Side::Right),
        ("SOURCES", Side::Right),
        ("STAGE", Side::Left),
    ];
    table(columns, &rows)
}

/// What is lent to the tracker.
pub fn lent(status: &VolunteerStatus) -> String {
    let more = match status.left {
        _ if status.refused => "; the tracker does not take it".to_owned(),
        _ if !status.welcome => "; the tracker has not taken it yet".to_owned(),
        Some(0) => "; all of it has been copied elsewhere".to_owned(),
        Some(left) => format!("; {} still to be copied elsewhere", counted(left, "chunk")),
        None => String::new(),
    };
    format!("{status}{more}\n")
}

fn stage(status: &TransferStatus) -> String {
    match &status.stage {
        Stage::Finding => "looking for holders".to_owned(),
        Stage::Downloading if status.trouble.is_empty() => "downloading".to_owned(),
        Stage::Downloading => format!("waiting: {}", status.trouble),
        Stage::Done => "done".to_owned(),
        Stage::Failed(_, text) => format!("failed: {}", text.lines().next().unwrap_or_default()),
    }
}

/// What is known of a file that somebody waits for.
pub struct Why<'a> {
    /// What the user calls it.
    pub name: &'a str,
    /// The last transfer of it.
    pub status: Option<TransferStatus>,
    /// What is here under that name or id, and how many of its chunks.
    pub here: Option<(FileSummary, u32)>,
    /// What the swarm says of it.
    pub found: Result<Vec<FoundFile>, String>,
    /// Who is there.
    pub peers: Vec<PeerSummary>,
}

impl Why<'_> {
    /// Whether what is here is none of what the others have under that name.
    fn is_another(&self, file: &FileSummary) -> bool {
        let others = self.found.as_deref().unwrap_or_default();
        !others.is_empty() && others.iter().all(|found| found.file.id != file.id)
    }
}

/// What is missing of a file, who has it, and what went wrong last.
pub fn why(why: &Why<'_>) -> String {
    let mut text = String::new();
    // Writing into a string does not fail.
    let mut put = |what: &str, more: &str| _ = writeln!(text, "{what:<8} {}", escaped(&more, TEXT_MAX));
    put("file", why.name);
    put("here", &here(why));
    if let Some(status) = &why.status {
        put("transfer", &stage(status));
        if let Stage::Failed(_, error) = &status.stage {
            error.lines().skip(1).for_each(|line| put("", line));
        }
    }
    match &why.found {
        Err(error) => put("others", &format!("cannot be asked: {error}")),
        Ok(found) if found.is_empty() => put("others", "nobody who is there has it"),
        Ok(found) => {
            if found.len() > 1 {
                put("others", "have different files of this name; choose one with get ID:");
            }
            for found in found {
                let file = &found.file;
                let (whole, partial) = table::holders(found);
                let size = size(file.size);
                put("others", &format!("{whole} whole, {partial} in part: {size}, id {}", file.id));
                put("", &named(found, &why.peers));
            }
        }
    }
    text
}

fn here(why: &Why<'_>) -> String {
    match (&why.here, &why.status) {
        (Some((file, _)), _) if why.is_another(file) => {
            format!(
                "a different file of this name, id {}; get {} as OTHER puts this one beside it",
                file.id,
                quoted(why.name)
            )
        }
        (Some((FileSummary { chunks, .. }, held)), _) if held >= chunks => format!("all {chunks} chunks"),
        (Some((FileSummary { chunks, .. }, held)), _) => {
            let share = percent((*held).into(), (*chunks).into());
            format!("{held} of {chunks} chunks ({share}), {} are missing", chunks - held)
        }
        (None, Some(TransferStatus { bytes: (done, total), .. })) if *total > 0 => {
            format!("{} of {} ({})", size(*done), size(*total), percent(*done, *total))
        }
        (None, None) => "nothing of it; get begins".to_owned(),
        (None, Some(_)) => "nothing of it".to_owned(),
    }
}

/// The holders by name, as far as they are known, those who have all of it first.
fn named(found: &FoundFile, peers: &[PeerSummary]) -> String {
    let called = |address: &SocketAddr| {
        let peer = peers.iter().find(|peer| peer.address == *address);
        peer.map_or_else(|| address.to_string(), |peer| format!("{} at {address}", peer.name))
    };
    let whole = found.whole.iter().map(&called);
    let partial = found.partial.iter().map(|address| format!("{} (in part)", called(address)));
    let mut names: Vec<String> = whole.chain(partial).take(NAMED_MAX).collect();
    let more = (found.holders as usize).saturating_sub(names.len());
    if more > 0 {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::table::tests::found;
    use crate::daemon::Fault;

    fn transfer(stage: Stage, bytes: (u64, u64), rate: u64, trouble: &str) -> TransferStatus {
        let (wanted, note) = ("f".to_owned(), "2 sources".to_owned());
        TransferStatus { wanted, stage, bytes, rate, note, trouble: trouble.to_owned() }
    }

    fn peer(name: &str, port: u16) -> PeerSummary {
        let name = crate::content::EntityName::new(name).unwrap();
        PeerSummary { name, address: SocketAddr::from(([10, 0, 0, 1], port)) }
    }

    #[test]
    fn nothing_is_said_in_words() {
        for text in [files(&[]), peers(vec![]), mine(&[]), status(&[])] {
            assert!(text.ends_with('\n') && text.lines().count() == 1, "{text:?}");
        }
    }

    #[test]
    fn the_stages_of_transfers() {
        let failed = Stage::Failed(Fault::NotFound, "nobody has \u{1b}[31mf\nsecond line".into());
        let text = status(&[
            transfer(Stage::Finding, (0, 0), 0, ""),
            transfer(Stage::Downloading, (1 << 20, 4 << 20), 2 << 20, ""),
            transfer(Stage::Downloading, (3 << 20, 4 << 20), 0, "nobody has chunk 4"),
            transfer(Stage::Done, (0, 0), 0, ""),
            transfer(failed, (0, 0), 0, ""),
        ]);
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(
            rows,
            [
                "NAME   DONE               BYTES       RATE  SOURCES  STAGE",
                "f         -                   -          -        -  looking for holders",
                "f      25 %  1.0 MiB of 4.0 MiB  2.0 MiB/s        2  downloading",
                "f      75 %  3.0 MiB of 4.0 MiB          -        2  waiting: nobody has chunk 4",
                "f     100 %          0 B of 0 B          -        -  done",
                "f         -                   -          -        -  failed: nobody has \\u{1b}[31mf",
            ]
        );
    }

    #[test]
    fn what_is_lent_is_a_line() {
        let status = VolunteerStatus {
            offered: 2 << 30,
            used: 512 << 20,
            chunks: 1_024,
            files: 3,
            welcome: true,
            left: None,
            refused: false,
        };
        let line = "offering 2.0 GiB of storage, 512.0 MiB used in 1,024 chunks of 3 files";
        for (status, more) in [
            (status, ""),
            (VolunteerStatus { left: Some(7), ..status }, "; 7 chunks still to be copied elsewhere"),
            (VolunteerStatus { left: Some(0), ..status }, "; all of it has been copied elsewhere"),
            (VolunteerStatus { welcome: false, ..status }, "; the tracker has not taken it yet"),
            (VolunteerStatus { refused: true, ..status }, "; the tracker does not take it"),
        ] {
            assert_eq!(lent(&status), format!("{line}{more}\n"));
        }
    }

    #[test]
    fn peers_by_name() {
        let text = peers(vec![peer("b", 2), peer("a", 1)]);
        assert_eq!(text, "NAME  ADDRESS\na     10.0.0.1:1\nb     10.0.0.1:2\n");
    }

    fn held_here(id: u8) -> FileSummary {
        FileSummary { chunks: 4, ..found(id, "f", 0, 0, 0).file }
    }

    #[test]
    fn why_a_file_of_the_same_name_is_in_the_way() {
        let found = Ok(vec![found(7, "f", 1, 1, 0)]);
        let text = why(&Why { name: "f", status: None, here: Some((held_here(8), 4)), found, peers: vec![] });
        let line = format!("here     a different file of this name, id {}; get f as OTHER", "08".repeat(32));
        assert!(text.contains(&line), "{text}");
    }

    #[test]
    fn why_a_file_does_not_come() {
        let failed = Stage::Failed(Fault::ChunksMissing, "3 chunks are with nobody\nask again later".into());
        let text = why(&Why {
            name: "f",
            status: Some(transfer(failed, (1, 2), 0, "")),
            here: Some((held_here(7), 1)),
            found: Ok(vec![found(7, "f", 2, 1, 1)]),
            peers: vec![peer("ann", 1)],
        });
        let rows: Vec<&str> = text.lines().collect();
        let others = format!("others   1 whole, 1 in part: 1.0 MiB, id {}", "07".repeat(32));
        assert_eq!(
            rows,
            [
                "file     f",
                "here     1 of 4 chunks (25 %), 3 are missing",
                "transfer failed: 3 chunks are with nobody",
                "         ask again later",
                &others,
                "         ann at 10.0.0.1:1, 10.0.0.1:1000 (in part)",
            ]
        );
        let nobody = Why { name: "f", status: None, here: None, found: Ok(vec![]), peers: vec![] };
        let text = why(&nobody);
        assert_eq!(
            text,
            "file     f\nhere     nothing of it; get begins\nothers   nobody who is there has it\n"
        );
        let several = Ok(vec![found(1, "f", 1, 1, 0), found(2, "f", 9, 3, 0)]);
        let text = why(&Why { found: several, ..nobody });
        assert!(text.contains("choose one with get ID") && text.contains("6 more"), "{text}");
        let silent = Why {
            found: Err("no answer".into()),
            name: "f",
            status: None,
            here: Some((held_here(1), 4)),
            peers: vec![],
        };
        assert!(why(&silent).ends_with("here     all 4 chunks\nothers   cannot be asked: no answer\n"));
    }
}
