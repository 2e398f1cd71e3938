//! Hand-over of connections between worker threads (leader and followers).
//!
//! A connection is read by one worker at a time. The worker passes it on when it has something else to do, and a free
//! worker goes on reading. Each connection brings one worker; further ones are added only if workers pass connections
//! on, up to the given number of workers.
//!
//! Invariants: a connection that is passed on is taken by exactly one worker; there are never fewer workers than
//! connections; a worker without a connection ends when no connection is left.

use crate::sync::{lock, wait};
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};

/// Connections of type `C` that no worker reads at the moment.
pub(super) struct HandOver<C> {
    /// Number of workers up to which [`pass_on`](Self::pass_on) requests another one.
    workers_min: usize,
    state: Mutex<State<C>>,
    changed: Condvar,
}

struct State<C> {
    waiting: VecDeque<C>,
    /// Connections that have not ended.
    connections: usize,
    /// Workers that have not ended.
    workers: usize,
}

impl<C> HandOver<C> {
    /// A hand-over without connections and workers.
    pub fn new(workers_min: usize) -> Self {
        let state = State { waiting: VecDeque::new(), connections: 0, workers: 0 };
        Self { workers_min, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Counts a new connection, and the calling thread as the worker that reads it.
    pub fn begin(&self) {
        let mut state = lock(&self.state);
        state.connections += 1;
        state.workers += 1;
    }

    /// Passes a connection to the next free worker. Returns whether the caller must start another worker, which is
    /// counted already.
    pub fn pass_on(&self, connection: C) -> bool {
        let mut state = lock(&self.state);
        state.waiting.push_back(connection);
        let is_short = state.workers < self.workers_min;
        state.workers += usize::from(is_short);
        drop(state);
        self.changed.notify_one();
        is_short
    }

    /// Counts a worker as ended that could not be started.
    pub fn not_started(&self) {
        lock(&self.state).workers -= 1;
    }

    /// Counts a connection as ended.
    pub fn end(&self) {
        lock(&self.state).connections -= 1;
        self.changed.notify_all();
    }

    /// Waits for a connection that was passed on. `None` if the calling worker is not needed any more and must end.
    pub fn next(&self) -> Option<C> {
        let mut state = lock(&self.state);
        loop {
            if let Some(connection) = state.waiting.pop_front() {
                return Some(connection);
            }
            if state.connections == 0 || state.workers > state.connections.max(self.workers_min) {
                state.workers -= 1;
                return None;
            }
            state = wait(&self.changed, state);
        }
    }
}
