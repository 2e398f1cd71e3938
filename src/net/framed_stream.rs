//! A link: frames and payloads over one connection, with a deadline on everything.
//!
//! The link is a type of its own so that encryption can come under it later. After a failed write the link
//! is never written to again by its owner: half a frame may be out.

use crate::content::limits::{CONVERSATION_TIMEOUT, STALL_TIMEOUT};
use crate::protocol::Message;
use crate::protocol::frame::{self, Decoder, FrameError};
use rustix::net::SendFlags;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes read at once while looking for the end of a line.
const PIECE: usize = 8 * 1024;
/// Most bytes given to one `sendfile`, so that a rate limit and deadlines have something to work with.
pub const SENDFILE_BYTES_MAX: u64 = 128 * 1024;
/// The slowest that a chunk may come or go, bytes a second, before its deadline passes.
const SLOWEST: u64 = 16 * 1024;
/// The shortest time-out of a socket.
const SHORTEST: Duration = Duration::from_millis(1);

/// Why a link has ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The other side has closed it between two messages.
    #[error("the connection was closed")]
    Closed,
    /// The other side has closed it in the middle of a message.
    #[error("the connection was closed in the middle of a message")]
    Truncated,
    /// Nothing came, or nothing could be sent, for too long.
    #[error("nothing moved for too long")]
    TimedOut,
    /// What came is no message.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The system says so.
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for StreamError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Linux reports a time-out of a socket as either.
            ErrorKind::WouldBlock | ErrorKind::TimedOut => StreamError::TimedOut,
            ErrorKind::UnexpectedEof => StreamError::Truncated,
            _ => StreamError::Io(error),
        }
    }
}

/// How long a payload may take as a whole: [`CONVERSATION_TIMEOUT`], longer for what is large.
pub fn payload_timeout(length: u64) -> Duration {
    CONVERSATION_TIMEOUT.max(Duration::from_secs(length / SLOWEST))
}

/// The reading half of a link.
pub struct FrameReader {
    stream: Arc<TcpStream>,
    decoder: Decoder,
    stall: Duration,
    timeout: Option<Duration>,
}

impl FrameReader {
    /// Reads from a stream that nobody else reads from. In the middle of a message nothing may come for
    /// [`STALL_TIMEOUT`].
    pub fn new(stream: Arc<TcpStream>) -> Self {
        Self { stream, decoder: Decoder::new(), stall: STALL_TIMEOUT, timeout: None }
    }

    /// As it is, with another limit for the middle of a message.
    pub fn with_stall(self, stall: Duration) -> Self {
        Self { stall, ..self }
    }

    /// The next message: its first byte within `patience`, the rest of its line within
    /// the stall limit after that.
    ///
    /// # Errors
    /// Whatever ends a link. After [`StreamError::TimedOut`] without a byte the link can still be read.
    pub fn message<M: Message>(&mut self, patience: Duration) -> Result<M, StreamError> {
        let mut deadline = None;
        loop {
            if let Some(message) = self.decoder.next_message()? {
                return Ok(message);
            }
            let begun = !self.decoder.is_empty();
            let wait = match (begun, deadline) {
                (false, _) => patience,
                (true, None) => {
                    deadline = Some(Instant::now() + self.stall);
                    self.stall
                }
                (true, Some(deadline)) => deadline.saturating_duration_since(Instant::now()),
            };
            self.set_timeout(wait)?;
            let mut piece = [0; PIECE];
            match read(&self.stream, &mut piece)? {
                0 if begun => return Err(StreamError::Truncated),
                0 => return Err(StreamError::Closed),
                count => self.decoder.feed(&piece[..count]),
            }
        }
    }

    /// Fills `target` with the payload of the message just read.
    ///
    /// # Errors
    /// Whatever ends a link; a payload that stalls or takes longer than [`payload_timeout`].
    pub fn payload(&mut self, target: &mut [u8]) -> Result<(), StreamError> {
        self.payload_in_parts(target, |_| {})
    }

    /// As [`payload`](Self::payload), and hands over each piece as it comes.
    ///
    /// # Errors
    /// As [`payload`](Self::payload).
    pub fn payload_in_parts(
        &mut self,
        target: &mut [u8],
        mut come: impl FnMut(&[u8]),
    ) -> Result<(), StreamError> {
        let deadline = Instant::now() + payload_timeout(target.len() as u64);
        let mut filled = self.decoder.take(target);
        come(&target[..filled]);
        self.set_timeout(self.stall)?;
        while filled < target.len() {
            match read(&self.stream, &mut target[filled..])? {
                0 => return Err(StreamError::Truncated),
                count => {
                    come(&target[filled..filled + count]);
                    filled += count;
                }
            }
            if filled < target.len() && Instant::now() >= deadline {
                return Err(StreamError::TimedOut);
            }
        }
        Ok(())
    }

    fn set_timeout(&mut self, wait: Duration) -> io::Result<()> {
        // Zero would mean "for ever".
        let wait = wait.max(SHORTEST);
        if self.timeout != Some(wait) {
            self.stream.set_read_timeout(Some(wait))?;
            self.timeout = Some(wait);
        }
        Ok(())
    }
}

fn read(mut stream: &TcpStream, target: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(target) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Both halves of a link, with one limit for the middle of a message.
///
/// # Errors
/// When the stream takes no such time-out.
pub fn split(stream: &Arc<TcpStream>, stall: Duration) -> io::Result<(FrameReader, FrameWriter)> {
    let writer = FrameWriter::new(stream.clone())?.with_stall(stall)?;
    Ok((FrameReader::new(stream.clone()).with_stall(stall), writer))
}

/// The writing half of a link.
pub struct FrameWriter {
    stream: Arc<TcpStream>,
}

impl FrameWriter {
    /// Writes to a stream that nobody else writes to. No single write waits longer than [`STALL_TIMEOUT`].
    ///
    /// # Errors
    /// When the stream takes no time-out.
    pub fn new(stream: Arc<TcpStream>) -> io::Result<Self> {
        Self { stream }.with_stall(STALL_TIMEOUT)
    }

    /// As it is, with another limit for a single write.
    ///
    /// # Errors
    /// When the stream takes no such time-out.
    pub fn with_stall(self, stall: Duration) -> io::Result<Self> {
        // Zero would be refused, and less than the system's grain would mean "for ever".
        self.stream.set_write_timeout(Some(stall.max(SHORTEST)))?;
        Ok(self)
    }

    /// Sends a message without payload.
    ///
    /// # Errors
    /// Whatever ends a link.
    pub fn send<M: Message>(&mut self, message: &M) -> Result<(), StreamError> {
        self.write(&frame::encode(message)?)
    }

    /// Sends a message and its payload.
    ///
    /// # Errors
    /// Whatever ends a link.
    pub fn send_with<M: Message>(&mut self, message: &M, payload: &[u8]) -> Result<(), StreamError> {
        let mut bytes = frame::encode(message)?;
        bytes.extend_from_slice(payload);
        self.write(&bytes)
    }

    /// Sends a part of the payload of the message sent before.
    ///
    /// # Errors
    /// Whatever ends a link.
    pub fn send_payload_part(&mut self, piece: &[u8]) -> Result<(), StreamError> {
        self.write(piece)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        let deadline = Instant::now() + payload_timeout(bytes.len() as u64);
        let mut rest = bytes;
        while !rest.is_empty() {
            match (&*self.stream).write(rest) {
                Ok(0) => return Err(StreamError::Closed),
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
            if !rest.is_empty() && Instant::now() >= deadline {
                return Err(StreamError::TimedOut);
            }
        }
        Ok(())
    }

    /// Sends a message and, as its payload, `length` bytes of a file from `offset` on, with `sendfile(2)`:
    /// the bytes never enter this process. `pace` is called before each slice and may wait, or end it all.
    ///
    /// # Errors
    /// Whatever ends a link; [`ErrorKind::UnexpectedEof`] as [`StreamError::Truncated`] when the file is shorter than
    /// it was.
    pub fn send_file<M: Message>(
        &mut self,
        message: &M,
        file: &File,
        offset: u64,
        length: u32,
        mut pace: impl FnMut(u64) -> Result<(), StreamError>,
    ) -> Result<(), StreamError> {
        let line = frame::encode(message)?;
        // More is to come: the line and the first bytes share a packet.
        let flags = if length > 0 { SendFlags::MORE | SendFlags::NOSIGNAL } else { SendFlags::NOSIGNAL };
        let sent = retry(|| rustix::net::send(&*self.stream, &line, flags))?;
        if sent < line.len() {
            self.write(&line[sent..])?;
        }
        let started = Instant::now();
        let mut paced = Duration::ZERO;
        let (mut position, mut left) = (offset, length);
        while left > 0 {
            let slice = left.min(SENDFILE_BYTES_MAX as u32);
            let before = Instant::now();
            pace(slice.into())?;
            // Waiting for the rate limit is not the other side's fault.
            paced += before.elapsed();
            match retry(|| rustix::fs::sendfile(&*self.stream, file, Some(&mut position), slice as usize))? {
                0 => return Err(StreamError::Truncated),
                count => left -= count as u32,
            }
            if left > 0 && started.elapsed() >= payload_timeout(length.into()) + paced {
                return Err(StreamError::TimedOut);
            }
        }
        Ok(())
    }
}

fn retry(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{ChunkIndex, FileId};
    use crate::protocol::peer::{PeerRequest, PeerResponse};
    use std::net::TcpListener;

    fn pair() -> (Arc<TcpStream>, Arc<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Arc::new(one), Arc::new(listener.accept().unwrap().0))
    }

    const SOON: Duration = Duration::from_millis(20);

    fn chunk(length: u32) -> PeerResponse {
        PeerResponse::Chunk { file: FileId([1; 32]), index: ChunkIndex(0), length }
    }

    #[test]
    fn bytes_read_before_a_time_out_are_not_lost() {
        let (one, two) = pair();
        let mut reader = FrameReader::new(two);
        (&*one).write_all(br#"{"type":"#).unwrap();
        // The line has begun, so the reader would wait for its rest; a short time-out on the socket stands
        // for a deadline that passes.
        reader.set_timeout(SOON).unwrap();
        let mut piece = [0; 8];
        let count = read(&reader.stream, &mut piece).unwrap();
        reader.decoder.feed(&piece[..count]);
        assert!(matches!(
            read(&reader.stream, &mut piece).map_err(StreamError::from),
            Err(StreamError::TimedOut)
        ));
        (&*one).write_all(b"\"ping\"}\n").unwrap();
        assert_eq!(reader.message::<PeerRequest>(SOON).unwrap(), PeerRequest::Ping);
    }

    #[test]
    fn silence_a_close_and_half_a_message_are_told_apart() {
        let (one, two) = pair();
        let mut reader = FrameReader::new(two);
        assert!(matches!(reader.message::<PeerRequest>(SOON), Err(StreamError::TimedOut)));
        (&*one).write_all(b"{\"type\":\"ping\"}\n{").unwrap();
        assert_eq!(reader.message::<PeerRequest>(SOON).unwrap(), PeerRequest::Ping);
        drop(one);
        assert!(matches!(reader.message::<PeerRequest>(SOON), Err(StreamError::Truncated)));
        let (one, two) = pair();
        drop(one);
        assert!(matches!(FrameReader::new(two).message::<PeerRequest>(SOON), Err(StreamError::Closed)));
    }

    #[test]
    fn a_part_of_a_file_travels_behind_its_message() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..300_000u32).map(|number| number as u8).collect();
        file.write_all(&bytes).unwrap();
        let (one, two) = pair();
        let sender = std::thread::spawn(move || {
            let mut writer = FrameWriter::new(one).unwrap();
            writer.send_file(&chunk(250_000), &file, 10, 250_000, |_| Ok(())).unwrap();
            writer.send_file(&chunk(0), &file, 10, 0, |_| Ok(())).unwrap();
            writer.send_file(&chunk(20), &file, 299_990, 20, |_| Ok(())).unwrap_err()
        });
        let mut reader = FrameReader::new(two);
        for length in [250_000, 0] {
            assert_eq!(reader.message::<PeerResponse>(SOON * 500).unwrap(), chunk(length));
            let mut payload = vec![0; length as usize];
            reader.payload(&mut payload).unwrap();
            assert_eq!(payload, bytes[10..][..length as usize]);
        }
        assert!(matches!(sender.join().unwrap(), StreamError::Truncated), "the file is too short");
    }
}
