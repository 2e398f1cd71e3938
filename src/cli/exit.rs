//! How a program ends, as a number that scripts can rely on.
//!
//! The numbers are a promise: one is never given another meaning. [`HELP_TABLE`] is what `--help`
//! shows; a test keeps it in step with the enum.

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything asked for was done.
    Done = 0,
    /// Something went wrong that has no number of its own.
    Other = 1,
    /// The command line makes no sense (clap's own number).
    Usage = 2,
    /// Nobody knows a file of that name or id.
    NotFound = 3,
    /// The file is known, but some of its chunks are with nobody who is there.
    NobodyHasAll = 4,
    /// The network or the tracker cannot be reached.
    Unreachable = 5,
    /// Nothing arrived for too long.
    TimedOut = 6,
    /// Stopped by the user; what was verified is kept, and the same command goes on from there.
    Interrupted = 7,
    /// No room on the disk.
    DiskFull = 9,
    /// A file is already there, and it is not the one asked for.
    ExistsAndDiffers = 13,
    /// A file or folder cannot be read or written.
    FileAccess = 17,
    /// What arrived is not what it should be.
    VerificationFailed = 32,
}

/// The exit codes as `--help` shows them.
pub const HELP_TABLE: &str = "\
Exit codes:
   0  done
   1  another error
   2  wrong usage
   3  no such file in the swarm
   4  nobody who is there has all the chunks
   5  the network, the tracker or the manager cannot be reached
   6  timed out: nothing arrived for too long
   7  interrupted; the same command resumes
   9  the disk is full
  13  the file exists and differs
  17  a file or folder cannot be read or written
  32  verification failed";

impl ExitCode {
    /// Every code, rising.
    pub const ALL: [ExitCode; 12] = [
        ExitCode::Done,
        ExitCode::Other,
        ExitCode::Usage,
        ExitCode::NotFound,
        ExitCode::NobodyHasAll,
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

    /// A new variant does not compile until it is given a successor here, and then fails the test
    /// until it is in `ALL` and in the table.
    fn next(code: ExitCode) -> Option<ExitCode> {
        Some(match code {
            ExitCode::Done => ExitCode::Other,
            ExitCode::Other => ExitCode::Usage,
            ExitCode::Usage => ExitCode::NotFound,
            ExitCode::NotFound => ExitCode::NobodyHasAll,
            ExitCode::NobodyHasAll => ExitCode::Unreachable,
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
    fn the_table_is_in_step() {
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
    fn the_numbers_are_a_promise() {
        let codes: Vec<u8> = ExitCode::ALL.iter().map(|&code| code as u8).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 9, 13, 17, 32]);
    }
}
