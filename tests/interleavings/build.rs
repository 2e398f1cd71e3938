//! Copies the sources of the shared structures and replaces only the types on which their threads can block: locks,
//! channels, threads and sockets. The tests therefore run the code of the program itself.

use std::path::Path;
use std::{env, fs};

/// Source files, and for each the text before which the copied part ends.
const SOURCES: [(&str, &str); 5] = [
    ("download/handover", "#[cfg(test)]"),
    ("net/shutdown", "#[cfg(test)]"),
    // Scoped threads cannot outlive their borrows, and the substitutes have no builder for them.
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
    ("crate::sync", "crate::instead"),
    // The offers store it and do not block on it.
    ("crate::upload", "shoal::upload"),
    ("crate::content", "shoal::content"),
    ("crate::protocol", "shoal::protocol"),
    ("crate::storage", "shoal::storage"),
];

fn main() {
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    for (name, end) in SOURCES {
        let path = format!("../../src/{name}.rs");
        println!("cargo::rerun-if-changed={path}");
        let source = fs::read_to_string(&path).expect("the source exists");
        let mut code = source.split(end).next().unwrap_or_default().to_owned();
        for (from, to) in REPLACED {
            code = code.replace(from, to);
        }
        let blocking = ["std::sync", "std::thread"].iter().find(|part| code.contains(*part));
        assert_eq!(blocking, None, "{path} blocks on a type that the scheduler does not control");
        // An included file has no header of its own.
        let code = code.replace("//! ", "// ").replace("//!\n", "//\n");
        let file = format!("{}.rs", name.rsplit('/').next().unwrap_or(name));
        fs::write(Path::new(&out).join(file), code).expect("the source is written");
    }
}
