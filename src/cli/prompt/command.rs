//! Commands of the client prompt, and the parser of a line.
//!
//! Pure. Words are separated by white space; a name that contains spaces is quoted (`'` or `"`) or has backslashes
//! before them. In a name, `*`, `?` and `[...]` are a pattern, quoted or not. Invariant: each line is a valid command or an error with a correction; the parser never guesses.

use crate::tracker_client::selection::Item;
use std::path::PathBuf;

/// A command at least this similar to an unknown one is suggested (1 is the same word).
const SIMILAR: f64 = 0.7;

/// The commands: name, syntax and effect.
pub const COMMANDS: [(&str, &str, &str); 9] = [
    (
        "get",
        "get NAME... [as PATH]",
        "download files, by name, id, ticket or pattern (*.iso), into this folder; one file also to PATH",
    ),
    ("cancel", "cancel NAME...", "stop a download; the partial file is kept, and get resumes it"),
    ("files", "files [--long]", "list the files that other peers offer; --long shows whole ids"),
    ("peers", "peers [NAME]", "list the active peers, or those whose name begins with NAME"),
    ("mine", "mine [--long]", "list the files shared from this folder; --long shows whole ids"),
    ("status", "status", "show the downloads, also unfinished ones of earlier runs, and the storage offer"),
    ("why", "why NAME", "show the missing chunks, the holders and the last error of a file"),
    ("help", "help", "show this help"),
    ("quit", "quit", "exit (also exit, Ctrl-D, or Ctrl-C twice)"),
];

/// A parsed line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// An empty line.
    Nothing,
    /// Download files into the folder, or a single one to a path.
    Get(Vec<Item>, Option<PathBuf>),
    /// Cancel downloads, by their names or ids.
    Cancel(Vec<String>),
    /// List the files that other peers offer, with all digits of each id if true.
    Files(bool),
    /// List the active peers whose names begin with this text.
    Peers(String),
    /// List the files shared from this folder.
    Mine(bool),
    /// Show the downloads of this run.
    Status,
    /// Show the reason that a file, by name, id or ticket, is incomplete: the text of the user and the file.
    Why(String, Item),
    /// List the commands.
    Help,
    /// Exit.
    Quit,
}

/// Parses a line.
///
/// # Errors
/// The line is not a command. The text is the correction for the user.
pub fn parse(line: &str) -> Result<Command, String> {
    let texts = split(line)?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let (command, rest) = match texts.split_first() {
        None => return Ok(Command::Nothing),
        Some((command, rest)) => (*command, rest),
    };
    let alone = |meaning| match rest {
        [] => Ok(meaning),
        _ => Err(format!("{command} takes no argument")),
    };
    match (command, rest) {
        ("files", ["--long"]) => Ok(Command::Files(true)),
        ("files", _) => alone(Command::Files(false)),
        ("peers", [name]) => Ok(Command::Peers((*name).to_owned())),
        ("peers", []) => Ok(Command::Peers(String::new())),
        ("peers", _) => Err("peers takes one name: peers [NAME]".to_owned()),
        ("mine", ["--long"]) => Ok(Command::Mine(true)),
        ("mine", _) => alone(Command::Mine(false)),
        ("status", _) => alone(Command::Status),
        ("help" | "?", _) => Ok(Command::Help),
        ("quit" | "exit", _) => alone(Command::Quit),
        ("why" | "get" | "cancel", []) => Err(format!("file name missing: {command} NAME")),
        ("why" | "get" | "cancel", names) if names.contains(&"") => Err("the file name is empty".to_owned()),
        ("why", [name]) => match item(name)? {
            several if several.may_name_several() => Err("why takes one file, not a pattern".to_owned()),
            file => Ok(Command::Why((*name).to_owned(), file)),
        },
        ("why", names) => Err(format!(
            "why takes one name; a name with spaces needs quotes: why {}",
            quoted(&names.join(" "))
        )),
        ("get", [name, "as", path]) => match item(name)? {
            several if several.may_name_several() => {
                Err("as PATH needs the name of one file, not a pattern".to_owned())
            }
            file => Ok(Command::Get(vec![file], Some(PathBuf::from(path)))),
        },
        ("get", [_, "as"]) => Err("target path missing: get NAME as PATH".to_owned()),
        ("get", [_, .., "as", _]) => {
            Err("as PATH needs the name of one file; a name with spaces needs quotes".to_owned())
        }
        ("get", names) => {
            let items: Result<_, _> = names.iter().map(|name| item(name)).collect();
            Ok(Command::Get(items?, None))
        }
        ("cancel", names) => Ok(Command::Cancel(names.iter().map(|name| (*name).to_owned()).collect())),
        _ => Err(unknown(command)),
    }
}

/// Parses the name, id, ticket or pattern of a file.
fn item(text: &str) -> Result<Item, String> {
    text.parse().map_err(|error: crate::tracker_client::selection::ItemError| error.to_string())
}

/// Splits a complete line into the texts of its words.
///
/// # Errors
/// A quote is not closed.
pub fn split(line: &str) -> Result<Vec<String>, String> {
    let words = words(line);
    match words.last().is_some_and(|word| word.open.is_some()) {
        true => Err("missing closing quote".to_owned()),
        false => Ok(words.into_iter().map(|word| word.text).collect()),
    }
}

fn unknown(command: &str) -> String {
    similar(command, COMMANDS.iter().map(|(name, ..)| *name))
}

/// The error text for an unknown command, with the most similar command.
pub fn similar<'a>(command: &str, commands: impl Iterator<Item = &'a str>) -> String {
    let similar = commands
        .map(|name| (strsim::jaro_winkler(command, name), name))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    match similar {
        Some((_, name)) => format!("unknown command {command}; did you mean {name}?"),
        None => format!("unknown command {command}; type help for a list"),
    }
}

/// Quotes a name so that [`words`] reads it as one word.
pub fn quoted(name: &str) -> String {
    let special = |c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '\\');
    match name {
        _ if !name.is_empty() && !name.contains(special) => name.to_owned(),
        _ if !name.contains(['"', '\\']) => format!("\"{name}\""),
        _ if !name.contains('\'') => format!("'{name}'"),
        _ => name.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect(),
    }
}

/// A word of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The text without quotes.
    pub text: String,
    /// Start in the line, including the quote, bytes.
    pub start: usize,
    /// End in the line, bytes.
    pub end: usize,
    /// The quote, or the backslash, that is still open at the end of the line.
    pub open: Option<char>,
}

/// Splits a line, which may be incomplete, into words.
pub fn words(line: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut chars = line.char_indices().peekable();
    while let Some(&(start, c)) = chars.peek() {
        if c.is_whitespace() {
            chars.next();
            continue;
        }
        let mut word = Word { text: String::new(), start, end: line.len(), open: None };
        while let Some(&(at, c)) = chars.peek() {
            match (word.open, c) {
                (None, c) if c.is_whitespace() => {
                    word.end = at;
                    break;
                }
                (None, '\'' | '"' | '\\') => word.open = Some(c),
                (Some('\\'), c) => {
                    word.text.push(c);
                    word.open = None;
                }
                (Some('"'), '\\') => word.text.extend(escaped_in_quotes(line, at)),
                (Some(quote), c) if c == quote => word.open = None,
                (_, c) => word.text.push(c),
            }
            // Within double quotes, the sequence backslash and quote is consumed as a whole.
            if word.open == Some('"') && c == '\\' && escaped_in_quotes(line, at) != Some('\\') {
                chars.next();
            }
            chars.next();
        }
        words.push(word);
    }
    words
}

/// The character that a backslash within double quotes stands for: a quote before a quote, otherwise a backslash.
fn escaped_in_quotes(line: &str, at: usize) -> Option<char> {
    match line[at..].chars().nth(1) {
        Some('"') => Some('"'),
        _ => Some('\\'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn get(name: &str, path: Option<&str>) -> Result<Command, String> {
        Ok(Command::Get(vec![item(name).unwrap()], path.map(PathBuf::from)))
    }

    fn get_all(names: &[&str]) -> Result<Command, String> {
        Ok(Command::Get(names.iter().map(|name| item(name).unwrap()).collect(), None))
    }

    #[test]
    fn valid_lines_are_parsed() {
        for (line, meaning) in [
            ("", Ok(Command::Nothing)),
            ("  \t ", Ok(Command::Nothing)),
            ("files", Ok(Command::Files(false))),
            ("files --long", Ok(Command::Files(true))),
            ("  peers ", Ok(Command::Peers(String::new()))),
            ("peers ann", Ok(Command::Peers("ann".into()))),
            ("mine", Ok(Command::Mine(false))),
            ("mine --long", Ok(Command::Mine(true))),
            ("status", Ok(Command::Status)),
            ("help", Ok(Command::Help)),
            ("?", Ok(Command::Help)),
            ("help me", Ok(Command::Help)),
            ("quit", Ok(Command::Quit)),
            ("exit", Ok(Command::Quit)),
            ("get a", get("a", None)),
            ("get as", get("as", None)),
            ("get as as as", get("as", Some("as"))),
            ("get a as ../b", get("a", Some("../b"))),
            ("get \"a b.txt\"", get("a b.txt", None)),
            ("get 'a b.txt' as 'c d'", get("a b.txt", Some("c d"))),
            ("get a\\ b.txt", get("a b.txt", None)),
            ("get a' 'b", get("a b", None)),
            ("get 'it\"s'", get("it\"s", None)),
            ("get \"it's\"", get("it's", None)),
            (r#"get "a\"b""#, get("a\"b", None)),
            (r#"get "a\b""#, get("a\\b", None)),
            (r"get 'a\b'", get("a\\b", None)),
            (r"get a\\b", get("a\\b", None)),
            ("get a b.txt 'c d'", get_all(&["a", "b.txt", "c d"])),
            ("get '*' \"*.iso\" *.txt", get_all(&["*", "*.iso", "*.txt"])),
            ("cancel a 'b c'", Ok(Command::Cancel(vec!["a".into(), "b c".into()]))),
            ("why x", Ok(Command::Why("x".into(), item("x").unwrap()))),
        ] {
            assert_eq!(parse(line), meaning, "{line:?}");
        }
    }

    #[test]
    fn invalid_lines_are_refused_with_a_correction() {
        for (line, error) in [
            ("get", "file name missing: get NAME"),
            ("why", "file name missing: why NAME"),
            ("get ''", "the file name is empty"),
            ("get a as", "target path missing: get NAME as PATH"),
            ("get a as ''", "the file name is empty"),
            ("get a b as c", "as PATH needs the name of one file; a name with spaces needs quotes"),
            ("get * as c", "as PATH needs the name of one file, not a pattern"),
            ("get a ../b", "the name \"../b\" contains '/'"),
            ("why *", "why takes one file, not a pattern"),
            ("why a b", "why takes one name; a name with spaces needs quotes: why \"a b\""),
            ("cancel", "file name missing: cancel NAME"),
            ("peers a b", "peers takes one name: peers [NAME]"),
            ("get 'a", "missing closing quote"),
            ("get \"a", "missing closing quote"),
            ("get a\\", "missing closing quote"),
            ("files x", "files takes no argument"),
            ("quit now", "quit takes no argument"),
            ("file", "unknown command file; did you mean files?"),
            ("stauts", "unknown command stauts; did you mean status?"),
            ("ge x", "unknown command ge; did you mean get?"),
            ("xyzzy", "unknown command xyzzy; type help for a list"),
        ] {
            assert_eq!(parse(line), Err(error.to_owned()), "{line:?}");
        }
    }

    #[test]
    fn syntax_in_the_help_is_parsed() {
        for (name, usage, _) in COMMANDS {
            assert!(usage.starts_with(name));
            let optional = [" [as PATH]", " [--long]", "..."];
            let line = optional.iter().fold(usage.to_owned(), |line, part| line.replace(part, ""));
            assert!(parse(&line).is_ok(), "{usage}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(line in ".*|[a-z'\"\\\\ ]{0,30}") {
            let _ = parse(&line);
            for word in words(&line) {
                prop_assert!(line.is_char_boundary(word.start) && line.is_char_boundary(word.end));
            }
        }

        #[test]
        fn a_quoted_name_is_read_back(name in "[a-z '\"\\\\é]{1,12}") {
            prop_assert_eq!(split(&format!("get {}", quoted(&name))), Ok(vec!["get".to_owned(), name]));
        }
    }
}
