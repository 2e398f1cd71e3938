//! Dependencies: sources, licences, and no async runtime.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// The only registry that packages may come from.
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";
/// Permissive licences, as SPDX identifiers. An exception (`WITH`) belongs to the identifier.
const PERMITTED: [&str; 9] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];
/// Async runtimes and the event libraries below them. A package `NAME-*` belongs to the same family.
const ASYNC_RUNTIMES: [&str; 8] =
    ["tokio", "async-std", "smol", "mio", "futures", "async-executor", "glommio", "monoio"];

fn cargo(args: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(env!("CARGO")).args(args).current_dir(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether an SPDX expression is satisfied by the permitted licences: one alternative of each `OR`, every part of each
/// `AND`. Some packages still write `/` for `OR`.
fn is_permitted(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let flat: String = expression.chars().filter(|c| !matches!(c, '(' | ')')).collect();
    // Parentheses occur only around alternatives: `(A OR B) AND C` needs A or B, and C.
    let parts = if expression.contains('(') { flat.split(" AND ").collect() } else { vec![flat.as_str()] };
    parts.iter().all(|part| {
        part.split(" OR ").any(|one| one.split(" AND ").all(|name| PERMITTED.contains(&name.trim())))
    })
}

#[test]
fn licence_expressions_are_evaluated() {
    for permitted in
        ["MIT", "MIT OR GPL-3.0", "Apache-2.0/MIT", "(MIT OR Apache-2.0) AND Unicode-3.0", "MIT AND Zlib"]
    {
        assert!(is_permitted(permitted), "{permitted}");
    }
    for refused in ["GPL-3.0", "", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND GPL-2.0", "MPL-2.0", "MITX"] {
        assert!(!is_permitted(refused), "{refused}");
    }
}

/// Checks the packages of this platform, including those of tests and of the build.
#[test]
fn every_package_comes_from_crates_io_under_a_permissive_licence() {
    let metadata = cargo(&[
        "metadata",
        "--offline",
        "--locked",
        "--format-version=1",
        "--filter-platform=x86_64-unknown-linux-gnu",
    ]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50, "only {} packages", packages.len());
    for package in packages {
        let name = format!("{} {}", package["name"].as_str().unwrap(), package["version"].as_str().unwrap());
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(is_permitted(licence), "{name} has the licence {licence:?}");
        match package["source"].as_str() {
            None => assert!(name.starts_with("shoal "), "{name} is in a local folder"),
            Some(source) => assert_eq!(source, CRATES_IO, "{name}"),
        }
    }
}

#[test]
fn no_async_runtime_in_the_normal_tree() {
    let tree =
        cargo(&["tree", "--offline", "--locked", "-e", "normal", "--prefix", "none", "--format", "{p}"]);
    let packages: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(packages.contains(&"shoal") && packages.contains(&"serde_json"), "{packages:?}");
    for package in packages {
        let family = |name: &str| package == name || package.starts_with(&format!("{name}-"));
        assert!(!ASYNC_RUNTIMES.iter().any(|name| family(name)), "{package}");
    }
}

#[test]
fn one_version_of_each_package_in_the_normal_tree() {
    let tree = cargo(&["tree", "--offline", "--locked", "-e", "normal", "--duplicates", "--depth", "0"]);
    assert_eq!(tree.trim(), "", "packages with two versions");
}
