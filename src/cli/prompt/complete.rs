//! Tab completion of commands and file names.
//!
//! Pure. Invariant: [`split`](super::command::split) reads a completion as the name that it completes.

use super::command::{COMMANDS, quoted, words};
use std::collections::BTreeSet;

/// A completion of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The text in the list of completions, if there are several.
    pub shown: String,
    /// The text that replaces the word, quoted if necessary.
    pub typed: String,
}

/// Names for Tab completion.
#[derive(Debug, Default)]
pub struct Names {
    /// Names of files.
    pub files: BTreeSet<String>,
    /// Names of running downloads.
    pub downloads: BTreeSet<String>,
    /// Names of peers.
    pub peers: BTreeSet<String>,
}

/// Returns the start of the word before the cursor, in bytes, and its completions.
pub fn complete(line: &str, cursor: usize, names: &Names) -> (usize, Vec<Offer>) {
    let before = line.get(..cursor).unwrap_or(line);
    let mut words = words(before);
    // After a space a new word begins, unless the space is in quotes.
    let word = words.pop_if(|word| word.end == before.len());
    let (start, begun) = word.map_or((before.len(), String::new()), |word| (word.start, word.text));
    let so_far: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    let plain = |word: &str| word.to_owned();
    let named = |names: &BTreeSet<String>| offer(names.iter().map(String::as_str), &begun, quoted);
    let offers = match so_far[..] {
        [] => offer(COMMANDS.iter().map(|(name, ..)| *name), &begun, plain),
        ["get", _, "as", ..] => Vec::new(),
        ["get", _] => {
            let mut offers = offer(["as"].into_iter(), &begun, plain);
            offers.extend(named(&names.files));
            offers
        }
        ["get", ..] | ["why"] => named(&names.files),
        ["cancel", ..] => named(&names.downloads),
        ["peers"] => named(&names.peers),
        ["files"] => offer(["--long"].into_iter(), &begun, plain),
        _ => Vec::new(),
    };
    (start, offers)
}

/// Returns the candidates that begin with `begun`.
pub fn offer<'a>(
    candidates: impl Iterator<Item = &'a str>,
    begun: &str,
    typed: impl Fn(&str) -> String,
) -> Vec<Offer> {
    let fits = candidates.filter(|candidate| candidate.starts_with(begun));
    fits.map(|name| Offer { shown: name.to_owned(), typed: format!("{} ", typed(name)) }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::command::split;
    use super::*;
    use proptest::prelude::*;

    fn names() -> Names {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Names {
            files: set(&["a b.txt", "a c.txt", "it's", "plain.txt", "é.txt"]),
            downloads: set(&["a b.txt"]),
            peers: set(&["ann", "bob"]),
        }
    }

    fn typed(line: &str) -> (usize, Vec<String>) {
        let (start, offers) = complete(line, line.len(), &names());
        (start, offers.into_iter().map(|offer| offer.typed).collect())
    }

    #[test]
    fn commands_and_names_are_completed() {
        for (line, start, wanted) in [
            ("g", 0, &["get "][..]),
            ("  pe", 2, &["peers "]),
            ("x", 0, &[]),
            ("get pl", 4, &["plain.txt "]),
            ("why pl", 4, &["plain.txt "]),
            ("get a", 4, &["\"a b.txt\" ", "\"a c.txt\" "]),
            ("get \"a b", 4, &["\"a b.txt\" "]),
            ("get 'a b", 4, &["\"a b.txt\" "]),
            ("get a\\ b", 4, &["\"a b.txt\" "]),
            ("get it", 4, &["\"it's\" "]),
            ("get é", 4, &["é.txt "]),
            ("get plain.txt it", 14, &["\"it's\" "]),
            ("get plain.txt a", 14, &["as ", "\"a b.txt\" ", "\"a c.txt\" "]),
            ("get plain.txt x é", 16, &["é.txt "]),
            ("get plain.txt as ", 17, &[]),
            ("cancel ", 7, &["\"a b.txt\" "]),
            ("peers ", 6, &["ann ", "bob "]),
            ("files ", 6, &["--long "]),
            ("mine ", 5, &[]),
        ] {
            assert_eq!(
                typed(line),
                (start, wanted.iter().map(|&word| word.to_owned()).collect()),
                "{line:?}"
            );
        }
        assert_eq!(typed("").1.len(), COMMANDS.len());
        assert_eq!(typed("get ").1.len(), names().files.len());
    }

    #[test]
    fn word_before_the_cursor_is_completed() {
        assert_eq!(complete("get pl as x", 6, &names()).1[0].typed, "plain.txt ");
        assert_eq!(complete("é", 1, &names()).1, []);
    }

    proptest! {
        #[test]
        fn nothing_panics(line in ".*|(get|why) [a-z'\"\\\\ ]{0,20}", cursor in 0usize..40) {
            let (start, _) = complete(&line, cursor, &names());
            prop_assert!(start <= line.len());
        }

        #[test]
        fn an_offer_is_read_as_its_name(name in "[a-z '\"\\\\]{1,9}") {
            let names = Names { files: BTreeSet::from([name.clone()]), ..Names::default() };
            let (_, offers) = complete("get ", 4, &names);
            prop_assert_eq!(split(&format!("get {}", offers[0].typed)), Ok(vec!["get".to_owned(), name]));
        }
    }
}
