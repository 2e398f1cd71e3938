//! How long the other side of a connection is waited for.

use crate::content::limits::{HANDSHAKE_TIMEOUT, IDLE_TIMEOUT, STALL_TIMEOUT};
use std::time::Duration;

/// How long the other side of a connection is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For its hello.
    pub hello: Duration,
    /// For its next request, by who serves; for anything at all, by a peer with a session at a tracker or manager.
    pub idle: Duration,
    /// For the next bytes in the middle of a message, for it to take what is sent, and for an answer to begin, by who
    /// asks.
    pub stall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { hello: HANDSHAKE_TIMEOUT, idle: IDLE_TIMEOUT, stall: STALL_TIMEOUT }
    }
}
