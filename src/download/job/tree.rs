//! Steps of the download of a folder: its index first, then a check of existing data, then the content.

use super::{DownloadOrder, Downloaded, ExistingData, checking};
use crate::content::fmt::{counted, size};
use crate::download::destination::{Destination, DestinationKind};
use crate::download::finder::interrupted;
use crate::net::Shutdown;
use crate::report::error::{Fault, RoleError};
use crate::report::watch::Watch;
use crate::storage::{ChunkSource, Prepared, StoreError, TreePart, TreeRecheck};
use std::error::Error as _;
use std::sync::Arc;

/// As [`check_existing`](super::check_existing), for a folder: its stored state may tell that it is complete. Everything else
/// is checked when the index is known.
pub(super) fn open(
    order: &DownloadOrder,
    file: &Downloaded,
    watch: &dyn Watch,
    shutdown: &Shutdown,
) -> Result<ExistingData, RoleError> {
    if !matches!(order.kind, DestinationKind::File) {
        let text = format!("{} is a folder: it cannot be written to a stream or a device", file.file.name);
        return Err(RoleError::new(Fault::Usage, text));
    }
    let (path, mut is_waiting) = (file.path.display(), false);
    loop {
        if order.recheck.trusts_state {
            let recognised = checking(&path, watch, shutdown, |watch| {
                TreePart::recognise(&file.path, &file.manifest, &order.tree, watch)
            })?;
            if let Some(tree) = recognised {
                log::info!(
                    "{path} exists and is complete, as its stored state tells (--verify full reads it)"
                );
                let tree: Arc<dyn ChunkSource> = Arc::new(tree);
                return Ok(ExistingData::Complete(tree));
            }
        }
        match TreePart::open(&file.path, file.manifest.clone(), order.tree.clone()) {
            Err(StoreError::Busy(_)) => {
                if !std::mem::replace(&mut is_waiting, true) {
                    log::info!(
                        "another process downloads {path}; waiting for its end (Ctrl-C ends this wait)"
                    );
                }
                if shutdown.wait(super::BUSY_INTERVAL) {
                    return Err(interrupted());
                }
            }
            tree => return Ok(ExistingData::Part(Arc::new(Destination::Tree(tree?)))),
        }
    }
}

/// Checks the index and existing data. Returns whether the folder is complete.
///
/// # Errors
/// The index is refused, a different folder or file exists, the disk is full, or the shutdown.
pub(super) fn prepare(
    order: &DownloadOrder,
    file: &Downloaded,
    tree: &TreePart,
    watch: &dyn Watch,
    shutdown: &Shutdown,
) -> Result<bool, RoleError> {
    let path = file.path.display();
    let recheck = TreeRecheck {
        trusts_state: order.recheck.trusts_state,
        in_place: order.recheck.in_place,
        staged: order.recheck.resumed,
    };
    let prepared = checking(&path, watch, shutdown, |watch| tree.prepare(order.overwrite, recheck, watch))
        .map_err(|error| name_folder(file.file.name.as_str(), error))?;
    match prepared {
        Prepared::Complete { other_metadata } => {
            if other_metadata > 0 {
                let entries = counted(other_metadata, "entry").replace("entrys", "entries");
                log::info!("permissions or modification times of {entries} differ from those of the folder");
            }
            log::info!("{path} exists and is complete");
            Ok(true)
        }
        Prepared::Differs(how) => {
            let advice = order.advice.target_exists;
            Err(RoleError::new(
                Fault::ExistsAndDiffers,
                format!("{path} exists and differs: {how}; {advice}"),
            ))
        }
        Prepared::Incomplete { bad } => {
            if bad > 0 {
                log::warn!("{} failed verification; downloading again", counted(bad.into(), "staged chunk"));
            }
            let (wanted, present) = tree.sizes();
            log::debug!("{} of the folder are wanted, {} are here", size(wanted), size(present));
            Ok(false)
        }
    }
}

/// Names the folder in an error about its index or its entries.
fn name_folder(name: &str, mut error: RoleError) -> RoleError {
    let refused = "the folder is refused: ";
    let is_index = error
        .source()
        .and_then(|source| source.downcast_ref())
        .is_some_and(|error| matches!(error, StoreError::Tree(_)));
    if is_index || error.text.starts_with(refused) {
        let reason = error.text.strip_prefix(refused).unwrap_or(&error.text);
        error.text = format!("the folder {name} is refused: {reason}");
    }
    error
}
