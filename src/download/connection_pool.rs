//! Pool of open connections to peers, reused between requests.
//!
//! Used by parts that request single chunks from many peers. Users never wait for each other. Invariants: a
//! connection is used by one thread at a time; an idle or failed connection is closed.

use super::events::SourceError;
use super::source::PeerConnection;
use crate::content::limits::{IDLE_SOURCES_MAX, SOURCE_IDLE_TIMEOUT};
use crate::net::{Shutdown, Timeouts};
use crate::sync::lock;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// An idle connection.
struct IdleConnection {
    address: SocketAddr,
    connection: PeerConnection,
    since: Instant,
}

/// Pool of idle connections.
pub struct ConnectionPool {
    /// Least recently used first.
    idle: Mutex<VecDeque<IdleConnection>>,
    idle_timeout: Duration,
    timeouts: Timeouts,
}

impl ConnectionPool {
    /// Creates an empty pool.
    pub fn new(timeouts: Timeouts) -> Self {
        Self { idle: Mutex::default(), idle_timeout: SOURCE_IDLE_TIMEOUT, timeouts }
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<IdleConnection>> {
        lock(&self.idle)
    }

    /// Calls `request` with a pooled connection to a peer, or a new one. If the pooled connection has been closed
    /// meanwhile, calls `request` again with a new one.
    ///
    /// # Errors
    /// Those of `request`; the peer is unreachable.
    pub fn with<T>(
        &self,
        address: SocketAddr,
        shutdown: &Shutdown,
        mut request: impl FnMut(&mut PeerConnection) -> Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        self.close_idle();
        if let Some(mut connection) = self.take(address) {
            let result = request(&mut connection);
            match result {
                Err(SourceError::Connection(_)) if !shutdown.is_stopped() => {}
                result => return self.put_back(address, connection, result),
            }
        }
        let mut connection = PeerConnection::open(&address.into(), None, self.timeouts, shutdown)?;
        let result = request(&mut connection);
        self.put_back(address, connection, result)
    }

    fn take(&self, address: SocketAddr) -> Option<PeerConnection> {
        let mut idle = self.idle();
        // The most recently used connection is the least likely to have timed out at the peer.
        let at = idle.iter().rposition(|idle| idle.address == address)?;
        idle.remove(at).map(|idle| idle.connection)
    }

    /// Returns a usable connection to the pool; passes on the result of its request.
    fn put_back<T>(
        &self,
        address: SocketAddr,
        connection: PeerConnection,
        result: Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        if matches!(result, Ok(_) | Err(SourceError::Refused(_))) {
            let mut idle = self.idle();
            if idle.len() >= IDLE_SOURCES_MAX {
                idle.pop_front();
            }
            idle.push_back(IdleConnection { address, connection, since: Instant::now() });
        }
        result
    }

    /// Closes connections that have exceeded the idle timeout. To be called at intervals while no requests
    /// are made.
    pub fn close_idle(&self) {
        let mut idle = self.idle();
        while idle.front().is_some_and(|idle| idle.since.elapsed() >= self.idle_timeout) {
            idle.pop_front();
        }
    }

    /// Closes all idle connections.
    pub fn close(&self) {
        self.idle().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{ChunkIndex, Digest, FileId};
    use crate::net::{FrameReader, FrameWriter};
    use crate::protocol::ErrorCode;
    use crate::protocol::peer::{PeerRequest, PeerResponse};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const FILE: FileId = FileId([7; 32]);
    const RIGHT: &[u8] = b"the right bytes";

    /// Sends chunk 0 correctly, 1 with wrong bytes, 2 with a wrong length, refuses 3, and closes without a
    /// response after 4.
    fn converse(stream: Arc<std::net::TcpStream>) -> Option<()> {
        let mut reader = FrameReader::new(stream.clone());
        let mut writer = FrameWriter::new(stream).unwrap();
        let mut last = false;
        loop {
            let request = reader.message(Duration::from_secs(60)).ok()?;
            if last {
                return None;
            }
            let PeerRequest::Chunk { file, index } = request else {
                writer.send(&PeerResponse::Hello { version: 5, site: None }).ok()?;
                continue;
            };
            let bytes: &[u8] = match index.0 {
                1 => b"the wrong bytes",
                2 => b"the right bytes and more",
                _ => RIGHT,
            };
            let chunk = PeerResponse::Chunk { file, index, length: bytes.len() as u64 };
            let no = PeerResponse::Error { code: ErrorCode::NotHere, text: "no".into(), index: Some(index) };
            match index.0 {
                3 => writer.send(&no).ok()?,
                _ => writer.send_with(&chunk, bytes).ok()?,
            }
            last = index.0 == 4;
        }
    }

    #[test]
    fn connection_is_reused_unless_it_failed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let opened = Arc::new(AtomicUsize::new(0));
        let count = opened.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || converse(Arc::new(stream)));
            }
        });
        let mut pool = ConnectionPool::new(Timeouts::default());
        let (shutdown, mut buffer) = (Shutdown::new(), Vec::new());
        pool.idle_timeout = Duration::from_secs(600);
        let expected = (Digest::of(RIGHT), RIGHT.len() as u64);
        let mut ask = |pool: &ConnectionPool, index| {
            pool.with(address, &shutdown, |connection| {
                connection.chunk(FILE, ChunkIndex(index), expected, &mut buffer, &shutdown)
            })
        };
        let opened = || opened.load(Ordering::SeqCst);
        assert!(ask(&pool, 0).is_ok() && ask(&pool, 0).is_ok());
        assert!(matches!(ask(&pool, 3), Err(SourceError::Refused(_))));
        assert!(ask(&pool, 0).is_ok() && opened() == 1);
        for (index, connections) in [(1, 1), (2, 2)] {
            assert!(matches!(ask(&pool, index), Err(SourceError::BadChunk { .. })));
            assert_eq!((opened(), pool.idle().len()), (connections, 0));
        }
        // The peer has closed the pooled connection: the request is repeated over a new one.
        assert!(ask(&pool, 4).is_ok() && ask(&pool, 0).is_ok());
        assert_eq!((opened(), pool.idle().len()), (4, 1));
        pool.idle_timeout = Duration::ZERO;
        pool.close_idle();
        assert!(pool.idle().is_empty());
        assert!(ask(&pool, 0).is_ok() && opened() == 5);
        pool.close();
        assert!(pool.idle().is_empty());
    }
}
