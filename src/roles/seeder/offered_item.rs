//! An offered file or folder.

use super::SeederConfig;
use super::offered_file::OfferedFile;
use super::offered_tree::OfferedTree;
use crate::content::FileName;
use crate::net::Shutdown;
use crate::protocol::tracker::FileSummary;
use crate::report::error::RoleError;
use crate::report::watch::Watch;
use crate::upload::offers::Offers;
use std::path::Path;

/// An offered file or folder.
pub(super) enum OfferedItem {
    File(Box<OfferedFile>),
    Tree(Box<OfferedTree>),
}

impl OfferedItem {
    /// Hashes a file or a folder. It is not offered yet.
    ///
    /// # Errors
    /// It cannot be read or sent, or changes meanwhile.
    pub(super) fn new(
        path: &Path,
        name: FileName,
        config: &SeederConfig,
        offers: &Offers,
        watch: &dyn Watch,
        shutdown: &Shutdown,
    ) -> Result<Self, RoleError> {
        let chunk_size = config.chunk_size;
        match path.is_dir() {
            true => {
                let options = (chunk_size, &config.tree);
                let tree = OfferedTree::new(path, name, options, offers, watch, shutdown)?;
                Ok(Self::Tree(Box::new(tree)))
            }
            false => {
                let file = OfferedFile::new(path, name, chunk_size, offers, watch, shutdown)?;
                Ok(Self::File(Box::new(file)))
            }
        }
    }

    /// Offers the item.
    pub(super) fn offer(&mut self) {
        match self {
            Self::File(file) => file.offer(),
            Self::Tree(tree) => tree.offer(),
        }
    }

    /// Id, name and size of the item; `None` while it is not offered.
    pub(super) fn summary(&self) -> Option<FileSummary> {
        match self {
            Self::File(file) => file.summary(),
            Self::Tree(tree) => Some(tree.summary()),
        }
    }

    /// Checks the path for changes, and releases replaced versions that are no longer used. Returns whether the offer has changed.
    pub(super) fn check(&mut self, watch: &dyn Watch, shutdown: &Shutdown) -> bool {
        match self {
            Self::File(file) => {
                file.release_replaced();
                file.check(watch, shutdown)
            }
            Self::Tree(tree) => {
                tree.check(shutdown);
                false
            }
        }
    }
}
