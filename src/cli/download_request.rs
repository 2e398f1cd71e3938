//! Parser of the file that a user asks for at the prompt.

use crate::content::{FileId, FileName};
use crate::report::{Fault, RoleError};
use crate::roles::folder_client::DownloadRequest;
use crate::tracker_client::lookup::Query;
use crate::tracker_client::ticket::{TICKET_PREFIX, Ticket};
use std::sync::Arc;
use std::time::Duration;

/// Parses a ticket, or the id or the name of a file. The name may turn out to be the first digits of an id.
///
/// # Errors
/// The text is none of them.
pub fn download_request(text: &str, wait_timeout: Duration) -> Result<DownloadRequest, RoleError> {
    if text.starts_with(TICKET_PREFIX) {
        let ticket: Ticket = text.parse().map_err(|error| RoleError::from_error(Fault::Usage, error))?;
        let query = Query { id: Some(ticket.id), ..Query::default() };
        let ticket = Some(Arc::new(ticket));
        return Ok(DownloadRequest { query, ticket, wait_timeout, ..DownloadRequest::default() });
    }
    let query = match text.parse::<FileId>() {
        Ok(id) => Query { id: Some(id), ..Query::default() },
        Err(_) => {
            let name = FileName::new(text);
            let name = name.map_err(|error| RoleError::from_error(Fault::Usage, error))?;
            Query { name: Some(name), ..Query::default() }
        }
    };
    Ok(DownloadRequest { query, wait_timeout, ..DownloadRequest::default() })
}
