//! Description of a file: chunks, digests, manifests, names, and every limit and default.
//!
//! The lowest layer: it imports no other module of the crate. Everything here is a pure value or a pure
//! function, without sockets, files, threads or clocks.

pub mod bitfield;
pub mod digest;
pub mod durable_stamp;
pub mod fmt;
pub mod id_prefix;
pub mod layout;
pub mod limits;
pub mod local_chunks;
pub mod manifest;
pub mod md5;
pub mod names;
pub(crate) mod serde_str;
pub mod similar_names;
pub mod tree;

pub use bitfield::Bitfield;
pub use digest::{Digest, FileId, HASH_LANES_MAX, Hasher, hash_lanes};
pub use durable_stamp::DurableStamp;
pub use id_prefix::IdPrefix;
pub use layout::{ChunkIndex, ChunkSpan, Layout};
pub use manifest::{ItemKind, Manifest, ManifestSizes};
pub use md5::Md5;
pub use names::{FileName, PeerName, SetName};
