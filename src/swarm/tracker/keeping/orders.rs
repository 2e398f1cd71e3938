//! How decisions of [`Placement`](crate::swarm::placement::Placement) become messages, tasks and log lines.
//!
//! Pure. Invariant: every order becomes something that somebody is told, or it is to a volunteer that has left, whose
//! leaving [`Placement`](crate::swarm::placement::Placement) has been told of.

use super::{Keeping, NAMED};
use crate::content::fmt::counted;
use crate::content::{ChunkIndex, FileId};
use crate::protocol::status::Status;
use crate::protocol::tracker::TrackerResponse;
use crate::protocol::volunteer::{KeptFile, VolunteerOrder};
use crate::swarm::keeping::{Place, Task, VolunteerNumber};
use crate::swarm::machine::{ConnectionId, Effect};
use crate::swarm::placement::Order;
use crate::swarm::registry::PeerId;
use std::net::SocketAddr;

/// A message to a volunteer.
pub(super) fn message(order: VolunteerOrder) -> TrackerResponse {
    TrackerResponse::Volunteer { order: Box::new(order) }
}

impl Keeping {
    /// What a file is called; its id, when it is not kept here.
    pub(super) fn name_of(&self, file: FileId) -> String {
        self.files.get(&file).map_or_else(|| file.short(), |kept| kept.file.name.to_string())
    }

    fn name_of_volunteer(&self, number: VolunteerNumber) -> String {
        self.placement.volunteer(number).map_or_else(|| "?".to_owned(), |record| record.name.to_string())
    }

    fn address_of(&self, place: Place) -> Option<SocketAddr> {
        match place {
            Place::Tracker => Some(self.serving),
            Place::Volunteer(number) => self.placement.volunteer(number).map(|record| record.address),
        }
    }

    /// A volunteer holds chunks of a file that is not kept here. They are left alone, unless they are to be taken in.
    pub(super) fn stranger(
        &mut self,
        number: VolunteerNumber,
        kept: KeptFile,
        held: Vec<ChunkIndex>,
        checked: bool,
    ) -> Option<Effect> {
        let (id, name) = (kept.file.id, kept.file.name.clone());
        if !self.rebuild {
            let who = self.name_of_volunteer(number);
            let text = format!(
                "{who} holds chunks of {name} ({id}), which is not kept here; --rebuild would take it in"
            );
            return self.strangers.insert(id).then_some(Effect::Note(text));
        }
        let from = self.address_of(Place::Volunteer(number))?;
        let reports = self.adopting.entry(id).or_default();
        reports.push((number, held, checked));
        (reports.len() == 1).then_some(Effect::Task(Task::Adopt { kept, from }))
    }

    /// What an order means.
    pub(super) fn effects(
        &self,
        order: Order,
        connection: impl Fn(PeerId) -> Option<ConnectionId>,
    ) -> Vec<Effect> {
        let tell = |number: VolunteerNumber, order: VolunteerOrder| {
            let connection = self.sessions.get(&number).and_then(|peer| connection(*peer));
            connection.map(|connection| Effect::Push(connection, message(order)))
        };
        match order {
            Order::Copy { file, index, from, to } => {
                let (Some(kept), Some(from)) = (self.files.get(&file).cloned(), self.address_of(from)) else {
                    return Vec::new();
                };
                let effect = match to {
                    Place::Tracker => Some(Effect::Task(Task::Fetch { kept, index, from })),
                    Place::Volunteer(number) => tell(number, VolunteerOrder::Copy { kept, index, from }),
                };
                effect.into_iter().collect()
            }
            Order::Drop { at: Place::Tracker, file, chunks } => {
                vec![Effect::Task(Task::Drop { file, chunks })]
            }
            Order::Drop { at: Place::Volunteer(number), file, chunks } => {
                let parts = chunks.chunks(crate::content::limits::NAMED_CHUNKS_MAX);
                parts
                    .filter_map(|part| tell(number, VolunteerOrder::Drop { file, chunks: part.to_vec() }))
                    .collect()
            }
            Order::Challenge { number: challenge, range, to } => {
                let ask = |place| match place {
                    Place::Tracker => Some(Effect::Task(Task::Prove { challenge, range })),
                    Place::Volunteer(number) => tell(number, VolunteerOrder::Challenge { challenge, range }),
                };
                to.into_iter().filter_map(ask).collect()
            }
            Order::Audit { file, index, at } => {
                let from = self.address_of(Place::Volunteer(at));
                let task = from.map(|from| Effect::Task(Task::Audit { volunteer: at, from, file, index }));
                task.into_iter().collect()
            }
            Order::Offload { file } => {
                let kept = self.files.get(&file).cloned();
                kept.map(|kept| Effect::Task(Task::Offload(kept))).into_iter().collect()
            }
            Order::Drained { volunteer, left } => {
                let name = self.name_of_volunteer(volunteer);
                let note = match left {
                    0 => format!("{name} may leave: nothing depends on what it holds"),
                    left => format!("{name} is being emptied, {} to go", counted(left, "chunk")),
                };
                let told = tell(volunteer, VolunteerOrder::Draining { left });
                told.into_iter().chain([Effect::Note(note)]).collect()
            }
            Order::Lost { file, chunks, last } => vec![Effect::Warning(self.loss(file, &chunks, &last))],
            Order::Note(None, text) => vec![Effect::Note(text)],
            Order::Note(Some(file), text) => vec![Effect::Note(format!("{}: {text}", self.name_of(file)))],
        }
    }

    /// What is lost, in words.
    fn loss(&self, file: FileId, chunks: &[ChunkIndex], last: &[VolunteerNumber]) -> String {
        let some = |names: Vec<String>, all: usize| match all.saturating_sub(NAMED) {
            0 => names.join(", "),
            more => format!("{} and {more} more", names.join(", ")),
        };
        let numbers = chunks.iter().take(NAMED).map(ToString::to_string).collect();
        let holders = last.iter().take(NAMED).map(|number| self.name_of_volunteer(*number)).collect();
        let holders = match last.is_empty() {
            true => "nobody is known to have held them".to_owned(),
            false => format!("last held by {}", some(holders, last.len())),
        };
        format!(
            "LOST: {} of {} ({file}): {}; {holders}. They are back when a holder comes back",
            counted(chunks.len() as u64, "chunk"),
            self.name_of(file),
            some(numbers, chunks.len())
        )
    }

    /// How volunteers and files are.
    pub(super) fn status(&self) -> Status {
        self.placement.status(|id| self.files.get(&id).map(|kept| kept.file.name.clone()))
    }
}
