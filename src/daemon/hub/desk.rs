//! The machine of a hub, and how the two threads that have something for it get to it.
//!
//! One at a time: the state thread with what connections and people want, and the thread that receives datagrams with
//! those. When the machine is free, that thread asks it at once, because handing each datagram to another thread, and
//! waking it, would take longer than answering. When it is not free, datagrams wait for the state thread. Invariants:
//! nobody who has the machine waits for a socket or a channel; the state thread does not wait behind more than one
//! batch of datagrams; whoever brings the next tick forward tells the state thread.

use super::datagrams::{BATCH, Question};
use super::state::State;
use crate::swarm::machine::Machine;
use crossbeam_channel::Sender;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// Datagrams that may wait for the state thread. More are lost, as datagrams may be, and sent again.
const QUEUE: usize = 16 * 1024;

/// A machine, and the datagrams that wait for it.
pub(super) struct SharedMachine<M> {
    state: Mutex<State<M>>,
    /// The state thread waits for the machine.
    wanted: AtomicBool,
    waiting: Mutex<VecDeque<Question>>,
    /// Wakes the state thread: questions wait, or a tick is due earlier than it knows.
    bell: Sender<()>,
    /// The bell has been rung and not been heard.
    ringing: AtomicBool,
}

impl<M: Machine> SharedMachine<M> {
    /// A desk whose bell is heard at the other end of a channel with room for one.
    pub(super) fn new(state: State<M>, bell: Sender<()>) -> Self {
        Self {
            state: Mutex::new(state),
            wanted: AtomicBool::new(false),
            waiting: Mutex::default(),
            bell,
            ringing: AtomicBool::new(false),
        }
    }

    /// The machine, for the state thread: it comes next.
    pub(super) fn turn(&self) -> MutexGuard<'_, State<M>> {
        self.wanted.store(true, Ordering::Relaxed);
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.wanted.store(false, Ordering::Relaxed);
        state
    }

    /// Has datagrams answered: at once, or by the state thread. Leaves the batch empty.
    pub(super) fn hear(&self, batch: &mut Vec<Question>) {
        let free = match self.wanted.load(Ordering::Relaxed) {
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
                if state.is_due_before_known() {
                    self.ring();
                }
            }
            None => {
                let mut waiting = self.waiting();
                let room = QUEUE.saturating_sub(waiting.len());
                waiting.extend(batch.drain(..).take(room));
                drop(waiting);
                self.ring();
            }
        }
    }

    /// Answers a batch of the datagrams that wait, now that the bell has been heard.
    pub(super) fn answer_waiting(&self, state: &mut State<M>) {
        self.ringing.store(false, Ordering::SeqCst);
        let mut waiting = self.waiting();
        let count = waiting.len().min(BATCH);
        let mut batch: Vec<Question> = waiting.drain(..count).collect();
        let more = !waiting.is_empty();
        drop(waiting);
        if more {
            self.ring();
        }
        state.answer(&mut batch);
    }

    fn ring(&self) {
        // Once is enough until it is heard.
        if !self.ringing.swap(true, Ordering::SeqCst) {
            let _ = self.bell.try_send(());
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Question>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
