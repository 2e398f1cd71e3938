//! Progress of the missing chunks of a folder: a display, and a summary at the end.

use crate::content::ChunkIndex;
use crate::content::fmt::counted;
use crate::report::watch::{ShownBytes, Watch};
use std::collections::BTreeMap;

/// Progress of the missing chunks. The display is shown while chunks with an agreed hash are missing.
pub(super) struct FolderProgress<'a> {
    watch: &'a dyn Watch,
    /// Name of the folder.
    title: String,
    /// Sizes of the missing chunks that were agreed so far, bytes.
    missing: BTreeMap<ChunkIndex, u64>,
    /// Bytes of the display; 0 if none is shown.
    total: u64,
    shown: ShownBytes,
}

impl<'a> FolderProgress<'a> {
    pub(super) fn new(watch: &'a dyn Watch, title: String) -> Self {
        Self { watch, title, missing: BTreeMap::new(), total: 0, shown: ShownBytes::default() }
    }

    /// A chunk of `size` bytes is to be downloaded.
    pub(super) fn wanted(&mut self, index: ChunkIndex, size: u64) {
        if self.missing.insert(index, size).is_some() {
            return;
        }
        let is_first = self.total == 0;
        self.total = self.total.saturating_add(size);
        match is_first {
            true => self.watch.begin(&self.title, self.total, 0),
            false => self.watch.resize(self.total),
        }
    }

    /// A chunk was downloaded, or is there without a download.
    pub(super) fn present(&mut self, index: ChunkIndex) {
        let Some(size) = self.missing.remove(&index) else { return };
        self.watch.advance(self.shown.store(size));
        if self.missing.is_empty() {
            self.end();
        }
    }

    /// Shows the number of connected sources, and the bytes of large chunks that still arrive.
    pub(super) fn update(&mut self, connected: usize, arriving_bytes: u64) {
        if self.total > 0 {
            self.watch.note(&counted(connected as u64, "source"));
            match self.shown.arriving(arriving_bytes, self.total) {
                0 => {}
                arrived => self.watch.advance(arrived),
            }
        }
    }

    pub(super) fn end(&mut self) {
        self.shown = ShownBytes::default();
        if std::mem::take(&mut self.total) > 0 {
            self.watch.end();
        }
    }
}

impl Drop for FolderProgress<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>);

    impl Recorder {
        fn put(&self, text: String) {
            self.0.lock().unwrap().push(text);
        }
    }

    impl Watch for Recorder {
        fn begin(&self, title: &str, total: u64, _: u64) {
            self.put(format!("{title} {total}"));
        }
        fn advance(&self, bytes: u64) {
            self.put(format!("+{bytes}"));
        }
        fn resize(&self, total: u64) {
            self.put(format!("of {total}"));
        }
        fn note(&self, _: &str) {}
        fn end(&self) {
            self.put("end".to_owned());
        }
    }

    #[test]
    fn the_display_lasts_while_agreed_chunks_are_missing() {
        let recorder = Recorder::default();
        let mut progress = FolderProgress::new(&recorder, "folder1".to_owned());
        progress.present(ChunkIndex(9));
        progress.wanted(ChunkIndex(0), 10);
        progress.wanted(ChunkIndex(0), 10);
        progress.wanted(ChunkIndex(1), 5);
        progress.update(1, 4);
        progress.present(ChunkIndex(0));
        progress.present(ChunkIndex(1));
        progress.wanted(ChunkIndex(2), 7);
        drop(progress);
        let seen = recorder.0.lock().unwrap().join(", ");
        assert_eq!(seen, "folder1 10, of 15, +4, +6, +5, end, folder1 7, end");
    }
}
