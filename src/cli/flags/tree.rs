//! Flags for folders.

use crate::cli::help::FILES;
use crate::content::limits::TREE_ENTRIES_MAX;
use crate::content::tree::{PathFilter, PathPattern};
use crate::roles::seeder::TreeOptions;
use crate::storage::TreeReceiveOptions;
use crate::storage::tree::ScanOptions;
use std::path::Path;

/// Symbolic links that a folder may have.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinksRule {
    /// Links whose targets are inside the folder.
    Inside,
    /// All links.
    Any,
}

/// What is sent of a folder.
#[derive(clap::Args, Debug, Clone)]
pub struct PublishTreeFlags {
    /// Leave out the entries of a folder that cannot be sent, such as FIFOs, sockets, devices and unreadable files
    /// [default: they are an error]
    #[arg(long, help_heading = FILES)]
    skip_special: bool,
    /// Transfer the owners of a folder's entries, too: user ids and group ids, which only a privileged receiver can set
    #[arg(long, help_heading = FILES)]
    owners: bool,
    /// Symbolic links that a folder may have: those that lead to places inside it, or any
    #[arg(long, value_name = "RULE", default_value = "inside", hide_possible_values = true, help_heading = FILES)]
    links: LinksRule,
    /// Largest number of entries of a folder
    #[arg(long, value_name = "N", default_value_t = TREE_ENTRIES_MAX, help_heading = FILES,
        value_parser = clap::value_parser!(u32).range(1..))]
    entries_max: u32,
}

impl PublishTreeFlags {
    /// The options for a folder; `log_file` is left out.
    pub fn options(&self, log_file: &Path) -> TreeOptions {
        let omitted = Some(log_file.to_owned());
        let scan = ScanOptions { has_owners: self.owners, omitted, entries_max: self.entries_max };
        TreeOptions { scan, skips_special: self.skip_special, allows_any_link: self.links == LinksRule::Any }
    }
}

/// What is received of a folder, and what is accepted.
#[derive(clap::Args, Debug, Clone)]
pub struct ReceiveTreeFlags {
    /// Of a folder, fetch only the entries that match this pattern, and what is below them; may be repeated. *, ? and [...]
    /// match within a name, ** as a whole name matches any number of folders; a pattern without / matches at any depth
    #[arg(long, value_name = "GLOB", help_heading = FILES)]
    only: Vec<PathPattern>,
    /// Of a folder, do not fetch the entries that match this pattern, nor what is below them; may be repeated
    #[arg(long, value_name = "GLOB", help_heading = FILES)]
    exclude: Vec<PathPattern>,
    /// Symbolic links that a folder may have: those that lead to places inside it, or any
    #[arg(long, value_name = "RULE", default_value = "inside", hide_possible_values = true, help_heading = FILES)]
    links: LinksRule,
    /// Transfer the owners of a folder's entries, too: user ids and group ids, which only a privileged receiver can set
    #[arg(long, help_heading = FILES)]
    owners: bool,
    /// Largest number of entries of a folder
    #[arg(long, value_name = "N", default_value_t = TREE_ENTRIES_MAX, help_heading = FILES,
        value_parser = clap::value_parser!(u32).range(1..))]
    entries_max: u32,
}

impl ReceiveTreeFlags {
    /// The options for a folder.
    pub fn options(&self) -> TreeReceiveOptions {
        TreeReceiveOptions {
            filter: PathFilter { only: self.only.clone(), exclude: self.exclude.clone() },
            with_owners: self.owners,
            with_any_links: self.links == LinksRule::Any,
            entries_max: self.entries_max,
        }
    }
}
