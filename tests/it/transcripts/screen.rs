//! The lines that a terminal shows, kept without a limit.

/// Lines and cursor of a terminal that is fed with the output of programs.
#[derive(Default)]
pub struct Screen {
    rows: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// Number of columns, behind the last of which the next character begins another line; without a limit if it is 0.
    columns: usize,
    /// Bytes of a character or an escape sequence that has not ended.
    pending: Vec<u8>,
}

impl Screen {
    /// A terminal with this number of columns.
    pub fn with_columns(columns: usize) -> Self {
        Self { columns, ..Self::default() }
    }

    /// Shows output.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.pending.extend(bytes);
        let pending = std::mem::take(&mut self.pending);
        let mut rest = &pending[..];
        while let Some(length) = self.consume(rest) {
            rest = &rest[length..];
        }
        self.pending = rest.to_vec();
    }

    /// Number of the line that the cursor is in.
    pub fn cursor_row(&self) -> usize {
        self.row
    }

    /// The text of the line that the cursor is in.
    pub fn current(&self) -> String {
        self.line(self.row)
    }

    /// All lines.
    pub fn lines(&self) -> Vec<String> {
        (0..self.rows.len()).map(|row| self.line(row)).collect()
    }

    fn line(&self, row: usize) -> String {
        let text: String = self.rows.get(row).into_iter().flatten().collect();
        text.trim_end().to_owned()
    }

    /// Shows one character or obeys one escape sequence, and returns its length; `None` when it is incomplete.
    fn consume(&mut self, bytes: &[u8]) -> Option<usize> {
        match *bytes.first()? {
            b'\r' => self.column = 0,
            b'\n' => self.row += 1,
            8 => self.column = self.column.saturating_sub(1),
            0x1b => return self.escape(bytes),
            byte @ 0x20.. => {
                let length = match byte {
                    0xf0.. => 4,
                    0xe0.. => 3,
                    0xc0.. => 2,
                    _ => 1,
                };
                let text = String::from_utf8_lossy(bytes.get(..length)?).into_owned();
                text.chars().for_each(|c| self.put(c));
                return Some(length);
            }
            _ => {}
        }
        Some(1)
    }

    fn put(&mut self, c: char) {
        if self.columns > 0 && self.column >= self.columns {
            (self.row, self.column) = (self.row + 1, 0);
        }
        let line = self.current_mut();
        let column = line.1;
        line.0.resize(line.0.len().max(column + 1), ' ');
        line.0[column] = c;
        self.column += 1;
    }

    fn current_mut(&mut self) -> (&mut Vec<char>, usize) {
        if self.rows.len() <= self.row {
            self.rows.resize(self.row + 1, Vec::new());
        }
        (&mut self.rows[self.row], self.column)
    }

    fn escape(&mut self, bytes: &[u8]) -> Option<usize> {
        if *bytes.get(1)? != b'[' {
            return Some(2);
        }
        let end = 2 + bytes[2..].iter().position(|byte| (0x40..=0x7e).contains(byte))?;
        let number = std::str::from_utf8(&bytes[2..end]).ok().and_then(|text| text.parse().ok());
        let count = number.unwrap_or(1);
        match bytes[end] {
            b'A' => self.row = self.row.saturating_sub(count),
            b'B' => self.row += count,
            b'C' => self.column += count,
            b'D' => self.column = self.column.saturating_sub(count),
            b'G' => self.column = count.saturating_sub(1),
            b'K' => self.erase(number.unwrap_or(0)),
            b'J' => {
                self.erase(0);
                self.rows.truncate(self.row + 1);
            }
            _ => {}
        }
        Some(end + 1)
    }

    /// Erases the line from the cursor on (0), up to it (1), or all of it (2).
    fn erase(&mut self, part: usize) {
        let (line, column) = self.current_mut();
        match part {
            0 => line.truncate(column),
            1 => line.iter_mut().take(column + 1).for_each(|c| *c = ' '),
            _ => line.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let mut screen = Screen::default();
        pieces.iter().for_each(|piece| screen.feed(piece));
        screen.lines()
    }

    #[test]
    fn a_line_that_is_drawn_again_is_shown_once() {
        assert_eq!(lines(&[b"peer1> g\r\x1b[Kpeer1> ge\r\nok\r\n"]), ["peer1> ge", "ok"]);
        assert_eq!(lines(&[b"50 %\r\n\x1b[1A\r\x1b[2Kdone\r\n"]), ["done"]);
        assert_eq!(lines(&[b"one\r\ntwo\x1b[1A\r\x1b[J"]), [""]);
    }

    #[test]
    fn a_full_line_is_continued_in_the_next_one() {
        let mut screen = Screen::with_columns(3);
        screen.feed(b"abc\rdefgh");
        assert_eq!(screen.lines(), ["def", "gh"]);
    }

    #[test]
    fn output_may_be_cut_anywhere() {
        let bytes = "a…\x1b[31mb\r\n".as_bytes();
        for cut in 0..bytes.len() {
            assert_eq!(lines(&[&bytes[..cut], &bytes[cut..]]), ["a…b"]);
        }
    }
}
