//! Exit codes of the programs, for scripts.
//!
//! Invariant: a number never changes its meaning. `--help` shows [`HELP_TABLE`]; a test compares it with the enum.

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// Success.
    Done = 0,
    /// Any error without a number of its own.
    Other = 1,
    /// A wrong or missing flag or value (the number that clap uses).
    Usage = 2,
    /// No peer offers a file with that name or id.
    NotFound = 3,
    /// The file is offered, but the active peers do not have all of its chunks.
    ChunksMissing = 4,
    /// The network, the tracker or the manager cannot be reached.
    Unreachable = 5,
    /// No data arrived within the timeout.
    TimedOut = 6,
    /// Stopped by the user; verified chunks are kept for a later run.
    Interrupted = 7,
    /// No free space or inodes, or the user's quota is exceeded.
    DiskFull = 9,
    /// A different file exists at the target path.
    ExistsAndDiffers = 13,
    /// A file or folder cannot be read or written.
    FileAccess = 17,
    /// Received data does not match its digest.
    VerificationFailed = 32,
}

/// The exit codes as `--help` shows them.
pub const HELP_TABLE: &str = "\
Exit codes:
   0  success
   1  other error, for example a port in use
   2  usage error: a wrong or missing flag or value
   3  file not found: no peer offers it
   4  chunks missing: the active peers do not have all chunks of the file
   5  the network, the tracker or the manager cannot be reached
   6  timeout: no data arrived
   7  interrupted; run the same command to resume
   9  disk full: no free space or inodes, or the quota is exceeded
  13  a different file exists at the target path
  17  a file or folder cannot be read or written
  32  verification failed: received data does not match its digest";

impl ExitCode {
    /// All codes in ascending order.
    pub const ALL: [ExitCode; 12] = [
        ExitCode::Done,
        ExitCode::Other,
        ExitCode::Usage,
        ExitCode::NotFound,
        ExitCode::ChunksMissing,
        ExitCode::Unreachable,
        ExitCode::TimedOut,
        ExitCode::Interrupted,
        ExitCode::DiskFull,
        ExitCode::ExistsAndDiffers,
        ExitCode::FileAccess,
        ExitCode::VerificationFailed,
    ];
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The match is exhaustive: a new variant must be added here, and the test then requires it in `ALL` and in the
    /// table.
    fn next(code: ExitCode) -> Option<ExitCode> {
        Some(match code {
            ExitCode::Done => ExitCode::Other,
            ExitCode::Other => ExitCode::Usage,
            ExitCode::Usage => ExitCode::NotFound,
            ExitCode::NotFound => ExitCode::ChunksMissing,
            ExitCode::ChunksMissing => ExitCode::Unreachable,
            ExitCode::Unreachable => ExitCode::TimedOut,
            ExitCode::TimedOut => ExitCode::Interrupted,
            ExitCode::Interrupted => ExitCode::DiskFull,
            ExitCode::DiskFull => ExitCode::ExistsAndDiffers,
            ExitCode::ExistsAndDiffers => ExitCode::FileAccess,
            ExitCode::FileAccess => ExitCode::VerificationFailed,
            ExitCode::VerificationFailed => return None,
        })
    }

    #[test]
    fn the_table_lists_all_codes() {
        let all: Vec<ExitCode> = std::iter::successors(Some(ExitCode::Done), |&code| next(code)).collect();
        assert_eq!(all, ExitCode::ALL);
        let mut rows = HELP_TABLE.lines();
        assert_eq!(rows.next(), Some("Exit codes:"));
        let shown: Vec<u8> = rows
            .map(|row| {
                let (number, meaning) = row.split_at(4);
                assert!(meaning.starts_with("  ") && meaning.len() > 5, "{row:?}");
                number.trim().parse().unwrap()
            })
            .collect();
        let codes: Vec<u8> = ExitCode::ALL.iter().map(|&code| code as u8).collect();
        assert_eq!(shown, codes);
    }

    #[test]
    fn the_numbers_never_change() {
        let codes: Vec<u8> = ExitCode::ALL.iter().map(|&code| code as u8).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 9, 13, 17, 32]);
    }
}
