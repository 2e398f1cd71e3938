//! The parts of `--help` that all programs have: headings of flag groups, exit codes, examples.
//!
//! Invariant: each program has exactly three examples. An integration test parses them.

use super::exit;

/// Heading of flags about files and folders.
pub const FILES: &str = "Files";
/// Heading of flags about storage that volunteers offer.
pub const VOLUNTEERS: &str = "Volunteers";
/// Heading of flags about addresses, ports and names.
pub const NETWORK: &str = "Network";
/// Heading of flags about rates and counts.
pub const LIMITS: &str = "Limits";
/// Heading of flags about durations.
pub const TIMEOUTS: &str = "Timeouts";
/// Heading of flags about standard output.
pub const OUTPUT: &str = "Output";
/// Heading of flags about log lines.
pub const LOGGING: &str = "Logging";
/// Heading of `--help` and `--version`.
pub const HELP: &str = "Help";

/// A command and its effect.
pub type Example = (&'static str, &'static str);

/// The examples of each program; a subcommand is listed as `program subcommand`.
const EXAMPLES: [(&str, [Example; 3]); 8] = [
    (
        "tracker",
        [
            ("tracker", "Run a tracker for the programs on this host"),
            ("tracker --listen 0.0.0.0", "Run a tracker for other hosts, too"),
            (
                "tracker --files folder1 --state tracker-state",
                "Offer the files of a folder and replicate them at volunteers",
            ),
        ],
    ),
    (
        "tracker status",
        [
            ("tracker status", "Show volunteers and files of the tracker on this host"),
            ("tracker status --json", "Print the same as one line of JSON"),
            ("tracker status --tracker 127.0.0.1:5101", "Query a tracker on another port"),
        ],
    ),
    (
        "tracker approve",
        [
            ("tracker approve anna --state tracker-state", "Approve a volunteer by its name"),
            ("tracker approve 1a2b3c4d --state tracker-state", "Approve the volunteer with this key"),
            ("tracker approve 10.0.0.7:7000 --state tracker-state", "Approve the volunteer at this address"),
        ],
    ),
    (
        "tracker forget",
        [
            ("tracker forget large_text_file.txt --state tracker-state", "Stop replicating a file"),
            (
                "tracker forget large_text_file.txt --dry-run --state tracker-state",
                "Show what would be deleted",
            ),
            (
                "tracker forget 1a2b3c4d --yes --state tracker-state",
                "Delete the last copies of the file with this id",
            ),
        ],
    ),
    (
        "manager",
        [
            ("manager", "Run a manager for the clients on this host"),
            ("manager --listen 0.0.0.0", "Run a manager for other hosts, too"),
            ("manager --listen 127.0.0.1:10001", "Run a manager on another port"),
        ],
    ),
    (
        "seeder",
        [
            ("seeder -f large_text_file.txt", "Share a file through the tracker on this host"),
            (
                "seeder large_text_file.txt",
                "Share a file with other machines, and print the command for them",
            ),
            ("seeder large_text_file.txt --until 5", "End when five leechers have the file"),
        ],
    ),
    (
        "leecher",
        [
            ("leecher large_text_file.txt", "Download a file into the current folder"),
            ("leecher --list", "List the files that peers offer"),
            (
                "leecher large_text_file.txt --out /tmp --stay",
                "Download into another folder and keep serving",
            ),
        ],
    ),
    (
        "client",
        [
            (
                "client -folder folder1 -transfer_port 7001 -name peer1",
                "Complete a chunk folder (with a local_chunks.txt) through a tracker",
            ),
            (
                "client -folder peer1 -transfer_port 7001 -name peer1 --manager 127.0.0.1:10000",
                "Share a plain folder through a manager",
            ),
            (
                "client -folder peer2 -transfer_port 7002 -name peer2 --volunteer 2GiB",
                "Offer storage to a tracker that replicates files",
            ),
        ],
    ),
];

/// The examples of a program.
pub fn examples(program: &str) -> &'static [Example] {
    EXAMPLES.iter().find(|(name, _)| *name == program).map_or(&[], |(_, examples)| examples)
}

/// The end of the `--help` of a program: exit codes and examples.
pub fn ending(program: &str) -> String {
    let mut text = exit::HELP_TABLE.to_owned();
    let examples = examples(program);
    if !examples.is_empty() {
        text += "\n\nExamples:";
    }
    for (command, effect) in examples {
        text += &format!("\n  # {effect}\n  {command}");
    }
    text
}

/// A command that works, for the end of a usage error.
pub fn example(program: &str) -> Option<String> {
    examples(program).first().map(|(command, _)| format!("Example: {command}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_ends_with_exit_codes_and_three_examples() {
        let text = ending("seeder");
        assert!(text.starts_with(exit::HELP_TABLE));
        let examples = text.split("Examples:\n").nth(1).unwrap();
        assert_eq!(examples.lines().filter(|line| line.starts_with("  seeder ")).count(), 3);
        assert_eq!(example("seeder").unwrap(), "Example: seeder -f large_text_file.txt");
        assert_eq!((ending("unknown"), example("unknown")), (exit::HELP_TABLE.to_owned(), None));
    }
}
