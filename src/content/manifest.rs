//! The manifest: a file's layout and the digest of each chunk.
//!
//! A receiver that has the id of a file needs to trust no peer: it verifies the manifest against the id and
//! each chunk against the manifest. Invariant: there is exactly one digest for each chunk of the layout.

use super::digest::{Digest, FileId, Hasher};
use super::layout::{ChunkIndex, Layout, LayoutError};

/// First bytes of the message whose SHA-256 is the id of a file.
const ID_PREFIX: &[u8] = b"shoal manifest 1\n";
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
    /// The manifest belongs to another file.
    #[error("the manifest has the id {got}, not {expected}")]
    OtherFile {
        /// The requested id.
        expected: FileId,
        /// The id of the received manifest.
        got: FileId,
    },
}

/// Layout and digests of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    layout: Layout,
    digests: Vec<Digest>,
}

impl Manifest {
    /// A manifest of the given layout and digests.
    ///
    /// # Errors
    /// The number of digests differs from the number of chunks.
    pub fn new(layout: Layout, digests: Vec<Digest>) -> Result<Self, ManifestError> {
        match digests.len() == layout.count() as usize {
            true => Ok(Self { layout, digests }),
            false => Err(ManifestError::Length {
                expected: u64::from(layout.count()) * DIGEST_BYTES as u64,
                got: (digests.len() * DIGEST_BYTES) as u64,
            }),
        }
    }

    /// Division of the file into chunks.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The expected digest of a chunk; `None` past the last chunk.
    pub fn digest(&self, index: ChunkIndex) -> Option<Digest> {
        self.digests.get(index.at()).copied()
    }

    /// The id of the file: SHA-256 of a fixed prefix, size and chunk size (64 bits each, big-endian)
    /// and [`payload`](Self::payload).
    pub fn id(&self) -> FileId {
        let mut hasher = Hasher::new();
        hasher.update(ID_PREFIX);
        hasher.update(&self.layout.size().to_be_bytes());
        hasher.update(&u64::from(self.layout.chunk_size()).to_be_bytes());
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
    /// `None` for unequal chunks (`chunk_size` 0): there the payload determines the number of chunks.
    ///
    /// # Errors
    /// The sizes are not a valid layout.
    pub fn payload_length(size: u64, chunk_size: u32) -> Result<Option<u64>, ManifestError> {
        match chunk_size {
            0 => Ok(None),
            _ => {
                let layout = Layout::even(size, Some(chunk_size))?;
                Ok(Some(u64::from(layout.count()) * DIGEST_BYTES as u64))
            }
        }
    }

    /// Decodes a manifest from its sizes and payload, and verifies it against the requested id.
    ///
    /// # Errors
    /// Sizes and payload contradict each other, or the manifest has another id.
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
                payload.chunks_exact(DIGEST_BYTES).map(digest).collect(),
            )?,
            None => Self::decode_uneven(size, payload)?,
        };
        match manifest.id() {
            id if id == expected => Ok(manifest),
            got => Err(ManifestError::OtherFile { expected, got }),
        }
    }

    fn decode_uneven(size: u64, payload: &[u8]) -> Result<Self, ManifestError> {
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
                Self::new(layout, entries.map(|entry| digest(&entry[length_bytes..])).collect())
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

    fn even(size: u64) -> Manifest {
        let layout = Layout::even(size, Some(16 * 1024)).unwrap();
        let digests = layout.indices().map(|index| Digest::of(&index.0.to_be_bytes())).collect();
        Manifest::new(layout, digests).unwrap()
    }

    fn encode_and_decode(manifest: &Manifest) -> Result<Manifest, ManifestError> {
        let layout = manifest.layout();
        Manifest::decode(manifest.id(), layout.size(), layout.chunk_size(), &manifest.payload())
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
        let decode = |size, payload: &[u8]| Manifest::decode(id, size, 0, payload);
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

    #[test]
    fn contradicting_sizes_and_payloads_are_refused() {
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
            let _ = Manifest::decode(FileId([0; 32]), size, chunk_size, &payload);
            let _ = Manifest::decode(FileId([0; 32]), size, 0, &payload);
        }
    }
}
