//! What a hub's machine decides on, and what is done with what it decides.

use super::connections::{Connection, Outgoing};
use super::datagrams::{Question, Replies};
use super::{Event, ExecutorChannels};
use crate::content::limits;
use crate::swarm::Moment;
use crate::swarm::keeping::News;
use crate::swarm::machine::{ConnectionId, Effect, Machine, Origin};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The longest the state thread sleeps.
const IDLE: Duration = Duration::from_secs(3600);

/// A machine, with what its effects need.
pub(super) struct State<M> {
    machine: M,
    replies: Replies,
    hands: ExecutorChannels,
    connections: HashMap<ConnectionId, Connection>,
    started: Instant,
    /// When the state thread wakes by itself.
    wakes: Moment,
    /// What was decided on a batch of datagrams, kept for its room.
    effects: Vec<Effect>,
}

impl<M: Machine> State<M> {
    pub(super) fn new(machine: M, replies: Replies, hands: ExecutorChannels) -> Self {
        let (connections, started) = (HashMap::new(), Instant::now());
        Self { machine, replies, hands, connections, started, wakes: Moment::ZERO, effects: Vec::new() }
    }

    fn now(&self) -> Moment {
        self.started.elapsed()
    }

    /// How long the state thread may sleep.
    pub(super) fn rest(&mut self) -> Duration {
        let now = self.now();
        self.wakes = self.machine.next_tick().unwrap_or(Moment::MAX).min(now + IDLE);
        self.wakes.saturating_sub(now)
    }

    /// Whether there is something to do before the state thread wakes by itself.
    pub(super) fn is_due_before_known(&self) -> bool {
        self.machine.next_tick().is_some_and(|due| due < self.wakes)
    }

    /// Does what the time that has passed asks for.
    pub(super) fn tick(&mut self) {
        let effects = self.machine.tick(self.now());
        self.apply(effects);
    }

    /// Answers a batch of datagrams: so few that no lease that ends meanwhile is missed. Leaves it empty.
    pub(super) fn answer(&mut self, batch: &mut Vec<Question>) {
        let now = self.now();
        let mut effects = std::mem::take(&mut self.effects);
        batch.iter().for_each(|(_, _, request)| self.machine.prefetch(request));
        // All are decided on before the first answer is sent: between two system calls the processor forgets.
        for (from, tx, request) in batch.drain(..) {
            effects.extend(self.machine.request(now, Origin::Datagram(from, tx), request));
        }
        effects.drain(..).for_each(|effect| self.carry_out(effect));
        self.effects = effects;
    }

    /// A task is done, or a person wants something.
    pub(super) fn hear(&mut self, news: News) {
        let effects = self.machine.news(self.now(), news);
        self.apply(effects);
    }

    /// Something has happened to a connection.
    pub(super) fn handle(&mut self, event: Event) {
        let now = self.now();
        let effects = match event {
            Event::Opened(id, connection) => {
                self.connections.insert(id, connection);
                return;
            }
            Event::Request(id, from, request) => {
                if let Some(connection) = self.connections.get(&id) {
                    connection.handled();
                }
                self.machine.request(now, Origin::Connection(id, from.ip()), request)
            }
            Event::Closed(id) => {
                self.connections.remove(&id);
                self.machine.closed(now, id)
            }
        };
        self.apply(effects);
    }

    fn apply(&mut self, effects: Vec<Effect>) {
        effects.into_iter().for_each(|effect| self.carry_out(effect));
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Reply(Origin::Datagram(to, tx), response) => self.replies.send(to, tx, response),
            Effect::Reply(Origin::Connection(id, _), response) | Effect::Push(id, response) => {
                self.send(id, (response, None));
            }
            Effect::PushWith(id, response, payload) => self.send(id, (response, Some(payload))),
            Effect::Event(line) => log::info!(target: limits::EVENT_TARGET, "{line}"),
            Effect::Note(text) => log::info!("{text}"),
            Effect::Warning(text) => log::warn!("{text}"),
            // Whoever would carry it out has ended, and so will this.
            Effect::Task(task) => _ = self.hands.tasks.send(task),
            Effect::Answer(number, answer) => _ = self.hands.answers.send((number, answer)),
        }
    }

    fn send(&mut self, id: ConnectionId, outgoing: Outgoing) {
        if let Some(connection) = self.connections.get(&id)
            && !connection.send(outgoing)
        {
            // Its reader ends now and reports it closed.
            self.connections.remove(&id);
        }
    }
}
