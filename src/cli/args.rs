//! Long flags with one dash: `client -folder F -transfer_port P -name N`.
//!
//! A pure pass over the arguments before clap parses them. An argument with one dash that is exactly a long flag of the
//! command gets a second dash. Other arguments with one dash are kept if they can only be short flags. They are refused
//! if they look like a mistyped long flag: clap would read `-fil x` as `-f il` and use the wrong file. The words of a
//! flag may be separated by `_` or `-`.
//!
//! Invariant: an argument is kept, gets one more dash, or causes a usage error. Its bytes never change, so paths need
//! not be UTF-8. Arguments after `--` are kept.

use super::console::print_error;
use super::memory::share_memory_area;
use super::{environment, help, json};
use crate::report::{Fault, RoleError, events};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, CommandFactory, Parser};
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// A long flag at least this similar to a refused word is suggested (1 is the same word).
const SIMILAR: f64 = 0.7;

/// Parses the command line of this process. `--help` and `--version` print and exit with 0. A usage error prints the
/// reason and an example, and exits with 2 ([`ExitCode::Usage`](super::ExitCode::Usage)).
pub fn parse<T: Parser>() -> T {
    share_memory_area();
    parse_from(std::env::args_os())
}

/// Parses a command line in the place of that of this process, like [`parse`].
///
/// With `--json` the error, and the text of `--help` and `--version`, are on stderr, and the exit code is an event.
pub fn parse_from<T: Parser>(args: impl IntoIterator<Item = OsString>) -> T {
    let args: Vec<OsString> = args.into_iter().collect();
    let command = command::<T>();
    let program = command.get_name();
    if json::is_wanted(args.iter().skip(1)) || environment::asks_for_json(program) {
        json::begin(program);
    }
    environment::warn(&command);
    try_parse_from(args).unwrap_or_else(|error| refuse(&error, program))
}

/// Prints a usage error, the help or the version, and ends the process.
fn refuse(error: &clap::Error, program: &str) -> ! {
    match json::is_active() {
        true => print_error(error.render().to_string().trim_end()),
        // A closed terminal changes nothing about the exit code.
        false => drop(error.print()),
    }
    if error.use_stderr() {
        if let Some(example) = help::example(program) {
            print_error(&example);
        }
        let text = error.render().to_string();
        events::failed(&RoleError::new(Fault::Usage, text.trim_start_matches("error: ").trim_end()));
    }
    json::end(error.exit_code().try_into().unwrap_or(super::ExitCode::Usage as u8));
    std::process::exit(error.exit_code())
}

/// Parses a command line that begins with the name of the program.
///
/// # Errors
/// A usage error, or a request for help or the version.
pub fn try_parse_from<T: Parser>(args: impl IntoIterator<Item = OsString>) -> Result<T, clap::Error> {
    let mut command = command::<T>();
    let args = with_two_dashes(&mut command, args)?;
    let used = environment::used(self::command::<T>(), &args);
    let mut command = environment::with_values(self::command::<T>(), &used);
    if let Some(name) = args.first().and_then(|path| Path::new(path).file_name()) {
        command.set_bin_name(name.to_string_lossy());
    }
    let parsed = command.try_get_matches_from_mut(args).and_then(|mut matches| {
        T::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
    });
    parsed.map_err(|error| environment::explained(error, &used))
}

/// The command with both spellings of each flag, and with exit codes and examples at the end of its help.
pub fn command<T: CommandFactory>() -> clap::Command {
    let command = T::command();
    let program = command.get_name().to_owned();
    completed(command, &program, &program).mut_subcommands(|subcommand| {
        let name = format!("{program} {}", subcommand.get_name());
        completed(subcommand, &program, &name)
    })
}

fn completed(command: clap::Command, program: &str, name: &str) -> clap::Command {
    // clap removes the full stop of a doc comment.
    let purpose = command.get_about().map(|text| format!("{text}.")).unwrap_or_default();
    let command = command.about(purpose);
    let command = with_both_spellings(with_help_group(command)).after_help(help::ending(name));
    command.mut_args(|arg| environment::shown(arg, program))
}

/// Moves `--help` and `--version` into a group of their own below the other flags.
fn with_help_group(command: clap::Command) -> clap::Command {
    let has_version = command.get_version().is_some();
    let flag = |name, letter, action, text| {
        Arg::new(name).short(letter).long(name).action(action).help(text).help_heading(help::HELP)
    };
    let command = command.disable_help_flag(true).arg(flag("help", 'h', ArgAction::Help, "Print this help"));
    match has_version {
        true => command.disable_version_flag(true).arg(flag(
            "version",
            'V',
            ArgAction::Version,
            "Print the version",
        )),
        false => command,
    }
}

/// Lets `--transfer_port` be written `--transfer-port`, and so for every flag of several words.
fn with_both_spellings(command: clap::Command) -> clap::Command {
    let mut taken: HashSet<String> = command.get_arguments().flat_map(names).map(str::to_owned).collect();
    command.mut_args(|arg| {
        let other_spellings: Vec<String> = names(&arg)
            .flat_map(|name| [name.replace('_', "-"), name.replace('-', "_")])
            .filter(|name| taken.insert(name.clone()))
            .collect();
        arg.aliases(other_spellings)
    })
}

/// The long names of a flag, aliases included.
fn names(arg: &Arg) -> impl Iterator<Item = &str> {
    arg.get_long().into_iter().chain(arg.get_all_aliases().into_iter().flatten())
}

/// Rewrites the arguments. The first is the name of the program.
fn with_two_dashes(
    command: &mut clap::Command,
    args: impl IntoIterator<Item = OsString>,
) -> Result<Vec<OsString>, clap::Error> {
    command.build();
    let flags = Flags::of(command);
    let mut args = args.into_iter();
    let mut rewritten: Vec<OsString> = args.next().into_iter().collect();
    if let Some(name) = rewritten.first().and_then(|path| Path::new(path).file_name()) {
        command.set_bin_name(name.to_string_lossy()); // as clap does, for the usage line in an error
    }
    while let Some(arg) = args.next() {
        match flags.judge(&arg) {
            _ if arg == "--" => {
                rewritten.push(arg);
                rewritten.extend(args);
                break;
            }
            Verdict::Keep => rewritten.push(arg),
            Verdict::LongFlag => {
                let mut long = OsString::from("-");
                long.push(arg);
                rewritten.push(long);
            }
            Verdict::Refuse(word) => return Err(refusal(command, &flags, &word)),
        }
    }
    Ok(rewritten)
}

/// The decision on one argument.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is left to clap.
    Keep,
    /// A long flag with one dash.
    LongFlag,
    /// A word (without its dash) that clap would misread.
    Refuse(String),
}

/// The flags of one command.
struct Flags {
    long: HashSet<String>,
    /// The short flags, and whether each takes a value.
    short: HashMap<char, bool>,
}

impl Flags {
    /// The flags of the command and of its subcommands: a flag has one meaning in all of them.
    fn of(command: &clap::Command) -> Self {
        let arguments = || command.get_subcommands().chain([command]).flat_map(clap::Command::get_arguments);
        let long = arguments().flat_map(names).map(str::to_owned).collect();
        let mut short = HashMap::new();
        for arg in arguments() {
            let letters =
                arg.get_short().into_iter().chain(arg.get_all_short_aliases().into_iter().flatten());
            short.extend(letters.map(|letter| (letter, arg.get_action().takes_values())));
        }
        Self { long, short }
    }

    fn judge(&self, arg: &OsStr) -> Verdict {
        // The first byte of the encoded string is ASCII if and only if the first character is.
        let Some(text) = arg.as_encoded_bytes().strip_prefix(b"-") else { return Verdict::Keep };
        match text {
            [] | [b'-' | b'=' | b'0'..=b'9', ..] | [b'.', b'0'..=b'9', ..] => return Verdict::Keep,
            _ => {}
        }
        let text = String::from_utf8_lossy(text);
        let word = text.split('=').next().unwrap_or_default();
        if word.chars().count() <= 1 {
            return Verdict::Keep;
        }
        match self.long.contains(word) {
            true => Verdict::LongFlag,
            false if self.is_short(&text) => Verdict::Keep,
            false => Verdict::Refuse(word.to_owned()),
        }
    }

    /// Whether a word can only consist of short flags: `-vv`, `-vp`, `-p7000`, `-vp=7000`, `-f./x`. A value that
    /// begins with a letter must be a separate argument, because the word may be a mistyped long flag.
    fn is_short(&self, text: &str) -> bool {
        let mut rest = text.chars();
        while let Some(letter) = rest.next() {
            match self.short.get(&letter) {
                None => return false,
                Some(false) => {}
                Some(true) => {
                    let value = rest.as_str().chars().next();
                    return value.is_none_or(|first| !(first.is_alphabetic() || matches!(first, '-' | '_')));
                }
            }
        }
        true
    }
}

fn refusal(command: &mut clap::Command, flags: &Flags, word: &str) -> clap::Error {
    let mut error = clap::Error::new(ErrorKind::UnknownArgument).with_cmd(command);
    error.insert(ContextKind::InvalidArg, ContextValue::String(format!("-{word}")));
    if let Some(long) = nearest(command, word) {
        error.insert(ContextKind::SuggestedArg, ContextValue::String(format!("--{long}")));
    }
    let mut tips: Vec<clap::builder::StyledStr> = Vec::new();
    let (letter, value) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
    if letter.chars().any(|letter| flags.short.get(&letter) == Some(&true)) {
        tips.push(format!("to give '-{letter}' the value '{value}', write '-{letter} {value}'").into());
    }
    if command.get_positionals().next().is_some() {
        tips.push(format!("to pass '-{word}' as a value, write '-- -{word}'").into());
    }
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    error.insert(ContextKind::Usage, ContextValue::StyledStr(command.render_usage()));
    error
}

/// The long flag that is most similar to a word.
fn nearest<'a>(command: &'a clap::Command, word: &str) -> Option<&'a str> {
    command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set())
        .filter_map(Arg::get_long)
        .map(|long| (strsim::jaro_winkler(word, long), long))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, long)| long)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::PathBuf;

    #[derive(Parser, Debug, PartialEq)]
    #[command(version)]
    struct Example {
        #[arg(short, long)]
        file: Option<PathBuf>,
        #[arg(long, alias = "dir")]
        folder: Option<PathBuf>,
        #[arg(short = 'p', long = "transfer_port")]
        transfer_port: Option<u16>,
        #[arg(long = "log-file")]
        log_file: Option<PathBuf>,
        #[arg(long, allow_negative_numbers = true)]
        offset: Option<f64>,
        #[arg(short, long, action = clap::ArgAction::Count)]
        verbose: u8,
        #[arg(short, long)]
        quiet: bool,
        #[arg(long)]
        x: bool,
        names: Vec<OsString>,
    }

    fn rewrite(words: &[&str]) -> Result<Vec<String>, String> {
        let args = std::iter::once("/bin/client").chain(words.iter().copied()).map(OsString::from);
        let done = with_two_dashes(&mut command::<Example>(), args);
        let done = done.map_err(|error| error.to_string())?;
        Ok(done.into_iter().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect())
    }

    fn parsed(words: &[&str]) -> Example {
        let args = std::iter::once("client").chain(words.iter().copied()).map(OsString::from);
        try_parse_from(args).unwrap()
    }

    #[test]
    fn long_flags_with_one_dash_get_a_second_one() {
        for (given, wanted) in [
            ("-folder F -transfer_port 1 -name", None),
            ("-folder F -transfer_port 1", Some("--folder F --transfer_port 1")),
            ("-transfer-port 1", Some("--transfer-port 1")),
            ("--transfer-port 1", Some("--transfer-port 1")),
            ("-log_file L", Some("--log_file L")),
            ("-folder=F -transfer_port=1", Some("--folder=F --transfer_port=1")),
            ("-folder=", Some("--folder=")),
            ("-dir F", Some("--dir F")),
            ("--folder F", Some("--folder F")),
            ("-help", Some("--help")),
            ("-version", Some("--version")),
            ("-h -V -v -f F", Some("-h -V -v -f F")),
            ("-folder -file", Some("--folder --file")),
            ("a b", Some("a b")),
            ("-", Some("-")),
            ("-x", Some("-x")),
            ("-é", Some("-é")),
            ("-=", Some("-=")),
            ("-5 -0.5 -.5 -1e3", Some("-5 -0.5 -.5 -1e3")),
            ("-vv -vvq -qvp 1", Some("-vv -vvq -qvp 1")),
            ("-p7000 -p=7000 -f=x -f./x -f/x -vp7000", Some("-p7000 -p=7000 -f=x -f./x -f/x -vp7000")),
            ("-- -folder -fil", Some("-- -folder -fil")),
            ("-file -- -folder", Some("--file -- -folder")),
            ("-fil x", None),
            ("-filex", None),
            ("-FOLDER F", None),
            ("-f-x", None),
            ("-vx", None),
            ("-vfoo", None),
            ("-folde=F", None),
            ("-inf", None),
            ("---folder F", Some("---folder F")),
        ] {
            let words: Vec<&str> = given.split(' ').collect();
            let rewritten = rewrite(&words).ok().map(|words| words.join(" "));
            assert_eq!(rewritten.as_deref(), wanted, "{given}");
        }
    }

    #[test]
    fn rewritten_arguments_are_parsed() {
        let example =
            parsed(&["-folder", "F", "-transfer-port", "7", "-log_file=L", "-vv", "-offset", "-0.5"]);
        assert_eq!(example.folder, Some("F".into()));
        assert_eq!(example.transfer_port, Some(7));
        assert_eq!(example.log_file, Some("L".into()));
        assert_eq!((example.verbose, example.offset), (2, Some(-0.5)));
        assert_eq!(parsed(&["-vp7000"]).transfer_port, Some(7000));
        assert_eq!(parsed(&["-f=x"]).file, Some("x".into()));
        assert_eq!(parsed(&["--transfer-port=8", "--", "-folder"]).names, ["-folder"]);
    }

    #[test]
    fn a_refusal_names_the_word_and_a_similar_flag() {
        let text = rewrite(&["-fil", "x"]).unwrap_err();
        for part in ["'-fil'", "'--file'", "write '-f il'", "write '-- -fil'", "Usage: client"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(rewrite(&["-transferport=7"]).unwrap_err().contains("'--transfer_port'"));
        assert!(!rewrite(&["-zzzz"]).unwrap_err().contains("similar"));
    }

    #[test]
    fn usage_errors_exit_with_2_and_help_with_0() {
        let code = |word: &str| {
            let error = try_parse_from::<Example>(["client".into(), word.into()]).unwrap_err();
            error.exit_code()
        };
        assert_eq!((code("-help"), code("--version")), (0, 0));
        assert_eq!((code("-fil"), code("--nothing"), code("-p70000")), (2, 2, 2));
        let usage = crate::cli::ExitCode::Usage as i32;
        assert_eq!(code("-fil"), usage);
    }

    #[test]
    fn help_ends_with_the_exit_codes() {
        assert!(command::<Example>().render_help().to_string().contains(crate::cli::exit::HELP_TABLE));
    }

    #[test]
    fn the_command_is_valid_for_clap() {
        command::<Example>().debug_assert();
    }

    #[cfg(unix)]
    #[test]
    fn paths_need_not_be_utf8() {
        use std::os::unix::ffi::OsStringExt;
        let path = OsString::from_vec(b"F\xff".to_vec());
        let mut flag = OsString::from("-folder=");
        flag.push(&path);
        let short = OsString::from_vec(b"-f\xff".to_vec());
        let example: Example = try_parse_from(["client".into(), flag, short]).unwrap();
        assert_eq!(example.folder, Some(path.into()));
        assert_eq!(example.file, Some(OsString::from_vec(b"\xff".to_vec()).into()));
        let evil = OsString::from_vec(b"-q\xff\xfe".to_vec());
        assert!(try_parse_from::<Example>(["client".into(), evil]).is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics_and_bytes_are_kept(words in prop::collection::vec("-{0,3}[a-z_=.0-9é]{0,8}|.*", 0..6)) {
            let args: Vec<OsString> = words.iter().map(OsString::from).collect();
            let _ = try_parse_from::<Example>(args.clone());
            if let Ok(done) = with_two_dashes(&mut command::<Example>(), args.clone()) {
                prop_assert_eq!(done.len(), args.len());
                for (given, got) in args.iter().zip(&done) {
                    let mut dashed = OsString::from("-");
                    dashed.push(given);
                    prop_assert!(got == given || *got == dashed);
                }
            }
        }

        #[cfg(unix)]
        #[test]
        fn arbitrary_bytes_never_panic(words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..4)) {
            use std::os::unix::ffi::OsStringExt;
            let dashed = words.into_iter().map(|word| OsString::from_vec([b"-", word.as_slice()].concat()));
            let _ = try_parse_from::<Example>(std::iter::once("client".into()).chain(dashed));
        }
    }
}
