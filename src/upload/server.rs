//! Upload server of a peer: sends manifests, bitfields and chunks of the offered files.
//!
//! Each connection has a reader thread for requests and a writer thread, which answers them in order and
//! announces new chunks in between. Invariant: a complete chunk is sent only from a
//! [`ChunkSource`](crate::storage::ChunkSource), which has verified it; of a chunk that is still being
//! received, all but the last bytes may be sent earlier ([`relay`](crate::upload::relay)).

use crate::content::limits::{self, PROTOCOL_VERSION, SERVE_QUEUE_MAX};
use crate::content::{FileId, PeerName};
use crate::net::framed_stream::split;
use crate::net::{
    Activity, FrameReader, FrameWriter, Listener, Listening, Shutdown, StreamError, Threads, Timeouts,
};
use crate::protocol::ErrorCode;
use crate::protocol::peer::{OpeningRequest, PeerRequest, PeerResponse};
use crate::swarm::rings::Site;
use crate::upload::offers::Offers;
use crate::upload::response_writer::{ResponseContext, ResponseWriter};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// A peer that has requested a file from this peer and serves it as well: a possible source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiscoveredPeer {
    /// Address of its upload server.
    pub address: SocketAddr,
    /// Id of the requested file.
    pub file: FileId,
}

/// A connection on the port of an upload server, opened by the hello of the tracker protocol, which has been read.
pub struct OpenedConnection<'a> {
    /// The connection.
    pub stream: Arc<TcpStream>,
    /// Its reader, which may have read more than the hello.
    pub reader: FrameReader,
    /// Source address.
    pub from: SocketAddr,
    /// Time of the last request.
    pub activity: &'a Activity,
}

/// Server of the tracker protocol that shares the port of an upload server, and its limit on connections.
pub trait TrackerConnections: Send + Sync {
    /// Whether the server runs. If not, the hello is answered as one of the peer protocol.
    fn is_running(&self) -> bool;

    /// Answers the hello and serves the connection until it ends. Returns the cause.
    fn serve(&self, connection: OpenedConnection<'_>, writer: FrameWriter) -> StreamError;
}

/// Options of the upload server.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Largest number of connections.
    pub connections: usize,
    /// Upload limit for all connections together, bytes per second; 0 for no limit.
    pub upload_limit: u64,
    /// Bytes of manifests and lists that wait for their readers, over all connections.
    pub in_flight: u64,
    /// Timeouts of incoming connections and of connections to other peers.
    pub timeouts: Timeouts,
    /// Name of the site of this peer, if its user has given it.
    pub site: Option<PeerName>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            connections: limits::CONNECTIONS_MAX,
            upload_limit: 0,
            in_flight: limits::IN_FLIGHT_BYTES,
            timeouts: Timeouts::default(),
            site: None,
        }
    }
}

/// State shared by the connections of the server.
struct Server {
    context: Arc<ResponseContext>,
    /// Bytes per second, 0 for no limit.
    upload_limit: u64,
    site: Option<PeerName>,
    timeouts: Timeouts,
    discovered: Option<Sender<DiscoveredPeer>>,
    tracker: Option<Arc<dyn TrackerConnections>>,
    threads: Threads,
    shutdown: Shutdown,
}

/// Serves the offered files until the shutdown. Peers that serve as well are reported to `discovered`;
/// reports are dropped when its queue is full.
///
/// # Errors
/// A thread cannot be started.
pub fn serve(
    listener: Listener,
    offers: Offers,
    options: &ServeOptions,
    discovered: Option<Sender<DiscoveredPeer>>,
    threads: &Threads,
    shutdown: &Shutdown,
) -> io::Result<Listening> {
    start(listener, offers, options, (discovered, None), threads, shutdown)
}

/// Serves the offered files until the shutdown, and passes connections of the tracker protocol to `tracker`.
///
/// # Errors
/// A thread cannot be started.
pub fn serve_with_tracker(
    listener: Listener,
    offers: Offers,
    options: &ServeOptions,
    tracker: Arc<dyn TrackerConnections>,
    threads: &Threads,
    shutdown: &Shutdown,
) -> io::Result<Listening> {
    start(listener, offers, options, (None, Some(tracker)), threads, shutdown)
}

fn start(
    listener: Listener,
    offers: Offers,
    options: &ServeOptions,
    (discovered, tracker): (Option<Sender<DiscoveredPeer>>, Option<Arc<dyn TrackerConnections>>),
    threads: &Threads,
    shutdown: &Shutdown,
) -> io::Result<Listening> {
    let timeouts = options.timeouts;
    let &ServeOptions { upload_limit, in_flight, .. } = options;
    let context = ResponseContext::new(offers, upload_limit, in_flight, timeouts.stall, shutdown);
    let server = Server {
        context: Arc::new(context),
        upload_limit,
        site: options.site.clone(),
        timeouts,
        discovered,
        tracker,
        threads: threads.clone(),
        shutdown: shutdown.clone(),
    };
    listener.serve("serve", options.connections, threads, shutdown, move |stream, from, activity| {
        match server.converse(stream, from, activity) {
            StreamError::Closed => log::debug!("{from} closed its connection"),
            StreamError::TimedOut => log::debug!("{from} disconnected: idle timeout"),
            _ if server.shutdown.is_stopped() => {}
            // At debug level: any host can connect and send garbage, which must not fill the log.
            cause => log::debug!("disconnected {from}: {cause}"),
        }
    })
}

impl Server {
    /// Serves one connection until it ends. Returns the cause.
    fn converse(&self, stream: Arc<TcpStream>, from: SocketAddr, activity: &Activity) -> StreamError {
        let (mut reader, mut writer) = match split(&stream, self.timeouts.stall) {
            Ok(halves) => halves,
            Err(error) => return error.into(),
        };
        let serves = match (read_hello(&mut reader, &mut writer, self.timeouts.hello), &self.tracker) {
            (Ok(Opening { is_tracker: true, .. }), Some(tracker)) if tracker.is_running() => {
                return tracker.serve(OpenedConnection { stream, reader, from, activity }, writer);
            }
            (Ok(Opening { port, site, .. }), _) => port.map(|port| {
                // Keeps the scope of a link-local address.
                let mut address = from;
                address.set_port(port);
                (address, Site::of(site.as_ref().map(PeerName::as_str), from.ip()))
            }),
            (Err(error), _) => return error,
        };
        if let Err(error) =
            writer.send(&PeerResponse::Hello { version: PROTOCOL_VERSION, site: self.site.clone() })
        {
            return error;
        }
        let (requests, queued) = bounded(SERVE_QUEUE_MAX);
        let address = serves.as_ref().map(|(address, _)| *address);
        let writer_end = match self.spawn_writer(&stream, writer, from, serves, queued) {
            Ok(writer_end) => writer_end,
            Err(error) => return error.into(),
        };
        let cause = self.take_requests(&mut reader, &requests, address, activity);
        drop(requests);
        // After a half-close the peer may still read the responses to its requests.
        if !matches!(cause, StreamError::Closed) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        // Until the writer thread has ended, this connection keeps its slot and guard.
        let _ = writer_end.recv();
        cause
    }

    /// Starts the writer thread of a connection; the returned channel closes when it has ended.
    fn spawn_writer(
        &self,
        stream: &Arc<TcpStream>,
        mut writer: FrameWriter,
        from: SocketAddr,
        serves: Option<(SocketAddr, Site)>,
        queued: Receiver<PeerRequest>,
    ) -> io::Result<Receiver<Infallible>> {
        let (running, writer_end) = bounded::<Infallible>(0);
        let (context, stream) = (self.context.clone(), stream.clone());
        if self.upload_limit > 0 {
            writer.limit_unsent(self.upload_limit);
        }
        let peer = (from, is_on_this_host(from, &stream));
        self.threads.spawn("serve-out", move || {
            let _running = running;
            if let Err(error) = ResponseWriter::new(&context, writer, peer, serves).run(&queued) {
                log::debug!("response to {from} failed: {error}");
            }
            // Ends the reader thread as well.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        })?;
        Ok(writer_end)
    }

    /// Queues the requests of a connection until it ends. Returns the cause.
    fn take_requests(
        &self,
        reader: &mut FrameReader,
        requests: &Sender<PeerRequest>,
        serves: Option<SocketAddr>,
        activity: &Activity,
    ) -> StreamError {
        loop {
            let request = match activity.read_request(reader, self.timeouts.idle) {
                Ok(request) => request,
                Err(error) => return error,
            };
            self.report_discovered(&request, serves);
            // Backpressure: the queue is short and blocks a peer that requests faster than it reads.
            if requests.send(request).is_err() {
                return StreamError::Closed;
            }
        }
    }

    fn report_discovered(&self, request: &PeerRequest, serves: Option<SocketAddr>) {
        if let (PeerRequest::Have { file }, Some(address), Some(discovered)) =
            (request, serves, &self.discovered)
        {
            let _ = discovered.try_send(DiscoveredPeer { address, file: *file });
        }
    }
}

/// Whether a peer connects from a loopback address, or from the address at which it reaches this host.
fn is_on_this_host(from: SocketAddr, stream: &TcpStream) -> bool {
    let from = from.ip().to_canonical();
    from.is_loopback() || stream.local_addr().is_ok_and(|local| local.ip().to_canonical() == from)
}

/// The hello of a connection.
struct Opening {
    /// Port of the peer's upload server, if any.
    port: Option<u16>,
    /// Site that the peer names, if any.
    site: Option<PeerName>,
    /// Whether the tracker protocol follows.
    is_tracker: bool,
}

/// Reads the hello; refuses a connection without a hello of this version.
fn read_hello(
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
    timeout: Duration,
) -> Result<Opening, StreamError> {
    let (code, text) = match reader.message(timeout) {
        Ok(OpeningRequest::Hello { version: PROTOCOL_VERSION, port, site, tracker }) => {
            return Ok(Opening { port: port.filter(|port| *port != 0), site, is_tracker: tracker });
        }
        Ok(OpeningRequest::Hello { version, .. }) => {
            let text = format!("this peer speaks protocol version {PROTOCOL_VERSION}, not {version}");
            (ErrorCode::UnknownVersion, text)
        }
        Ok(OpeningRequest::Unknown) => (ErrorCode::Malformed, "the first message must be hello".to_owned()),
        Err(StreamError::Frame(error)) => (ErrorCode::Malformed, error.to_string()),
        Err(error) => return Err(error),
    };
    writer.send(&PeerResponse::Error { code, text: text.clone(), index: None })?;
    Err(StreamError::Io(io::Error::new(io::ErrorKind::InvalidData, text)))
}
