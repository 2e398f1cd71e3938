//! TCP connections of a server: a reader and a writer thread for each.

use super::{Event, ServerConfig, forward};
use crate::content::limits::{CONNECTION_REQUESTS_MAX, FILE_NAME_MAX, OUTBOX_BYTES, PROTOCOL_VERSION};
use crate::net::framed_stream::split;
use crate::net::{
    Activity, FrameReader, FrameWriter, InFlight, InFlightBudget, Listener, Shutdown, StreamError, Threads,
    Timeouts,
};
use crate::protocol::ErrorCode;
use crate::protocol::frame::FrameError;
use crate::protocol::tracker::{FoundFile, TrackerRequest, TrackerResponse};
use crate::swarm::machine::ConnectionId;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// A message, with its payload if it has one.
pub(super) type Outgoing = (TrackerResponse, Option<Arc<[u8]>>);

/// A queued message, with its part of the budget; `None` for an error in place of a message that exceeds the budget.
type Queued = (Outgoing, Option<InFlight>);

/// The state thread's handle of a connection: its send queue and its request credit.
pub(super) struct Connection {
    from: SocketAddr,
    /// Allocated as it fills, up to `limit` messages: memory reserved in advance would cost
    /// hundreds of kilobytes for each of many idle connections.
    outbox: Sender<Queued>,
    /// Budget that all connections share.
    in_flight: InFlightBudget,
    /// Messages that the outbox may hold.
    limit: usize,
    /// Holds one unit for each request that waits for the state thread; full if the reader must wait.
    request_credit: Receiver<()>,
    /// Bytes in the outbox and in the message that is being written.
    queued_bytes: Arc<AtomicUsize>,
    stream: Arc<TcpStream>,
}

impl Connection {
    /// Whether the client is on this host: a connection from another host has another source address than the address
    /// that it reaches.
    pub(super) fn is_local(&self) -> bool {
        let from = self.from.ip().to_canonical();
        let reached = || self.stream.local_addr().is_ok_and(|reached| reached.ip().to_canonical() == from);
        from.is_loopback() || reached()
    }

    /// Returns the credit of one request, so that the reader may forward the next one.
    pub(super) fn handled(&self) {
        let _ = self.request_credit.try_recv();
    }

    /// Queues a message, or an error if all connections together have too many bytes in flight. If the queue is full,
    /// closes the connection and returns `false`.
    pub(super) fn send(&self, outgoing: Outgoing) -> bool {
        let bytes = cost(&outgoing) as u64;
        let payload = outgoing.1.as_ref();
        let queued = match self.in_flight.reserve(self.from.ip(), bytes, payload) {
            Some(reserved) => (outgoing, Some(reserved)),
            None => {
                let text = "too many responses wait for their readers; ask again later".to_owned();
                ((TrackerResponse::Error { code: ErrorCode::Busy, text }, None), None)
            }
        };
        // Only the state thread sends, so the queue cannot grow between the check and the send. The limit is compared
        // with the bytes before this message, so that a single payload may exceed the limit.
        let full =
            self.outbox.len() >= self.limit || self.queued_bytes.load(Ordering::Relaxed) > OUTBOX_BYTES;
        if full {
            log::warn!("disconnected {}: its send queue is full because it does not read", self.from);
        } else {
            self.queued_bytes.fetch_add(queue_bytes(&queued.0), Ordering::Relaxed);
        }
        let sent = !full && self.outbox.send(queued).is_ok();
        if !sent {
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
        }
        sent
    }
}

/// Approximate memory of a queued message with its payload, in bytes.
fn queue_bytes(outgoing: &Outgoing) -> usize {
    cost(outgoing) + outgoing.1.as_ref().map_or(0, |payload| payload.len())
}

/// Approximate memory of a queued message without its payload, in bytes.
fn cost((response, _): &Outgoing) -> usize {
    let addresses = match response {
        TrackerResponse::Found { files, .. } => {
            let each = files.iter().map(|found| size_of_val(found) + FILE_NAME_MAX + holder_bytes(found));
            each.sum()
        }
        TrackerResponse::ChunkLocation { holders, .. } => size_of_val(&holders[..]),
        _ => 0,
    };
    size_of::<Queued>() + addresses
}

fn holder_bytes(found: &FoundFile) -> usize {
    size_of_val(&found.whole[..]) + size_of_val(&found.partial[..])
}

/// Accepts and serves connections until the shutdown.
pub(super) fn serve(
    listener: Listener,
    config: &ServerConfig,
    events: Sender<Event>,
    threads: &Threads,
    shutdown: &Shutdown,
) -> io::Result<()> {
    let (outbox, in_flight) = (config.outbox, config.in_flight.clone());
    let server = ConnectionServer::new(outbox, in_flight, config.timeouts, events, threads, shutdown);
    let handle = move |stream: Arc<TcpStream>, from, activity: &Activity| {
        match server.serve(stream, from, activity) {
            StreamError::Closed => log::debug!("{from} closed its connection"),
            _ if server.shutdown.is_stopped() => {}
            // Debug only: any host can connect and send invalid messages, and must not be able to fill the log.
            cause => log::debug!("disconnected {from}: {cause}"),
        }
    };
    listener.serve("link", config.connections, threads, shutdown, handle).map(drop)
}

/// Parameters and channels that all connections share.
pub(super) struct ConnectionServer {
    next: AtomicU64,
    outbox: usize,
    in_flight: InFlightBudget,
    timeouts: Timeouts,
    events: Sender<Event>,
    threads: Threads,
    shutdown: Shutdown,
}

impl ConnectionServer {
    /// Creates the state of a server without connections.
    pub(super) fn new(
        outbox: usize,
        in_flight: InFlightBudget,
        timeouts: Timeouts,
        events: Sender<Event>,
        threads: &Threads,
        shutdown: &Shutdown,
    ) -> Self {
        let (threads, shutdown) = (threads.clone(), shutdown.clone());
        Self { next: AtomicU64::new(0), outbox, in_flight, timeouts, events, threads, shutdown }
    }

    /// Serves one connection until it ends. Returns the cause.
    fn serve(&self, stream: Arc<TcpStream>, from: SocketAddr, activity: &Activity) -> StreamError {
        let (mut reader, mut writer) = match split(&stream, self.timeouts.stall) {
            Ok(halves) => halves,
            Err(error) => return error.into(),
        };
        match hello(&mut reader, &mut writer, self.timeouts.hello) {
            Ok(()) => self.converse((reader, writer), stream, from, activity),
            Err(error) => error,
        }
    }

    /// Serves one connection after the hello exchange until it ends. Returns the cause.
    pub(super) fn converse(
        &self,
        (mut reader, mut writer): (FrameReader, FrameWriter),
        stream: Arc<TcpStream>,
        from: SocketAddr,
        activity: &Activity,
    ) -> StreamError {
        let id = ConnectionId(self.next.fetch_add(1, Ordering::Relaxed));
        let (outbox, queued) = unbounded();
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let (credit, request_credit) = bounded(CONNECTION_REQUESTS_MAX);
        let (writer_stream, writer_bytes) = (stream.clone(), queued_bytes.clone());
        let own = stream.clone();
        let in_flight = self.in_flight.clone();
        let connection = Connection {
            from,
            outbox,
            in_flight,
            limit: self.outbox,
            request_credit,
            queued_bytes,
            stream: own,
        };
        if !forward(&self.events, &self.shutdown, Event::Opened(id, connection)) {
            return StreamError::Closed;
        }
        // Closed when the writer thread ends. Until then this connection counts against the connection limit.
        let (writing, ended) = bounded::<Infallible>(0);
        let spawned = self.threads.spawn("link-out", move || {
            let _writing = writing;
            write(&mut writer, &queued, &writer_bytes);
            // The end of the writer, for any cause, also ends the reader.
            let _ = writer_stream.shutdown(std::net::Shutdown::Both);
        });
        let cause = match spawned {
            Ok(()) => self.read(id, &mut reader, from, &credit, activity),
            Err(error) => error.into(),
        };
        // A client that has closed only its sending side may still read the responses to its requests.
        if !matches!(cause, StreamError::Closed) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        forward(&self.events, &self.shutdown, Event::Closed(id));
        let _ = ended.recv();
        cause
    }

    /// Forwards requests to the state thread, which may be at most [`CONNECTION_REQUESTS_MAX`] requests behind
    /// (backpressure).
    fn read(
        &self,
        id: ConnectionId,
        reader: &mut FrameReader,
        from: SocketAddr,
        credit: &Sender<()>,
        activity: &Activity,
    ) -> StreamError {
        loop {
            let request = match activity.read_request(reader, self.timeouts.idle) {
                Ok(request) => request,
                Err(error) => return error,
            };
            let has_credit = crossbeam_channel::select! {
                send(credit, ()) -> sent => sent.is_ok(),
                recv(self.shutdown.signal()) -> _ => false,
            };
            if !has_credit || !forward(&self.events, &self.shutdown, Event::Request(id, from, request)) {
                return StreamError::Closed;
            }
        }
    }
}

fn hello(reader: &mut FrameReader, writer: &mut FrameWriter, timeout: Duration) -> Result<(), StreamError> {
    let refusal = match reader.message(timeout) {
        Ok(TrackerRequest::Hello { version: PROTOCOL_VERSION }) => {
            return writer.send(&TrackerResponse::Hello { version: PROTOCOL_VERSION });
        }
        Ok(TrackerRequest::Hello { version }) => {
            let text = format!("protocol version {version} is not supported; use version {PROTOCOL_VERSION}");
            (ErrorCode::UnknownVersion, text)
        }
        Ok(_) => (ErrorCode::Malformed, "the first message must be hello".to_owned()),
        Err(StreamError::Frame(error)) => (ErrorCode::Malformed, error.to_string()),
        Err(error) => return Err(error),
    };
    let (code, text) = refusal;
    writer.send(&TrackerResponse::Error { code, text: text.clone() })?;
    Err(StreamError::Io(io::Error::new(io::ErrorKind::InvalidData, text)))
}

fn write(writer: &mut FrameWriter, queued: &Receiver<Queued>, queued_bytes: &AtomicUsize) {
    for (outgoing, _reserved) in queued {
        let bytes = queue_bytes(&outgoing);
        let (mut response, payload) = outgoing;
        if deliver(writer, &mut response, payload.as_deref().unwrap_or_default()).is_err() {
            return;
        }
        queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Sends a response.
///
/// A response longer than a frame is shortened and marked as truncated, or replaced by an error.
///
/// A message is always sent, because the client waits for a response to each request.
fn deliver(
    writer: &mut FrameWriter,
    response: &mut TrackerResponse,
    payload: &[u8],
) -> Result<(), StreamError> {
    loop {
        match writer.send_with(response, payload) {
            // No byte was sent, so the connection is still in step with the frames.
            Err(StreamError::Frame(FrameError::TooLong)) if response.shrink() => {}
            Err(StreamError::Frame(error)) => {
                log::warn!("response exceeds the frame limit: {error}");
                let text = "the response is too long".to_owned();
                return writer.send(&TrackerResponse::Error { code: ErrorCode::Busy, text });
            }
            sent => return sent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::limits::{FRAME_MAX, HANDSHAKE_TIMEOUT};
    use crate::content::{FileId, FileName};
    use crate::protocol::tracker::FileSummary;
    use std::net::TcpListener;

    fn connection() -> (Connection, Receiver<Queued>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let from = listener.local_addr().unwrap();
        let stream = Arc::new(TcpStream::connect(from).unwrap());
        let (outbox, queued) = bounded(1_000_000);
        let (request_credit, queued_bytes) = (crossbeam_channel::never(), Arc::default());
        let in_flight = InFlightBudget::new(1 << 40);
        (
            Connection { from, outbox, in_flight, limit: 1_000_000, request_credit, queued_bytes, stream },
            queued,
        )
    }

    #[test]
    fn a_connection_from_another_address_is_not_local() {
        let (mut connection, _queued) = connection();
        assert!(connection.is_local());
        connection.from = "10.0.0.9:1".parse().unwrap();
        assert!(!connection.is_local());
    }

    #[test]
    fn send_queue_of_a_connection_is_bounded_in_bytes() {
        let (connection, _queued) = connection();
        let payload: Arc<[u8]> = vec![0; 1 << 20].into();
        let message = || (TrackerResponse::Alive, Some(payload.clone()));
        let sent = (0..1_000).take_while(|_| connection.send(message())).count();
        assert_eq!(sent, OUTBOX_BYTES >> 20);
    }

    #[test]
    fn a_response_above_the_budget_of_all_connections_is_replaced_by_an_error() {
        let (mut connection, queued) = connection();
        connection.in_flight = InFlightBudget::new(1 << 20);
        let list = || (TrackerResponse::Alive, Some(vec![0; 400 << 10].into()));
        assert!(connection.send(list()) && connection.send(list()));
        let (first, second) = (queued.recv().unwrap(), queued.recv().unwrap());
        assert!(matches!(first.0, (TrackerResponse::Alive, Some(_))));
        assert!(matches!(second.0, (TrackerResponse::Error { code: ErrorCode::Busy, .. }, None)));
        drop(first);
        assert!(connection.send(list()));
        assert!(matches!(queued.recv().unwrap().0, (TrackerResponse::Alive, Some(_))));
    }

    #[test]
    fn response_longer_than_a_frame_is_truncated_or_replaced_by_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = Arc::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let mut writer = FrameWriter::new(stream).unwrap();
        let mut reader = FrameReader::new(Arc::new(listener.accept().unwrap().0));
        let holder = "[1111:2222:3333:4444:5555:6666:7777:8888]:65535".parse::<SocketAddr>().unwrap();
        let holder = crate::protocol::PeerAddress::from(holder);
        let name = FileName::new("f").unwrap();
        let file = FileSummary { id: FileId([1; 32]), name, size: 1, chunks: 1 };
        let found = FoundFile {
            file,
            holders: 1_024,
            complete: 512,
            whole: vec![holder.clone(); 512],
            partial: vec![holder; 512],
            md5: None,
        };
        let mut found = TrackerResponse::Found { files: vec![found; 4], truncated: false };
        let mut error = TrackerResponse::Error { code: ErrorCode::Busy, text: "x".repeat(FRAME_MAX) };
        for response in [&mut found, &mut error] {
            deliver(&mut writer, response, &[]).unwrap();
        }
        let received = reader.message(HANDSHAKE_TIMEOUT).unwrap();
        assert!(matches!(received, TrackerResponse::Found { truncated: true, files } if files.len() == 4));
        assert!(matches!(reader.message(HANDSHAKE_TIMEOUT), Ok(TrackerResponse::Error { .. })));
    }

    #[test]
    fn send_queue_accepts_one_payload_larger_than_its_limit() {
        let (connection, _queued) = connection();
        assert!(connection.send((TrackerResponse::Alive, None)));
        let large: Arc<[u8]> = vec![0; OUTBOX_BYTES + 1].into();
        assert!(connection.send((TrackerResponse::Alive, Some(large))));
        assert!(!connection.send((TrackerResponse::Alive, None)));
    }
}
