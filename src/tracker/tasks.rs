//! Channel of tasks from the state machine to the executor, with the permits of the deletions among them.
//!
//! Invariant: a revocation takes effect when it is announced, however many tasks are queued.

use super::permits::Permits;
use crate::swarm::keeping::ExecutorTask;
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::sync::Arc;

/// The state machine's end of the channel.
pub struct TaskSender {
    tasks: Sender<ExecutorTask>,
    permits: Arc<Permits>,
}

/// The executor's end of the channel.
pub struct TaskReceiver {
    /// The queued tasks, without revocations.
    pub(super) tasks: Receiver<ExecutorTask>,
    /// The permits of all deletions that are queued or running.
    pub(super) permits: Arc<Permits>,
}

/// A channel of tasks. It is unbounded: the machine limits its outstanding tasks itself.
pub fn task_channel() -> (TaskSender, TaskReceiver) {
    let (sender, tasks) = unbounded();
    let permits = Arc::new(Permits::default());
    (TaskSender { tasks: sender, permits: permits.clone() }, TaskReceiver { tasks, permits })
}

impl TaskSender {
    /// Stores the permit of a deletion, or revokes it. To be called once for each task, in the order of the machine's
    /// decisions, before the task is queued and before the reason of the decision is logged.
    pub(super) fn announce(&self, task: &ExecutorTask) {
        match task {
            ExecutorTask::Revoke(permit) => self.permits.revoke(*permit),
            task => self.permits.add(task),
        }
    }

    /// Queues an announced task.
    pub(super) fn queue(&self, task: ExecutorTask) {
        if !matches!(task, ExecutorTask::Revoke(_)) {
            // Fails only when the executor has ended, and then the program ends, too.
            let _ = self.tasks.send(task);
        }
    }
}
