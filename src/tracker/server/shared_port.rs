//! Server of a [`Machine`] without a port of its own: another server passes it the connections of the tracker protocol.

use super::connections::ConnectionServer;
use super::{ExecutorChannels, start_machine};
use crate::content::limits::{OUTBOX_MESSAGES_MAX, PROTOCOL_VERSION};
use crate::net::{FrameWriter, InFlightBudget, Shutdown, StreamError, Threads, Timeouts};
use crate::protocol::tracker::TrackerResponse;
use crate::swarm::machine::Machine;
use crate::sync::lock;
use crate::upload::server::{OpenedConnection, TrackerConnections};
use log::Level;
use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::sync::{Arc, Mutex};

/// Starts to receive the datagrams of a socket.
type Receive = dyn Fn(UdpSocket) -> io::Result<()> + Send + Sync;

/// Handle of a running server without a port. Clones are the same server.
#[derive(Clone)]
pub struct SharedPortServer(Arc<Mutex<Option<Parts>>>);

/// Everything that keeps the machine alive. It is dropped at the shutdown, so that handles may outlive the threads.
#[derive(Clone)]
struct Parts {
    connections: Arc<ConnectionServer>,
    receive: Arc<Receive>,
}

impl SharedPortServer {
    /// Starts the threads of a machine, which run until the shutdown. Its log lines about peers have level debug.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(
        machine: impl Machine + 'static,
        in_flight: InFlightBudget,
        timeouts: Timeouts,
        threads: &Threads,
        shutdown: &Shutdown,
    ) -> io::Result<Self> {
        let channels = ExecutorChannels::none();
        let (datagrams, events) = start_machine(machine, channels, Level::Debug, threads, shutdown)?;
        let connections =
            ConnectionServer::new(OUTBOX_MESSAGES_MAX, in_flight, timeouts, events, threads, shutdown);
        let (threads, stopped) = (threads.clone(), shutdown.clone());
        let receive = move |socket| datagrams.receive_from(socket, &threads, &stopped);
        let parts = Parts { connections: Arc::new(connections), receive: Arc::new(receive) };
        let server = Self(Arc::new(Mutex::new(Some(parts))));
        let handle = server.clone();
        shutdown.on_trigger(move || drop(lock(&handle.0).take()));
        Ok(server)
    }

    /// Also receives the datagrams of a socket.
    ///
    /// # Errors
    /// No thread can be started, the server has too many sockets, or it has ended.
    pub fn receive_from(&self, socket: UdpSocket) -> io::Result<()> {
        let parts = self.parts().ok_or_else(|| io::Error::from(ErrorKind::Interrupted))?;
        (parts.receive)(socket)
    }

    fn parts(&self) -> Option<Parts> {
        lock(&self.0).clone()
    }
}

impl TrackerConnections for SharedPortServer {
    fn is_running(&self) -> bool {
        self.parts().is_some()
    }

    fn serve(&self, connection: OpenedConnection<'_>, mut writer: FrameWriter) -> StreamError {
        let OpenedConnection { stream, reader, from, activity } = connection;
        let Some(Parts { connections, .. }) = self.parts() else { return StreamError::Closed };
        match writer.send(&TrackerResponse::Hello { version: PROTOCOL_VERSION }) {
            Ok(()) => connections.converse((reader, writer), stream, from, activity),
            Err(error) => error,
        }
    }
}
