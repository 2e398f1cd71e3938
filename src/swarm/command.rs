//! Commands of the owner of a tracker that keeps files, and their answers.
//!
//! The prompt and the Unix socket of the tracker send the same commands. Data only: the tracker carries them out.
//! Invariant: each command gets one answer; `verify` and `recall` get it when their work has ended.

use crate::content::PeerName;
use crate::protocol::Message;
use crate::protocol::status::Status;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A volunteer as named by the owner: its name, its address, its IP address, or a prefix of its key print.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolunteerSelector(pub String);

/// A file as named by the owner: its name, or a prefix of its id.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileSelector(pub String);

/// A command of the owner.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Show the status.
    Status,
    /// List the registered peers.
    Peers,
    /// Pause new copies, or (`on` is false) resume them.
    Pause {
        /// Pause or resume.
        on: bool,
    },
    /// Let proven copies of a volunteer justify deletions.
    Approve {
        /// The volunteer.
        volunteer: VolunteerSelector,
    },
    /// Stop counting the copies of a volunteer. Orders no drop.
    Deny {
        /// The volunteer.
        volunteer: VolunteerSelector,
    },
    /// Drain a volunteer, or (`on` is false) cancel the drain.
    Drain {
        /// The volunteer.
        volunteer: VolunteerSelector,
        /// Begin or cancel.
        on: bool,
    },
    /// Remove the record of a volunteer that is not connected.
    ForgetVolunteer {
        /// The volunteer.
        volunteer: VolunteerSelector,
        /// The owner has confirmed the removal of the last known holder of chunks.
        yes: bool,
    },
    /// Bring a file back into the folder of offered files, and never offload it.
    Recall {
        /// The file.
        file: FileSelector,
    },
    /// Offload a file as soon as the rules permit it, and remove the mark of `recall`.
    Offload {
        /// The file.
        file: FileSelector,
        /// Only show the effect.
        dry_run: bool,
    },
    /// Stop keeping a file: volunteers drop its chunks.
    Forget {
        /// The file.
        file: FileSelector,
        /// The owner has confirmed the deletion of the last copies.
        yes: bool,
        /// Only show the effect.
        dry_run: bool,
    },
    /// Let the holders of a file prove all their copies now.
    Verify {
        /// The file.
        file: FileSelector,
    },
}

impl Command {
    /// The same command, confirmed by the owner.
    pub fn confirmed(self) -> Self {
        match self {
            Self::ForgetVolunteer { volunteer, .. } => Self::ForgetVolunteer { volunteer, yes: true },
            Self::Forget { file, dry_run, .. } => Self::Forget { file, yes: true, dry_run },
            other => other,
        }
    }
}

/// Answer to a command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// The status.
    Status {
        /// The status.
        status: Box<Status>,
    },
    /// The registered peers.
    Peers(PeerList),
    /// The command was carried out.
    Done {
        /// Text for the owner.
        text: String,
    },
    /// All wanted copies of a file were asked for a proof.
    Verified {
        /// The result.
        result: Verification,
        /// Text for the owner.
        text: String,
    },
    /// The command was not carried out: the owner has to confirm it.
    Confirm {
        /// The consequence, for the owner.
        text: String,
        /// The command to send for a confirmation. It names its subject by id or key.
        command: Command,
    },
    /// The command was refused.
    Refused {
        /// Kind of the reason, for the exit code.
        why: Refusal,
        /// The reason, for the owner.
        text: String,
    },
}

impl Answer {
    /// The command was carried out.
    pub fn done(text: impl Into<String>) -> Self {
        Self::Done { text: text.into() }
    }

    /// The command was refused.
    pub fn refused(why: Refusal, text: impl Into<String>) -> Self {
        Self::Refused { why, text: text.into() }
    }
}

/// Kind of the reason of a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// No volunteer or file matches.
    NotFound,
    /// Several volunteers or files match.
    Ambiguous,
    /// The command does not fit the state of the tracker.
    State,
    /// The work of the command failed.
    Failed,
}

/// Result of a `verify`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verification {
    /// All wanted copies of each chunk are proven.
    Proven,
    /// Fewer copies are proven than wanted.
    TooFew,
    /// Fewer copies are proven than wanted, and a copy is corrupt or missing at its holder.
    Corrupt,
}

/// The registered peers of a tracker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerList {
    /// Number of peers. A volunteer counts once.
    pub count: u64,
    /// The peers, up to [`PEERS_LISTED_MAX`](crate::content::limits::PEERS_LISTED_MAX), sorted by name and address.
    pub peers: Vec<PeerEntry>,
}

/// A registered peer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct PeerEntry {
    /// Its name.
    pub name: PeerName,
    /// Address at which it serves.
    pub address: SocketAddr,
    /// Whether it offers storage.
    pub volunteer: bool,
}

impl Message for Command {}
