//! Events of a running program, for other programs: the lines of `--json`.
//!
//! An event is emitted wherever it happens, like a log line, and costs nothing until a sink is installed. The schema is
//! documented in `docs/json.md`. Invariant: it only grows; a type, a field or a value is never renamed or removed.

use super::error::{Fault, RoleError};
use crate::content::tree::{Entry, EntryKind};
use crate::content::{FileId, FileName, PeerName};
use crate::protocol::PeerAddress;
use crate::protocol::file_summary::FileSummary;
use crate::protocol::status::Status;
use crate::protocol::tracker::FoundFile;
use crate::swarm::command::Answer;
use crate::swarm::distribution::{ReceiverRow, Stage};
use serde::{Serialize, Serializer};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Version of the schema. It changes only if a reader of the former version could misread an event.
pub const SCHEMA: u32 = 1;

/// An event. Sizes are in bytes, rates in bytes per second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The program has started; always the first event.
    Version {
        /// Name of the program.
        program: String,
        /// Its version.
        version: &'static str,
        /// [`SCHEMA`].
        schema: u32,
    },
    /// The program serves at an address.
    Listening {
        /// The address.
        address: SocketAddr,
    },
    /// A file is offered, was found, or is listed.
    File(FileEvent),
    /// An entry of a folder, listed.
    Entry(EntryEvent),
    /// Progress of an operation such as a download.
    Progress {
        /// Name of the file of a download, or a description of another operation, such as `hashing a.bin`.
        title: String,
        /// Bytes that are complete.
        done: u64,
        /// Size of the operation; `None` if it is not known.
        total: Option<u64>,
        /// Rate of the last seconds.
        rate: u64,
        /// Short text about the present step, such as `3 sources`.
        note: String,
    },
    /// A peer has joined, left or reached another stage.
    Peer(PeerEvent),
    /// A file is complete and has its name.
    Complete {
        /// The file.
        #[serde(flatten)]
        file: FileSummary,
        /// Its absolute path, or `-` for standard output.
        #[serde(serialize_with = "lossy")]
        path: PathBuf,
    },
    /// A chunk folder is complete.
    FolderComplete {
        /// Path of the folder.
        #[serde(serialize_with = "lossy")]
        path: PathBuf,
        /// Name of the chunk set.
        set: String,
        /// Number of its chunks.
        chunks: u32,
    },
    /// An operation has failed.
    Error {
        /// Kind of the error; `docs/json.md` lists the exit code of each.
        code: Fault,
        /// Text for people.
        message: String,
    },
    /// State of a tracker or manager.
    Status(Box<Status>),
    /// Answer of a running tracker to a command of its owner.
    Answer(Answer),
    /// An unused part file that `leecher --clean` has found.
    PartFile {
        /// Its path.
        #[serde(serialize_with = "lossy")]
        path: PathBuf,
        /// Disk space that it occupies.
        bytes: u64,
    },
    /// The program ends; always the last event.
    Exit {
        /// Exit code of the process.
        code: u8,
    },
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntryEvent {
    /// Path in the folder; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// `directory`, `file`, `link` or `hard_link`.
    pub kind: &'static str,
    /// Size of a file, bytes; 0 for other kinds.
    pub size: u64,
    /// Permission bits.
    pub mode: u16,
    /// Modification time, seconds since 1970.
    pub modified: i64,
    /// Target of a link, path of the file of a hard link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl EntryEvent {
    /// The event for an entry.
    pub fn new(entry: &Entry) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (kind, size, target) = match &entry.kind {
            EntryKind::Directory => ("directory", 0, None),
            EntryKind::File { size, .. } => ("file", *size, None),
            EntryKind::Link { target } => ("link", 0, Some(text(target))),
            EntryKind::HardLink { to } => ("hard_link", 0, Some(text(to.bytes()))),
        };
        let (path, modified) = (text(entry.path.bytes()), entry.modified.seconds);
        Self { path, kind, size, mode: entry.mode, modified, target }
    }
}

/// The reason of a [`FileEvent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// This program offers it to others.
    Offered,
    /// Other peers offer it, and it will be downloaded.
    Found,
    /// Other peers offer it.
    Listed,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileEvent {
    /// The reason of the event.
    pub state: FileState,
    /// Id, name, size and number of chunks.
    #[serde(flatten)]
    pub file: FileSummary,
    /// Number of its complete holders, if they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complete_holders: Option<u32>,
    /// Number of its other holders, if they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partial_holders: Option<u32>,
    /// Ticket for `leecher`, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

/// Stage of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// It has registered or connected.
    Joined,
    /// Its registration or connection has ended.
    Left,
    /// It downloads from this program.
    Downloading,
    /// It is complete, and still there.
    Serving,
    /// It left before it was complete.
    Disconnected,
    /// It is complete and has left.
    Complete,
}

/// A peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerEvent {
    /// Its name, or else its address.
    pub peer: String,
    /// Its stage.
    pub state: PeerState,
    /// The address at which it serves, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<PeerAddress>,
    /// Progress of its download, if that is known.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<PeerTransfer>,
}

/// Progress of the download of a peer, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerTransfer {
    /// Bytes that it has.
    pub done: u64,
    /// Bytes of the files that it has requested.
    pub total: u64,
    /// Rate at which it receives.
    pub rate_in: u64,
    /// Rate at which it sends to others.
    pub rate_out: u64,
}

impl FileEvent {
    /// A file without holders and ticket.
    pub fn new(state: FileState, file: FileSummary) -> Self {
        Self { state, file, complete_holders: None, partial_holders: None, ticket: None }
    }

    /// A file that other peers offer.
    pub fn of_found(state: FileState, found: &FoundFile) -> Self {
        Self {
            complete_holders: Some(found.complete),
            partial_holders: Some(found.holders.saturating_sub(found.complete)),
            ..Self::new(state, found.file.clone())
        }
    }
}

impl From<&ReceiverRow> for PeerEvent {
    fn from(row: &ReceiverRow) -> Self {
        let state = match row.stage {
            Stage::Downloading => PeerState::Downloading,
            Stage::Serving => PeerState::Serving,
            Stage::Disconnected => PeerState::Disconnected,
            Stage::Complete => PeerState::Complete,
        };
        let ReceiverRow { done, total, rate_in, rate_out, .. } = *row;
        let transfer = Some(PeerTransfer { done, total, rate_in, rate_out });
        Self { peer: row.peer.clone(), state, address: None, transfer }
    }
}

/// Writes a path; bytes that are not UTF-8 are replaced, because JSON is text.
fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// Receives the events of this process, from any thread. It must not block for long.
pub type Sink = Box<dyn Fn(&Event) + Send + Sync>;

static SINK: OnceLock<Sink> = OnceLock::new();

/// Installs the receiver of the events of this process; later calls have no effect.
pub fn install(sink: Sink) {
    let _ = SINK.set(sink);
}

/// Whether events are received: those that are costly to make are left out otherwise.
pub fn are_wanted() -> bool {
    SINK.get().is_some()
}

/// Passes an event to the sink, if there is one.
pub fn emit(event: impl FnOnce() -> Event) {
    if let Some(sink) = SINK.get() {
        sink(&event());
    }
}

/// Emits an error that was logged. An error without a text was emitted before.
pub fn failed(error: &RoleError) {
    if !error.text.is_empty() {
        emit(|| Event::Error { code: error.fault, message: error.text.clone() });
    }
}

/// Emits the address at which this program serves.
pub fn listening(address: SocketAddr) {
    emit(|| Event::Listening { address });
}

/// Emits that a peer has joined or left.
pub fn peer(name: &PeerName, address: PeerAddress, state: PeerState) {
    emit(|| {
        let (peer, address) = (name.to_string(), Some(address));
        Event::Peer(PeerEvent { peer, state, address, transfer: None })
    });
}

/// Emits a complete file.
pub fn completed(id: FileId, name: &FileName, (size, chunks): (u64, u32), path: &Path) {
    emit(|| Event::Complete {
        file: FileSummary { id, name: name.clone(), size, chunks },
        path: match path == Path::new("-") {
            true => path.to_owned(),
            false => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        },
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::tree::{Mtime, TreePath};

    fn file() -> FileSummary {
        FileSummary { id: FileId([7; 32]), name: FileName::new("a b.bin").unwrap(), size: 9, chunks: 1 }
    }

    /// The golden lines: a change of one of them breaks the scripts of users.
    #[test]
    fn each_type_of_event_has_its_exact_line() {
        let id = "07".repeat(32);
        let with_ticket = FileEvent {
            complete_holders: Some(2),
            partial_holders: Some(1),
            ticket: Some("shoal:07".to_owned()),
            ..FileEvent::new(FileState::Listed, file())
        };
        let transfer = PeerTransfer { done: 1, total: 9, rate_in: 2, rate_out: 3 };
        let peer =
            PeerEvent { peer: "anna".to_owned(), state: PeerState::Left, address: None, transfer: None };
        let progress = Event::Progress {
            title: "a b.bin".to_owned(),
            done: 4,
            total: Some(9),
            rate: 2,
            note: "1 source".to_owned(),
        };
        for (event, line) in [
            (
                Event::Version { program: "leecher".to_owned(), version: "1.2.3", schema: 1 },
                r#"{"type":"version","program":"leecher","version":"1.2.3","schema":1}"#.to_owned(),
            ),
            (
                Event::Listening { address: "127.0.0.1:7000".parse().unwrap() },
                r#"{"type":"listening","address":"127.0.0.1:7000"}"#.to_owned(),
            ),
            (
                Event::File(FileEvent::new(FileState::Offered, file())),
                format!(
                    r#"{{"type":"file","state":"offered","id":"{id}","name":"a b.bin","size":9,"chunks":1}}"#
                ),
            ),
            (
                Event::File(with_ticket),
                format!(
                    r#"{{"type":"file","state":"listed","id":"{id}","name":"a b.bin","size":9,"chunks":1,"complete_holders":2,"partial_holders":1,"ticket":"shoal:07"}}"#
                ),
            ),
            (
                Event::Entry(EntryEvent::new(&Entry {
                    path: TreePath::new(&b"a/b"[..]).unwrap(),
                    mode: 0o644,
                    modified: Mtime { seconds: 7, nanoseconds: 1 },
                    owner: None,
                    kind: EntryKind::File { size: 9, holes: Vec::new() },
                })),
                r#"{"type":"entry","path":"a/b","kind":"file","size":9,"mode":420,"modified":7}"#.to_owned(),
            ),
            (
                Event::Entry(EntryEvent::new(&Entry {
                    path: TreePath::new(&b"c"[..]).unwrap(),
                    mode: 0o777,
                    modified: Mtime { seconds: -1, nanoseconds: 0 },
                    owner: None,
                    kind: EntryKind::Link { target: b"a/b".to_vec() },
                })),
                r#"{"type":"entry","path":"c","kind":"link","size":0,"mode":511,"modified":-1,"target":"a/b"}"#
                    .to_owned(),
            ),
            (
                progress,
                r#"{"type":"progress","title":"a b.bin","done":4,"total":9,"rate":2,"note":"1 source"}"#
                    .to_owned(),
            ),
            (Event::Peer(peer.clone()), r#"{"type":"peer","peer":"anna","state":"left"}"#.to_owned()),
            (
                Event::Peer(PeerEvent {
                    state: PeerState::Downloading,
                    address: Some("10.0.0.2:7001".parse::<SocketAddr>().unwrap().into()),
                    transfer: Some(transfer),
                    ..peer
                }),
                r#"{"type":"peer","peer":"anna","state":"downloading","address":"10.0.0.2:7001","done":1,"total":9,"rate_in":2,"rate_out":3}"#
                    .to_owned(),
            ),
            (
                Event::Complete { file: file(), path: "/x/a b.bin".into() },
                format!(
                    r#"{{"type":"complete","id":"{id}","name":"a b.bin","size":9,"chunks":1,"path":"/x/a b.bin"}}"#
                ),
            ),
            (
                Event::FolderComplete { path: "folder1".into(), set: "default".to_owned(), chunks: 3 },
                r#"{"type":"folder_complete","path":"folder1","set":"default","chunks":3}"#.to_owned(),
            ),
            (
                Event::Error { code: Fault::NotFound, message: "x not found".to_owned() },
                r#"{"type":"error","code":"not_found","message":"x not found"}"#.to_owned(),
            ),
            (
                Event::Answer(Answer::done("anna approved")),
                r#"{"type":"answer","answer":"done","text":"anna approved"}"#.to_owned(),
            ),
            (
                Event::PartFile { path: ".x.part".into(), bytes: 4096 },
                r#"{"type":"part_file","path":".x.part","bytes":4096}"#.to_owned(),
            ),
            (Event::Exit { code: 3 }, r#"{"type":"exit","code":3}"#.to_owned()),
        ] {
            assert_eq!(serde_json::to_string(&event).unwrap(), line);
        }
    }

    #[test]
    fn the_status_is_one_object_with_its_type() {
        let line = serde_json::to_string(&Event::Status(Box::default())).unwrap();
        assert!(line.starts_with(r#"{"type":"status","replicas":0,"#), "{line}");
    }

    #[test]
    fn each_kind_of_error_has_its_code() {
        for (fault, code) in [
            (Fault::Other, "other"),
            (Fault::Usage, "usage"),
            (Fault::NotFound, "not_found"),
            (Fault::ChunksMissing, "chunks_missing"),
            (Fault::Unreachable, "unreachable"),
            (Fault::TimedOut, "timed_out"),
            (Fault::Interrupted, "interrupted"),
            (Fault::DiskFull, "disk_full"),
            (Fault::ExistsAndDiffers, "exists_and_differs"),
            (Fault::FileAccess, "file_access"),
            (Fault::VerificationFailed, "verification_failed"),
        ] {
            assert_eq!(serde_json::to_string(&fault).unwrap(), format!("\"{code}\""));
        }
    }
}
