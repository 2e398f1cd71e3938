//! Mutual exclusion for a server's state machine between the state thread and the datagram threads, one for each socket.
//!
//! The state thread brings events of connections and prompt commands, a datagram thread brings datagrams. If the
//! machine is free, the datagram thread processes its batch directly: a queue and a wake-up would take longer than the
//! response. If it is locked, the batch is queued for the state thread.
//! Invariants: a thread that holds the machine never waits for a socket or a channel; the state thread waits for at
//! most one batch of datagrams; a thread that moves the next tick forward wakes the state thread.

use super::datagrams::{BATCH, DatagramRequest};
use super::state::State;
use crate::swarm::machine::Machine;
use crate::sync::lock;
use crossbeam_channel::Sender;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

/// Datagrams that may wait for the state thread.
///
/// Further datagrams are lost, and their clients retry.
const QUEUE: usize = 16 * 1024;

/// A state machine behind a lock, with the queue of datagrams that wait for it.
pub(super) struct SharedMachine<M> {
    state: Mutex<State<M>>,
    /// Set while the state thread waits for the lock: it has priority.
    state_thread_waits: AtomicBool,
    queued: Mutex<VecDeque<DatagramRequest>>,
    /// Wakes the state thread: datagrams are queued, or the next tick is earlier than it knows.
    wake: Sender<()>,
    /// A wake-up has been sent and not yet been received.
    wake_pending: AtomicBool,
}

impl<M: Machine> SharedMachine<M> {
    /// Wraps a machine. `wake` is a channel with a capacity of one message.
    pub(super) fn new(state: State<M>, wake: Sender<()>) -> Self {
        Self {
            state: Mutex::new(state),
            state_thread_waits: AtomicBool::new(false),
            queued: Mutex::default(),
            wake,
            wake_pending: AtomicBool::new(false),
        }
    }

    /// Locks the machine for the state thread, with priority over the datagram thread.
    pub(super) fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state_thread_waits.store(true, Ordering::Relaxed);
        let state = lock(&self.state);
        self.state_thread_waits.store(false, Ordering::Relaxed);
        state
    }

    /// Processes a batch of datagrams directly, or queues it for the state thread.
    ///
    /// Leaves the batch empty.
    pub(super) fn process_or_queue(&self, batch: &mut Vec<DatagramRequest>) {
        let free = match self.state_thread_waits.load(Ordering::Relaxed) {
            true => None,
            false => match self.state.try_lock() {
                Ok(state) => Some(state),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            },
        };
        match free {
            Some(mut state) => {
                state.answer(batch);
                if state.is_tick_moved_forward() {
                    self.wake_state_thread();
                }
            }
            None => {
                let mut queued = self.queued();
                let capacity = QUEUE.saturating_sub(queued.len());
                queued.extend(batch.drain(..).take(capacity));
                drop(queued);
                self.wake_state_thread();
            }
        }
    }

    /// Processes one batch of queued datagrams, after a wake-up.
    pub(super) fn process_queued(&self, state: &mut State<M>) {
        self.wake_pending.store(false, Ordering::SeqCst);
        let mut queued = self.queued();
        let count = queued.len().min(BATCH);
        let mut batch: Vec<DatagramRequest> = queued.drain(..count).collect();
        let more = !queued.is_empty();
        drop(queued);
        if more {
            self.wake_state_thread();
        }
        state.answer(&mut batch);
    }

    fn wake_state_thread(&self) {
        // At most one wake-up is pending.
        if !self.wake_pending.swap(true, Ordering::SeqCst) {
            let _ = self.wake.try_send(());
        }
    }

    fn queued(&self) -> MutexGuard<'_, VecDeque<DatagramRequest>> {
        lock(&self.queued)
    }
}
