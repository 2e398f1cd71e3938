//! Completions for bash, zsh and fish, in which each long flag also has a spelling with one dash.

use clap::Command;
use clap_complete::{Shell, generate};

/// The completions of a program that is installed as `name`.
pub(crate) fn of(program: &Command, name: &str, shell: Shell) -> String {
    let mut command = program.clone();
    let mut script = Vec::new();
    generate(shell, &mut command, name, &mut script);
    let script = String::from_utf8_lossy(&script);
    let script = if shell == Shell::Zsh { on_one_line(&script) } else { script.into_owned() };
    let lines = script.lines().map(|line| match shell {
        Shell::Bash => bash(line),
        Shell::Zsh => zsh(line),
        Shell::Fish => fish(line),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

/// `opts="--a --b"` offers `-a`, too, and `--a)` completes its values.
fn bash(line: &str) -> String {
    let text = line.trim_start();
    if let Some(words) = text.strip_prefix("opts=\"").and_then(|text| text.strip_suffix('"')) {
        let with_one_dash = words.split(' ').filter(|word| is_long(word)).map(|word| &word[1..]);
        let all: Vec<&str> = words.split(' ').chain(with_one_dash).collect();
        let indent = &line[..line.len() - text.len()];
        // A space at each end, so that each word is between two.
        return format!("{indent}opts=\" {} \"", all.join(" "));
    }
    match text.strip_suffix(')') {
        Some(flag) if is_long(flag) => line.replace(flag, &format!("{flag} | {}", &flag[1..])),
        _ => line.to_owned(),
    }
}

/// Joins the lines of each flag of zsh: its values with their help are on lines of their own.
fn on_one_line(script: &str) -> String {
    let mut joined = String::new();
    let mut is_open = false;
    for line in script.lines() {
        let begins = line.trim_start().starts_with('\'');
        joined.push_str(if joined.is_empty() {
            ""
        } else if is_open {
            " "
        } else {
            "\n"
        });
        joined.push_str(line);
        is_open = (begins || is_open) && !line.ends_with('\\');
    }
    joined
}

/// `'--a=[help]:A:'` is followed by the same line for `-a`.
fn zsh(line: &str) -> String {
    let Some(at) = line.find("--") else { return line.to_owned() };
    // Before the flag: the indent, a quote, and the flags that it excludes or the mark of one that may be repeated.
    let before = &line[..at];
    let is_spec = line.ends_with('\\')
        && before.trim_start().trim_start_matches("'").trim_start_matches('*').is_empty();
    let excludes = line.trim_start().starts_with("'(");
    let at = match (is_spec, excludes) {
        (true, _) => at,
        (false, true) => match line.find(')').filter(|end| line[end + 1..].starts_with("--")) {
            Some(end) => end + 1,
            None => return line.to_owned(),
        },
        (false, false) => return line.to_owned(),
    };
    format!("{line}\n{}{}", &line[..at], &line[at + 1..])
}

/// `-l a` of a command is followed by `-o a`, the spelling with one dash.
fn fish(line: &str) -> String {
    if !line.starts_with("complete ") {
        return line.to_owned();
    }
    let Some((before, rest)) = line.split_once(" -l ") else { return line.to_owned() };
    let (flag, rest) =
        rest.split_once(' ').map_or((rest, String::new()), |(flag, rest)| (flag, format!(" {rest}")));
    format!("{before} -l {flag} -o {flag}{rest}")
}

/// Whether a word is a long flag of more than one letter.
fn is_long(word: &str) -> bool {
    word.strip_prefix("--").is_some_and(|name| name.len() > 1 && !name.contains(char::is_whitespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_gets_the_spelling_with_one_dash() {
        for (line, wanted) in [
            (
                "            opts=\"-f --file --help [FILE]\"",
                "            opts=\" -f --file --help [FILE] -file -help \"",
            ),
            ("                --file)", "                --file | -file)"),
            ("                -f)", "                -f)"),
            ("            *)", "            *)"),
        ] {
            assert_eq!(bash(line), wanted);
        }
        for (line, wanted) in [
            (
                "'--file=[A file]:FILE:_files' \\",
                "'--file=[A file]:FILE:_files' \\\n'-file=[A file]:FILE:_files' \\",
            ),
            ("'*--verbose[More]' \\", "'*--verbose[More]' \\\n'*-verbose[More]' \\"),
            ("'(--a -b)--file[x]' \\", "'(--a -b)--file[x]' \\\n'(--a -b)-file[x]' \\"),
            ("'-f+[A -- file]:FILE:_files' \\", "'-f+[A -- file]:FILE:_files' \\"),
            ("'::item -- Files to download:' \\", "'::item -- Files to download:' \\"),
        ] {
            assert_eq!(zsh(line), wanted);
        }
        for (line, wanted) in [
            (
                "complete -c x -s f -l file -d 'A -l file' -r",
                "complete -c x -s f -l file -o file -d 'A -l file' -r",
            ),
            ("complete -c x -l all", "complete -c x -l all -o all"),
            ("\techo -l x", "\techo -l x"),
        ] {
            assert_eq!(fish(line), wanted);
        }
    }

    #[test]
    fn a_flag_of_zsh_with_values_on_several_lines_becomes_one_line() {
        let script = "a\n'--x=[X]:X:((b\\:\"B\"\nc\\:\"C\"))' \\\n'-y' \\\n&& ret=0";
        assert_eq!(on_one_line(script), "a\n'--x=[X]:X:((b\\:\"B\" c\\:\"C\"))' \\\n'-y' \\\n&& ret=0");
    }

    /// The whole script for a small command.
    #[test]
    fn the_script_of_fish_is_the_golden_one() {
        let command = Command::new("small")
            .arg(clap::arg!(-f --file <FILE> "A file"))
            .arg(clap::arg!(--all "All files"))
            .disable_help_flag(true);
        assert_eq!(
            of(&command, "shoal-small", Shell::Fish),
            "complete -c shoal-small -s f -l file -o file -d 'A file' -r\n\
             complete -c shoal-small -l all -o all -d 'All files'\n"
        );
    }
}
