//! The manifest: a file's layout and the digest of each chunk.
//!
//! A receiver that has the id of a file needs to trust no peer: it verifies the manifest against the id and
//! each chunk against the manifest. Invariant: there is exactly one digest for each chunk of the layout.

use super::digest::{Digest, FileId, Hasher};
use super::layout::{ChunkIndex, Layout, LayoutError};
use super::limits::CHUNK_SIZE_MAX;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// First bytes of the message whose SHA-256 is the id of a file.
const ID_PREFIX: &[u8] = b"shoal manifest 1\n";
/// First bytes of the message whose SHA-256 is the id of a folder.
const TREE_ID_PREFIX: &[u8] = b"shoal tree 1\n";
/// Size of a digest in a payload, bytes.
const DIGEST_BYTES: usize = 32;
/// Size of a chunk length in a payload, bytes.
const LENGTH_BYTES: usize = 4;
/// Size of a chunk length in a payload with a chunk of 4 GiB or more, bytes.
const LONG_LENGTH_BYTES: usize = 8;
/// First byte of a payload with a chunk of 4 GiB or more. With it, the length of the payload is odd, as that of no other
/// payload.
const LONG_LENGTHS: u8 = LONG_LENGTH_BYTES as u8;

/// Bytes that are not the expected manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The sizes are not a valid layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The length of the payload does not match the sizes.
    #[error("the manifest has {got} bytes of digests, expected {expected}")]
    Length {
        /// Bytes that the sizes require.
        expected: u64,
        /// Bytes received.
        got: u64,
    },
    /// The chunk lengths do not add up to the file size.
    #[error("the chunks add up to {sum} bytes, not to the file size of {size}")]
    Sum {
        /// Sum of the chunk lengths, bytes.
        sum: u64,
        /// Stated file size, bytes.
        size: u64,
    },
    /// The chunks are not those of a folder with an index of this size.
    #[error("the chunks do not fit a folder with an index of {index} bytes")]
    Tree {
        /// Stated size of the index, bytes.
        index: u64,
    },
    /// The manifest belongs to another file.
    #[error("the manifest has the id {got}, not {expected}")]
    OtherFile {
        /// The requested id.
        expected: FileId,
        /// The id of the received manifest.
        got: FileId,
    },
}

/// What a manifest describes. The kind is part of the id: a file whose bytes look like a folder stays a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ItemKind {
    /// A file or a chunk set.
    File,
    /// A folder, see [`tree`](super::tree).
    Tree {
        /// Size of the index, with which the chunk stream begins, bytes.
        index_bytes: u64,
        /// Size of the chunks of large files, bytes.
        chunk_size: u32,
    },
}

/// Sizes of an item that accompany the payload of its manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ManifestSizes {
    /// Size of the file, or of the chunk stream of a folder, bytes.
    pub size: u64,
    /// Size of each chunk except the last, bytes; 0 for unequal chunks. For a folder: that of the chunks of large files.
    pub chunk_size: u32,
    /// Size of the index of a folder, bytes; `None` for a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
}

/// Layout and digests of a file or a folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    kind: ItemKind,
    layout: Layout,
    digests: Vec<Digest>,
}

impl Manifest {
    /// A manifest of a file with the given layout and digests.
    ///
    /// # Errors
    /// The number of digests differs from the number of chunks.
    pub fn new(layout: Layout, digests: Vec<Digest>) -> Result<Self, ManifestError> {
        Self::of_kind(ItemKind::File, layout, digests)
    }

    /// A manifest of a file or a folder with the given layout and digests.
    ///
    /// # Errors
    /// The number of digests differs from the number of chunks, or the chunks are not those of a folder: unequal,
    /// none of them empty or above [`CHUNK_SIZE_MAX`], and one begins at the end of the index.
    pub fn of_kind(kind: ItemKind, layout: Layout, digests: Vec<Digest>) -> Result<Self, ManifestError> {
        if let ItemKind::Tree { index_bytes, chunk_size } = kind {
            Layout::even(0, Some(chunk_size))?;
            let Layout::Uneven { offsets } = &layout else {
                return Err(ManifestError::Tree { index: index_bytes });
            };
            let has_index = index_bytes > 0 && offsets.binary_search(&index_bytes).is_ok();
            let is_chunk = |pair: &[u64]| (1..=u64::from(CHUNK_SIZE_MAX)).contains(&(pair[1] - pair[0]));
            if !has_index || !offsets.windows(2).all(is_chunk) {
                return Err(ManifestError::Tree { index: index_bytes });
            }
        }
        match digests.len() == layout.count() as usize {
            true => Ok(Self { kind, layout, digests }),
            false => Err(ManifestError::Length {
                expected: u64::from(layout.count()) * DIGEST_BYTES as u64,
                got: (digests.len() * DIGEST_BYTES) as u64,
            }),
        }
    }

    /// Whether this is the manifest of a file or of a folder.
    pub fn kind(&self) -> ItemKind {
        self.kind
    }

    /// Whether this is the manifest of a folder.
    pub fn is_tree(&self) -> bool {
        self.kind != ItemKind::File
    }

    /// The chunks of the index of a folder, the first ones of its stream; an empty range for a file.
    pub fn index_chunks(&self) -> Range<u32> {
        match (self.kind, &self.layout) {
            (ItemKind::Tree { index_bytes, .. }, Layout::Uneven { offsets }) => {
                0..offsets.partition_point(|offset| *offset < index_bytes) as u32
            }
            _ => 0..0,
        }
    }

    /// Division of the file into chunks.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The sizes that accompany the payload.
    pub fn sizes(&self) -> ManifestSizes {
        let size = self.layout.size();
        match self.kind {
            ItemKind::File => ManifestSizes { size, chunk_size: self.layout.chunk_size(), index: None },
            ItemKind::Tree { index_bytes, chunk_size } => {
                ManifestSizes { size, chunk_size, index: Some(index_bytes) }
            }
        }
    }

    /// The expected digest of a chunk; `None` past the last chunk.
    pub fn digest(&self, index: ChunkIndex) -> Option<Digest> {
        self.digests.get(index.at()).copied()
    }

    /// The id of the file: SHA-256 of a fixed prefix, size and chunk size (64 bits each, big-endian)
    /// and [`payload`](Self::payload). For a folder, with another prefix, and the size of the index before the size.
    pub fn id(&self) -> FileId {
        let ManifestSizes { size, chunk_size, index } = self.sizes();
        let mut hasher = Hasher::new();
        match index {
            None => hasher.update(ID_PREFIX),
            Some(index) => {
                hasher.update(TREE_ID_PREFIX);
                hasher.update(&index.to_be_bytes());
            }
        }
        hasher.update(&size.to_be_bytes());
        hasher.update(&u64::from(chunk_size).to_be_bytes());
        hasher.update(&self.payload());
        FileId(hasher.finish().0)
    }

    /// Encodes the payload of a `manifest` message: the digest of each chunk, 32 bytes each.
    ///
    /// For unequal chunks, the length of the chunk (32 bits, big-endian) precedes each digest. If a chunk has 4 GiB or more,
    /// the payload begins with a byte 8, and each length has 64 bits.
    pub fn payload(&self) -> Vec<u8> {
        let length_bytes = match &self.layout {
            Layout::Even { .. } => 0,
            layout if u32::try_from(layout.longest()).is_ok() => LENGTH_BYTES,
            _ => LONG_LENGTH_BYTES,
        };
        let mut bytes = Vec::with_capacity(1 + self.digests.len() * (length_bytes + DIGEST_BYTES));
        if length_bytes == LONG_LENGTH_BYTES {
            bytes.push(LONG_LENGTHS);
        }
        for (index, digest) in self.layout.indices().zip(&self.digests) {
            let length = self.layout.span(index).map_or(0, |span| span.length);
            bytes.extend(&length.to_be_bytes()[LONG_LENGTH_BYTES - length_bytes..]);
            bytes.extend(digest.0);
        }
        bytes
    }

    /// Length of the payload, bytes, of a file with equal chunks.
    ///
    /// `None` for unequal chunks (`chunk_size` 0, or a folder): there the payload determines the number of chunks.
    ///
    /// # Errors
    /// The sizes are not a valid layout.
    pub fn payload_length(sizes: ManifestSizes) -> Result<Option<u64>, ManifestError> {
        match sizes {
            ManifestSizes { chunk_size: 0, index: None, .. } => Ok(None),
            ManifestSizes { chunk_size, index: Some(_), .. } => {
                Ok(Layout::even(0, Some(chunk_size)).map(|_| None)?)
            }
            ManifestSizes { size, chunk_size, index: None } => {
                let layout = Layout::even(size, Some(chunk_size))?;
                Ok(Some(u64::from(layout.count()) * DIGEST_BYTES as u64))
            }
        }
    }

    /// Decodes a manifest from its sizes and payload, and verifies it against the requested id.
    ///
    /// # Errors
    /// Sizes and payload contradict each other, or the manifest has another id.
    pub fn decode(expected: FileId, sizes: ManifestSizes, payload: &[u8]) -> Result<Self, ManifestError> {
        let got = payload.len() as u64;
        let manifest = match Self::payload_length(sizes)? {
            Some(expected) if expected != got => {
                return Err(ManifestError::Length { expected, got });
            }
            Some(_) => Self::new(
                Layout::even(sizes.size, Some(sizes.chunk_size))?,
                payload.chunks_exact(DIGEST_BYTES).map(digest).collect(),
            )?,
            None => Self::decode_uneven(sizes, payload)?,
        };
        match manifest.id() {
            id if id == expected => Ok(manifest),
            got => Err(ManifestError::OtherFile { expected, got }),
        }
    }

    fn decode_uneven(sizes: ManifestSizes, payload: &[u8]) -> Result<Self, ManifestError> {
        let ManifestSizes { size, chunk_size, index } = sizes;
        let kind = index.map_or(ItemKind::File, |index_bytes| ItemKind::Tree { index_bytes, chunk_size });
        let (length_bytes, prefix, rest) = match payload {
            [LONG_LENGTHS, rest @ ..] if rest.len().is_multiple_of(2) => (LONG_LENGTH_BYTES, 1, rest),
            _ => (LENGTH_BYTES, 0, payload),
        };
        let entries = rest.chunks_exact(length_bytes + DIGEST_BYTES);
        if !entries.remainder().is_empty() {
            return Err(ManifestError::Length {
                expected: (prefix + entries.len() * (length_bytes + DIGEST_BYTES)) as u64,
                got: payload.len() as u64,
            });
        }
        let length = |entry: &[u8]| {
            entry[..length_bytes].iter().fold(0, |length: u64, byte| length << 8 | u64::from(*byte))
        };
        let layout = Layout::uneven(entries.clone().map(length))?;
        if length_bytes == LONG_LENGTH_BYTES && u32::try_from(layout.longest()).is_ok() {
            // One set has one payload.
            let expected = (entries.len() * (LENGTH_BYTES + DIGEST_BYTES)) as u64;
            return Err(ManifestError::Length { expected, got: payload.len() as u64 });
        }
        match layout.size() {
            sum if sum == size => {
                let digests = entries.map(|entry| digest(&entry[length_bytes..])).collect();
                Self::of_kind(kind, layout, digests)
            }
            sum => Err(ManifestError::Sum { sum, size }),
        }
    }
}

fn digest(bytes: &[u8]) -> Digest {
    let mut digest = Digest([0; DIGEST_BYTES]);
    digest.0.copy_from_slice(bytes);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sizes(size: u64, chunk_size: u32) -> ManifestSizes {
        ManifestSizes { size, chunk_size, index: None }
    }

    fn even(size: u64) -> Manifest {
        let layout = Layout::even(size, Some(16 * 1024)).unwrap();
        let digests = layout.indices().map(|index| Digest::of(&index.0.to_be_bytes())).collect();
        Manifest::new(layout, digests).unwrap()
    }

    fn encode_and_decode(manifest: &Manifest) -> Result<Manifest, ManifestError> {
        Manifest::decode(manifest.id(), manifest.sizes(), &manifest.payload())
    }

    #[test]
    fn the_computation_of_the_id_is_fixed() {
        // A change to the computation would invalidate every published id.
        assert_eq!(
            even(40_000).id().to_string(),
            "0cfd5dd4aa1a11dcf70bb5f98b2b6ac9e7e7f3e261a60483ca2ab0ed2373480c"
        );
    }

    fn uneven(lengths: &[u64]) -> Manifest {
        let digests = lengths.iter().map(|length| Digest::of(&length.to_be_bytes())).collect();
        Manifest::new(Layout::uneven(lengths.iter().copied()).unwrap(), digests).unwrap()
    }

    #[test]
    fn the_payloads_of_unequal_chunks_are_fixed() {
        let short = uneven(&[10, 0, u32::MAX.into()]);
        assert_eq!(short.payload().len(), 3 * 36);
        assert_eq!(
            short.id().to_string(),
            "8601ef33a764b1cc0a163859c9bda072cadb132093861ecea39847b0f0a13965"
        );
        let long = uneven(&[10, 0, 1 << 32]);
        let payload = long.payload();
        assert_eq!((payload.len(), payload[0]), (1 + 3 * 40, 8));
        assert_eq!(payload[1..9], 10u64.to_be_bytes());
        assert_eq!(payload[81..89], (1u64 << 32).to_be_bytes());
        assert_eq!(long.id().to_string(), "de1aea66d3ed5bea53420e1339b98a7bd39abc97d713872f2af7d9a78a0f97ac");
        assert_eq!(encode_and_decode(&long), Ok(long));
    }

    #[test]
    fn long_lengths_that_contradict_the_payload_are_refused() {
        let manifest = uneven(&[1 << 33, 7]);
        let (id, payload) = (manifest.id(), manifest.payload());
        let size = manifest.layout().size();
        let decode = |size, payload: &[u8]| Manifest::decode(id, sizes(size, 0), payload);
        assert_eq!(decode(size, &payload[..79]), Err(ManifestError::Length { expected: 1 + 40, got: 79 }));
        assert!(matches!(decode(size, &payload[1..]), Err(ManifestError::Length { .. })));
        assert!(matches!(decode(size + 1, &payload), Err(ManifestError::Sum { .. })));
        let mut short = payload.clone();
        short[1..9].copy_from_slice(&9u64.to_be_bytes());
        assert_eq!(decode(16, &short), Err(ManifestError::Length { expected: 72, got: 81 }));
        let mut endless = payload.clone();
        endless[1..9].fill(0xff);
        assert_eq!(decode(size, &endless), Err(ManifestError::Layout(LayoutError::TooLarge)));
    }

    #[test]
    fn size_and_chunk_size_are_part_of_the_id() {
        let one = Manifest::new(Layout::even(1, Some(16_384)).unwrap(), vec![Digest::of(b"")]);
        let two = Manifest::new(Layout::even(2, Some(16_384)).unwrap(), vec![Digest::of(b"")]);
        let three = Manifest::new(Layout::even(1, Some(32_768)).unwrap(), vec![Digest::of(b"")]);
        let ids = [one, two, three].map(|manifest| manifest.unwrap().id());
        assert!(ids[0] != ids[1] && ids[0] != ids[2]);
    }

    fn tree(index_bytes: u64, chunk_size: u32, lengths: &[u64]) -> Result<Manifest, ManifestError> {
        let digests = lengths.iter().map(|length| Digest::of(&length.to_be_bytes())).collect();
        let layout = Layout::uneven(lengths.iter().copied()).unwrap();
        Manifest::of_kind(ItemKind::Tree { index_bytes, chunk_size }, layout, digests)
    }

    #[test]
    fn the_id_of_a_folder_is_fixed_and_no_file_has_it() {
        let folder = tree(30, 16_384, &[10, 20, 5]).unwrap();
        assert_eq!(
            folder.id().to_string(),
            "eba21961a5798b33728ec50f363399257f646f02d181d02e37269e9e72583e4b"
        );
        assert_eq!(folder.payload(), uneven(&[10, 20, 5]).payload());
        assert_ne!(folder.id(), uneven(&[10, 20, 5]).id());
        assert_ne!(folder.id(), tree(10, 16_384, &[10, 20, 5]).unwrap().id(), "another index");
        assert_ne!(folder.id(), tree(30, 32_768, &[10, 20, 5]).unwrap().id(), "another chunk size");
        assert_eq!((folder.index_chunks(), uneven(&[1]).index_chunks()), (0..2, 0..0));
        assert_eq!(encode_and_decode(&folder), Ok(folder));
    }

    #[test]
    fn chunks_that_no_folder_has_are_refused() {
        let refused = |index, lengths: &[u64]| {
            assert_eq!(tree(index, 16_384, lengths), Err(ManifestError::Tree { index }), "{lengths:?}");
        };
        refused(0, &[10]);
        refused(5, &[10]);
        refused(11, &[10]);
        refused(10, &[10, 0]);
        refused(10, &[10, u64::from(CHUNK_SIZE_MAX) + 1]);
        assert!(matches!(tree(10, 3, &[10]), Err(ManifestError::Layout(_))));
        let even = Layout::even(10, Some(16_384)).unwrap();
        let kind = ItemKind::Tree { index_bytes: 10, chunk_size: 16_384 };
        assert!(Manifest::of_kind(kind, even, vec![Digest::of(b"")]).is_err());
    }

    #[test]
    fn contradicting_sizes_and_payloads_are_refused() {
        let manifest = even(40_000);
        let (id, payload) = (manifest.id(), manifest.payload());
        assert!(matches!(
            Manifest::decode(id, sizes(40_000, 16_384), &payload[1..]),
            Err(ManifestError::Length { expected: 96, got: 95 })
        ));
        assert!(matches!(
            Manifest::decode(id, sizes(39_999, 16_384), &payload),
            Err(ManifestError::OtherFile { .. })
        ));
        assert!(matches!(Manifest::decode(id, sizes(40_000, 3), &payload), Err(ManifestError::Layout(_))));
        assert!(matches!(
            Manifest::decode(id, sizes(40_000, 0), &[0; 36]),
            Err(ManifestError::Sum { sum: 0, size: 40_000 })
        ));
        assert!(Manifest::decode(id, sizes(0, 0), &[]).is_err());
        assert!(Manifest::new(Layout::even(1, None).unwrap(), vec![]).is_err());
    }

    proptest! {
        #[test]
        fn decoding_restores_manifests_with_equal_chunks(size in 0u64..1_000_000) {
            let manifest = even(size);
            prop_assert_eq!(encode_and_decode(&manifest), Ok(manifest));
        }

        #[test]
        fn decoding_restores_manifests_with_unequal_chunks(lengths in prop::collection::vec(0u64..1 << 34, 1..20)) {
            let manifest = uneven(&lengths);
            prop_assert_eq!(encode_and_decode(&manifest), Ok(manifest));
        }

        #[test]
        fn arbitrary_bytes_never_panic(size: u64, chunk_size: u32, payload: Vec<u8>) {
            let _ = Manifest::decode(FileId([0; 32]), sizes(size, chunk_size), &payload);
            let _ = Manifest::decode(FileId([0; 32]), sizes(size, 0), &payload);
            let tree = ManifestSizes { size, chunk_size: 1 << 16, index: Some(chunk_size.into()) };
            let _ = Manifest::decode(FileId([0; 32]), tree, &payload);
        }
    }
}
