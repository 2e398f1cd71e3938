//! What can be typed at the prompt, and how a line is read.
//!
//! Pure. Words are parted by white space; quotes (`'` or `"`) or a backslash keep spaces in a name. Invariant:
//! any text is a command or an error that says what to type instead; nothing is guessed.

use std::path::PathBuf;

/// A command at least this similar to an unknown one is suggested (1 is the same word).
const SIMILAR: f64 = 0.7;

/// Every command: how it is written, and what it does.
pub const COMMANDS: [(&str, &str, &str); 8] = [
    (
        "get",
        "get NAME [as PATH]",
        "gets a file, by name or id, into this folder or to PATH; goes on behind the prompt",
    ),
    ("files", "files", "what the others have"),
    ("peers", "peers", "who is here, as the manager says"),
    ("mine", "mine", "what is shared from this folder"),
    ("status", "status", "the transfers of this run, and what is lent to the tracker"),
    ("why", "why NAME", "what is missing of a file, who has it, and what went wrong last"),
    ("help", "help", "this"),
    ("quit", "quit", "leaves the swarm (also exit, Ctrl-D, or Ctrl-C twice)"),
];

/// What a line means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// An empty line.
    Nothing,
    /// Get a file, by name or id; to a place other than the folder.
    Get(String, Option<PathBuf>),
    /// What the swarm has.
    Files,
    /// Who is there.
    Peers,
    /// What is shared here.
    Mine,
    /// How the transfers stand.
    Status,
    /// What is missing of a file, by name or id.
    Why(String),
    /// What can be typed.
    Help,
    /// Leave.
    Quit,
}

/// Reads a line.
///
/// # Errors
/// What to type instead.
pub fn parse(line: &str) -> Result<Command, String> {
    let words = words(line);
    if words.last().is_some_and(|word| word.open.is_some()) {
        return Err("a quote is not closed".to_owned());
    }
    let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    let (command, rest) = match texts.split_first() {
        None => return Ok(Command::Nothing),
        Some((command, rest)) => (*command, rest),
    };
    let alone = |meaning| match rest {
        [] => Ok(meaning),
        _ => Err(format!("{command} stands alone")),
    };
    match (command, rest) {
        ("files", _) => alone(Command::Files),
        ("peers", _) => alone(Command::Peers),
        ("mine", _) => alone(Command::Mine),
        ("status", _) => alone(Command::Status),
        ("help" | "?", _) => Ok(Command::Help),
        ("quit" | "exit", _) => alone(Command::Quit),
        ("why" | "get", []) => Err(format!("say which file: {command} NAME")),
        ("why" | "get", ["", ..]) => Err("a name is not empty".to_owned()),
        ("why", [name]) => Ok(Command::Why((*name).to_owned())),
        ("get", [name]) => Ok(Command::Get((*name).to_owned(), None)),
        ("get", [name, "as", path]) if !path.is_empty() => {
            Ok(Command::Get((*name).to_owned(), Some(PathBuf::from(path))))
        }
        ("get", [_, "as"] | [_, "as", ""]) => Err("say where to: get NAME as PATH".to_owned()),
        ("get" | "why", names) => {
            let name: Vec<&str> = names.iter().copied().take_while(|word| *word != "as").collect();
            Err(format!("a name with spaces needs quotes: {command} {}", quoted(&name.join(" "))))
        }
        _ => Err(unknown(command)),
    }
}

fn unknown(command: &str) -> String {
    similar(command, COMMANDS.iter().map(|(name, ..)| *name))
}

/// What to say to a word that is none of the commands.
pub fn similar<'a>(command: &str, commands: impl Iterator<Item = &'a str>) -> String {
    let similar = commands
        .map(|name| (strsim::jaro_winkler(command, name), name))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    match similar {
        Some((_, name)) => format!("there is no command {command}; did you mean {name}?"),
        None => format!("there is no command {command}; help lists them"),
    }
}

/// A name as it must be typed to be read as one word.
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
    /// What it says, without quotes.
    pub text: String,
    /// Where it begins in the line, quote included, bytes.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// The quote, or the backslash, that is still open at the end of the line.
    pub open: Option<char>,
}

/// The words of a line, as far as it goes.
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
            // A backslash before a double quote, in double quotes, takes that quote along.
            if word.open == Some('"') && c == '\\' && escaped_in_quotes(line, at) != Some('\\') {
                chars.next();
            }
            chars.next();
        }
        words.push(word);
    }
    words
}

/// In double quotes a backslash stands for itself, except before a double quote.
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
        Ok(Command::Get(name.into(), path.map(PathBuf::from)))
    }

    #[test]
    fn lines_that_are_commands() {
        for (line, meaning) in [
            ("", Ok(Command::Nothing)),
            ("  \t ", Ok(Command::Nothing)),
            ("files", Ok(Command::Files)),
            ("  peers ", Ok(Command::Peers)),
            ("mine", Ok(Command::Mine)),
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
            ("why x", Ok(Command::Why("x".into()))),
        ] {
            assert_eq!(parse(line), meaning, "{line:?}");
        }
    }

    #[test]
    fn lines_that_are_not() {
        for (line, error) in [
            ("get", "say which file: get NAME"),
            ("why", "say which file: why NAME"),
            ("get ''", "a name is not empty"),
            ("get a as", "say where to: get NAME as PATH"),
            ("get a as ''", "say where to: get NAME as PATH"),
            ("get a b.txt", "a name with spaces needs quotes: get \"a b.txt\""),
            ("get a b as c", "a name with spaces needs quotes: get \"a b\""),
            ("why a b", "a name with spaces needs quotes: why \"a b\""),
            ("get 'a", "a quote is not closed"),
            ("get \"a", "a quote is not closed"),
            ("get a\\", "a quote is not closed"),
            ("files x", "files stands alone"),
            ("quit now", "quit stands alone"),
            ("file", "there is no command file; did you mean files?"),
            ("stauts", "there is no command stauts; did you mean status?"),
            ("ge x", "there is no command ge; did you mean get?"),
            ("xyzzy", "there is no command xyzzy; help lists them"),
        ] {
            assert_eq!(parse(line), Err(error.to_owned()), "{line:?}");
        }
    }

    #[test]
    fn every_command_is_known() {
        for (name, usage, _) in COMMANDS {
            assert!(usage.starts_with(name));
            assert!(parse(&usage.replace(" [as PATH]", "")).is_ok(), "{usage}");
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
            let line = format!("get {}", quoted(&name));
            let parsed = parse(&line);
            prop_assert_eq!(parsed, Ok(Command::Get(name, None)));
        }
    }
}
