//! Queue of requests to the tracker: claims, lookups and others, sent while the client is registered.

use crate::content::limits::EVENT_TARGET;
use crate::content::{ChunkIndex, FileId, PeerName};
use crate::net::BlockedChannel;
use crate::protocol::tracker::{Claim, SetKey, Token, TrackerRequest};
use crate::storage::HeldChunk;
use crossbeam_channel::Sender;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// Largest number of unanswered chunk lookups at the tracker.
pub(super) const LOOKUPS_MAX: usize = 256;

/// Registered connection to the tracker.
pub(super) struct ActiveSession {
    pub token: Token,
    /// Address of this client that the tracker reports to other peers.
    pub address: SocketAddr,
    /// Queue of the session with the tracker.
    pub requests: Sender<TrackerRequest>,
}

/// Requests that wait for capacity in the session's queue.
pub(super) struct RequestQueue {
    /// Name of this client in event lines.
    name: PeerName,
    set: SetKey,
    session: Option<ActiveSession>,
    outbox: VecDeque<TrackerRequest>,
    /// Chunks to look up. They become requests when the outbox is empty.
    lookups: VecDeque<ChunkIndex>,
    unanswered_lookups: usize,
    /// Replaces the session's queue in `select!` while there is nothing to send.
    blocked: BlockedChannel<TrackerRequest>,
}

impl RequestQueue {
    pub(super) fn new(name: PeerName, set: SetKey) -> Self {
        Self {
            name,
            set,
            session: None,
            outbox: VecDeque::new(),
            lookups: VecDeque::new(),
            unanswered_lookups: 0,
            blocked: BlockedChannel::default(),
        }
    }

    /// Starts a session: drops all requests of earlier sessions and joins the set.
    pub(super) fn begin(&mut self, session: ActiveSession) {
        let token = session.token;
        self.session = Some(session);
        self.lookups.clear();
        self.unanswered_lookups = 0;
        self.outbox.clear();
        self.outbox.push_back(TrackerRequest::JoinSet { token, set: self.set.clone() });
    }

    /// Ends the session, whose connection is lost, and drops its requests.
    pub(super) fn end(&mut self) {
        self.session = None;
        self.outbox.clear();
    }

    /// Whether the client is registered with the tracker.
    pub(super) fn is_registered(&self) -> bool {
        self.session.is_some()
    }

    /// The next request, and the session's queue for it, for `select!`. Call [`sent`](Self::sent) after the send.
    pub(super) fn next(&mut self) -> (Sender<TrackerRequest>, TrackerRequest) {
        if self.outbox.is_empty() && self.unanswered_lookups < LOOKUPS_MAX {
            self.request_next_lookup();
        }
        match (&self.session, self.outbox.front()) {
            (Some(session), Some(request)) => (session.requests.clone(), request.clone()),
            _ => (self.blocked.sender(), TrackerRequest::Unknown),
        }
    }

    /// Removes the request that was sent.
    pub(super) fn sent(&mut self) {
        self.outbox.pop_front();
    }

    /// Whether no request waits. Lookups do not count.
    pub(super) fn is_empty(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Claims a held chunk, while registered.
    pub(super) fn claim(&mut self, chunk: HeldChunk) {
        let Some(ActiveSession { token, address, .. }) = self.session else { return };
        let HeldChunk { index, digest, length } = chunk;
        self.log_event(format_args!("LOCAL_CHUNKS,{index},{digest},{},{}", address.ip(), address.port()));
        let (set, claim) = (self.set.clone(), Claim { sha256: digest, size: length });
        self.outbox.push_back(TrackerRequest::Claim { token, set, index, claim });
    }

    /// Withdraws the claim of a chunk that is no longer held and looks the chunk up, while registered.
    pub(super) fn withdraw_claim(&mut self, index: ChunkIndex) {
        let Some(ActiveSession { token, .. }) = self.session else { return };
        self.outbox.push_back(TrackerRequest::Unclaim { token, set: self.set.clone(), index });
        self.lookups.push_back(index);
    }

    /// Reports that no holder of an agreed chunk has been connected for a time, while registered.
    pub(super) fn report_unreachable(&mut self, index: ChunkIndex, waited: Duration) {
        let Some(ActiveSession { token, .. }) = self.session else { return };
        let (set, seconds) = (self.set.clone(), waited.as_secs());
        self.outbox.push_back(TrackerRequest::Unreachable { token, set, index, seconds });
    }

    /// Requests the manifest of a sealed set.
    pub(super) fn request_manifest(&mut self, file: FileId) {
        self.outbox.push_back(TrackerRequest::Manifest { file });
    }

    /// Requests the state of the set, while registered.
    pub(super) fn request_set_status(&mut self) {
        let Some(ActiveSession { token, .. }) = self.session else { return };
        self.outbox.push_back(TrackerRequest::SetStatus { token, set: self.set.clone() });
    }

    /// Queues lookups of chunks.
    pub(super) fn look_up(&mut self, chunks: impl IntoIterator<Item = ChunkIndex>) {
        self.lookups.extend(chunks);
    }

    /// Whether lookups wait that have not been sent.
    pub(super) fn has_lookups(&self) -> bool {
        !self.lookups.is_empty()
    }

    /// Records the answer to a lookup.
    pub(super) fn lookup_answered(&mut self) {
        self.unanswered_lookups = self.unanswered_lookups.saturating_sub(1);
    }

    /// Logs an event line of this client.
    pub(super) fn log_event(&self, line: std::fmt::Arguments<'_>) {
        log::info!(target: EVENT_TARGET, "{},{line}", self.name);
    }

    fn request_next_lookup(&mut self) {
        let Some(ActiveSession { token, .. }) = self.session else { return };
        if let Some(index) = self.lookups.pop_front() {
            self.unanswered_lookups += 1;
            self.log_event(format_args!("WHERE_CHUNK,{index}"));
            self.outbox.push_back(TrackerRequest::WhereChunk { token, set: self.set.clone(), index });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::SetName;
    use crossbeam_channel::bounded;

    #[test]
    fn lookups_follow_other_requests_and_are_limited_until_answered() {
        let set = SetKey { set: SetName::new("s").unwrap(), count: 999 };
        let mut queue = RequestQueue::new(PeerName::new("n").unwrap(), set);
        queue.look_up((0..999).map(ChunkIndex));
        queue.next();
        assert!(queue.is_empty(), "no lookup is sent without a session");
        let (requests, _received) = bounded(1);
        let (token, address) = (Token(1), "127.0.0.1:1".parse().unwrap());
        queue.begin(ActiveSession { token, address, requests });
        assert!(!queue.has_lookups());
        queue.look_up((0..999).map(ChunkIndex));
        assert!(matches!(queue.next().1, TrackerRequest::JoinSet { .. }));
        queue.sent();
        for _ in 0..LOOKUPS_MAX {
            assert!(matches!(queue.next().1, TrackerRequest::WhereChunk { .. }));
            queue.sent();
        }
        queue.next();
        assert!(queue.is_empty());
        queue.lookup_answered();
        assert!(matches!(queue.next().1, TrackerRequest::WhereChunk { .. }));
        queue.end();
        assert!(queue.is_empty());
    }
}
