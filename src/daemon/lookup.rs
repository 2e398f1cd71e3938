//! Asking a tracker who has a file: a datagram first, a connection when the answer does not fit in one.

use crate::content::limits::{PROTOCOL_VERSION, STALL_TIMEOUT};
use crate::content::{FileId, FileName};
use crate::net::{AskError, Asker, LinkError, LinkReader, LinkWriter, Shutdown, dial};
use crate::protocol::tracker::{FoundFile, Token, TrackerRequest, TrackerResponse};
use std::io;
use std::sync::Arc;

/// Holders asked for in a datagram: about what fits.
const DATAGRAM_HOLDERS: u32 = 24;

/// What is looked for.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// The file's name.
    pub name: Option<FileName>,
    /// The file's id.
    pub id: Option<FileId>,
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
            if !more {
                return Ok(files);
            }
            match over_connection(asker, &request(wanted), shutdown) {
                Ok(more) => Ok(more),
                Err(error) => {
                    log::debug!("the tracker's whole answer cannot be had: {error}");
                    Ok(files)
                }
            }
        }
        TrackerResponse::Error { text, .. } => Err(AskError::Io(io::Error::other(text))),
        other => Err(AskError::Io(io::Error::other(format!("it answers {other:?}")))),
    }
}

fn over_connection(
    asker: &Asker,
    request: &TrackerRequest,
    shutdown: &Shutdown,
) -> Result<Vec<FoundFile>, LinkError> {
    let stream = Arc::new(dial(asker.tracker(), shutdown)?);
    let _guard = shutdown.guard(&stream);
    let (mut reader, mut writer) = (LinkReader::new(stream.clone()), LinkWriter::new(stream)?);
    writer.send(&TrackerRequest::Hello { version: PROTOCOL_VERSION })?;
    writer.send(request)?;
    loop {
        match reader.message(STALL_TIMEOUT)? {
            TrackerResponse::Hello { .. } => {}
            TrackerResponse::Found { files, .. } => return Ok(files),
            other => return Err(LinkError::Io(io::Error::other(format!("it answers {other:?}")))),
        }
    }
}
