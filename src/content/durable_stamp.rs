//! Stamp of a file that stays valid over a restart of the program and of the system.

use serde::{Deserialize, Serialize};

/// Size, modification time and inode of a file. They stay equal if the file is renamed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DurableStamp {
    /// Size, bytes.
    pub size: u64,
    /// Modification time, nanoseconds since 1970.
    pub modified_ns: i64,
    /// Inode number.
    pub inode: u64,
}
