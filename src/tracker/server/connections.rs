//! A hub's connections: a reader and a writer thread for each.

use super::{Event, HubConfig, forward};
use crate::content::limits::{FILE_NAME_MAX, HUB_REQUESTS_MAX, OUTBOX_BYTES, PROTOCOL_VERSION};
use crate::net::framed_stream::split;
use crate::net::{Activity, FrameReader, FrameWriter, Listener, Shutdown, StreamError, Threads, Timeouts};
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

/// What waits to be written: a message, and its payload if it has one.
pub(super) type Outgoing = (TrackerResponse, Option<Arc<[u8]>>);

/// The state thread's end of a connection.
pub(super) struct Connection {
    from: SocketAddr,
    /// Grows as it is filled, up to `limit`: room for all of it, reserved for each of many idle connections, would
    /// cost hundreds of kilobytes apiece.
    outbox: Sender<Outgoing>,
    limit: usize,
    /// A unit for each request that waits for the state thread.
    asked: Receiver<()>,
    /// Bytes in the outbox, and in what is being written.
    waiting: Arc<AtomicUsize>,
    stream: Arc<TcpStream>,
}

impl Connection {
    /// One of its requests no longer waits: the next one may.
    pub(super) fn handled(&self) {
        let _ = self.asked.try_recv();
    }

    /// Queues something. A connection that does not drain is dropped, and `false` returned.
    pub(super) fn send(&self, outgoing: Outgoing) -> bool {
        // Only the state thread sends, so nothing comes between the look and the sending. The bytes are looked at before
        // these are added, so that a single payload may be larger than all that may wait.
        let full = self.outbox.len() >= self.limit || self.waiting.load(Ordering::Relaxed) > OUTBOX_BYTES;
        if full {
            log::warn!("dropping {}: it does not read what it is sent", self.from);
        } else {
            self.waiting.fetch_add(cost(&outgoing), Ordering::Relaxed);
        }
        let sent = !full && self.outbox.send(outgoing).is_ok();
        if !sent {
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
        }
        sent
    }
}

/// About how many bytes something takes while it waits.
fn cost((response, payload): &Outgoing) -> usize {
    let addresses = match response {
        TrackerResponse::Found { files, .. } => {
            let each = files.iter().map(|found| size_of_val(found) + FILE_NAME_MAX + named(found));
            each.sum()
        }
        TrackerResponse::ChunkLocation { holders, .. } => size_of_val(&holders[..]),
        _ => 0,
    };
    size_of::<Outgoing>() + addresses + payload.as_ref().map_or(0, |payload| payload.len())
}

fn named(found: &FoundFile) -> usize {
    size_of_val(&found.whole[..]) + size_of_val(&found.partial[..])
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
    let hall = Hall {
        outbox: config.outbox,
        timeouts: config.timeouts,
        events,
        threads: threads.clone(),
        shutdown: shutdown.clone(),
    };
    listener.serve("link", config.connections, threads, shutdown, move |stream, from, activity| {
        let id = ConnectionId(next.fetch_add(1, Ordering::Relaxed));
        let why = hall.converse(id, stream, from, activity);
        match why {
            StreamError::Closed => log::debug!("{from} has closed its connection"),
            _ if hall.shutdown.is_stopped() => {}
            // Anybody can make a connection and say nonsense: that must not fill the log.
            why => log::debug!("dropping {from}: {why}"),
        }
    })
}

/// What all connections share.
struct Hall {
    outbox: usize,
    timeouts: Timeouts,
    events: Sender<Event>,
    threads: Threads,
    shutdown: Shutdown,
}

impl Hall {
    fn converse(
        &self,
        id: ConnectionId,
        stream: Arc<TcpStream>,
        from: SocketAddr,
        activity: &Activity,
    ) -> StreamError {
        let (mut reader, mut writer) = match split(&stream, self.timeouts.stall) {
            Ok(halves) => halves,
            Err(error) => return error.into(),
        };
        if let Err(error) = hello(&mut reader, &mut writer, self.timeouts.hello) {
            return error;
        }
        let (outbox, queued) = unbounded();
        let waiting = Arc::new(AtomicUsize::new(0));
        let (credit, asked) = bounded(HUB_REQUESTS_MAX);
        let (shut, written) = (stream.clone(), waiting.clone());
        let own = stream.clone();
        let connection = Connection { from, outbox, limit: self.outbox, asked, waiting, stream: own };
        if !forward(&self.events, &self.shutdown, Event::Opened(id, connection)) {
            return StreamError::Closed;
        }
        // Closes when the writing has ended: this connection's place and guard last until then.
        let (writing, ended) = bounded::<Infallible>(0);
        let spawned = self.threads.spawn("link-out", move || {
            let _writing = writing;
            write(&mut writer, &queued, &written);
            // Whatever ended the writing ends the reading.
            let _ = shut.shutdown(std::net::Shutdown::Both);
        });
        let why = match spawned {
            Ok(()) => self.read(id, &mut reader, from, &credit, activity),
            Err(error) => error.into(),
        };
        // Who has closed only its own side may still read the answers to what it asked.
        if !matches!(why, StreamError::Closed) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        forward(&self.events, &self.shutdown, Event::Closed(id));
        let _ = ended.recv();
        why
    }

    /// Forwards requests, never more than a few ahead of the state thread: whoever asks faster waits alone.
    fn read(
        &self,
        id: ConnectionId,
        reader: &mut FrameReader,
        from: SocketAddr,
        credit: &Sender<()>,
        activity: &Activity,
    ) -> StreamError {
        loop {
            let request = match reader.message(self.timeouts.idle) {
                Ok(request) => request,
                Err(error) => return error,
            };
            activity.record_request();
            let granted = crossbeam_channel::select! {
                send(credit, ()) -> sent => sent.is_ok(),
                recv(self.shutdown.signal()) -> _ => false,
            };
            if !granted || !forward(&self.events, &self.shutdown, Event::Request(id, from, request)) {
                return StreamError::Closed;
            }
        }
    }
}

fn hello(reader: &mut FrameReader, writer: &mut FrameWriter, patience: Duration) -> Result<(), StreamError> {
    let refusal = match reader.message(patience) {
        Ok(TrackerRequest::Hello { version: PROTOCOL_VERSION }) => {
            return writer.send(&TrackerResponse::Hello { version: PROTOCOL_VERSION });
        }
        Ok(TrackerRequest::Hello { version }) => {
            let text = format!("version {PROTOCOL_VERSION} is spoken here, not {version}");
            (ErrorCode::UnknownVersion, text)
        }
        Ok(_) => (ErrorCode::Malformed, "a conversation opens with hello".to_owned()),
        Err(StreamError::Frame(error)) => (ErrorCode::Malformed, error.to_string()),
        Err(error) => return Err(error),
    };
    let (code, text) = refusal;
    writer.send(&TrackerResponse::Error { code, text: text.clone() })?;
    Err(StreamError::Io(io::Error::new(io::ErrorKind::InvalidData, text)))
}

fn write(writer: &mut FrameWriter, queued: &Receiver<Outgoing>, waiting: &AtomicUsize) {
    for outgoing in queued {
        let cost = cost(&outgoing);
        let (mut response, payload) = outgoing;
        if deliver(writer, &mut response, payload.as_deref().unwrap_or_default()).is_err() {
            return;
        }
        waiting.fetch_sub(cost, Ordering::Relaxed);
    }
}

/// Sends a response; what does not fit in a frame is shortened and says so. Something is always sent: whoever asked
/// would wait for it.
fn deliver(
    writer: &mut FrameWriter,
    response: &mut TrackerResponse,
    payload: &[u8],
) -> Result<(), StreamError> {
    loop {
        match writer.send_with(response, payload) {
            // Nothing of it is out, so the connection is still whole.
            Err(StreamError::Frame(FrameError::TooLong)) if response.shrink() => {}
            Err(StreamError::Frame(error)) => {
                log::warn!("a response does not fit in a frame: {error}");
                let text = "the answer is too long".to_owned();
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

    fn connection() -> (Connection, Receiver<Outgoing>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let from = listener.local_addr().unwrap();
        let stream = Arc::new(TcpStream::connect(from).unwrap());
        let (outbox, queued) = bounded(1_000_000);
        let asked = crossbeam_channel::never();
        (Connection { from, outbox, limit: 1_000_000, asked, waiting: Arc::default(), stream }, queued)
    }

    #[test]
    fn what_waits_for_a_connection_is_bounded_in_bytes() {
        let (connection, _queued) = connection();
        let payload: Arc<[u8]> = vec![0; 1 << 20].into();
        let message = || (TrackerResponse::Alive, Some(payload.clone()));
        let sent = (0..1_000).take_while(|_| connection.send(message())).count();
        assert_eq!(sent, OUTBOX_BYTES >> 20);
    }

    #[test]
    fn what_does_not_fit_in_a_frame_is_shortened_or_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = Arc::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let mut writer = FrameWriter::new(stream).unwrap();
        let mut reader = FrameReader::new(Arc::new(listener.accept().unwrap().0));
        let holder = "[1111:2222:3333:4444:5555:6666:7777:8888]:65535".parse().unwrap();
        let name = FileName::new("f").unwrap();
        let file = FileSummary { id: FileId([1; 32]), name, size: 1, chunks: 1 };
        let found =
            FoundFile { file, holders: 512, whole: vec![holder; 512], partial: vec![holder; 512], md5: None };
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
    fn one_large_payload_fits_behind_small_messages() {
        let (connection, _queued) = connection();
        assert!(connection.send((TrackerResponse::Alive, None)));
        let large: Arc<[u8]> = vec![0; OUTBOX_BYTES + 1].into();
        assert!(connection.send((TrackerResponse::Alive, Some(large))));
        assert!(!connection.send((TrackerResponse::Alive, None)));
    }
}
