//! What the house is built like, kept by reading the sources.

use std::path::{Path, PathBuf};

/// From the top down. A floor may import from itself and from those below it.
const FLOORS: [&str; 14] = [
    "bin",
    "cli",
    "roles",
    "tracker",
    "volunteer",
    "download",
    "tracker_client",
    "upload",
    "report",
    "net",
    "storage",
    "swarm",
    "protocol",
    "content",
];
/// Floors whose decisions are pure.
const PURE: [&str; 3] = ["swarm", "protocol", "content"];
/// No source file is longer, tests included.
const LINES_MAX: usize = 700;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder, with its path from the root.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut folders = vec![root().join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                found.push((name, std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

/// The code of a source: without comments, on one line, so that a path that is cut over lines is whole.
fn code(source: &str) -> String {
    let lines = source.lines().map(|line| line.split("//").next().unwrap());
    lines.collect::<String>().replace([' ', '\n'], "")
}

/// What follows each occurrence of a path's beginning: one name, or each of a `{group}`.
fn imports(code: &str, beginning: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(beginning) {
        let rest = &code[at + beginning.len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(heads(group)),
            None => found.push(head(rest)),
        }
    }
    found
}

fn head(path: &str) -> String {
    path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first name of each path in a group, of which the opening brace is gone.
fn heads(group: &str) -> Vec<String> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' | ',' if depth == 0 => {
                found.push(head(&group[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

fn floor_of(path: &str) -> Option<&str> {
    let path = path.strip_prefix("src/").unwrap_or(path);
    path.split_once('/').map(|(floor, _)| floor)
}

#[test]
fn imports_are_seen() {
    let code =
        code("use crate::net::{A, B};\nuse crate::{cli::{x, y}, swarm}; // crate::no\ncrate :: storage::f()");
    assert_eq!(imports(&code, "crate::"), ["net", "cli", "swarm", "storage"]);
    assert_eq!(imports("std::net::{IpAddr,TcpStream as T};", "std::net::"), ["IpAddr", "TcpStream"]);
}

#[test]
fn every_folder_is_a_floor() {
    for (path, _) in sources("src") {
        let floor = floor_of(&path);
        assert!(path == "src/lib.rs" || floor.is_some_and(|floor| FLOORS.contains(&floor)), "{path}");
    }
}

#[test]
fn imports_go_only_down() {
    let height = |name: &str| FLOORS.iter().position(|floor| *floor == name);
    for (path, source) in sources("src").into_iter().chain(sources("bin")) {
        let Some(here) = floor_of(&path).and_then(height) else { continue };
        let code = code(&source);
        for beginning in ["crate::", "shoal::"] {
            for name in imports(&code, beginning) {
                let below = height(&name).is_some_and(|there| there >= here);
                // `$crate::` and macros of the crate itself have no floor, and there are none.
                assert!(below, "{path} imports {beginning}{name}");
            }
        }
        // Only a path from the crate's root leads out of a floor.
        let deep = path.matches('/').count() + 1;
        assert!(!code.contains(&"super::".repeat(deep)), "{path} climbs out of its floor");
    }
}

#[test]
fn decisions_name_no_socket_file_thread_or_clock() {
    const FOREIGN: [&str; 11] = [
        "Instant",
        "SystemTime",
        "rustix::",
        "socket2::",
        "tempfile::",
        "crossbeam",
        "getrandom::",
        "Rng::new()",
        "jiff::",
        "log::",
        "println!",
    ];
    for (path, source) in PURE.iter().flat_map(|floor| sources(&format!("src/{floor}"))) {
        let code = code(&source);
        let parts = ["fs", "io", "thread", "process", "env", "os"];
        let part = imports(&code, "std::").into_iter().find(|part| parts.contains(&part.as_str()));
        assert_eq!(part, None, "{path} names it of std");
        for name in FOREIGN {
            assert!(!code.contains(name), "{path} names {name}");
        }
        // Addresses are plain values, times are spans.
        for (beginning, allowed) in [
            (
                "std::net::",
                &["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr", "SocketAddrV4", "SocketAddrV6"][..],
            ),
            ("std::time::", &["Duration"]),
        ] {
            for name in imports(&code, beginning) {
                assert!(allowed.contains(&name.as_str()), "{path} names {beginning}{name}");
            }
        }
        let hidden = ["net;", "time;", "net::*", "time::*", "{net", "{time", "netas", "timeas"];
        let hides = hidden.iter().any(|end| code.contains(&format!("usestd::{end}")));
        assert!(!hides, "{path} hides what it names");
    }
}

/// So that a program can tell whether all of its threads have been joined.
#[test]
fn threads_are_spawned_where_they_are_counted_or_cannot_outlive_their_scope() {
    const SPAWN: [&str; 4] = ["thread::spawn(", "thread::scope(", "thread::Builder", "Builder::new().name("];
    let spawning = sources("src").into_iter().chain(sources("bin")).filter(|(path, source)| {
        let is_test = path.ends_with("tests.rs") || path.contains("/tests/");
        let code = code(source.split("#[cfg(test)]\nmod ").next().unwrap());
        !is_test && SPAWN.iter().any(|spawn| code.contains(spawn))
    });
    let mut paths: Vec<String> = spawning.map(|(path, _)| path).collect();
    paths.sort();
    // What Ctrl-C begins may take longer than the program.
    assert_eq!(paths, ["src/cli/signals.rs", "src/net/threads.rs", "src/storage/hashing.rs"]);
}

#[test]
fn no_file_is_too_long_to_live_in() {
    for folder in ["src", "bin", "tests"] {
        for (path, source) in sources(folder) {
            let lines = source.lines().count();
            assert!(lines <= LINES_MAX, "{path} has {lines} lines");
        }
    }
}

#[test]
fn no_unsafe_code() {
    let roots = sources("bin").into_iter().chain(sources("src").into_iter().filter(|s| s.0 == "src/lib.rs"));
    let roots: Vec<_> = roots.collect();
    assert!(roots.len() >= 5);
    for (path, source) in roots {
        assert!(source.lines().any(|line| line == "#![forbid(unsafe_code)]"), "{path} does not forbid it");
    }
}

#[test]
fn every_module_says_what_it_is_for() {
    for (path, source) in sources("src").into_iter().chain(sources("bin")) {
        assert!(source.starts_with("//! "), "{path} begins without a word");
    }
}
