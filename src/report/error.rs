//! Errors that end a program: a kind for the exit code and a text for the user.

use crate::content::tree::TreeError;
use crate::net::BindError;
use crate::storage::StoreError;
use serde::Serialize;
use std::error::Error;
use std::io;

/// Kind of an error. The command line maps it to an exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
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
    /// The disk is full: no free space, no free inodes, or a quota is exceeded.
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
pub struct RoleError {
    /// Kind of the error, for the exit code.
    pub fault: Fault,
    /// Text for the user: subject, cause, advice. Contains the text of the source.
    pub text: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl RoleError {
    /// Creates an error of a kind, with its text.
    pub fn new(fault: Fault, text: impl Into<String>) -> Self {
        Self { fault, text: text.into(), source: None }
    }

    /// Converts another error: its text is the text for the user.
    pub fn from_error(fault: Fault, error: impl Error + Send + Sync + 'static) -> Self {
        Self::new(fault, error.to_string()).with_source(error)
    }

    /// Adds the error that this one stems from.
    pub fn with_source(self, source: impl Error + Send + Sync + 'static) -> Self {
        Self { source: Some(Box::new(source)), ..self }
    }

    /// Appends advice to the text.
    pub fn with_advice(self, advice: &str) -> Self {
        Self { text: format!("{}; {advice}", self.text), ..self }
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
            Self::from_error(Fault::Other, error).with_advice(&advice)
        }
    }
}

impl From<StoreError> for RoleError {
    fn from(error: StoreError) -> Self {
        let fault = match &error {
            StoreError::Full { .. } | StoreError::Exhausted { .. } | StoreError::DeviceTooSmall { .. } => {
                Fault::DiskFull
            }
            StoreError::Exists(_) => Fault::ExistsAndDiffers,
            StoreError::Stopped => Fault::Interrupted,
            StoreError::Missing(_) => Fault::ChunksMissing,
            StoreError::Layout(_) | StoreError::Tree(TreeError::TooMany(_) | TreeError::TooLong) => {
                Fault::Usage
            }
            StoreError::Manifest(_) | StoreError::Tree(_) => Fault::VerificationFailed,
            StoreError::Io { .. }
            | StoreError::Changed(_)
            | StoreError::Gone(_)
            | StoreError::Busy(_)
            | StoreError::StoreAbsent { .. }
            | StoreError::StoreElsewhere { .. }
            | StoreError::NotAFile(_)
            | StoreError::Entry { .. }
            | StoreError::ReaderClosed { .. }
            | StoreError::Chunks { .. }
            | StoreError::ChunkFile { .. } => Fault::FileAccess,
        };
        Self::from_error(fault, error)
    }
}

impl From<io::Error> for RoleError {
    fn from(error: io::Error) -> Self {
        Self::from_error(Fault::Other, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_keeps_its_source_and_shows_it_once() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = BindError::Other("127.0.0.1:80".parse().unwrap(), "TCP", denied);
        let wanted = format!("{error}; choose a port above 1023 with --port PORT");
        let error = RoleError::bind("--port PORT")(error);
        assert_eq!((error.fault, error.to_string()), (Fault::Other, wanted));
        let source = error.source().and_then(|source| source.source()).unwrap();
        assert_eq!(source.downcast_ref::<io::Error>().unwrap().kind(), io::ErrorKind::PermissionDenied);
        assert!(RoleError::new(Fault::Usage, "").source().is_none());
    }
}
