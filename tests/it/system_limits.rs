//! Programs at the limits that the system sets (`ulimit`), and with outputs that are not read: they refuse what they cannot
//! do, and continue.

use crate::common::wire::{Udp, Wire};
use crate::common::*;
use rustix::process::{Pid, Signal, kill_process};
use shoal::content::limits::PROTOCOL_VERSION;
use shoal::protocol::tracker::{TrackerRequest, TrackerResponse};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Time for a request that has to wait for a resource.
const DEADLINE: Duration = Duration::from_secs(60);

/// Starts a program through a shell that first runs `setting`.
fn start_with(setting: &str, program: &str, args: &[&str], dir: &Path) -> Program {
    let script = format!("{setting}; exec \"$0\" \"$@\"");
    Program::start_by(&["sh", "-c", &script], program, args, dir)
}

fn tracker_with(setting: &str, dir: &Path) -> Program {
    let tracker = start_with(setting, "tracker", &["--listen", "127.0.0.1:0"], dir);
    tracker.address();
    tracker
}

/// Connections that have sent a hello and no request.
fn idle_connections(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let hello = format!("{{\"type\":\"hello\",\"version\":{PROTOCOL_VERSION}}}\n");
    (0..count)
        .filter_map(|_| {
            let stream = TcpStream::connect(address).ok()?;
            // The other side may have closed it already.
            let _ = std::io::Write::write_all(&mut &stream, hello.as_bytes());
            Some(stream)
        })
        .collect()
}

/// Whether a new connection to a tracker is served; it may be closed at first.
fn is_served(address: SocketAddr) -> bool {
    let serves = || {
        let mut wire = Wire::connect(address);
        wire.send(&TrackerRequest::Hello { version: PROTOCOL_VERSION }).ok()?;
        wire.message::<TrackerResponse>()
    };
    let began = Instant::now();
    while began.elapsed() < DEADLINE {
        if matches!(serves(), Some(TrackerResponse::Hello { .. })) {
            return true;
        }
    }
    false
}

#[test]
fn at_the_limit_on_descriptors_new_peers_are_served_and_one_line_is_logged() {
    let place = place();
    let dir = place.path();
    let mut tracker = tracker_with("ulimit -n 32", dir);
    let _idle = idle_connections(tracker.address(), 60);
    assert!(is_served(tracker.address()));
    tracker.interrupt();
    tracker.ends_with(0);
    let lines = tracker.lines();
    let refused = lines.iter().filter(|line| line.contains("cannot accept a connection: ")).count();
    assert_eq!(refused, 1, "{lines:#?}");
}

#[test]
fn a_file_above_the_limit_on_file_sizes_is_an_error_with_exit_code_17() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let file = write(dir, "x.bin", &random_bytes(1, 1_000_000));
    let tracker = tracker(dir, &[]);
    let _seeder = seeder(dir, &file, &tracker, &[]);
    let address = tracker.address().to_string();
    let mut leecher = start_with("ulimit -f 200", "leecher", &["x.bin", "--tracker", &address], &there);
    leecher.ends_with(17);
    leecher.wait_for_text("File too large");
}

#[test]
fn a_log_file_above_the_limit_on_file_sizes_does_not_end_a_daemon() {
    let place = place();
    let mut tracker = tracker_with("ulimit -f 1", place.path());
    let mut udp = Udp::to(tracker.address());
    (0..50).for_each(|number| _ = udp.register(&format!("peer{number}"), 1_000 + number));
    tracker.wait_for_text("cannot write to the log file logs.log: File too large");
    tracker.wait_for_text("peer49 joined");
    tracker.interrupt();
    tracker.ends_with(0);
}

#[test]
fn a_hangup_that_was_ignored_at_the_start_stays_ignored() {
    let place = place();
    let mut tracker = tracker_with("trap '' HUP", place.path());
    let pid = tracker.pid();
    kill_process(pid, Signal::HUP).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
    assert_eq!(u64::from_str_radix(pending.trim(), 16).unwrap() & 1, 1, "SIGHUP is blocked");
    Udp::to(tracker.address()).register("peer", 1_000);
    assert!(is_served(tracker.address()));
    tracker.interrupt();
    tracker.ends_with(0);
}

#[test]
fn a_tracker_whose_log_lines_are_not_read_continues_and_counts_them() {
    let place = place();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tracker"))
        .args(["--listen", "127.0.0.1:0", "-vv"])
        .current_dir(place.path())
        .env("XDG_STATE_HOME", state_home(place.path()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("tracker listening on") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0);
    }
    let address = line.split_whitespace().find_map(|word| word.trim_end_matches(',').parse().ok()).unwrap();
    // More lines than a pipe takes.
    let ask = |count: u32| (0..count).for_each(|_| assert!(is_served(address)));
    ask(2_000);
    let mut taken = vec![0; 60_000];
    stderr.read_exact(&mut taken).unwrap();
    ask(1);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(rest.contains(" log lines were not shown: the output was not read"), "{rest}");
}

#[test]
fn a_program_with_little_address_space_refuses_connections_and_continues() {
    let place = place();
    let dir = place.path();
    for mebibytes in [64, 128, 192, 400] {
        let setting = format!("ulimit -v {}", mebibytes * 1024);
        let mut tracker = tracker_with(&setting, dir);
        let idle = idle_connections(tracker.address(), 600);
        tracker.wait_for_text("of address space are free");
        let mut udp = Udp::to(tracker.address());
        udp.register("peer", 1_000);
        drop(idle);
        assert!(is_served(tracker.address()));
        tracker.interrupt();
        tracker.ends_with(0);
    }
}

#[test]
fn at_the_limit_on_threads_new_peers_are_served_and_one_line_is_logged() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = place();
    let dir = place.path();
    // The system does not limit root: the program runs as a user without other processes, in its own folder.
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    let home = format!("HOME={}", dir.display());
    let user = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"];
    let other_user = ["unshare", "--user"];
    let user = if rustix::process::getuid().is_root() { &user[..] } else { &other_user[..] };
    let script = "ulimit -u 20; exec \"$0\" \"$@\"";
    let by = [user, &["env", "-u", "XDG_STATE_HOME", &home, "bash", "-c", script]].concat();
    let mut tracker = Program::start_by(&by, "tracker", &["--listen", "127.0.0.1:0"], dir);
    let _idle = idle_connections(tracker.address(), 60);
    assert!(is_served(tracker.address()));
    tracker.interrupt();
    tracker.ends_with(0);
    let lines = tracker.lines();
    let refused = lines.iter().filter(|line| line.contains("cannot start a thread: ")).count();
    assert_eq!(refused, 1, "{lines:#?}");
}
