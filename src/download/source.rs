//! Connection to a peer: requests and their responses, one at a time.
//!
//! Every wait has a deadline.

use super::events::{SourceError, SourceRole};
use crate::content::limits::{CONNECT_TIMEOUT, PEER_LIST_MAX, PROTOCOL_VERSION};
use crate::content::{Bitfield, ChunkIndex, Digest, FileId, Manifest, ManifestSizes, PeerName};
use crate::net::dial::dial_any_within;
use crate::net::framed_stream::split;
use crate::net::{FrameReader, FrameWriter, Shutdown, StreamError, Timeouts};
use crate::protocol::payload::manifest_payload_length;
use crate::protocol::peer::{PeerRequest, PeerResponse};
use crate::protocol::tokens::{KeyPrint, Nonce, ReportId};
use crate::protocol::tracker::OfferedFile;
use crate::protocol::{ErrorCode, PeerAddress};
use crate::swarm::rings::Site;
use crate::tracker_client::lookup::Query;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Response of a volunteer to a demand for a proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProofResponse {
    /// The proof, which has yet to be compared.
    Proof(Digest),
    /// The volunteer, identified by its key, does not hold the chunk.
    NotHere,
    /// The volunteer is not there, is busy or cannot read the chunk; the reason.
    CannotTell(String),
}

/// An open connection to a peer. Hello and the first request are sent together and so cost one RTT.
pub struct PeerConnection {
    pub(super) reader: FrameReader,
    pub(super) writer: FrameWriter,
    pub(super) stream: Arc<TcpStream>,
    /// Timeout until the first byte of a response.
    pub(super) stall: Duration,
    /// Send time and timeout of the hello; `None` once it has been answered.
    hello: Option<(Instant, Duration)>,
    /// Lowest RTT measured so far.
    pub(super) rtt: Duration,
    /// Site that the peer names in its hello, if any.
    site: Option<PeerName>,
}

impl PeerConnection {
    /// Connects and sends hello; the response is read together with the response to the first request. `port`
    /// is the port on which this peer serves, if any.
    ///
    /// # Errors
    /// The peer is unreachable.
    pub fn open(
        address: &PeerAddress,
        port: Option<u16>,
        timeouts: Timeouts,
        shutdown: &Shutdown,
    ) -> Result<Self, SourceError> {
        Self::open_within(CONNECT_TIMEOUT, address, (port, None), timeouts, shutdown)
    }

    /// As [`open`](Self::open), with a shorter timeout for the connect to each address, and the site of this peer.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_within(
        timeout: Duration,
        address: &PeerAddress,
        (port, site): (Option<u16>, Option<PeerName>),
        timeouts: Timeouts,
        shutdown: &Shutdown,
    ) -> Result<Self, SourceError> {
        let started = Instant::now();
        let stream = Arc::new(dial_any_within(&address.all().collect::<Vec<_>>(), timeout, shutdown)?);
        let rtt = started.elapsed();
        let Timeouts { hello, stall, .. } = timeouts;
        let (reader, mut writer) = split(&stream, stall)?;
        writer.send(&PeerRequest::Hello { version: PROTOCOL_VERSION, port, site })?;
        let reader = reader.watching_address();
        Ok(Self { reader, writer, stream, stall, hello: Some((Instant::now(), hello)), rtt, site: None })
    }

    /// Sends a request and reads the message that answers it.
    fn ask(&mut self, request: &PeerRequest) -> Result<PeerResponse, SourceError> {
        self.writer.send(request)?;
        self.await_hello()?;
        Ok(self.reader.message(self.stall)?)
    }

    /// Reads the response to hello if it has not been read yet.
    pub(super) fn await_hello(&mut self) -> Result<(), SourceError> {
        let Some((since, timeout)) = self.hello else { return Ok(()) };
        match self.reader.message(timeout)? {
            PeerResponse::Hello { version: PROTOCOL_VERSION, site } => {
                (self.hello, self.site) = (None, site);
                // On a busy machine one of the two measurements (connect, hello) exceeds the RTT.
                self.rtt = self.rtt.min(since.elapsed());
                Ok(())
            }
            PeerResponse::Error { text, .. } => Err(SourceError::Refused(text)),
            _ => Err(SourceError::Protocol("no hello".into())),
        }
    }

    /// Demands the proofs of the peer's registrations.
    ///
    /// # Errors
    /// The peer does not answer, or speaks another protocol.
    pub fn identify(&mut self, nonce: Nonce, shutdown: &Shutdown) -> Result<Vec<Digest>, SourceError> {
        let _guard = shutdown.guard(&self.stream);
        match self.ask(&PeerRequest::Identify { nonce })? {
            PeerResponse::Identity { proofs } => Ok(proofs),
            PeerResponse::Error { text, .. } => Err(SourceError::Refused(text)),
            _ => Err(SourceError::Protocol("no identity".into())),
        }
    }

    /// Downloads the manifest of a file whose chunks are received in memory, and verifies it against the id.
    ///
    /// # Errors
    /// The protocol version differs, the peer has no valid manifest of this file, or a chunk is above
    /// [`CHUNK_SIZE_MAX`](crate::content::limits::CHUNK_SIZE_MAX).
    pub fn manifest(&mut self, file: FileId, shutdown: &Shutdown) -> Result<Manifest, SourceError> {
        let (manifest, _) = self.manifest_and_mode(file, || (), shutdown)?;
        let fits = manifest.layout().check_fits_memory();
        fits.map(|()| manifest).map_err(|error| SourceError::Protocol(format!("invalid manifest: {error}")))
    }

    /// Downloads a manifest with chunks of any size, and the permission bits that the peer states. Calls `begins` when the
    /// peer begins to send it.
    ///
    /// # Errors
    /// The protocol version differs, or the peer has no valid manifest of this file.
    pub fn manifest_and_mode(
        &mut self,
        file: FileId,
        begins: impl FnOnce(),
        shutdown: &Shutdown,
    ) -> Result<(Manifest, Option<u32>), SourceError> {
        let _guard = shutdown.guard(&self.stream);
        match self.ask(&PeerRequest::Manifest { file })? {
            PeerResponse::Manifest { size, chunk_size, index, length, mode, .. } => {
                begins();
                let sizes = ManifestSizes { size, chunk_size, index };
                let payload = manifest_payload(&mut self.reader, sizes, length)?;
                Manifest::decode(file, sizes, &payload)
                    .map(|manifest| (manifest, mode))
                    .map_err(|error| SourceError::Protocol(format!("invalid manifest: {error}")))
            }
            PeerResponse::Error { code: ErrorCode::Replaced, text, .. } => Err(SourceError::Replaced(text)),
            PeerResponse::Error { text, .. } => Err(SourceError::Refused(text)),
            _ => Err(SourceError::Protocol("unexpected response".into())),
        }
    }

    /// Reports that this peer, `name`, has downloaded the whole file.
    ///
    /// # Errors
    /// The peer does not answer, or does not offer the file.
    pub fn completed(
        &mut self,
        file: FileId,
        (report, name): (ReportId, &PeerName),
        shutdown: &Shutdown,
    ) -> Result<(), SourceError> {
        let _guard = shutdown.guard(&self.stream);
        match self.ask(&PeerRequest::Completed { file, report, name: name.clone() })? {
            PeerResponse::Noted => Ok(()),
            PeerResponse::Error { text, .. } => Err(SourceError::Refused(text)),
            _ => Err(SourceError::Protocol("unexpected response".into())),
        }
    }

    /// Downloads one chunk into `buffer` and verifies it. After [`SourceError::Refused`] the connection
    /// remains usable; after any other error it does not.
    ///
    /// # Errors
    /// The peer does not have the chunk; [`SourceError::BadChunk`] if digest or length is wrong; the
    /// connection was lost.
    pub fn chunk(
        &mut self,
        file: FileId,
        index: ChunkIndex,
        (digest, length): (Digest, u64),
        buffer: &mut Vec<u8>,
        shutdown: &Shutdown,
    ) -> Result<(), SourceError> {
        let _guard = shutdown.guard(&self.stream);
        match self.ask(&PeerRequest::Chunk { file, index })? {
            PeerResponse::Chunk { file: sent_file, index: sent_index, length: bytes }
                if (sent_file, sent_index) == (file, index) =>
            {
                if bytes != length {
                    return Err(SourceError::BadChunk { index, bytes });
                }
                buffer.resize(length as usize, 0);
                self.reader.payload(buffer)?;
                if Digest::of(buffer) == digest {
                    return Ok(());
                }
                // The peer may not know that its file has changed.
                let _ = self.writer.send(&PeerRequest::Corrupt { file, index });
                Err(SourceError::BadChunk { index, bytes })
            }
            PeerResponse::Error { text, .. } => Err(SourceError::Refused(text)),
            _ => Err(SourceError::Protocol("unexpected response".into())),
        }
    }

    /// Reports a corrupt chunk over a new connection: the one that delivered it has been closed.
    pub(super) fn report_corrupt(
        mut self,
        file: FileId,
        index: ChunkIndex,
        shutdown: &Shutdown,
    ) -> Result<(), SourceError> {
        let _guard = shutdown.guard(&self.stream);
        self.writer.send(&PeerRequest::Corrupt { file, index })?;
        // The peer has read the report before this connection is closed.
        self.await_hello()?;
        self.writer.send(&PeerRequest::Ping)?;
        self.reader.message::<PeerResponse>(self.stall).map(|_| ()).map_err(Into::into)
    }

    /// Demands the proof that the volunteer with this key print stores a chunk. The connection remains usable unless
    /// an error is returned.
    ///
    /// # Errors
    /// The protocol version differs, the response does not answer the demand, or the connection was lost.
    pub fn prove(
        &mut self,
        (file, index): (FileId, ChunkIndex),
        holder: KeyPrint,
        nonce: Nonce,
        shutdown: &Shutdown,
    ) -> Result<ProofResponse, SourceError> {
        let _guard = shutdown.guard(&self.stream);
        match self.ask(&PeerRequest::Prove { file, index, holder, nonce })? {
            PeerResponse::Proof { file: of_file, index: of_index, sha256 }
                if (of_file, of_index) == (file, index) =>
            {
                Ok(ProofResponse::Proof(sha256))
            }
            PeerResponse::Error { code: ErrorCode::NotHere, index: of_index, .. }
                if of_index == Some(index) =>
            {
                Ok(ProofResponse::NotHere)
            }
            PeerResponse::Error { text, .. } => Ok(ProofResponse::CannotTell(text)),
            _ => Err(SourceError::Protocol("unexpected response".into())),
        }
    }

    /// Requests the list of files that a peer offers.
    ///
    /// # Errors
    /// The protocol version differs, the response is not a list of files, or the connection was lost.
    pub fn files(&mut self, query: &Query, shutdown: &Shutdown) -> Result<Vec<OfferedFile>, SourceError> {
        let _guard = shutdown.guard(&self.stream);
        // A peer finds no prefix: it sends the list of all its files.
        let query = if query.id_prefix().is_some() { &Query::default() } else { query };
        let Query { name, id, .. } = query.clone();
        match self.ask(&PeerRequest::Files { name, id })? {
            PeerResponse::Files { count, length } if length <= PEER_LIST_MAX => {
                let mut payload = vec![0; length as usize];
                self.reader.payload(&mut payload)?;
                let files: Vec<OfferedFile> =
                    serde_json::from_slice(&payload).map_err(|error| StreamError::Frame(error.into()))?;
                if files.len() < count as usize {
                    log::warn!("a peer offers {count} files and lists {} of them", files.len());
                }
                Ok(files)
            }
            PeerResponse::Error { text, .. } => Err(SourceError::Refused(text)),
            _ => Err(SourceError::Protocol("unexpected response".into())),
        }
    }

    /// Requests the bitfield of a file of `chunks` chunks, and subscribes to new chunks.
    pub(super) fn have(&mut self, file: FileId, chunks: u32) -> Result<(Bitfield, SourceRole), SourceError> {
        match self.ask(&PeerRequest::Have { file })? {
            PeerResponse::Have { count, length, members, direct, .. }
                if count == chunks && length == Bitfield::byte_length(count) as u64 =>
            {
                let mut bytes = vec![0; length as usize];
                self.reader.payload(&mut bytes)?;
                let have = Bitfield::from_bytes(count, &bytes);
                let role = match (members, direct) {
                    (Some(members), _) => SourceRole::Root { members },
                    (None, true) => SourceRole::Direct,
                    (None, false) => SourceRole::Ordinary,
                };
                Ok((have.map_err(|error| SourceError::Protocol(error.to_string()))?, role))
            }
            PeerResponse::Error { text, .. } => Err(SourceError::Refused(text)),
            _ => Err(SourceError::Protocol("no bitfield of this file".into())),
        }
    }

    /// Whether the peer is in the site of this peer, which has the `--site` name `own`, if any.
    pub(super) fn is_near(&self, own: Option<&PeerName>) -> bool {
        let (Ok(local), Ok(remote)) = (self.stream.local_addr(), self.stream.peer_addr()) else {
            return true;
        };
        let site_of =
            |name: Option<&PeerName>, address: SocketAddr| Site::of(name.map(PeerName::as_str), address.ip());
        site_of(own, local) == site_of(self.site.as_ref(), remote)
    }
}

/// Reads the payload of a manifest; its length must fit the stated sizes.
///
/// # Errors
/// No manifest has these sizes, or the connection was lost.
fn manifest_payload(
    reader: &mut FrameReader,
    sizes: ManifestSizes,
    length: u64,
) -> Result<Vec<u8>, SourceError> {
    let length = manifest_payload_length(sizes, length).map_err(SourceError::Protocol)?;
    let mut payload = vec![0; length];
    reader.payload(&mut payload)?;
    Ok(payload)
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
