//! Permits of deletions: the machine revokes a permit when the deletion is no longer justified.
//!
//! The state thread stores and revokes permits, the executor checks one immediately before each deletion and removes it
//! with its task. Invariant: only permits of tasks that are queued or running are stored.

use crate::swarm::keeping::ExecutorTask;
use crate::sync::lock;
use std::collections::HashMap;
use std::sync::Mutex;

/// The permits of all deletions that are queued or running.
#[derive(Default)]
pub struct Permits(Mutex<HashMap<u64, Permit>>);

#[derive(Default)]
struct Permit {
    /// Number of tasks with this permit.
    tasks: usize,
    revoked: bool,
}

impl Permits {
    /// Stores the permit of a task, if it has one. To be called before the task is queued.
    pub(super) fn add(&self, task: &ExecutorTask) {
        if let Some(number) = permit_of(task) {
            lock(&self.0).entry(number).or_default().tasks += 1;
        }
    }

    /// Revokes a permit. Has no effect once its tasks have ended.
    pub(super) fn revoke(&self, number: u64) {
        if let Some(permit) = lock(&self.0).get_mut(&number) {
            permit.revoked = true;
        }
    }

    /// Whether a deletion with this permit may be carried out.
    pub(super) fn allows(&self, number: u64) -> bool {
        lock(&self.0).get(&number).is_some_and(|permit| !permit.revoked)
    }

    /// Removes the permit of a task that has ended.
    pub(super) fn remove(&self, number: u64) {
        let mut permits = lock(&self.0);
        if let Some(permit) = permits.get_mut(&number) {
            permit.tasks -= 1;
            if permit.tasks == 0 {
                permits.remove(&number);
            }
        }
    }
}

/// The permit of a task; `None` if the task deletes nothing that needs one.
pub(super) fn permit_of(task: &ExecutorTask) -> Option<u64> {
    match task {
        ExecutorTask::Drop { permit, .. } | ExecutorTask::Offload { permit, .. } => Some(*permit),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::FileId;

    #[test]
    fn a_permit_is_valid_from_the_arrival_of_its_task_to_its_end_unless_revoked() {
        let drop_with = |permit| ExecutorTask::Drop { file: FileId([1; 32]), chunks: Vec::new(), permit };
        let permits = Permits::default();
        permits.revoke(1);
        assert!(!permits.allows(1), "no task has this permit");
        permits.add(&drop_with(1));
        permits.add(&drop_with(2));
        assert!(permits.allows(1), "an earlier revocation belonged to an earlier task");
        permits.revoke(1);
        assert!(!permits.allows(1) && permits.allows(2));
        permits.add(&drop_with(2));
        permits.remove(2);
        assert!(permits.allows(2), "another task has the same permit");
        [1, 2].iter().for_each(|permit| permits.remove(*permit));
        assert!(lock(&permits.0).is_empty());
    }
}
