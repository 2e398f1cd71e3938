//! Asking a tracker who has a file: a datagram first, a connection when the answer does not fit in one, and for the
//! list of all files.

use crate::content::limits::{LIST_MAX, PROTOCOL_VERSION, STALL_TIMEOUT};
use crate::content::{FileId, FileName};
use crate::net::{AskError, Asker, LinkError, LinkReader, LinkWriter, Shutdown, dial};
use crate::protocol::frame::FrameError;
use crate::protocol::status::Status;
use crate::protocol::tracker::{FileSummary, FoundFile, Token, TrackerRequest, TrackerResponse};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// Holders asked for in a datagram: about what fits.
const DATAGRAM_HOLDERS: u32 = 24;

/// What is looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// The file's name.
    pub name: Option<FileName>,
    /// The file's id.
    pub id: Option<FileId>,
}

impl Query {
    /// Whether a file is what is asked for. Whoever answers may say anything, so every answer is held against this.
    pub fn is_answered_by(&self, file: &FileSummary) -> bool {
        self.id.is_none_or(|id| file.id == id)
            && (self.id.is_some() || self.name.as_ref().is_none_or(|name| file.name == *name))
    }
}

/// Asks once. `wanted` holders are asked for; more than fit in a datagram make a second question over TCP,
/// whose failure leaves the first answer. Nothing is waited for after `shutdown`.
///
/// # Errors
/// When the tracker does not answer.
pub fn lookup(
    asker: &mut Asker,
    query: &Query,
    wanted: u32,
    token: Option<Token>,
    shutdown: &Shutdown,
) -> Result<Vec<FoundFile>, AskError> {
    asker.until(shutdown);
    let Query { name, id } = query.clone();
    let request = |limit| TrackerRequest::Lookup { name: name.clone(), id, limit, token };
    match asker.ask(&request(wanted.min(DATAGRAM_HOLDERS)))? {
        TrackerResponse::Found { files, truncated } => {
            let known = |found: &FoundFile| found.holders > (found.whole.len() + found.partial.len()) as u32;
            let more = truncated || (wanted > DATAGRAM_HOLDERS && files.iter().any(known));
            let all = more.then(|| over_connection(asker, &request(wanted), shutdown));
            let mut files = match all {
                None => files,
                Some(Ok(more)) => more,
                Some(Err(error)) => {
                    log::debug!("the tracker's whole answer cannot be had: {error}");
                    files
                }
            };
            files.retain(|found| query.is_answered_by(&found.file));
            Ok(files)
        }
        TrackerResponse::Error { text, .. } => Err(AskError::Io(io::Error::other(text))),
        other => Err(AskError::Io(io::Error::other(format!("it answers {other:?}")))),
    }
}

/// All files that a tracker knows, each with a few of its holders.
///
/// # Errors
/// When the tracker does not answer.
pub fn list(tracker: SocketAddr, shutdown: &Shutdown) -> Result<Vec<FoundFile>, LinkError> {
    converse(tracker, &TrackerRequest::List, shutdown, |response, reader| match response {
        TrackerResponse::Listing { count, length } if length <= LIST_MAX => {
            let mut payload = vec![0; length as usize];
            reader.payload(&mut payload)?;
            let files: Vec<FoundFile> = serde_json::from_slice(&payload).map_err(FrameError::Json)?;
            if files.len() < count as usize {
                log::warn!("the tracker knows {count} files and lists {} of them", files.len());
            }
            Ok(files)
        }
        other => Err(unexpected(other)),
    })
}

/// How a tracker's volunteers and files are. It tells only who is on its own machine.
///
/// # Errors
/// When the tracker does not answer, or does not tell.
pub fn status(tracker: SocketAddr, shutdown: &Shutdown) -> Result<Status, LinkError> {
    converse(tracker, &TrackerRequest::Status, shutdown, |response, reader| match response {
        TrackerResponse::Status { length } if length <= LIST_MAX => {
            let mut payload = vec![0; length as usize];
            reader.payload(&mut payload)?;
            Ok(serde_json::from_slice(&payload).map_err(FrameError::Json)?)
        }
        other => Err(unexpected(other)),
    })
}

fn over_connection(
    asker: &Asker,
    request: &TrackerRequest,
    shutdown: &Shutdown,
) -> Result<Vec<FoundFile>, LinkError> {
    converse(asker.tracker(), request, shutdown, |response, _| match response {
        TrackerResponse::Found { files, .. } => Ok(files),
        other => Err(unexpected(other)),
    })
}

/// One question over a connection of its own.
fn converse<T>(
    tracker: SocketAddr,
    request: &TrackerRequest,
    shutdown: &Shutdown,
    answer: impl FnOnce(TrackerResponse, &mut LinkReader) -> Result<T, LinkError>,
) -> Result<T, LinkError> {
    let stream = Arc::new(dial(tracker, shutdown)?);
    let _guard = shutdown.guard(&stream);
    let (mut reader, mut writer) = (LinkReader::new(stream.clone()), LinkWriter::new(stream)?);
    writer.send(&TrackerRequest::Hello { version: PROTOCOL_VERSION })?;
    writer.send(request)?;
    match reader.message(STALL_TIMEOUT)? {
        TrackerResponse::Hello { .. } => {
            let response = reader.message(STALL_TIMEOUT)?;
            answer(response, &mut reader)
        }
        other => Err(unexpected(other)),
    }
}

fn unexpected(response: TrackerResponse) -> LinkError {
    LinkError::Io(io::Error::other(match response {
        TrackerResponse::Error { text, .. } => format!("it refuses: {text}"),
        other => format!("it answers {other:?}"),
    }))
}
