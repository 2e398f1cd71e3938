//! End of the download of a tree: one rename to the target, or the replacement of the files of an existing folder.

use super::completion::{create_entries, set_directory_metadata, set_file_metadata, set_root_mode};
use super::folder::{EntryStamp, TreeFolder};
use super::places::Places;
use super::replacement::{Replacement, sync_file_system};
use super::staging::Staging;
use super::state::TreeState;
use super::{Replaces, Tree, TreePart};
use crate::content::ChunkIndex;
use crate::content::tree::EntryKind;
use crate::storage::disk;
use crate::storage::error::StoreError;
use crate::sync::lock;
use std::sync::Arc;

impl TreePart {
    /// Completes the staged tree and gives it its name. A repeated call only syncs.
    ///
    /// With `overwrite` a file at the target is replaced, or the different files of a folder. With `durable` the call returns
    /// when data and names are on the disk. Chunks are served before and after.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if a chunk is missing, [`StoreError::Exists`] if the target exists and `overwrite` is not
    /// set; [`StoreError::Entry`] if an entry cannot be created, or has the name of another one on this file system.
    pub fn finish(&self, overwrite: bool, durable: bool) -> Result<(), StoreError> {
        let Some(staging) = &self.staging else { return Ok(()) };
        if lock(&self.listed).finished {
            return if durable { self.make_durable() } else { Ok(()) };
        }
        let done = self.done();
        if let Some(missing) = self.wanted().iter().find(|index| !done.has(*index)) {
            return Err(StoreError::Missing(missing));
        }
        let first = ChunkIndex(self.manifest.index_chunks().end);
        let tree = self.tree().ok_or(StoreError::Missing(first))?;
        match tree.replaces {
            Replaces::Folder if !overwrite => Err(StoreError::Exists(self.target.clone())),
            Replaces::Folder => self.replace(staging, &tree),
            Replaces::Nothing | Replaces::File => self.publish(staging, &tree, overwrite, durable),
        }
    }

    fn publish(
        &self,
        staging: &Staging,
        tree: &Tree,
        overwrite: bool,
        durable: bool,
    ) -> Result<(), StoreError> {
        let Some(staged) = &tree.staged else { return Ok(()) };
        let (places, with_owners) = (&tree.places, self.options.with_owners);
        create_entries(staged, places, &tree.in_place, false)?;
        let stamps = set_file_metadata(staged, places, &[], with_owners)?;
        set_directory_metadata(staged, places, with_owners)?;
        if durable {
            sync_file_system(staging.folder(), staging.path())?;
        }
        // The state is written first: after the rename, a run that is killed has a complete tree with its state.
        self.write_state(places, &stamps, durable);
        staging.publish(&self.target, overwrite && tree.replaces == Replaces::File)?;
        let folder = TreeFolder::open(&self.target)?;
        set_root_mode(&folder, places)?;
        self.serve_from_target(folder, places.clone(), stamps);
        self.end_staging(staging);
        match durable {
            true => disk::sync_folder(disk::folder_of(&self.target)),
            false => Ok(()),
        }
    }

    /// The target is complete: a staging folder that remains costs only space.
    fn end_staging(&self, staging: &Staging) {
        lock(&self.listed).finished = true;
        if let Err(error) = staging.remove() {
            log::warn!("the staging folder remains: {error}");
        }
    }

    fn replace(&self, staging: &Staging, tree: &Tree) -> Result<(), StoreError> {
        let (Some(staged), Some(target)) = (&tree.staged, &tree.target) else { return Ok(()) };
        let (places, with_owners) = (&tree.places, self.options.with_owners);
        create_entries(staged, places, &tree.in_place, true)?;
        let replacement = Replacement { staged, target, places };
        replacement.check()?;
        let equal = replacement.equal_files(&tree.in_place)?;
        let mut in_place = tree.in_place.clone();
        equal.iter().for_each(|number| in_place[*number as usize] = true);
        self.set_tree(Tree {
            places: places.clone(),
            staged: tree.staged.clone(),
            target: tree.target.clone(),
            in_place: in_place.clone(),
            stamps: None,
            replaces: tree.replaces,
        });
        equal.iter().try_for_each(|number| staged.remove(places, *number))?;
        let mut stamps = set_file_metadata(staged, places, &in_place, with_owners)?;
        for (number, entry) in places.entries().filter(|(number, _)| in_place[*number as usize]) {
            if let (EntryKind::File { .. }, Some(stat)) = (&entry.kind, target.stat(places, number)?) {
                stamps[number as usize] = EntryStamp::of(&stat);
            }
        }
        // From the journal on, the staged files are the only place of the new content.
        sync_file_system(staging.folder(), staging.path())?;
        let journal = TreeState { part: self.part, index: places.content().index().bytes().to_vec(), stamps };
        journal.write(&staging.journal(), true)?;
        disk::sync_folder(staging.path())?;
        match self.continue_replacement(places, &journal)? {
            true => Ok(()),
            false => Err(StoreError::Changed(self.target.clone())),
        }
    }

    /// Moves the staged files that are left to the target and completes its metadata. `false` if the target was changed by
    /// another program since the journal was written.
    pub(super) fn continue_replacement(
        &self,
        places: &Arc<Places>,
        journal: &TreeState,
    ) -> Result<bool, StoreError> {
        let Some(staging) = &self.staging else { return Ok(false) };
        if !self.target.is_dir() {
            return Ok(false);
        }
        let with_owners = self.options.with_owners;
        let staged = TreeFolder::new(staging.open_tree()?.0, staging.tree_path());
        let target = TreeFolder::open(&self.target)?;
        let replacement = Replacement { staged: &staged, target: &target, places };
        replacement.apply()?;
        if !replacement.is_as_in(journal)? {
            return Ok(false);
        }
        let stamps = set_file_metadata(&target, places, &[], with_owners)?;
        set_directory_metadata(&target, places, with_owners)?;
        set_root_mode(&target, places)?;
        // The renames are durable before the journal is removed.
        sync_file_system(staging.folder(), staging.path())?;
        self.write_state(places, &stamps, true);
        self.serve_from_target(target, places.clone(), stamps);
        self.end_staging(staging);
        Ok(true)
    }
}
