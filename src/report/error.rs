//! Errors that end a program: a kind for the exit code and a text for the user.

use crate::net::BindError;
use crate::storage::StoreError;
use std::io;

/// Kind of an error. The command line maps it to an exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Any other error.
    Other,
    /// The flags do not match the files, folders or peers that they name.
    Usage,
    /// No peer offers the file.
    NotFound,
    /// The reachable holders together do not have all chunks.
    ChunksMissing,
    /// The tracker, the manager or a peer is unreachable.
    Unreachable,
    /// The timeout has passed.
    TimedOut,
    /// The user interrupted the program; a download can be resumed.
    Interrupted,
    /// The disk is full.
    DiskFull,
    /// A different file with the same name exists.
    ExistsAndDiffers,
    /// A file or folder cannot be read or written.
    FileAccess,
    /// Received data does not match its digest.
    VerificationFailed,
}

/// The error that ended a program.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct DaemonError {
    /// Kind of the error, for the exit code.
    pub fault: Fault,
    /// Text for the user: subject, cause, advice.
    pub text: String,
}

impl DaemonError {
    /// Creates an error of a kind, with its text.
    pub fn new(fault: Fault, text: impl Into<String>) -> Self {
        Self { fault, text: text.into() }
    }

    /// Converts a bind error, for `map_err`, and adds advice.
    ///
    /// `flag` is the flag that chooses the port.
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
