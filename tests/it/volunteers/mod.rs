//! Volunteers: real clients that offer storage to a scripted tracker.

mod copies;
mod downloads;
mod exits;
mod proofs;
mod stores;

use crate::common::scripted::*;
use crate::common::wire::*;
use crate::common::*;
use shoal::content::ChunkIndex;
use shoal::protocol::ErrorCode;
use shoal::protocol::peer::{PeerRequest, PeerResponse};
use shoal::protocol::tokens::{KeyPrint, Nonce, VolunteerKey};
use shoal::protocol::volunteer::{KeptFile, possession_proof};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const CHUNK: usize = 16 * 1024;
/// Nonce of each demand for a proof.
const NONCE: Nonce = Nonce(77);

/// Starts a client that offers storage.
fn volunteer(dir: &Path, name: &str, tracker: &ScriptedTracker, extra: &[&str]) -> Program {
    let folder = subfolder(dir, name);
    let tracker = tracker.address.to_string();
    let mut args = vec!["--tracker", &tracker];
    if !extra.contains(&"--volunteer") {
        args.extend(["--volunteer", "1MiB"]);
    }
    args.extend(extra);
    plain(dir, &folder, name, &args)
}

/// A file of `chunks` chunks, of which the last one is shorter, and its entry at the tracker.
fn file(seed: u64, chunks: usize) -> (Whole, KeptFile) {
    let whole = Whole::new(random_bytes(seed, chunks * CHUNK - 100), CHUNK as u32);
    let kept = kept(&whole, &format!("file {seed}"));
    (whole, kept)
}

fn chunk(whole: &Whole, index: usize) -> &[u8] {
    whole.bytes.chunks(CHUNK).nth(index).unwrap()
}

/// A peer that serves a complete file.
fn holder(whole: &Whole) -> FakePeer {
    FakePeer::answering(whole, |_, right| Some(right))
}

/// The path at which a volunteer stores a chunk.
fn chunk_path(dir: &Path, name: &str, kept: &KeptFile, index: u32) -> PathBuf {
    dir.join(name).join(".volunteer").join(kept.file.id.to_string()).join(index.to_string())
}

#[track_caller]
fn assert_serves(at: SocketAddr, whole: &Whole, index: usize) {
    let file = whole.id();
    let (response, bytes) =
        PeerClient::connect(at).ask(&PeerRequest::Chunk { file, index: ChunkIndex(index as u32) });
    assert!(matches!(response, PeerResponse::Chunk { .. }), "{response:?}");
    assert!(bytes == chunk(whole, index));
}

#[track_caller]
fn assert_does_not_serve(at: SocketAddr, whole: &Whole, index: u32) {
    let file = whole.id();
    let (response, _) = PeerClient::connect(at).ask(&PeerRequest::Chunk { file, index: ChunkIndex(index) });
    let code = match response {
        PeerResponse::Error { code, .. } => code,
        other => panic!("{other:?}"),
    };
    assert!(matches!(code, ErrorCode::NotHere | ErrorCode::NotFound), "{code:?}");
}

/// Demands a proof over an open connection, with a fixed nonce.
fn demand(client: &mut PeerClient, holder: KeyPrint, kept: &KeptFile, index: u32) -> PeerResponse {
    let (file, index) = (kept.file.id, ChunkIndex(index));
    client.ask(&PeerRequest::Prove { file, index, holder, nonce: NONCE }).0
}

/// The right response to [`demand`].
fn proof(key: VolunteerKey, whole: &Whole, index: usize) -> PeerResponse {
    let sha256 = possession_proof(key, NONCE, chunk(whole, index));
    PeerResponse::Proof { file: whole.id(), index: ChunkIndex(index as u32), sha256 }
}

/// Asserts that a demand was refused with this code.
#[track_caller]
fn assert_refused(response: &PeerResponse, code: ErrorCode, index: u32) {
    match response {
        PeerResponse::Error { code: found, index: Some(of), .. } => {
            assert_eq!((*found, of.0), (code, index), "{response:?}");
        }
        other => panic!("{other:?}"),
    }
}
