//! A file that can be written to without being changed.
//!
//! Opening a database may repair it, and a repair of what is damaged may take it back to an earlier state. Here all
//! that happens in memory first. Invariant: the file is only read; memory is what has been written, in pages.

use crate::storage::lock;
use redb::StorageBackend;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;

/// Bytes that are kept in memory as soon as one of them is written.
const PAGE: u64 = 4096;

/// What is read from the file, and what was written instead.
#[derive(Debug)]
pub(super) struct CopyOnWriteFile {
    file: File,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    length: u64,
    /// What lies behind this has been cut off once, and reads as zeros.
    original: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl CopyOnWriteFile {
    /// Of a file of `length` bytes.
    pub(super) fn of(file: File, length: u64) -> Self {
        Self { file, state: Mutex::new(State { length, original: length, pages: BTreeMap::new() }) }
    }
}

/// The parts of a range that lie in one page each: the page, where in it, and where in the range.
fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let end = offset + length as u64;
    let pages = offset / PAGE..end.div_ceil(PAGE);
    pages.map(move |page| {
        let (from, to) = ((page * PAGE).max(offset), ((page + 1) * PAGE).min(end));
        (page, (from - page * PAGE) as usize, (from - offset) as usize..(to - offset) as usize)
    })
}

impl State {
    /// Reads what the file has, and zeros behind it.
    fn read_file(&self, file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = self.original.saturating_sub(offset).min(out.len() as u64) as usize;
        let (old, new) = out.split_at_mut(there);
        new.fill(0);
        file.read_exact_at(old, offset)
    }

    fn within(&self, offset: u64, length: usize) -> io::Result<()> {
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
        state.within(offset, out.len())?;
        for (page, at, range) in parts(offset, out.len()) {
            let out = &mut out[range];
            match state.pages.get(&page) {
                Some(bytes) => out.copy_from_slice(&bytes[at..at + out.len()]),
                None => state.read_file(&self.file, page * PAGE + at as u64, out)?,
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.length = length;
        state.original = state.original.min(length);
        state.pages.split_off(&length.div_ceil(PAGE));
        if let Some(last) = state.pages.get_mut(&(length / PAGE)) {
            last[(length % PAGE) as usize..].fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.within(offset, data.len())?;
        for (page, at, range) in parts(offset, data.len()) {
            let data = &data[range];
            if !state.pages.contains_key(&page) {
                let mut bytes = vec![0; PAGE as usize].into_boxed_slice();
                state.read_file(&self.file, page * PAGE, &mut bytes)?;
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
        fn behaves_like_a_file_and_leaves_the_file_alone(steps in steps(), length in 0..30_000usize) {
            let original: Vec<u8> = (0..length).map(|at| at as u8 | 1).collect();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &original).unwrap();
            let rehearsal = CopyOnWriteFile::of(file.reopen().unwrap(), length as u64);
            let mut model = original.clone();
            for step in steps {
                match step {
                    Step::Cut(length) => {
                        rehearsal.set_len(length).unwrap();
                        model.resize(length as usize, 0);
                    }
                    Step::Write(offset, bytes) => {
                        let range = offset as usize..offset as usize + bytes.len();
                        let fits = range.end <= model.len();
                        prop_assert_eq!(rehearsal.write(offset, &bytes).is_ok(), fits);
                        if fits {
                            model[range].copy_from_slice(&bytes);
                        }
                    }
                }
                let mut all = vec![9; model.len()];
                rehearsal.read(0, &mut all).unwrap();
                prop_assert!(all == model);
                prop_assert_eq!(rehearsal.len().unwrap(), model.len() as u64);
                prop_assert!(rehearsal.read(1, &mut all).is_err() || all.is_empty());
            }
            prop_assert!(std::fs::read(file.path()).unwrap() == original);
        }
    }
}
