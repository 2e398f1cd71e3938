//! Translates orders of the replication planner into messages, tasks and log lines.
//!
//! Pure. Invariant: each order results in a message, task or log line, except for orders to a volunteer that
//! has left; the planner has been notified of its departure.

use super::{Keeping, LISTED_MAX};
use crate::content::fmt::counted;
use crate::content::{ChunkIndex, FileId, FileName, limits};
use crate::protocol::status::{DropStatus, Status};
use crate::protocol::tracker::TrackerResponse;
use crate::protocol::volunteer::{KeptFile, VolunteerOrder};
use crate::swarm::Moment;
use crate::swarm::keeping::{ExecutorTask, Holder, Location, VolunteerNumber};
use crate::swarm::machine::{ConnectionId, Effect};
use crate::swarm::registry::PeerId;
use crate::swarm::replication::{DropReason, Order};
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

    pub(super) fn name_of_volunteer(&self, number: VolunteerNumber) -> String {
        self.planner.volunteer(number).map_or_else(|| "?".to_owned(), |record| record.name.to_string())
    }

    pub(super) fn address_of(&self, location: Location) -> Option<SocketAddr> {
        match location {
            Location::Tracker => Some(self.serving),
            Location::Volunteer(number) => self.planner.volunteer(number).map(|record| record.address),
        }
    }

    /// The effects that carry out an order.
    pub(super) fn effects(
        &mut self,
        now: Moment,
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
            Order::DropOwn { file, chunks, permit, reason } => {
                let note = self.note_drop(now, None, file, chunks.len(), reason);
                vec![Effect::Note(note), Effect::Task(ExecutorTask::Drop { file, chunks, permit })]
            }
            Order::Drop { at, file, chunks, reason } => {
                let count = chunks.len();
                let message = send(at, VolunteerOrder::Drop { file, chunks });
                let note = message.is_some().then(|| self.note_drop(now, Some(at), file, count, reason));
                message.into_iter().chain(note.map(Effect::Note)).collect()
            }
            Order::Prove { number, file, index, holders } => {
                let holders = holders.into_iter().filter_map(|volunteer| {
                    let record = self.planner.volunteer(volunteer)?;
                    Some(Holder { volunteer, key: record.key, address: record.address })
                });
                let holders = holders.collect();
                vec![Effect::Task(ExecutorTask::ProveCopies { number, file, index, holders })]
            }
            Order::Check { volunteer, file, chunks } => {
                send(volunteer, VolunteerOrder::Check { file, chunks }).into_iter().collect()
            }
            Order::Offload { file, permit } => {
                let Some(kept) = self.files.get(&file).cloned() else { return Vec::new() };
                let count = kept.file.chunks as usize;
                let note = self.note_drop(now, None, file, count, DropReason::Offloaded);
                vec![Effect::Note(note), Effect::Task(ExecutorTask::Offload { kept, permit })]
            }
            Order::Revoke(permit) => vec![Effect::Task(ExecutorTask::Revoke(permit))],
            // Handled by the caller, which answers the commands that wait for it.
            Order::Verified { .. } => Vec::new(),
            Order::Drained { volunteer, left } => {
                let name = self.name_of_volunteer(volunteer);
                let note = match left {
                    0 => format!("{name} is drained and may leave"),
                    left => format!("draining {name}: {} left", counted(left, "chunk")),
                };
                let message = send(volunteer, VolunteerOrder::Draining { left });
                message.into_iter().chain([Effect::Note(note)]).collect()
            }
            order => self.report(order),
        }
    }

    /// The effects of an order to report something.
    fn report(&self, order: Order) -> Vec<Effect> {
        match order {
            Order::Withdraw { file, index } => {
                let name = self.name_of(file);
                let text = format!(
                    "chunk {index} of {name} ({file}) is corrupt in the tracker's own file: it is no longer \
                     offered; `recall {name}` restores it from volunteers once the file is moved away"
                );
                vec![Effect::Error(text), Effect::Task(ExecutorTask::Withdraw(file))]
            }
            Order::Lost { file, chunks, last } => vec![Effect::Warning(self.lost_text(file, &chunks, &last))],
            Order::Note(None, text) => vec![Effect::Note(text)],
            Order::Note(Some(file), text) => vec![Effect::Note(format!("{}: {text}", self.name_of(file)))],
            Order::Warn(text) => vec![Effect::Warning(text)],
            // Carried out above.
            _ => Vec::new(),
        }
    }

    /// Adds a drop order to the log of the status, and returns its log line.
    fn note_drop(
        &mut self,
        now: Moment,
        at: Option<VolunteerNumber>,
        file: FileId,
        chunks: usize,
        reason: DropReason,
    ) -> String {
        let volunteer =
            at.and_then(|number| self.planner.volunteer(number)).map(|record| record.name.clone());
        let name = match (self.files.get(&file), reason) {
            (Some(kept), _) => Some(kept.file.name.clone()),
            // The file was forgotten.
            (None, _) => FileName::new(file.short()).ok(),
        };
        let place = volunteer.as_ref().map_or_else(|| "the tracker".to_owned(), ToString::to_string);
        let text = format!(
            "dropping {} of {} at {place}: {reason}",
            counted(chunks as u64, "chunk"),
            self.name_of(file)
        );
        if let Some(file) = name {
            while self.drops.len() >= limits::STATUS_DROPS_MAX {
                self.drops.pop_front();
            }
            let at_s = self.planner.unix_s(now);
            let (chunks, reason) = (chunks as u64, reason.to_string());
            self.drops.push_back(DropStatus { at_s, file, volunteer, chunks, reason });
        }
        text
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
    pub(super) fn status(&self, now: Moment) -> Status {
        let name = |id| self.files.get(&id).map(|kept: &KeptFile| kept.file.name.clone());
        Status { drops: self.drops.iter().cloned().collect(), ..self.planner.status(now, name) }
    }
}
