//! Chunk source for a file of which the tracker has only the manifest.

use crate::content::{Bitfield, ChunkIndex, FileId, Manifest};
use crate::storage::{ChunkSource, Progress, StoreError, StoredChunk};
use crate::tracker::store::Catalogue;
use std::sync::Arc;

/// Serves the manifest of a file from the catalogue, and no chunk.
///
/// Each request reads the catalogue, because the manifests of all files may not fit into memory.
pub(super) struct ManifestOnly {
    id: FileId,
    catalogue: Arc<dyn Catalogue>,
    progress: Progress,
}

impl ManifestOnly {
    pub(super) fn new(id: FileId, chunks: u32, catalogue: Arc<dyn Catalogue>) -> Self {
        Self { id, catalogue, progress: Progress::new(Bitfield::none(chunks)) }
    }
}

impl ChunkSource for ManifestOnly {
    fn manifest(&self) -> Option<Arc<Manifest>> {
        self.catalogue.manifest(self.id).unwrap_or_else(|error| {
            log::error!("{error}");
            None
        })
    }

    fn progress(&self) -> &Progress {
        &self.progress
    }

    fn stored(&self, index: ChunkIndex) -> Result<StoredChunk, StoreError> {
        Err(StoreError::Missing(index))
    }
}
