//! Drives the state thread of a volunteer with the events of a hostile tracker, step by step and without threads.
//!
//! Used by a property test and by the fuzz target `volunteer`. After each event: each order is outstanding once; nothing is
//! queued without a session; the store has exactly the chunks that were copied and neither dropped by order nor damaged; each
//! message has the token of the session, fits in a frame and reports only chunks that are held. In the end each copy order has
//! one answer, and the next session reports every chunk.

use super::super::checker::Pass;
use super::super::copier::Copy;
use super::super::disk_orders::{DiskOrder, carry_out};
use super::super::{Done, HeldReplicas, Job, SharedStatus};
use super::{Outputs, State};
use crate::content::limits::{NAMED_CHUNKS_MAX, ORDERS_MAX};
use crate::content::{ChunkIndex, Digest, FileId, FileName, Layout, Manifest, Md5};
use crate::net::{Endpoint, Shutdown};
use crate::protocol::ErrorCode;
use crate::protocol::frame;
use crate::protocol::tracker::{FileSummary, Token, TrackerRequest, TrackerResponse};
use crate::protocol::volunteer::{CopyFailure, KeptFile, VolunteerOrder, VolunteerReport};
use crate::storage::ReplicaStore;
use crate::tracker_client::session::SessionEvent;
use crate::upload::offers::Offers;
use crossbeam_channel::{Receiver, bounded};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const CHUNK: u32 = 16 * 1024;
const CHUNKS: u32 = 3;
/// Offered space, bytes: less than the chunks of both files.
const OFFERED: u64 = 4 * CHUNK as u64 + 100;
/// Capacity of the queues to the workers, so small that orders are refused.
const QUEUE: usize = 4;
const TRACKER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5_100);

/// Values that select events, one byte each; zeros after the last.
struct Bytes<'a>(std::slice::Iter<'a, u8>);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        self.0.next().copied().unwrap_or_default()
    }

    /// The index of a chunk, sometimes of none.
    fn index(&mut self) -> ChunkIndex {
        match self.next() {
            255 => ChunkIndex(u32::MAX),
            number => ChunkIndex(u32::from(number) % (CHUNKS + 1)),
        }
    }

    fn indices(&mut self) -> Vec<ChunkIndex> {
        (0..self.next() % 6).map(|_| self.index()).collect()
    }
}

struct File {
    kept: KeptFile,
    manifest: Arc<Manifest>,
}

impl File {
    fn new(number: u8) -> Self {
        let layout = Layout::even((CHUNKS * CHUNK).into(), Some(CHUNK)).expect("a layout");
        let manifest = Manifest::new(layout, vec![Digest::of(&bytes_of(number)); CHUNKS as usize]);
        let manifest = manifest.expect("a digest for each chunk");
        let name = FileName::new(format!("file {number}")).expect("a name");
        let file = FileSummary { id: manifest.id(), name, size: (CHUNKS * CHUNK).into(), chunks: CHUNKS };
        Self { kept: KeptFile { file, md5: Md5([number; 16]) }, manifest: Arc::new(manifest) }
    }
}

/// The bytes of each chunk of a file.
fn bytes_of(number: u8) -> Vec<u8> {
    vec![number; CHUNK as usize]
}

struct Driver {
    state: State,
    store: Arc<ReplicaStore>,
    root: PathBuf,
    replicas: Arc<HeldReplicas>,
    copies: Receiver<Job<Copy>>,
    disk_orders: Receiver<Job<DiskOrder>>,
    checks: Receiver<Pass>,
    /// Results of workers on their way to the state thread.
    results: Vec<Done>,
    files: [File; 2],
    /// The chunks that the store must have.
    held: BTreeSet<(FileId, ChunkIndex)>,
    /// Copy orders of the session, and answers to them; `None` after a refusal, which discards answers.
    copy_orders: Option<(usize, usize)>,
    sessions: u128,
}

/// Runs the events that `bytes` select, with a store in an empty folder.
///
/// # Panics
/// An invariant is violated.
pub fn drive(folder: &Path, bytes: &[u8]) {
    let mut driver = Driver::new(folder);
    let mut bytes = Bytes(bytes.iter());
    while bytes.0.len() > 0 {
        driver.apply(&mut bytes);
        driver.check();
    }
    driver.finish();
}

impl Driver {
    fn new(root: &Path) -> Self {
        let store = Arc::new(ReplicaStore::open(root, OFFERED).expect("a store"));
        let replicas =
            Arc::new(HeldReplicas { store: store.clone(), offers: Offers::new(), syncing: Mutex::default() });
        let shared =
            Arc::new(SharedStatus { tracker_view: Mutex::default(), changed: bounded(1), drain: bounded(1) });
        let ((copies, copy_jobs), (disk_orders, disk_jobs)) = (bounded(QUEUE), bounded(QUEUE));
        let ((checks, check_requests), (failures, _)) = (bounded(QUEUE), bounded(QUEUE));
        let outputs = Outputs { copies, disk_orders, checks, failures, session: Shutdown::new() };
        let shutdown = Shutdown::new();
        Self {
            state: State::new(replicas.clone(), shared, outputs, Endpoint::from(TRACKER), None, &shutdown),
            store,
            root: root.to_owned(),
            replicas,
            copies: copy_jobs,
            disk_orders: disk_jobs,
            checks: check_requests,
            results: Vec::new(),
            files: [File::new(1), File::new(2)],
            held: BTreeSet::new(),
            copy_orders: None,
            sessions: 0,
        }
    }

    /// One of the two files, or one whose id is that of neither.
    fn file(&self, bytes: &mut Bytes<'_>) -> KeptFile {
        let number = usize::from(bytes.next() % 8);
        let mut kept = self.files[number % 2].kept.clone();
        if number == 7 {
            kept.file.id = FileId([9; 32]);
        }
        kept
    }

    fn apply(&mut self, bytes: &mut Bytes<'_>) {
        // As in `State::run`: a full outbox stops the events of the tracker.
        let is_open = self.state.outbox.len() < ORDERS_MAX;
        match bytes.next() % 20 {
            0 if is_open => self.join(),
            1 if is_open => self.tracker_event(SessionEvent::Lost),
            2..=5 if is_open => {
                let (kept, index) = (self.file(bytes), bytes.index());
                if self.has_begun() {
                    self.copy_orders.iter_mut().for_each(|(ordered, _)| *ordered += 1);
                }
                self.order(VolunteerOrder::Copy { kept, index, from: TRACKER });
            }
            6 | 7 if is_open => {
                let (file, chunks) = (self.file(bytes).file.id, bytes.indices());
                self.order(VolunteerOrder::Drop { file, chunks });
            }
            8 if is_open => {
                let (file, chunks) = (self.file(bytes).file.id, bytes.indices());
                self.order(VolunteerOrder::Check { file, chunks });
            }
            9 if is_open => self.order(VolunteerOrder::Welcome),
            10 if is_open => self.order(match bytes.next() % 2 {
                0 => VolunteerOrder::Cloned { at: TRACKER },
                _ => VolunteerOrder::Draining { left: u64::MAX },
            }),
            11 if is_open => {
                let code = if bytes.next().is_multiple_of(2) { ErrorCode::Busy } else { ErrorCode::Refused };
                let text = format!("reason {}", bytes.next() % 3);
                self.tracker_event(SessionEvent::Message(TrackerResponse::Error { code, text }));
                self.copy_orders = None;
            }
            12 => self.state.repeat_offer(),
            13 => self.state.handle_store_change(bytes.next().is_multiple_of(2)),
            14 => self.state.drain(),
            15 => self.damage(bytes),
            16 => self.work_on_copies(bytes.next()),
            17 => self.work_on_disk_orders(),
            18 => self.deliver(),
            _ => self.send(bytes.next() % 8),
        }
        if self.state.session.is_none() {
            self.copy_orders = None;
        }
    }

    fn has_begun(&self) -> bool {
        self.state.session.as_ref().is_some_and(|session| session.begun)
    }

    fn tracker_event(&mut self, event: SessionEvent) {
        self.state.handle_event(event);
    }

    fn order(&mut self, order: VolunteerOrder) {
        let order = Box::new(order);
        self.tracker_event(SessionEvent::Message(TrackerResponse::Volunteer { order }));
    }

    fn join(&mut self) {
        self.sessions += 1;
        let (requests, _) = bounded(1);
        let (token, address, tracker) = (Token(self.sessions), TRACKER, TRACKER);
        self.tracker_event(SessionEvent::Joined { token, address, tracker, requests });
        self.copy_orders = Some((0, 0));
    }

    /// Changes a chunk on the disk, and lets the store notice it.
    fn damage(&mut self, bytes: &mut Bytes<'_>) {
        let (id, index) = (self.file(bytes).file.id, bytes.index());
        if !self.held.remove(&(id, index)) {
            return;
        }
        let path = self.root.join(id.to_string()).join(index.0.to_string());
        std::fs::write(path, b"damaged").expect("it is written");
        assert!(!self.store.check(id, index).expect("the chunk can be read"));
        self.state.report_corrupt();
        // The checker would start a pass.
        self.checks.try_iter().for_each(drop);
    }

    /// Carries out the next copy order as a worker does; with an odd number the copy fails.
    fn work_on_copies(&mut self, number: u8) {
        let Ok(Job { order, session_end, session }) = self.copies.try_recv() else { return };
        let answers = if session_end.is_stopped() { Vec::new() } else { vec![self.copy(order, number)] };
        self.results.push(Done { answers, session });
    }

    fn copy(&mut self, Copy { kept, index, .. }: Copy, number: u8) -> VolunteerReport {
        let (file, free) = (kept.file.id, 0);
        let failed = |text: &str| {
            let (why, text) = (CopyFailure::Unreachable, text.to_owned());
            VolunteerReport::NotStored { file, index, why, text, free }
        };
        let known = (1..).zip(&self.files).find(|(_, known)| known.kept.file.id == file);
        let Some((content, known)) = known.filter(|_| number.is_multiple_of(2)) else {
            return failed("no source");
        };
        self.store.add_file(&known.kept, known.manifest.clone()).expect("a file can be added");
        match self.store.store(file, index, &bytes_of(content)) {
            Ok(()) => {
                self.held.insert((file, index));
                VolunteerReport::Stored { file, index, free }
            }
            Err(error) => failed(&error.to_string()),
        }
    }

    /// Carries out the next order for the disk.
    fn work_on_disk_orders(&mut self) {
        let Ok(Job { order, session_end, session }) = self.disk_orders.try_recv() else { return };
        if session_end.is_stopped() {
            self.results.push(Done { answers: Vec::new(), session });
            return;
        }
        if let DiskOrder::Drop(file, chunks) = &order {
            chunks.iter().for_each(|index| _ = self.held.remove(&(*file, *index)));
        }
        let answers = carry_out(&self.replicas, order, &session_end);
        self.results.push(Done { answers, session });
    }

    fn deliver(&mut self) {
        if let Some(done) = self.results.pop() {
            self.state.handle_result(done);
        }
    }

    /// Takes up to `count` messages from the outbox, as the session does.
    fn send(&mut self, count: u8) {
        for _ in 0..count {
            self.state.fill_outbox();
            let Some(session) = self.state.session.as_ref().filter(|_| !self.state.outbox.is_empty()) else {
                return;
            };
            let expected = session.token;
            let request = self.state.next_request();
            assert!(frame::encode(&request).is_ok(), "a message does not fit in a frame");
            match request {
                TrackerRequest::Volunteer { token, act } if token == expected => self.check_report(&act),
                other => panic!("unexpected message: {other:?}"),
            }
        }
    }

    fn check_report(&mut self, report: &VolunteerReport) {
        match report {
            VolunteerReport::Lend { offered, free, .. } => assert!(*offered == OFFERED && *free <= OFFERED),
            VolunteerReport::Holds { kept, held, .. } => {
                assert!(!held.is_empty() && held.len() <= NAMED_CHUNKS_MAX);
                for index in held {
                    let chunk = (kept.file.id, *index);
                    assert!(self.held.contains(&chunk), "chunk {index} is reported and not held");
                }
            }
            VolunteerReport::Stored { .. } | VolunteerReport::NotStored { .. } => {
                self.copy_orders.iter_mut().for_each(|(_, answered)| *answered += 1);
            }
            _ => {}
        }
    }

    fn check(&self) {
        let queued = self.copies.len() + self.disk_orders.len() + self.results.len();
        assert_eq!(self.state.outstanding, queued, "outstanding orders");
        assert!(self.state.outbox.len() < ORDERS_MAX + QUEUE);
        if self.state.session.is_none() {
            assert!(self.state.outbox.is_empty() && self.state.report.is_none());
        }
        assert!(self.store.used() <= OFFERED);
        let mut held = BTreeSet::new();
        for file in self.store.files() {
            let (checked, unchecked) = file.chunks();
            held.extend(checked.into_iter().chain(unchecked).map(|index| (file.id(), index)));
        }
        assert_eq!(held, self.held, "the chunks in the store");
    }

    /// Carries out all orders and delivers their results.
    fn work_on_all(&mut self) {
        while self.state.outstanding > 0 {
            self.work_on_copies(1);
            self.work_on_disk_orders();
            self.deliver();
            self.check();
        }
    }

    /// Asserts that each copy order is answered, and that the next session reports all chunks.
    fn finish(&mut self) {
        self.work_on_all();
        let messages = self.state.outbox.len() + 64;
        (0..messages).for_each(|_| self.send(1));
        if let Some((ordered, answered)) = self.copy_orders.filter(|_| self.has_begun()) {
            assert_eq!(answered, ordered, "copy orders of the session and their answers");
        }
        self.tracker_event(SessionEvent::Lost);
        self.check();
        self.state.handle_store_change(true);
        self.join();
        let mut reported = BTreeSet::new();
        loop {
            self.state.fill_outbox();
            match self.state.next_request() {
                TrackerRequest::Volunteer { act: VolunteerReport::Holds { kept, held, .. }, .. } => {
                    reported.extend(held.into_iter().map(|index| (kept.file.id, index)));
                }
                TrackerRequest::Volunteer { act: VolunteerReport::Lend { .. }, .. } => {}
                TrackerRequest::Volunteer { act: VolunteerReport::Reported, .. } => break,
                other => panic!("unexpected message in a report: {other:?}"),
            }
        }
        assert_eq!(reported, self.held, "the chunks that the next session reports");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_volunteer_keeps_its_invariants_under_a_hostile_tracker(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let folder = tempfile::tempdir().unwrap();
            drive(folder.path(), &bytes);
        }
    }

    #[test]
    fn warnings_that_a_tracker_causes_are_limited_in_each_session() {
        let folder = tempfile::tempdir().unwrap();
        let mut driver = Driver::new(folder.path());
        driver.join();
        for _ in 0..=crate::content::limits::SESSION_LINES_MAX {
            driver.order(VolunteerOrder::Cloned { at: TRACKER });
        }
        let lines = |driver: &Driver| driver.state.session.as_ref().map(|session| session.lines);
        assert_eq!(lines(&driver), Some(crate::content::limits::SESSION_LINES_MAX + 1));
        driver.join();
        assert_eq!(lines(&driver), Some(0));
    }
}
