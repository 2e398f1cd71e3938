//! SHA-256 digests, and the id of a file.
//!
//! Both are 32 bytes, written as 64 lower-case hexadecimal digits. They are distinct types, so that
//! the digest of a chunk cannot be passed as the id of a file.

use super::serde_str;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;
use std::{fmt, str::FromStr, sync::LazyLock};

/// A text that is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {digits} hexadecimal digits")]
pub struct NotADigest {
    /// Expected number of hexadecimal digits.
    pub digits: usize,
}

macro_rules! hex_bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
        impl FromStr for $name {
            type Err = NotADigest;
            fn from_str(text: &str) -> Result<Self, NotADigest> {
                parse_hex(text.as_bytes()).map($name)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(serde_str::hex(&self.0, &mut [0; 64]))
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                serde_str::deserialize(from, "64 hexadecimal digits", str::parse)
            }
        }
    };
}

hex_bytes! {
    /// The SHA-256 of a chunk's bytes.
    Digest
}
hex_bytes! {
    /// The id of a file: SHA-256 of its size, chunk size and digests
    /// (see [`Manifest::id`](crate::content::Manifest::id)). The file name is not part of it.
    FileId
}

/// Parses exactly `2 * N` hexadecimal digits, of either case, into `N` bytes.
pub(super) fn parse_hex<const N: usize>(digits: &[u8]) -> Result<[u8; N], NotADigest> {
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return Err(NotADigest { digits: 2 * N });
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |c: u8| serde_str::hex_digit(c).ok_or(NotADigest { digits: 2 * N });
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Digest(sha2::Sha256::digest(bytes).into())
    }

    /// The digests of `messages`, in order.
    ///
    /// Hashes [`hash_lanes`] messages of equal length in parallel on one core. This doubles the throughput,
    /// because the instructions of one SHA-256 depend on each other and leave the core partly idle.
    pub fn of_each(messages: &[&[u8]]) -> Vec<Self> {
        of_each_in(messages, hash_lanes())
    }
}

/// Largest number of messages hashed in parallel on one core: one in each lane of a 512-bit register.
pub const HASH_LANES_MAX: usize = 16;

/// Messages hashed in parallel on one core where registers are narrower: the best count for processors with SHA-256
/// instructions. Four chunks of the default size still fit in the cache.
const FEW_LANES: usize = 4;

/// Fewest messages for which all lanes of a wide register are used. The other lanes hash a copy of the first message: so
/// 16 lanes take as long as 10 messages in groups of [`FEW_LANES`].
const WIDE_GROUP_MIN: usize = 10;

/// Messages hashed in parallel on one core: [`HASH_LANES_MAX`] where the processor has 512-bit registers, fewer elsewhere.
///
/// The parallel hasher chooses code by processor model. Each width is used only if its results equal those of the serial
/// hasher in a self-test.
pub fn hash_lanes() -> usize {
    static LANES: LazyLock<usize> = LazyLock::new(|| {
        let widths = [HASH_LANES_MAX, FEW_LANES];
        let widest = tape_sha256::lane_width().max(FEW_LANES);
        widths.into_iter().find(|width| *width <= widest && is_right(*width)).unwrap_or(1)
    });
    *LANES
}

/// Self-test of the parallel hasher with this number of messages.
fn is_right(width: usize) -> bool {
    let messages: Vec<[u8; 200]> = (0..width).map(|byte| [byte as u8; 200]).collect();
    let messages: Vec<&[u8]> = messages.iter().map(|message| message.as_slice()).collect();
    let serial: Vec<Digest> = messages.iter().map(|message| Digest::of(message)).collect();
    together(&messages, width) == serial
}

fn of_each_in(messages: &[&[u8]], lanes: usize) -> Vec<Digest> {
    messages.chunks(lanes).flat_map(|group| of_group(group, lanes)).collect()
}

/// The digests of at most `lanes` messages.
fn of_group(group: &[&[u8]], lanes: usize) -> Vec<Digest> {
    let alike = group.iter().all(|message| message.len() == group[0].len());
    match group.len() {
        _ if !alike || lanes < FEW_LANES => group.iter().map(|message| Digest::of(message)).collect(),
        WIDE_GROUP_MIN.. => together(group, lanes),
        // Hashing the third message twice takes no longer than hashing three messages.
        3..=FEW_LANES => together(group, FEW_LANES),
        0..3 => group.iter().map(|message| Digest::of(message)).collect(),
        _ => of_each_in(group, FEW_LANES),
    }
}

/// The digests of messages of equal length, of which there are at most `width`: the rest is filled with the first one.
fn together(messages: &[&[u8]], width: usize) -> Vec<Digest> {
    let mut padded = messages.to_vec();
    padded.resize(width, messages.first().copied().unwrap_or_default());
    let mut digests = vec![[0; 32]; width];
    tape_sha256::hash_many(&padded, &mut digests);
    digests.truncate(messages.len());
    digests.into_iter().map(Digest).collect()
}

impl FileId {
    /// The provisional id of a chunk set, used in requests until its manifest is agreed.
    ///
    /// It is the SHA-256 of a fixed prefix, the number of chunks and the name, so that it never equals the
    /// id of a file.
    pub fn of_set(name: &super::SetName, count: u32) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(b"shoal chunk set 1\n");
        hasher.update(&count.to_be_bytes());
        hasher.update(name.as_str().as_bytes());
        FileId(hasher.finish().0)
    }

    /// The first eight digits, for log lines and tables.
    pub fn short(&self) -> String {
        self.0[..4].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Computes a [`Digest`] from consecutive pieces of a message.
#[derive(Default, Clone)]
pub struct Hasher(sha2::Sha256);

impl Hasher {
    /// A hasher of an empty message.
    pub fn new() -> Self {
        Self::default()
    }
    /// Appends bytes to the message.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    /// The digest of the whole message.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_an_empty_message_matches_the_standard() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), empty);
        assert_eq!(empty.parse(), Ok(Digest::of(b"")));
        assert_eq!(Hasher::new().finish(), Digest::of(b""));
    }

    #[test]
    fn hashing_in_pieces_equals_hashing_the_whole() {
        let mut hasher = Hasher::new();
        hasher.update(b"ab");
        hasher.update(b"c");
        assert_eq!(hasher.finish(), Digest::of(b"abc"));
    }

    #[test]
    fn parallel_and_serial_hashing_agree() {
        let bytes: Vec<u8> = (0..2_000u32).map(|at| (at * 7 % 251) as u8).collect();
        assert!([1, FEW_LANES, HASH_LANES_MAX].contains(&hash_lanes()));
        // The parallel hasher works in any width on each processor, only not as fast.
        assert!(is_right(FEW_LANES) && is_right(HASH_LANES_MAX));
        let agree = |messages: &[&[u8]]| {
            let one_by_one: Vec<Digest> = messages.iter().map(|message| Digest::of(message)).collect();
            assert_eq!(Digest::of_each(messages), one_by_one);
            for lanes in [1, FEW_LANES, HASH_LANES_MAX] {
                assert_eq!(of_each_in(messages, lanes), one_by_one, "{lanes} lanes");
            }
        };
        // Lengths around the block boundaries of SHA-256; full groups, partial groups and none.
        for length in (0..200).chain([512, 1_000]) {
            for count in (0..2 * HASH_LANES_MAX + 2).step_by(if length % 64 < 3 { 1 } else { 5 }) {
                let messages: Vec<&[u8]> = (0..count).map(|at| &bytes[at * 25..at * 25 + length]).collect();
                agree(&messages);
            }
        }
        agree(&[&bytes[..100], &bytes[..99], &bytes[..100], &bytes[..100]]);
    }

    #[test]
    fn malformed_digests_are_refused() {
        for text in ["", "e3", &"g".repeat(64), &"é".repeat(32), &"0".repeat(65)] {
            assert_eq!(text.parse::<Digest>(), Err(NotADigest { digits: 64 }), "{text}");
        }
        assert!(serde_json::from_str::<Digest>("\"00\"").is_err());
    }

    #[test]
    fn file_id_has_a_json_form_and_a_short_form() {
        let id = FileId([0xab; 32]);
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{}\"", "ab".repeat(32)));
        assert_eq!(serde_json::from_str::<FileId>(&json).unwrap(), id);
        assert_eq!(id.short(), "abababab");
    }
}
