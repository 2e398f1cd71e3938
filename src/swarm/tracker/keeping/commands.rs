//! Commands of the operator at the prompt of a tracker that keeps files.

use super::Tracker;
use crate::content::FileId;
use crate::swarm::Moment;
use crate::swarm::keeping::{Answer, Command, ExecutorTask, Wanted};
use crate::swarm::machine::Effect;
use std::sync::Arc;

impl Tracker {
    /// Carries out a command of the operator.
    pub(super) fn carry_out(&mut self, now: Moment, command: Command) -> Answer {
        let Some(keeping) = &mut self.keeping else {
            return Answer::Refused("this tracker keeps no files".into());
        };
        match command {
            Command::Status => Answer::Status(Arc::new(keeping.status(now))),
            Command::Pause(on) => {
                keeping.planner.pause(now, on);
                let text =
                    if on { "repair is paused; `repair resume` continues it" } else { "repair is resumed" };
                Answer::Done(text.into())
            }
            Command::Drain(name, on) => {
                let volunteers = keeping.planner.volunteers_named(&name);
                let [volunteer] = volunteers[..] else {
                    return Answer::Refused(match volunteers.len() {
                        0 => format!("no volunteer is named {name}"),
                        several => format!("{several} volunteers are named {name}"),
                    });
                };
                keeping.planner.drain(now, volunteer, on);
                Answer::Done(match on {
                    true => format!("draining {name}; the log reports when it may leave"),
                    false => format!("drain of {name} cancelled"),
                })
            }
            Command::Forget(wanted) => self.forget(now, &wanted),
        }
    }

    /// Stops keeping a file.
    fn forget(&mut self, now: Moment, wanted: &Wanted) -> Answer {
        let Some(keeping) = &mut self.keeping else {
            return Answer::Refused("this tracker keeps no files".into());
        };
        let ids: Vec<FileId> = match wanted {
            Wanted::Id(id) => keeping.files.get(id).map(|kept| kept.file.id).into_iter().collect(),
            Wanted::Name(name) => {
                let named = keeping.files.values().filter(|kept| kept.file.name == *name);
                named.map(|kept| kept.file.id).collect()
            }
        };
        let [id] = ids[..] else {
            return Answer::Refused(match ids.len() {
                0 => "no such file is kept".into(),
                several => format!("{several} files have this name; give the id of one of them"),
            });
        };
        keeping.planner.forget(now, id);
        let name = keeping.name_of(id);
        keeping.files.remove(&id);
        self.peers.registry.retract(keeping.own, id);
        self.effects.push(Effect::Task(ExecutorTask::Forget(id)));
        Answer::Done(format!("{name} is forgotten; its copies at volunteers are dropped"))
    }
}
