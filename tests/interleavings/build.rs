//! Takes the sources of the shared structures as they are and replaces only what their threads can wait on: locks,
//! channels, threads, sockets. So the code under test is the program's own.

use std::path::Path;
use std::{env, fs};

/// What is taken, and where it ends when not all of it is.
const SOURCES: [(&str, &str); 4] = [
    ("net/shutdown", "#[cfg(test)]"),
    // Scoped threads cannot outlive what they borrow, and have no builder here.
    ("net/threads", "/// Runs `work` in `count` threads"),
    ("storage/progress", "#[cfg(test)]"),
    ("upload/offers", "#[cfg(test)]"),
];
const REPLACED: [(&str, &str); 10] = [
    ("std::sync::atomic", "shuttle::sync::atomic"),
    ("std::sync", "crate::instead::sync"),
    ("std::thread", "crate::instead::thread"),
    ("std::net::TcpStream", "crate::instead::TcpStream"),
    ("crossbeam_channel", "crate::instead::channel"),
    ("super::lock", "crate::instead::lock"),
    // Only held by the shelf, and not waited on there.
    ("super::relay", "shoal::upload::relay"),
    ("crate::content", "shoal::content"),
    ("crate::protocol", "shoal::protocol"),
    ("crate::storage", "shoal::storage"),
];

fn main() {
    let out = env::var("OUT_DIR").expect("cargo says where to");
    for (name, end) in SOURCES {
        let path = format!("../../src/{name}.rs");
        println!("cargo::rerun-if-changed={path}");
        let source = fs::read_to_string(&path).expect("the source is there");
        let mut code = source.split(end).next().unwrap_or_default().to_owned();
        for (from, to) in REPLACED {
            code = code.replace(from, to);
        }
        let waits = ["std::sync", "std::thread"].iter().find(|part| code.contains(*part));
        assert_eq!(waits, None, "{path} waits on what the scheduler does not see");
        // An included file has no header of its own.
        let code = code.replace("//! ", "// ").replace("//!\n", "//\n");
        let file = format!("{}.rs", name.rsplit('/').next().unwrap_or(name));
        fs::write(Path::new(&out).join(file), code).expect("the source is written");
    }
}
