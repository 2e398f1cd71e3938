//! Arguments that name files to download, and the files that they select from a list.
//!
//! An argument is a ticket, else an exact name, else an id or its first digits, else a pattern over the listed files. Pure.

use crate::content::names::NameError;
use crate::content::{FileName, IdPrefix};
use crate::protocol::tracker::{FileSummary, FoundFile};
use crate::tracker_client::lookup::Query;
use crate::tracker_client::ticket::{TICKET_PREFIX, Ticket, TicketError};
use glob::MatchOptions;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// How patterns are compared: as in a shell, a name that begins with a dot needs a pattern that does.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: false,
    require_literal_leading_dot: true,
};

/// An argument that names files to download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The file of a ticket.
    Ticket(Arc<Ticket>),
    /// A file by its name or id. The name may turn out to be the first digits of an id.
    File(Query),
    /// All listed files that match a pattern.
    Pattern(Pattern),
    /// All listed files.
    All,
}

/// The reason that an argument names no file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// An invalid ticket.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// An invalid name of a file.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A pattern that matches no name.
    #[error("the pattern {0:?} contains '/', which no file name contains")]
    Pattern(String),
}

/// A pattern over the names of listed files: `*`, `?` and `[...]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    /// The text as the name of a file, if it may be one.
    name: Option<FileName>,
    glob: glob::Pattern,
}

/// A file to download.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Name, id, or both.
    pub query: Query,
    /// The ticket that names the file, if any.
    pub ticket: Option<Arc<Ticket>>,
    /// Size of the file, bytes, if it is known.
    pub size: Option<u64>,
}

impl FromStr for Item {
    type Err = ItemError;

    fn from_str(text: &str) -> Result<Self, ItemError> {
        if text.starts_with(TICKET_PREFIX) {
            return Ok(Item::Ticket(Arc::new(text.parse()?)));
        }
        // A whole id pins the content: no file of this name replaces it.
        if let Some(id) = text.parse::<IdPrefix>().ok().and_then(|prefix| prefix.whole()) {
            return Ok(Item::File(Query { id: Some(id), ..Query::default() }));
        }
        let glob = Some(text).filter(|text| text.contains(['*', '?', '['])).and_then(compile);
        match glob {
            Some(_) if text.contains('/') => Err(ItemError::Pattern(text.to_owned())),
            Some(glob) => {
                Ok(Item::Pattern(Pattern { text: text.to_owned(), name: FileName::new(text).ok(), glob }))
            }
            None => Ok(Item::File(Query::of_name(FileName::new(text)?))),
        }
    }
}

/// Compiles a pattern; `None` if the text is none, for example because a bracket is not closed.
fn compile(text: &str) -> Option<glob::Pattern> {
    let mut text = text.to_owned();
    // Two asterisks have a special meaning in paths only.
    while text.contains("**") {
        text = text.replace("**", "*");
    }
    glob::Pattern::new(&text).ok()
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::Ticket(ticket) => ticket.name.fmt(f),
            Item::File(Query { name: Some(name), .. }) => name.fmt(f),
            Item::Pattern(Pattern { text, .. }) => f.write_str(text),
            Item::File(Query { id: Some(id), .. }) => id.fmt(f),
            Item::File(Query { prefix: Some(prefix), .. }) => prefix.fmt(f),
            Item::File(_) | Item::All => f.write_str("all files"),
        }
    }
}

impl Item {
    /// Whether the argument may name several files.
    pub fn may_name_several(&self) -> bool {
        matches!(self, Item::Pattern(_) | Item::All)
    }

    /// The only file that the argument names; `None` if a list of files is needed.
    pub fn only(&self) -> Option<Wanted> {
        match self {
            Item::Ticket(ticket) => Some(Wanted {
                query: Query { id: Some(ticket.id), ..Query::default() },
                ticket: Some(ticket.clone()),
                size: Some(ticket.size),
            }),
            Item::File(query) => Some(Wanted { query: query.clone(), ..Wanted::default() }),
            Item::Pattern(_) | Item::All => None,
        }
    }

    /// The files of a list that the argument selects. All files leave out names that begin with a dot.
    pub fn select(&self, listed: &[FoundFile]) -> Vec<Wanted> {
        let is_selected = |file: &FileSummary| match self {
            Item::Pattern(pattern) => pattern.glob.matches_with(file.name.as_str(), OPTIONS),
            Item::All => !file.name.as_str().starts_with('.'),
            Item::File(query) => query.is_answered_by(file),
            Item::Ticket(ticket) => ticket.id == file.id,
        };
        if let Item::Pattern(Pattern { name: Some(name), .. }) = self
            && listed.iter().any(|found| found.file.name == *name)
        {
            return vec![Wanted { query: Query::of_name(name.clone()), ..Wanted::default() }];
        }
        let mut by_name: BTreeMap<&FileName, Vec<&FileSummary>> = BTreeMap::new();
        for found in listed.iter().filter(|found| is_selected(&found.file)) {
            let files = by_name.entry(&found.file.name).or_default();
            if files.iter().all(|file| file.id != found.file.id) {
                files.push(&found.file);
            }
        }
        by_name.into_iter().map(|(name, files)| wanted(name, &files)).collect()
    }
}

/// A listed file. With several ids for one name the lookup reports them, so that the user chooses. A name that begins with
/// a dot was not given by the user.
fn wanted(name: &FileName, files: &[&FileSummary]) -> Wanted {
    match files {
        [file] => {
            let name = Some(name.clone()).filter(|name| !name.as_str().starts_with('.'));
            let query = Query { name, id: Some(file.id), prefix: None };
            Wanted { query, ticket: None, size: Some(file.size) }
        }
        _ => Wanted { query: Query::of_name(name.clone()), ..Wanted::default() },
    }
}

/// The arguments without repetitions.
pub fn without_repetitions(items: Vec<Item>) -> Vec<Item> {
    let mut kept: Vec<Item> = Vec::new();
    for item in items {
        let is_same = |other: &Item| match (other, &item) {
            (Item::Ticket(one), Item::Ticket(other)) => one.id == other.id && one.name == other.name,
            (one, other) => one == other,
        };
        if !kept.iter().any(is_same) {
            kept.push(item);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::FileId;

    const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn listed(files: &[(u8, &str)]) -> Vec<FoundFile> {
        let found = files.iter().map(|(id, name)| {
            let name = FileName::new(*name).unwrap();
            let file = FileSummary { id: FileId([*id; 32]), name, size: 9, chunks: 1 };
            FoundFile { file, holders: 1, complete: 1, whole: vec![], partial: vec![], md5: None }
        });
        found.collect()
    }

    fn item(text: &str) -> Item {
        text.parse().unwrap()
    }

    #[track_caller]
    fn selects(text: &str, files: &[(u8, &str)], names: &[&str]) {
        let item = if text.is_empty() { Item::All } else { item(text) };
        let selected = item.select(&listed(files));
        let selected: Vec<String> = selected
            .iter()
            .map(|wanted| wanted.query.name.as_ref().map_or("?".to_owned(), ToString::to_string))
            .collect();
        assert_eq!(selected, names, "{text}");
    }

    #[test]
    fn an_argument_is_a_ticket_a_whole_id_a_name_or_a_pattern() {
        let ticket = item(&format!("shoal:{ID}/dn=a.bin/xl=7"));
        let only = ticket.only().unwrap();
        assert_eq!((only.query.id.unwrap().to_string(), only.size), (ID.to_owned(), Some(7)));
        assert_eq!((ticket.to_string(), ticket.may_name_several()), ("a.bin".to_owned(), false));
        assert_eq!(item(ID), Item::File(Query { id: ID.parse().ok(), ..Query::default() }));
        for name in ["a.iso", "00112233", "a[1", "]", "a b", "a*[", "a:b", "CON.txt"] {
            assert_eq!(item(name), Item::File(Query::of_name(FileName::new(name).unwrap())), "{name}");
        }
        for pattern in ["*.iso", "a?", "[ab]", "**"] {
            assert!(matches!(item(pattern), Item::Pattern(_)), "{pattern}");
            assert!(item(pattern).only().is_none() && item(pattern).may_name_several());
        }
    }

    #[test]
    fn other_arguments_are_refused_with_the_reason() {
        for (text, reason) in [
            ("shoal:1", "the ticket has no id of 64 hexadecimal digits"),
            ("../*", "the pattern \"../*\" contains '/', which no file name contains"),
            ("../a", "the name \"../a\" contains '/'"),
            ("", "the name is empty"),
        ] {
            assert_eq!(text.parse::<Item>().unwrap_err().to_string(), reason);
        }
    }

    #[test]
    fn a_pattern_selects_by_name_and_the_exact_name_comes_first() {
        let files = [(1, "a.iso"), (2, "b.iso"), (3, "b.txt"), (4, "[ab].iso"), (5, ".c.iso")];
        selects("*.iso", &files, &["[ab].iso", "a.iso", "b.iso"]);
        selects("[ab].iso", &files, &["[ab].iso"]);
        selects("[ab].iso", &files[..3], &["a.iso", "b.iso"]);
        selects("[!a].*", &files[..3], &["b.iso", "b.txt"]);
        selects("?.t**t", &files, &["b.txt"]);
        selects("*.ISO", &files, &[]);
        selects("", &files, &["[ab].iso", "a.iso", "b.iso", "b.txt"]);
    }

    #[test]
    fn a_name_with_a_dot_at_its_begin_is_not_taken_from_a_peer() {
        let selected = item(".c*").select(&listed(&[(5, ".c.iso")]));
        assert_eq!(selected[0].query, Query { id: Some(FileId([5; 32])), ..Query::default() });
    }

    #[test]
    fn several_ids_for_one_name_are_left_to_the_lookup() {
        let selected = item("a*").select(&listed(&[(1, "a"), (2, "a"), (3, "ab"), (3, "ab")]));
        let queries: Vec<(Option<FileId>, Option<u64>)> =
            selected.iter().map(|wanted| (wanted.query.id, wanted.size)).collect();
        assert_eq!(queries, [(None, None), (Some(FileId([3; 32])), Some(9))]);
    }

    #[test]
    fn repeated_arguments_are_one() {
        let ticket = format!("shoal:{ID}/dn=a.bin/xl=7");
        let other = format!("{ticket}/pe=10.0.0.5:7000");
        let items = ["a", "b", "a", "*", "*", &ticket, &other].map(item).to_vec();
        let texts: Vec<String> = without_repetitions(items).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["a", "b", "*", "a.bin"]);
    }
}
