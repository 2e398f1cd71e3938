//! TCP connection to a tracker for single requests, where UDP is blocked.

use super::dial::dial_any_within;
use super::framed_stream::split;
use super::{FrameReader, FrameWriter, Shutdown, StreamError};
use crate::content::limits::{PROTOCOL_VERSION, STALL_TIMEOUT};
use crate::protocol::tracker::{TrackerRequest, TrackerResponse};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// An open connection after the hello exchange. A response follows each request.
pub(super) struct RequestStream {
    stream: Arc<TcpStream>,
    reader: FrameReader,
    writer: FrameWriter,
}

impl RequestStream {
    /// Connects to the first of several addresses that accepts, and exchanges hello.
    pub(super) fn open(
        addresses: &[SocketAddr],
        timeout: Duration,
        shutdown: &Shutdown,
    ) -> Result<Self, StreamError> {
        let stream = Arc::new(dial_any_within(addresses, timeout, shutdown)?);
        let (reader, writer) = split(&stream, STALL_TIMEOUT)?;
        let mut opened = Self { stream, reader, writer };
        let hello = TrackerRequest::Hello { version: PROTOCOL_VERSION };
        match opened.request(&hello, timeout, shutdown)? {
            TrackerResponse::Hello { .. } => Ok(opened),
            other => Err(StreamError::Io(io::Error::other(format!("unexpected response {other:?}")))),
        }
    }

    /// Sends a request and waits for its response. After an error the stream cannot be used any more.
    pub(super) fn request(
        &mut self,
        request: &TrackerRequest,
        timeout: Duration,
        shutdown: &Shutdown,
    ) -> Result<TrackerResponse, StreamError> {
        let _guard = shutdown.guard(&self.stream);
        self.writer.send(request)?;
        self.reader.message(timeout.min(STALL_TIMEOUT))
    }

    /// Sends a request that needs no response.
    pub(super) fn send_without_reply(&mut self, request: &TrackerRequest) {
        let _ = self.writer.send(request);
    }

    /// The address of the tracker.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.stream.peer_addr().ok()
    }

    /// The address of this end.
    pub(super) fn local_address(&self) -> Option<SocketAddr> {
        self.stream.local_addr().ok()
    }
}
