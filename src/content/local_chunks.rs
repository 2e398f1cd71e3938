//! Parser of `local_chunks.txt`: the chunks of a set that a folder holds, and the file of each.
//!
//! Each line is `<number>,<file name>`, numbers counted from 1, in any order; the last line is `<number of
//! chunks>,LASTCHUNK`. Lines end in LF or CRLF; the last line end is optional. Spaces around number and
//! name, a byte order mark, and blank lines at the end are ignored. Numbers without a line are the chunks to
//! download. Anything else, also an empty line before the last, is an error that states the line.

use super::layout::ChunkIndex;
use super::limits;
use super::names::{FileName, NameError};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

/// Name of the file in a chunk folder.
pub const FILE: &str = "local_chunks.txt";
/// Marker in place of a file name in the last line.
pub const LAST: &str = "LASTCHUNK";

/// UTF-8 byte order mark, which some editors write at the start of a file.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// A malformed line and its fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct LineError {
    /// Line number, counted from 1.
    pub line: usize,
    /// The fault of the line.
    #[source]
    pub fault: Fault,
}

/// Fault of a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The line is not valid UTF-8.
    #[error("not UTF-8 text")]
    NotText,
    /// The line has no text, or only spaces.
    #[error("the line is empty")]
    Empty,
    /// The line is not `<number>,<file name>`.
    #[error("expected \"<number>,<file name>\", found {0:?}")]
    Form(String),
    /// The part before the comma is not a number of 1 or more.
    #[error("{0:?} is not a chunk number (1 or more)")]
    Number(String),
    /// The chunk number exceeds the number of chunks (second field).
    #[error("chunk {0} is above the number of chunks, {1}")]
    AboveLast(ChunkIndex, u32),
    /// The number of chunks exceeds [`limits::CHUNKS_MAX`].
    #[error("{0} chunks are more than {max}", max = limits::CHUNKS_MAX)]
    TooMany(u32),
    /// The chunk was listed in an earlier line (second field).
    #[error("chunk {0} is listed twice (first in line {1})")]
    Twice(ChunkIndex, usize),
    /// The file was listed in an earlier line (second field).
    #[error("the file {0:?} is listed twice (first in line {1})")]
    SameFile(String, usize),
    /// The name is not a plain file name in the folder.
    #[error("not a file in this folder: {0}")]
    Name(#[source] NameError),
    /// A line follows the `LASTCHUNK` line.
    #[error("a line after LASTCHUNK")]
    AfterLast,
    /// The `LASTCHUNK` line is missing.
    #[error(
        "the last line must be \"<number of chunks>,LASTCHUNK\"; for a folder without chunks this line alone is enough"
    )]
    NoLast,
}

/// Contents of a `local_chunks.txt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalChunks {
    /// Number of chunks of the set.
    pub count: u32,
    /// The chunks in the folder, and the file of each.
    pub files: BTreeMap<ChunkIndex, FileName>,
}

impl LocalChunks {
    /// Parses the bytes of a `local_chunks.txt`.
    ///
    /// # Errors
    /// The first malformed line.
    pub fn parse(bytes: &[u8]) -> Result<Self, LineError> {
        let mut parser = Parser::default();
        let bytes = without_mark(bytes);
        if bytes.trim_ascii().is_empty() {
            return Err(LineError { line: 1, fault: Fault::NoLast });
        }
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let mut line = 0;
        for text in bytes.split(|&byte| byte == b'\n') {
            line += 1;
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            parser.line(line, text).map_err(|fault| LineError { line, fault })?;
        }
        match parser.last {
            Some(count) => parser.finish(count),
            None => Err(LineError { line, fault: Fault::NoLast }),
        }
    }

    /// Line number, counted from 1, that lists a chunk, in bytes that [`parse`](Self::parse) accepted.
    pub fn line_of(bytes: &[u8], index: ChunkIndex) -> Option<usize> {
        let listed = |line: &[u8]| {
            let (number, name) = std::str::from_utf8(line).ok()?.split_once(',')?;
            (name.trim() != LAST).then(|| parse_number(number.trim()))?
        };
        without_mark(bytes)
            .split(|&byte| byte == b'\n')
            .position(|line| listed(line) == Some(index))
            .map(|at| at + 1)
    }

    /// Adds a line for each chunk to bytes that [`parse`](Self::parse) accepted, or changes the name in its line. All
    /// other bytes are kept. New lines look like the first line, and keep an ascending order.
    pub fn with_lines(bytes: &[u8], chunks: &BTreeMap<ChunkIndex, FileName>) -> Vec<u8> {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        let (mark, text) = match text.strip_prefix(BYTE_ORDER_MARK) {
            Some(rest) => (BYTE_ORDER_MARK, rest),
            None => ("", text),
        };
        let lines: Vec<Line<'_>> = text.split_inclusive('\n').map(Line::split).collect();
        let is_ascending = lines.iter().filter_map(Line::chunk).is_sorted();
        let listed: BTreeSet<ChunkIndex> = lines.iter().filter_map(Line::chunk).collect();
        let mut new: Vec<_> = chunks.iter().filter(|(index, _)| !listed.contains(index)).rev().collect();
        let gap = lines.first().map_or("", |line| line.gap);
        let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
        let mut edited = mark.to_owned();
        for line in &lines {
            // In descending order: the next one is the last.
            while let Some((index, name)) = new.last().filter(|(index, _)| match line.chunk() {
                Some(chunk) => is_ascending && **index < chunk,
                None => line.name == LAST,
            }) {
                let _ = write!(edited, "{index},{gap}{name}{end}");
                new.pop();
            }
            let name = line.chunk().and_then(|index| chunks.get(&index)).map_or(line.name, FileName::as_str);
            let _ = write!(edited, "{}{}{name}{}", line.number, line.gap, line.end);
        }
        edited.into_bytes()
    }

    /// Formats the file: chunks in ascending order, each line ended by LF.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for (index, name) in &self.files {
            let _ = writeln!(text, "{index},{name}");
        }
        let _ = writeln!(text, "{},{LAST}", self.count);
        text
    }
}

/// The bytes after a byte order mark.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK.as_bytes()).unwrap_or(bytes)
}

/// Parts of a line; together they are the whole line.
struct Line<'a> {
    /// The number and the comma.
    number: &'a str,
    /// Spaces before the name.
    gap: &'a str,
    name: &'a str,
    /// Spaces after the name, and the line end.
    end: &'a str,
}

impl<'a> Line<'a> {
    fn split(line: &'a str) -> Self {
        let (number, rest) = line.split_at(line.find(',').map_or(0, |comma| comma + 1));
        let (gap, rest) = rest.split_at(rest.len() - rest.trim_start().len());
        let (name, end) = rest.split_at(rest.trim_end().len());
        Self { number, gap, name, end }
    }

    /// The chunk that the line lists.
    fn chunk(&self) -> Option<ChunkIndex> {
        let number = self.number.strip_suffix(',').filter(|_| self.name != LAST)?;
        parse_number(number.trim())
    }
}

/// State of the parser between two lines.
#[derive(Default)]
struct Parser {
    lines: BTreeMap<ChunkIndex, (usize, FileName)>,
    names: HashMap<String, usize>,
    last: Option<u32>,
}

impl Parser {
    fn line(&mut self, line: usize, text: &[u8]) -> Result<(), Fault> {
        let text = std::str::from_utf8(text).map_err(|_| Fault::NotText)?;
        let is_blank = text.trim().is_empty();
        match self.last {
            Some(_) if is_blank => return Ok(()),
            Some(_) => return Err(Fault::AfterLast),
            None if is_blank => return Err(Fault::Empty),
            None => {}
        }
        let (number, name) = text.split_once(',').ok_or_else(|| Fault::Form(shorten(text)))?;
        let (number, name) = (number.trim(), name.trim());
        let index = parse_number(number).ok_or_else(|| Fault::Number(shorten(number)))?;
        if name == LAST {
            self.last = Some(chunk_count(index)?);
            return Ok(());
        }
        let name = FileName::new(name).map_err(Fault::Name)?;
        if let Some((first, _)) = self.lines.get(&index) {
            return Err(Fault::Twice(index, *first));
        }
        if let Some(first) = self.names.insert(name.as_str().to_owned(), line) {
            return Err(Fault::SameFile(name.into(), first));
        }
        self.lines.insert(index, (line, name));
        Ok(())
    }

    fn finish(self, count: u32) -> Result<LocalChunks, LineError> {
        if let Some((&index, &(line, _))) = self.lines.range(ChunkIndex(count)..).next() {
            return Err(LineError { line, fault: Fault::AboveLast(index, count) });
        }
        let files = self.lines.into_iter().map(|(index, (_, name))| (index, name));
        Ok(LocalChunks { count, files: files.collect() })
    }
}

fn chunk_count(last: ChunkIndex) -> Result<u32, Fault> {
    match last.0 + 1 {
        count if count > limits::CHUNKS_MAX => Err(Fault::TooMany(count)),
        count => Ok(count),
    }
}

/// Parses a chunk number that consists of digits only; `u32::from_str` would accept `+1`.
///
/// The index of a number is below `u32::MAX`, so that 1 can be added to it without overflow.
fn parse_number(text: &str) -> Option<ChunkIndex> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().and_then(ChunkIndex::from_number)
}

/// The first 60 characters of untrusted text, for an error message.
fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<LocalChunks, LineError> {
        LocalChunks::parse(text.as_bytes())
    }

    fn fault(text: &str) -> (usize, Fault) {
        let error = parse(text).expect_err(text);
        (error.line, error.fault)
    }

    #[test]
    fn spaces_line_ends_and_order_do_not_matter() {
        let expected = parse("1,chunk_1\n3,chunk_3\n3,LASTCHUNK\n").unwrap();
        assert_eq!(expected.count, 3);
        assert_eq!(expected.files.len(), 2);
        for text in [
            "1,chunk_1\n3,chunk_3\n3,LASTCHUNK",
            "1, chunk_1\n3, chunk_3\n3, LASTCHUNK\n",
            "1,chunk_1\r\n3,chunk_3\r\n3,LASTCHUNK\r\n",
            "1, chunk_1\r\n3, chunk_3\r\n3, LASTCHUNK",
            "3,chunk_3\n1,chunk_1\n3,LASTCHUNK\n",
            " 1 ,  chunk_1 \n3,chunk_3\n3,LASTCHUNK\n",
            "\u{feff}1,chunk_1\n3,chunk_3\n3,LASTCHUNK\n\n \r\n",
        ] {
            assert_eq!(parse(text).as_ref(), Ok(&expected), "{text:?}");
        }
        assert_eq!(parse("5,LASTCHUNK").unwrap().files.len(), 0);
        let comma = parse("1,a,b c.txt\n1,LASTCHUNK").unwrap();
        assert_eq!(comma.files[&ChunkIndex(0)].as_str(), "a,b c.txt");
    }

    #[test]
    fn each_fault_states_its_line() {
        let index = ChunkIndex;
        assert_eq!(fault(""), (1, Fault::NoLast));
        assert_eq!(fault("\n\n"), (1, Fault::NoLast));
        assert_eq!(fault("1,a\n\n2,LASTCHUNK"), (2, Fault::Empty));
        assert_eq!(fault("1,a\n1,LASTCHUNK\n\n2,b"), (4, Fault::AfterLast));
        assert_eq!(fault("1,a\n2,b"), (2, Fault::NoLast));
        assert_eq!(fault("1 a\n1,LASTCHUNK"), (1, Fault::Form("1 a".into())));
        assert_eq!(fault("x,a\n1,LASTCHUNK"), (1, Fault::Number("x".into())));
        assert_eq!(fault("0,a\n1,LASTCHUNK"), (1, Fault::Number("0".into())));
        assert_eq!(fault("+1,a\n1,LASTCHUNK"), (1, Fault::Number("+1".into())));
        assert_eq!(fault("-1,a\n1,LASTCHUNK"), (1, Fault::Number("-1".into())));
        assert_eq!(fault("0,LASTCHUNK"), (1, Fault::Number("0".into())));
        assert_eq!(fault("1,a\n1,b\n2,LASTCHUNK"), (2, Fault::Twice(index(0), 1)));
        assert_eq!(fault("1,a\n2,a\n2,LASTCHUNK"), (2, Fault::SameFile("a".into(), 1)));
        assert_eq!(fault("1,a\n4,b\n3,LASTCHUNK"), (2, Fault::AboveLast(index(3), 3)));
        assert_eq!(fault("1,LASTCHUNK\n1,a"), (2, Fault::AfterLast));
        assert!(matches!(fault("1,a\n2,../x\n2,LASTCHUNK"), (2, Fault::Name(_))));
        assert!(matches!(fault("1,\n2,LASTCHUNK"), (1, Fault::Name(NameError::Empty))));
        assert!(matches!(fault("4000000000,LASTCHUNK"), (1, Fault::TooMany(_))));
        assert!(matches!(fault("4294967295,LASTCHUNK"), (1, Fault::TooMany(_))));
        assert!(matches!(fault("4294967296,LASTCHUNK"), (1, Fault::Number(_))));
        assert_eq!(LocalChunks::parse(b"1,\xff\n").unwrap_err().fault, Fault::NotText);
    }

    #[test]
    fn added_lines_keep_all_other_bytes() {
        let edit = |text: &str, chunks: &[(u32, &str)]| {
            assert!(parse(text).is_ok(), "{text:?}");
            let chunks = chunks.iter().map(|(n, name)| (ChunkIndex(n - 1), FileName::new(*name).unwrap()));
            String::from_utf8(LocalChunks::with_lines(text.as_bytes(), &chunks.collect())).unwrap()
        };
        for (text, chunks, expected) in [
            ("1, a\n3, c\n3, LASTCHUNK", &[(2, "b")][..], "1, a\n2, b\n3, c\n3, LASTCHUNK"),
            ("3,c\r\n1,a\r\n3,LASTCHUNK\r\n", &[(2, "b")], "3,c\r\n1,a\r\n2,b\r\n3,LASTCHUNK\r\n"),
            ("\u{feff}2,b\n3,LASTCHUNK\n\n", &[(1, "a"), (3, "c")], "\u{feff}1,a\n2,b\n3,c\n3,LASTCHUNK\n\n"),
            (" 01 ,  a \n2,LASTCHUNK", &[(1, "x"), (2, "b")], " 01 ,  x \n2,  b\n2,LASTCHUNK"),
            ("1,a,b\n1,LASTCHUNK", &[(1, "c, d")], "1,c, d\n1,LASTCHUNK"),
            ("3,LASTCHUNK", &[(1, "a")], "1,a\n3,LASTCHUNK"),
        ] {
            assert_eq!(edit(text, chunks), expected);
        }
    }

    #[test]
    fn line_of_finds_the_line_of_a_listed_chunk() {
        let text = b" 7 , x\r\n2,b\n10,LASTCHUNK";
        for (number, line) in [(7, Some(1)), (2, Some(2)), (10, None), (1, None)] {
            assert_eq!(LocalChunks::line_of(text, ChunkIndex(number - 1)), line, "{number}");
        }
    }

    proptest! {
        #[test]
        fn rendered_files_parse_to_the_same_chunks(numbers in prop::collection::btree_set(1u32..200, 0..50)) {
            let file = |number| FileName::new(format!("chunk {number}")).unwrap();
            let chunks = LocalChunks {
                count: 200,
                files: numbers.iter().map(|&n| (ChunkIndex(n - 1), file(n))).collect(),
            };
            prop_assert_eq!(parse(&chunks.render()), Ok(chunks.clone()));
            prop_assert_eq!(parse(&chunks.render().replace('\n', "\r\n")), Ok(chunks));
        }

        #[test]
        fn added_lines_are_parsed_with_the_others(
            numbers in prop::collection::btree_set(1u32..99, 0..9),
            added in prop::collection::btree_set(1u32..99, 0..9),
        ) {
            let named = |numbers: &BTreeSet<u32>, prefix: &str| -> BTreeMap<_, _> {
                let name = |n| FileName::new(format!("{prefix} {n}")).unwrap();
                numbers.iter().map(|&n| (ChunkIndex(n - 1), name(n))).collect()
            };
            let mut chunks = LocalChunks { count: 99, files: named(&numbers, "old") };
            let added = named(&added, "new");
            let edited = LocalChunks::with_lines(chunks.render().as_bytes(), &added);
            chunks.files.extend(added);
            prop_assert_eq!(LocalChunks::parse(&edited), Ok(chunks));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, text in "[0-9 ,aLASTCHUNK\r\n./]*") {
            let _ = LocalChunks::parse(&bytes);
            let _ = parse(&text);
        }
    }
}
