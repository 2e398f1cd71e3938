//! Plain text tables: each column as wide as its widest cell, numbers aligned to the right, two spaces between columns.
//!
//! Pure. Invariants: one row is one line, because control characters in cells are escaped; columns with wide characters
//! are aligned.

use super::line::escaped;
use crate::content::FileId;
pub use crate::content::fmt::size;
use crate::protocol::tracker::FoundFile;
use unicode_width::UnicodeWidthStr;

/// Maximum length of a cell, bytes; the longest legal file name fits, also with every character escaped.
const CELL_MAX: usize = 2_048;

/// Alignment of the cells of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// For text.
    Left,
    /// For numbers.
    Right,
}

/// Formats a table of `N` columns: the line of headings, then a line for each row.
pub fn table<const N: usize>(columns: [(&str, Side); N], rows: &[[String; N]]) -> String {
    let headings = columns.map(|(heading, _)| heading.to_owned());
    let shown: Vec<[String; N]> = std::iter::once(&headings)
        .chain(rows)
        .map(|row| std::array::from_fn(|column| escaped(&row[column], CELL_MAX)))
        .collect();
    let widths: [usize; N] =
        std::array::from_fn(|column| shown.iter().map(|row| row[column].width()).max().unwrap_or_default());
    let mut text = String::new();
    for row in &shown {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let padding = " ".repeat(widths[column] - cell.width());
            match columns[column].1 {
                Side::Left => line.extend([cell, padding.as_str()]),
                Side::Right => line.extend([padding.as_str(), cell]),
            }
            line.push_str("  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A share in percent. Only a complete share is 100 %, and only an empty share is 0 %.
pub fn percent(done: u64, total: u64) -> String {
    match done {
        _ if done >= total => "100 %".to_owned(),
        0 => "0 %".to_owned(),
        _ => format!("{} %", (u128::from(done) * 100 / u128::from(total)).clamp(1, 99)),
    }
}

/// The first digits of an id, or all of them.
pub fn id_text(id: FileId, long: bool) -> String {
    if long { id.to_string() } else { id.short() }
}

/// The table of offered files by name. Different files of one name are in adjacent rows, ordered by id. `long` shows all
/// digits of the ids.
pub fn files(files: &[FoundFile], long: bool) -> String {
    use Side::{Left, Right};
    let mut files: Vec<&FoundFile> = files.iter().collect();
    files.sort_by_key(|found| (&found.file.name, found.file.id));
    let row = |found: &&FoundFile| {
        let file = &found.file;
        let id = id_text(file.id, long);
        let name = file.name.to_string();
        [
            name,
            size(file.size),
            file.chunks.to_string(),
            found.complete.to_string(),
            found.partial_count().to_string(),
            id,
        ]
    };
    let rows: Vec<_> = files.iter().map(row).collect();
    let columns = [
        ("NAME", Left),
        ("SIZE", Right),
        ("CHUNKS", Right),
        ("WHOLE", Right),
        ("PARTIAL", Right),
        ("ID", Left),
    ];
    table(columns, &rows)
}

#[cfg(test)]
pub(in crate::cli) mod tests {
    use super::*;
    use crate::content::{FileId, FileName};
    use crate::protocol::tracker::FileSummary;
    use proptest::prelude::*;
    use std::net::SocketAddr;

    pub(crate) fn found(id: u8, name: &str, holders: u32, whole: u16, partial: u16) -> FoundFile {
        let addresses = |count: u16, from: u16| {
            (0..count).map(|port| SocketAddr::from(([10, 0, 0, 1], from + port)).into()).collect()
        };
        let name = FileName::new(name).unwrap();
        FoundFile {
            file: FileSummary { id: FileId([id; 32]), name, size: 1 << 20, chunks: 2 },
            holders,
            complete: whole.into(),
            whole: addresses(whole, 1),
            partial: addresses(partial, 1_000),
            md5: None,
        }
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["é漢".to_owned(), "7".to_owned()], ["a\nb\u{1b}".to_owned(), "1234".to_owned()]];
        let text = table([("NAME", Side::Left), ("N", Side::Right)], &rows);
        assert_eq!(text, "NAME           N\né漢            7\na\\nb\\u{1b}  1234\n");
    }

    #[test]
    fn a_long_table_shows_all_digits_of_each_id() {
        let all = [found(0xab, "f", 1, 1, 0)];
        assert!(files(&all, true).trim_end().ends_with(&format!(" {}", "ab".repeat(32))));
        assert!(files(&all, false).trim_end().ends_with(" abababab"));
    }

    #[test]
    fn different_files_of_one_name_are_ordered_by_id() {
        let text = files(&[found(2, "b", 1, 1, 0), found(9, "a x", 3, 2, 1), found(1, "b", 1, 0, 1)], false);
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(
            rows,
            [
                "NAME     SIZE  CHUNKS  WHOLE  PARTIAL  ID",
                "a x   1.0 MiB       2      2        1  09090909",
                "b     1.0 MiB       2      0        1  01010101",
                "b     1.0 MiB       2      1        0  02020202",
            ]
        );
    }

    #[test]
    fn only_complete_shares_are_100_percent() {
        for (done, total, text) in [
            (0, 0, "100 %"),
            (0, 9, "0 %"),
            (1, u64::MAX, "1 %"),
            (u64::MAX - 1, u64::MAX, "99 %"),
            (9, 9, "100 %"),
        ] {
            assert_eq!(percent(done, total), text);
        }
    }

    proptest! {
        #[test]
        fn one_row_is_one_line(cells in prop::collection::vec(".*", 0..8)) {
            let rows: Vec<[String; 1]> = cells.into_iter().map(|cell| [cell]).collect();
            prop_assert_eq!(table([("X", Side::Left)], &rows).lines().count(), rows.len() + 1);
        }
    }
}
