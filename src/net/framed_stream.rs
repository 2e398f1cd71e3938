//! Framed TCP stream: messages and payloads over one connection, with a deadline for each read and write.
//!
//! Reader and writer hide the socket, so that an encrypted stream can replace it. After a failed write the owner closes
//! the connection and never writes to it again, because a part of a frame may have been sent.

use crate::content::limits::{IDLE_TIMEOUT, STALL_TIMEOUT};
use crate::protocol::Message;
use crate::protocol::frame::{self, Decoder, FrameError};
use rustix::net::SendFlags;
use std::fs::File;
use std::io::{self, ErrorKind, IoSliceMut, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Size of the buffer for a read of message lines, bytes.
const READ_BYTES: usize = 8 * 1024;
/// Bytes behind the end of a payload that are read with it: the next message line, which then takes no read of its own.
const READ_AHEAD_BYTES: usize = 256;
/// Maximum number of bytes in one `sendfile` call: the rate limit and the deadline are checked between two calls.
pub const SENDFILE_BYTES_MAX: u64 = 128 * 1024;
/// Smallest part of a file that one `sendfile(2)` sends if the rate is limited, bytes.
const SLICE_BYTES_MIN: u64 = 16 * 1024;
/// Parts of a file that are sent in a second if the rate is limited.
const SLICES_PER_SECOND: u64 = 64;
/// Minimum transfer rate of a payload in each [`IDLE_TIMEOUT`], bytes per second.
///
/// Far below the rate of any usable link: a slow payload continues, and a sender that trickles is disconnected.
const PAYLOAD_RATE_MIN: u64 = 1024;
/// Interval at which a silent stream checks its own address, see [`FrameReader::watching_address`].
const ADDRESS_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Minimum timeout of a socket.
const SOCKET_TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// The reason that a framed stream cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The other side closed the connection between two messages.
    #[error("the connection was closed")]
    Closed,
    /// The other side closed the connection within a message or payload.
    #[error("the connection was closed in the middle of a message")]
    Truncated,
    /// A read, a write or a whole payload exceeded its timeout.
    #[error("timeout: no data was transferred")]
    TimedOut,
    /// The IP address of this host that the connection uses was removed.
    #[error("this host no longer has the address {0}, which the connection used")]
    AddressGone(IpAddr),
    /// The received bytes are not a valid message.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Another error of the socket or of the file that is sent.
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for StreamError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Linux reports a socket timeout as either of the two.
            ErrorKind::WouldBlock | ErrorKind::TimedOut => StreamError::TimedOut,
            ErrorKind::UnexpectedEof => StreamError::Truncated,
            _ => StreamError::Io(error),
        }
    }
}

/// Rate of a payload in transfer, compared with [`PAYLOAD_RATE_MIN`] after each [`IDLE_TIMEOUT`].
struct PayloadRate {
    since: Instant,
    bytes: u64,
}

impl PayloadRate {
    fn new(now: Instant) -> Self {
        Self { since: now, bytes: 0 }
    }

    /// Records transferred bytes.
    ///
    /// # Errors
    /// [`StreamError::TimedOut`] if the payload was too slow.
    fn record(&mut self, bytes: usize, now: Instant) -> Result<(), StreamError> {
        self.bytes += bytes as u64;
        if now.saturating_duration_since(self.since) < IDLE_TIMEOUT {
            return Ok(());
        }
        let enough = self.bytes >= PAYLOAD_RATE_MIN * IDLE_TIMEOUT.as_secs();
        *self = Self::new(now);
        if enough { Ok(()) } else { Err(StreamError::TimedOut) }
    }

    /// Excludes a wait for which the other side is not responsible.
    fn exclude(&mut self, wait: Duration) {
        self.since += wait;
    }
}

/// The reading half of a framed stream.
pub struct FrameReader {
    stream: Arc<TcpStream>,
    decoder: Decoder,
    stall: Duration,
    timeout: Option<Duration>,
    /// Largest number of payload bytes in one read.
    part_bytes_max: usize,
    /// Whether a silent stream ends when its own address is gone.
    watches_address: bool,
}

impl FrameReader {
    /// A reader with the stall timeout [`STALL_TIMEOUT`]. It must be the only reader of the stream.
    pub fn new(stream: Arc<TcpStream>) -> Self {
        Self {
            stream,
            decoder: Decoder::new(),
            stall: STALL_TIMEOUT,
            timeout: None,
            part_bytes_max: usize::MAX,
            watches_address: false,
        }
    }

    /// Sets the stall timeout: the maximum time of a single read within a message.
    pub fn with_stall(self, stall: Duration) -> Self {
        Self { stall, ..self }
    }

    /// Ends a silent stream with [`StreamError::AddressGone`] soon after its own IP address was removed from this host,
    /// for example by a change of the network. No packet of the connection can arrive any more, so that it would only
    /// end at its timeout.
    pub fn watching_address(self) -> Self {
        Self { watches_address: true, ..self }
    }

    /// Limits the payload bytes that one read returns, at least 1: parts are small if a rate limit waits after each.
    pub fn set_part_bytes_max(&mut self, bytes: usize) {
        self.part_bytes_max = bytes.max(1);
    }

    /// Reads the next message: its first byte within `timeout`, the rest of its line within the stall timeout after
    /// the first byte.
    ///
    /// # Errors
    /// Any [`StreamError`]. After [`StreamError::TimedOut`] without a received byte, the stream can still be read.
    pub fn message<M: Message>(&mut self, timeout: Duration) -> Result<M, StreamError> {
        let mut deadline = None;
        loop {
            if let Some(message) = self.decoder.next_message()? {
                return Ok(message);
            }
            let begun = !self.decoder.is_empty();
            let wait = match (begun, deadline) {
                (false, _) => timeout,
                (true, None) => {
                    deadline = Some(Instant::now() + self.stall);
                    self.stall
                }
                (true, Some(deadline)) => deadline.saturating_duration_since(Instant::now()),
            };
            let mut buffer = [0; READ_BYTES];
            match self.read(wait, &mut [IoSliceMut::new(&mut buffer)])? {
                0 if begun => return Err(StreamError::Truncated),
                0 => return Err(StreamError::Closed),
                count => self.decoder.feed(&buffer[..count]),
            }
        }
    }

    /// Fills `target` with the payload of the message that was read last.
    ///
    /// # Errors
    /// Any [`StreamError`], also for a payload that stalls or stays below the minimum rate.
    pub fn payload(&mut self, target: &mut [u8]) -> Result<(), StreamError> {
        self.payload_in_parts(target, self.stall, |_| {})
    }

    /// As [`payload`](Self::payload), and calls `on_part` with each part as it arrives, and with an empty part when none
    /// has arrived for the time `pause` for the first time.
    ///
    /// # Errors
    /// As [`payload`](Self::payload).
    pub fn payload_in_parts(
        &mut self,
        target: &mut [u8],
        mut pause: Duration,
        mut on_part: impl FnMut(&[u8]),
    ) -> Result<(), StreamError> {
        let mut filled = self.decoder.take(target);
        on_part(&target[..filled]);
        let mut rate = PayloadRate::new(Instant::now());
        while filled < target.len() {
            let end = target.len().min(filled.saturating_add(self.part_bytes_max));
            let mut ahead = [0; READ_AHEAD_BYTES];
            let read_ahead = if end == target.len() { &mut ahead[..] } else { &mut [] };
            let wait = pause.min(self.stall);
            let count =
                match self.read(wait, &mut [&mut target[filled..end], read_ahead].map(IoSliceMut::new)) {
                    Err(StreamError::TimedOut) if pause < self.stall => {
                        on_part(&[]);
                        pause = self.stall;
                        continue;
                    }
                    Ok(0) => return Err(StreamError::Truncated),
                    count => count?,
                };
            let after = count.saturating_sub(end - filled);
            if after > 0 {
                self.decoder.feed(&ahead[..after]);
            }
            let count = count - after;
            let read_at = Instant::now();
            on_part(&target[filled..filled + count]);
            filled += count;
            if filled < target.len() {
                // A download limit may wait in `on_part`.
                rate.exclude(read_at.elapsed());
                rate.record(count, Instant::now())?;
            }
        }
        Ok(())
    }

    /// Reads within a time.
    fn read(&mut self, wait: Duration, target: &mut [IoSliceMut<'_>]) -> Result<usize, StreamError> {
        if !self.watches_address {
            self.set_timeout(wait)?;
            return Ok(read(&self.stream, target)?);
        }
        let mut remaining = wait;
        loop {
            let slice = remaining.min(ADDRESS_CHECK_INTERVAL);
            self.set_timeout(slice)?;
            match read(&self.stream, target).map_err(StreamError::from) {
                Err(StreamError::TimedOut) => {}
                other => return other,
            }
            if slice == ADDRESS_CHECK_INTERVAL {
                check_address(self.stream.local_addr()?)?;
            }
            remaining = remaining.saturating_sub(slice);
            if remaining.is_zero() {
                return Err(StreamError::TimedOut);
            }
        }
    }

    fn set_timeout(&mut self, wait: Duration) -> io::Result<()> {
        // A socket timeout of zero is not allowed.
        let wait = wait.max(SOCKET_TIMEOUT_MIN);
        if self.timeout != Some(wait) {
            self.stream.set_read_timeout(Some(wait))?;
            self.timeout = Some(wait);
        }
        Ok(())
    }
}

/// Checks that this host has an address: only then a socket can be bound to it.
fn check_address(local: SocketAddr) -> Result<(), StreamError> {
    let mut address = local;
    address.set_port(0);
    match UdpSocket::bind(address) {
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
            Err(StreamError::AddressGone(local.ip()))
        }
        _ => Ok(()),
    }
}

fn read(mut stream: &TcpStream, target: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    loop {
        match stream.read_vectored(target) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// The reader and the writer of a stream, with the same stall timeout.
///
/// # Errors
/// The timeout cannot be set on the socket.
pub fn split(stream: &Arc<TcpStream>, stall: Duration) -> io::Result<(FrameReader, FrameWriter)> {
    let writer = FrameWriter::new(stream.clone())?.with_stall(stall)?;
    Ok((FrameReader::new(stream.clone()).with_stall(stall), writer))
}

/// The writing half of a framed stream.
pub struct FrameWriter {
    stream: Arc<TcpStream>,
    /// Largest part of a file that one call sends, bytes.
    slice: u64,
}

impl FrameWriter {
    /// A writer with the stall timeout [`STALL_TIMEOUT`]. It must be the only writer of the stream.
    ///
    /// # Errors
    /// The timeout cannot be set on the socket.
    pub fn new(stream: Arc<TcpStream>) -> io::Result<Self> {
        Self { stream, slice: SENDFILE_BYTES_MAX }.with_stall(STALL_TIMEOUT)
    }

    /// Sets the stall timeout: the maximum time of a single write.
    ///
    /// # Errors
    /// The timeout cannot be set on the socket.
    pub fn with_stall(self, stall: Duration) -> io::Result<Self> {
        // The standard library refuses zero, and the kernel takes a value below its resolution as "no timeout".
        self.stream.set_write_timeout(Some(stall.max(SOCKET_TIMEOUT_MIN)))?;
        Ok(self)
    }

    /// Limits the bytes that are passed to the system at a time, and those that wait there, to a part of a second at `rate`
    /// bytes per second. Otherwise the system takes megabytes for a receiver that does not read, and they count as sent.
    pub fn limit_unsent(&mut self, rate: u64) {
        self.slice = (rate / SLICES_PER_SECOND).clamp(SLICE_BYTES_MIN, SENDFILE_BYTES_MAX);
        // A system without this option sends more bytes in advance.
        let _ = socket2::SockRef::from(&*self.stream).set_tcp_notsent_lowat(self.slice as u32);
    }

    /// Sends a message without payload.
    ///
    /// # Errors
    /// Any [`StreamError`].
    pub fn send<M: Message>(&mut self, message: &M) -> Result<(), StreamError> {
        self.write(&frame::encode(message)?)
    }

    /// Sends messages without payload, in one write.
    ///
    /// # Errors
    /// Any [`StreamError`].
    pub fn send_all<M: Message>(&mut self, messages: &[M]) -> Result<(), StreamError> {
        let lines = messages.iter().map(frame::encode).collect::<Result<Vec<_>, _>>()?;
        self.write(&lines.concat())
    }

    /// Sends a message and its payload.
    ///
    /// # Errors
    /// Any [`StreamError`].
    pub fn send_with<M: Message>(&mut self, message: &M, payload: &[u8]) -> Result<(), StreamError> {
        self.send_line(message, !payload.is_empty())?;
        self.write(payload)
    }

    /// Sends the line of a message. If a payload follows, the line and its first bytes share a packet.
    fn send_line<M: Message>(&mut self, message: &M, payload_follows: bool) -> Result<(), StreamError> {
        let line = frame::encode(message)?;
        let more = if payload_follows { SendFlags::MORE } else { SendFlags::empty() };
        let sent = retry(|| rustix::net::send(&*self.stream, &line, more | SendFlags::NOSIGNAL))?;
        self.write(&line[sent..])
    }

    /// Sends a part of the payload of the message that was sent last.
    ///
    /// # Errors
    /// Any [`StreamError`].
    pub fn send_payload_part(&mut self, part: &[u8]) -> Result<(), StreamError> {
        self.write(part)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        let mut rate = PayloadRate::new(Instant::now());
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = match (&*self.stream).write(rest) {
                Ok(0) => return Err(StreamError::Closed),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            rest = &rest[written..];
            if !rest.is_empty() {
                rate.record(written, Instant::now())?;
            }
        }
        Ok(())
    }

    /// Sends a message and, as its payload, `length` bytes of a file from `offset` on, with `sendfile(2)`, which does
    /// not copy them into this process. `throttle` is called with the number of bytes before each `sendfile`; it may
    /// wait, or abort the transfer with an error.
    ///
    /// # Errors
    /// Any [`StreamError`]; [`StreamError::Truncated`] also if the file ends before `offset + length`.
    pub fn send_file<M: Message>(
        &mut self,
        message: &M,
        file: &File,
        offset: u64,
        length: u64,
        mut throttle: impl FnMut(u64) -> Result<(), StreamError>,
    ) -> Result<(), StreamError> {
        self.send_line(message, length > 0)?;
        let mut rate = PayloadRate::new(Instant::now());
        let (mut position, mut remaining) = (offset, length);
        while remaining > 0 {
            let slice = remaining.min(self.slice);
            let before = Instant::now();
            throttle(slice)?;
            // The receiver is not responsible for the time spent in the rate limiter.
            rate.exclude(before.elapsed());
            let sent =
                retry(|| rustix::fs::sendfile(&*self.stream, file, Some(&mut position), slice as usize))?;
            if sent == 0 {
                return Err(StreamError::Truncated);
            }
            remaining -= sent as u64;
            if remaining > 0 {
                rate.record(sent, Instant::now())?;
            }
        }
        Ok(())
    }
}

/// Repeats a system call that a signal interrupted.
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

    #[test]
    fn a_pause_within_a_payload_is_reported_once_and_the_next_message_is_not_lost() {
        let (one, two) = pair();
        let mut reader = FrameReader::new(two);
        let (paused, pauses) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut writer = FrameWriter::new(one.clone()).unwrap();
                writer.send_with(&chunk(6), b"fir").unwrap();
                // The reader has waited for longer than its pause.
                pauses.recv().unwrap();
                let next = frame::encode(&chunk(4)).unwrap();
                writer.write(&[b"st ".as_slice(), &next, b"next"].concat()).unwrap();
            });
            let mut target = [0; 6];
            let mut parts = Vec::new();
            assert_eq!(reader.message::<PeerResponse>(STALL_TIMEOUT).unwrap(), chunk(6));
            reader
                .payload_in_parts(&mut target, SOON, |part| {
                    if part.is_empty() {
                        paused.send(()).unwrap();
                    }
                    parts.push(part.len());
                })
                .unwrap();
            assert_eq!(&target, b"first ");
            assert_eq!(
                (parts.iter().filter(|part| **part == 0).count(), parts.iter().sum::<usize>()),
                (1, 6)
            );
            assert_eq!(reader.message::<PeerResponse>(STALL_TIMEOUT).unwrap(), chunk(4));
            reader.payload(&mut target[..4]).unwrap();
            assert_eq!(&target[..4], b"next");
        });
    }

    fn chunk(length: u64) -> PeerResponse {
        PeerResponse::Chunk { file: FileId([1; 32]), index: ChunkIndex(0), length }
    }

    #[test]
    fn bytes_read_before_a_timeout_are_kept() {
        let (one, two) = pair();
        let mut reader = FrameReader::new(two);
        (&*one).write_all(br#"{"type":"#).unwrap();
        // The line has begun, so `message` would wait for the stall timeout. A short socket timeout simulates a
        // deadline that has passed.
        reader.set_timeout(SOON).unwrap();
        let mut buffer = [0; 8];
        let count = read(&reader.stream, &mut [IoSliceMut::new(&mut buffer)]).unwrap();
        reader.decoder.feed(&buffer[..count]);
        assert!(matches!(
            read(&reader.stream, &mut [IoSliceMut::new(&mut buffer)]).map_err(StreamError::from),
            Err(StreamError::TimedOut)
        ));
        (&*one).write_all(b"\"ping\"}\n").unwrap();
        assert_eq!(reader.message::<PeerRequest>(SOON).unwrap(), PeerRequest::Ping);
    }

    #[test]
    fn timeout_close_and_truncated_message_are_distinguished() {
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
    fn a_slow_payload_continues_and_a_trickle_ends() {
        let mut now = Instant::now();
        let mut rate = PayloadRate::new(now);
        // 2 KiB per second, for longer than any chunk takes.
        for _ in 0..10_000 {
            now += Duration::from_secs(1);
            assert!(rate.record(2 * 1024, now).is_ok());
        }
        rate.exclude(IDLE_TIMEOUT * 2);
        now += IDLE_TIMEOUT * 2;
        assert!(rate.record(1, now).is_ok(), "the time of the rate limiter does not count");
        let trickle = (0..=IDLE_TIMEOUT.as_secs()).try_for_each(|_| {
            now += Duration::from_secs(1);
            rate.record(100, now)
        });
        assert!(matches!(trickle, Err(StreamError::TimedOut)));
    }

    #[test]
    fn part_of_a_file_is_sent_as_payload() {
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
