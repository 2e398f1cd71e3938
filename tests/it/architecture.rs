//! Layers, cycles and style of the sources, checked by reading them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// From the top down. A layer may import from itself and from those below it.
const LAYERS: [&str; 16] = [
    "bin",
    "cli",
    "roles",
    "tracker",
    "volunteer",
    "download",
    "tracker_client",
    "discovery",
    "upload",
    "report",
    "net",
    "storage",
    "sync",
    "swarm",
    "protocol",
    "content",
];
/// Layers whose decisions are pure.
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

/// The names after each occurrence of `beginning`: one name, or each name of a `{group}`.
fn imports(code: &str, beginning: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(beginning) {
        let rest = &code[at + beginning.len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(parts(group).into_iter().map(head).filter(|name| !name.is_empty())),
            None => found.push(head(rest)),
        }
    }
    found
}

fn head(path: &str) -> String {
    path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn layer_of(path: &str) -> Option<&str> {
    let path = path.strip_prefix("src/").unwrap_or(path);
    path.split_once('/').map(|(layer, _)| layer).or_else(|| path.strip_suffix(".rs"))
}

#[test]
fn imports_are_seen() {
    let code =
        code("use crate::net::{A, B};\nuse crate::{cli::{x, y}, swarm}; // crate::no\ncrate :: storage::f()");
    assert_eq!(imports(&code, "crate::"), ["net", "cli", "swarm", "storage"]);
    assert_eq!(imports("std::net::{IpAddr,TcpStream as T};", "std::net::"), ["IpAddr", "TcpStream"]);
}

#[test]
fn every_file_belongs_to_a_layer() {
    for (path, _) in sources("src") {
        let layer = layer_of(&path);
        assert!(path == "src/lib.rs" || layer.is_some_and(|layer| LAYERS.contains(&layer)), "{path}");
    }
    let files = std::fs::read_dir(root().join("src")).unwrap().map(|entry| entry.unwrap());
    let files = files.filter(|entry| !entry.path().is_dir()).map(|entry| entry.file_name());
    assert_eq!(files.collect::<BTreeSet<_>>(), ["lib.rs"].map(Into::into).into());
}

#[test]
fn imports_go_only_down() {
    let height = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    for (path, source) in sources("src").into_iter().chain(sources("bin")) {
        let Some(here) = layer_of(&path).and_then(height) else { continue };
        let code = code(&source);
        for beginning in ["crate::", "shoal::"] {
            for name in imports(&code, beginning) {
                let below = height(&name).is_some_and(|there| there >= here);
                // `$crate::` and macros of the crate itself have no layer, and there are none.
                assert!(below, "{path} imports {beginning}{name}");
            }
        }
        // Only a path from the crate's root leads out of a layer.
        let deep = path.matches('/').count() + 1;
        assert!(!code.contains(&"super::".repeat(deep)), "{path} leaves its layer by super::");
    }
}

/// A module's path from the crate's root; a module is a file.
type Module = Vec<String>;

/// The module that a file of `src/` is.
fn module_of(path: &str) -> Module {
    let path = path.strip_prefix("src/").unwrap().strip_suffix(".rs").unwrap();
    let mut module: Module = path.split('/').map(str::to_owned).collect();
    if ["mod", "lib"].contains(&module.last().unwrap().as_str()) {
        module.pop();
    }
    module
}

/// The code of a source without comments and without its tests, words apart by one space at most.
fn spaced_code(source: &str) -> String {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let words = source.lines().map(|line| line.split("//").next().unwrap()).flat_map(str::split_whitespace);
    let code = words.collect::<Vec<_>>().join(" ");
    [" ::", ":: ", "{ ", " }", " ,", ", "]
        .iter()
        .fold(code, |code, spaced| code.replace(spaced, spaced.trim()))
}

/// Every path of a tree like `a::{b, c::{self, D as E}}`, as segments.
fn paths_of(tree: &str) -> Vec<Vec<String>> {
    let name = head(tree);
    let rest = &tree[name.len()..];
    let with = |mut path: Vec<String>| {
        if path.first().is_none_or(|segment| segment != "self") {
            path.insert(0, name.clone());
            return path;
        }
        vec![name.clone()]
    };
    match rest.strip_prefix("::") {
        _ if name.is_empty() => Vec::new(),
        None => vec![vec![name]],
        Some(group) if group.starts_with('{') => {
            parts(&group[1..]).into_iter().flat_map(paths_of).map(with).collect()
        }
        Some(rest) => match paths_of(rest) {
            paths if paths.is_empty() => vec![vec![name]],
            paths => paths
                .into_iter()
                .map(|mut path| {
                    path.insert(0, name.clone());
                    path
                })
                .collect(),
        },
    }
}

/// The paths in a group, split at its commas; the opening brace has been removed.
fn parts(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' | ',' if depth == 0 => {
                found.push(group[start..at].trim());
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found
}

/// The paths in a module's code that begin at the crate's root, at the module or at its parent: in `use` and elsewhere.
fn anchored_paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for anchor in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(anchor) {
            let before = code[..at].chars().next_back();
            if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                found.extend(paths_of(&code[at..]));
            }
        }
    }
    found
}

/// The names that a module imports or re-exports, and the path that each stands for.
fn imported_names(code: &str) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for statement in code.split(';') {
        let Some(at) = statement.rfind("use ") else { continue };
        if statement[..at].chars().next_back().is_none_or(|c| [' ', ']', '}'].contains(&c)) {
            for path in paths_of(statement[at + 4..].trim()) {
                found.insert(path.last().unwrap().clone(), path);
            }
        }
    }
    found
}

/// The modules of a crate, each with the modules that it imports from. A module and those below it are one for this:
/// a parent that uses or re-exports its children, and a child that uses its parent, import nothing.
fn import_graph(sources: &[(String, String)]) -> BTreeMap<Module, BTreeSet<Module>> {
    let code: BTreeMap<Module, String> =
        sources.iter().map(|(path, source)| (module_of(path), spaced_code(source))).collect();
    let names: BTreeMap<&Module, _> =
        code.iter().map(|(module, code)| (module, imported_names(code))).collect();
    // The module in which the item of a path is defined.
    let resolve = |from: &Module, path: &[String]| {
        let (mut at, mut path): (Module, Vec<String>) = (from.clone(), path.to_vec());
        for _ in 0..32 {
            let Some(segment) = path.first().cloned() else { break };
            let child: Module = at.iter().cloned().chain([segment.clone()]).collect();
            match segment.as_str() {
                "crate" => at.clear(),
                "super" => drop(at.pop()),
                "self" => {}
                _ if code.contains_key(&child) => at = child,
                _ => match names.get(&at).and_then(|names| names.get(&segment)) {
                    Some(target) if target[0] != segment => {
                        path.splice(..1, target.iter().cloned());
                        continue;
                    }
                    _ => break,
                },
            }
            path.remove(0);
        }
        at
    };
    let kin = |one: &Module, other: &Module| one.starts_with(other) || other.starts_with(one);
    let imports_of = |module: &Module, code: &String| -> BTreeSet<Module> {
        let targets = anchored_paths(code).into_iter().map(|path| resolve(module, &path));
        targets.filter(|target| !kin(module, target)).collect()
    };
    code.iter().map(|(module, code)| (module.clone(), imports_of(module, code))).collect()
}

/// The modules of one import cycle, if there is any.
fn import_cycle(graph: &BTreeMap<Module, BTreeSet<Module>>) -> Option<Vec<String>> {
    fn visit<'a>(
        module: &'a Module,
        graph: &'a BTreeMap<Module, BTreeSet<Module>>,
        way: &mut Vec<&'a Module>,
        done: &mut BTreeSet<&'a Module>,
    ) -> Option<Vec<String>> {
        if let Some(at) = way.iter().position(|before| *before == module) {
            return Some(way[at..].iter().map(|module| module.join("::")).collect());
        }
        if done.contains(module) {
            return None;
        }
        way.push(module);
        let cycle = graph.get(module).into_iter().flatten().find_map(|next| visit(next, graph, way, done));
        way.pop();
        done.insert(module);
        cycle
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|module| visit(module, graph, &mut Vec::new(), &mut done))
}

fn cycle_of(sources: &[(&str, &str)]) -> Option<Vec<String>> {
    let sources: Vec<_> =
        sources.iter().map(|(path, code)| ((*path).to_owned(), (*code).to_owned())).collect();
    import_cycle(&import_graph(&sources))
}

#[test]
fn a_cycle_is_found_and_a_parent_with_its_children_is_none() {
    let b = ("src/x/b.rs", "//! B.\nuse crate::x::{\n    c::{self, C},\n};\n");
    let (a, c) = (("src/x/a.rs", "use super::b::B;"), ("src/x/c.rs", "fn c(_: super::a::A) {}"));
    let cycle = cycle_of(&[("src/x/mod.rs", "mod a;\nmod b;\nmod c;"), a, b, c]);
    assert_eq!(cycle.unwrap(), ["x::a", "x::b", "x::c"]);
    // Through a name that the parent re-exports.
    let parent = ("src/x/mod.rs", "mod a;\nmod b;\npub use a::A;\nuse self::b::B;");
    let through = [parent, ("src/x/a.rs", "use super::b;"), ("src/x/b.rs", "use crate::x::A;")];
    assert_eq!(cycle_of(&through).unwrap(), ["x::a", "x::b"]);
    let tree = [parent, ("src/x/a.rs", "use super::b::B;"), ("src/x/b.rs", "use super::{D, d::*};")];
    assert_eq!(cycle_of(&tree), None);
    let tests = "use crate::x::b;\n#[cfg(test)]\nmod tests {\n    use crate::x::a;\n}";
    assert_eq!(cycle_of(&[("src/x/a.rs", tests), ("src/x/b.rs", "// crate::x::a\n")]), None);
}

#[test]
fn modules_import_without_cycles() {
    let is_test = |path: &str| path.ends_with("tests.rs") || path.contains("/tests/");
    let sources: Vec<_> = sources("src").into_iter().filter(|(path, _)| !is_test(path)).collect();
    let graph = import_graph(&sources);
    assert!(graph.values().map(BTreeSet::len).sum::<usize>() > graph.len());
    assert_eq!(import_cycle(&graph), None);
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
    for (path, source) in PURE.iter().flat_map(|layer| sources(&format!("src/{layer}"))) {
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
    // The handler of Ctrl-C may take longer than the program.
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
