//! Summary of a file in messages.

use crate::content::{FileId, FileName};
use serde::{Deserialize, Serialize};

/// A file as a tracker knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileSummary {
    /// The file's id.
    pub id: FileId,
    /// The name that its holders give it.
    pub name: FileName,
    /// Bytes in the file.
    pub size: u64,
    /// How many chunks it has.
    pub chunks: u32,
}
