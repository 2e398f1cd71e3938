//! Folders that a seeder publishes: what peers receive, entries that cannot be sent, and files that change.

use crate::common::wire::PeerClient;
use crate::common::*;
use shoal::content::tree::{EntryKind, Piece, TreeContent, TreeIndex};
use shoal::content::{ChunkIndex, Digest, FileId, Manifest, ManifestSizes};
use shoal::protocol::ErrorCode;
use shoal::protocol::peer::{PeerRequest, PeerResponse};
use std::path::Path;

/// A folder `tree` with small files, an empty folder, a link and a file of several chunks.
fn tree(dir: &Path) -> std::path::PathBuf {
    let folder = subfolder(dir, "tree");
    subfolder(&folder, "empty");
    let inner = subfolder(&folder, ".hidden");
    (0..50).for_each(|number| _ = write(&inner, &format!("{number}"), &random_bytes(number, 3_000)));
    write(&folder, "large", &random_bytes(99, 200_000));
    std::os::unix::fs::symlink("large", folder.join("link")).unwrap();
    folder
}

fn seeder(dir: &Path, arguments: &[&str]) -> Program {
    let arguments = [arguments, &["--listen", "127.0.0.1", "-p", "0"]].concat();
    Program::start("seeder", &arguments, dir)
}

/// The id, the manifest and the content of the only item of a seeder.
fn content(peer: &mut PeerClient) -> (FileId, Manifest, TreeContent) {
    let [offered] = &peer.files()[..] else { panic!("one item") };
    let id = offered.file.id;
    let (PeerResponse::Manifest { size, chunk_size, index, .. }, payload) =
        peer.ask(&PeerRequest::Manifest { file: id })
    else {
        panic!("no manifest")
    };
    let manifest = Manifest::decode(id, ManifestSizes { size, chunk_size, index }, &payload).unwrap();
    assert!(manifest.is_tree());
    let bytes = manifest.index_chunks().flat_map(|chunk| chunk_of(peer, &manifest, chunk).unwrap()).collect();
    let content = TreeContent::of_manifest(TreeIndex::decode(bytes, 1_000).unwrap(), &manifest).unwrap();
    (id, manifest, content)
}

/// A chunk, verified against the manifest, or the code of the error.
fn chunk_of(peer: &mut PeerClient, manifest: &Manifest, index: u32) -> Result<Vec<u8>, ErrorCode> {
    let index = ChunkIndex(index);
    match peer.ask(&PeerRequest::Chunk { file: manifest.id(), index }) {
        (PeerResponse::Chunk { .. }, bytes) => {
            assert_eq!(manifest.digest(index), Some(Digest::of(&bytes)));
            Ok(bytes)
        }
        (PeerResponse::Error { code, .. }, _) => Err(code),
        (other, _) => panic!("{other:?}"),
    }
}

#[test]
fn a_folder_is_one_item_from_which_peers_can_rebuild_it() {
    let place = place();
    let folder = tree(place.path());
    let seeder = seeder(place.path(), &["tree"]);
    seeder.wait_for_text("serving tree (folder with 54 entries, ");
    let mut peer = PeerClient::connect(seeder.address());
    assert_eq!(peer.names(), ["tree"]);
    let (_, manifest, content) = content(&mut peer);
    for chunk in manifest.index_chunks().end..manifest.layout().count() {
        let bytes = chunk_of(&mut peer, &manifest, chunk).unwrap();
        let mut at = 0;
        for Piece { entry, offset_in_file, length } in content.pieces(ChunkIndex(chunk)) {
            let path = String::from_utf8(content.index().path(entry).unwrap().to_vec()).unwrap();
            let file = std::fs::read(folder.join(&path)).unwrap();
            let from = offset_in_file as usize;
            assert_eq!(file[from..from + length as usize], bytes[at..at + length as usize], "{path}");
            at += length as usize;
        }
        assert_eq!(at, bytes.len());
    }
    let kinds = content.index().entries().filter(|entry| !matches!(entry.kind, EntryKind::File { .. }));
    let paths: Vec<String> = kinds.map(|entry| entry.path.to_string()).collect();
    assert_eq!(paths, [".", ".hidden", "empty", "link"]);
}

#[test]
fn a_file_that_changes_takes_its_chunks_out_of_the_offer_with_one_error() {
    let place = place();
    let folder = tree(place.path());
    let seeder = seeder(place.path(), &["tree"]);
    let mut peer = PeerClient::connect(seeder.address());
    let (id, manifest, content) = content(&mut peer);
    write(&folder, "large", b"other");
    seeder.wait_for_text("tree/large has changed since it was hashed: 4 chunks left the offer");
    let changed = content.chunks_of(content.index().find(b"large").unwrap());
    for chunk in 0..manifest.layout().count() {
        let expected = if changed.contains(&chunk) { Err(ErrorCode::NotHere) } else { Ok(()) };
        assert_eq!(chunk_of(&mut peer, &manifest, chunk).map(|_| ()), expected, "chunk {chunk}");
    }
    let held = peer.files()[0].held;
    assert_eq!((peer.files()[0].file.id, held), (id, manifest.layout().count() - 4));
    assert_eq!(seeder.lines().iter().filter(|line| line.contains("tree/large")).count(), 1);
}

#[test]
fn entries_that_cannot_be_sent_are_named_and_left_out_on_request() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let place = place();
    let folder = tree(place.path());
    mknodat(CWD, folder.join("empty/pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let mut refused = seeder(place.path(), &["tree"]);
    refused.ends_with(17);
    refused.wait_for_text("tree/empty/pipe: it is a FIFO");
    refused.wait_for_text("1 entry of tree cannot be sent; leave out such entries with --skip-special");
    let seeder = seeder(place.path(), &["tree", "--skip-special"]);
    seeder.wait_for_text("tree/empty/pipe is left out: it is a FIFO");
    seeder.wait_for_text("serving tree (folder with 54 entries, ");
}

#[test]
fn the_current_folder_is_offered_under_its_own_name_without_the_log() {
    let place = place();
    let folder = tree(place.path());
    std::os::unix::fs::symlink("/etc/hostname", folder.join("outside")).unwrap();
    let seeder = seeder(&folder, &["."]);
    seeder.wait_for_text("tree/logs.log is left out: this program writes its log to it");
    seeder.wait_for_text(
        "tree/outside -> /etc/hostname leads out of the folder: receivers refuse it without --links any",
    );
    let mut peer = PeerClient::connect(seeder.address());
    let (_, _, content) = content(&mut peer);
    assert_eq!(peer.names(), ["tree"]);
    assert!(content.index().find(b"logs.log").is_none() && content.index().find(b"outside").is_some());
}
