//! Commands to the state machine of a running tracker, and their answers.
//!
//! Prompt and control socket use it at the same time. Invariant: an answer is delivered to the sender of its command
//! only.

use crate::swarm::command::{Answer, Command};
use crate::swarm::keeping::TaskOutcome;
use crate::sync::lock;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Receivers of answers, by the number of their command. Clones share them.
#[derive(Clone, Default)]
pub struct Answers(Arc<Mutex<HashMap<u64, Sender<Answer>>>>);

impl Answers {
    /// Delivers the answer to a command. It is lost if its sender does not wait any more.
    pub fn deliver(&self, number: u64, answer: Answer) {
        if let Some(receiver) = lock(&self.0).remove(&number) {
            let _ = receiver.try_send(answer);
        }
    }
}

/// Sends commands to the state machine. Clones are for the same machine.
#[derive(Clone)]
pub struct Commands {
    /// Commands reach the machine through the channel of task outcomes.
    outcomes: Sender<TaskOutcome>,
    answers: Answers,
    /// Number of the next command.
    next: Arc<AtomicU64>,
}

impl Commands {
    /// Commands that are sent over this channel.
    pub fn new(outcomes: Sender<TaskOutcome>) -> Self {
        Self { outcomes, answers: Answers::default(), next: Arc::default() }
    }

    /// The receivers of the answers, for the server of the machine.
    pub fn answers(&self) -> Answers {
        self.answers.clone()
    }

    /// Sends a command. The channel receives its answer; it closes without one if the tracker is shutting down.
    pub fn send(&self, command: Command) -> Receiver<Answer> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = bounded(1);
        lock(&self.answers.0).insert(number, sender);
        if self.outcomes.send(TaskOutcome::Command(number, command)).is_err() {
            lock(&self.answers.0).remove(&number);
        }
        receiver
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::unbounded;

    #[test]
    fn each_command_gets_its_own_answer_in_any_order() {
        let (outcomes, machine) = unbounded();
        let commands = Commands::new(outcomes);
        let (first, second) = (commands.send(Command::Status), commands.send(Command::Peers));
        let numbers: Vec<u64> = machine
            .try_iter()
            .map(|outcome| match outcome {
                TaskOutcome::Command(number, _) => number,
                other => panic!("{other:?}"),
            })
            .collect();
        commands.answers().deliver(numbers[1], Answer::done("second"));
        commands.answers().deliver(numbers[0], Answer::done("first"));
        commands.answers().deliver(numbers[0], Answer::done("again"));
        assert_eq!((first.recv(), second.recv()), (Ok(Answer::done("first")), Ok(Answer::done("second"))));
        drop(machine);
        assert!(commands.send(Command::Status).recv().is_err(), "the machine has ended");
    }
}
