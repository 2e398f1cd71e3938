//! Timeouts of a TCP connection.

use crate::content::limits::{HANDSHAKE_TIMEOUT, IDLE_TIMEOUT, STALL_TIMEOUT};
use std::time::Duration;

/// Timeouts of a TCP connection, for either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the connect to the hello of the other side.
    pub hello: Duration,
    /// At a server: from one request to the next. At a peer with a session at a tracker or manager: from one message of
    /// the tracker or manager to the next.
    pub idle: Duration,
    /// For a single read or write within a message, and at a client from a request to the first byte of its response.
    pub stall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { hello: HANDSHAKE_TIMEOUT, idle: IDLE_TIMEOUT, stall: STALL_TIMEOUT }
    }
}
