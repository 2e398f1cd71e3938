//! Registrations of a leecher: at the tracker of the user, and at the trackers of tickets that answer.

use crate::download::ticket_finder::{AnsweredTrackers, TicketTrackers};
use crate::net::{Endpoint, Shutdown, Threads};
use crate::protocol::tracker::Token;
use crate::sync::lock;
use crate::tracker_client::announcer::{AnnounceTarget, Announcer};
use crate::tracker_client::presence::{Presence, SHARED_FILES};
use crate::upload::offers::Offers;
use crossbeam_channel::bounded;
use std::sync::{Arc, Mutex};

/// Starts the registration at a tracker.
pub(super) struct Registrar {
    pub presence: Presence,
    pub offers: Offers,
    pub threads: Threads,
    pub shutdown: Shutdown,
}

/// Registrations of this leecher, at most one for each tracker. Clones share them.
#[derive(Clone)]
pub(super) struct Registrations(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// `None` until this leecher serves.
    registrar: Option<Registrar>,
    /// The tracker of the user.
    own: Option<Endpoint>,
    /// Trackers at which it registers when it serves.
    wanted: Vec<Endpoint>,
    running: Vec<Running>,
}

struct Running {
    tracker: Endpoint,
    announcer: Announcer,
    /// Ends this registration only.
    shutdown: Shutdown,
}

impl Registrations {
    /// Registrations, at first at the tracker of the user only.
    pub fn new(own: Option<Endpoint>) -> Self {
        let wanted = own.iter().cloned().collect();
        Self(Arc::new(Mutex::new(State { own, wanted, ..State::default() })))
    }

    /// Registers at all trackers that were added, and at those that are added later.
    pub fn start(&self, registrar: Registrar) {
        let mut state = lock(&self.0);
        state.registrar = Some(registrar);
        for tracker in std::mem::take(&mut state.wanted) {
            state.register(tracker);
        }
    }

    /// Registers at a tracker. A registration at another of its `addresses` ends.
    pub fn add(&self, tracker: &Endpoint, addresses: &[Endpoint]) {
        let mut state = lock(&self.0);
        if state.running.iter().any(|running| running.tracker == *tracker) || state.wanted.contains(tracker) {
            return;
        }
        state.wanted.retain(|other| !addresses.contains(other));
        state.running.retain(|running| {
            let stays = !addresses.contains(&running.tracker);
            if !stays {
                running.shutdown.trigger();
            }
            stays
        });
        state.register(tracker.clone());
    }

    /// The token of the registration at a tracker.
    pub fn token(&self, tracker: &Endpoint) -> Option<Token> {
        let state = lock(&self.0);
        state.running.iter().find(|running| running.tracker == *tracker)?.announcer.token()
    }

    /// Announces changed offers now.
    pub fn nudge(&self) {
        lock(&self.0).running.iter().for_each(|running| running.announcer.nudge());
    }
}

impl State {
    fn register(&mut self, tracker: Endpoint) {
        let Some(registrar) = &self.registrar else { return self.wanted.push(tracker) };
        let Registrar { presence, offers, threads, shutdown } = registrar;
        let shutdown = shutdown.child();
        let (presence, offers) = (presence.clone(), offers.clone());
        let is_of_ticket = self.own.as_ref() != Some(&tracker);
        // No timeout: an unreachable tracker does not end a download in progress.
        let target =
            AnnounceTarget { is_of_ticket, ..AnnounceTarget::new(tracker.clone(), SHARED_FILES, None) };
        let (failures, _) = bounded(1);
        match Announcer::start_at(target, presence, offers, failures, threads, &shutdown) {
            Ok(announcer) => self.running.push(Running { tracker, announcer, shutdown }),
            Err(error) => log::warn!("not registered with the tracker on {tracker}: {error}"),
        }
    }
}

/// The trackers that know one file: this peer registers there, and reports the completion of the file to them.
pub(super) struct FileTrackers {
    registrations: Registrations,
    answered: AnsweredTrackers,
}

impl FileTrackers {
    /// No tracker has answered yet.
    pub fn new(registrations: Registrations) -> Self {
        Self { registrations, answered: AnsweredTrackers::default() }
    }

    /// The trackers that have answered.
    pub fn list(&self) -> Vec<Endpoint> {
        self.answered.list()
    }
}

impl TicketTrackers for FileTrackers {
    fn token(&self, tracker: &Endpoint) -> Option<Token> {
        self.registrations.token(tracker)
    }

    fn answered(&self, tracker: &Endpoint, addresses: &[Endpoint]) {
        self.answered.answered(tracker, addresses);
        self.registrations.add(tracker, addresses);
    }
}
