//! Log lines about the progress of a distribution or repair, at intervals while chunks are copied.

use super::Keeping;
use crate::content::fmt::{counted, duration, size};
use crate::swarm::Moment;
use crate::swarm::replication::CopyProgress;
use std::time::Duration;

/// Interval between two lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// The progress that the last line has shown, and its time; or the start of the copies.
#[derive(Debug, Default)]
pub(super) struct DistributionLog {
    last: Option<(Moment, u64)>,
}

impl DistributionLog {
    /// Whether a line is due. `copied_bytes` are those of all copies so far; `is_active` states whether copies are running or
    /// waiting. Returns the bytes that were copied since the last line, and the time that this took.
    fn due(&mut self, now: Moment, copied_bytes: u64, is_active: bool) -> Option<(u64, Duration)> {
        let Some((at, before)) = self.last.filter(|_| is_active) else {
            self.last = is_active.then_some((now, copied_bytes));
            return None;
        };
        let (bytes, elapsed) = (copied_bytes.saturating_sub(before), now.saturating_sub(at));
        if elapsed < INTERVAL {
            return None;
        }
        self.last = Some((now, copied_bytes));
        (bytes > 0).then_some((bytes, elapsed))
    }
}

impl Keeping {
    /// The line that is due, if there is one.
    pub(super) fn distribution_line(&mut self, now: Moment) -> Option<String> {
        let (bytes, is_active) = self.planner.copied_bytes();
        let (bytes, elapsed) = self.distribution_log.due(now, bytes, is_active)?;
        let progress = self.planner.copy_progress();
        let name = match (progress.files, progress.file.and_then(|file| self.files.get(&file))) {
            (1, Some(kept)) => kept.file.name.to_string(),
            (files, _) => counted(files, "file"),
        };
        Some(line(&name, progress, bytes, elapsed))
    }
}

fn line(name: &str, progress: CopyProgress, bytes: u64, elapsed: Duration) -> String {
    let CopyProgress { wanted, present, left_bytes, volunteers, .. } = progress;
    let rate = u128::from(bytes) * 1_000 / elapsed.as_millis().max(1);
    let rate = u64::try_from(rate).unwrap_or(u64::MAX);
    let percent = u128::from(present) * 100 / u128::from(wanted.max(1));
    let eta = left_bytes.checked_div(rate).map_or("-".to_owned(), duration);
    format!(
        "distributing {name}: {percent} %, {}/s, ETA {eta}, {}, {present} of {}",
        size(rate),
        counted(volunteers, "volunteer"),
        counted(wanted, "copy")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_at_intervals_while_chunks_are_copied() {
        let (at, mut log) = (Duration::from_secs, DistributionLog::default());
        assert_eq!(log.due(at(5), 0, false), None);
        assert_eq!(log.due(at(6), 7, true), None, "the copies begin");
        assert_eq!(log.due(at(15), 50, true), None, "too early");
        assert_eq!(log.due(at(16), 107, true), Some((100, at(10))));
        assert_eq!(log.due(at(26), 107, true), None, "nothing was copied");
        assert_eq!(log.due(at(30), 200, false), None, "the copies have ended");
        assert_eq!(log.due(at(90), 300, true), None, "other copies begin");
    }

    #[test]
    fn a_line_shows_percentage_rate_eta_volunteers_and_copies() {
        let progress =
            CopyProgress { wanted: 8, present: 2, left_bytes: 6 << 20, volunteers: 3, files: 1, file: None };
        assert_eq!(
            line("x.bin", progress, 20 << 20, Duration::from_secs(10)),
            "distributing x.bin: 25 %, 2.0 MiB/s, ETA 3 s, 3 volunteers, 2 of 8 copies"
        );
    }
}
