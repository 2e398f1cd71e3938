//! Queries to a tracker: over UDP, or over TCP for long answers and for the list of all files.

use crate::content::limits::{LIST_MAX, PROTOCOL_VERSION};
use crate::content::{FileId, FileName, IdPrefix};
use crate::net::framed_stream::split;
use crate::net::{Endpoint, FrameReader, Shutdown, StreamError, Timeouts, UdpClient, UdpClientError};
use crate::protocol::frame::FrameError;
use crate::protocol::status::Status;
use crate::protocol::tracker::{FileSummary, FoundFile, Token, TrackerRequest, TrackerResponse};
use crate::protocol::{ErrorCode, PeerAddress};
use crate::report::next_step::{self, FailedRequest};
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// Holders requested by datagram: about as many as fit in the answer.
const DATAGRAM_HOLDERS_MAX: u32 = 24;

/// Attempts over UDP after a failed TCP connect.
const PROBE_ATTEMPTS_MAX: u32 = 2;

/// Query for a file. Without name and id it matches all files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Name of the file.
    pub name: Option<FileName>,
    /// Id of the file.
    pub id: Option<FileId>,
    /// First digits of its id, if `id` is `None`.
    pub prefix: Option<IdPrefix>,
}

impl Query {
    /// Query for a name.
    pub fn of_name(name: FileName) -> Self {
        Self { name: Some(name), ..Self::default() }
    }

    /// Query for an id, or for the first digits of one.
    pub fn of_id(prefix: &IdPrefix) -> Self {
        let id = prefix.whole();
        Self { name: None, id, prefix: Some(prefix.clone()).filter(|_| id.is_none()) }
    }

    /// The digits that the id may begin with. A name that looks like such digits stands for them if no file has this
    /// name.
    pub fn id_prefix(&self) -> Option<IdPrefix> {
        match (&self.id, &self.prefix, &self.name) {
            (Some(_), ..) => None,
            (None, Some(prefix), _) => Some(prefix.clone()),
            (None, None, name) => name.as_ref()?.as_str().parse().ok(),
        }
    }

    /// Whether the user has given a name only, and this file has another: its id begins with the text.
    pub fn is_found_by_id(&self, file: &FileSummary) -> bool {
        let has_name = self.name.as_ref() == Some(&file.name);
        self.prefix.is_none() && !has_name && self.id_prefix().is_some_and(|prefix| prefix.matches(file.id))
    }

    /// Removes files that match by their id only, if others have the name.
    pub fn prefer_named(&self, found: &mut Vec<FoundFile>) {
        if found.iter().any(|found| !self.is_found_by_id(&found.file)) {
            found.retain(|found| !self.is_found_by_id(&found.file));
        }
    }

    /// Whether a file matches the query. Applied to every answer, since answers are not trusted.
    pub fn is_answered_by(&self, file: &FileSummary) -> bool {
        match (&self.id, &self.prefix) {
            (Some(id), _) => file.id == *id,
            (None, Some(prefix)) => prefix.matches(file.id),
            (None, None) => {
                self.name.as_ref().is_none_or(|name| file.name == *name) || self.is_found_by_id(file)
            }
        }
    }
}

/// The reason that a request over TCP has no result.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The connection could not be made or was lost.
    #[error(transparent)]
    Link(#[from] StreamError),
    /// The tracker answered with an error.
    #[error("request refused: {0}")]
    Rejected(String),
    /// A manager answered; the text names the flags to use.
    #[error("{0}")]
    NotATracker(String),
    /// The response does not fit the request.
    #[error("unexpected response {0}")]
    Unexpected(String),
}

impl From<io::Error> for RequestError {
    fn from(error: io::Error) -> Self {
        RequestError::Link(error.into())
    }
}

impl From<FrameError> for RequestError {
    fn from(error: FrameError) -> Self {
        RequestError::Link(error.into())
    }
}

impl FailedRequest for RequestError {
    fn is_refusal(&self) -> bool {
        matches!(self, RequestError::Rejected(_) | RequestError::NotATracker(_))
    }

    fn is_wrong_role(&self) -> bool {
        matches!(self, RequestError::NotATracker(_))
    }
}

/// Looks up the query once, for up to `wanted` holders. If more exist than fit in a datagram, repeats the
/// request over TCP; if that fails, returns the first answer. `shutdown` cancels the request.
///
/// # Errors
/// The tracker does not answer.
pub fn lookup(
    client: &mut UdpClient,
    query: &Query,
    wanted: u32,
    token: Option<Token>,
    timeouts: Timeouts,
    shutdown: &Shutdown,
) -> Result<Vec<FoundFile>, UdpClientError> {
    client.set_shutdown(shutdown);
    let Query { name, id, .. } = query.clone();
    let request = |limit| TrackerRequest::Lookup { name: name.clone(), id, limit, token };
    match client.request(&request(wanted.min(DATAGRAM_HOLDERS_MAX)))? {
        TrackerResponse::Found { files, truncated } => {
            let has_more =
                |found: &FoundFile| found.holders > (found.whole.len() + found.partial.len()) as u32;
            let is_cut = truncated || (wanted > DATAGRAM_HOLDERS_MAX && files.iter().any(has_more));
            let complete = is_cut.then(|| lookup_over_tcp(client, &request(wanted), timeouts, shutdown));
            let mut files = match complete {
                None => files,
                Some(Ok(complete)) => complete,
                Some(Err(error)) => {
                    log::debug!("no complete answer of the tracker: {error}");
                    files
                }
            };
            files.retain(|found| query.is_answered_by(&found.file));
            if let Some(tracker) = client.address() {
                files.iter_mut().for_each(|found| resolve_holders(found, tracker));
            }
            Ok(files)
        }
        TrackerResponse::Error { code: ErrorCode::NotATracker, .. } => {
            Err(UdpClientError::NotATracker(next_step::not_a_tracker(client.tracker())))
        }
        TrackerResponse::Error { text, .. } => Err(UdpClientError::Rejected(text)),
        other => Err(UdpClientError::Io(io::Error::other(format!("unexpected response {other:?}")))),
    }
}

/// Requests the list of all files of a tracker, each with some of its holders.
///
/// # Errors
/// The tracker does not answer.
pub fn list(
    tracker: &Endpoint,
    timeouts: Timeouts,
    shutdown: &Shutdown,
) -> Result<Vec<FoundFile>, RequestError> {
    let request = &TrackerRequest::List;
    request_over_tcp(tracker, request, timeouts, shutdown, |response, reader, address| match response {
        TrackerResponse::Listing { count, length } if length <= LIST_MAX => {
            let mut payload = vec![0; length as usize];
            reader.payload(&mut payload)?;
            let mut files: Vec<FoundFile> = serde_json::from_slice(&payload).map_err(FrameError::Json)?;
            files.iter_mut().for_each(|found| resolve_holders(found, address));
            if files.len() < count as usize {
                log::warn!("the tracker knows {count} files and lists {} of them", files.len());
            }
            Ok(files)
        }
        other => Err(unexpected(other)),
    })
}

/// Requests the state of a tracker's volunteers and files. Trackers answer this only on their own host, so
/// the default timeouts suffice.
///
/// # Errors
/// The tracker does not answer, or refuses.
pub fn status(tracker: &Endpoint, shutdown: &Shutdown) -> Result<Status, RequestError> {
    request_over_tcp(
        tracker,
        &TrackerRequest::Status,
        Timeouts::default(),
        shutdown,
        |response, reader, _| match response {
            TrackerResponse::Status { length } if length <= LIST_MAX => {
                let mut payload = vec![0; length as usize];
                reader.payload(&mut payload)?;
                Ok(serde_json::from_slice(&payload).map_err(FrameError::Json)?)
            }
            other => Err(unexpected(other)),
        },
    )
}

/// Resolves an address reported by a tracker: an unspecified IP address stands for the host of the tracker.
pub fn resolve_address(address: SocketAddr, tracker: SocketAddr) -> SocketAddr {
    match address.ip().is_unspecified() {
        true => SocketAddr::new(tracker.ip(), address.port()),
        false => address,
    }
}

/// The address of a holder as this host can dial it: an address of the tracker's own host is completed, and a link-local
/// address gets the network interface by which the tracker was reached. `None` without such an interface.
fn usable_address(address: SocketAddr, tracker: SocketAddr) -> Option<SocketAddr> {
    match (resolve_address(address, tracker), tracker) {
        (SocketAddr::V6(mut local), SocketAddr::V6(tracker)) if local.ip().is_unicast_link_local() => {
            local.set_scope_id(tracker.scope_id());
            (tracker.scope_id() != 0).then_some(local.into())
        }
        (SocketAddr::V6(local), SocketAddr::V4(_)) if local.ip().is_unicast_link_local() => None,
        (other, _) => Some(other),
    }
}

/// Resolves the addresses of all holders, and removes duplicates: a peer that shares the file and also stores
/// replicas of it is reported twice. A holder that this host cannot dial stays in the counts.
fn resolve_holders(found: &mut FoundFile, tracker: SocketAddr) {
    let mut seen: HashSet<SocketAddr> = HashSet::new();
    let mut resolve = |list: &mut Vec<PeerAddress>| {
        let mut duplicates = 0;
        list.retain_mut(|peer| {
            let Some(resolved) = peer.map(|address| usable_address(address, tracker)) else { return false };
            let is_known = resolved.all().any(|address| seen.contains(&address));
            seen.extend(resolved.all());
            duplicates += u32::from(is_known);
            *peer = resolved;
            !is_known
        });
        duplicates
    };
    let (complete, partial) = (resolve(&mut found.whole), resolve(&mut found.partial));
    found.complete = found.complete.saturating_sub(complete);
    found.holders = found.holders.saturating_sub(complete + partial);
}

fn lookup_over_tcp(
    client: &UdpClient,
    request: &TrackerRequest,
    timeouts: Timeouts,
    shutdown: &Shutdown,
) -> Result<Vec<FoundFile>, RequestError> {
    request_over_tcp(client.tracker(), request, timeouts, shutdown, |response, _, _| match response {
        TrackerResponse::Found { files, .. } => Ok(files),
        other => Err(unexpected(other)),
    })
}

/// Adds to the error of a TCP connect that the tracker responds over UDP, if it does.
pub(super) fn explain_connect_error(error: io::Error, tracker: &Endpoint, shutdown: &Shutdown) -> io::Error {
    if shutdown.is_stopped() {
        return error;
    }
    let request = TrackerRequest::Heartbeat { token: Token(0) };
    match UdpClient::new(tracker.clone(), shutdown).request_with_attempts(&request, PROBE_ATTEMPTS_MAX) {
        Ok(_) => {
            let text = format!("{error}; it responds over UDP: TCP to it seems to be blocked");
            io::Error::new(error.kind(), text)
        }
        Err(_) => error,
    }
}

/// Sends one request over a new TCP connection.
fn request_over_tcp<T>(
    tracker: &Endpoint,
    request: &TrackerRequest,
    timeouts: Timeouts,
    shutdown: &Shutdown,
    answer: impl FnOnce(TrackerResponse, &mut FrameReader, SocketAddr) -> Result<T, RequestError>,
) -> Result<T, RequestError> {
    let stream =
        Arc::new(tracker.connect(shutdown).map_err(|error| explain_connect_error(error, tracker, shutdown))?);
    let _guard = shutdown.guard(&stream);
    let address = stream.peer_addr()?;
    let (mut reader, mut writer) = split(&stream, timeouts.stall)?;
    writer.send(&TrackerRequest::Hello { version: PROTOCOL_VERSION })?;
    writer.send(request)?;
    match reader.message(timeouts.hello)? {
        TrackerResponse::Hello { .. } => match reader.message(timeouts.stall)? {
            TrackerResponse::Error { code: ErrorCode::NotATracker, .. } => {
                Err(RequestError::NotATracker(next_step::not_a_tracker(tracker)))
            }
            response => answer(response, &mut reader, address),
        },
        other => Err(unexpected(other)),
    }
}

fn unexpected(response: TrackerResponse) -> RequestError {
    match response {
        TrackerResponse::Error { text, .. } => RequestError::Rejected(text),
        other => RequestError::Unexpected(format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unspecified_addresses_are_resolved_and_holders_are_listed_once() {
        let tracker = "10.0.0.1:5100".parse().unwrap();
        let addresses = |texts: &[&str]| {
            texts.iter().map(|text| text.parse::<SocketAddr>().unwrap().into()).collect::<Vec<PeerAddress>>()
        };
        let name = FileName::new("f").unwrap();
        let mut found = FoundFile {
            file: FileSummary { id: FileId([1; 32]), name, size: 1, chunks: 1 },
            holders: 9,
            complete: 4,
            whole: addresses(&["0.0.0.0:7", "10.0.0.2:7"]),
            partial: addresses(&["[::]:8", "10.0.0.2:7", "10.0.0.3:7", "10.0.0.3:7"]),
            md5: None,
        };
        resolve_holders(&mut found, tracker);
        assert_eq!(found.whole, addresses(&["10.0.0.1:7", "10.0.0.2:7"]));
        assert_eq!(found.partial, addresses(&["10.0.0.1:8", "10.0.0.3:7"]));
        assert_eq!((found.holders, found.complete), (7, 4));
    }
}
