//! One dash for long flags: `client -folder F -transfer_port P -name N`.
//!
//! A pure pass over the arguments before clap sees them. A word with one dash that is exactly a long
//! flag of the command gets its second dash. Other words with one dash are left alone when they can
//! only be short flags, and refused when they look like a long flag that was mistyped: clap would
//! read `-fil x` as `-f il` and go on with the wrong file. Every flag may be spelled with `_` or `-`
//! between its words.
//!
//! Invariant: an argument is kept as it is, gets one more dash in front, or ends in a usage error; its
//! bytes are never changed, so paths need not be UTF-8. What follows `--` is never looked at.

use super::exit;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// A long flag at least this similar to a refused word is suggested (1 is the same word).
const SIMILAR: f64 = 0.7;

/// Reads the command line of this process. `--help` and `--version` print and exit with 0, a usage
/// error prints and exits with 2 ([`ExitCode::Usage`](exit::ExitCode::Usage)).
pub fn parse<T: Parser>() -> T {
    try_parse_from(std::env::args_os()).unwrap_or_else(|error| error.exit())
}

/// Reads a command line, the program's name first.
///
/// # Errors
/// What clap has to say about it, help and version included.
pub fn try_parse_from<T: Parser>(args: impl IntoIterator<Item = OsString>) -> Result<T, clap::Error> {
    let mut command = command::<T>();
    let args = with_two_dashes(&mut command, args)?;
    let mut matches = command.try_get_matches_from_mut(args)?;
    T::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// The command as people use it: both spellings of each flag, and the exit codes below the help.
pub fn command<T: CommandFactory>() -> clap::Command {
    let command = with_both_spellings(T::command()).mut_subcommands(with_both_spellings);
    match command.get_after_help() {
        Some(_) => command,
        None => command.after_help(exit::HELP_TABLE),
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

/// Each long name of a flag, aliases included.
fn names(arg: &clap::Arg) -> impl Iterator<Item = &str> {
    arg.get_long().into_iter().chain(arg.get_all_aliases().into_iter().flatten())
}

/// The pass itself. The first argument is the program's name.
fn with_two_dashes(
    command: &mut clap::Command,
    args: impl IntoIterator<Item = OsString>,
) -> Result<Vec<OsString>, clap::Error> {
    command.build(); // adds --help and --version
    let flags = Flags::of(command);
    let mut args = args.into_iter();
    let mut rewritten: Vec<OsString> = args.next().into_iter().collect();
    if let Some(name) = rewritten.first().and_then(|path| Path::new(path).file_name()) {
        command.set_bin_name(name.to_string_lossy()); // as clap does, for the usage in a refusal
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

/// What becomes of one argument.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Not ours: clap knows what to do with it.
    Keep,
    /// A long flag that lacks a dash.
    LongFlag,
    /// A word (without its dash) that would be read as something else than was meant.
    Refuse(String),
}

/// The flags of one command.
struct Flags {
    long: HashSet<String>,
    /// Whether the short flag takes a value.
    short: HashMap<char, bool>,
}

impl Flags {
    /// Those of its subcommands count as its own: no flag means one thing there and another here.
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
        // The first bytes of an encoded string are ASCII exactly when its first characters are.
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

    /// Whether a word can only be meant as short flags: `-vv`, `-vp`, `-p7000`, `-vp=7000`, `-f./x`.
    /// A value that begins with a letter must stand apart, since the word may be a mistyped long flag.
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

/// The long flag that looks most like a word.
fn nearest<'a>(command: &'a clap::Command, word: &str) -> Option<&'a str> {
    command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set())
        .filter_map(clap::Arg::get_long)
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
    fn the_table() {
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
    fn what_the_words_mean() {
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
    fn a_refusal_names_the_word_and_what_was_meant() {
        let text = rewrite(&["-fil", "x"]).unwrap_err();
        for part in ["'-fil'", "'--file'", "write '-f il'", "write '-- -fil'", "Usage: client"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(rewrite(&["-transferport=7"]).unwrap_err().contains("'--transfer_port'"));
        assert!(!rewrite(&["-zzzz"]).unwrap_err().contains("similar"));
    }

    #[test]
    fn exit_codes() {
        let code = |word: &str| {
            let error = try_parse_from::<Example>(["client".into(), word.into()]).unwrap_err();
            error.exit_code()
        };
        assert_eq!((code("-help"), code("--version")), (0, 0));
        assert_eq!((code("-fil"), code("--nothing"), code("-p70000")), (2, 2, 2));
        let usage = exit::ExitCode::Usage as i32;
        assert_eq!(code("-fil"), usage);
    }

    #[test]
    fn help_shows_the_exit_codes() {
        assert!(command::<Example>().render_help().to_string().contains(exit::HELP_TABLE.trim()));
    }

    #[test]
    fn clap_finds_nothing_wrong_with_the_command() {
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
