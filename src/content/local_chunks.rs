//! `local_chunks.txt`: which chunks of a set a folder holds, and in which files.
//!
//! One `<number>,<file name>` a line, numbers counted from 1, in any order; the last line is
//! `<number of chunks>,LASTCHUNK`. Lines end in LF or CRLF, the last one with or without; spaces around
//! number and name do not count. Anything else is an error that names the line. A number may be
//! absent (that chunk is what the folder wants), but a line may not: an empty line is a gap, and refused.

use super::layout::ChunkIndex;
use super::limits;
use super::names::{FileName, NameError};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

/// The name of the file itself.
pub const FILE: &str = "local_chunks.txt";
/// What stands for a file name in the last line.
pub const LAST: &str = "LASTCHUNK";

/// What is wrong, and in which line (counted from 1).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct LineError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What can be wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The file is not text.
    #[error("not UTF-8 text")]
    NotText,
    /// A line without anything on it.
    #[error("the line is empty")]
    Empty,
    /// Not `<number>,<file name>`.
    #[error("expected \"<number>,<file name>\", found {0:?}")]
    Form(String),
    /// The part before the comma is no number from 1 on.
    #[error("{0:?} is not a chunk number (1 or more)")]
    Number(String),
    /// A number above the number of chunks.
    #[error("chunk {0} is above the number of chunks, {1}")]
    AboveLast(ChunkIndex, u32),
    /// More chunks than a set may have.
    #[error("{0} chunks are more than {max}", max = limits::CHUNKS_MAX)]
    TooMany(u32),
    /// A number that an earlier line has.
    #[error("chunk {0} is listed twice (first in line {1})")]
    Twice(ChunkIndex, usize),
    /// A file that an earlier line has.
    #[error("the file {0:?} is listed twice (first in line {1})")]
    SameFile(String, usize),
    /// A name that is not a plain file name in the folder.
    #[error("not a file in this folder: {0}")]
    Name(NameError),
    /// Something after the last line.
    #[error("a line after LASTCHUNK")]
    AfterLast,
    /// No last line.
    #[error("the last line must be \"<number of chunks>,LASTCHUNK\"")]
    NoLast,
}

/// What a folder says that it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalChunks {
    /// How many chunks the set has.
    pub count: u32,
    /// The chunks that are there, and the file that each is in.
    pub files: BTreeMap<ChunkIndex, FileName>,
}

impl LocalChunks {
    /// Reads the bytes of a `local_chunks.txt`.
    ///
    /// # Errors
    /// The first line that is not as it should be.
    pub fn parse(bytes: &[u8]) -> Result<Self, LineError> {
        let mut reader = Reader::default();
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let mut line = 0;
        for text in bytes.split(|&byte| byte == b'\n') {
            line += 1;
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            reader.line(line, text).map_err(|fault| LineError { line, fault })?;
        }
        match reader.last {
            Some(count) => reader.finish(count),
            None => Err(LineError { line, fault: Fault::NoLast }),
        }
    }

    /// The line (counted from 1) that lists a chunk, in bytes that [`parse`](Self::parse) took.
    pub fn line_of(bytes: &[u8], index: ChunkIndex) -> Option<usize> {
        let listed = |line: &[u8]| {
            let (number, name) = std::str::from_utf8(line).ok()?.split_once(',')?;
            (name.trim() != LAST).then(|| parse_number(number.trim()))?
        };
        bytes.split(|&byte| byte == b'\n').position(|line| listed(line) == Some(index)).map(|at| at + 1)
    }

    /// The file as text: chunks in order, LF, a newline at the end.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for (index, name) in &self.files {
            let _ = writeln!(text, "{index},{name}");
        }
        let _ = writeln!(text, "{},{LAST}", self.count);
        text
    }
}

#[derive(Default)]
struct Reader {
    lines: BTreeMap<ChunkIndex, (usize, FileName)>,
    names: HashMap<String, usize>,
    last: Option<u32>,
}

impl Reader {
    fn line(&mut self, line: usize, text: &[u8]) -> Result<(), Fault> {
        let text = std::str::from_utf8(text).map_err(|_| Fault::NotText)?;
        if self.last.is_some() {
            return Err(Fault::AfterLast);
        }
        if text.trim().is_empty() {
            return Err(Fault::Empty);
        }
        let (number, name) = text.split_once(',').ok_or_else(|| Fault::Form(shorten(text)))?;
        let (number, name) = (number.trim(), name.trim());
        let index = parse_number(number).ok_or_else(|| Fault::Number(shorten(number)))?;
        if name == LAST {
            self.last = Some(count(index)?);
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

fn count(last: ChunkIndex) -> Result<u32, Fault> {
    match last.0 + 1 {
        count if count > limits::CHUNKS_MAX => Err(Fault::TooMany(count)),
        count => Ok(count),
    }
}

/// Digits alone: `u32::from_str` would also take `+1`. The largest `u32` is refused, so that a number
/// always fits behind an index.
fn parse_number(text: &str) -> Option<ChunkIndex> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().and_then(ChunkIndex::from_number)
}

/// A foreign text for an error message: its beginning is enough.
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
    fn the_forms_seen_in_the_wild() {
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
        ] {
            assert_eq!(parse(text).as_ref(), Ok(&expected), "{text:?}");
        }
        assert_eq!(parse("5,LASTCHUNK").unwrap().files.len(), 0);
        let comma = parse("1,a,b c.txt\n1,LASTCHUNK").unwrap();
        assert_eq!(comma.files[&ChunkIndex(0)].as_str(), "a,b c.txt");
    }

    #[test]
    fn each_fault_names_its_line() {
        let index = ChunkIndex;
        assert_eq!(fault(""), (1, Fault::Empty));
        assert_eq!(fault("1,a\n\n2,LASTCHUNK"), (2, Fault::Empty));
        assert_eq!(fault("1,a\n1,LASTCHUNK\n\n"), (3, Fault::AfterLast));
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
    fn a_listed_chunk_has_a_line() {
        let text = b" 7 , x\r\n2,b\n10,LASTCHUNK";
        for (number, line) in [(7, Some(1)), (2, Some(2)), (10, None), (1, None)] {
            assert_eq!(LocalChunks::line_of(text, ChunkIndex(number - 1)), line, "{number}");
        }
    }

    proptest! {
        #[test]
        fn what_is_rendered_is_read_back(numbers in prop::collection::btree_set(1u32..200, 0..50)) {
            let file = |number| FileName::new(format!("chunk {number}")).unwrap();
            let chunks = LocalChunks {
                count: 200,
                files: numbers.iter().map(|&n| (ChunkIndex(n - 1), file(n))).collect(),
            };
            prop_assert_eq!(parse(&chunks.render()), Ok(chunks.clone()));
            prop_assert_eq!(parse(&chunks.render().replace('\n', "\r\n")), Ok(chunks));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, text in "[0-9 ,aLASTCHUNK\r\n./]*") {
            let _ = LocalChunks::parse(&bytes);
            let _ = parse(&text);
        }
    }
}
