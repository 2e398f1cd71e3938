//! Fixtures for the tests of the download.

use super::events::{Expected, Job};
use crate::content::{ChunkIndex, Digest, FileId};
use crate::net::Timeouts;
use crate::report::LimitedLines;
use crate::storage::{ChunkSink, StoreError};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Stub that expects no chunk and discards stored ones.
pub(super) struct Nothing;

impl Expected for Nothing {
    fn expected(&self, _: ChunkIndex) -> Option<(Digest, u64)> {
        None
    }
}

impl ChunkSink for Nothing {
    fn store(&self, _: ChunkIndex, _: Digest, _: &[u8]) -> Result<bool, StoreError> {
        Ok(true)
    }
}

/// A job of `count` chunks, which are stored in `sink`.
pub(super) fn job(count: u32, sink: Arc<dyn ChunkSink>) -> Job {
    Job {
        relay: None,
        download: 0,
        file: FileId([0; 32]),
        name: "file".to_owned(),
        count,
        longest: 1,
        large_chunk_bytes: AtomicU64::new(0),
        expected: Arc::new(Nothing),
        sink,
        port: None,
        site: None,
        subscribe: true,
        limit: None,
        timeouts: Timeouts::default(),
        lines: LimitedLines::default(),
    }
}
