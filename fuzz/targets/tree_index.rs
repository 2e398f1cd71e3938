//! Index of a folder: what is accepted has exactly one form, and its chunks cover the data of each file once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal::content::tree::{INDEX_HEADER, TreeContent, TreeIndex, leads_outside};
use std::collections::BTreeMap;
use std::ops::Range;

/// Largest number of entries of an accepted index.
const ENTRIES_MAX: u32 = 500;
/// Largest number of chunks that are examined.
const CHUNKS_MAX: u32 = 2_000;

fuzz_target!(|bytes: &[u8]| {
    // The header is no challenge for a fuzzer.
    let Ok(index) = TreeIndex::decode([INDEX_HEADER, bytes].concat(), ENTRIES_MAX) else { return };
    let again = TreeIndex::new(index.entries(), ENTRIES_MAX).expect("its entries are valid");
    assert_eq!(again.bytes(), index.bytes());
    for (number, entry) in (0..).zip(index.entries()) {
        assert_eq!(index.find(entry.path.bytes()), Some(number));
        assert!(!entry.path.to_string().contains(char::is_control));
        let _ = leads_outside(&index, &entry);
    }
    let Ok(content) = TreeContent::new(index, None) else { return };
    if content.layout().count() > CHUNKS_MAX {
        return;
    }
    let mut data: BTreeMap<u32, Vec<Range<u64>>> = BTreeMap::new();
    for index in content.layout().indices() {
        for piece in content.pieces(index) {
            let (start, end) = (piece.offset_in_file, piece.offset_in_file + piece.length);
            let ranges = data.entry(piece.entry).or_default();
            match ranges.last_mut().filter(|last| last.end == start) {
                Some(last) => last.end = end,
                None => ranges.push(start..end),
            }
        }
    }
    for (number, entry) in (0..).zip(content.index().entries()) {
        assert_eq!(data.remove(&number).unwrap_or_default(), entry.data_ranges());
    }
});
