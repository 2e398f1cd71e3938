//! Output of the client prompt, as text.
//!
//! Pure. Invariants: each output ends with a newline and is never empty; control characters in text from other peers
//! are escaped.

use super::command::{COMMANDS, quoted};
use crate::cli::line::escaped;
use crate::cli::table::{self, Side, id_text, percent, size, table};
use crate::content::fmt::counted;
use crate::protocol::PeerAddress;
use crate::protocol::tracker::{FileSummary, FoundFile, PeerSummary};
use crate::report::Fault;
use crate::roles::folder_client::{Stage, TransferStatus};
use crate::storage::leftovers::Unfinished;
use crate::upload::offers::Offer;
use crate::volunteer::VolunteerStatus;
use std::fmt::Write;

/// Maximum length of a line of output, bytes.
const TEXT_MAX: usize = 4_096;
/// Maximum number of holders that `why` names.
const NAMED_HOLDERS_MAX: usize = 8;

/// Escapes the lines of a text from another program, for example of an error.
pub fn line(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| escaped(&line, TEXT_MAX)).collect();
    lines.join("\n")
}

/// The list of commands.
pub fn help() -> String {
    let rows = COMMANDS.map(|(_, usage, meaning)| [usage.to_owned(), meaning.to_owned()]);
    let mut text = table([("COMMAND", Side::Left), ("EFFECT", Side::Left)], &rows);
    text += "Quote names that contain spaces. Tab completes commands and names.\n";
    text
}

/// The files that other peers offer; `long` shows all digits of the ids.
pub fn files(found: &[FoundFile], long: bool) -> String {
    match found {
        [] => "no other peer offers a file\n".to_owned(),
        found => table::files(found, long),
    }
}

/// The active peers whose names begin with a text.
pub fn peers(mut peers: Vec<PeerSummary>, begun: &str) -> String {
    if peers.is_empty() {
        return "no other peers are active\n".to_owned();
    }
    peers.retain(|peer| peer.name.as_str().starts_with(begun));
    if peers.is_empty() {
        return format!("no name of an active peer begins with {}\n", line(begun));
    }
    peers.sort_by(|a, b| (a.name.as_str(), &a.address).cmp(&(b.name.as_str(), &b.address)));
    let rows: Vec<_> = peers.iter().map(|peer| [peer.name.to_string(), peer.address.to_string()]).collect();
    table([("NAME", Side::Left), ("ADDRESS", Side::Left)], &rows)
}

/// The files shared from this folder; `long` shows all digits of the ids.
pub fn mine(offers: &[Offer], long: bool) -> String {
    if offers.is_empty() {
        return "no files are shared from this folder\n".to_owned();
    }
    let row = |Offer { file, source }: &Offer| {
        let held = source.progress().held();
        let done = percent(held.into(), file.chunks.into());
        [file.name.to_string(), size(file.size), file.chunks.to_string(), done, id_text(file.id, long)]
    };
    let rows: Vec<_> = offers.iter().map(row).collect();
    let columns = [
        ("NAME", Side::Left),
        ("SIZE", Side::Right),
        ("CHUNKS", Side::Right),
        ("DONE", Side::Right),
        ("ID", Side::Left),
    ];
    table(columns, &rows)
}

/// The downloads of this run, and those that can be resumed.
pub fn status(transfers: &[TransferStatus], unfinished: &[Unfinished]) -> String {
    let is_cancelled = |name: &str| {
        let named = transfers.iter().rev().find(|status| status.wanted == name);
        named.is_some_and(|status| matches!(status.stage, Stage::Failed(Fault::Interrupted, _)))
    };
    let rows: Vec<_> = unfinished
        .iter()
        .filter(|download| !is_cancelled(&download.name))
        .map(|download| {
            let done = download.progress.map(|(_, held, count)| percent(held.into(), count.into()));
            let command = format!("get {}", quoted(&download.name));
            [download.name.clone(), done.unwrap_or_else(|| "?".to_owned()), command]
        })
        .collect();
    let columns = [("UNFINISHED", Side::Left), ("DONE", Side::Right), ("RESUME WITH", Side::Left)];
    let unfinished = if rows.is_empty() { String::new() } else { table(columns, &rows) };
    match (transfers.is_empty(), rows.is_empty()) {
        (true, true) => "no downloads yet; start one with: get NAME\n".to_owned(),
        (true, false) => unfinished,
        (false, _) => running(transfers) + &unfinished,
    }
}

/// Table of the downloads of this run.
fn running(transfers: &[TransferStatus]) -> String {
    let row = |status: &TransferStatus| {
        let (done, total) = status.bytes;
        let started = total > 0 || status.stage == Stage::Done;
        let share = if started { percent(done, total) } else { "-".to_owned() };
        let bytes = if started { format!("{} of {}", size(done), size(total)) } else { "-".to_owned() };
        let rate = if status.rate > 0 { format!("{}/s", size(status.rate)) } else { "-".to_owned() };
        let sources = match &status.stage {
            Stage::Downloading => status.note.split(" source").next().unwrap_or_default().to_owned(),
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

/// The storage offer of a volunteer: its use, and the state of the offer or of a drain.
pub fn storage_offer(status: &VolunteerStatus) -> String {
    let state = match status.left {
        _ if status.absent => "; the store is not available".to_owned(),
        _ if status.refused => "; the tracker refused the offer".to_owned(),
        _ if !status.welcome => "; the tracker has not accepted the offer yet".to_owned(),
        Some(0) => "; drained: all replicas copied elsewhere".to_owned(),
        Some(left) => format!("; draining: {} left", counted(left, "chunk")),
        None => String::new(),
    };
    format!("{status}{state}\n")
}

fn stage(status: &TransferStatus) -> String {
    match &status.stage {
        Stage::Finding => "looking up holders".to_owned(),
        Stage::Downloading if status.trouble.is_empty() => "downloading".to_owned(),
        Stage::Downloading => format!("waiting: {}", status.trouble),
        Stage::Done => "done".to_owned(),
        Stage::Failed(Fault::Interrupted, _) => {
            format!("cancelled; resume with: get {}", quoted(&status.wanted))
        }
        Stage::Failed(_, text) => format!("failed: {}", text.lines().next().unwrap_or_default()),
    }
}

/// The facts about a file that the output of `why` is made from.
pub struct Why<'a> {
    /// The name or id that the user typed.
    pub name: &'a str,
    /// The last download of the file.
    pub status: Option<TransferStatus>,
    /// The local file with that name or id, and its number of verified chunks.
    pub local: Option<(FileSummary, u32)>,
    /// The files with that name or id that other peers offer, or the error of the lookup.
    pub found: Result<Vec<FoundFile>, String>,
    /// The active peers, to show holders by name.
    pub peers: Vec<PeerSummary>,
}

impl Why<'_> {
    /// Whether peers offer files with that name and none of them is the local file.
    fn differs(&self, file: &FileSummary) -> bool {
        let others = self.found.as_deref().unwrap_or_default();
        !others.is_empty() && others.iter().all(|found| found.file.id != file.id)
    }
}

/// Shows the missing chunks, the holders and the last error of a file.
pub fn why(why: &Why<'_>) -> String {
    let mut text = String::new();
    // A write to a string does not fail.
    let mut put = |label: &str, value: &str| _ = writeln!(text, "{label:<8} {}", escaped(&value, TEXT_MAX));
    put("file", why.name);
    put("local", &local(why));
    if let Some(status) = &why.status {
        put("download", &stage(status));
        if let Stage::Failed(_, error) = &status.stage {
            error.lines().skip(1).for_each(|line| put("", line));
        }
    }
    match &why.found {
        Err(error) => put("peers", &format!("lookup failed: {error}")),
        Ok(found) if found.is_empty() => put("peers", "not found: no peer offers it"),
        Ok(found) => {
            if found.len() > 1 {
                put("peers", "several files have this name; choose one with: get ID");
            }
            for found in found {
                let file = &found.file;
                let (whole, partial) = (found.complete, found.partial_count());
                let size = size(file.size);
                put("peers", &format!("{whole} complete, {partial} partial: {size}, id {}", file.id));
                put("", &named(found, &why.peers));
            }
        }
    }
    text
}

/// The state of the local file.
fn local(why: &Why<'_>) -> String {
    match (&why.local, &why.status) {
        (Some((file, _)), _) if why.differs(file) => {
            format!(
                "a different file has this name, id {}; download beside it with: get {} as OTHER",
                file.id,
                quoted(why.name)
            )
        }
        (Some((FileSummary { chunks, .. }, held)), _) if held >= chunks => format!("all {chunks} chunks"),
        (Some((FileSummary { chunks, .. }, held)), _) => {
            let share = percent((*held).into(), (*chunks).into());
            format!("{held} of {chunks} chunks ({share}), {} missing", chunks - held)
        }
        (None, Some(TransferStatus { bytes: (done, total), .. })) if *total > 0 => {
            format!("{} of {} ({})", size(*done), size(*total), percent(*done, *total))
        }
        (None, None) => format!("no chunks; start a download with: get {}", quoted(why.name)),
        (None, Some(_)) => "no chunks".to_owned(),
    }
}

/// The names and addresses of the holders, complete holders first.
fn named(found: &FoundFile, peers: &[PeerSummary]) -> String {
    let label = |address: &PeerAddress| {
        let peer = peers.iter().find(|peer| peer.address.meets(address));
        peer.map_or_else(|| address.to_string(), |peer| format!("{} at {address}", peer.name))
    };
    let whole = found.whole.iter().map(&label);
    let partial = found.partial.iter().map(|address| format!("{} (partial)", label(address)));
    let mut names: Vec<String> = whole.chain(partial).take(NAMED_HOLDERS_MAX).collect();
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
    use crate::content::FileId;

    fn transfer(stage: Stage, bytes: (u64, u64), rate: u64, trouble: &str) -> TransferStatus {
        let (wanted, note) = ("f".to_owned(), "2 sources".to_owned());
        TransferStatus { wanted, stage, bytes, rate, note, trouble: trouble.to_owned() }
    }

    fn peer(name: &str, port: u16) -> PeerSummary {
        let name = crate::content::PeerName::new(name).unwrap();
        PeerSummary { name, address: std::net::SocketAddr::from(([10, 0, 0, 1], port)).into() }
    }

    #[test]
    fn empty_lists_have_a_text() {
        for text in [
            files(&[], false),
            peers(vec![], ""),
            peers(vec![peer("a", 1)], "b"),
            mine(&[], false),
            status(&[], &[]),
        ] {
            assert!(text.ends_with('\n') && text.lines().count() == 1, "{text:?}");
        }
    }

    #[test]
    fn stages_of_downloads_are_shown() {
        let failed = Stage::Failed(Fault::NotFound, "not found \u{1b}[31mf\nsecond line".into());
        let transfers = [
            transfer(Stage::Finding, (0, 0), 0, ""),
            transfer(Stage::Downloading, (1 << 20, 4 << 20), 2 << 20, ""),
            transfer(Stage::Downloading, (3 << 20, 4 << 20), 0, "no source has chunk 4"),
            transfer(Stage::Done, (0, 0), 0, ""),
            transfer(failed, (0, 0), 0, ""),
            transfer(Stage::Failed(Fault::Interrupted, "cancelled".into()), (1 << 20, 4 << 20), 0, ""),
        ];
        let left = |name: &str, progress| Unfinished { name: name.to_owned(), progress };
        let unfinished = [left("f", None), left("a b", Some((FileId([1; 32]), 3, 4))), left("c", None)];
        let text = status(&transfers, &unfinished);
        assert!(status(&[], &unfinished[1..]).starts_with("UNFINISHED  DONE  RESUME WITH\n"));
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(
            rows,
            [
                "NAME   DONE               BYTES       RATE  SOURCES  STAGE",
                "f         -                   -          -        -  looking up holders",
                "f      25 %  1.0 MiB of 4.0 MiB  2.0 MiB/s        2  downloading",
                "f      75 %  3.0 MiB of 4.0 MiB          -        2  waiting: no source has chunk 4",
                "f     100 %          0 B of 0 B          -        -  done",
                "f         -                   -          -        -  failed: not found \\u{1b}[31mf",
                "f      25 %  1.0 MiB of 4.0 MiB          -        -  cancelled; resume with: get f",
                "UNFINISHED  DONE  RESUME WITH",
                "a b         75 %  get \"a b\"",
                "c              ?  get c",
            ]
        );
    }

    #[test]
    fn storage_offer_and_drain_are_one_line() {
        let status = VolunteerStatus {
            offered: 2 << 30,
            used: 512 << 20,
            chunks: 1_024,
            files: 3,
            welcome: true,
            left: None,
            refused: false,
            absent: false,
        };
        for (status, more) in [
            (status, ""),
            (VolunteerStatus { left: Some(7), ..status }, "; draining: 7 chunks left"),
            (VolunteerStatus { left: Some(0), ..status }, "; drained: all replicas copied elsewhere"),
            (VolunteerStatus { welcome: false, ..status }, "; the tracker has not accepted the offer yet"),
            (VolunteerStatus { refused: true, ..status }, "; the tracker refused the offer"),
            (VolunteerStatus { absent: true, ..status }, "; the store is not available"),
        ] {
            assert_eq!(storage_offer(&status), format!("{status}{more}\n"));
        }
    }

    #[test]
    fn peers_are_sorted_by_name() {
        let text = peers(vec![peer("b", 2), peer("a", 1)], "");
        assert_eq!(text, "NAME  ADDRESS\na     10.0.0.1:1\nb     10.0.0.1:2\n");
        assert_eq!(peers(vec![peer("b", 2), peer("a", 1)], "b"), "NAME  ADDRESS\nb     10.0.0.1:2\n");
    }

    fn local_file(id: u8) -> FileSummary {
        FileSummary { chunks: 4, ..found(id, "f", 0, 0, 0).file }
    }

    #[test]
    fn why_names_a_different_local_file_with_the_same_name() {
        let found = Ok(vec![found(7, "f", 1, 1, 0)]);
        let text =
            why(&Why { name: "f", status: None, local: Some((local_file(8), 4)), found, peers: vec![] });
        let line = format!(
            "local    a different file has this name, id {}; download beside it with: get f as OTHER",
            "08".repeat(32)
        );
        assert!(text.contains(&line), "{text}");
    }

    #[test]
    fn why_shows_missing_chunks_holders_and_the_last_error() {
        let failed = Stage::Failed(Fault::ChunksMissing, "3 chunks have no holder\nretry later".into());
        let text = why(&Why {
            name: "f",
            status: Some(transfer(failed, (1, 2), 0, "")),
            local: Some((local_file(7), 1)),
            found: Ok(vec![found(7, "f", 2, 1, 1)]),
            peers: vec![peer("ann", 1)],
        });
        let rows: Vec<&str> = text.lines().collect();
        let peers = format!("peers    1 complete, 1 partial: 1.0 MiB, id {}", "07".repeat(32));
        assert_eq!(
            rows,
            [
                "file     f",
                "local    1 of 4 chunks (25 %), 3 missing",
                "download failed: 3 chunks have no holder",
                "         retry later",
                &peers,
                "         ann at 10.0.0.1:1, 10.0.0.1:1000 (partial)",
            ]
        );
        let not_found = Why { name: "f", status: None, local: None, found: Ok(vec![]), peers: vec![] };
        let text = why(&not_found);
        assert_eq!(
            text,
            "file     f\nlocal    no chunks; start a download with: get f\npeers    not found: no peer offers it\n"
        );
        let several = Ok(vec![found(1, "f", 1, 1, 0), found(2, "f", 9, 3, 0)]);
        let text = why(&Why { found: several, ..not_found });
        assert!(text.contains("choose one with: get ID") && text.contains("6 more"), "{text}");
        let silent = Why {
            found: Err("no answer".into()),
            name: "f",
            status: None,
            local: Some((local_file(1), 4)),
            peers: vec![],
        };
        assert!(why(&silent).ends_with("local    all 4 chunks\npeers    lookup failed: no answer\n"));
    }
}
