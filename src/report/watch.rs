//! Progress reports of a running program, and the total of several downloads.

use crate::swarm::distribution::DistributionView;
use crate::sync::lock;
use std::fmt;
use std::sync::{Arc, Mutex};

/// Title of the progress of a download; the name of its file is shown in its place.
pub const DOWNLOADING: &str = "downloading";

/// Receiver of progress reports, for example a progress bar.
///
/// Called from any thread; must not block.
pub trait Watch: Send + Sync {
    /// An operation on `total` bytes begins, of which `done` bytes are already complete.
    fn begin(&self, title: &str, total: u64, done: u64);
    /// `bytes` more bytes are complete.
    fn advance(&self, bytes: u64);
    /// The operation is on `total` bytes.
    fn resize(&self, _total: u64) {}
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
    /// Several operations together have completed `done` of `bytes` bytes.
    fn total(&self, _title: &str, _bytes: u64, _done: u64) {}
    /// The operations shown by [`total`](Self::total) have ended.
    fn end_total(&self) {}
    /// A receiver for an operation that runs at the same time as others.
    fn separate(&self) -> Arc<dyn Watch> {
        Arc::new(Unwatched)
    }
}

/// Bytes of an operation that are shown as complete: stored ones, and those of a large chunk that still arrives. What is shown
/// never decreases: if a large chunk is lost, it stands still until as many bytes have arrived again.
#[derive(Debug, Default)]
pub struct ShownBytes {
    stored: u64,
    shown: u64,
}

impl ShownBytes {
    /// Adds stored bytes. Returns the bytes to [`advance`](Watch::advance) by.
    pub fn store(&mut self, bytes: u64) -> u64 {
        self.stored = self.stored.saturating_add(bytes);
        self.arriving(0, u64::MAX)
    }

    /// Of chunks that are not stored yet, `bytes` have arrived; the operation is on `total` bytes. Returns the bytes to
    /// [`advance`](Watch::advance) by.
    pub fn arriving(&mut self, bytes: u64, total: u64) -> u64 {
        let now = self.stored.saturating_add(bytes).min(total).max(self.shown);
        now - std::mem::replace(&mut self.shown, now)
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

/// Sum of several downloads. Clones share it.
#[derive(Clone)]
pub struct TotalProgress(Arc<Total>);

struct Total {
    watch: Arc<dyn Watch>,
    sum: Mutex<Sum>,
}

#[derive(Debug, Default)]
struct Sum {
    files: usize,
    ended: usize,
    bytes: u64,
    done: u64,
}

impl fmt::Debug for TotalProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        lock(&self.0.sum).fmt(f)
    }
}

impl TotalProgress {
    /// A sum of no files, which is shown by `watch`.
    pub fn new(watch: Arc<dyn Watch>) -> Self {
        Self(Arc::new(Total { watch, sum: Mutex::default() }))
    }

    /// Adds files to those that are counted.
    pub fn add_files(&self, count: usize) {
        lock(&self.0.sum).files += count;
    }

    /// Adds the size of a file before its download begins.
    pub fn add_bytes(&self, bytes: u64) {
        lock(&self.0.sum).bytes += bytes;
    }

    /// Ends the display.
    pub fn end(&self) {
        self.0.watch.end_total();
    }

    /// Changes the sum and shows it, if it is the sum of several files.
    fn change(&self, change: impl FnOnce(&mut Sum)) {
        let mut sum = lock(&self.0.sum);
        change(&mut sum);
        let Sum { files, ended, bytes, done } = *sum;
        if files > 1 {
            self.0.watch.total(&format!("total: {ended} of {files} files"), bytes, done);
        }
    }
}

/// Progress of one of several downloads: it is shown by itself and added to the total.
pub struct FileProgress {
    name: String,
    watch: Arc<dyn Watch>,
    total: TotalProgress,
    state: Mutex<FileBytes>,
}

#[derive(Default)]
struct FileBytes {
    /// Bytes of the file in the total, and those of them that are done.
    counted: u64,
    done: u64,
    is_downloading: bool,
}

impl FileProgress {
    /// Progress of a file. `expected` bytes of it have been added to the total.
    pub fn new(name: String, expected: u64, watch: Arc<dyn Watch>, total: TotalProgress) -> Self {
        let state = FileBytes { counted: expected, ..FileBytes::default() };
        Self { name, watch, total, state: Mutex::new(state) }
    }

    /// Counts the file as ended. Only a complete file counts as done.
    pub fn ended(&self, is_complete: bool) {
        let mut state = lock(&self.state);
        let rest = if is_complete { state.counted - state.done } else { 0 };
        state.done += rest;
        drop(state);
        self.total.change(|sum| {
            sum.ended += 1;
            sum.done += rest;
        });
    }
}

impl Watch for FileProgress {
    fn begin(&self, title: &str, total: u64, done: u64) {
        let is_downloading = title == DOWNLOADING;
        let mut state = lock(&self.state);
        state.is_downloading = is_downloading;
        if is_downloading {
            let before = std::mem::replace(&mut *state, FileBytes { counted: total, done, is_downloading });
            drop(state);
            self.total.change(|sum| {
                sum.bytes = sum.bytes.saturating_sub(before.counted) + total;
                sum.done = sum.done.saturating_sub(before.done) + done;
            });
        } else {
            drop(state);
        }
        self.watch.begin(if is_downloading { &self.name } else { title }, total, done);
    }

    fn advance(&self, bytes: u64) {
        let mut state = lock(&self.state);
        let added = if state.is_downloading { bytes.min(state.counted - state.done) } else { 0 };
        state.done += added;
        drop(state);
        if added > 0 {
            self.total.change(|sum| sum.done += added);
        }
        self.watch.advance(bytes);
    }

    fn note(&self, text: &str) {
        self.watch.note(text);
    }

    fn trouble(&self, text: &str) {
        self.watch.trouble(text);
    }

    fn end(&self) {
        self.watch.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records the titles and the last total.
    #[derive(Default)]
    struct Recorder {
        titles: Mutex<Vec<String>>,
        total: Mutex<Option<(String, u64, u64)>>,
    }

    impl Watch for Recorder {
        fn begin(&self, title: &str, _: u64, _: u64) {
            lock(&self.titles).push(title.to_owned());
        }
        fn advance(&self, _: u64) {}
        fn note(&self, _: &str) {}
        fn end(&self) {}
        fn total(&self, title: &str, bytes: u64, done: u64) {
            *lock(&self.total) = Some((title.to_owned(), bytes, done));
        }
    }

    #[test]
    fn bytes_of_a_large_chunk_are_shown_while_it_arrives_and_once() {
        let mut bytes = ShownBytes::default();
        assert_eq!(bytes.store(5), 5);
        assert_eq!(bytes.arriving(40, 105), 40);
        assert_eq!(bytes.arriving(90, 105), 50);
        assert_eq!(bytes.store(100), 10);
        // From two sources: never more than the total.
        assert_eq!(bytes.arriving(80, 105), 0);
        assert_eq!(bytes.arriving(0, 205), 0, "it was lost");
        assert_eq!(bytes.arriving(30, 205), 30);
        assert_eq!(bytes.arriving(10, 205), 0, "it was lost");
        assert_eq!(bytes.store(100), 70);
    }

    #[test]
    fn the_total_counts_resumed_downloaded_and_complete_files() {
        let recorder = Arc::new(Recorder::default());
        let total = TotalProgress::new(recorder.clone());
        total.add_files(3);
        total.add_bytes(100);
        let file =
            |name: &str, expected| FileProgress::new(name.into(), expected, recorder.clone(), total.clone());
        let shown = || lock(&recorder.total).clone().unwrap();
        let first = file("a", 100);
        first.begin("checking a", 100, 0);
        first.advance(100);
        first.begin(DOWNLOADING, 100, 30);
        first.advance(20);
        assert_eq!(shown(), ("total: 0 of 3 files".to_owned(), 100, 50));
        // Progress is never more than the size.
        first.advance(60);
        first.begin("checking MD5", 100, 0);
        first.advance(100);
        first.ended(true);
        assert_eq!(shown(), ("total: 1 of 3 files".to_owned(), 100, 100));
        let second = file("b", 0);
        second.begin(DOWNLOADING, 50, 0);
        second.advance(10);
        second.ended(false);
        assert_eq!(shown(), ("total: 2 of 3 files".to_owned(), 150, 110));
        assert_eq!(*lock(&recorder.titles), ["checking a", "a", "checking MD5", "b"]);
    }

    #[test]
    fn one_file_has_no_total() {
        let recorder = Arc::new(Recorder::default());
        let total = TotalProgress::new(recorder.clone());
        total.add_files(1);
        let file = FileProgress::new("a".into(), 0, recorder.clone(), total);
        file.begin(DOWNLOADING, 9, 0);
        file.ended(true);
        assert_eq!(
            (lock(&recorder.titles).clone(), lock(&recorder.total).clone()),
            (vec!["a".to_owned()], None)
        );
    }
}
