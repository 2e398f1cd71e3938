//! Translates orders of the replication planner into messages, tasks and log lines.
//!
//! Pure. Invariant: each order results in a message, task or log line, except for orders to a volunteer that
//! has left; the planner has been notified of its departure.

use super::{Keeping, LISTED_MAX};
use crate::content::fmt::counted;
use crate::content::{ChunkIndex, FileId};
use crate::protocol::status::Status;
use crate::protocol::tracker::TrackerResponse;
use crate::protocol::volunteer::{KeptFile, VolunteerOrder};
use crate::swarm::keeping::{ExecutorTask, Location, VolunteerNumber};
use crate::swarm::machine::{ConnectionId, Effect};
use crate::swarm::registry::PeerId;
use crate::swarm::replication::Order;
use std::net::SocketAddr;

/// The message that carries an order to a volunteer.
pub(super) fn message(order: VolunteerOrder) -> TrackerResponse {
    TrackerResponse::Volunteer { order: Box::new(order) }
}

impl Keeping {
    /// The name of a file, or its short id if it is not kept.
    pub(super) fn name_of(&self, file: FileId) -> String {
        self.files.get(&file).map_or_else(|| file.short(), |kept| kept.file.name.to_string())
    }

    fn name_of_volunteer(&self, number: VolunteerNumber) -> String {
        self.planner.volunteer(number).map_or_else(|| "?".to_owned(), |record| record.name.to_string())
    }

    fn address_of(&self, location: Location) -> Option<SocketAddr> {
        match location {
            Location::Tracker => Some(self.serving),
            Location::Volunteer(number) => self.planner.volunteer(number).map(|record| record.address),
        }
    }

    /// Handles a report on a file that is not in the catalogue. The file is ignored unless `rebuild` is set.
    pub(super) fn unknown_file(
        &mut self,
        number: VolunteerNumber,
        kept: KeptFile,
        held: Vec<ChunkIndex>,
        checked: bool,
    ) -> Option<Effect> {
        let (id, name) = (kept.file.id, kept.file.name.clone());
        if !self.rebuild {
            let holder = self.name_of_volunteer(number);
            let text = format!(
                "{holder} holds chunks of {name} ({id}), which this tracker does not keep; --rebuild adds such files"
            );
            return self.reported_unknown.insert(id).then_some(Effect::Note(text));
        }
        let from = self.address_of(Location::Volunteer(number))?;
        let reports = self.adopting.entry(id).or_default();
        reports.push((number, held, checked));
        (reports.len() == 1).then_some(Effect::Task(ExecutorTask::Adopt { kept, from }))
    }

    /// The effects that carry out an order.
    pub(super) fn effects(
        &self,
        order: Order,
        connection: impl Fn(PeerId) -> Option<ConnectionId>,
    ) -> Vec<Effect> {
        let send = |number: VolunteerNumber, order: VolunteerOrder| {
            let connection = self.sessions.get(&number).and_then(|peer| connection(*peer));
            connection.map(|connection| Effect::Push(connection, message(order)))
        };
        match order {
            Order::Copy { file, index, from, to } => {
                let (Some(kept), Some(from)) = (self.files.get(&file).cloned(), self.address_of(from)) else {
                    return Vec::new();
                };
                let effect = match to {
                    Location::Tracker => Some(Effect::Task(ExecutorTask::Download { kept, index, from })),
                    Location::Volunteer(number) => send(number, VolunteerOrder::Copy { kept, index, from }),
                };
                effect.into_iter().collect()
            }
            Order::Drop { at: Location::Tracker, file, chunks } => {
                vec![Effect::Task(ExecutorTask::Drop { file, chunks, permit: 0 })]
            }
            Order::Drop { at: Location::Volunteer(number), file, chunks } => {
                let parts = chunks.chunks(crate::content::limits::NAMED_CHUNKS_MAX);
                parts
                    .filter_map(|part| send(number, VolunteerOrder::Drop { file, chunks: part.to_vec() }))
                    .collect()
            }
            Order::Challenge { number: challenge, range, to } => {
                let challenge_at = |location| match location {
                    Location::Tracker => Some(Effect::Task(ExecutorTask::Prove { challenge, range })),
                    Location::Volunteer(number) => {
                        send(number, VolunteerOrder::Challenge { challenge, range })
                    }
                };
                to.into_iter().filter_map(challenge_at).collect()
            }
            Order::Audit { file, index, at } => {
                let from = self.address_of(Location::Volunteer(at));
                let task =
                    from.map(|from| Effect::Task(ExecutorTask::Audit { volunteer: at, from, file, index }));
                task.into_iter().collect()
            }
            Order::Offload { file } => {
                let kept = self.files.get(&file).cloned();
                kept.map(|kept| Effect::Task(ExecutorTask::Offload { kept, permit: 0 })).into_iter().collect()
            }
            Order::Drained { volunteer, left } => {
                let name = self.name_of_volunteer(volunteer);
                let note = match left {
                    0 => format!("{name} is drained and may leave"),
                    left => format!("draining {name}: {} left", counted(left, "chunk")),
                };
                let message = send(volunteer, VolunteerOrder::Draining { left });
                message.into_iter().chain([Effect::Note(note)]).collect()
            }
            Order::Lost { file, chunks, last } => vec![Effect::Warning(self.lost_text(file, &chunks, &last))],
            Order::Note(None, text) => vec![Effect::Note(text)],
            Order::Note(Some(file), text) => vec![Effect::Note(format!("{}: {text}", self.name_of(file)))],
        }
    }

    /// The log line for lost chunks.
    fn lost_text(&self, file: FileId, chunks: &[ChunkIndex], last: &[VolunteerNumber]) -> String {
        let list = |names: Vec<String>, all: usize| match all.saturating_sub(LISTED_MAX) {
            0 => names.join(", "),
            more => format!("{} and {more} more", names.join(", ")),
        };
        let numbers = chunks.iter().take(LISTED_MAX).map(ToString::to_string).collect();
        let holders = last.iter().take(LISTED_MAX).map(|number| self.name_of_volunteer(*number)).collect();
        let holders = match last.is_empty() {
            true => "last holders unknown".to_owned(),
            false => format!("last held by {}", list(holders, last.len())),
        };
        format!(
            "LOST: {} of {} ({file}): {}; {holders}. A returning holder restores them",
            counted(chunks.len() as u64, "chunk"),
            self.name_of(file),
            list(numbers, chunks.len())
        )
    }

    /// Status of volunteers and files.
    pub(super) fn status(&self) -> Status {
        self.planner.status(|id| self.files.get(&id).map(|kept| kept.file.name.clone()))
    }
}
