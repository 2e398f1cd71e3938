//! A connection to a control socket: lines of JSON and answers, with deadlines, until a shutdown.

use crate::content::limits::FRAME_MAX;
use crate::net::{POLL_INTERVAL, Shutdown};
use crate::protocol::Message;
use crate::protocol::frame::{self, Decoder};
use crate::swarm::command::Answer;
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Longest answer, bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Size of the buffer of a read, bytes.
const READ_BYTES: usize = 8 * 1024;

/// The line before an answer.
#[derive(Serialize, Deserialize)]
struct AnswerHead {
    /// Length of the answer, bytes.
    length: u64,
}

impl Message for AnswerHead {}

/// A connection to a control socket.
pub(super) struct ControlStream {
    stream: UnixStream,
    decoder: Decoder,
    shutdown: Shutdown,
}

impl ControlStream {
    /// A new connection. The shutdown ends each wait.
    pub fn new(stream: UnixStream, shutdown: &Shutdown) -> io::Result<Self> {
        stream.set_read_timeout(Some(POLL_INTERVAL))?;
        stream.set_write_timeout(Some(POLL_INTERVAL))?;
        Ok(Self { stream, decoder: Decoder::new(), shutdown: shutdown.clone() })
    }

    /// Reads a line within `timeout`; without one, until the shutdown.
    pub fn read_line<M: Message>(&mut self, timeout: Option<Duration>) -> io::Result<M> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            if let Some(message) = self.decoder.next_message().map_err(invalid)? {
                return Ok(message);
            }
            let mut buffer = [0; READ_BYTES];
            let count = self.transfer(deadline, |mut stream| stream.read(&mut buffer))?;
            self.decoder.feed(&buffer[..count]);
        }
    }

    /// Reads the answer to a command. Waits for its first line until the shutdown.
    pub fn read_answer(&mut self, timeout: Duration) -> io::Result<Answer> {
        let AnswerHead { length } = self.read_line(None)?;
        if length > ANSWER_BYTES_MAX {
            return Err(invalid(format!("an answer of {length} bytes")));
        }
        let deadline = Some(Instant::now() + timeout);
        let mut answer = vec![0; length as usize];
        let mut filled = self.decoder.take(&mut answer);
        while filled < answer.len() {
            let rest = &mut answer[filled..];
            filled += self.transfer(deadline, |mut stream| stream.read(rest))?;
        }
        serde_json::from_slice(&answer).map_err(invalid)
    }

    /// Sends a line.
    pub fn send_line<M: Message>(&mut self, message: &M, timeout: Duration) -> io::Result<()> {
        self.write(&frame::encode(message).map_err(invalid)?, timeout)
    }

    /// Sends an answer.
    pub fn send_answer(&mut self, answer: &Answer, timeout: Duration) -> io::Result<()> {
        let payload = serde_json::to_vec(answer)?;
        let mut bytes = frame::encode(&AnswerHead { length: payload.len() as u64 }).map_err(invalid)?;
        bytes.extend_from_slice(&payload);
        self.write(&bytes, timeout)
    }

    fn write(&mut self, bytes: &[u8], timeout: Duration) -> io::Result<()> {
        let deadline = Some(Instant::now() + timeout);
        let mut sent = 0;
        while sent < bytes.len() {
            let rest = &bytes[sent..bytes.len().min(sent + FRAME_MAX)];
            sent += self.transfer(deadline, |mut stream| stream.write(rest))?;
        }
        Ok(())
    }

    /// Reads or writes once; retries until the deadline or the shutdown.
    fn transfer(
        &self,
        deadline: Option<Instant>,
        mut call: impl FnMut(&UnixStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            match call(&self.stream) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => return Ok(count),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error),
            }
            if self.shutdown.is_stopped() {
                return Err(ErrorKind::Interrupted.into());
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(ErrorKind::TimedOut.into());
            }
        }
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}
