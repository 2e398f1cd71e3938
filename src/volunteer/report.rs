//! Initial report of a volunteer to a tracker: all stored chunks, in messages that fit in a frame.

use crate::content::ChunkIndex;
use crate::content::limits::NAMED_CHUNKS_MAX;
use crate::protocol::volunteer::VolunteerReport;
use crate::storage::{ReplicaFile, ReplicaStore};
use std::collections::VecDeque;
use std::sync::Arc;

/// Messages of a report, created file by file when they are sent: little memory, and always up to
/// date.
pub(super) struct Report {
    files: std::vec::IntoIter<Arc<ReplicaFile>>,
    /// Remaining messages of the current file.
    messages: VecDeque<VolunteerReport>,
}

impl Report {
    /// A report of all chunks in a store.
    pub(super) fn of(store: &ReplicaStore) -> Self {
        Self { files: store.files().into_iter(), messages: VecDeque::new() }
    }
}

impl Iterator for Report {
    type Item = VolunteerReport;

    fn next(&mut self) -> Option<VolunteerReport> {
        while self.messages.is_empty() {
            let file = self.files.next()?;
            let (checked, unchecked) = file.chunks();
            self.messages.extend(holds(&file, &checked, true));
            self.messages.extend(holds(&file, &unchecked, false));
        }
        self.messages.pop_front()
    }
}

/// Messages that report chunks of a file as held, each with at most `NAMED_CHUNKS_MAX` chunks.
pub(super) fn holds(
    file: &ReplicaFile,
    chunks: &[ChunkIndex],
    checked: bool,
) -> impl Iterator<Item = VolunteerReport> {
    let kept = file.kept();
    chunks.chunks(NAMED_CHUNKS_MAX).map(move |held| VolunteerReport::Holds {
        kept: kept.clone(),
        held: held.to_vec(),
        checked,
    })
}

/// Splits the chunks that have been verified since from a queued message that calls them unverified.
///
/// Returns the message without them, and the message that reports them as verified, if there are any.
pub(super) fn split_verified(
    mut message: VolunteerReport,
    store: &ReplicaStore,
) -> (VolunteerReport, Option<VolunteerReport>) {
    let VolunteerReport::Holds { kept, held, checked: false } = &mut message else { return (message, None) };
    let Some(file) = store.file(kept.file.id) else { return (message, None) };
    let verified = file.verified_of(held);
    held.retain(|index| !verified.contains(index));
    let verified: Vec<ChunkIndex> = verified.into_iter().collect();
    let verified = holds(&file, &verified, true).next();
    (message, verified)
}

/// Updates a queued message to the current state of the store, just before it is sent.
///
/// Removes chunks that have been dropped from a report of held chunks, removes chunks that have been copied again from
/// a report of corrupt chunks, and fills in the free space. `None` if no chunk remains.
pub(super) fn as_of_now(mut message: VolunteerReport, store: &ReplicaStore) -> Option<VolunteerReport> {
    use VolunteerReport as Message;
    if let Message::Stored { free, .. }
    | Message::NotStored { free, .. }
    | Message::Dropped { free, .. }
    | Message::Spoiled { free, .. } = &mut message
    {
        *free = store.free();
    }
    match &mut message {
        Message::Holds { kept, held, .. } => {
            let file = store.file(kept.file.id)?;
            *held = file.held_of(held).collect();
            if held.is_empty() { None } else { Some(message) }
        }
        Message::Spoiled { file, chunks, .. } => {
            if let Some(file) = store.file(*file) {
                let restored: Vec<ChunkIndex> = file.held_of(chunks).collect();
                chunks.retain(|index| !restored.contains(index));
            }
            if chunks.is_empty() { None } else { Some(message) }
        }
        _ => Some(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Digest, FileName, Layout, Manifest, Md5};
    use crate::protocol::frame::encode;
    use crate::protocol::tokens::Token;
    use crate::protocol::tracker::{FileSummary, TrackerRequest};
    use crate::protocol::volunteer::KeptFile;

    #[test]
    fn report_lists_each_chunk_once_in_messages_that_fit_in_a_frame() {
        let root = tempfile::tempdir().unwrap();
        let chunks = 2 * NAMED_CHUNKS_MAX as u32 + 5;
        // Empty chunks, so that the test can use many.
        let layout = Layout::uneven(vec![0; chunks as usize]).unwrap();
        let manifest = Manifest::new(layout, vec![Digest::of(b""); chunks as usize]).unwrap();
        let name = FileName::new("x".repeat(255)).unwrap();
        let file = FileSummary { id: manifest.id(), name, size: 0, chunks };
        let kept = KeptFile { file, md5: Md5([0; 16]) };
        let store = ReplicaStore::open(root.path(), 1).unwrap();
        store.add_file(&kept, Arc::new(manifest)).unwrap();
        drop(store);
        let folder = root.path().join(kept.file.id.to_string());
        (0..chunks).for_each(|index| std::fs::write(folder.join(index.to_string()), "").unwrap());
        let store = ReplicaStore::open(root.path(), 1).unwrap();
        assert!(store.check(kept.file.id, ChunkIndex(7)).unwrap());
        let mut named = Vec::new();
        for message in Report::of(&store) {
            let VolunteerReport::Holds { kept: of, held, checked } = message.clone() else { panic!() };
            assert!(of == kept && checked == (held == [ChunkIndex(7)]));
            named.extend(held);
            assert!(as_of_now(message.clone(), &store) == Some(message.clone()));
            encode(&TrackerRequest::Volunteer { token: Token(u128::MAX), act: message }).unwrap();
        }
        named.sort();
        assert_eq!(named, (0..chunks).map(ChunkIndex).collect::<Vec<_>>());
        let largest = (1 << 20) - NAMED_CHUNKS_MAX as u32..1 << 20;
        let file = kept.file.id;
        let most =
            VolunteerReport::Spoiled { file, chunks: largest.map(ChunkIndex).collect(), free: u64::MAX };
        encode(&TrackerRequest::Volunteer { token: Token(u128::MAX), act: most }).unwrap();
        let gone = [ChunkIndex(1), ChunkIndex(2)];
        store.remove(file, &gone[..1]).unwrap();
        let holds = VolunteerReport::Holds { kept: kept.clone(), held: gone.to_vec(), checked: true };
        let left = VolunteerReport::Holds { kept, held: vec![gone[1]], checked: true };
        assert_eq!(as_of_now(holds, &store), Some(left.clone()));
        let spoiled =
            |chunks: &[ChunkIndex]| VolunteerReport::Spoiled { file, chunks: chunks.into(), free: 1 };
        assert_eq!(as_of_now(spoiled(&gone), &store), Some(spoiled(&gone[..1])));
        store.remove(file, &(0..chunks).map(ChunkIndex).collect::<Vec<_>>()).unwrap();
        assert_eq!(as_of_now(left, &store), None);
        assert_eq!(as_of_now(spoiled(&gone), &store), Some(spoiled(&gone)));
        assert_eq!(Report::of(&store).count(), 0);
    }
}
