//! Runs the transcripts of README.md and docs/tutorial.md as they are written there.
//!
//! # Format
//!
//! A fenced block with the info string `console N` shows terminal N. A line that begins with `$ ` is typed at a shell,
//! `> ` continues it; `tracker> status` is typed at the prompt of a program; `^C` presses Ctrl-C. Every other line is
//! output. On several hosts the label of a terminal is the letter of its host, with a number if the host has
//! several terminals (`A1`, `A2`, `B`, `C`; the hosts have the addresses 10.0.0.1 to 10.0.0.3 on one network).
//!
//! All blocks of a `## ` section are one scenario: a new folder with copies of the sample folders (on hosts: an empty
//! folder for each terminal), a network of its own, and the ports as written. Input is entered in the order of the
//! document, each time after the expected output has appeared and the terminal shows the prompt.
//!
//! # What matches
//!
//! - Every expected line must be one that the terminal shows after its last input, and each shown line counts once.
//! - Log lines and event lines (`NAME,EVENT,...`) may come in another order and between other lines, and there may be
//!   more of them. All other lines come in the order of the document and follow each other directly.
//! - `…` in a line stands for omitted text, `…` alone on a line for omitted lines. If a command has no other
//!   output in the document, it stands for at least one line.
//! - These match any other of their kind: timestamps, numbers with a fraction, durations (a number and a unit of time),
//!   rates, lower-case hexadecimal words of eight digits or more (ids, hashes, tokens), and ports from 32768 on. Other
//!   numbers must be equal.
//! - White space matches any white space. Empty lines do not count.
//!
//! Where namespaces are not available, the scenarios are skipped with a line that tells why.

mod matching;
mod parse;
mod run;
pub mod screen;

use parse::Scenario;
use std::path::Path;

const README: &str = "README.md";
const TUTORIAL: &str = "docs/tutorial.md";

fn scenarios_of(document: &str) -> Vec<Scenario> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = std::fs::read_to_string(path).unwrap();
    parse::scenarios(&text).unwrap_or_else(|problem| panic!("{document}, {problem}"))
}

/// Defines a test for each scenario, and the list of all.
macro_rules! scenarios {
    ($($test:ident: $document:ident, $title:literal;)*) => {
        const SCENARIOS: &[(&str, &str)] = &[$(($document, $title)),*];
        $(
            #[test]
            fn $test() {
                let found = scenarios_of($document).into_iter().find(|scenario| scenario.title == $title);
                let scenario = found.unwrap_or_else(|| panic!("{} has no transcripts in ## {}", $document, $title));
                run::run($document, &scenario);
            }
        )*
    };
}

scenarios! {
    readme_network: README, "A file for several machines of a network";
    readme_download: README, "Tracker, seeders and leechers";
    readme_peers: README, "Manager and peers";
    readme_chunk_sets: README, "Chunk sets with agreed hashes";
    readme_chunk_folders: README, "Chunk folders and event lines";
    readme_volunteers: README, "Files kept at volunteers";
    tutorial_download: TUTORIAL, "Seeders and a leecher";
    tutorial_chunk_folders: TUTORIAL, "Chunk folders";
    tutorial_peers: TUTORIAL, "A manager and its peers";
    tutorial_volunteers: TUTORIAL, "Files kept by volunteers";
}

#[test]
fn every_section_with_transcripts_is_run() {
    for document in [README, TUTORIAL] {
        for scenario in scenarios_of(document) {
            let entry = (document, scenario.title.as_str());
            assert!(SCENARIOS.contains(&entry), "{document}: ## {} is not in the list", scenario.title);
        }
    }
}
