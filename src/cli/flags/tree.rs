//! Flags of the download of a folder.

use super::super::help::FILES;
use crate::content::limits::TREE_ENTRIES_MAX;
use crate::content::tree::{PathFilter, PathPattern};
use crate::storage::TreeOptions;

/// What is received of a folder, and what is accepted.
#[derive(clap::Args, Debug, Clone)]
pub struct TreeFlags {
    /// Of a folder, fetch only the entries that match this pattern, and what is below them; may be repeated. *, ? and [...]
    /// match within a name, ** as a whole name matches any number of folders; a pattern without / matches at any depth
    #[arg(long, value_name = "GLOB", help_heading = FILES)]
    only: Vec<PathPattern>,
    /// Of a folder, do not fetch the entries that match this pattern, nor what is below them; may be repeated
    #[arg(long, value_name = "GLOB", help_heading = FILES)]
    exclude: Vec<PathPattern>,
    /// Which symbolic links a folder may have: those that lead to places inside it, or any
    #[arg(long, value_name = "WHICH", value_enum, default_value = "inside", help_heading = FILES)]
    links: Links,
    /// Give the entries of a folder the owners that it states; needs the permission to do so
    #[arg(long, help_heading = FILES)]
    owners: bool,
    /// Maximum number of entries of a folder
    #[arg(long, value_name = "COUNT", default_value_t = TREE_ENTRIES_MAX, value_parser = clap::value_parser!(u32).range(1..),
        help_heading = FILES)]
    entries_max: u32,
}

/// The values of `--links`.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Links {
    Inside,
    Any,
}

impl TreeFlags {
    /// The values of all flags.
    pub fn options(&self) -> TreeOptions {
        TreeOptions {
            filter: PathFilter { only: self.only.clone(), exclude: self.exclude.clone() },
            with_owners: self.owners,
            with_any_links: self.links == Links::Any,
            entries_max: self.entries_max,
        }
    }
}
