//! Frames over TCP: a JSON line of bounded length, followed by a payload if it states a `length`.
//!
//! The [`Decoder`] is fed bytes in pieces of any size, as they are received, and loses none if a read times
//! out in the middle of a frame. Invariant: its buffer never exceeds one line of [`FRAME_MAX`] bytes and
//! one feed.

use super::Message;
use crate::content::limits::FRAME_MAX;

/// Bytes that are not a frame, or a message that does not fit in a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The line exceeds [`FRAME_MAX`] bytes.
    #[error("a line of more than {FRAME_MAX} bytes")]
    TooLong,
    /// The line is not the JSON of a message of the expected direction.
    #[error("not a message: {0}")]
    Json(#[from] serde_json::Error),
}

/// Encodes a message as a line, with its newline.
///
/// # Errors
/// [`FrameError::TooLong`] above [`FRAME_MAX`] bytes.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, FrameError> {
    let mut line = serde_json::to_vec(message)?;
    if line.len() > FRAME_MAX {
        return Err(FrameError::TooLong);
    }
    line.push(b'\n');
    Ok(line)
}

/// Splits a stream of bytes into lines and payloads.
#[derive(Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Offset of the first byte in `buffer` that was not consumed yet.
    start: usize,
    /// Offset in `buffer` at which the search for a newline continues.
    scanned: usize,
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends received bytes.
    ///
    /// Call it with at most [`FRAME_MAX`] bytes, and only after [`next_message`](Self::next_message) or
    /// [`take`](Self::take) ran out of bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Decodes the next message; `None` until its whole line was fed.
    ///
    /// Read the payload of a message with [`take`](Self::take) before the next call.
    ///
    /// # Errors
    /// The line is too long or not a message. The stream cannot be used after an error.
    pub fn next_message<M: Message>(&mut self) -> Result<Option<M>, FrameError> {
        let Some(end) = self.line_end()? else { return Ok(None) };
        let line = &self.buffer[self.start..end];
        let message = serde_json::from_slice(line)?;
        self.start = end + 1;
        self.scanned = self.start;
        Ok(Some(message))
    }

    /// Moves buffered payload bytes into `target`; returns their number.
    pub fn take(&mut self, target: &mut [u8]) -> usize {
        let count = target.len().min(self.buffer.len() - self.start);
        target[..count].copy_from_slice(&self.buffer[self.start..self.start + count]);
        self.start += count;
        self.scanned = self.scanned.max(self.start);
        count
    }

    /// Whether all fed bytes have been consumed, so that no partial message is buffered.
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
        PeerResponse::Chunk { file: FileId([1; 32]), index: ChunkIndex(length), length: length.into() }
    }

    /// Feeds `bytes` in pieces of the given sizes and returns the messages with their payloads.
    fn decode(bytes: &[u8], sizes: &[usize]) -> Vec<(PeerResponse, Vec<u8>)> {
        let mut decoder = Decoder::new();
        let mut frames: Vec<(PeerResponse, Vec<u8>)> = Vec::new();
        let mut sizes = sizes.iter().copied().cycle();
        let mut rest = bytes;
        let mut missing = 0;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(sizes.next().unwrap_or(1).clamp(1, rest.len()));
            decoder.feed(piece);
            rest = after;
            loop {
                if missing > 0 {
                    let mut payload = vec![0; missing];
                    let taken = decoder.take(&mut payload);
                    frames.last_mut().unwrap().1.extend(&payload[..taken]);
                    missing -= taken;
                }
                match missing {
                    0 => match decoder.next_message().unwrap() {
                        Some(message) => {
                            missing = PeerResponse::payload_length(&message) as usize;
                            frames.push((message, Vec::new()));
                        }
                        None => break,
                    },
                    _ => break,
                }
            }
        }
        assert!(decoder.is_empty());
        frames
    }

    proptest! {
        #[test]
        fn decoded_messages_do_not_depend_on_how_bytes_are_split(
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
    fn a_line_without_newline_is_refused_above_the_limit() {
        let mut decoder = Decoder::new();
        decoder.feed(&vec![b' '; FRAME_MAX]);
        assert!(matches!(decoder.next_message::<PeerResponse>(), Ok(None)));
        decoder.feed(b" ");
        assert!(matches!(decoder.next_message::<PeerResponse>(), Err(FrameError::TooLong)));
    }

    #[test]
    fn a_line_of_the_maximum_length_is_accepted() {
        let line = |pad: usize| [br#"{"type":"pong"}"#, &vec![b' '; pad][..], b"\n"].concat();
        let mut decoder = Decoder::new();
        decoder.feed(&line(FRAME_MAX - 15));
        assert!(matches!(decoder.next_message(), Ok(Some(PeerResponse::Pong))));
        decoder.feed(&line(FRAME_MAX - 14));
        assert!(matches!(decoder.next_message::<PeerResponse>(), Err(FrameError::TooLong)));
    }
}
