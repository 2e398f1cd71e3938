//! A hub's connections: a reader and a writer thread for each.

use super::{Event, HubConfig, forward};
use crate::content::limits::{CONVERSATION_TIMEOUT, HELLO_TIMEOUT, PROTOCOL_VERSION};
use crate::net::{LinkError, LinkReader, LinkWriter, Listener, Shutdown, Threads};
use crate::protocol::ErrorCode;
use crate::protocol::frame::FrameError;
use crate::protocol::tracker::{TrackerRequest, TrackerResponse};
use crate::swarm::machine::ConnectionId;
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What waits to be written: a message, and its payload if it has one.
pub(super) type Outgoing = (TrackerResponse, Option<Arc<[u8]>>);

/// The state thread's end of a connection.
pub(super) struct Connection {
    from: SocketAddr,
    /// Grows as it is filled, up to `limit`: room for all of it, reserved for each of many idle connections, would
    /// cost hundreds of kilobytes apiece.
    outbox: Sender<Outgoing>,
    limit: usize,
    stream: Arc<TcpStream>,
}

impl Connection {
    /// Queues something. A connection that does not drain is dropped, and `false` returned.
    pub(super) fn send(&self, outgoing: Outgoing) -> bool {
        // Only the state thread sends, so nothing comes between the look and the sending.
        let full = self.outbox.len() >= self.limit;
        if full {
            log::warn!("dropping {}: it does not read what it is sent", self.from);
        }
        let sent = !full && self.outbox.send(outgoing).is_ok();
        if !sent {
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
        }
        sent
    }
}

/// Serves connections until the shutdown.
pub(super) fn serve(
    listener: Listener,
    config: &HubConfig,
    events: Sender<Event>,
    threads: &Threads,
    shutdown: &Shutdown,
) -> io::Result<()> {
    let next = AtomicU64::new(0);
    let hall = Hall { outbox: config.outbox, events, threads: threads.clone(), shutdown: shutdown.clone() };
    listener.serve("link", config.connections, threads, shutdown, move |stream, from| {
        let id = ConnectionId(next.fetch_add(1, Ordering::Relaxed));
        let why = hall.converse(id, stream, from);
        match why {
            LinkError::Closed => log::debug!("{from} has closed its connection"),
            _ if hall.shutdown.is_stopped() => {}
            why => log::info!("dropping {from}: {why}"),
        }
    })
}

/// What all connections share.
struct Hall {
    outbox: usize,
    events: Sender<Event>,
    threads: Threads,
    shutdown: Shutdown,
}

impl Hall {
    fn converse(&self, id: ConnectionId, stream: Arc<TcpStream>, from: SocketAddr) -> LinkError {
        let mut reader = LinkReader::new(stream.clone());
        let mut writer = match LinkWriter::new(stream.clone()) {
            Ok(writer) => writer,
            Err(error) => return error.into(),
        };
        if let Err(error) = hello(&mut reader, &mut writer) {
            return error;
        }
        let (outbox, queued) = unbounded();
        let shut = stream.clone();
        let connection = Connection { from, outbox, limit: self.outbox, stream };
        if !forward(&self.events, &self.shutdown, Event::Opened(id, connection)) {
            return LinkError::Closed;
        }
        let spawned = self.threads.spawn("link-out", move || {
            write(&mut writer, &queued);
            // Whatever ended the writing ends the reading.
            let _ = shut.shutdown(std::net::Shutdown::Both);
        });
        let why = match spawned {
            Ok(()) => read(id, &mut reader, from, &self.events, &self.shutdown),
            Err(error) => error.into(),
        };
        forward(&self.events, &self.shutdown, Event::Closed(id));
        why
    }
}

fn hello(reader: &mut LinkReader, writer: &mut LinkWriter) -> Result<(), LinkError> {
    let refusal = match reader.message(HELLO_TIMEOUT) {
        Ok(TrackerRequest::Hello { version: PROTOCOL_VERSION }) => {
            return writer.send(&TrackerResponse::Hello { version: PROTOCOL_VERSION });
        }
        Ok(TrackerRequest::Hello { version }) => {
            let text = format!("version {PROTOCOL_VERSION} is spoken here, not {version}");
            (ErrorCode::UnknownVersion, text)
        }
        Ok(_) => (ErrorCode::Malformed, "a conversation opens with hello".to_owned()),
        Err(LinkError::Frame(error)) => (ErrorCode::Malformed, error.to_string()),
        Err(error) => return Err(error),
    };
    let (code, text) = refusal;
    writer.send(&TrackerResponse::Error { code, text: text.clone() })?;
    Err(LinkError::Io(io::Error::new(io::ErrorKind::InvalidData, text)))
}

fn read(
    id: ConnectionId,
    reader: &mut LinkReader,
    from: SocketAddr,
    events: &Sender<Event>,
    shutdown: &Shutdown,
) -> LinkError {
    loop {
        match reader.message(CONVERSATION_TIMEOUT) {
            Ok(request) => {
                if !forward(events, shutdown, Event::Request(id, from, request)) {
                    return LinkError::Closed;
                }
            }
            Err(error) => return error,
        }
    }
}

fn write(writer: &mut LinkWriter, queued: &Receiver<Outgoing>) {
    for (response, payload) in queued {
        match writer.send_with(&response, payload.as_deref().unwrap_or_default()) {
            Ok(()) => {}
            // Nothing of it is out, so the connection is still whole.
            Err(LinkError::Frame(FrameError::TooLong)) => log::warn!("a response does not fit in a frame"),
            Err(_) => return,
        }
    }
}
