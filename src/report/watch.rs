//! Progress reports of a running program.

use crate::swarm::distribution::DistributionView;

/// Receiver of progress reports, for example a progress bar.
///
/// Called from any thread; must not block.
pub trait Watch: Send + Sync {
    /// An operation on `total` bytes begins, of which `done` bytes are already complete.
    fn begin(&self, title: &str, total: u64, done: u64);
    /// `bytes` more bytes are complete.
    fn advance(&self, bytes: u64);
    /// A short text about the current step.
    fn note(&self, text: &str);
    /// The cause of a stall, for example missing chunks; empty when the operation continues.
    fn trouble(&self, _text: &str) {}
    /// The operation has ended, with or without success.
    fn end(&self);
    /// A line for standard output, such as a ticket.
    fn result(&self, _line: &str) {}
    /// The peers that download from this program; an empty view removes the last one. Returns whether they are shown: if
    /// not, the caller logs a summary.
    fn receivers(&self, _view: &DistributionView) -> bool {
        false
    }
}

/// Discards progress reports.
pub struct Unwatched;

impl Watch for Unwatched {
    fn begin(&self, _: &str, _: u64, _: u64) {}
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {}
    fn end(&self) {}
}
