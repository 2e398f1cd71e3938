//! Payloads that follow a message: the bytes of a manifest.

use crate::content::Manifest;
use crate::content::limits::CHUNKS_MAX;

/// Size of one chunk's entry in the manifest of a file with uneven chunks at most, bytes.
const ENTRY_MAX: u64 = 36;

/// Checks the length of a manifest's payload before memory is reserved for it, and returns it in bytes.
///
/// # Errors
/// The sizes do not fit together, or the length is more than a manifest of these sizes has.
pub fn manifest_payload_length(size: u64, chunk_size: u32, length: u64) -> Result<usize, String> {
    let wrong = |text: String| format!("sends a wrong manifest: {text}");
    let expected = Manifest::payload_length(size, chunk_size).map_err(|error| wrong(error.to_string()))?;
    let most = expected.unwrap_or(u64::from(CHUNKS_MAX) * ENTRY_MAX);
    if length > most {
        return Err(wrong(format!("{length} bytes of digests")));
    }
    Ok(length as usize)
}
