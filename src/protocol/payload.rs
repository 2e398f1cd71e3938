//! Payloads that follow a message: the bytes of a manifest.

use crate::content::limits::MANIFEST_BYTES_MAX;
use crate::content::{Manifest, ManifestSizes};

/// Checks the length of the payload of a manifest before memory is reserved for it, and returns it in bytes.
///
/// # Errors
/// No manifest has these sizes, or the payload is longer than that of a manifest of these sizes.
pub fn manifest_payload_length(sizes: ManifestSizes, length: u64) -> Result<usize, String> {
    let wrong = |text: String| format!("invalid manifest: {text}");
    let expected = Manifest::payload_length(sizes).map_err(|error| wrong(error.to_string()))?;
    let most = expected.unwrap_or(MANIFEST_BYTES_MAX);
    if length > most {
        return Err(wrong(format!("{length} bytes of digests")));
    }
    Ok(length as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_of_a_manifest_is_accepted_up_to_its_limit() {
        let sizes = |size, chunk_size| ManifestSizes { size, chunk_size, index: None };
        let of_set = |length| manifest_payload_length(sizes(1, 0), length);
        assert_eq!(of_set(MANIFEST_BYTES_MAX), Ok(MANIFEST_BYTES_MAX as usize));
        assert!(of_set(MANIFEST_BYTES_MAX + 1).unwrap_err().contains("bytes of digests"));
        let of_file = |length| manifest_payload_length(sizes(40_000, 16 * 1024), length);
        assert_eq!((of_file(96), of_file(97).is_err()), (Ok(96), true), "three digests");
    }
}
