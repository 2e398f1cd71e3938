//! State of the files and volunteers of a tracker: payload of a `status` response.
//!
//! `tracker status --json` prints it as an event. Scripts depend on it: fields are added, never renamed or removed.

use super::set_status::SetStatus;
use super::tokens::KeyPrint;
use super::tracker::{FoundFile, PeerSummary};
use crate::content::{FileId, FileName, PeerName};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Kind of a program that answers with its status.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DaemonKind {
    /// A tracker that keeps files.
    #[default]
    KeepingTracker,
    /// A tracker that keeps no files.
    Tracker,
    /// A manager.
    Manager,
}

/// State of a tracker or manager. Sizes are in bytes; a replica is a copy of one chunk on a volunteer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Wanted replicas of each chunk.
    pub replicas: u32,
    /// Live volunteers required before files are replicated.
    pub volunteers_needed: u32,
    /// Space offered by live volunteers, bytes.
    pub offered: u64,
    /// Free part of the offered space, bytes.
    pub free: u64,
    /// Replicas of all files.
    pub copies: Copies,
    /// All volunteers that were not removed with `forget`.
    pub volunteers: Vec<VolunteerStatus>,
    /// Number of files.
    pub files_known: u64,
    /// The files sorted by name, up to [`STATUS_FILES_MAX`](crate::content::limits::STATUS_FILES_MAX).
    pub files: Vec<FileStatus>,
    /// Progress of replication and repair.
    pub repair: RepairStatus,
    /// The latest drop orders and deletions with their reasons, the newest last.
    #[serde(default)]
    pub drops: Vec<DropStatus>,
    /// Number of chunk sets.
    #[serde(default)]
    pub sets_known: u64,
    /// The first chunk sets, by name.
    #[serde(default)]
    pub sets: Vec<SetStatus>,
    /// Kind of the program.
    #[serde(default)]
    pub kind: DaemonKind,
    /// Number of registered peers.
    #[serde(default)]
    pub peers_known: u64,
    /// The peers, up to [`PEERS_LISTED_MAX`](crate::content::limits::PEERS_LISTED_MAX).
    #[serde(default)]
    pub peers: Vec<PeerSummary>,
    /// Number of files that peers offer and the tracker does not keep.
    #[serde(default)]
    pub offered_known: u64,
    /// These files, up to [`STATUS_FILES_MAX`](crate::content::limits::STATUS_FILES_MAX).
    #[serde(default)]
    pub offered_files: Vec<FoundFile>,
}

/// A drop order to a volunteer, or a deletion at the tracker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DropStatus {
    /// Unix time, seconds.
    pub at_s: u64,
    /// The file.
    pub file: FileName,
    /// Name of the volunteer; `None` for the tracker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volunteer: Option<PeerName>,
    /// Number of chunks.
    pub chunks: u64,
    /// Why they are dropped, for people.
    pub reason: String,
}

/// Numbers of replicas, in chunks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Copies {
    /// Number of chunks times wanted replicas of each.
    pub wanted: u64,
    /// Verified replicas on live volunteers.
    pub verified: u64,
    /// Replicas that a volunteer reported and has not verified since it connected.
    pub claimed: u64,
    /// Under-replicated chunks: fewer verified replicas than wanted.
    pub short: u64,
    /// Copies on connected volunteers that count: verified, or stored and waiting for their proof.
    #[serde(default)]
    pub present: u64,
    /// Copies on volunteers that are away and expected back.
    #[serde(default)]
    pub away: u64,
    /// Copies that justify the deletion of others: verified, on approved volunteers.
    #[serde(default)]
    pub approved: u64,
    /// Chunks without any copy, neither on a volunteer nor on the tracker.
    pub lost: u64,
}

/// Liveness of a volunteer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolunteerState {
    /// Alive: connected.
    #[default]
    #[serde(rename = "here")]
    Alive,
    /// Connected, and its replicas are being copied to other volunteers.
    Draining,
    /// Disconnected, but its lease has not expired.
    Away,
    /// Dead: its lease has expired, or it has left.
    #[serde(rename = "gone")]
    Dead,
}

/// State of a volunteer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolunteerStatus {
    /// Name of the volunteer.
    pub name: PeerName,
    /// Address at which it serves chunks.
    pub address: SocketAddr,
    /// Liveness.
    pub state: VolunteerState,
    /// Space that it offers, bytes.
    pub offered: u64,
    /// Free part of the offered space, bytes.
    pub free: u64,
    /// Chunks that it holds, verified or claimed.
    pub chunks: u64,
    /// Verified chunks among them.
    pub verified: u64,
    /// Copies in flight to it, in chunks.
    pub incoming: u32,
    /// Print of its key; `approve` and the other commands accept a prefix of it.
    pub key: KeyPrint,
    /// The owner's decision about its key.
    #[serde(default)]
    pub approval: ApprovalState,
    /// Time since its first registration, seconds.
    #[serde(default)]
    pub known_s: u64,
    /// Time until its announced return, or until its copies are replaced, seconds; `None` unless it is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away_s: Option<u64>,
}

/// Whether proven copies of a volunteer justify deletions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalState {
    /// No: the owner has not decided.
    #[default]
    Pending,
    /// Yes: the owner has approved its key.
    Approved,
    /// Yes: it connects over loopback, or every volunteer counts as approved.
    Implied,
    /// No, and its copies do not count.
    Denied,
}

/// State of a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileStatus {
    /// Id of the file.
    pub id: FileId,
    /// Name of the file.
    pub name: FileName,
    /// Size of the file, bytes.
    pub size: u64,
    /// Number of chunks.
    pub chunks: u32,
    /// Chunks stored on the tracker itself.
    pub here: u32,
    /// Whether the tracker has deleted its own copy because the volunteers hold the file.
    pub offloaded: bool,
    /// Replicas of its chunks.
    pub copies: Copies,
    /// Whether each chunk has a copy on the tracker or on a connected volunteer.
    #[serde(default)]
    pub readable: bool,
    /// Chunks without a present copy whose holders are expected back.
    #[serde(default)]
    pub waiting_for_holders: u64,
    /// Whether the owner keeps the tracker's own copy with `recall`.
    #[serde(default)]
    pub kept_here: bool,
    /// Why the tracker's own copy is not deleted yet, for people; `None` if it need not be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_copy_stays: Option<String>,
}

/// Progress of replication and repair.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RepairStatus {
    /// Whether new copies are paused by the user.
    pub paused: bool,
    /// Chunks that wait for a copy.
    pub waiting: u64,
    /// Copies in flight, in chunks.
    pub running: u64,
    /// Chunks copied since the tracker started.
    pub copied: u64,
    /// Bytes copied since the tracker started.
    pub copied_bytes: u64,
    /// Rate limit of repair copies, bytes per second; 0 for no limit.
    pub limit: u64,
}
