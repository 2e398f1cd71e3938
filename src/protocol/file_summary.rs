//! Description of a file in messages.

use crate::content::{FileId, FileName};
use serde::{Deserialize, Serialize};

/// Description of a file in an announcement.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileSummary {
    /// Id of the file.
    pub id: FileId,
    /// Name of the file, chosen by its holders.
    pub name: FileName,
    /// Size of the file, bytes.
    pub size: u64,
    /// Number of chunks.
    pub chunks: u32,
}
