//! Step between index and content: check the index, compare an existing folder, and prepare the staging folder.

use super::completion::{check_names, refused};
use super::existing::{self, Comparison, read_pieces};
use super::folder::{EntryStamp, TreeFolder, kind_of};
use super::places::Places;
use super::staging::{Staging, merges_names};
use super::state::{self, TreeState};
use super::{Listed, Replaces, Tree, TreePart, TreeReceiveOptions};
use crate::content::tree::{EntryKind, TreeContent, TreeIndex, leads_outside};
use crate::content::{Bitfield, ChunkIndex, Digest, Manifest, limits};
use crate::storage::error::{self, StoreError};
use crate::storage::resume_file::Turns;
use crate::storage::verify::{Verify, VerifyCallbacks};
use crate::storage::{ChunkSink as _, disk};
use crate::sync::lock;
use rustix::fs::FileType;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

/// Result of the [preparation](TreePart::prepare).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prepared {
    /// The tree is complete at the target.
    Complete {
        /// Entries that differ in permissions or modification time alone.
        other_metadata: u64,
    },
    /// Chunks are missing, or the staged tree is not at the target yet.
    Incomplete {
        /// Staged chunks that failed their verification.
        bad: u32,
    },
    /// Another file or folder is at the target; how it differs.
    Differs(String),
}

/// How existing data is checked.
#[derive(Debug, Clone, Copy)]
pub struct TreeRecheck {
    /// Whether files whose stored state is unchanged are not read.
    pub trusts_state: bool,
    /// Share of the other files at the target that is read.
    pub in_place: Verify,
    /// Share of the staged chunks that is read.
    pub staged: Verify,
}

impl TreePart {
    /// The complete tree at the target, if its stored state tells that it is one. Only files that have changed since are
    /// read. The staging folder of an earlier run is removed then.
    ///
    /// # Errors
    /// The files cannot be read, or [`StoreError::Stopped`].
    pub fn recognise(
        target: &Path,
        manifest: &Arc<Manifest>,
        options: &TreeReceiveOptions,
        callbacks: VerifyCallbacks<'_>,
    ) -> Result<Option<Self>, StoreError> {
        let part = super::part_id(manifest.id(), &options.filter);
        let Some(path) = state::path_of(target) else { return Ok(None) };
        let (true, Some(state)) = (target.is_dir(), TreeState::read(&path, part)) else { return Ok(None) };
        let places = Arc::new(places_of(state.index.clone(), manifest, options)?);
        let folder = TreeFolder::open(target)?;
        let found = existing::compare(&folder, &places, manifest, Some(&state), Verify::Full, callbacks)?;
        if !found.is_complete() {
            return Ok(None);
        }
        let chunks = places.chunks().clone();
        let listed = Listed {
            count: 0,
            durable: Bitfield::none(chunks.count()),
            in_place: Bitfield::none(chunks.count()),
            done: chunks,
            turns: Turns::default(),
            finished: true,
            has_failed: false,
        };
        let served = Bitfield::none(manifest.layout().count());
        let tree = Self::new(target, None, manifest.clone(), options.clone(), served, listed);
        tree.complete_at(folder, places, Some(&state))?;
        if let Some(left) = Staging::find(target, part, manifest.layout().count()) {
            left.remove()?;
        }
        Ok(Some(tree))
    }

    /// Checks the index, compares an existing folder, and prepares the staging folder for the content. To be called when all
    /// chunks of the index are stored.
    ///
    /// # Errors
    /// The index is refused, with the entry named; the files cannot be read or created; [`StoreError::Stopped`].
    pub fn prepare(
        &self,
        overwrite: bool,
        recheck: TreeRecheck,
        callbacks: VerifyCallbacks<'_>,
    ) -> Result<Prepared, StoreError> {
        let (Some(staging), Some(file)) = (&self.staging, &self.index_file) else {
            return Ok(Prepared::Complete { other_metadata: 0 });
        };
        let bytes = self.index_content(staging, file)?;
        let places = Arc::new(places_of(bytes, &self.manifest, &self.options)?);
        if let Some(journal) = TreeState::read(&staging.journal(), self.part) {
            if !overwrite {
                return Ok(Prepared::Differs("its replacement by this folder was interrupted".to_owned()));
            }
            log::info!("continuing to replace files of {}", self.target.display());
            if self.continue_replacement(&places, &journal)? {
                return Ok(Prepared::Complete { other_metadata: 0 });
            }
            log::warn!("{} was changed since; comparing its files again", self.target.display());
            disk::remove(&staging.journal())?;
        }
        let metadata = self.target.metadata().ok().or_else(|| self.target.symlink_metadata().ok());
        let (mut found, mut target) = (None, None);
        let replaces = match metadata {
            None => Replaces::Nothing,
            Some(existing) if !existing.is_dir() => match overwrite {
                true => Replaces::File,
                false => return Ok(Prepared::Differs("it is not a folder".to_owned())),
            },
            Some(_) => {
                let folder = TreeFolder::open(&self.target)?;
                let state = state::path_of(&self.target).and_then(|path| TreeState::read(&path, self.part));
                let state = state.filter(|_| recheck.trusts_state);
                let verify = recheck.in_place;
                let compared =
                    existing::compare(&folder, &places, &self.manifest, state.as_ref(), verify, callbacks)?;
                match (&compared.difference, overwrite) {
                    (None, _) => {
                        self.complete_at(folder, places, None)?;
                        staging.remove()?;
                        return Ok(Prepared::Complete { other_metadata: compared.other_metadata });
                    }
                    (Some(difference), false) => return Ok(Prepared::Differs(difference.clone())),
                    (Some(_), true) => (found, target) = (Some(compared), Some(Arc::new(folder))),
                }
                Replaces::Folder
            }
        };
        let bad = self.prepare_staging(staging, (places, replaces), target, found, recheck, callbacks)?;
        Ok(Prepared::Incomplete { bad })
    }

    /// The index. To be called when all of its chunks are stored.
    ///
    /// # Errors
    /// It is refused, or cannot be read.
    pub fn read_index(&self) -> Result<TreeIndex, StoreError> {
        let (Some(staging), Some(file)) = (&self.staging, &self.index_file) else {
            return Err(StoreError::Missing(ChunkIndex(0)));
        };
        Ok(TreeIndex::decode(self.index_content(staging, file)?, self.options.entries_max)?)
    }

    fn index_content(&self, staging: &Staging, file: &File) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; index_bytes(&self.manifest)?];
        file.read_exact_at(&mut bytes, 0).map_err(error::io("read the index in", staging.path()))?;
        Ok(bytes)
    }

    fn prepare_staging(
        &self,
        staging: &Staging,
        (places, replaces): (Arc<Places>, Replaces),
        target: Option<Arc<TreeFolder>>,
        found: Option<Comparison>,
        recheck: TreeRecheck,
        callbacks: VerifyCallbacks<'_>,
    ) -> Result<u32, StoreError> {
        let (root, is_new) = staging.open_tree()?;
        let is_merging = is_new && merges_names(&root);
        let staged = Arc::new(TreeFolder::new(root, staging.tree_path()));
        if is_merging {
            check_names(&staged, &places)?;
        }
        let in_place = match &found {
            Some(found) => found.in_place.clone(),
            None => vec![false; places.count() as usize],
        };
        for (number, entry) in places.entries() {
            match entry.kind {
                EntryKind::Directory if number != super::places::ROOT => {
                    staged.create_directory(&places, number)?
                }
                // Left by a run that was killed at its end; a file with a second name is not written to.
                EntryKind::HardLink { .. } if !is_new => staged.remove(&places, number)?,
                _ => {}
            }
        }
        let tree =
            Tree { places: places.clone(), staged: Some(staged), target, in_place, stamps: None, replaces };
        self.drop_unstaged(&tree)?;
        self.set_tree(tree);
        let Some(tree) = self.tree() else { return Ok(0) };
        let verify = if self.is_unlisted { Verify::Full } else { recheck.staged };
        let bad = self.check_done(verify, callbacks)?;
        if let Some(found) = found {
            self.reuse(&tree, &found, callbacks)?;
        }
        let done = self.done();
        done.iter().filter(|index| places.is_whole(*index)).for_each(|index| _ = self.served.add(index));
        self.count_present();
        self.check_space()?;
        Ok(if self.is_unlisted { 0 } else { bad })
    }

    /// Takes chunks off the stored ones of which a piece is neither staged nor in place. Without a usable resume file, all
    /// others count as stored until they are hashed.
    fn drop_unstaged(&self, tree: &Tree) -> Result<(), StoreError> {
        let places = &tree.places;
        let mut done = self.done();
        if self.is_unlisted {
            places
                .chunks()
                .iter()
                .filter(|index| places.is_whole(*index))
                .for_each(|index| _ = done.insert(index));
        }
        let index_chunks = places.content().index_chunks();
        let mut missing = Vec::new();
        for index in done.iter().filter(|index| index.0 >= index_chunks) {
            for place in places.content().pieces(index).iter().filter_map(|piece| places.of_file(piece.entry))
            {
                let is_there = match (tree.in_place[place as usize], &tree.staged) {
                    (true, _) => true,
                    (false, Some(staged)) => {
                        let size = match places.entry(place).map(|entry| entry.kind) {
                            Some(EntryKind::File { size, .. }) => size,
                            _ => 0,
                        };
                        staged.stat(places, place)?.is_some_and(|stat| {
                            kind_of(&stat) == FileType::RegularFile && stat.st_size as u64 == size
                        })
                    }
                    (false, None) => false,
                };
                if !is_there {
                    missing.push(index);
                    break;
                }
            }
        }
        missing.iter().for_each(|index| _ = done.remove(*index));
        let mut listed = lock(&self.listed);
        listed.durable = {
            let mut durable = Bitfield::none(done.count());
            done.common(&listed.durable).for_each(|index| _ = durable.insert(index));
            durable
        };
        listed.done = done;
        drop(listed);
        if !missing.is_empty() && !self.is_unlisted {
            self.forget(&missing)?;
        }
        Ok(())
    }

    /// Takes over the chunks that the target has: those of files in place as they are, the others by a copy.
    fn reuse(
        &self,
        tree: &Tree,
        found: &Comparison,
        callbacks: VerifyCallbacks<'_>,
    ) -> Result<(), StoreError> {
        let (places, Some(target)) = (&tree.places, &tree.target) else { return Ok(()) };
        for index in found.chunks.iter() {
            if (callbacks.stop)() {
                return Err(StoreError::Stopped);
            }
            let pieces = places.content().pieces(index);
            let mut at = pieces.iter().filter_map(|piece| places.of_file(piece.entry));
            if at.all(|place| tree.in_place[place as usize]) {
                self.add_in_place(index);
                continue;
            }
            if lock(&self.listed).done.has(index) {
                continue;
            }
            let mut bytes = vec![0; self.length_of(index) as usize];
            let is_read = read_pieces(places, index, &mut bytes, |_| Ok(&**target)).is_ok();
            // The file may have been changed since it was compared.
            if is_read
                && let Some(digest) =
                    self.manifest.digest(index).filter(|digest| *digest == Digest::of(&bytes))
            {
                self.store(index, digest, &bytes)?;
            }
        }
        Ok(())
    }

    /// The tree at the target is complete: from now on its chunks are served from there. Stores its state.
    pub(super) fn complete_at(
        &self,
        folder: TreeFolder,
        places: Arc<Places>,
        known: Option<&TreeState>,
    ) -> Result<(), StoreError> {
        let mut stamps = vec![EntryStamp::default(); places.count() as usize];
        for (number, entry) in places.entries() {
            if let (EntryKind::File { .. }, Some(stat)) = (&entry.kind, folder.stat(&places, number)?) {
                stamps[number as usize] = EntryStamp::of(&stat);
            }
        }
        if known.is_none_or(|known| known.stamps != stamps) {
            self.write_state(&places, &stamps, false);
        }
        self.serve_from_target(folder, places, stamps);
        Ok(())
    }

    /// Writes the stored state. A failure costs only a comparison of the content by the next run.
    pub(super) fn write_state(&self, places: &Places, stamps: &[EntryStamp], durable: bool) {
        let Some(path) = state::path_of(&self.target) else { return };
        let index = places.content().index().bytes().to_vec();
        let state = TreeState { part: self.part, index, stamps: stamps.to_vec() };
        if let Err(error) = state.write(&path, durable) {
            log::warn!("{error}; the next run will read all files of {}", self.target.display());
        }
    }

    pub(super) fn serve_from_target(&self, folder: TreeFolder, places: Arc<Places>, stamps: Vec<EntryStamp>) {
        let in_place = vec![true; places.count() as usize];
        let mut listed = lock(&self.listed);
        (listed.done, listed.finished) = (places.chunks().clone(), true);
        drop(listed);
        let whole: Vec<ChunkIndex> = places.chunks().iter().filter(|index| places.is_whole(*index)).collect();
        let (target, replaces) = (Some(Arc::new(folder)), Replaces::Nothing);
        self.set_tree(Tree { places, staged: None, target, in_place, stamps: Some(stamps), replaces });
        whole.into_iter().for_each(|index| _ = self.served.add(index));
        self.count_present();
    }

    fn check_space(&self) -> Result<(), StoreError> {
        let needed = self.missing_bytes();
        match disk::free_space(disk::folder_of(&self.target)) {
            Some(available) if available < needed => {
                Err(StoreError::Full { path: self.target.clone(), needed, available })
            }
            _ => Ok(()),
        }
    }
}

/// Bytes of the index of a tree.
///
/// # Errors
/// More than [`limits::TREE_INDEX_BYTES_MAX`].
pub(super) fn index_bytes(manifest: &Manifest) -> Result<usize, StoreError> {
    let bytes = manifest.sizes().index.unwrap_or(0);
    usize::try_from(bytes).ok().filter(|bytes| *bytes <= limits::TREE_INDEX_BYTES_MAX).ok_or_else(|| {
        let max = limits::TREE_INDEX_BYTES_MAX;
        refused(&"index", format!("it has {bytes} bytes, more than {max}"))
    })
}

/// Decodes and checks an index.
fn places_of(
    bytes: Vec<u8>,
    manifest: &Manifest,
    options: &TreeReceiveOptions,
) -> Result<Places, StoreError> {
    let index = TreeIndex::decode(bytes, options.entries_max)?;
    let content = TreeContent::of_manifest(index, manifest)?;
    let places = Places::new(content, &options.filter);
    if !options.with_any_links {
        let index = places.content().index();
        let outside = places.entries().find(|(_, entry)| leads_outside(index, entry));
        if let Some((_, entry)) = outside {
            let reason = "is a symbolic link that leads outside the folder; --links any accepts such links";
            return Err(refused(&entry.path, reason));
        }
    }
    Ok(places)
}
