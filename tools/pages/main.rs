//! Writes the man pages and the completions of the five programs, for packages:
//! `cargo run --example pages -- [--prefix shoal-] DIR` writes `DIR/man1/*.1`, `DIR/bash/*`, `DIR/zsh/_*` and `DIR/fish/*`.
//!
//! With a prefix, the pages and completions are those of programs that are installed as PREFIX and their name.
#![forbid(unsafe_code)]

mod completions;
mod man;

#[path = "../../bin/client.rs"]
#[allow(dead_code)]
mod client;
#[path = "../../bin/leecher.rs"]
#[allow(dead_code)]
mod leecher;
#[path = "../../bin/manager.rs"]
#[allow(dead_code)]
mod manager;
#[path = "../../bin/seeder.rs"]
#[allow(dead_code)]
mod seeder;
#[path = "../../bin/tracker.rs"]
#[allow(dead_code)]
mod tracker;

use clap::{Command, Parser};
use clap_complete::Shell;
use shoal::cli::args::command;
use std::io;
use std::path::{Path, PathBuf};

/// The flags of this program.
#[derive(Parser)]
struct Flags {
    /// Begin of the names of the installed programs
    #[arg(long, default_value = "")]
    prefix: String,
    /// Folder for the pages and completions
    dir: PathBuf,
}

/// The commands of the five programs.
fn commands() -> [Command; 5] {
    [
        command::<tracker::Flags>(),
        command::<manager::Flags>(),
        command::<seeder::Flags>(),
        command::<leecher::Flags>(),
        command::<client::Flags>(),
    ]
}

fn main() -> io::Result<()> {
    let Flags { prefix, dir } = Flags::parse();
    for program in commands() {
        write_all(&program, &prefix, &dir)?;
    }
    Ok(())
}

/// Writes the pages and completions of a program.
fn write_all(program: &Command, prefix: &str, dir: &Path) -> io::Result<()> {
    for (name, page) in man::pages(program, prefix)? {
        write(&dir.join("man1"), &format!("{name}.1"), &page)?;
    }
    let name = format!("{prefix}{}", program.get_name());
    for (shell, file) in
        [(Shell::Bash, name.clone()), (Shell::Zsh, format!("_{name}")), (Shell::Fish, format!("{name}.fish"))]
    {
        write(&dir.join(shell.to_string()), &file, completions::of(program, &name, shell).as_bytes())?;
    }
    Ok(())
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(name), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command as Process;

    /// The long flags of a program, without those of its subcommands.
    fn long_flags(program: &Command) -> Vec<String> {
        program.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned).collect()
    }

    fn written(prefix: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        commands().iter().for_each(|program| write_all(program, prefix, folder.path()).unwrap());
        folder
    }

    #[test]
    fn each_flag_is_in_the_man_page_and_in_each_completion_with_one_dash_and_two() {
        let folder = written("");
        let text = |path: String| std::fs::read_to_string(folder.path().join(path)).unwrap();
        for program in commands() {
            let name = program.get_name();
            let (page, bash) = (text(format!("man1/{name}.1")), text(format!("bash/{name}")));
            let (zsh, fish) = (text(format!("zsh/_{name}")), text(format!("fish/{name}.fish")));
            for heading in [".SH OPTIONS", ".SH \"EXIT STATUS\"", ".SH ENVIRONMENT", ".SH EXAMPLES"] {
                assert!(page.contains(heading), "{name}: {heading}");
            }
            for flag in long_flags(&program) {
                let escaped = flag.replace('-', "\\-");
                assert!(page.contains(&format!("\\-\\-{escaped}\\fR")), "the page of {name}: {flag}");
                for dashed in [format!(" --{flag} "), format!(" -{flag} ")] {
                    assert!(bash.contains(&dashed), "bash, {name}: {dashed}");
                }
                assert!(
                    ["'", ")", "*"].iter().any(|before| {
                        zsh.contains(&format!("{before}--{flag}"))
                            && zsh.contains(&format!("{before}-{flag}"))
                    }),
                    "zsh, {name}: {flag}"
                );
                assert!(fish.contains(&format!(" -l {flag} -o {flag}")), "fish, {name}: {flag}");
            }
        }
    }

    #[test]
    fn a_prefix_is_in_the_names_the_pages_and_their_examples() {
        let folder = written("shoal-");
        let page = std::fs::read_to_string(folder.path().join("man1/shoal-tracker-approve.1")).unwrap();
        assert!(page.contains("shoal\\-tracker approve anna"), "{page}");
        for file in
            ["bash/shoal-seeder", "zsh/_shoal-seeder", "fish/shoal-seeder.fish", "man1/shoal-seeder.1"]
        {
            assert!(folder.path().join(file).exists(), "{file}");
        }
    }

    /// The words that bash offers after a command line.
    fn offered(folder: &Path, program: &str, words: &[&str]) -> String {
        let line: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let script = format!(
            "source {}/bash/{program}; COMP_WORDS=({program} {}); COMP_CWORD={}; _{program} {program} \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo \"${{COMPREPLY[@]}}\"",
            folder.display(),
            line.join(" "),
            words.len(),
        );
        let output = Process::new("bash").args(["--norc", "-c", &script]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn bash_completes_flags_with_one_dash_and_their_values() {
        let folder = written("");
        let offered = |program, words: &[&str]| offered(folder.path(), program, words);
        assert_eq!(offered("client", &["-transfer"]), "-transfer_port");
        assert_eq!(offered("client", &["--transfer"]), "--transfer_port");
        assert_eq!(offered("leecher", &["-verify", "sa"]), "sample");
        assert_eq!(offered("leecher", &["--verify", "sa"]), "sample");
        assert_eq!(offered("tracker", &["status", "-lon"]), "-long");
    }

    /// Checks the syntax with the shells that are installed.
    #[test]
    fn the_completions_are_accepted_by_their_shells() {
        let folder = written("");
        for (shell, flag) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
            for file in std::fs::read_dir(folder.path().join(shell)).unwrap() {
                let Ok(output) = Process::new(shell).arg(flag).arg(file.unwrap().path()).output() else {
                    break;
                };
                assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {output:?}");
            }
        }
    }
}
