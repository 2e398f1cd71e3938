//! `local_chunks.txt`: arbitrary bytes never panic; what is understood is the same when it is written and read again,
//! and names no file outside of its folder.
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
        assert!(lines.insert(line), "a line of its own");
    }
    let names: BTreeSet<_> = list.files.values().collect();
    assert_eq!(names.len(), list.files.len(), "a file of its own");
    assert_eq!(LocalChunks::line_of(bytes, ChunkIndex(list.count)), None);
});
