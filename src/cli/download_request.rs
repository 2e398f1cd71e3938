//! Parser of the files that a user asks for.

use crate::content::{FileId, FileName};
use crate::report::{DaemonError, Fault};
use crate::roles::folder_client::DownloadRequest;
use crate::tracker_client::lookup::Query;
use std::time::Duration;

/// Parses the id or the name of a file.
///
/// # Errors
/// The text is neither.
pub fn download_request(text: &str, wait_timeout: Duration) -> Result<DownloadRequest, DaemonError> {
    let query = match text.parse::<FileId>() {
        Ok(id) => Query { name: None, id: Some(id) },
        Err(_) => {
            let name = FileName::new(text);
            let name = name.map_err(|error| DaemonError::new(Fault::Usage, error.to_string()))?;
            Query { name: Some(name), id: None }
        }
    };
    Ok(DownloadRequest { query, wait_timeout, ..DownloadRequest::default() })
}
