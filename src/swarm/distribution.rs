//! Record of the peers that download from a seeder: bytes sent, stage, reports of completion.
//!
//! What is known of a peer, and how: the *bytes* are those of the chunks that the seeder has sent to it, so they are a lower
//! bound while it also downloads from others; a peer that is registered at the seeder's tracker and announces more chunks
//! counts with these. A file is *complete* when the peer has reported it, or has announced all chunks. The *rate in* is that of
//! these bytes, the *rate out* that of the bytes that the peer says it has sent to others. Invariants: the record is
//! bounded; each [`ReportId`] counts once, and once for each file.

use super::Moment;
use crate::content::limits::{COMPLETION_REPORTS_MAX, COMPLETION_REPORTS_PER_IP_MAX};
use crate::content::{FileId, PeerName};
use crate::protocol::tokens::ReportId;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

/// Most peers in the record. The peer that was seen longest ago is forgotten first; it still counts in the totals.
const PEERS_MAX: usize = 4_096;
/// Interval between the two samples from which a rate is measured, at least: peers announce their progress with each
/// heartbeat.
const RATE_WINDOW: Duration = Duration::from_secs(6);
/// Shortest time over which a rate is measured.
const RATE_MIN: Duration = Duration::from_secs(1);

/// Identity of a peer: its source address, and the port on which it serves.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReceiverKey {
    /// Source IP address.
    pub ip: IpAddr,
    /// Port of its upload server; peers of one address that do not serve are one until they report.
    pub port: Option<u16>,
}

/// State of a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// It is connected to the seeder or registered at its tracker, and not complete.
    Downloading,
    /// It is complete, and still connected or registered.
    Serving,
    /// It left before it was complete, as far as is known.
    Disconnected,
    /// It is complete and has left.
    Complete,
}

impl Stage {
    /// The word for tables.
    pub fn text(self) -> &'static str {
        match self {
            Stage::Downloading => "downloading",
            Stage::Serving => "serving",
            Stage::Disconnected => "disconnected",
            Stage::Complete => "complete",
        }
    }
}

/// A peer, for a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReceiverRow {
    /// Its name, or else its address.
    pub peer: String,
    /// Bytes that it is known to have, of the files that it has requested.
    pub done: u64,
    /// Size of these files, bytes.
    pub total: u64,
    /// Bytes per second that it receives, as far as is known.
    pub rate_in: u64,
    /// Bytes per second that it sends to others, as it says.
    pub rate_out: u64,
    /// Its state.
    pub stage: Stage,
    /// Time since its last request, or since its last chunk was sent.
    pub seen: Duration,
}

/// All peers at one time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DistributionView {
    /// The peers: those that download first, then those that serve, have disconnected, and have left complete.
    pub rows: Vec<ReceiverRow>,
    /// Number of peers that are or were known.
    pub known: u64,
    /// Number of these that are complete.
    pub complete: u64,
    /// Bytes per second that the seeder sends to all.
    pub rate: u64,
}

/// Progress of a peer with one file.
#[derive(Debug, Default)]
struct Share {
    size: u64,
    sent: u64,
    announced: u64,
    is_complete: bool,
}

impl Share {
    fn done(&self) -> u64 {
        if self.is_complete { self.size } else { self.sent.max(self.announced).min(self.size) }
    }
}

#[derive(Debug)]
struct Peer {
    key: ReceiverKey,
    name: Option<PeerName>,
    report: Option<ReportId>,
    files: BTreeMap<FileId, Share>,
    connections: u32,
    is_registered: bool,
    seen: Moment,
    /// Bytes that the seeder has sent to it, of all files.
    sent: u64,
    /// Bytes that it says it has sent to others.
    forwarded: u64,
    sent_meter: Meter,
    in_meter: Meter,
    out_meter: Meter,
}

/// Rate of a number that grows: two earlier values, the older first.
#[derive(Clone, Copy, Debug)]
struct Meter([(Moment, u64); 2]);

impl Meter {
    fn new(now: Moment) -> Self {
        Self([(now, 0); 2])
    }

    fn sample(&mut self, now: Moment, value: u64) {
        if now.saturating_sub(self.0[1].0) >= RATE_WINDOW {
            self.0 = [self.0[1], (now, value)];
        }
    }

    /// Growth per second since the older value.
    fn rate(&self, now: Moment, value: u64) -> u64 {
        let (at, before) = self.0[0];
        let elapsed = now.saturating_sub(at).max(RATE_MIN);
        (u128::from(value.saturating_sub(before)) * 1_000 / elapsed.as_millis()) as u64
    }
}

impl Peer {
    fn is_complete(&self) -> bool {
        !self.files.is_empty() && self.files.values().all(|share| share.is_complete)
    }

    fn stage(&self) -> Stage {
        match (self.is_complete(), self.connections > 0 || self.is_registered) {
            (false, true) => Stage::Downloading,
            (true, true) => Stage::Serving,
            (false, false) => Stage::Disconnected,
            (true, false) => Stage::Complete,
        }
    }

    /// Bytes that it is known to have.
    fn done(&self) -> u64 {
        self.files.values().map(Share::done).sum()
    }

    fn sample(&mut self, now: Moment) {
        let done = self.done();
        self.sent_meter.sample(now, self.sent);
        self.in_meter.sample(now, done);
        self.out_meter.sample(now, self.forwarded);
    }

    /// The name, or else the address.
    fn label(&self) -> String {
        match (&self.name, self.key.port) {
            (Some(name), _) => name.to_string(),
            (None, Some(port)) => std::net::SocketAddr::new(self.key.ip, port).to_string(),
            (None, None) => self.key.ip.to_string(),
        }
    }

    fn row(&self, now: Moment) -> ReceiverRow {
        ReceiverRow {
            peer: self.label(),
            done: self.done(),
            total: self.files.values().map(|share| share.size).sum(),
            rate_in: self.in_meter.rate(now, self.done()),
            rate_out: self.out_meter.rate(now, self.forwarded),
            stage: self.stage(),
            seen: now.saturating_sub(self.seen),
        }
    }
}

/// A report of completion.
#[derive(Clone, Debug)]
pub struct CompletionReport {
    /// The file.
    pub file: FileId,
    /// Its name for log lines.
    pub label: String,
    /// Size of the file, bytes.
    pub size: u64,
    /// Number of the run that reports.
    pub report: ReportId,
    /// Name of the peer.
    pub name: PeerName,
}

/// The record.
#[derive(Debug, Default)]
pub struct Distribution {
    peers: BTreeMap<u64, Peer>,
    /// Names of the peers that are registered at the seeder's tracker.
    registrations: HashMap<ReceiverKey, PeerName>,
    /// The present peer of each key.
    index: HashMap<ReceiverKey, u64>,
    next: u64,
    reports: HashSet<(ReportId, FileId)>,
    reporters: HashSet<ReportId>,
    reports_of_ip: HashMap<IpAddr, usize>,
    /// Number of forgotten peers, and of those that were complete.
    forgotten: (u64, u64),
}

impl Distribution {
    /// An empty record.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records a connection over which a peer downloads.
    pub fn opened(&mut self, now: Moment, key: ReceiverKey) {
        self.peer(now, key).connections += 1;
    }

    /// Records the end of such a connection.
    pub fn closed(&mut self, now: Moment, key: ReceiverKey) {
        if let Some(peer) = self.known(key) {
            peer.connections = peer.connections.saturating_sub(1);
            peer.seen = now;
        }
    }

    /// Records that a peer has requested a file, or a chunk of it.
    pub fn requested(&mut self, now: Moment, key: ReceiverKey, file: FileId, size: u64) {
        let peer = self.peer(now, key);
        peer.files.entry(file).or_default().size = size;
        peer.seen = now;
    }

    /// Records bytes that were sent to a peer.
    pub fn sent(&mut self, now: Moment, key: ReceiverKey, file: FileId, bytes: u64) {
        let Some(peer) = self.known(key) else { return };
        if let Some(share) = peer.files.get_mut(&file) {
            share.sent = share.sent.saturating_add(bytes);
        }
        peer.sent = peer.sent.saturating_add(bytes);
        peer.sample(now);
        peer.seen = now;
    }

    /// Records the registration of a peer at the seeder's tracker, or its end (`None`).
    pub fn registered(&mut self, key: ReceiverKey, name: Option<&PeerName>) {
        match name {
            Some(name) if self.registrations.len() < PEERS_MAX => {
                self.registrations.insert(key, name.clone());
            }
            Some(_) => {}
            None => _ = self.registrations.remove(&key),
        }
        // A peer that has requested nothing, such as another seeder, is not listed.
        let Some(peer) = self.known(key) else { return };
        peer.is_registered = name.is_some();
        peer.name = name.cloned().or(peer.name.take());
    }

    /// Records the announcement of a registered peer that it has `held` of the chunks of a file (id and number of chunks),
    /// and has sent `sent` bytes of all files to others.
    pub fn announced(
        &mut self,
        now: Moment,
        key: ReceiverKey,
        (file, chunks): (FileId, u32),
        held: u32,
        sent: Option<u64>,
    ) {
        let Some(peer) = self.known(key) else { return };
        peer.seen = now;
        peer.forwarded = sent.unwrap_or(peer.forwarded).max(peer.forwarded);
        peer.sample(now);
        let Some(share) = peer.files.get_mut(&file) else { return };
        share.is_complete |= held >= chunks;
        let known = u128::from(share.size) * u128::from(held.min(chunks)) / u128::from(chunks.max(1));
        share.announced = share.announced.max(known as u64);
    }

    /// Records a report of completion. Returns whether it is new.
    pub fn completed(&mut self, now: Moment, key: ReceiverKey, completion: &CompletionReport) -> bool {
        let CompletionReport { file, size, report, name, .. } = completion;
        if self.reports.contains(&(*report, *file)) || self.reports.len() >= COMPLETION_REPORTS_MAX {
            return false;
        }
        let count = self.reports_of_ip.entry(key.ip).or_default();
        if *count >= COMPLETION_REPORTS_PER_IP_MAX {
            return false;
        }
        *count += 1;
        self.reports.insert((*report, *file));
        self.reporters.insert(*report);
        let id = match self.reporting_peer(key, *file, *report, name) {
            Some(id) => id,
            None => self.add(now, key),
        };
        if let Some(peer) = self.peers.get_mut(&id) {
            (peer.report, peer.name, peer.seen) = (Some(*report), Some(name.clone()), now);
            let share = peer.files.entry(*file).or_default();
            (share.size, share.is_complete) = (*size, true);
        }
        true
    }

    /// Number of different runs that have reported the completion of a file.
    pub fn reporters(&self) -> usize {
        self.reporters.len()
    }

    /// All peers.
    pub fn view(&mut self, now: Moment) -> DistributionView {
        self.peers.values_mut().for_each(|peer| peer.sample(now));
        let mut peers: Vec<(Stage, &u64, &Peer)> =
            self.peers.iter().map(|(id, peer)| (peer.stage(), id, peer)).collect();
        peers.sort_by_key(|(stage, id, _)| (*stage, **id));
        let rows: Vec<ReceiverRow> = peers.iter().map(|(.., peer)| peer.row(now)).collect();
        let complete = self.peers.values().filter(|peer| peer.is_complete()).count() as u64;
        DistributionView {
            known: self.forgotten.0 + rows.len() as u64,
            complete: self.forgotten.1 + complete,
            rate: self.peers.values().map(|peer| peer.sent_meter.rate(now, peer.sent)).sum(),
            rows,
        }
    }

    /// The peer to which a report belongs. The report may come over another connection than the downloads: it belongs to the
    /// peer with this port, or else this name at the address, or else to the one at this address that has received most.
    fn reporting_peer(
        &self,
        key: ReceiverKey,
        file: FileId,
        report: ReportId,
        name: &PeerName,
    ) -> Option<u64> {
        let mut fit: Vec<(&u64, &Peer)> =
            self.peers.iter().filter(|(_, peer)| peer.key.ip == key.ip).collect();
        fit.retain(|(_, peer)| peer.report.is_none_or(|known| known == report));
        let find =
            |wanted: &dyn Fn(&Peer) -> bool| fit.iter().find(|(_, peer)| wanted(peer)).map(|(id, _)| **id);
        let with_port = |peer: &Peer| key.port.is_some() && peer.key.port == key.port;
        let known = find(&|peer| peer.report == Some(report))
            .or_else(|| find(&with_port))
            .or_else(|| find(&|peer| peer.name.as_ref() == Some(name)));
        let downloads = |peer: &&(&u64, &Peer)| {
            peer.1.report.is_none() && peer.1.files.get(&file).is_some_and(|share| !share.is_complete)
        };
        // A report with a port is never that of a peer with another port.
        let can_be = |peer: &&(&u64, &Peer)| key.port.is_none() || peer.1.key.port.is_none();
        let most = fit.iter().filter(downloads).filter(can_be).max_by_key(|(_, peer)| peer.sent);
        known.or(most.map(|(id, _)| **id))
    }

    fn known(&mut self, key: ReceiverKey) -> Option<&mut Peer> {
        self.peers.get_mut(self.index.get(&key)?)
    }

    /// The peer of a key, which is added if it is new.
    fn peer(&mut self, now: Moment, key: ReceiverKey) -> &mut Peer {
        let id = match self.index.get(&key) {
            Some(id) => *id,
            None => self.add(now, key),
        };
        self.peers.entry(id).or_insert_with(|| new_peer(now, key))
    }

    /// Adds a peer, and forgets another one if the record is full.
    fn add(&mut self, now: Moment, key: ReceiverKey) -> u64 {
        if self.peers.len() >= PEERS_MAX {
            let oldest = self.peers.iter().min_by_key(|(_, peer)| (peer.connections > 0, peer.seen));
            if let Some(peer) = oldest.map(|(id, _)| *id).and_then(|id| self.peers.remove(&id)) {
                self.forgotten.0 += 1;
                self.forgotten.1 += u64::from(peer.is_complete());
                if self.index.get(&peer.key).is_some_and(|id| !self.peers.contains_key(id)) {
                    self.index.remove(&peer.key);
                }
            }
        }
        let id = self.next;
        self.next += 1;
        let name = self.registrations.get(&key).cloned();
        self.peers.insert(id, Peer { is_registered: name.is_some(), name, ..new_peer(now, key) });
        self.index.entry(key).or_insert(id);
        id
    }
}

fn new_peer(now: Moment, key: ReceiverKey) -> Peer {
    Peer {
        key,
        name: None,
        report: None,
        files: BTreeMap::new(),
        connections: 0,
        is_registered: false,
        seen: now,
        sent: 0,
        forwarded: 0,
        sent_meter: Meter::new(now),
        in_meter: Meter::new(now),
        out_meter: Meter::new(now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileId = FileId([7; 32]);
    const OTHER: FileId = FileId([8; 32]);

    fn key(host: u8, port: Option<u16>) -> ReceiverKey {
        ReceiverKey { ip: IpAddr::from([10, 0, 0, host]), port }
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_secs(seconds)
    }

    fn report(file: FileId, number: u128, name: &str) -> CompletionReport {
        let name = PeerName::new(name).unwrap();
        CompletionReport { file, label: file.short(), size: 1_000, report: ReportId(number), name }
    }

    /// A record with one peer that downloads a file of 1,000 bytes.
    fn with_one() -> Distribution {
        let mut record = Distribution::new();
        record.opened(at(0), key(2, Some(7)));
        record.requested(at(0), key(2, Some(7)), FILE, 1_000);
        record
    }

    fn row(record: &mut Distribution, now: u64) -> (String, u64, u64, Stage) {
        let row = record.view(at(now)).rows.remove(0);
        (row.peer, row.done, row.total, row.stage)
    }

    #[test]
    fn a_peer_passes_through_its_stages() {
        let (mut record, peer) = (with_one(), key(2, Some(7)));
        record.sent(at(1), peer, FILE, 300);
        assert_eq!(row(&mut record, 1), ("10.0.0.2:7".to_owned(), 300, 1_000, Stage::Downloading));
        record.closed(at(2), peer);
        assert_eq!(row(&mut record, 2).3, Stage::Disconnected);
        record.registered(peer, Some(&PeerName::new("anna").unwrap()));
        assert_eq!(row(&mut record, 2), ("anna".to_owned(), 300, 1_000, Stage::Downloading));
        record.announced(at(2), peer, (FILE, 4), 2, None);
        assert_eq!(row(&mut record, 2).1, 500);
        assert!(record.completed(at(3), peer, &report(FILE, 1, "anna")));
        assert_eq!(row(&mut record, 3), ("anna".to_owned(), 1_000, 1_000, Stage::Serving));
        record.registered(peer, None);
        assert_eq!(row(&mut record, 3).3, Stage::Complete);
        let view = record.view(at(9));
        assert_eq!((view.known, view.complete, view.rows[0].seen), (1, 1, Duration::from_secs(6)));
        record.requested(at(9), peer, OTHER, 50);
        record.opened(at(9), peer);
        assert_eq!(row(&mut record, 9), ("anna".to_owned(), 1_000, 1_050, Stage::Downloading));
    }

    #[test]
    fn announced_complete_files_count_without_a_report() {
        let mut record = with_one();
        record.announced(at(2), key(2, Some(7)), (FILE, 4), 4, None);
        assert_eq!((record.view(at(1)).complete, record.reporters()), (1, 0));
        record.announced(at(2), key(3, Some(7)), (FILE, 4), 4, None);
        record.registered(key(3, Some(7)), Some(&PeerName::new("seeder").unwrap()));
        assert_eq!(record.view(at(1)).known, 1, "a peer that requests nothing is not listed");
        record.requested(at(1), key(3, Some(7)), FILE, 1_000);
        assert_eq!(record.view(at(1)).rows[0].peer, "seeder", "its name is known from its registration");
    }

    #[test]
    fn each_report_counts_once_for_each_file() {
        let mut record = with_one();
        let peer = key(2, Some(7));
        assert!(record.completed(at(1), peer, &report(FILE, 1, "a")));
        assert!(!record.completed(at(2), peer, &report(FILE, 1, "a")));
        assert!(record.completed(at(3), peer, &report(OTHER, 1, "a")));
        assert_eq!((record.reporters(), record.view(at(3)).known), (1, 1));
        assert!(record.completed(at(4), key(3, None), &report(FILE, 2, "b")));
        assert_eq!((record.reporters(), record.view(at(4)).known), (2, 2));
    }

    #[test]
    fn a_report_over_another_connection_finds_its_peer() {
        // Without a port: by its name, else the peer at the address that has received most.
        let mut record = with_one();
        record.requested(at(0), key(2, Some(8)), FILE, 1_000);
        record.requested(at(0), key(2, Some(9)), FILE, 1_000);
        record.sent(at(0), key(2, Some(9)), FILE, 10);
        record.registered(key(2, Some(8)), Some(&PeerName::new("b").unwrap()));
        assert!(record.completed(at(1), key(2, None), &report(FILE, 1, "b")));
        assert!(record.completed(at(1), key(2, None), &report(FILE, 2, "c")));
        assert!(record.completed(at(1), key(2, Some(7)), &report(FILE, 3, "a")));
        let view = record.view(at(1));
        let complete: Vec<(&str, Stage)> =
            view.rows.iter().map(|row| (row.peer.as_str(), row.stage)).collect();
        assert_eq!(complete, [("a", Stage::Serving), ("b", Stage::Serving), ("c", Stage::Complete)]);
        // Peers of one address that do not serve are one until each has reported.
        record.requested(at(2), key(4, None), FILE, 1_000);
        assert!(record.completed(at(3), key(4, None), &report(FILE, 4, "d")));
        assert!(record.completed(at(3), key(4, None), &report(FILE, 5, "e")));
        let view = record.view(at(3));
        assert_eq!((view.known, view.complete), (5, 5));
    }

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let (mut record, peer) = (with_one(), key(2, Some(7)));
        for second in 1..=10 {
            record.sent(at(second), peer, FILE, 100);
        }
        let rate = record.view(at(10)).rate;
        assert!((80..=120).contains(&rate), "{rate}");
        record.view(at(12));
        assert_eq!(record.view(at(18)).rate, 0);
    }

    #[test]
    fn rates_of_a_peer_are_those_that_it_announces() {
        let (mut record, peer) = (with_one(), key(2, Some(7)));
        record.sent(at(1), peer, FILE, 10);
        for second in [5, 10, 15] {
            record.announced(at(second), peer, (FILE, 100), second as u32 * 4, Some(second * 20));
        }
        let row = record.view(at(15)).rows.remove(0);
        assert_eq!((row.rate_in, row.rate_out), (40, 20));
        record.announced(at(16), peer, (FILE, 100), 0, Some(0));
        assert_eq!(record.view(at(16)).rows[0].done, 600, "nothing is taken back");
    }

    #[test]
    fn the_record_is_bounded_and_its_totals_stay_right() {
        let mut record = Distribution::new();
        let all = PEERS_MAX as u64 + 10;
        for number in 0..all {
            let peer = ReceiverKey { ip: IpAddr::from((number as u32 + 1).to_be_bytes()), port: Some(1) };
            record.requested(at(number), peer, FILE, 1_000);
            assert!(record.completed(at(number), peer, &report(FILE, u128::from(number), "x")));
        }
        let view = record.view(at(all));
        assert_eq!((view.rows.len(), view.known, view.complete), (PEERS_MAX, all, all));
        assert_eq!(record.index.len(), PEERS_MAX);
        let flood = (0..2 * COMPLETION_REPORTS_PER_IP_MAX as u128).filter(|number| {
            record.completed(at(all), key(2, None), &report(OTHER, u128::MAX - number, "x"))
        });
        assert_eq!(flood.count(), COMPLETION_REPORTS_PER_IP_MAX);
        assert_eq!(record.peers.len(), PEERS_MAX);
    }
}
