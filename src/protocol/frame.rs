//! Frames: JSON lines of bounded length, with raw bytes behind those that state a `length`.
//!
//! The [`Decoder`] is fed bytes as they come, in pieces of any size, and loses none when a read times
//! out half-way. Invariant: it never holds more than one line's limit and one feed.

use super::Message;
use crate::content::limits::FRAME_MAX;

/// Why bytes are not a frame, or a message does not fit in one.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// No newline within the limit.
    #[error("a line of more than {FRAME_MAX} bytes")]
    TooLong,
    /// Not the JSON of a message that is expected here.
    #[error("not a message: {0}")]
    Json(#[from] serde_json::Error),
}

/// The line of a message, newline included.
///
/// # Errors
/// [`FrameError::TooLong`] when it does not fit in a frame.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, FrameError> {
    let mut line = serde_json::to_vec(message)?;
    if line.len() > FRAME_MAX {
        return Err(FrameError::TooLong);
    }
    line.push(b'\n');
    Ok(line)
}

/// Cuts a stream of bytes into lines and payloads.
#[derive(Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes before this have been taken.
    start: usize,
    /// Bytes before this are known to hold no newline.
    scanned: usize,
}

impl Decoder {
    /// A decoder that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes in. Feed at most [`FRAME_MAX`] at a time, and only when neither
    /// [`next_message`](Self::next_message) nor [`take`](Self::take) had enough.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message, once its whole line is there. Read its payload with [`take`](Self::take)
    /// before asking for another.
    ///
    /// # Errors
    /// A line that is too long, or not a message. There is no way to go on after that.
    pub fn next_message<M: Message>(&mut self) -> Result<Option<M>, FrameError> {
        let Some(end) = self.line_end()? else { return Ok(None) };
        let line = &self.buffer[self.start..end];
        let message = serde_json::from_slice(line)?;
        self.start = end + 1;
        self.scanned = self.start;
        Ok(Some(message))
    }

    /// Moves payload bytes that came along with a line into `target`; returns how many.
    pub fn take(&mut self, target: &mut [u8]) -> usize {
        let count = target.len().min(self.buffer.len() - self.start);
        target[..count].copy_from_slice(&self.buffer[self.start..self.start + count]);
        self.start += count;
        self.scanned = self.scanned.max(self.start);
        count
    }

    /// Whether bytes are waiting: the beginning of a message, or more.
    pub fn is_empty(&self) -> bool {
        self.start == self.buffer.len()
    }

    fn line_end(&mut self) -> Result<Option<usize>, FrameError> {
        let newline = self.buffer[self.scanned..].iter().position(|&byte| byte == b'\n');
        let end = newline.map(|at| self.scanned + at);
        self.scanned = end.unwrap_or(self.buffer.len());
        match self.scanned - self.start > FRAME_MAX {
            true => Err(FrameError::TooLong),
            false => Ok(end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{ChunkIndex, FileId};
    use crate::protocol::peer::PeerResponse;
    use proptest::prelude::*;

    fn chunk(length: u32) -> PeerResponse {
        PeerResponse::Chunk { file: FileId([1; 32]), index: ChunkIndex(length), length }
    }

    /// Feeds `bytes` in pieces of the given sizes and returns the messages with their payloads.
    fn decode(bytes: &[u8], sizes: &[usize]) -> Vec<(PeerResponse, Vec<u8>)> {
        let mut decoder = Decoder::new();
        let mut got: Vec<(PeerResponse, Vec<u8>)> = Vec::new();
        let mut sizes = sizes.iter().copied().cycle();
        let mut rest = bytes;
        let mut wanted = 0;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(sizes.next().unwrap_or(1).clamp(1, rest.len()));
            decoder.feed(piece);
            rest = after;
            loop {
                if wanted > 0 {
                    let mut payload = vec![0; wanted];
                    let taken = decoder.take(&mut payload);
                    got.last_mut().unwrap().1.extend(&payload[..taken]);
                    wanted -= taken;
                }
                match wanted {
                    0 => match decoder.next_message().unwrap() {
                        Some(message) => {
                            wanted = PeerResponse::payload_length(&message) as usize;
                            got.push((message, Vec::new()));
                        }
                        None => break,
                    },
                    _ => break,
                }
            }
        }
        assert!(decoder.is_empty());
        got
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_gives_the_same_messages(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..8),
            sizes in prop::collection::vec(1usize..200, 1..20),
        ) {
            let mut bytes = Vec::new();
            let mut sent = Vec::new();
            for payload in payloads {
                let message = chunk(payload.len() as u32);
                bytes.extend(encode(&message).unwrap());
                bytes.extend(&payload);
                sent.push((message, payload));
            }
            prop_assert_eq!(decode(&bytes, &sizes), sent);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let mut decoder = Decoder::new();
            decoder.feed(&bytes);
            while let Ok(Some(_)) = decoder.next_message::<PeerResponse>() {}
        }
    }

    #[test]
    fn a_line_without_end_is_refused_at_the_limit() {
        let mut decoder = Decoder::new();
        decoder.feed(&vec![b' '; FRAME_MAX]);
        assert!(matches!(decoder.next_message::<PeerResponse>(), Ok(None)));
        decoder.feed(b" ");
        assert!(matches!(decoder.next_message::<PeerResponse>(), Err(FrameError::TooLong)));
    }

    #[test]
    fn the_longest_line_is_taken_and_one_more_is_not() {
        let line = |pad: usize| [br#"{"type":"pong"}"#, &vec![b' '; pad][..], b"\n"].concat();
        let mut decoder = Decoder::new();
        decoder.feed(&line(FRAME_MAX - 15));
        assert!(matches!(decoder.next_message(), Ok(Some(PeerResponse::Pong))));
        decoder.feed(&line(FRAME_MAX - 14));
        assert!(matches!(decoder.next_message::<PeerResponse>(), Err(FrameError::TooLong)));
    }
}
