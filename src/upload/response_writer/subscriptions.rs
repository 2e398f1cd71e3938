//! Subscriptions of one connection: announcements of arriving and stored chunks, messages of a root.

use super::context::ResponseContext;
use crate::content::limits::{GOT_CHUNKS_MAX, GOT_INTERVAL, SUBSCRIPTIONS_MAX};
use crate::content::{Bitfield, ChunkIndex, FileId};
use crate::net::{FrameWriter, StreamError};
use crate::protocol::peer::{PeerRequest, PeerResponse};
use crate::storage::ChunkSource;
use crate::swarm::rings::Site;
use crate::upload::load::UploadUse;
use crate::upload::relay::ArrivalSubscription;
use crate::upload::subscribers::{JoinInfo, Notice, SubscriberId};
use crossbeam_channel::{Receiver, Select, never};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// Updates of one source of a file.
struct Subscription {
    file: FileId,
    source: Arc<dyn ChunkSource>,
    /// Position in the order of storing after the last announced chunk.
    cursor: usize,
    progress_signal: Receiver<()>,
    /// Chunks that begin to arrive; never ready for a peer that does not serve.
    arrivals: ArrivalSubscription,
    /// Messages of this peer as a root of the file.
    notices: Receiver<Notice>,
}

impl Subscription {
    /// Also returns the present bitfield; chunks stored later are announced, so that none is missed.
    fn new(file: FileId, source: Arc<dyn ChunkSource>, arrivals: ArrivalSubscription) -> (Self, Bitfield) {
        let progress_signal = source.progress().subscribe();
        let (have, cursor) = source.progress().have();
        (Self { file, source, cursor, progress_signal, arrivals, notices: never() }, have)
    }
}

/// Cause for which the writer thread of a connection wakes up. Subscriptions are named by their position.
pub(super) enum Wakeup {
    /// A request was received.
    Request(PeerRequest),
    /// The client sends no further requests.
    EndOfRequests,
    /// A chunk begins to arrive.
    Arrival(usize, ChunkIndex),
    /// This peer has a message as a root.
    Notice(usize, Notice),
    /// Chunks have been stored.
    Stored,
    /// The interval between two announcements has elapsed. Announcements are included in the next wait, which has no
    /// deadline: an idle connection does not wake up.
    IntervalElapsed,
}

/// Subscriptions of one connection.
pub(super) struct Subscriptions<'a> {
    context: &'a ResponseContext,
    id: SubscriberId,
    /// Address of the peer's upload server, if any, and its site.
    serves: Option<(SocketAddr, Site)>,
    /// The peer is on this host, and there is no upload limit.
    is_direct: bool,
    all: Vec<Subscription>,
    /// Counts this peer as one that downloads, once it has subscribed to a file.
    load: Option<UploadUse>,
    /// Time of the last announcement of stored chunks.
    announced_at: Instant,
}

impl Drop for Subscriptions<'_> {
    fn drop(&mut self) {
        self.all.iter().for_each(|subscription| self.context.subscribers.leave(self.id, subscription.file));
    }
}

impl<'a> Subscriptions<'a> {
    pub fn new(
        context: &'a ResponseContext,
        serves: Option<(SocketAddr, Site)>,
        is_on_this_host: bool,
    ) -> Self {
        let id = context.subscribers.new_id();
        let is_direct = is_on_this_host && !context.is_limited();
        Self { context, id, serves, is_direct, all: Vec::new(), load: None, announced_at: Instant::now() }
    }

    /// Number of the connection.
    pub fn id(&self) -> SubscriberId {
        self.id
    }

    /// Waits for a request or an update.
    pub fn wait(&mut self, requests: &Receiver<PeerRequest>) -> Wakeup {
        let next = self.announced_at + GOT_INTERVAL;
        let is_due = Instant::now() >= next;
        let mut select = Select::new();
        select.recv(requests);
        for subscription in &self.all {
            select.recv(subscription.arrivals.chunks());
            select.recv(&subscription.notices);
        }
        // Stored chunks are announced at intervals: the receivers of a relayed chunk know it already from `coming`
        // messages.
        for subscription in self.all.iter().filter(|_| is_due) {
            select.recv(&subscription.progress_signal);
        }
        // Not `ready`, which spins and yields the processor before it sleeps.
        let selected = match is_due {
            true => select.select(),
            false => match select.select_deadline(next) {
                Ok(selected) => selected,
                Err(_) => return Wakeup::IntervalElapsed,
            },
        };
        let Some(position) = selected.index().checked_sub(1) else {
            return selected.recv(requests).map_or(Wakeup::EndOfRequests, Wakeup::Request);
        };
        let (at, is_notice) = (position / 2, position % 2 == 1);
        if at >= self.all.len() {
            let _ = selected.recv(&self.all[position - 2 * self.all.len()].progress_signal);
            return Wakeup::Stored;
        }
        match is_notice {
            true => match selected.recv(&self.all[at].notices) {
                Ok(notice) => Wakeup::Notice(at, notice),
                Err(_) => {
                    self.all[at].notices = never();
                    Wakeup::IntervalElapsed
                }
            },
            false => match selected.recv(self.all[at].arrivals.chunks()) {
                Ok(index) => Wakeup::Arrival(at, index),
                Err(_) => Wakeup::IntervalElapsed,
            },
        }
    }

    /// Sends a `coming` message for a chunk and for each one that is queued behind it.
    pub fn send_arrivals(
        &self,
        (at, first): (usize, ChunkIndex),
        writer: &mut FrameWriter,
    ) -> Result<(), StreamError> {
        let Some(Subscription { file, arrivals, .. }) = self.all.get(at) else { return Ok(()) };
        let is_only_file = self.all.windows(2).all(|pair| pair[0].file == pair[1].file);
        let file = (!is_only_file).then_some(*file);
        let all = [first].into_iter().chain(arrivals.chunks().try_iter());
        writer.send_all(&all.map(|index| PeerResponse::Coming { file, index }).collect::<Vec<_>>())
    }

    /// Sends a message of this root.
    pub fn send_notice(
        &self,
        (at, notice): (usize, Notice),
        writer: &mut FrameWriter,
    ) -> Result<(), StreamError> {
        self.all.get(at).map_or(Ok(()), |one| send_notice(one.file, notice, writer))
    }

    /// Sends all queued messages of this root.
    pub fn send_notices(&self, writer: &mut FrameWriter) -> Result<(), StreamError> {
        let queued = self.all.iter().flat_map(|one| one.notices.try_iter().map(|notice| (one.file, notice)));
        queued.into_iter().try_for_each(|(file, notice)| send_notice(file, notice, writer))
    }

    /// Announces each chunk stored since the last announcement once, except those removed meanwhile.
    pub fn announce_stored(&mut self, writer: &mut FrameWriter) -> Result<(), StreamError> {
        self.announced_at = Instant::now();
        for subscription in &self.all {
            let _ = subscription.progress_signal.try_recv();
        }
        for subscription in &mut self.all {
            loop {
                let progress = subscription.source.progress();
                let (mut chunks, cursor) = progress.since(subscription.cursor, GOT_CHUNKS_MAX);
                subscription.cursor = cursor;
                if chunks.is_empty() {
                    break;
                }
                chunks.retain(|index| progress.has(*index));
                if !chunks.is_empty() {
                    writer.send(&PeerResponse::Got { file: subscription.file, chunks })?;
                }
            }
        }
        Ok(())
    }

    /// Records that the peer has requested a chunk of a file.
    pub fn record_request(&self, file: FileId, index: ChunkIndex) {
        let of_file = self.all.iter().filter(|one| one.file == file);
        of_file.for_each(|subscription| subscription.arrivals.record_request(index));
    }

    /// Subscribes to a file, and sends its bitfield and other subscribers. Returns `false`, and sends nothing, if the file is not offered.
    pub fn subscribe(&mut self, file: FileId, writer: &mut FrameWriter) -> Result<bool, StreamError> {
        let is_repeated = self.all.iter().any(|one| one.file == file);
        let Some(have) = self.add_sources(file, is_repeated) else { return Ok(false) };
        self.load.get_or_insert_with(|| self.context.offers.load().begin());
        // Only a subscribed file is left when the connection ends.
        let added = self.all.iter_mut().find(|one| !is_repeated && one.file == file);
        let (mut peers, mut members) = (Vec::new(), None);
        let direct = self.is_direct && have.is_complete();
        match (added, &self.serves) {
            _ if direct => {}
            (Some(subscription), Some(serves)) => {
                let joined = self.context.subscribers.add(self.id, serves.clone(), file, &have);
                JoinInfo { peers, members, notices: subscription.notices } = joined;
            }
            (_, None) => peers = self.context.subscribers.peers(file),
            (None, Some(_)) => {}
        }
        let bytes = have.to_bytes();
        let (count, length) = (have.count(), bytes.len() as u64);
        let response = PeerResponse::Have { file, count, length, members, direct };
        writer.send_with(&response, &bytes)?;
        if !peers.is_empty() {
            writer.send(&PeerResponse::Peers { file, peers })?;
        }
        Ok(true)
    }

    /// Returns the union of the bitfields of a file's sources, and subscribes to each unless the file `is_repeated`.
    /// Sources can hold different chunks: a download, a store of replicas. `None` without a source.
    fn add_sources(&mut self, file: FileId, is_repeated: bool) -> Option<Bitfield> {
        let mut union: Option<Bitfield> = None;
        for source in self.context.offers.all(file) {
            // Only a peer that serves can relay `coming` chunks, and is told of each only once.
            let arrivals = match self.serves {
                Some(_) if !is_repeated && union.is_none() => self.context.offers.relay().subscribe(file),
                _ => ArrivalSubscription::none(),
            };
            let (subscription, have) = Subscription::new(file, source, arrivals);
            match &mut union {
                None => union = Some(have),
                Some(union) => have.iter().for_each(|index| _ = union.insert(index)),
            }
            if !is_repeated && self.all.len() < SUBSCRIPTIONS_MAX {
                self.all.push(subscription);
            }
        }
        union
    }

    /// Subscribes to sources of the same files that were added later, and announces their chunks. Called at each ping.
    pub fn add_new_sources(&mut self, writer: &mut FrameWriter) -> Result<(), StreamError> {
        let files: BTreeSet<FileId> = self.all.iter().map(|one| one.file).collect();
        for file in files {
            for source in self.context.offers.all(file) {
                let is_known = |one: &Subscription| Arc::ptr_eq(&one.source, &source);
                let full = self.all.len() >= SUBSCRIPTIONS_MAX;
                if full || self.all.iter().any(is_known) {
                    continue;
                }
                let (subscription, have) = Subscription::new(file, source, ArrivalSubscription::none());
                // Chunks of the other sources have been announced, or will be.
                let others = self.all.iter().filter(|one| one.file == file);
                let announced: Vec<Bitfield> = others.map(|one| one.source.progress().have().0).collect();
                let is_new = |index: &ChunkIndex| !announced.iter().any(|announced| announced.has(*index));
                let chunks: Vec<ChunkIndex> = have.iter().filter(is_new).collect();
                self.all.push(subscription);
                for chunks in chunks.chunks(GOT_CHUNKS_MAX) {
                    writer.send(&PeerResponse::Got { file, chunks: chunks.to_vec() })?;
                }
            }
        }
        Ok(())
    }
}

/// Sends a message of this root to a member.
fn send_notice(file: FileId, notice: Notice, writer: &mut FrameWriter) -> Result<(), StreamError> {
    writer.send(&match notice {
        Notice::Place { ring, peer } => PeerResponse::Place { file, ring: ring as u8, peer },
        Notice::Spent => PeerResponse::Spent { file, answer: false },
    })
}
