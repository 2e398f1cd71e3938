//! Payloads that follow a message: the bytes of a manifest.

use crate::content::Manifest;
use crate::content::limits::MANIFEST_BYTES_MAX;

/// Checks the length of the payload of a manifest before memory is reserved for it, and returns it in bytes.
///
/// # Errors
/// No manifest has these sizes, or the payload is longer than that of a manifest of these sizes.
pub fn manifest_payload_length(size: u64, chunk_size: u32, length: u64) -> Result<usize, String> {
    let wrong = |text: String| format!("invalid manifest: {text}");
    let expected = Manifest::payload_length(size, chunk_size).map_err(|error| wrong(error.to_string()))?;
    let most = expected.unwrap_or(MANIFEST_BYTES_MAX);
    if length > most {
        return Err(wrong(format!("{length} bytes of digests")));
    }
    Ok(length as usize)
}
