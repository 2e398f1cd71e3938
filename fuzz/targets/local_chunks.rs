//! `local_chunks.txt`: arbitrary bytes never cause a panic; a parsed list is the same after it is written and read
//! again, and it names no file outside its folder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal::content::ChunkIndex;
use shoal::content::limits::CHUNKS_MAX;
use shoal::content::local_chunks::LocalChunks;
use std::collections::BTreeSet;

fuzz_target!(|bytes: &[u8]| {
    let list = match LocalChunks::parse(bytes) {
        Ok(list) => list,
        Err(error) => {
            assert!(error.line <= bytes.split(|byte| *byte == b'\n').count());
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert!((1..=CHUNKS_MAX).contains(&list.count));
    assert_eq!(LocalChunks::parse(list.render().as_bytes()).as_ref(), Ok(&list));
    let mut lines = BTreeSet::new();
    for (index, name) in &list.files {
        assert!(index.0 < list.count);
        assert!(!name.as_str().contains(['/', '\\']));
        let line = LocalChunks::line_of(bytes, *index).expect("it has a line");
        assert!(lines.insert(line), "two chunks have the same line");
    }
    let names: BTreeSet<_> = list.files.values().collect();
    assert_eq!(names.len(), list.files.len(), "two chunks have the same file");
    assert_eq!(LocalChunks::line_of(bytes, ChunkIndex(list.count)), None);
});
