//! Order of tasks: shared and exclusive tasks of each file.
//!
//! Pure. Invariants: tasks of one file that only read or add run concurrently (shared); any other task (exclusive)
//! waits for all earlier tasks of its file and runs alone; the tasks of a file start in the order in which they were
//! pushed. Proofs are not part of this order: a stalled holder delays no deletion and no download.

use crate::content::FileId;
use crate::swarm::keeping::ExecutorTask;
use std::collections::{HashMap, VecDeque};

/// Resource that a task needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A connection to another host, which may stall.
    Remote,
    /// Only the own disk.
    Local,
    /// Connections to the holders of a chunk.
    Proof,
    /// Connections to volunteers, for as long as the download of a whole file takes.
    Recall,
}

/// Number of kinds.
const KINDS_COUNT: usize = Kind::Recall as usize + 1;

/// The file in whose order a task is carried out; `None` for a task that waits for no other.
pub(super) fn queue_of(task: &ExecutorTask) -> Option<FileId> {
    match task {
        ExecutorTask::Record { .. } | ExecutorTask::Revoke(_) | ExecutorTask::ProveCopies { .. } => None,
        ExecutorTask::Download { kept, .. }
        | ExecutorTask::Offload { kept, .. }
        | ExecutorTask::Recall { kept, .. }
        | ExecutorTask::Adopt { kept, .. } => Some(kept.file.id),
        ExecutorTask::Drop { file, .. } | ExecutorTask::Withdraw(file) | ExecutorTask::Forget(file) => {
            Some(*file)
        }
    }
}

/// The resource that a task needs.
pub(super) fn kind_of(task: &ExecutorTask) -> Kind {
    match task {
        ExecutorTask::Download { .. } | ExecutorTask::Adopt { .. } => Kind::Remote,
        ExecutorTask::ProveCopies { .. } => Kind::Proof,
        ExecutorTask::Recall { .. } => Kind::Recall,
        _ => Kind::Local,
    }
}

/// Whether no other task of the same file may run at the same time.
fn is_exclusive(task: &ExecutorTask) -> bool {
    !matches!(task, ExecutorTask::Download { .. })
}

/// Queues of waiting tasks, one for each file.
#[derive(Default)]
pub(super) struct Schedule {
    files: HashMap<FileId, Queue>,
    /// For each [`Kind`], the files whose first waiting task has this kind and can begin; each file at most once.
    ready: [VecDeque<FileId>; KINDS_COUNT],
    /// Waiting proofs, in order.
    proofs: VecDeque<ExecutorTask>,
    /// Number of files that [`next`](Self::next) has examined.
    #[cfg(test)]
    examined: usize,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<ExecutorTask>,
    running: usize,
    /// The running task is exclusive.
    exclusive: bool,
    /// Whether the file is in [`Schedule::ready`].
    is_ready: bool,
}

impl Queue {
    fn may_begin(&self) -> bool {
        match self.waiting.front() {
            Some(task) => self.running == 0 || !self.exclusive && !is_exclusive(task),
            None => false,
        }
    }
}

impl Schedule {
    /// Queues a task behind all others of its file. A proof waits only for other proofs.
    pub(super) fn push(&mut self, task: ExecutorTask) {
        let Some(id) = queue_of(&task) else {
            self.proofs.push_back(task);
            return;
        };
        self.files.entry(id).or_default().waiting.push_back(task);
        self.make_ready(id);
    }

    /// Removes the next task of a kind that can begin.
    ///
    /// The cost does not depend on the number of waiting tasks. The task counts as running until [`done`](Self::done).
    pub(super) fn next(&mut self, kind: Kind) -> Option<ExecutorTask> {
        if kind == Kind::Proof {
            return self.proofs.pop_front();
        }
        let id = self.ready.get_mut(kind as usize)?.pop_front()?;
        #[cfg(test)]
        {
            self.examined += 1;
        }
        // The first waiting task of a ready file is the same as when the file became ready: only this function removes it.
        let queue = self.files.get_mut(&id)?;
        let task = queue.waiting.pop_front()?;
        queue.is_ready = false;
        queue.running += 1;
        queue.exclusive = is_exclusive(&task);
        self.make_ready(id);
        Some(task)
    }

    /// Records the end of a running task of a file.
    pub(super) fn done(&mut self, id: FileId) {
        let Some(queue) = self.files.get_mut(&id) else { return };
        queue.running = queue.running.saturating_sub(1);
        queue.exclusive &= queue.running > 0;
        match queue.running == 0 && queue.waiting.is_empty() {
            true => _ = self.files.remove(&id),
            false => self.make_ready(id),
        }
    }

    fn make_ready(&mut self, id: FileId) {
        if let Some(queue) = self.files.get_mut(&id)
            && !queue.is_ready
            && queue.may_begin()
            && let Some(kind) = queue.waiting.front().map(kind_of)
            && let Some(ready) = self.ready.get_mut(kind as usize)
        {
            queue.is_ready = true;
            ready.push_back(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{ChunkIndex, FileName, Md5};
    use crate::protocol::tracker::FileSummary;
    use crate::protocol::volunteer::KeptFile;
    use proptest::prelude::*;

    const A: FileId = FileId([1; 32]);

    fn download(id: FileId, index: u32) -> ExecutorTask {
        let file = FileSummary { id, name: FileName::new("f").unwrap(), size: 9, chunks: 9 };
        let from = "127.0.0.1:1".parse().unwrap();
        ExecutorTask::Download { kept: KeptFile { file, md5: Md5([0; 16]) }, index: ChunkIndex(index), from }
    }

    fn proof_of(file: FileId) -> ExecutorTask {
        ExecutorTask::ProveCopies { number: 0, file, index: ChunkIndex(0), holders: Vec::new() }
    }

    fn drop_of(file: FileId, index: u32) -> ExecutorTask {
        ExecutorTask::Drop { file, chunks: vec![ChunkIndex(index)], permit: 0 }
    }

    #[test]
    fn exclusive_task_waits_for_shared_tasks_of_its_file_and_blocks_later_ones() {
        let mut schedule = Schedule::default();
        [download(A, 0), download(A, 1), drop_of(A, 2), download(A, 3)]
            .into_iter()
            .for_each(|t| schedule.push(t));
        assert_eq!(schedule.next(Kind::Local), None);
        assert_eq!(schedule.next(Kind::Remote), Some(download(A, 0)));
        assert_eq!(schedule.next(Kind::Remote), Some(download(A, 1)));
        assert_eq!((schedule.next(Kind::Remote), schedule.next(Kind::Local)), (None, None));
        schedule.done(A);
        assert_eq!(schedule.next(Kind::Local), None);
        schedule.done(A);
        assert_eq!(schedule.next(Kind::Local), Some(drop_of(A, 2)));
        assert_eq!(schedule.next(Kind::Remote), None);
        schedule.done(A);
        assert_eq!(schedule.next(Kind::Remote), Some(download(A, 3)));
        schedule.done(A);
        assert!(schedule.files.is_empty());
    }

    #[test]
    fn a_proof_neither_waits_for_tasks_of_its_file_nor_delays_them() {
        let mut schedule = Schedule::default();
        [proof_of(A), drop_of(A, 0), proof_of(A), download(A, 1)].into_iter().for_each(|t| schedule.push(t));
        assert_eq!(schedule.next(Kind::Proof), Some(proof_of(A)));
        assert_eq!(schedule.next(Kind::Local), Some(drop_of(A, 0)));
        assert_eq!(schedule.next(Kind::Proof), Some(proof_of(A)));
        assert_eq!((schedule.next(Kind::Proof), schedule.next(Kind::Remote)), (None, None));
        schedule.done(A);
        assert_eq!(schedule.next(Kind::Remote), Some(download(A, 1)));
    }

    #[test]
    fn tasks_of_another_kind_that_wait_are_not_examined() {
        let mut schedule = Schedule::default();
        let file = |number: u32| {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_be_bytes());
            FileId(id)
        };
        let count = 1_000;
        (0..count).for_each(|number| schedule.push(drop_of(file(number), number)));
        for number in 0..count {
            assert_eq!((schedule.next(Kind::Remote), schedule.next(Kind::Recall)), (None, None));
            assert_eq!(schedule.next(Kind::Local), Some(drop_of(file(number), number)));
        }
        assert_eq!(schedule.examined, count as usize);
    }

    proptest! {
        #[test]
        fn all_tasks_of_a_file_begin_in_order_and_none_is_lost(
            tasks in proptest::collection::vec((0..3u8, any::<bool>()), 0..40),
            choices in proptest::collection::vec(0..4u8, 200),
        ) {
            let mut schedule = Schedule::default();
            let mut waiting = tasks.iter().enumerate();
            // The number of the last task of each file that began, and the running tasks.
            let mut last = HashMap::new();
            let mut running: Vec<(FileId, ExecutorTask)> = Vec::new();
            let mut begun = 0;
            // Ends all tasks that the random choices have left.
            let completion = (0..400).map(|at| (at % 4) as u8);
            for choice in choices.into_iter().chain(completion) {
                let kind = if choice % 2 == 0 { Kind::Local } else { Kind::Remote };
                match choice {
                    0 => if let Some((number, (file, exclusive))) = waiting.next() {
                        let id = FileId([*file; 32]);
                        let make = if *exclusive { drop_of } else { download };
                        schedule.push(make(id, number as u32));
                    }
                    3 => if let Some((id, _)) = running.pop() {
                        schedule.done(id);
                    }
                    _ => if let Some(task) = schedule.next(kind) {
                        begun += 1;
                        let id = queue_of(&task).unwrap();
                        let number = match &task {
                            ExecutorTask::Drop { chunks, .. } => chunks[0].0,
                            ExecutorTask::Download { index, .. } => index.0,
                            _ => unreachable!(),
                        };
                        prop_assert!(last.insert(id, number) < Some(number));
                        let beside: Vec<_> = running.iter().filter(|(other, _)| *other == id).collect();
                        prop_assert!(beside.is_empty() || !is_exclusive(&task));
                        prop_assert!(beside.iter().all(|(_, other)| !is_exclusive(other)));
                        running.push((id, task));
                    }
                }
            }
            prop_assert_eq!(begun, tasks.len());
        }
    }
}
