//! Passes events to a server's state machine and carries out its effects.

use super::connections::{Connection, Outgoing};
use super::datagrams::{DatagramRequest, Replies};
use super::dial_back::DialQueue;
use super::udp_socket::Sender;
use super::{Event, ExecutorChannels};
use crate::content::limits;
use crate::protocol::ErrorCode;
use crate::protocol::tracker::{TrackerRequest, TrackerResponse};
use crate::report::events::{self, PeerState};
use crate::swarm::Moment;
use crate::swarm::keeping::TaskOutcome;
use crate::swarm::line_limit::{LineKind, LineLimit};
use crate::swarm::machine::{ConnectionId, Effect, Machine, Origin, PeerChange};
use crate::swarm::reach::DialResult;
use crate::sync::RunningClock;
use log::Level;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// Maximum time that the state thread sleeps: the clock must be read often to detect a pause of the process.
const IDLE: Duration = Duration::from_secs(1);

/// A machine, with the sockets and channels for its effects.
pub(super) struct State<M> {
    machine: M,
    replies: Replies,
    channels: ExecutorChannels,
    dials: DialQueue,
    connections: HashMap<ConnectionId, Connection>,
    /// Read under the lock of the machine only, because the datagram thread reads it, too.
    clock: RunningClock,
    /// Time at which the state thread wakes up for the next tick.
    wakes: Moment,
    /// Level of the log lines about peers.
    note_level: Level,
    /// Effects of a batch of datagrams; reused, so that a batch needs no allocation.
    effects: Vec<Effect>,
    /// For each request of a batch, the number of effects up to it, its sender and the kind of its log lines; reused as well.
    batch: Vec<(usize, Sender, LineKind)>,
    /// Limit on the log lines that other hosts cause.
    lines: LineLimit,
    /// The source address that causes the log lines of the present effects, and their kind; `None` for this program.
    cause: Option<(IpAddr, LineKind)>,
    /// Whether the last limited log line was within the limit.
    was_allowed: bool,
}

impl<M: Machine> State<M> {
    pub(super) fn new(machine: M, replies: Replies, channels: ExecutorChannels, dials: DialQueue) -> Self {
        Self {
            machine,
            replies,
            channels,
            dials,
            connections: HashMap::new(),
            clock: RunningClock::new(),
            wakes: Moment::ZERO,
            note_level: Level::Info,
            effects: Vec::new(),
            batch: Vec::new(),
            lines: LineLimit::default(),
            cause: None,
            was_allowed: true,
        }
    }

    /// Sets the level of the log lines about peers.
    pub(super) fn with_note_level(self, note_level: Level) -> Self {
        Self { note_level, ..self }
    }

    /// Time without the pauses of this process: a peer must not lose its lease because the tracker was stopped.
    fn now(&mut self) -> Moment {
        let now = self.clock.now();
        let paused = self.clock.take_paused();
        if !paused.is_zero() {
            log::info!("was stopped for {} s; all leases are extended", paused.as_secs());
        }
        now
    }

    /// Time until the next tick; the state thread may sleep for this time.
    pub(super) fn time_to_tick(&mut self) -> Duration {
        let now = self.now();
        self.wakes = self.machine.next_tick().unwrap_or(Moment::MAX).min(now + IDLE);
        self.wakes.saturating_sub(now)
    }

    /// Whether the next tick is earlier than the tick for which the state thread sleeps.
    pub(super) fn is_tick_moved_forward(&self) -> bool {
        self.machine.next_tick().is_some_and(|due| due < self.wakes)
    }

    /// Carries out all timers that have expired.
    pub(super) fn tick(&mut self) {
        let now = self.now();
        let effects = self.machine.tick(now);
        self.apply(effects);
        for suppressed in self.lines.end_intervals(now) {
            log::warn!("{suppressed}");
        }
    }

    /// Processes a batch of datagrams and leaves it empty.
    ///
    /// A batch is small enough not to delay the end of a lease.
    pub(super) fn answer(&mut self, batch: &mut Vec<DatagramRequest>) {
        let now = self.now();
        let mut effects = std::mem::take(&mut self.effects);
        batch.iter().for_each(|(_, _, request)| self.machine.prefetch(request));
        // All requests are processed before the first response is sent: system calls in between would evict the caches.
        for (from, tx, request) in batch.drain(..) {
            let kind = LineKind::of(&request);
            effects.extend(self.machine.request(now, Origin::Datagram(from.address, tx), request));
            self.batch.push((effects.len(), from, kind));
        }
        self.announce(&effects);
        let mut senders = std::mem::take(&mut self.batch);
        let mut senders_left = senders.iter().peekable();
        for (number, effect) in effects.drain(..).enumerate() {
            while senders_left.next_if(|(end, ..)| *end <= number).is_some() {}
            self.cause = senders_left.peek().map(|(_, from, kind)| (from.address.ip(), *kind));
            match effect {
                // A response leaves from the address to which its request was sent.
                Effect::Reply(Origin::Datagram(to, tx), response) => {
                    let from = senders_left.peek().filter(|(_, from, _)| from.address == to);
                    let (local, socket) = from.map_or((None, 0), |(_, from, _)| (from.local, from.socket));
                    self.replies.send(Sender { address: to, local, socket }, tx, response);
                }
                effect => self.carry_out(effect),
            }
        }
        senders.clear();
        self.cause = None;
        (self.effects, self.batch) = (effects, senders);
    }

    /// Processes the outcome of a task or a command.
    pub(super) fn handle_outcome(&mut self, outcome: TaskOutcome) {
        let now = self.now();
        let effects = self.machine.task_outcome(now, outcome);
        self.apply(effects);
    }

    /// Processes the result of dialling a peer.
    pub(super) fn handle_dialled(&mut self, result: DialResult) {
        let now = self.now();
        let effects = self.machine.dialled(now, result);
        self.apply(effects);
    }

    /// Processes an event of a connection.
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
                let origin = Origin::Connection(id, from.ip());
                self.cause = Some((from.ip(), LineKind::of(&request)));
                let is_local = || self.connections.get(&id).is_some_and(Connection::is_local);
                match request {
                    TrackerRequest::Status if !is_local() => {
                        let text = "the status is available only on the host of this program";
                        let refusal =
                            TrackerResponse::Error { code: ErrorCode::Refused, text: text.to_owned() };
                        vec![Effect::Reply(origin, refusal)]
                    }
                    request => self.machine.request(now, origin, request),
                }
            }
            Event::Closed(id) => {
                self.connections.remove(&id);
                self.machine.closed(now, id)
            }
        };
        self.apply(effects);
        self.cause = None;
    }

    /// Announces the tasks among the effects: a deletion is revoked before its reason is logged.
    fn announce(&self, effects: &[Effect]) {
        for effect in effects {
            if let Effect::Task(task) = effect {
                self.channels.tasks.announce(task);
            }
        }
    }

    fn apply(&mut self, effects: Vec<Effect>) {
        self.announce(&effects);
        effects.into_iter().for_each(|effect| self.carry_out(effect));
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Reply(Origin::Datagram(address, tx), response) => {
                self.replies.send(Sender { address, local: None, socket: 0 }, tx, response);
            }
            Effect::Reply(Origin::Connection(id, _), response) | Effect::Push(id, response) => {
                self.send(id, (response, None));
            }
            Effect::PushWith(id, response, payload) => self.send(id, (response, Some(payload))),
            Effect::Event(line) if self.allows_line(self.cause) => {
                log::info!(target: limits::EVENT_TARGET, "{line}");
            }
            Effect::Note(text) if self.allows_line(self.cause) => log::log!(self.note_level, "{text}"),
            Effect::Departure(source, text) if self.allows_line(Some((source, LineKind::Departures))) => {
                log::log!(self.note_level, "{text}");
            }
            Effect::Event(_) | Effect::Note(_) | Effect::Departure(..) => {}
            Effect::Peer(change) => self.report_peer(change),
            Effect::Warning(text) => log::warn!("{text}"),
            Effect::Error(text) => log::error!("{text}"),
            Effect::Task(task) => self.channels.tasks.queue(task),
            Effect::DialBack(order) => self.dials.push(order),
            Effect::Answer(number, answer) => self.channels.answers.deliver(number, answer),
        }
    }

    fn allows_line(&mut self, cause: Option<(IpAddr, LineKind)>) -> bool {
        let now = self.clock.now();
        self.was_allowed = cause.is_none_or(|(source, kind)| self.lines.allow(now, source, kind));
        self.was_allowed
    }

    /// Reports a peer to other programs, within the limit on log lines.
    fn report_peer(&self, change: PeerChange) {
        if self.was_allowed && self.note_level == Level::Info {
            let state = if change.has_joined { PeerState::Joined } else { PeerState::Left };
            events::peer(&change.name, change.address.into(), state);
        }
    }

    fn send(&mut self, id: ConnectionId, outgoing: Outgoing) {
        if let Some(connection) = self.connections.get(&id)
            && !connection.send(outgoing)
        {
            // The connection was closed; its reader reports `Event::Closed` when it ends.
            self.connections.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::udp_socket::ServerSockets;
    use super::*;
    use crate::content::FileId;
    use crate::net::{Shutdown, Threads};
    use crate::protocol::tracker::TrackerRequest;
    use crate::swarm::keeping::ExecutorTask;
    use crate::tracker::commands::Answers;
    use crate::tracker::tasks::task_channel;
    use std::net::UdpSocket;

    /// Orders two deletions at the first outcome and revokes the first of them at the second outcome.
    struct Revoking(u32);

    impl Machine for Revoking {
        fn request(&mut self, _: Moment, _: Origin, _: TrackerRequest) -> Vec<Effect> {
            Vec::new()
        }
        fn closed(&mut self, _: Moment, _: ConnectionId) -> Vec<Effect> {
            Vec::new()
        }
        fn task_outcome(&mut self, _: Moment, _: TaskOutcome) -> Vec<Effect> {
            self.0 += 1;
            let drop_with = |permit| {
                Effect::Task(ExecutorTask::Drop { file: FileId([1; 32]), chunks: Vec::new(), permit })
            };
            match self.0 {
                1 => vec![drop_with(1), drop_with(2)],
                _ => vec![Effect::Note("v1 is away".to_owned()), Effect::Task(ExecutorTask::Revoke(1))],
            }
        }
        fn tick(&mut self, _: Moment) -> Vec<Effect> {
            Vec::new()
        }
        fn next_tick(&self) -> Option<Moment> {
            None
        }
    }

    #[test]
    fn a_revocation_takes_effect_while_all_earlier_tasks_are_still_queued() {
        let (threads, shutdown) = (Threads::new(), Shutdown::new());
        let (tasks, queued) = task_channel();
        let outcomes = crossbeam_channel::never();
        let channels = ExecutorChannels { tasks, answers: Answers::default(), outcomes };
        let sockets = ServerSockets::default();
        sockets.add(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        let (dials, _dialled) = DialQueue::start(&threads, &shutdown).unwrap();
        let mut state = State::new(Revoking(0), Replies::new(sockets), channels, dials);
        state.handle_outcome(TaskOutcome::ScanComplete);
        assert!(queued.permits.allows(1) && queued.permits.allows(2));
        state.handle_outcome(TaskOutcome::ScanComplete);
        assert!(!queued.permits.allows(1) && queued.permits.allows(2));
        assert_eq!(queued.tasks.len(), 2, "a revocation is not queued behind other tasks");
        shutdown.trigger();
        threads.join();
    }
}
