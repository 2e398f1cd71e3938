//! `logs.log`: its place, its content, and the integrity of each line when several programs write.

use crate::common::events::{self, Line};
use crate::common::*;
use rustix::fs::{CWD, FileType, Mode};

#[test]
fn the_log_is_in_the_working_directory_unless_moved() {
    let place = place();
    let (dir, other) = (place.path(), subfolder(place.path(), "other"));
    let mut tracker = tracker(&other, &["--log-file", "../moved.log"]);
    tracker.interrupt();
    tracker.ends_with(0);
    assert_eq!(names_in(dir), ["moved.log", "other"]);
    assert!(names_in(&other).is_empty());
    let log = events::read(&dir.join("moved.log"));
    assert!(
        matches!(&log[0], Line::Log(level, text) if level == "INFO" && text.starts_with("tracker listening on"))
    );
}

#[test]
fn a_log_file_that_cannot_be_opened_is_only_a_warning() {
    let place = place();
    let dir = place.path();
    let pipe = dir.join("pipe");
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    for path in ["nowhere/x.log", "pipe"] {
        let mut tracker = Program::start("tracker", &["--listen", "127.0.0.1:0", "--log-file", path], dir);
        tracker.wait_for_text("tracker listening on");
        tracker.interrupt();
        tracker.ends_with(0);
        let warning = format!(" - WARNING - cannot open the log file {path}: ");
        assert_eq!(tracker.lines().iter().filter(|line| line.contains(&warning)).count(), 1, "{path}");
    }
}

#[test]
fn verbosity_flags_control_the_terminal_and_the_file() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[]);
    let file = write(dir, "a.bin", b"bytes");
    let _seeder = seeder(dir, &file, &tracker, &[]);
    for (flag, on_terminal, in_file) in [("-q", false, false), ("-v", true, true), ("--quiet", false, false)]
    {
        let there = subfolder(dir, flag);
        let mut leecher = leecher(&there, tracker.address(), &["a.bin", flag]);
        leecher.ends_with(0);
        assert_eq!(leecher.stdout(), ["Successfully downloaded a.bin"]);
        assert_eq!(leecher.has_said("All download threads completed"), on_terminal, "{flag}");
        let log = events::read(&there.join("logs.log"));
        let said =
            |wanted: &str| log.iter().any(|line| matches!(line, Line::Log(_, text) if text.contains(wanted)));
        assert!(said("All download threads completed"), "the file has the line at each verbosity");
        assert_eq!(said("connected to "), in_file, "{flag}");
    }
}

#[test]
fn runs_append_to_the_log() {
    let place = place();
    let dir = place.path();
    for runs in 1..=3 {
        let mut tracker = tracker(dir, &[]);
        tracker.interrupt();
        tracker.ends_with(0);
        let log = events::read(&dir.join("logs.log"));
        let starts =
            log.iter().filter(|line| matches!(line, Line::Log(_, text) if text.contains("listening on")));
        assert_eq!(starts.count(), runs);
    }
}

#[test]
fn lines_of_many_programs_stay_intact() {
    let place = place();
    let dir = place.path();
    let chunks: Vec<Vec<u8>> = (0..100).map(|n| random_bytes(n, 500)).collect();
    let all: Vec<(usize, &[u8])> = (1..).zip(chunks.iter().map(Vec::as_slice)).collect();
    let tracker = tracker(dir, &["-v"]);
    let mut clients: Vec<Program> = Vec::new();
    for at in 0..6 {
        // Two clients have each chunk.
        let held: Vec<_> = all.iter().copied().filter(|(n, _)| n % 6 == at || (n + 1) % 6 == at).collect();
        let name = format!("client{at}");
        let folder = chunk_folder(dir, &name, 100, &held);
        clients.push(client(dir, &folder, &name, tracker.address(), &["-vv"]));
    }
    // A client that leaves takes its chunks with it, so that all clients stay until all are complete.
    clients.iter().for_each(|client| drop(client.wait_for_text("is complete: all 100 chunks")));
    for (at, client) in clients.iter_mut().enumerate() {
        client.interrupt();
        client.ends_with(0);
        assert_complete(&dir.join(format!("client{at}")), &chunks);
    }
    drop(tracker);
    let log = events::read(&dir.join("logs.log"));
    for at in 0..6 {
        let events = events::of(&log, &format!("client{at}"));
        let claimed: std::collections::BTreeSet<_> =
            events.iter().filter(|event| event[1] == "LOCAL_CHUNKS").map(|event| event[2].clone()).collect();
        assert_eq!(claimed.len(), 100);
        let asked = events.iter().filter(|event| event[1] == "WHERE_CHUNK").count();
        let held = (1..=100).filter(|n| n % 6 == at || (n + 1) % 6 == at).count();
        assert_eq!(asked, 100 - held, "each missing chunk is looked up once");
    }
}

#[test]
fn each_log_line_except_events_and_results_names_its_program() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let file = write(dir, "a.bin", &random_bytes(1, 1_000));
    let tracker = tracker(dir, &[]);
    let seeder = seeder(dir, &file, &tracker, &["--name", "ann"]);
    let log = dir.join("logs.log");
    let log_flag = log.to_str().unwrap().to_owned();
    let mut leecher = leecher(&there, tracker.address(), &["a.bin", "--log-file", &log_flag]);
    leecher.ends_with(0);
    drop((seeder, tracker));
    let text = std::fs::read_to_string(&log).unwrap();
    for line in text.lines() {
        let message = line.splitn(3, " - ").nth(2).unwrap_or_else(|| panic!("{line:?}"));
        let is_result = message == "All download threads completed"
            || message == "Download complete. File size: 1000 bytes"
            || message == "Successfully downloaded a.bin";
        let has_name = ["[tracker] ", "[ann] ", "[leecher] "].iter().any(|name| message.starts_with(name));
        assert!(is_result != has_name, "{line:?}");
    }
    for name in ["[tracker] ", "[ann] ", "[leecher] "] {
        assert!(text.contains(name), "{name}");
    }
    assert!(!leecher.has_said("[leecher]"), "the terminal shows no name");
}
