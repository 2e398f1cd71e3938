//! Parser of the files that a user asks for.

use crate::content::{FileId, FileName};
use crate::report::{Fault, RoleError};
use crate::roles::folder_client::DownloadRequest;
use crate::tracker_client::lookup::Query;
use std::time::Duration;

/// Parses the id or the name of a file. The name may turn out to be the first digits of an id.
///
/// # Errors
/// The text is neither.
pub fn download_request(text: &str, wait_timeout: Duration) -> Result<DownloadRequest, RoleError> {
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
