//! State thread of a volunteer: passes orders of the tracker to workers, and their results back.
//!
//! Never waits for a socket or a disk. Messages to the tracker wait in an outbox; while it is full, no results are
//! taken from the workers (backpressure). Invariants: no message is sent in a session before all orders of earlier
//! sessions have ended; each order is answered, or its session has ended; the log lines that a tracker causes in a session
//! are limited.

#[cfg(any(test, feature = "fuzzing"))]
pub mod drive;

use super::activity_log::ActivityLog;
use super::checker::{Batch, Pass};
use super::copier::Copy;
use super::disk_orders::DiskOrder;
use super::report::{Report, as_of_now, holds};
use super::{Done, HeldReplicas, Job, SharedStatus, VolunteerStatus};
use crate::content::fmt::size;
use crate::content::limits::{GOODBYE_TIMEOUT, NAMED_CHUNKS_MAX, ORDERS_MAX, RETRY_MAX, SESSION_LINES_MAX};
use crate::content::{ChunkIndex, FileId};
use crate::net::{BlockedChannel, Endpoint, Shutdown};
use crate::protocol::ErrorCode;
use crate::protocol::tracker::{Token, TrackerRequest, TrackerResponse};
use crate::protocol::volunteer::{CopyFailure, VolunteerOrder, VolunteerReport};
use crate::report::error::RoleError;
use crate::tracker_client::lookup::resolve_address;
use crate::tracker_client::session::SessionEvent;
use crossbeam_channel::{Receiver, Sender, never};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Messages in the outbox from which on no results are taken from the workers.
const OUTBOX_MAX: usize = 256;

/// Channels to the state thread.
pub(super) struct Inputs {
    /// Events of the session with the tracker.
    pub events: Receiver<SessionEvent>,
    /// Results of the workers.
    pub results: Receiver<Done>,
    /// Verified chunks of the store.
    pub checked: Receiver<Batch>,
    /// Whether the store is at its path, after each change.
    pub store_changes: Receiver<bool>,
}

/// Channels from the state thread.
pub(super) struct Outputs {
    /// Orders for the copying threads.
    pub copies: Sender<Job<Copy>>,
    /// Orders that need only the disk.
    pub disk_orders: Sender<Job<DiskOrder>>,
    /// Passes over the store that hash its chunks again.
    pub checks: Sender<Pass>,
    /// Receives the error when the tracker has been unreachable for too long.
    pub failures: Sender<RoleError>,
    /// Ends the session with the tracker.
    pub session: Shutdown,
}

/// A registration at the tracker, valid as long as its connection.
struct Session {
    /// Counted from 1.
    number: u64,
    token: Token,
    /// Address of the tracker.
    tracker: SocketAddr,
    requests: Sender<TrackerRequest>,
    /// Triggered at the end of the session: ends its orders.
    session_end: Shutdown,
    /// The storage offer has been sent.
    begun: bool,
    /// Log lines that the tracker has caused.
    lines: u32,
}

/// State that the state thread owns.
pub(super) struct State {
    replicas: Arc<HeldReplicas>,
    shared: Arc<SharedStatus>,
    outputs: Outputs,
    tracker: Endpoint,
    /// Announced absence.
    away: Option<Duration>,
    shutdown: Shutdown,
    /// Whether the store is at its path. Without it no storage is offered.
    has_store: bool,
    session: Option<Session>,
    /// Number of sessions so far.
    sessions: u64,
    /// Outstanding orders of all sessions.
    outstanding: usize,
    /// Messages of the initial report that have not been sent.
    report: Option<Report>,
    /// Messages about corrupt chunks that are sent after the report, which may still list these
    /// chunks as held.
    after_report: Vec<VolunteerReport>,
    outbox: VecDeque<VolunteerReport>,
    /// Whether the user has requested a drain.
    draining: bool,
    activity_log: ActivityLog,
    /// The last storage offer was refused.
    is_refused: bool,
    /// Reason of the last refusal; empty after an acceptance.
    last_refusal: String,
    /// Fires when a refused offer is repeated.
    retry: Receiver<Instant>,
    /// Replaces the session's queue in `select!` while there is nothing to send.
    blocked: BlockedChannel<TrackerRequest>,
}

impl Drop for State {
    fn drop(&mut self) {
        // Here, so that the session also ends after a panic of the state thread.
        self.outputs.session.trigger();
    }
}

impl State {
    pub(super) fn new(
        replicas: Arc<HeldReplicas>,
        shared: Arc<SharedStatus>,
        outputs: Outputs,
        tracker: Endpoint,
        away: Option<Duration>,
        shutdown: &Shutdown,
    ) -> Self {
        let activity_log = ActivityLog::new(&replicas.store);
        Self {
            replicas,
            shared,
            outputs,
            tracker,
            away,
            shutdown: shutdown.clone(),
            has_store: true,
            session: None,
            sessions: 0,
            outstanding: 0,
            report: None,
            after_report: Vec::new(),
            outbox: VecDeque::new(),
            draining: false,
            activity_log,
            is_refused: false,
            last_refusal: String::new(),
            retry: never(),
            blocked: BlockedChannel::default(),
        }
    }

    /// Runs until the shutdown.
    pub(super) fn run(mut self, inputs: &Inputs) {
        let (shutdown, nothing) = (self.shutdown.clone(), never());
        let (damaged, drain) = (self.replicas.store.damaged().clone(), self.shared.drain.1.clone());
        let mut checked = inputs.checked.clone();
        loop {
            self.fill_outbox();
            let has_space = self.outbox.len() < OUTBOX_MAX;
            // Orders of a tracker that does not read are not accepted; the session ends by a write timeout.
            let events = if self.outbox.len() < ORDERS_MAX { &inputs.events } else { &never() };
            let (results, checks) =
                if has_space { (&inputs.results, &checked) } else { (&never(), &nothing) };
            let (requests, due, retry) = (self.requests(), self.activity_log.due(), self.retry.clone());
            crossbeam_channel::select! {
                recv(shutdown.signal()) -> _ => break,
                recv(events) -> event => match event {
                    Ok(event) => self.handle_event(event),
                    Err(_) => break,
                },
                recv(results) -> done => match done {
                    Ok(done) => self.handle_result(done),
                    Err(_) => break,
                },
                recv(checks) -> batch => match batch {
                    Ok((file, chunks)) => self.report_verified(file, &chunks),
                    // The checker has ended: all chunks have been verified.
                    Err(_) => checked = never(),
                },
                recv(damaged) -> _ => self.report_corrupt(),
                recv(inputs.store_changes) -> is_present => match is_present {
                    Ok(is_present) => self.handle_store_change(is_present),
                    Err(_) => break,
                },
                recv(drain) -> _ => self.drain(),
                recv(retry) -> _ => self.repeat_offer(),
                recv(due) -> _ => {
                    let status = self.status();
                    self.activity_log.summarise(&status);
                }
                send(requests, self.next_request()) -> sent => if sent.is_err() {
                    self.end_session();
                },
            }
        }
        self.say_goodbye(&inputs.events);
    }

    fn status(&self) -> VolunteerStatus {
        super::Volunteer { store: self.replicas.store.clone(), shared: self.shared.clone() }.status()
    }

    /// Makes the first message of the outbox current, or takes the next message of the report.
    fn fill_outbox(&mut self) {
        loop {
            match self.outbox.pop_front() {
                Some(message) => {
                    if let Some(message) = as_of_now(message, &self.replicas.store) {
                        self.outbox.push_front(message);
                        return;
                    }
                }
                None => match self.report.as_mut().map(Iterator::next) {
                    Some(Some(message)) => self.outbox.push_back(message),
                    Some(None) => {
                        self.report = None;
                        self.outbox.push_back(VolunteerReport::Reported);
                        self.outbox.extend(self.after_report.drain(..));
                        if self.draining {
                            self.outbox.push_back(VolunteerReport::Drain);
                        }
                    }
                    None => return,
                },
            }
        }
    }

    /// Channel for the next message of the outbox.
    fn requests(&self) -> Sender<TrackerRequest> {
        match &self.session {
            Some(session) if !self.outbox.is_empty() => session.requests.clone(),
            _ => self.blocked.sender(),
        }
    }

    fn next_request(&mut self) -> TrackerRequest {
        let token = self.session.as_ref().map(|session| session.token);
        match (token, self.outbox.pop_front()) {
            (Some(token), Some(act)) => TrackerRequest::Volunteer { token, act },
            // Not reached: `select!` sends only while the outbox has a message.
            _ => TrackerRequest::Unknown,
        }
    }

    fn handle_event(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Joined { token, requests, tracker, .. } => {
                self.end_session();
                self.sessions += 1;
                let (number, session_end) = (self.sessions, self.shutdown.child());
                self.session =
                    Some(Session { number, token, tracker, requests, session_end, begun: false, lines: 0 });
                self.begin_report();
            }
            SessionEvent::Message(TrackerResponse::Volunteer { order }) => self.handle_order(*order),
            SessionEvent::Message(TrackerResponse::Error { code, text }) => self.handle_refusal(code, text),
            SessionEvent::Lost => self.end_session(),
            SessionEvent::Failed(error) => _ = self.outputs.failures.try_send(error),
            other => log::debug!("ignored a message of the tracker: {other:?}"),
        }
    }

    /// Handles the refusal of the storage offer, or of a message after it. If the tracker is only busy, the offer is
    /// repeated.
    fn handle_refusal(&mut self, code: ErrorCode, text: String) {
        if self.is_refused {
            return log::debug!("tracker {} refused a message: {text}", self.tracker);
        }
        if self.shared.tracker_view().welcome {
            return self.warn(&format!("tracker {} refused a message: {text}", self.tracker));
        }
        if self.last_refusal != text {
            self.warn(&format!("tracker {} refused the storage offer: {text}", self.tracker));
        }
        (self.is_refused, self.last_refusal) = (true, text);
        self.shared.update(|view| view.refused = true);
        self.report = None;
        self.outbox.clear();
        if code == ErrorCode::Busy {
            self.retry = crossbeam_channel::after(RETRY_MAX);
        }
    }

    /// Logs a warning that the tracker causes; above the limit of its session it is a debug line.
    fn warn(&mut self, text: &str) {
        let Some(session) = &mut self.session else { return log::debug!("{text}") };
        session.lines = session.lines.saturating_add(1);
        match session.lines <= SESSION_LINES_MAX {
            true => log::warn!("{text}"),
            false => log::debug!("{text}"),
        }
    }

    /// Repeats a storage offer that was refused.
    fn repeat_offer(&mut self) {
        self.retry = never();
        if let Some(session) = self.session.as_mut().filter(|_| self.is_refused) {
            session.begun = false;
            self.begin_report();
        }
    }

    /// Ends the session: cancels its orders and drops its messages.
    fn end_session(&mut self) {
        if let Some(session) = self.session.take() {
            session.session_end.trigger();
        }
        self.report = None;
        self.after_report.clear();
        self.outbox.clear();
        self.shared.update(|view| view.welcome = false);
    }

    /// Sends the storage offer and the report, once all orders of earlier sessions have ended: they
    /// change the store.
    fn begin_report(&mut self) {
        let Some(session) = self.session.as_mut() else { return };
        if session.begun || self.outstanding > 0 || !self.has_store {
            return;
        }
        session.begun = true;
        let store = &self.replicas.store;
        let (key, offered, free) = (store.key(), store.offered(), store.free());
        let away_s = self.away.map(|away| away.as_secs());
        self.outbox.push_back(VolunteerReport::Lend { key, offered, free, away_s });
        self.report = Some(Report::of(store));
        self.is_refused = false;
        self.shared.update(|view| view.refused = false);
    }

    /// Ends or begins the storage offer.
    ///
    /// Without the store the connection ends, without a goodbye: this is no orderly disconnect, and an announced
    /// absence does not apply. The next registration waits for the store.
    fn handle_store_change(&mut self, is_present: bool) {
        self.has_store = is_present;
        self.shared.update(|view| view.absent = !is_present);
        match is_present {
            true => {
                let _ = self.outputs.checks.try_send(Pass::Unverified);
                self.begin_report();
            }
            false => self.end_session(),
        }
    }

    fn handle_order(&mut self, order: VolunteerOrder) {
        match order {
            VolunteerOrder::Welcome => {
                if !self.shared.tracker_view().welcome {
                    let offered = size(self.replicas.store.offered());
                    log::info!("tracker {} accepted {offered} of storage", self.tracker);
                }
                self.last_refusal.clear();
                self.shared.update(|view| view.welcome = true);
            }
            VolunteerOrder::Cloned { at } => self.warn(&format!(
                "another volunteer at {at} uses the key of this store: one of the two stores is a copy; start the other \
                 volunteer with an empty --volunteer-dir"
            )),
            VolunteerOrder::Copy { kept, index, from } => {
                let (file, free) = (kept.file.id, 0);
                let copies = self.outputs.copies.clone();
                let session = self.session.as_ref();
                let from = session.map_or(from, |session| resolve_address(from, session.tracker));
                if !self.assign(&copies, Copy { kept, index, from }) {
                    let (why, text) = (CopyFailure::Other, "the volunteer's order queue is full".to_owned());
                    self.send(VolunteerReport::NotStored { file, index, why, text, free });
                }
            }
            VolunteerOrder::Drop { file, chunks } => {
                self.assign_disk_order(DiskOrder::Drop(file, chunks.clone()), file, &chunks);
            }
            VolunteerOrder::Check { file, chunks } => {
                if let Some(file) = self.replicas.store.file(file) {
                    file.distrust_chunks(&chunks);
                }
                self.assign_disk_order(DiskOrder::Check(file, chunks.clone()), file, &chunks);
            }
            VolunteerOrder::Draining { left } => self.shared.update(|view| view.left = Some(left)),
        }
    }

    /// Queues an order about chunks. If the queue is full, answers that the chunks are held and not verified.
    fn assign_disk_order(&mut self, order: DiskOrder, file: FileId, chunks: &[ChunkIndex]) {
        let disk_orders = self.outputs.disk_orders.clone();
        if self.assign(&disk_orders, order) {
            return;
        }
        self.warn(&format!("refused an order of the tracker: {ORDERS_MAX} orders are queued"));
        if let Some(file) = self.replicas.store.file(file) {
            holds(&file, chunks, false).for_each(|message| self.send(message));
        }
    }

    /// Queues an order for a worker. Returns `false` if the queue is full.
    fn assign<O>(&mut self, to: &Sender<Job<O>>, order: O) -> bool {
        // The tracker sends no orders before it has received the report; earlier ones are ignored.
        let Some(session) = self.session.as_ref().filter(|session| session.begun) else { return true };
        let job = Job { order, session_end: session.session_end.clone(), session: session.number };
        let queued = to.try_send(job).is_ok();
        self.outstanding += usize::from(queued);
        queued
    }

    /// Queues a message for the tracker, if the session has begun.
    fn send(&mut self, message: VolunteerReport) {
        if self.session.as_ref().is_some_and(|session| session.begun) {
            self.activity_log.note(&message, &self.replicas.store);
            self.outbox.push_back(message);
        }
    }

    fn handle_result(&mut self, done: Done) {
        self.outstanding = self.outstanding.saturating_sub(1);
        if self.session.as_ref().is_some_and(|session| session.number == done.session) {
            done.answers.into_iter().for_each(|answer| self.send(answer));
        }
        self.begin_report();
    }

    /// Reports verified chunks.
    ///
    /// Before the session has begun nothing is sent: the later report includes them.
    fn report_verified(&mut self, file: FileId, chunks: &[ChunkIndex]) {
        if let Some(file) = self.replicas.store.file(file) {
            holds(&file, chunks, true).for_each(|message| self.send(message));
        }
    }

    /// Reports the chunks that the store has found corrupt.
    ///
    /// One damaged chunk makes the others doubtful: all are hashed again.
    fn report_corrupt(&mut self) {
        let mut files: BTreeMap<FileId, Vec<ChunkIndex>> = BTreeMap::new();
        for (file, index) in self.replicas.store.take_damaged() {
            files.entry(file).or_default().push(index);
        }
        if !files.is_empty() && self.outputs.checks.is_empty() {
            let _ = self.outputs.checks.try_send(Pass::All);
        }
        for (file, chunks) in files {
            let free = 0;
            for chunks in chunks.chunks(NAMED_CHUNKS_MAX) {
                let message = VolunteerReport::Spoiled { file, chunks: chunks.to_vec(), free };
                match self.report {
                    Some(_) => self.after_report.push(message),
                    None => self.send(message),
                }
            }
            // Stops serving the file and removes it if no chunk is left. Session 0: the answer is not sent.
            let (order, session_end, session) = (DiskOrder::Drop(file, Vec::new()), self.shutdown.clone(), 0);
            self.outstanding +=
                usize::from(self.outputs.disk_orders.try_send(Job { order, session_end, session }).is_ok());
        }
    }

    fn drain(&mut self) {
        self.draining = true;
        // While a report is being sent, the drain request follows it (`fill_outbox`).
        if self.report.is_none() {
            self.send(VolunteerReport::Drain);
        }
    }

    /// Sends a goodbye and waits for its acknowledgement, so that the tracker does not wait for the
    /// end of the lease.
    fn say_goodbye(self, events: &Receiver<SessionEvent>) {
        let Some(session) = &self.session else { return };
        session.session_end.trigger();
        let deadline = Instant::now() + GOODBYE_TIMEOUT;
        let goodbye = TrackerRequest::Goodbye { token: session.token };
        if session.requests.send_deadline(goodbye, deadline).is_err() {
            return;
        }
        while let Ok(event) = events.recv_deadline(deadline) {
            match event {
                SessionEvent::Message(TrackerResponse::Farewell) | SessionEvent::Lost => return,
                // Late orders are ignored.
                _ => {}
            }
        }
        log::debug!("tracker {} did not acknowledge the goodbye", self.tracker);
    }
}
