//! Holes of a sparse file.

use crate::content::limits::TREE_HOLES_MAX;
use crate::content::tree::Hole;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::os::fd::AsFd;

/// The holes of an open file of `size` bytes, as its file system reports them. The first [`TREE_HOLES_MAX`] of them; none
/// if the file system reports none, or reading fails: then they are read as zeros.
pub(super) fn holes_of(file: impl AsFd, size: u64) -> Vec<Hole> {
    let mut holes = Vec::new();
    let mut at = 0;
    while at < size && holes.len() < TREE_HOLES_MAX {
        let data = match seek(&file, SeekFrom::Data(at)) {
            Ok(data) => data.min(size),
            // No data up to the end of the file.
            Err(Errno::NXIO) => size,
            Err(_) => break,
        };
        if data > at {
            holes.push(Hole { offset: at, length: data - at });
        }
        match seek(&file, SeekFrom::Hole(data)) {
            Ok(hole) if hole > at => at = hole,
            _ => break,
        }
    }
    holes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt as _;

    #[test]
    fn holes_are_the_ranges_without_data() {
        const BLOCK: u64 = 1 << 20;
        let file = tempfile::tempfile().unwrap();
        assert_eq!(holes_of(&file, 0), []);
        file.write_all_at(&[1; 4_096], BLOCK).unwrap();
        file.set_len(4 * BLOCK).unwrap();
        let holes = holes_of(&file, 4 * BLOCK);
        // A file system without holes reports none.
        if !holes.is_empty() {
            let end = BLOCK + 4_096;
            let expected = [Hole { offset: 0, length: BLOCK }, Hole { offset: end, length: 4 * BLOCK - end }];
            assert_eq!(holes, expected);
            file.set_len(0).unwrap();
            file.set_len(7).unwrap();
            assert_eq!(holes_of(&file, 7), [Hole { offset: 0, length: 7 }]);
        }
    }
}
