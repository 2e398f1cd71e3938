//! Seeders for other machines: tickets, the tracker on the port of a seeder, the view of its peers, and its end.

use crate::common::network::{Hosts, Network};
use crate::common::terminal::AtTerminal;
use crate::common::wire::{PeerClient, Udp, Whole, Wire};
use crate::common::*;
use crate::transcripts::screen::Screen;
use shoal::content::limits::{CHUNK_SIZE, PROTOCOL_VERSION};
use shoal::content::{FileId, PeerName};
use shoal::protocol::ErrorCode;
use shoal::protocol::peer::{PeerRequest, PeerResponse};
use shoal::protocol::tokens::ReportId;
use shoal::protocol::tracker::{TrackerRequest, TrackerResponse};
use shoal::tracker_client::ticket::Ticket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The list of files at a tracker, seen from a host.
fn list(site: &Hosts, host: char, tracker: &str) -> Vec<String> {
    let mut list = site.start(host, "leecher", &["--list", "--tracker", tracker]);
    list.ends_with(0);
    list.stdout()
}

/// The beginning of the line with tickets.
const TICKET_LINE: &str = "leecher shoal:";

/// Waits for the `count`th line of tickets of a seeder.
#[track_caller]
fn tickets(seeder: &Program, count: usize) -> Vec<Ticket> {
    seeder.wait_for_count(TICKET_LINE, count);
    let lines: Vec<String> = seeder.stdout();
    let lines: Vec<&String> = lines.iter().filter(|line| line.starts_with(TICKET_LINE)).collect();
    let words = lines[count - 1].strip_prefix("leecher ").unwrap().split(' ');
    words.map(|word| word.parse().unwrap_or_else(|error| panic!("{word}: {error}"))).collect()
}

fn peers(ticket: &Ticket) -> Vec<String> {
    ticket.peers.iter().map(|peer| peer.to_string()).collect()
}

/// Starts a seeder for other machines that listens on loopback only, where every test can reach it.
fn local_seeder(dir: &Path, file: &Path, extra: &[&str]) -> Program {
    let args = [&[file.to_str().unwrap(), "--listen", "127.0.0.1", "-p", "0"], extra].concat();
    Program::start("seeder", &args, dir)
}

fn hello(port: Option<u16>) -> PeerRequest {
    PeerRequest::Hello { version: PROTOCOL_VERSION, port, site: None }
}

/// A connection of a peer that serves on a port.
fn connect(seeder: &Program, port: u16) -> Wire {
    let mut wire = Wire::connect(seeder.address());
    wire.send(&hello(Some(port))).unwrap();
    assert_eq!(wire.message(), Some(PeerResponse::Hello { version: PROTOCOL_VERSION, site: None }));
    wire
}

/// Reports the completion of a file.
#[track_caller]
fn report(seeder: &Program, file: FileId, number: u128, name: &str) {
    let completed =
        PeerRequest::Completed { file, report: ReportId(number), name: PeerName::new(name).unwrap() };
    let answer = PeerClient::connect(seeder.address()).ask(&completed).0;
    assert_eq!(answer, PeerResponse::Noted);
}

#[test]
fn a_ticket_names_the_seeder_which_is_a_tracker_over_udp_and_tcp() {
    let Some(site) = Hosts::new() else { return };
    let bytes = random_bytes(1, 3_000_000);
    write(&site.folder('A'), "x.bin", &bytes);
    let seeder = site.start('A', "seeder", &["x.bin"]);
    let ticket = tickets(&seeder, 1).remove(0);
    assert_eq!((ticket.name.as_str(), ticket.size), ("x.bin", 3_000_000));
    assert_eq!(peers(&ticket), ["10.0.0.1:7000"]);
    assert_eq!(ticket.trackers, []);
    seeder.wait_for_text("seeder listening on [::]:7000, all addresses of this host");
    // A lookup over UDP, a list over TCP. Each names an address of the seeder that works on another host.
    let mut leecher = site.start('B', "leecher", &["x.bin", "--tracker", "10.0.0.1:7000"]);
    leecher.ends_with(0);
    assert_holds(&site.folder('B').join("x.bin"), &bytes);
    let list = list(&site, 'C', "10.0.0.1:7000").join("\n");
    assert!(list.contains("x.bin"), "{list}");
    assert!(!seeder.has_said("WARNING"), "{:?}", seeder.lines());
}

#[test]
fn leechers_find_each_other_at_the_seeder_and_a_killed_one_is_named_no_more() {
    let Some(site) = Hosts::new() else { return };
    let bytes = random_bytes(2, 1_000_000);
    write(&site.folder('A'), "x.bin", &bytes);
    let mut seeder = site.start('A', "seeder", &["x.bin", "-v"]);
    tickets(&seeder, 1);
    let stay = ["x.bin", "--tracker", "10.0.0.1:7000", "--stay", "--name"];
    let mut killed = site.start('B', "leecher", &[&stay[..], &["killed"]].concat());
    let stays = site.start('C', "leecher", &[&stay[..], &["stays"]].concat());
    for name in ["killed", "stays"] {
        seeder.wait_for_text(&format!("{name} has 16 of 16 chunks of x.bin"));
    }
    let whole = |list: Vec<String>| list[1].split_whitespace().nth(4).unwrap().to_owned();
    assert_eq!(whole(list(&site, 'C', "10.0.0.1:7000")), "3");
    killed.kill9();
    seeder.wait_for("the end of the lease", |line| {
        line.contains("killed at 10.0.0.2:") && line.contains("its lease ended")
    });
    assert_eq!(whole(list(&site, 'C', "10.0.0.1:7000")), "2");
    stays.wait_for_text("complete, serving until interrupted");
    seeder.interrupt();
    seeder.ends_with(0);
}

#[test]
fn a_seeder_beside_a_remote_tracker_prints_a_ticket_when_other_hosts_can_reach_it() {
    let Some(site) = Hosts::new() else { return };
    let bytes = random_bytes(3, 300_000);
    write(&site.folder('B'), "x.bin", &bytes);
    let tracker = site.start('A', "tracker", &["--listen", "0.0.0.0"]);
    tracker.wait_for_text(" listening on ");
    let seeder = site.start('B', "seeder", &["-f", "x.bin", "--tracker", "10.0.0.1"]);
    let ticket = tickets(&seeder, 1).remove(0);
    assert_eq!(peers(&ticket), ["10.0.0.2:7000"]);
    assert_eq!(ticket.trackers[0].to_string(), "10.0.0.1:5100");
    tracker.wait_for_text("seeder-7000 has 5 of 5 chunks");
    // Its own tracker answers there, too, over UDP and TCP.
    let mut leecher = site.start('C', "leecher", &["x.bin", "--tracker", "10.0.0.2:7000"]);
    leecher.ends_with(0);
    assert_holds(&site.folder('C').join("x.bin"), &bytes);
    assert!(list(&site, 'C', "10.0.0.2:7000").join("\n").contains("x.bin"));
}

#[test]
fn a_seeder_for_other_machines_registers_at_the_tracker_on_its_host() {
    let Some(site) = Hosts::new() else { return };
    write(&site.folder('A'), "x.bin", b"bytes");
    let tracker = site.start('A', "tracker", &[]);
    tracker.wait_for_text(" listening on ");
    let seeder = site.start('A', "seeder", &["x.bin"]);
    tracker.wait_for_text("seeder-7000 has 1 of 1 chunks of x.bin");
    assert_eq!(tickets(&seeder, 1)[0].trackers, [], "a tracker on loopback is not named");
}

#[test]
fn several_files_give_one_line_of_tickets() {
    let Some(site) = Hosts::new() else { return };
    let files = ["one.bin", "Æ b&c.iso", "three"].map(|name| (name, random_bytes(4, name.len() * 1_000)));
    files.iter().for_each(|(name, bytes)| drop(write(&site.folder('A'), name, bytes)));
    let names = files.each_ref().map(|(name, _)| *name);
    let seeder = site.start('A', "seeder", &names);
    let printed = tickets(&seeder, 1);
    assert_eq!(printed.iter().map(|ticket| ticket.name.as_str()).collect::<Vec<_>>(), names);
    for (name, bytes) in &files {
        let mut leecher = site.start('B', "leecher", &[name, "--tracker", "10.0.0.1:7000"]);
        leecher.ends_with(0);
        assert_holds(&site.folder('B').join(name), bytes);
    }
    // Shells leave the line unchanged without quotes.
    let line = seeder.wait_for_text(TICKET_LINE);
    let words = line.strip_prefix("leecher ").unwrap();
    for shell in ["bash", "zsh"] {
        match Command::new(shell).args(["-c", &format!("echo {words}")]).output() {
            Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), words, "{shell}"),
            Err(error) => eprintln!("skipped: {shell} cannot be started: {error}"),
        }
    }
}

#[test]
fn files_with_the_same_name_are_refused() {
    let place = place();
    let dir = place.path();
    let files = ["one", "two"].map(|folder| write(&subfolder(dir, folder), "x.bin", b"bytes"));
    let paths = files.each_ref().map(|file| file.to_str().unwrap());
    let mut seeder = Program::start("seeder", &paths, dir);
    seeder.ends_with(2);
    seeder.wait_for_text("would both be offered as x.bin; start a seeder for each");
    let mut seeder = Program::start("seeder", &[paths[0], paths[1], "--as", "y"], dir);
    seeder.ends_with(2);
    seeder.wait_for_text("--as names one file, and there are several");
}

#[test]
fn a_changed_file_gets_a_new_ticket_and_the_old_id_names_the_new_one() {
    let Some(site) = Hosts::new() else { return };
    let file = write(&site.folder('A'), "x.bin", b"old bytes");
    let seeder = site.start('A', "seeder", &["x.bin"]);
    let old = tickets(&seeder, 1).remove(0);
    std::fs::remove_file(&file).unwrap();
    write(&site.folder('A'), "x.bin", b"the new bytes");
    let new = tickets(&seeder, 2).remove(0);
    assert!(old.id != new.id && new.size == 13);
    let mut leecher = site.start('B', "leecher", &["x.bin", "--tracker", "10.0.0.1:7000"]);
    leecher.ends_with(0);
    assert_holds(&site.folder('B').join("x.bin"), b"the new bytes");
}

#[test]
fn requests_for_a_replaced_manifest_are_refused_with_the_new_id() {
    let place = place();
    let dir = place.path();
    let file = write(dir, "x.bin", b"old bytes");
    let seeder = local_seeder(dir, &file, &[]);
    let old = Whole::new(b"old bytes".to_vec(), CHUNK_SIZE).id();
    let new = Whole::new(b"the new bytes".to_vec(), CHUNK_SIZE).id();
    let mut peer = PeerClient::connect(seeder.address());
    assert!(matches!(peer.ask(&PeerRequest::Manifest { file: old }).0, PeerResponse::Manifest { .. }));
    std::fs::rename(write(dir, "x.new", b"the new bytes"), &file).unwrap();
    seeder.wait_for_text("its content has changed");
    seeder.wait_for_text(&format!("with id {new}"));
    let mut peer = PeerClient::connect(seeder.address());
    let answer = peer.ask(&PeerRequest::Manifest { file: old }).0;
    let text = format!("x.bin was replaced; its new id is {new}");
    assert_eq!(answer, PeerResponse::Error { code: ErrorCode::Replaced, text, index: None });
    // A download of the old content can still finish from the open file.
    assert!(matches!(peer.ask(&PeerRequest::Have { file: old }).0, PeerResponse::Have { .. }));
    assert!(matches!(peer.ask(&PeerRequest::Manifest { file: new }).0, PeerResponse::Manifest { .. }));
}

#[test]
fn a_seeder_that_no_host_can_reach_says_why_it_prints_no_ticket() {
    let place = place();
    let file = write(place.path(), "x.bin", b"bytes");
    let seeder = local_seeder(place.path(), &file, &[]);
    seeder.wait_for_text("no ticket can be given: this seeder listens on 127.0.0.1 only");
    assert_eq!(seeder.stdout(), [""; 0]);
    let Some(network) = Network::new(false) else { return };
    let output = network
        .command(None)
        .args([env!("CARGO_BIN_EXE_seeder"), file.to_str().unwrap(), "--until-idle", "1"])
        .current_dir(place.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("this host has no address that other hosts can reach"), "{said}");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0), "{said}");
}

#[test]
fn a_seeder_on_loopback_prints_no_ticket_and_is_no_tracker() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let file = write(dir, "x.bin", b"bytes");
    let tracker = tracker(dir, &[]);
    let mut seeder = seeder(dir, &file, &tracker, &[]);
    leecher(&there, tracker.address(), &["x.bin"]).ends_with(0);
    let mut wire = Wire::connect(seeder.address());
    wire.send(&TrackerRequest::Hello { version: PROTOCOL_VERSION }).unwrap();
    assert!(matches!(wire.message(), Some(PeerResponse::Hello { .. })));
    wire.send(&TrackerRequest::List).unwrap();
    assert!(matches!(wire.message(), Some(PeerResponse::Error { code: ErrorCode::UnknownMessage, .. })));
    seeder.interrupt();
    seeder.ends_with(0);
    assert_eq!(seeder.stdout(), [""; 0]);
}

#[test]
fn both_protocols_are_spoken_on_the_port_of_a_seeder() {
    let place = place();
    let dir = place.path();
    let bytes = random_bytes(5, 100_000);
    let file = write(dir, "x.bin", &bytes);
    let seeder = local_seeder(dir, &file, &[]);
    let id = Whole::new(bytes, CHUNK_SIZE).id();
    let mut udp = Udp::to(seeder.address());
    let token = udp.register("me", 9);
    let mut tcp = Wire::connect(seeder.address());
    // Hello and request in one write: nothing that was read with the hello is lost.
    let hello = TrackerRequest::Hello { version: PROTOCOL_VERSION };
    let lookup = TrackerRequest::Lookup { name: None, id: Some(id), limit: 9, token: Some(token) };
    let both = [&hello, &lookup].map(|message| shoal::protocol::frame::encode(message).unwrap()).concat();
    loop {
        tcp.send_bytes(&both).unwrap();
        assert_eq!(tcp.message(), Some(TrackerResponse::Hello { version: PROTOCOL_VERSION }));
        match tcp.message() {
            // Until the seeder has registered at its own tracker.
            Some(TrackerResponse::Found { files, .. }) if files.is_empty() => {
                tcp = Wire::connect(seeder.address());
            }
            Some(TrackerResponse::Found { files, .. }) => {
                assert_eq!((files[0].file.id, files[0].holders), (id, 1));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    let mut peer = PeerClient::connect(seeder.address());
    assert!(matches!(peer.ask(&PeerRequest::Manifest { file: id }).0, PeerResponse::Manifest { .. }));
}

#[test]
fn a_seeder_ends_when_enough_leechers_have_reported() {
    let place = place();
    let dir = place.path();
    let file = write(dir, "x.bin", b"bytes");
    let id = Whole::new(b"bytes".to_vec(), CHUNK_SIZE).id();
    let mut seeder = local_seeder(dir, &file, &["--until", "2"]);
    report(&seeder, id, 1, "anna");
    report(&seeder, id, 1, "anna");
    report(&seeder, id, 2, "bob");
    seeder.ends_with(0);
    seeder.wait_for_text("ending: 2 leechers reported completion (--until)");
    let lines = seeder.lines();
    assert!(lines.last().unwrap().ends_with("2 of 2 complete"), "{lines:?}");
    for name in ["anna", "bob"] {
        let text = format!("{name} at 127.0.0.1 has downloaded");
        assert_eq!(lines.iter().filter(|line| line.contains(&text)).count(), 1, "{name}");
    }
}

#[test]
fn a_report_to_the_tracker_of_a_seeder_counts_and_only_once() {
    let place = place();
    let dir = place.path();
    let file = write(dir, "x.bin", b"bytes");
    let id = Whole::new(b"bytes".to_vec(), CHUNK_SIZE).id();
    let mut seeder = local_seeder(dir, &file, &["--until", "2"]);
    let mut udp = Udp::to(seeder.address());
    for (number, name) in [(7, "anna"), (7, "anna"), (8, "bob")] {
        let name = PeerName::new(name).unwrap();
        let completed = TrackerRequest::Completed { file: id, report: ReportId(number), name };
        match number {
            7 => assert_eq!(udp.ask(&completed), TrackerResponse::Noted),
            // The seeder may end before its answer arrives.
            _ => report(&seeder, id, number, "bob"),
        }
    }
    seeder.ends_with(0);
    assert!(seeder.lines().last().unwrap().ends_with("2 of 2 complete"));
}

#[test]
fn a_seeder_ends_after_a_time_without_a_request() {
    let place = place();
    let file = write(place.path(), "x.bin", b"bytes");
    let mut seeder = local_seeder(place.path(), &file, &["--until-idle", "1"]);
    seeder.ends_with(0);
    seeder.wait_for_text("ending: no request for 1.0 s (--until-idle)");
}

/// Requests the only chunk of a file, as a leecher does.
fn download(wire: &mut Wire, id: FileId) {
    wire.send(&PeerRequest::Have { file: id }).unwrap();
    let Some(PeerResponse::Have { length, .. }) = wire.message() else { panic!("no bitfield") };
    wire.payload(length);
    wire.send(&PeerRequest::Chunk { file: id, index: shoal::content::ChunkIndex(0) }).unwrap();
    loop {
        match wire.message() {
            Some(PeerResponse::Chunk { length, .. }) => return drop(wire.payload(length)),
            Some(PeerResponse::Peers { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_seeder_without_a_terminal_logs_summaries() {
    let place = place();
    let file = write(place.path(), "x.bin", b"bytes");
    let id = Whole::new(b"bytes".to_vec(), CHUNK_SIZE).id();
    let mut seeder = local_seeder(place.path(), &file, &[]);
    let mut wire = connect(&seeder, 4_321);
    download(&mut wire, id);
    seeder.wait_for_text("0 of 1 complete, 1 downloading");
    seeder.interrupt();
    seeder.ends_with(0);
    assert!(seeder.lines().last().unwrap().ends_with("0 of 1 complete"));
}

#[test]
fn the_table_of_peers_is_redrawn_in_place() {
    for (columns, has_rate) in [(80, true), (40, false)] {
        let place = place();
        let dir = place.path();
        let file = write(dir, "x.bin", &random_bytes(6, 10_000));
        let id = Whole::new(random_bytes(6, 10_000), CHUNK_SIZE).id();
        let path = file.to_str().unwrap();
        let args = [path, "--listen", "127.0.0.1", "-p", "0", "--until", "1"];
        let mut seeder = AtTerminal::start_sized(dir, "seeder", &args, (columns, 24));
        let line = seeder.wait_for(" listening on 127.0.0.1:");
        assert!(line.contains("serving x.bin"), "{line}");
        let port: u16 = seeder.wait_for("\r\n").trim().parse().unwrap();
        let connect = |own_port| {
            let mut wire = Wire::connect(std::net::SocketAddr::from(([127, 0, 0, 1], port)));
            wire.send(&hello(Some(own_port))).unwrap();
            assert!(matches!(wire.message(), Some(PeerResponse::Hello { .. })));
            wire
        };
        let mut wires = [1_001, 1_002].map(connect);
        wires.iter_mut().for_each(|wire| download(wire, id));
        seeder.wait_for_all(&["127.0.0.1:1001", "127.0.0.1:1002", "0 of 2 complete"]);
        let [first, mut second] = wires;
        drop(first);
        let completed =
            PeerRequest::Completed { file: id, report: ReportId(1), name: PeerName::new("bob").unwrap() };
        second.send(&completed).unwrap();
        while second.message::<PeerResponse>().expect("an answer") != PeerResponse::Noted {}
        seeder.wait_for_all(&["bob", "serving", "disconnected", "1 of 2 complete"]);
        drop(second);
        assert_eq!(seeder.exit_code(Duration::from_secs(60)), Some(0));
        seeder.wait_for(" - INFO - 1 of 2 complete\r\n");
        let output = seeder.output();
        assert_eq!(output.contains(" OUT "), has_rate);
        let mut screen = Screen::with_columns(columns.into());
        screen.feed(output.as_bytes());
        let lines: Vec<String> = screen.lines().into_iter().filter(|line| !line.is_empty()).collect();
        assert!(lines.join(" ").ends_with("1 of 2 complete"), "{lines:?}");
        let stale = |line: &&String| line.starts_with("PEER") || line.starts_with("127.0.0.1:1");
        assert_eq!(lines.iter().find(stale), None, "{lines:?}");
    }
}

#[test]
fn cluster_tools_paste_the_line_of_a_seeder_that_ends_when_all_have_the_file() {
    let Some(site) = Hosts::new() else { return };
    let bytes = random_bytes(11, 2_000_000);
    write(&site.folder('A'), "model.bin", &bytes);
    let mut seeder = site.start('A', "seeder", &["model.bin", "--until", "4"]);
    let line = seeder.wait_for_text(TICKET_LINE);
    let words: Vec<&str> = line.split(' ').collect();
    let leechers: Vec<(PathBuf, Program)> = ["B", "C"]
        .iter()
        .flat_map(|host| [(host, "one"), (host, "two")])
        .map(|(host, task)| {
            let host = host.chars().next().unwrap();
            let scratch = subfolder(&site.folder(host), task);
            let out = scratch.to_str().unwrap().to_owned();
            (scratch, site.start(host, words[0], &[words[1], "--out", &out]))
        })
        .collect();
    for (scratch, mut leecher) in leechers {
        leecher.ends_with(0);
        assert_holds(&scratch.join("model.bin"), &bytes);
    }
    seeder.ends_with(0);
    assert!(seeder.has_said("4 of 4 complete"));
    assert_eq!(seeder.stdout(), [line], "standard output has the line only");
}
