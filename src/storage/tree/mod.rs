//! Folders on disk: scan, publication, and the source of the chunks of a published folder.
//!
//! All entries are reached from an open directory descriptor of the root, without following a link
//! (`beneath.rs`), so that a link that another program plants meanwhile leads nowhere.

pub(super) mod beneath;
mod files;
mod hash;
mod holes;
mod scan;
mod source;

pub use scan::{RefusedEntry, ScanOptions, TreeScan, TreeState};
pub use source::{PublishError, TreeSource};
