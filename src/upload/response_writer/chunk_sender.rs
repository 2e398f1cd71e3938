//! Sends chunks over one connection, throttled: stored ones from their file, others while they arrive.

use super::context::ResponseContext;
use crate::content::{ChunkIndex, FileId};
use crate::net::{FrameWriter, POLL_INTERVAL, StreamError};
use crate::protocol::peer::PeerResponse;
use crate::storage::StoredChunk;
use crate::upload::rate_limit::UploadSlot;
use crate::upload::receivers::SendTally;
use crate::upload::relay::{PartialChunk, PartialRead};
use std::fs::File;
use std::net::SocketAddr;
use std::time::Instant;

/// Sender of the chunks of one connection.
pub(super) struct ChunkSender<'a> {
    context: &'a ResponseContext,
    from: SocketAddr,
}

impl<'a> ChunkSender<'a> {
    pub fn new(context: &'a ResponseContext, from: SocketAddr) -> Self {
        Self { context, from }
    }

    /// Sends a stored chunk. If a complete file changes meanwhile, closes the connection instead of sending the rest.
    pub fn send_stored(
        &self,
        (file, index): (FileId, ChunkIndex),
        stored: &StoredChunk,
        slot: Option<&UploadSlot<'_>>,
        mut tally: SendTally,
        writer: &mut FrameWriter,
    ) -> Result<(), StreamError> {
        log::debug!("serving chunk {index} of {} to {}", file.short(), self.from);
        let context = self.context;
        // A part file changes during a send, a complete file must not.
        let stamp = |file: &File| file.metadata().ok().map(|found| (found.len(), found.modified().ok()));
        let is_complete = context.offers.get(file).is_some_and(|source| source.progress().is_complete());
        let before = is_complete.then(|| stamp(&stored.file));
        let throttle = |bytes| {
            context.throttle(slot, file, bytes);
            tally.add(bytes);
            match before.as_ref().is_none_or(|before| *before == stamp(&stored.file)) {
                true => Ok(()),
                false => Err(StreamError::Closed),
            }
        };
        let response = PeerResponse::Chunk { file, index, length: stored.length };
        slot.inspect(|slot| slot.begin_write());
        writer.send_file(&response, &stored.file, stored.offset, stored.length, throttle)
    }

    /// Relays a chunk while it is being received (cut-through). If its source fails, closes this connection:
    /// the announced length cannot be retracted.
    pub fn relay(
        &self,
        (file, index): (FileId, ChunkIndex),
        partial: &PartialChunk,
        slot: Option<&UploadSlot<'_>>,
        mut tally: SendTally,
        writer: &mut FrameWriter,
    ) -> Result<(), StreamError> {
        log::debug!("relaying chunk {index} of {} to {}", file.short(), self.from);
        let length = partial.length();
        let context = self.context;
        slot.inspect(|slot| slot.begin_write());
        writer.send(&PeerResponse::Chunk { file, index, length: length.into() })?;
        let (mut sent, mut bytes) = (0, Vec::new());
        let mut last_sent = Instant::now();
        while sent < length as usize {
            if context.shutdown.is_stopped() {
                return Err(StreamError::Closed);
            }
            match partial.read(sent, &mut bytes, POLL_INTERVAL) {
                PartialRead::Lost => return Err(StreamError::Truncated),
                PartialRead::TimedOut if last_sent.elapsed() >= context.stall_timeout => {
                    return Err(StreamError::TimedOut);
                }
                PartialRead::TimedOut => {}
                PartialRead::Bytes => {
                    context.throttle(slot, file, bytes.len() as u64);
                    writer.send_payload_part(&bytes)?;
                    sent += bytes.len();
                    tally.add(bytes.len() as u64);
                    last_sent = Instant::now();
                }
            }
        }
        Ok(())
    }
}
