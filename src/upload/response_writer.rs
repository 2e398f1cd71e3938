//! Writer thread of an upload connection: answers requests in order and announces new chunks in between.

mod chunk_sender;
mod context;
mod corrupt_reports;
mod subscriptions;
mod unreadable_chunks;

pub(super) use context::ResponseContext;

use crate::content::limits::{KEEP_ALIVE_INTERVAL, PEER_LIST_MAX};
use crate::content::{ChunkIndex, FileId, FileName, ManifestSizes};
use crate::net::{FrameWriter, InFlight, StreamError};
use crate::protocol::ErrorCode;
use crate::protocol::frame::FrameError;
use crate::protocol::peer::{PeerRequest, PeerResponse};
use crate::protocol::tokens::{KeyPrint, Nonce};
use crate::protocol::tracker::OfferedFile;
use crate::storage::StoreError;
use crate::swarm::distribution::CompletionReport;
use crate::swarm::rings::Site;
use crate::upload::offers::Offer;
use crate::upload::rate_limit::UploadSlot;
use crate::upload::receivers::ReceiverConnection;
use crate::upload::subscribers::QueuedTransfer;
use chunk_sender::ChunkSender;
use crossbeam_channel::Receiver;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use subscriptions::{Subscriptions, Wakeup};

/// Writer thread of a connection.
pub(super) struct ResponseWriter<'a> {
    context: &'a ResponseContext,
    writer: FrameWriter,
    from: SocketAddr,
    subscriptions: Subscriptions<'a>,
    chunk_sender: ChunkSender<'a>,
    receiver: ReceiverConnection,
    /// Whether the receiver took nothing for some time in the last transfer of a chunk.
    has_stalled: bool,
}

impl<'a> ResponseWriter<'a> {
    /// Creates the writer of a connection from `from`, possibly a peer on this host; `serves` is the address of the peer's
    /// upload server, if any, with its site.
    pub fn new(
        context: &'a ResponseContext,
        writer: FrameWriter,
        (from, is_on_this_host): (SocketAddr, bool),
        serves: Option<(SocketAddr, Site)>,
    ) -> Self {
        let address = serves.as_ref().map(|(address, _)| *address);
        let subscriptions = Subscriptions::new(context, serves, is_on_this_host);
        let chunk_sender = ChunkSender::new(context, from);
        let receiver = ReceiverConnection::new(context.offers.receivers(), from, address);
        Self { context, writer, from, subscriptions, chunk_sender, receiver, has_stalled: false }
    }

    /// Answers requests until their queue is closed.
    pub fn run(mut self, requests: &Receiver<PeerRequest>) -> Result<(), StreamError> {
        let result = self.answer_all(requests);
        self.receiver.log_downloads(|file| self.context.offers.label(file));
        result
    }

    fn answer_all(&mut self, requests: &Receiver<PeerRequest>) -> Result<(), StreamError> {
        loop {
            match self.subscriptions.wait(requests) {
                Wakeup::Request(request) => self.answer(request)?,
                Wakeup::EndOfRequests => return Ok(()),
                Wakeup::Arrival(at, index) => {
                    self.subscriptions.send_arrivals((at, index), &mut self.writer)?;
                }
                Wakeup::Notice(at, notice) => {
                    self.subscriptions.send_notice((at, notice), &mut self.writer)?;
                }
                Wakeup::Stored => self.subscriptions.announce_stored(&mut self.writer)?,
                Wakeup::IntervalElapsed => {}
            }
        }
    }

    fn answer(&mut self, request: PeerRequest) -> Result<(), StreamError> {
        let subscribers = &self.context.subscribers;
        match request {
            PeerRequest::Manifest { file } => self.send_manifest(file),
            PeerRequest::Have { file } => {
                self.record_download(file);
                match self.subscriptions.subscribe(file, &mut self.writer)? {
                    true => {
                        self.receiver.downloads(file);
                        Ok(())
                    }
                    false => self.refuse_unknown_file(file, None),
                }
            }
            PeerRequest::Chunk { file, index } => {
                let _transfer = self.await_transfer(file)?;
                subscribers.record_sent(self.subscriptions.id(), file, index);
                self.send_chunk(file, index)
            }
            PeerRequest::Join { file } => {
                self.receiver.touch();
                subscribers.join(self.subscriptions.id(), file);
                Ok(())
            }
            PeerRequest::Next { file, have } => self.send_next(file, &have),
            PeerRequest::Unreachable { file, peer } => {
                self.receiver.touch();
                subscribers.unreachable(self.subscriptions.id(), file, peer);
                Ok(())
            }
            PeerRequest::Corrupt { file, index } => {
                self.context.check_reported(self.from.ip(), file, index);
                Ok(())
            }
            PeerRequest::Files { name, id } => self.send_files(name.as_ref(), id),
            PeerRequest::Prove { file, index, holder, nonce } => {
                self.send_proof((file, index), (holder, nonce))
            }
            PeerRequest::Identify { nonce } => {
                let proofs = self.context.offers.registrations().proofs(nonce);
                self.writer.send(&PeerResponse::Identity { proofs })
            }
            PeerRequest::Completed { file, report, name } => match self.size_of(file) {
                Some(size) => {
                    // Sent first: the program may end with this report.
                    let sent = self.writer.send(&PeerResponse::Noted);
                    let offers = &self.context.offers;
                    let label = offers.label(file);
                    let completion = CompletionReport { file, label, size, report, name };
                    offers.receivers().completed(self.receiver.key(), &completion);
                    sent
                }
                None => self.refuse_unknown_file(file, None),
            },
            PeerRequest::Ping => {
                self.subscriptions.add_new_sources(&mut self.writer)?;
                self.writer.send(&PeerResponse::Pong)
            }
            PeerRequest::Hello { .. } => self.refuse(ErrorCode::Malformed, "repeated hello", None),
            PeerRequest::Unknown => {
                let text = "unknown message: this is a peer, not a tracker or manager; name a tracker with --tracker HOST:PORT, a manager with --manager HOST:PORT";
                self.refuse(ErrorCode::UnknownMessage, text, None)
            }
        }
    }

    fn refuse(
        &mut self,
        code: ErrorCode,
        text: impl Into<String>,
        index: Option<ChunkIndex>,
    ) -> Result<(), StreamError> {
        let text = text.into();
        log::debug!("refused a request of {}: {text}", self.from);
        self.writer.send(&PeerResponse::Error { code, text, index })
    }

    fn refuse_unknown_file(&mut self, file: FileId, index: Option<ChunkIndex>) -> Result<(), StreamError> {
        self.refuse(ErrorCode::NotFound, format!("peer does not have file {file}"), index)
    }

    fn refuse_busy(&mut self, index: ChunkIndex) -> Result<(), StreamError> {
        self.refuse(ErrorCode::Busy, "all upload slots are in use", Some(index))
    }

    /// Reserves the bytes of a payload until it is written.
    fn reserve(&self, payload: &[u8]) -> Option<InFlight> {
        self.context.in_flight.reserve(self.from.ip(), payload.len() as u64, None)
    }

    fn refuse_in_flight(&mut self) -> Result<(), StreamError> {
        self.refuse(ErrorCode::Busy, "too many responses wait for their readers; ask again later", None)
    }

    /// Size of an offered file, bytes.
    fn size_of(&self, file: FileId) -> Option<u64> {
        let manifest = self.context.offers.get(file)?.manifest()?;
        Some(manifest.layout().size())
    }

    /// Records that the peer downloads a file, if it is offered.
    fn record_download(&mut self, file: FileId) {
        let offers = &self.context.offers;
        let size = || Some(offers.get(file)?.manifest()?.layout().size());
        self.receiver.requested(file, size);
    }

    fn send_manifest(&mut self, file: FileId) -> Result<(), StreamError> {
        self.receiver.touch();
        if let Some((name, id)) = self.context.offers.replacement(file) {
            return self.refuse(
                ErrorCode::Replaced,
                format!("{name} was replaced; its new id is {id}"),
                None,
            );
        }
        let source = self.context.offers.get(file);
        let mode = source.as_ref().and_then(|source| source.mode());
        let Some(manifest) = source.and_then(|source| source.manifest()) else {
            let text = format!("peer does not have the manifest of {file}");
            return self.refuse(ErrorCode::NotFound, text, None);
        };
        let payload = manifest.payload();
        let ManifestSizes { size, chunk_size, index } = manifest.sizes();
        let length = payload.len() as u64;
        let response = PeerResponse::Manifest { file, size, chunk_size, index, length, mode };
        let Some(_reserved) = self.reserve(&payload) else { return self.refuse_in_flight() };
        self.writer.send_with(&response, &payload)
    }

    /// Sends the list of offered files that match the name and the id, cut to [`PEER_LIST_MAX`] bytes.
    fn send_files(&mut self, name: Option<&FileName>, id: Option<FileId>) -> Result<(), StreamError> {
        self.receiver.touch();
        let matches = |offer: &Offer| {
            name.is_none_or(|name| offer.file.name == *name) && id.is_none_or(|id| offer.file.id == id)
        };
        let offers = self.context.offers.list().into_iter().filter(matches);
        let files: Vec<OfferedFile> = offers
            .map(|Offer { file, source }| OfferedFile { file, held: source.progress().held() })
            .collect();
        let payload = encode_files(&files, PEER_LIST_MAX as usize)?;
        let response = PeerResponse::Files { count: files.len() as u32, length: payload.len() as u64 };
        let Some(_reserved) = self.reserve(&payload) else { return self.refuse_in_flight() };
        self.writer.send_with(&response, &payload)
    }

    /// Sends the proof that the volunteer of this program stores a chunk.
    fn send_proof(
        &mut self,
        (file, index): (FileId, ChunkIndex),
        demand: (KeyPrint, Nonce),
    ) -> Result<(), StreamError> {
        let context = self.context;
        let prover = context.offers.prover();
        match context.proof_slots.prove(prover.as_deref(), (file, index), demand, &context.shutdown) {
            Ok(sha256) => self.writer.send(&PeerResponse::Proof { file, index, sha256 }),
            Err(reason) => self.refuse(reason.code(), reason.text(), Some(index)),
        }
    }

    /// Waits until a transfer of a file may begin: a root sends few chunks at the same time. A `pong` shows meanwhile
    /// that this peer is alive.
    fn await_transfer(&mut self, file: FileId) -> Result<Option<QueuedTransfer>, StreamError> {
        let id = self.subscriptions.id();
        let Some(queue) = self.context.subscribers.transfers(id, file) else { return Ok(None) };
        let transfer = queue.enqueue();
        transfer.wait(KEEP_ALIVE_INTERVAL, &self.context.shutdown, |is_sign_due| {
            self.subscriptions.send_notices(&mut self.writer)?;
            if is_sign_due { self.writer.send(&PeerResponse::Pong) } else { Ok(()) }
        })?;
        Ok(Some(transfer))
    }

    /// Sends a chunk that this root has not sent yet.
    fn send_next(&mut self, file: FileId, have: &[(ChunkIndex, ChunkIndex)]) -> Result<(), StreamError> {
        let (subscribers, id) = (&self.context.subscribers, self.subscriptions.id());
        subscribers.record_claims(id, file, have);
        let _transfer = self.await_transfer(file)?;
        match subscribers.choose(id, file) {
            Some(index) => self.send_chunk(file, index),
            None => self.writer.send(&PeerResponse::Spent { file, answer: true }),
        }
    }

    /// Waits for an upload slot; `None` if all remain in use.
    fn slot(&self) -> Result<Option<Option<UploadSlot<'a>>>, StreamError> {
        self.context.slot(self.from.ip(), self.has_stalled)
    }

    /// Sends a chunk that is stored or being received.
    fn send_chunk(&mut self, file: FileId, index: ChunkIndex) -> Result<(), StreamError> {
        let context = self.context;
        context.offers.served().fetch_add(1, Ordering::Relaxed);
        self.subscriptions.record_request(file, index);
        let _use = context.offers.load().begin();
        self.record_download(file);
        let Some(mut stored) = context.offers.stored(file, index) else {
            return self.refuse_unknown_file(file, Some(index));
        };
        if matches!(stored, Err(StoreError::Missing(_))) {
            if let Some(partial) = context.offers.relay().get(file, index) {
                let Some(slot) = self.slot()? else { return self.refuse_busy(index) };
                let tally = self.receiver.begin_send(file);
                let (sender, writer) = (&self.chunk_sender, &mut self.writer);
                let sent = sender.relay((file, index), &partial, slot.as_ref(), tally, writer);
                self.has_stalled = slot.is_some_and(|slot| slot.has_stalled());
                return sent;
            }
            // Its last bytes may have been stored just now.
            stored = context.offers.stored(file, index).unwrap_or(stored);
        }
        match stored {
            Ok(stored) => {
                if let Err(error) = context.unreadable.check((file, index), &stored) {
                    let text = format!("peer cannot read this chunk: {error}");
                    return self.refuse(ErrorCode::Internal, text, Some(index));
                }
                let Some(slot) = self.slot()? else { return self.refuse_busy(index) };
                let tally = self.receiver.begin_send(file);
                let (sender, writer) = (&self.chunk_sender, &mut self.writer);
                let sent = sender.send_stored((file, index), &stored, slot.as_ref(), tally, writer);
                self.has_stalled = slot.is_some_and(|slot| slot.has_stalled());
                if let Err(StreamError::Io(error)) = &sent {
                    context.report_read_error((file, index), &stored, error);
                }
                sent
            }
            Err(error) => {
                let code = match &error {
                    StoreError::Missing(_) => ErrorCode::NotHere,
                    StoreError::Changed(_) => ErrorCode::Changed,
                    _ => ErrorCode::Internal,
                };
                if code == ErrorCode::Changed {
                    context.warn_once(file, &error);
                }
                // Without the whole error text: it may contain local paths.
                let text = match &error {
                    StoreError::Io { path, source, .. } => {
                        context.unreadable.log((file, index), path, source);
                        format!("peer cannot read this chunk: {source}")
                    }
                    _ => format!("peer does not have chunk {index}"),
                };
                self.refuse(code, text, Some(index))
            }
        }
    }
}

/// A JSON array of the first files that fit in `max` bytes.
fn encode_files(files: &[OfferedFile], max: usize) -> Result<Vec<u8>, FrameError> {
    let mut array = vec![b'['];
    for (number, file) in files.iter().enumerate() {
        let before = array.len();
        if number > 0 {
            array.push(b',');
        }
        serde_json::to_writer(&mut array, file)?;
        if array.len() >= max {
            array.truncate(before);
            break;
        }
    }
    array.push(b']');
    Ok(array)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tracker::FileSummary;

    #[test]
    fn a_list_of_files_is_cut_at_its_limit_of_bytes_and_stays_valid() {
        let files: Vec<OfferedFile> = (0..40)
            .map(|number| {
                let name = FileName::new(format!("file \"{number}\"")).unwrap();
                OfferedFile { file: FileSummary { id: FileId([7; 32]), name, size: 1, chunks: 1 }, held: 1 }
            })
            .collect();
        let whole = encode_files(&files, usize::MAX).unwrap();
        assert_eq!(whole, serde_json::to_vec(&files).unwrap());
        for max in [2, 3, 500, whole.len() - 1, whole.len()] {
            let cut = encode_files(&files, max).unwrap();
            let listed: Vec<OfferedFile> = serde_json::from_slice(&cut).unwrap();
            assert!(cut.len() <= max && listed == files[..listed.len()]);
            assert_eq!(listed.len() == files.len(), max == whole.len());
        }
    }
}
