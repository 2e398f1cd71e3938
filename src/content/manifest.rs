//! The manifest: a file's layout and the digest of each chunk.
//!
//! Whoever has the id of a file needs to trust nobody: the manifest is checked against the id, each
//! chunk against the manifest. Invariant: there is exactly one digest for each chunk of the layout.

use super::digest::{Digest, FileId, Hasher};
use super::layout::{ChunkIndex, Layout, LayoutError};

/// What begins the bytes that a file id is the SHA-256 of.
const ID_PREFIX: &[u8] = b"shoal manifest 1\n";
const DIGEST: usize = 32;
const LENGTH: usize = 4;

/// Why bytes are not a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The sizes make no layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The payload is not as long as the sizes say.
    #[error("expected {expected} bytes of digests, got {got}")]
    Length {
        /// What the sizes ask for.
        expected: u64,
        /// What there is.
        got: u64,
    },
    /// The chunk lengths do not add up to the size.
    #[error("the chunks add up to {sum} bytes, not to {size}")]
    Sum {
        /// The chunk lengths together.
        sum: u64,
        /// The size that was stated.
        size: u64,
    },
    /// It is the manifest of another file.
    #[error("the manifest has the id {got}, not {expected}")]
    OtherFile {
        /// The id that was asked for.
        expected: FileId,
        /// The id of what came.
        got: FileId,
    },
}

/// A file's layout and digests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    layout: Layout,
    digests: Vec<Digest>,
}

impl Manifest {
    /// Puts layout and digests together.
    ///
    /// # Errors
    /// When there is not exactly one digest for each chunk.
    pub fn new(layout: Layout, digests: Vec<Digest>) -> Result<Self, ManifestError> {
        match digests.len() == layout.count() as usize {
            true => Ok(Self { layout, digests }),
            false => Err(ManifestError::Length {
                expected: u64::from(layout.count()) * DIGEST as u64,
                got: (digests.len() * DIGEST) as u64,
            }),
        }
    }

    /// How the file is cut.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The digest that a chunk must have; `None` when there is no such chunk.
    pub fn digest(&self, index: ChunkIndex) -> Option<Digest> {
        self.digests.get(index.at()).copied()
    }

    /// The file's id: SHA-256 over a fixed prefix, size and chunk size (64 bits each, big-endian)
    /// and [`payload`](Self::payload).
    pub fn id(&self) -> FileId {
        let mut hasher = Hasher::new();
        hasher.update(ID_PREFIX);
        hasher.update(&self.layout.size().to_be_bytes());
        hasher.update(&u64::from(self.layout.chunk_size()).to_be_bytes());
        hasher.update(&self.payload());
        FileId(hasher.finish().0)
    }

    /// What travels behind the manifest's frame: the digests, 32 bytes each; where chunks are of
    /// unequal size, the length of each (32 bits, big-endian) before its digest.
    pub fn payload(&self) -> Vec<u8> {
        let uneven = matches!(self.layout, Layout::Uneven { .. });
        let mut bytes = Vec::with_capacity(self.digests.len() * (DIGEST + LENGTH));
        for (index, digest) in self.layout.indices().zip(&self.digests) {
            if uneven {
                let length = self.layout.span(index).map_or(0, |span| span.length);
                bytes.extend(length.to_be_bytes());
            }
            bytes.extend(digest.0);
        }
        bytes
    }

    /// How long the payload of a file with these sizes is, bytes, for even chunks; `None` where the
    /// payload itself says how many chunks there are.
    pub fn payload_length(size: u64, chunk_size: u32) -> Result<Option<u64>, ManifestError> {
        match chunk_size {
            0 => Ok(None),
            _ => {
                let layout = Layout::even(size, Some(chunk_size))?;
                Ok(Some(u64::from(layout.count()) * DIGEST as u64))
            }
        }
    }

    /// Reads a manifest back from its sizes and payload, and checks it against the id that was asked for.
    ///
    /// # Errors
    /// Anything that does not fit together, or is not the file of that id.
    pub fn decode(
        expected: FileId,
        size: u64,
        chunk_size: u32,
        payload: &[u8],
    ) -> Result<Self, ManifestError> {
        let got = payload.len() as u64;
        let manifest = match Self::payload_length(size, chunk_size)? {
            Some(expected) if expected != got => {
                return Err(ManifestError::Length { expected, got });
            }
            Some(_) => Self::new(
                Layout::even(size, Some(chunk_size))?,
                payload.chunks_exact(DIGEST).map(digest).collect(),
            )?,
            None => Self::decode_uneven(size, payload)?,
        };
        match manifest.id() {
            id if id == expected => Ok(manifest),
            got => Err(ManifestError::OtherFile { expected, got }),
        }
    }

    fn decode_uneven(size: u64, payload: &[u8]) -> Result<Self, ManifestError> {
        let entries = payload.chunks_exact(LENGTH + DIGEST);
        if !entries.remainder().is_empty() {
            return Err(ManifestError::Length {
                expected: (entries.len() * (LENGTH + DIGEST)) as u64,
                got: payload.len() as u64,
            });
        }
        let length = |entry: &[u8]| u32::from_be_bytes([entry[0], entry[1], entry[2], entry[3]]);
        let layout = Layout::uneven(entries.clone().map(length))?;
        match layout.size() {
            sum if sum == size => Self::new(layout, entries.map(|entry| digest(&entry[LENGTH..])).collect()),
            sum => Err(ManifestError::Sum { sum, size }),
        }
    }
}

fn digest(bytes: &[u8]) -> Digest {
    let mut digest = Digest([0; DIGEST]);
    digest.0.copy_from_slice(bytes);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn even(size: u64) -> Manifest {
        let layout = Layout::even(size, Some(16 * 1024)).unwrap();
        let digests = layout.indices().map(|index| Digest::of(&index.0.to_be_bytes())).collect();
        Manifest::new(layout, digests).unwrap()
    }

    fn round_trip(manifest: &Manifest) -> Result<Manifest, ManifestError> {
        let layout = manifest.layout();
        Manifest::decode(manifest.id(), layout.size(), layout.chunk_size(), &manifest.payload())
    }

    #[test]
    fn the_id_is_pinned() {
        // Changing what an id is computed from makes every id that people have written down void.
        assert_eq!(
            even(40_000).id().to_string(),
            "0cfd5dd4aa1a11dcf70bb5f98b2b6ac9e7e7f3e261a60483ca2ab0ed2373480c"
        );
    }

    #[test]
    fn size_and_chunk_size_are_part_of_the_id() {
        let one = Manifest::new(Layout::even(1, Some(16_384)).unwrap(), vec![Digest::of(b"")]);
        let two = Manifest::new(Layout::even(2, Some(16_384)).unwrap(), vec![Digest::of(b"")]);
        let three = Manifest::new(Layout::even(1, Some(32_768)).unwrap(), vec![Digest::of(b"")]);
        let ids = [one, two, three].map(|manifest| manifest.unwrap().id());
        assert!(ids[0] != ids[1] && ids[0] != ids[2]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let manifest = even(40_000);
        let (id, payload) = (manifest.id(), manifest.payload());
        assert!(matches!(
            Manifest::decode(id, 40_000, 16_384, &payload[1..]),
            Err(ManifestError::Length { expected: 96, got: 95 })
        ));
        assert!(matches!(
            Manifest::decode(id, 39_999, 16_384, &payload),
            Err(ManifestError::OtherFile { .. })
        ));
        assert!(matches!(Manifest::decode(id, 40_000, 3, &payload), Err(ManifestError::Layout(_))));
        assert!(matches!(
            Manifest::decode(id, 40_000, 0, &[0; 36]),
            Err(ManifestError::Sum { sum: 0, size: 40_000 })
        ));
        assert!(Manifest::decode(id, 0, 0, &[]).is_err());
        assert!(Manifest::new(Layout::even(1, None).unwrap(), vec![]).is_err());
    }

    proptest! {
        #[test]
        fn even_manifests_survive_the_wire(size in 0u64..1_000_000) {
            let manifest = even(size);
            prop_assert_eq!(round_trip(&manifest), Ok(manifest));
        }

        #[test]
        fn uneven_manifests_survive_the_wire(lengths in prop::collection::vec(0u32..100_000, 1..20)) {
            let digests = lengths.iter().map(|l| Digest::of(&l.to_be_bytes())).collect();
            let manifest = Manifest::new(Layout::uneven(lengths).unwrap(), digests).unwrap();
            prop_assert_eq!(round_trip(&manifest), Ok(manifest));
        }

        #[test]
        fn arbitrary_bytes_never_panic(size: u64, chunk_size: u32, payload: Vec<u8>) {
            let _ = Manifest::decode(FileId([0; 32]), size, chunk_size, &payload);
            let _ = Manifest::decode(FileId([0; 32]), size, 0, &payload);
        }
    }
}
