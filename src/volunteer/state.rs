//! The state thread of a volunteer: what the tracker says goes to workers, and what they report goes to the tracker.
//!
//! It never waits for a socket or a disk. What there is to say waits here until the session takes it; while much does,
//! no more results are taken from the workers. Invariants: nothing is said in a session before everything that was
//! ordered in an earlier one has come to its end; each order is answered, or its session is over.

use super::checker::Batch;
use super::chores::Chore;
use super::copier::Copy;
use super::diary::ActivityLog;
use super::report::{Report, as_of_now, holds};
use super::{Done, HeldReplicas, Job, Told, VolunteerStatus};
use crate::content::limits::{GOODBYE_TIMEOUT, NAMED_CHUNKS_MAX, ORDERS_MAX};
use crate::content::{ChunkIndex, FileId};
use crate::net::Shutdown;
use crate::protocol::tracker::{Token, TrackerRequest, TrackerResponse};
use crate::protocol::volunteer::{CopyFailure, VolunteerOrder, VolunteerReport};
use crate::report::error::DaemonError;
use crate::tracker_client::session::SessionEvent;
use crossbeam_channel::{Receiver, Sender, bounded, never};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// While so many messages wait for the tracker, no more results are taken from the workers.
const OUTBOX_MAX: usize = 256;

/// Where the state thread learns things from.
pub(super) struct Inputs {
    /// The session.
    pub said: Receiver<SessionEvent>,
    /// The workers.
    pub results: Receiver<Done>,
    /// The checker.
    pub checked: Receiver<Batch>,
}

/// Whom the state thread tells things.
pub(super) struct Outputs {
    /// The copying threads.
    pub copies: Sender<Job<Copy>>,
    /// The thread for everything else that needs the disk.
    pub chores: Sender<Job<Chore>>,
    /// Whoever waits for the tracker.
    pub failures: Sender<DaemonError>,
    /// Ends the session.
    pub session: Shutdown,
}

/// A registration that lasts as long as its connection.
struct Session {
    number: u64,
    token: Token,
    requests: Sender<TrackerRequest>,
    /// Ends what was ordered in it.
    here: Shutdown,
    /// It has been said what is lent.
    begun: bool,
}

/// All that the state thread owns.
pub(super) struct State {
    replicas: Arc<HeldReplicas>,
    told: Arc<Told>,
    outputs: Outputs,
    tracker: SocketAddr,
    shutdown: Shutdown,
    session: Option<Session>,
    sessions: u64,
    /// Orders that workers have not answered yet, of any session.
    underway: usize,
    report: Option<Report>,
    /// What is to be said behind the report: what turns out to be wrong meanwhile was perhaps named in it.
    behind: Vec<VolunteerReport>,
    outbox: VecDeque<VolunteerReport>,
    draining: bool,
    diary: ActivityLog,
    /// A queue that nobody empties: where to send while there is nothing to send.
    nowhere: (Sender<TrackerRequest>, Receiver<TrackerRequest>),
}

impl Drop for State {
    fn drop(&mut self) {
        // However it ends: without it nobody would end the session.
        self.outputs.session.trigger();
    }
}

impl State {
    pub(super) fn new(
        replicas: Arc<HeldReplicas>,
        told: Arc<Told>,
        outputs: Outputs,
        tracker: SocketAddr,
        shutdown: &Shutdown,
    ) -> Self {
        let diary = ActivityLog::new(&replicas.store);
        Self {
            replicas,
            told,
            outputs,
            tracker,
            shutdown: shutdown.clone(),
            session: None,
            sessions: 0,
            underway: 0,
            report: None,
            behind: Vec::new(),
            outbox: VecDeque::new(),
            draining: false,
            diary,
            nowhere: bounded(0),
        }
    }

    /// Runs until the shutdown.
    pub(super) fn run(mut self, inputs: &Inputs) {
        let (shutdown, nothing) = (self.shutdown.clone(), never());
        let (spoiled, drain) = (self.replicas.store.damaged().clone(), self.told.drain.1.clone());
        let mut checked = inputs.checked.clone();
        loop {
            self.fill_outbox();
            let room = self.outbox.len() < OUTBOX_MAX;
            // A tracker that does not read is not listened to, either; the session ends when that lasts.
            let said = if self.outbox.len() < ORDERS_MAX { &inputs.said } else { &never() };
            let (results, checks) = if room { (&inputs.results, &checked) } else { (&never(), &nothing) };
            let (requests, due) = (self.requests(), self.diary.due());
            crossbeam_channel::select! {
                recv(shutdown.signal()) -> _ => break,
                recv(said) -> event => match event {
                    Ok(event) => self.hear(event),
                    Err(_) => break,
                },
                recv(results) -> done => match done {
                    Ok(done) => self.finish(done),
                    Err(_) => break,
                },
                recv(checks) -> batch => match batch {
                    Ok((file, chunks)) => self.checked(file, &chunks),
                    // Everything has been looked at.
                    Err(_) => checked = never(),
                },
                recv(spoiled) -> _ => self.spoiled(),
                recv(drain) -> _ => self.drain(),
                recv(due) -> _ => {
                    let status = self.status();
                    self.diary.summarise(&status);
                }
                send(requests, self.next_request()) -> sent => if sent.is_err() {
                    self.lose();
                },
            }
        }
        self.leave(&inputs.said);
    }

    fn status(&self) -> VolunteerStatus {
        super::Volunteer { store: self.replicas.store.clone(), told: self.told.clone() }.status()
    }

    /// Takes the next part of the report, and leaves out what is not true any more.
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
                        self.outbox.extend(self.behind.drain(..));
                        if self.draining {
                            self.outbox.push_back(VolunteerReport::Drain);
                        }
                    }
                    None => return,
                },
            }
        }
    }

    /// Where what waits in the outbox goes.
    fn requests(&self) -> Sender<TrackerRequest> {
        match &self.session {
            Some(session) if !self.outbox.is_empty() => session.requests.clone(),
            _ => self.nowhere.0.clone(),
        }
    }

    fn next_request(&mut self) -> TrackerRequest {
        let token = self.session.as_ref().map(|session| session.token);
        match (token, self.outbox.pop_front()) {
            (Some(token), Some(act)) => TrackerRequest::Volunteer { token, act },
            // Only asked for when there is one.
            _ => TrackerRequest::Unknown,
        }
    }

    fn hear(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Joined { token, requests, .. } => {
                self.lose();
                self.sessions += 1;
                let (number, here) = (self.sessions, self.shutdown.child());
                self.session = Some(Session { number, token, requests, here, begun: false });
                self.begin();
            }
            SessionEvent::Said(TrackerResponse::Volunteer { order }) => self.obey(*order),
            SessionEvent::Said(TrackerResponse::Error { text, .. }) => {
                log::warn!("the tracker on {} does not take what is lent: {text}", self.tracker);
                self.told.tell(|told| told.refused = true);
            }
            SessionEvent::Lost => self.lose(),
            SessionEvent::GivenUp(error) => _ = self.outputs.failures.try_send(error),
            other => log::debug!("the tracker says {other:?}"),
        }
    }

    /// The session is over: what was ordered in it is not waited for any more.
    fn lose(&mut self) {
        if let Some(session) = self.session.take() {
            session.here.trigger();
        }
        self.report = None;
        self.behind.clear();
        self.outbox.clear();
        self.told.tell(|told| told.welcome = false);
    }

    /// Says what is lent and what is held, once nothing of an earlier session is under way that could change it.
    fn begin(&mut self) {
        let Some(session) = self.session.as_mut() else { return };
        if session.begun || self.underway > 0 {
            return;
        }
        session.begun = true;
        let store = &self.replicas.store;
        let (key, offered, free) = (store.key(), store.offered(), store.free());
        self.outbox.push_back(VolunteerReport::Lend { key, offered, free });
        self.report = Some(Report::of(store));
        self.told.tell(|told| told.refused = false);
    }

    fn obey(&mut self, order: VolunteerOrder) {
        match order {
            VolunteerOrder::Welcome => {
                log::info!("the tracker on {} takes what is lent", self.tracker);
                self.told.tell(|told| told.welcome = true);
            }
            VolunteerOrder::Copy { kept, index, from } => {
                let (file, free) = (kept.file.id, 0);
                let copies = self.outputs.copies.clone();
                if !self.give(&copies, Copy { kept, index, from }) {
                    let (why, text) = (CopyFailure::Other, "too much to do".to_owned());
                    self.say(VolunteerReport::NotStored { file, index, why, text, free });
                }
            }
            VolunteerOrder::Drop { file, chunks } => self.chore(Chore::Drop(file, chunks)),
            VolunteerOrder::Challenge { challenge, range } => {
                self.chore(Chore::Prove(challenge, range));
            }
            VolunteerOrder::Draining { left } => self.told.tell(|told| told.left = Some(left)),
        }
    }

    fn chore(&mut self, chore: Chore) {
        let chores = self.outputs.chores.clone();
        if !self.give(&chores, chore) {
            log::warn!("the tracker orders more than can be done, and is not answered");
        }
    }

    /// HeldReplicas an order to a worker. Returns `false` when they have too much to do.
    fn give<O>(&mut self, to: &Sender<Job<O>>, order: O) -> bool {
        // Nothing is ordered before it is known what is held here.
        let Some(session) = self.session.as_ref().filter(|session| session.begun) else { return true };
        let job = Job { order, here: session.here.clone(), session: session.number };
        let given = to.try_send(job).is_ok();
        self.underway += usize::from(given);
        given
    }

    /// Says something in this session.
    fn say(&mut self, message: VolunteerReport) {
        if self.session.as_ref().is_some_and(|session| session.begun) {
            self.diary.note(&message, &self.replicas.store);
            self.outbox.push_back(message);
        }
    }

    fn finish(&mut self, done: Done) {
        self.underway = self.underway.saturating_sub(1);
        if self.session.as_ref().is_some_and(|session| session.number == done.session) {
            done.answers.into_iter().for_each(|answer| self.say(answer));
        }
        self.begin();
    }

    /// Chunks have been hashed and are right. A report that has yet to come says so itself.
    fn checked(&mut self, file: FileId, chunks: &[ChunkIndex]) {
        if let Some(file) = self.replicas.store.file(file) {
            holds(&file, chunks, true).for_each(|message| self.say(message));
        }
    }

    /// Chunks have turned out to be wrong.
    fn spoiled(&mut self) {
        let mut files: BTreeMap<FileId, Vec<ChunkIndex>> = BTreeMap::new();
        for (file, index) in self.replicas.store.take_damaged() {
            files.entry(file).or_default().push(index);
        }
        for (file, chunks) in files {
            let free = 0;
            for chunks in chunks.chunks(NAMED_CHUNKS_MAX) {
                let message = VolunteerReport::Spoiled { file, chunks: chunks.to_vec(), free };
                match self.report {
                    Some(_) => self.behind.push(message),
                    None => self.say(message),
                }
            }
            // Without a chunk it is not served any more, and forgotten. That is no order, and nobody is told.
            let (order, here, session) = (Chore::Drop(file, Vec::new()), self.shutdown.clone(), 0);
            self.underway += usize::from(self.outputs.chores.try_send(Job { order, here, session }).is_ok());
        }
    }

    fn drain(&mut self) {
        self.draining = true;
        // Otherwise it is said behind the report.
        if self.report.is_none() {
            self.say(VolunteerReport::Drain);
        }
    }

    /// Says goodbye, so that the tracker need not wait for the lease to end. Nothing else is under way any more.
    fn leave(self, said: &Receiver<SessionEvent>) {
        let Some(session) = &self.session else { return };
        session.here.trigger();
        let deadline = Instant::now() + GOODBYE_TIMEOUT;
        let goodbye = TrackerRequest::Goodbye { token: session.token };
        if session.requests.send_deadline(goodbye, deadline).is_err() {
            return;
        }
        while let Ok(event) = said.recv_deadline(deadline) {
            match event {
                SessionEvent::Said(TrackerResponse::Farewell) | SessionEvent::Lost => return,
                // Orders that come too late.
                _ => {}
            }
        }
        log::debug!("the tracker on {} does not answer a goodbye", self.tracker);
    }
}
