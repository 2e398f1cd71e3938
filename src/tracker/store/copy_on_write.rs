//! Copy-on-write file: writes go to memory and leave the file unchanged.
//!
//! Opening a redb database may repair it, and the repair of a damaged file may go back to an
//! earlier state. With this backend the repair happens in memory only. Invariant: the file is never
//! written; memory is limited to the written pages.

use crate::sync::lock;
use redb::StorageBackend;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;

/// Page size, bytes: a page is copied into memory at the first write to it.
const PAGE_BYTES: u64 = 4096;

/// A read-only file and its pages modified in memory.
#[derive(Debug)]
pub(super) struct CopyOnWriteFile {
    file: File,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    length: u64,
    /// Bytes of the file that are still valid; reads past this offset return zeros, as after a
    /// truncation.
    original: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl CopyOnWriteFile {
    /// Opens a view of a file of `length` bytes.
    pub(super) fn of(file: File, length: u64) -> Self {
        Self { file, state: Mutex::new(State { length, original: length, pages: BTreeMap::new() }) }
    }
}

/// Splits a range at page boundaries: page number, offset in the page, and range in the caller's
/// buffer.
fn split_at_pages(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let end = offset + length as u64;
    let pages = offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES);
    pages.map(move |page| {
        let (from, to) = ((page * PAGE_BYTES).max(offset), ((page + 1) * PAGE_BYTES).min(end));
        (page, (from - page * PAGE_BYTES) as usize, (from - offset) as usize..(to - offset) as usize)
    })
}

impl State {
    /// Reads from the file, and zeros past its valid end.
    fn read_file(&self, file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let available = self.original.saturating_sub(offset).min(out.len() as u64) as usize;
        let (old, new) = out.split_at_mut(available);
        new.fill(0);
        file.read_exact_at(old, offset)
    }

    fn check_range(&self, offset: u64, length: usize) -> io::Result<()> {
        match offset.checked_add(length as u64) {
            Some(end) if end <= self.length => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl StorageBackend for CopyOnWriteFile {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.state).length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = lock(&self.state);
        state.check_range(offset, out.len())?;
        for (page, at, range) in split_at_pages(offset, out.len()) {
            let out = &mut out[range];
            match state.pages.get(&page) {
                Some(bytes) => out.copy_from_slice(&bytes[at..at + out.len()]),
                None => state.read_file(&self.file, page * PAGE_BYTES + at as u64, out)?,
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.length = length;
        state.original = state.original.min(length);
        state.pages.split_off(&length.div_ceil(PAGE_BYTES));
        if let Some(last) = state.pages.get_mut(&(length / PAGE_BYTES)) {
            last[(length % PAGE_BYTES) as usize..].fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.check_range(offset, data.len())?;
        for (page, at, range) in split_at_pages(offset, data.len()) {
            let data = &data[range];
            if !state.pages.contains_key(&page) {
                let mut bytes = vec![0; PAGE_BYTES as usize].into_boxed_slice();
                state.read_file(&self.file, page * PAGE_BYTES, &mut bytes)?;
                state.pages.insert(page, bytes);
            }
            if let Some(bytes) = state.pages.get_mut(&page) {
                bytes[at..at + data.len()].copy_from_slice(data);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, Vec<u8>),
        Cut(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let write = (0..30_000u64, proptest::collection::vec(1..=255u8, 0..9_000));
        let step = prop_oneof![
            write.prop_map(|(offset, bytes)| Step::Write(offset, bytes)),
            (0..40_000u64).prop_map(Step::Cut)
        ];
        proptest::collection::vec(step, 0..12)
    }

    proptest! {
        #[test]
        fn reads_and_writes_as_a_file_does_and_leaves_the_file_unchanged(steps in steps(), length in 0..30_000usize) {
            let original: Vec<u8> = (0..length).map(|at| at as u8 | 1).collect();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &original).unwrap();
            let view = CopyOnWriteFile::of(file.reopen().unwrap(), length as u64);
            let mut model = original.clone();
            for step in steps {
                match step {
                    Step::Cut(length) => {
                        view.set_len(length).unwrap();
                        model.resize(length as usize, 0);
                    }
                    Step::Write(offset, bytes) => {
                        let range = offset as usize..offset as usize + bytes.len();
                        let fits = range.end <= model.len();
                        prop_assert_eq!(view.write(offset, &bytes).is_ok(), fits);
                        if fits {
                            model[range].copy_from_slice(&bytes);
                        }
                    }
                }
                let mut all = vec![9; model.len()];
                view.read(0, &mut all).unwrap();
                prop_assert!(all == model);
                prop_assert_eq!(view.len().unwrap(), model.len() as u64);
                prop_assert!(view.read(1, &mut all).is_err() || all.is_empty());
            }
            prop_assert!(std::fs::read(file.path()).unwrap() == original);
        }
    }
}
