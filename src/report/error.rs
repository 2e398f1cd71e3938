//! Why a daemon has ended, for people and for exit codes.

use crate::net::BindError;
use crate::storage::StoreError;
use std::io;

/// What kind of trouble it was. The command line turns it into an exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Something else.
    Other,
    /// The flags do not fit what is there.
    Usage,
    /// No such file is known.
    NotFound,
    /// Nobody has all chunks.
    ChunksMissing,
    /// The tracker or the network cannot be reached.
    Unreachable,
    /// It took too long.
    TimedOut,
    /// The user has interrupted it; it can be resumed.
    Interrupted,
    /// The disk is full.
    DiskFull,
    /// Another file is in the way.
    ExistsAndDiffers,
    /// A file or folder cannot be read or written.
    FileAccess,
    /// What came is not what was asked for.
    VerificationFailed,
}

/// Why a daemon has ended.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct DaemonError {
    /// For programs.
    pub fault: Fault,
    /// For people: what and why.
    pub text: String,
}

impl DaemonError {
    /// An error with a text.
    pub fn new(fault: Fault, text: impl Into<String>) -> Self {
        Self { fault, text: text.into() }
    }

    /// Makes an error of a socket that could not be bound, for `map_err`. `flag` is the flag that chooses the port.
    pub fn bind(flag: &'static str) -> impl FnOnce(BindError) -> Self {
        move |error| {
            let advice = match &error {
                BindError::InUse { .. } => format!("choose another port with {flag}"),
                BindError::Other(_, _, source) if source.kind() == io::ErrorKind::PermissionDenied => {
                    format!("choose a port above 1023 with {flag}")
                }
                BindError::Other(..) => "choose an address of this host with --listen".to_owned(),
            };
            Self::new(Fault::Other, format!("{error}; {advice}"))
        }
    }
}

impl From<StoreError> for DaemonError {
    fn from(error: StoreError) -> Self {
        let fault = match &error {
            StoreError::Full { .. } => Fault::DiskFull,
            StoreError::Exists(_) => Fault::ExistsAndDiffers,
            StoreError::Stopped => Fault::Interrupted,
            StoreError::Missing(_) => Fault::ChunksMissing,
            StoreError::Layout(_) => Fault::Usage,
            StoreError::Manifest(_) => Fault::VerificationFailed,
            StoreError::Io { .. }
            | StoreError::Changed(_)
            | StoreError::Gone(_)
            | StoreError::Busy(_)
            | StoreError::NotAFile(_)
            | StoreError::Chunks { .. }
            | StoreError::ChunkFile { .. } => Fault::FileAccess,
        };
        Self::new(fault, error.to_string())
    }
}

impl From<io::Error> for DaemonError {
    fn from(error: io::Error) -> Self {
        Self::new(Fault::Other, error.to_string())
    }
}
