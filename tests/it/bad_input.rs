//! Wrong input: each mistake causes a clear message and an exit code, without a panic or a hang.

use crate::common::*;
use shoal::protocol::datagram::envelope;
use std::net::{SocketAddr, TcpListener, UdpSocket};

const BINARIES: [&str; 5] = ["tracker", "manager", "seeder", "leecher", "client"];

/// The arguments with which a program reaches the point where it opens its port or contacts its tracker.
fn minimal(bin: &str, dir: &std::path::Path) -> Vec<String> {
    write(dir, "file", b"bytes");
    let folder = chunk_folder(dir, "folder", 1, &[(1, b"x")]);
    let args = match bin {
        "seeder" => vec!["-f", "file"],
        "client" => vec!["-folder", folder.to_str().unwrap(), "-name", "me"],
        "leecher" => vec!["file", "--stay"],
        _ => vec![],
    };
    args.into_iter().map(str::to_owned).collect()
}

#[test]
fn an_unknown_flag_is_rejected() {
    let place = place();
    for bin in BINARIES {
        let mut program = Program::start(bin, &["--no-such-flag"], place.path());
        program.ends_with(2);
        program.wait_for_text("--no-such-flag");
    }
    assert!(names_in(place.path()).is_empty(), "a program with a wrong command line created files");
}

#[test]
fn a_mistyped_flag_is_rejected_with_a_suggestion() {
    let place = place();
    let mut seeder = Program::start("seeder", &["-fil", "x"], place.path());
    seeder.ends_with(2);
    seeder.wait_for_text("-fil");
    seeder.wait_for_text("--file");
    Program::start("client", &["-folde", "x", "-transfer_port", "1", "-name", "n"], place.path())
        .ends_with(2);
}

#[test]
fn invalid_values_are_rejected() {
    let place = place();
    for (bin, args) in [
        ("seeder", &["-p", "70000"][..]),
        ("seeder", &["--chunk-size", "1000"]),
        ("seeder", &["--as", "../x"]),
        ("seeder", &["--as", "a,b/c"]),
        ("seeder", &["--upload-limit", "fast"]),
        ("leecher", &["../x"]),
        ("leecher", &["/etc/passwd"]),
        ("leecher", &[""]),
        ("leecher", &["--id", "123"]),
        ("leecher", &["x", "--tracker", "a b"]),
        ("tracker", &["--quorum", "0"]),
        ("tracker", &["--lease", "-1"]),
        ("tracker", &["--listen", "nonsense:x"]),
        ("client", &["-folder", "f", "-transfer_port", "1", "-name", "a "]),
        ("client", &["-folder", "f", "-transfer_port", "1", "-name", "a,b"]),
        ("client", &["-folder", "f", "-transfer_port", "1", "-name", "n", "-set", "../x"]),
        ("client", &[]),
    ] {
        let mut program = Program::start(bin, args, place.path());
        assert_eq!(program.exit_code(), Some(2), "{bin} {args:?}");
        program.wait_for("a reason", |line| line.starts_with("error: "));
    }
}

#[test]
fn a_lease_must_be_longer_than_the_heartbeat() {
    let place = place();
    for bin in ["tracker", "manager"] {
        for args in [["--lease", "5"], ["--heartbeat", "10"]] {
            let mut program = Program::start(bin, &args, place.path());
            program.ends_with(2);
            program.wait_for_text("must be longer than --heartbeat");
        }
    }
}

#[test]
fn help_and_version_exit_with_0() {
    let place = place();
    for bin in BINARIES {
        for flag in ["--help", "-help", "--version", "-V"] {
            Program::start(bin, &[flag], place.path()).ends_with(0);
        }
        let mut help = Program::start(bin, &["--help"], place.path());
        help.ends_with(0);
        help.wait_for_text("Exit codes:");
        help.wait_for_text("--log-file");
    }
    for (bin, default) in [
        ("tracker", "127.0.0.1:5100"),
        ("manager", "127.0.0.1:10000"),
        ("seeder", "7000, or the next free port"),
        ("seeder", "large_text_file.txt"),
        ("seeder", "127.0.0.1:5100"),
        ("leecher", "large_text_file.txt, unless --id or --all is given"),
        ("client", "default"),
    ] {
        let mut help = Program::start(bin, &["--help"], place.path());
        help.ends_with(0);
        let text = help.lines().join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(&format!("[default: {default}]")), "{bin}: {default}");
    }
}

/// A UDP socket on a port that is free for TCP. Connections of other tests may use ephemeral ports.
fn udp_socket_on_free_tcp_port(port: u16) -> Option<UdpSocket> {
    let address = ("127.0.0.1", port);
    let free = TcpListener::bind(address).is_ok();
    free.then(|| UdpSocket::bind(address).ok()).flatten()
}

#[test]
fn a_port_in_use_is_an_error() {
    let place = place();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let port = address.port().to_string();
    for bin in BINARIES {
        let mut args = minimal(bin, place.path());
        args.extend(match bin {
            "tracker" | "manager" => ["--listen".to_owned(), address.to_string()],
            "client" => ["-transfer_port".to_owned(), port.clone()],
            _ => ["-p".to_owned(), port.clone()],
        });
        let mut program = Program::start(bin, &args, place.path());
        program.ends_with(1);
        program.wait_for_text(&format!("port {port} on 127.0.0.1 is in use by another program (TCP)"));
    }
    let taken = (20_000..30_000).find_map(udp_socket_on_free_tcp_port).unwrap();
    let address = taken.local_addr().unwrap();
    let port = address.port();
    for bin in ["tracker", "manager"] {
        let mut program = Program::start(bin, &["--listen", &address.to_string()], place.path());
        program.ends_with(1);
        program.wait_for_text(&format!("port {port} on 127.0.0.1 is in use by another program (UDP)"));
    }
}

#[test]
fn a_missing_file_is_an_error() {
    let place = place();
    let dir = place.path();
    let closed = "127.0.0.1:9".parse().unwrap();
    let mut lost = start_seeder(dir, &dir.join("nowhere.bin"), closed, &[]);
    lost.ends_with(17);
    lost.wait_for_text("nowhere.bin");
    let mut device = start_seeder(dir, std::path::Path::new("/dev/null"), closed, &[]);
    device.ends_with(17);
    device.wait_for_text("is not a regular file");
}

#[test]
fn missing_permissions_are_an_error() {
    use std::os::unix::fs::PermissionsExt;
    if rustix::process::geteuid().is_root() {
        return; // File permissions do not restrict root.
    }
    let place = place();
    let dir = place.path();
    let set_mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let tracker = tracker(dir, &[]);
    let file = write(dir, "a.bin", b"bytes");
    let _seeder = seeder(dir, &file, &tracker, &[]);
    let unreadable = write(dir, "unreadable", b"bytes");
    set_mode(&unreadable, 0);
    start_seeder(dir, &unreadable, tracker.address(), &[]).ends_with(17);
    let closed = subfolder(dir, "closed");
    set_mode(&closed, 0o555);
    let mut refused = leecher(dir, tracker.address(), &["a.bin", "--out", closed.to_str().unwrap()]);
    refused.ends_with(17);
    refused.wait_for_text("closed");
    set_mode(&closed, 0o755);
}

#[test]
fn an_unreachable_tracker_exits_with_5_after_the_timeout() {
    let place = place();
    let dir = place.path();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for bin in ["seeder", "leecher", "client"] {
        let mut args = minimal(bin, dir);
        if bin == "client" {
            args.extend(["-transfer_port".into(), "0".into()]);
        } else {
            args.extend(["-p".into(), "0".into()]);
        }
        args.extend(["--tracker".into(), address.to_string(), "--timeout".into(), "1".into()]);
        if bin == "leecher" {
            args.extend(["--wait".into(), "1".into()]);
        }
        let mut program = Program::start(bin, &args, dir);
        program.ends_with(5);
        program.wait_for_text(if bin == "leecher" {
            "waiting 1 s for it"
        } else {
            "retrying until it answers"
        });
        program.wait_for_text(&format!("the tracker on {address} has not answered for "));
    }
}

/// A tracker that answers each request with the same text, in which `TX` stands for the transaction id of the request.
fn fake_tracker(answer: String) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2_000];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            if let Some(request) = envelope(&buffer[..count]) {
                let answer = answer.replace("TX", &request.tx.to_string());
                let _ = socket.send_to(answer.as_bytes(), from);
            }
        }
    });
    address
}

#[test]
fn a_received_file_name_never_escapes_the_folder() {
    let place = place();
    let dir = place.path();
    let file = wire::Whole::new(b"evil bytes".to_vec(), 16_384);
    let peer = wire::FakePeer::answering(&file, |_, right| Some(right));
    let long = "x".repeat(300);
    let names = ["../evil", "/tmp/shoal-evil", "a/../../evil", "..", ".", "", "evil\\u0000", "evil/", &long];
    let mut leechers: Vec<Program> = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let answer = format!(
            r#"{{"v":4,"tx":TX,"message":{{"type":"found","files":[{{"id":"{}","name":"{name}","size":10,"chunks":1,"holders":1,"whole":["{}"],"partial":[]}}]}}}}"#,
            file.id(),
            peer.address
        );
        let folder = subfolder(dir, &format!("{at}/inner"));
        let id = file.id().to_string();
        leechers.push(leecher(&folder, fake_tracker(answer), &["--id", &id, "--wait", "1"]));
    }
    for (at, leecher) in leechers.iter_mut().enumerate() {
        let code = leecher.exit_code();
        assert!(matches!(code, Some(3 | 5)), "{:?}: {code:?}", names[at]);
        assert_eq!(names_in(&dir.join(at.to_string())), ["inner"], "{:?}", names[at]);
        assert_eq!(names_in(&dir.join(format!("{at}/inner"))), ["logs.log"], "{:?}", names[at]);
    }
    assert!(!std::path::Path::new("/tmp/shoal-evil").exists());
    // The same response with a valid name succeeds, so that the name was the reason for the refusals above.
    let answer = format!(
        r#"{{"v":4,"tx":TX,"message":{{"type":"found","files":[{{"id":"{}","name":"fine","size":10,"chunks":1,"holders":1,"whole":["{}"],"partial":[]}}]}}}}"#,
        file.id(),
        peer.address
    );
    let folder = subfolder(dir, "fine");
    leecher(&folder, fake_tracker(answer.clone()), &["--id", &file.id().to_string()]).ends_with(0);
    assert_holds(&folder.join("fine"), b"evil bytes");
    // Names that are special on other systems are plain names here.
    for (json, name) in [("C:evil", "C:evil"), ("con.txt", "con.txt"), ("a\\\\b", "a\\b")] {
        let answer = answer.replace("\"fine\"", &format!("\"{json}\""));
        leecher(&folder, fake_tracker(answer), &["--id", &file.id().to_string()]).ends_with(0);
        assert_holds(&folder.join(name), b"evil bytes");
    }
}

#[test]
fn a_lookup_response_for_another_file_is_ignored() {
    let place = place();
    let dir = place.path();
    let file = wire::Whole::new(b"other bytes".to_vec(), 16_384);
    let peer = wire::FakePeer::answering(&file, |_, right| Some(right));
    let answer = |name: &str| {
        format!(
            r#"{{"v":4,"tx":TX,"message":{{"type":"found","files":[{{"id":"{}","name":"{name}","size":11,"chunks":1,"holders":1,"whole":["{}"],"partial":[]}}]}}}}"#,
            file.id(),
            peer.address
        )
    };
    // The offered file has neither the requested id nor the requested name.
    let pinned = subfolder(dir, "pinned");
    leecher(&pinned, fake_tracker(answer("other")), &["--id", &"ab".repeat(32), "--wait", "0"]).ends_with(3);
    assert_eq!(names_in(&pinned), ["logs.log"]);
    let named = subfolder(dir, "named");
    leecher(&named, fake_tracker(answer("other")), &["wanted", "--wait", "0"]).ends_with(3);
    assert_eq!(names_in(&named), ["logs.log"]);
    // A hidden name is refused if it comes from the wire, and used if the user gives it.
    let (hidden, id) = (subfolder(dir, "hidden"), file.id().to_string());
    let mut refused = leecher(&hidden, fake_tracker(answer(".bash_login")), &["--id", &id]);
    refused.ends_with(2);
    refused.wait_for_text("which would be hidden");
    assert_eq!(names_in(&hidden), ["logs.log"]);
    leecher(&hidden, fake_tracker(answer(".bash_login")), &["mine", "--id", &id]).ends_with(0);
    assert_holds(&hidden.join("mine"), b"other bytes");
}
