//! The peers that download from this program, for its user: a [`Distribution`] that the connections fill.
//!
//! Nothing is recorded before [`Receivers::record`] is called.

use crate::content::FileId;
use crate::content::PeerName;
use crate::content::fmt::elapsed;
use crate::protocol::tracker::FileSummary;
use crate::report::LimitedLines;
use crate::swarm::distribution::{CompletionReport, Distribution, DistributionView, ReceiverKey};
use crate::swarm::line_limit::LineKind;
use crate::sync::lock;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Bytes of a chunk after which they are recorded before the chunk has been sent completely.
const TALLY_BYTES: u64 = 1024 * 1024;

/// The record of a program. Clones share it.
#[derive(Clone)]
pub struct Receivers(Arc<Inner>);

struct Inner {
    started: Instant,
    state: Mutex<Option<State>>,
    reported: (Sender<()>, Receiver<()>),
    sent_bytes: AtomicU64,
    /// Limit on the lines that other hosts cause.
    lines: LimitedLines,
}

/// State of a program that records.
struct State {
    table: Distribution,
    /// Time of the last request, and number of chunks that are being sent.
    last_request: Duration,
    sends: usize,
}

impl Default for Receivers {
    fn default() -> Self {
        let (state, sent_bytes) = (Mutex::default(), AtomicU64::new(0));
        let (started, lines) = (Instant::now(), LimitedLines::default());
        Self(Arc::new(Inner { started, state, reported: bounded(1), sent_bytes, lines }))
    }
}

impl Receivers {
    /// Records from now on.
    pub fn record(&self) {
        let last_request = self.0.started.elapsed();
        let state = State { table: Distribution::new(), last_request, sends: 0 };
        lock(&self.0.state).get_or_insert(state);
    }

    fn with<T>(&self, change: impl FnOnce(&mut State, Duration) -> T) -> Option<T> {
        let now = self.0.started.elapsed();
        lock(&self.0.state).as_mut().map(|state| change(state, now))
    }

    /// Whether this program records.
    fn is_recording(&self) -> bool {
        lock(&self.0.state).is_some()
    }

    /// The peers at present.
    pub fn view(&self) -> DistributionView {
        self.with(|state, now| state.table.view(now)).unwrap_or_default()
    }

    /// Number of different leechers that have reported the completion of a file.
    pub fn reporters(&self) -> usize {
        self.with(|state, _| state.table.reporters()).unwrap_or_default()
    }

    /// Ready after a new report of completion.
    pub fn reported(&self) -> &Receiver<()> {
        &self.0.reported.1
    }

    /// Time since the last request of a peer, or since the start; zero while a chunk is being sent.
    pub fn idle(&self) -> Duration {
        self.with(|state, now| match state.sends {
            0 => now.saturating_sub(state.last_request),
            _ => Duration::ZERO,
        })
        .unwrap_or_default()
    }

    /// Records a report of completion, and logs it if it is new.
    pub fn completed(&self, key: ReceiverKey, completion: &CompletionReport) {
        let is_new = self.with(|state, now| {
            state.last_request = now;
            state.table.completed(now, key, completion)
        });
        // A program that does not record logs each report.
        if is_new.unwrap_or(true) {
            let CompletionReport { label, name, .. } = completion;
            let line = || format!("{name} at {} has downloaded {label}", key.ip);
            self.0.lines.info(key.ip, LineKind::Downloads, line);
            let _ = self.0.reported.0.try_send(());
        }
    }

    /// Records the registration of a peer at the tracker of this program, or its end (`None`).
    pub fn registered(&self, key: ReceiverKey, name: Option<&PeerName>) {
        self.with(|state, _| state.table.registered(key, name));
    }

    /// Records the announcement of a registered peer that it has `held` chunks of a file, and has sent `sent` bytes of all
    /// files to others.
    pub fn announced(&self, key: ReceiverKey, file: &FileSummary, held: u32, sent: Option<u64>) {
        self.with(|state, now| state.table.announced(now, key, (file.id, file.chunks), held, sent));
    }

    /// Bytes of chunks that this program has sent to all peers since its start.
    pub fn sent_bytes(&self) -> u64 {
        self.0.sent_bytes.load(Ordering::Relaxed)
    }
}

/// The record of one connection. It is closed on drop.
pub(super) struct ReceiverConnection {
    receivers: Receivers,
    key: ReceiverKey,
    /// Address of its upload server, or else its source address.
    peer: SocketAddr,
    /// Files that the peer has requested over this connection.
    files: BTreeSet<FileId>,
    /// The downloads of this connection.
    downloads: Arc<Mutex<BTreeMap<FileId, Served>>>,
}

/// Part of a file that was sent over one connection.
#[derive(Debug, Default, Clone, Copy)]
struct Served {
    bytes: u64,
    /// Times of the first request and of the end of the last chunk; `None` without a chunk.
    times: Option<(Instant, Instant)>,
}

impl ReceiverConnection {
    /// The record of a connection from `from`; `serves` is the address of the peer's upload server, if any.
    pub(super) fn new(receivers: &Receivers, from: SocketAddr, serves: Option<SocketAddr>) -> Self {
        let key = ReceiverKey { ip: from.ip(), port: serves.map(|address| address.port()) };
        let downloads = Arc::default();
        Self {
            receivers: receivers.clone(),
            key,
            peer: serves.unwrap_or(from),
            files: BTreeSet::new(),
            downloads,
        }
    }

    pub(super) fn key(&self) -> ReceiverKey {
        self.key
    }

    /// Records a request that names no chunk.
    pub(super) fn touch(&self) {
        self.receivers.with(|state, now| state.last_request = now);
    }

    /// Records the request of an offered file, or of a chunk of it. `size` is called once for each file.
    pub(super) fn requested(&mut self, file: FileId, size: impl FnOnce() -> Option<u64>) {
        let (is_first, is_new) = (self.files.is_empty(), !self.files.contains(&file));
        let size = if is_new { size() } else { None };
        let key = self.key;
        let recorded = self.receivers.with(|state, now| {
            state.last_request = now;
            let Some(size) = size else { return false };
            if is_first {
                state.table.opened(now, key);
            }
            state.table.requested(now, key, file, size);
            true
        });
        if recorded == Some(true) {
            self.files.insert(file);
        }
    }

    /// Counts a chunk that is being sent until the returned value is dropped.
    pub(super) fn begin_send(&self, file: FileId) -> SendTally {
        self.receivers.with(|state, _| state.sends += 1);
        let (receivers, downloads) = (self.receivers.clone(), self.downloads.clone());
        SendTally { receivers, key: self.key, file, bytes: 0, sent: 0, began: Instant::now(), downloads }
    }

    /// Records that the peer downloads a file, not only single chunks of it.
    pub(super) fn downloads(&self, file: FileId) {
        lock(&self.downloads).entry(file).or_default();
    }

    /// Logs the downloads of this connection, at its end. `name` returns the name of a file.
    pub(super) fn log_downloads(&self, name: impl Fn(FileId) -> String) {
        for (file, Served { bytes, times }) in std::mem::take(&mut *lock(&self.downloads)) {
            let Some((began, ended)) = times else { continue };
            let took = elapsed(ended.saturating_duration_since(began));
            let line = || format!("sent {bytes} bytes of {} to {} in {took}", name(file), self.peer);
            match self.receivers.is_recording() {
                true => self.receivers.0.lines.info(self.key.ip, LineKind::Downloads, line),
                false => log::debug!("{}", line()),
            }
        }
    }
}

impl Drop for ReceiverConnection {
    fn drop(&mut self) {
        if !self.files.is_empty() {
            self.receivers.with(|state, now| state.table.closed(now, self.key));
        }
    }
}

/// Counts the bytes of a chunk that is being sent.
pub(super) struct SendTally {
    receivers: Receivers,
    key: ReceiverKey,
    file: FileId,
    /// Bytes that have not been recorded yet, and all bytes.
    bytes: u64,
    sent: u64,
    began: Instant,
    downloads: Arc<Mutex<BTreeMap<FileId, Served>>>,
}

impl SendTally {
    /// Adds bytes that are about to be sent.
    pub(super) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.sent += bytes;
        if self.bytes >= TALLY_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let (key, file, bytes) = (self.key, self.file, std::mem::take(&mut self.bytes));
        self.receivers.0.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.receivers.with(|state, now| state.table.sent(now, key, file, bytes));
    }
}

impl Drop for SendTally {
    fn drop(&mut self) {
        self.flush();
        if let Some(served) = lock(&self.downloads).get_mut(&self.file) {
            served.bytes += self.sent;
            let began = served.times.map_or(self.began, |(began, _)| began);
            served.times = Some((began, Instant::now()));
        }
        self.receivers.with(|state, now| {
            state.sends = state.sends.saturating_sub(1);
            state.last_request = now;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tokens::ReportId;
    use crate::swarm::distribution::Stage;

    const FILE: FileId = FileId([7; 32]);

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 2], port))
    }

    #[test]
    fn connections_fill_the_record_until_they_are_closed() {
        let receivers = Receivers::default();
        receivers.record();
        let mut connection = ReceiverConnection::new(&receivers, address(1), Some(address(7000)));
        assert_eq!(receivers.view(), DistributionView::default(), "a connection alone is no download");
        connection.requested(FILE, || Some(100));
        connection.requested(FILE, || panic!("the size is known"));
        let mut tally = connection.begin_send(FILE);
        tally.add(40);
        assert_eq!(receivers.idle(), Duration::ZERO);
        drop(tally);
        let row = receivers.view().rows.remove(0);
        assert_eq!((row.peer.as_str(), row.done, row.stage), ("10.0.0.2:7000", 40, Stage::Downloading));
        let name = PeerName::new("x").unwrap();
        let completion =
            CompletionReport { file: FILE, label: FILE.short(), size: 100, report: ReportId(1), name };
        receivers.completed(connection.key(), &completion);
        assert!(receivers.reported().try_recv().is_ok());
        receivers.completed(connection.key(), &completion);
        assert!(receivers.reported().try_recv().is_err(), "the same report");
        drop(connection);
        assert_eq!((receivers.view().rows[0].stage, receivers.reporters()), (Stage::Complete, 1));
    }

    #[test]
    fn only_bytes_of_downloads_are_logged() {
        let receivers = Receivers::default();
        let connection = ReceiverConnection::new(&receivers, address(1), Some(address(7000)));
        let other = FileId([8; 32]);
        connection.downloads(FILE);
        for file in [FILE, other, FILE] {
            connection.begin_send(file).add(40);
        }
        let served = lock(&connection.downloads).clone();
        assert_eq!(served.keys().collect::<Vec<_>>(), [&FILE], "a single chunk is no download");
        assert_eq!((served[&FILE].bytes, connection.peer), (80, address(7000)));
        connection.log_downloads(|file| file.short());
        assert!(lock(&connection.downloads).is_empty(), "each download is logged once");
    }

    #[test]
    fn nothing_is_recorded_before_the_record_begins() {
        let receivers = Receivers::default();
        let mut connection = ReceiverConnection::new(&receivers, address(1), None);
        connection.requested(FILE, || Some(100));
        connection.begin_send(FILE).add(1);
        receivers.record();
        drop(connection);
        assert_eq!(receivers.view(), DistributionView::default());
    }
}
